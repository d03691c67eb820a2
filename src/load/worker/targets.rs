//! The addresses of the target: which one the next connection goes to, and what became of those before.

use std::time::Instant;

use crate::load::backoff;
use crate::load::plan::{Addresses, Plan};
use crate::load::results::addresses::AddressCounts;
use crate::net::address::Address;

/// Most addresses that are remembered. A name that has a new one each second would take more and more memory.
const REMEMBERED: usize = 1024;

/// The addresses of the target, and how each has done.
#[derive(Debug)]
pub(crate) struct Targets {
    all: Vec<Target>,
    policy: Addresses,
    /// Whether connections stay. If they do not, the fewest would be those of the fastest address.
    stay: bool,
    /// Where to look first for the next one, so that they take turns.
    next: usize,
    seed: u64,
}

#[derive(Debug)]
struct Target {
    counts: AddressCounts,
    /// Whether the last lookup has found it.
    is_listed: bool,
    /// Number of connections that are open or are being made.
    in_use: usize,
    /// Number of connects that failed one after the other.
    failures: u32,
    /// One that has failed is tried by one connection at a time, and not before this.
    retry_at: Instant,
    is_probed: bool,
}

impl Targets {
    pub(super) fn new(plan: &Plan, thread: usize, now: Instant) -> Targets {
        let (policy, stay, seed) = (plan.addresses, !plan.reconnects(), plan.seed);
        let mut targets = Targets { all: Vec::new(), policy, stay, next: thread, seed };
        targets.list(&plan.targets, now);
        targets
    }

    /// Takes what a lookup has found. Addresses that are gone are not connected to any more.
    pub(super) fn list(&mut self, found: &[Address], now: Instant) {
        if found.is_empty() {
            return;
        }
        for target in &mut self.all {
            target.is_listed = found.contains(&target.counts.address);
        }
        for address in found {
            let is_known = self.all.iter().any(|target| target.counts.address == *address);
            if !is_known && self.all.len() < REMEMBERED {
                self.all.push(Target {
                    counts: AddressCounts::new(address.clone()),
                    is_listed: true,
                    in_use: 0,
                    failures: 0,
                    retry_at: now,
                    is_probed: false,
                });
            }
        }
    }

    /// Returns the address with this index.
    pub(super) fn address(&self, index: usize) -> &Address {
        &self.all[index].counts.address
    }

    /// Returns the addresses that may be connected to.
    pub(super) fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.all.iter().filter(|target| target.is_listed).map(|target| &target.counts.address)
    }

    /// Returns the index of the address for the next connection, which is then in use: of those that work
    /// the next one in turn, where connections stay the one with the fewest, or the first one if the plan says so. If none works, it
    /// is the one that is due first.
    pub(super) fn take(&mut self, now: Instant) -> usize {
        let (len, next) = (self.all.len(), self.next % self.all.len());
        let turn = |index: usize| (index + len - next) % len;
        let listed = || self.all.iter().enumerate().filter(|(_, target)| target.is_listed);
        let working = listed().filter(|(_, target)| target.may_be_tried(now));
        let chosen = match self.policy {
            Addresses::All => working.min_by_key(|&(index, target)| {
                (if self.stay { target.in_use } else { 0 }, turn(index))
            }),
            Addresses::First => working.min_by_key(|&(index, _)| (index, 0)),
        };
        let chosen = chosen.or_else(|| listed().min_by_key(|(_, target)| target.retry_at));
        let index = chosen.map_or(0, |(index, _)| index);
        let target = &mut self.all[index];
        target.in_use += 1;
        target.is_probed = target.failures > 0;
        self.next = index + 1;
        index
    }

    /// Returns whether an address would be tried although it is not the only one that is left.
    pub(super) fn has_other(&self, now: Instant) -> bool {
        self.all.iter().any(|target| target.is_listed && target.may_be_tried(now))
    }

    /// The connect was not begun, or failed for a reason of this machine.
    pub(super) fn put_back(&mut self, index: usize) {
        let target = &mut self.all[index];
        target.in_use -= 1;
        target.is_probed = false;
    }

    pub(super) fn established(&mut self, index: usize) {
        let target = &mut self.all[index];
        target.counts.established += 1;
        target.failures = 0;
        target.is_probed = false;
    }

    /// The connect failed.
    pub(super) fn failed(&mut self, index: usize, now: Instant) {
        self.put_back(index);
        let target = &mut self.all[index];
        target.counts.failed += 1;
        target.failures += 1;
        target.retry_at = now + backoff::delay(self.seed, index as u64, target.failures);
    }

    /// An established connection has ended.
    pub(super) fn ended(&mut self, index: usize) {
        self.all[index].in_use -= 1;
    }

    /// An established connection was lost.
    pub(super) fn lost(&mut self, index: usize) {
        self.all[index].counts.lost += 1;
    }

    /// Returns the counts of all addresses.
    pub(crate) fn counts(self) -> impl Iterator<Item = AddressCounts> {
        self.all.into_iter().map(|target| target.counts)
    }
}

impl Target {
    fn may_be_tried(&self, now: Instant) -> bool {
        self.failures == 0 || self.retry_at <= now && !self.is_probed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn address(port: u16) -> Address {
        Address::Tcp(([127, 0, 0, 1], port).into())
    }

    fn targets(ports: &[u16], policy: Addresses) -> (Targets, Instant) {
        let addresses = ports.iter().map(|&port| address(port)).collect();
        let plan = Plan::builder(addresses).addresses(policy).seed(1).build().unwrap();
        let now = Instant::now();
        (Targets::new(&plan, 0, now), now)
    }

    #[test]
    fn connections_are_spread_and_an_address_that_was_away_catches_up() {
        let (mut targets, now) = targets(&[1, 2, 3], Addresses::All);
        let six: Vec<_> = (0..6).map(|_| targets.take(now)).collect();
        assert_eq!(six, [0, 1, 2, 0, 1, 2]);
        targets.ended(1);
        targets.ended(1);
        assert_eq!([targets.take(now), targets.take(now)], [1, 1]);
        let (mut targets, now) = self::targets(&[1, 2], Addresses::First);
        assert_eq!([targets.take(now), targets.take(now)], [0, 0]);
        targets.failed(0, now);
        assert_eq!(targets.take(now), 1);
    }

    #[test]
    fn an_address_that_fails_is_tried_less_and_by_one_connection_at_a_time() {
        let (mut targets, now) = targets(&[1, 2], Addresses::All);
        assert_eq!(targets.take(now), 0);
        targets.failed(0, now);
        assert!((0..10).all(|_| targets.take(now) == 1));
        let later = now + Duration::from_millis(10);
        assert_eq!([targets.take(later), targets.take(later)], [0, 1]);
        targets.failed(0, later);
        assert_eq!(targets.take(later + Duration::from_millis(9)), 1, "twice as long");
        let later = later + Duration::from_millis(20);
        assert_eq!(targets.take(later), 0);
        targets.established(0);
        assert!((0..11).all(|_| targets.take(later) == 0), "it works again");
        let counts: Vec<_> = targets.counts().map(|c| (c.established, c.failed)).collect();
        assert_eq!(counts, [(1, 2), (0, 0)]);
    }

    #[test]
    fn where_no_address_works_one_is_tried_all_the_same() {
        let (mut targets, now) = targets(&[1, 2], Addresses::All);
        for index in 0..2 {
            assert_eq!(targets.take(now), index);
            targets.failed(index, now);
        }
        assert!(!targets.has_other(now));
        assert!(targets.take(now) < 2);
    }

    #[test]
    fn a_lookup_adds_addresses_and_takes_others_away() {
        let (mut targets, now) = targets(&[1, 2], Addresses::All);
        targets.list(&[address(2), address(3)], now);
        assert!((0..10).all(|_| targets.take(now) != 0));
        targets.list(&[], now);
        assert_eq!(targets.addresses().count(), 2);
        for port in 10..3000 {
            targets.list(&[address(2), address(port)], now);
        }
        assert_eq!(targets.all.len(), REMEMBERED);
    }
}
