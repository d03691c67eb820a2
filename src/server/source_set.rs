//! The event sources of one server, and when each is notified.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::{Registry, Waker};

use crate::net::address::Address;
use crate::net::ready::Readiness;
use crate::server::counters::Counters;
use crate::server::source::{
    Action, EventSource, LoopHandle, Notification, SourceCounter, SourceWaker, TOKENS,
};

/// First token of the first source. No connection's key reaches it, and no listener's token.
pub(crate) const FIRST_TOKEN: usize = usize::MAX / 2;

/// Shortest time between two notifications that a source is due. Without it, a source whose time stays in
/// the past would keep the loop from sleeping.
const DUE_INTERVAL: Duration = Duration::from_millis(1);

/// Event sources in the order in which they were added. The source with index i owns the tokens from
/// `FIRST_TOKEN + i * TOKENS` on.
#[derive(Default)]
pub(crate) struct SourceSet {
    slots: Vec<Slot>,
    /// Last counters of the sources that have left.
    counters_of_left: Vec<SourceCounter>,
}

struct Slot {
    /// `None` while it is being notified, and after it has left.
    source: Option<Box<dyn EventSource>>,
    woken: Arc<AtomicBool>,
    wants_again: bool,
    last_due: Option<Instant>,
}

/// What a source may see of the loop.
#[derive(Clone, Copy)]
pub(crate) struct LoopState<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) counters: &'a Counters,
    pub(crate) now: Instant,
}

impl SourceSet {
    pub(crate) fn add(
        &mut self,
        mut source: Box<dyn EventSource>,
        waker: &Arc<Waker>,
        state: LoopState<'_>,
    ) -> io::Result<SourceWaker> {
        self.with_handle(self.slots.len(), state, |handle| source.register(handle))?;
        let woken = Arc::new(AtomicBool::new(false));
        let waker = SourceWaker { waker: Arc::clone(waker), woken: Arc::clone(&woken) };
        let slot = Slot { source: Some(source), woken, wants_again: false, last_due: None };
        self.slots.push(slot);
        Ok(waker)
    }

    /// An event has come for a token of a source. A token that no source owns is ignored.
    pub(crate) fn ready(
        &mut self,
        token: usize,
        readiness: Readiness,
        state: LoopState<'_>,
    ) -> io::Result<Action> {
        let (index, number) = ((token - FIRST_TOKEN) / TOKENS, (token - FIRST_TOKEN) % TOKENS);
        self.notify(index, Notification::Ready { number, readiness }, state)
    }

    /// Notifies each source that another thread has woken.
    pub(crate) fn notify_woken(&mut self, state: LoopState<'_>) -> io::Result<Action> {
        self.notify_each(state, |slot| {
            slot.woken.swap(false, Ordering::Acquire).then_some(Notification::Woken)
        })
    }

    /// Notifies each source whose time has come, or that has asked for it; in one turn of either only one.
    pub(crate) fn notify_due(&mut self, state: LoopState<'_>) -> io::Result<Action> {
        self.notify_each(state, |slot| {
            if slot.due().is_some_and(|due| due <= state.now) {
                slot.last_due = Some(state.now);
                return Some(Notification::Due);
            }
            std::mem::take(&mut slot.wants_again).then_some(Notification::Again)
        })
    }

    pub(crate) fn notify_drain(&mut self, state: LoopState<'_>) -> io::Result<Action> {
        self.notify_each(state, |_| Some(Notification::Drain))
    }

    /// Returns when the next notification is due; `now` if a source has asked for one.
    pub(crate) fn due(&self, now: Instant) -> Option<Instant> {
        let due = |slot: &Slot| if slot.wants_again { Some(now) } else { slot.due() };
        self.slots.iter().filter_map(due).min()
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = Address> {
        self.slots.iter().filter_map(|slot| slot.source.as_ref()).flat_map(|s| s.addresses())
    }

    pub(crate) fn counters(&self) -> Vec<SourceCounter> {
        let present = self.slots.iter().filter_map(|slot| slot.source.as_ref());
        let left = self.counters_of_left.iter().copied();
        present.flat_map(|source| source.counters()).chain(left).collect()
    }

    /// Returns the strongest action that any of them wants.
    fn notify_each(
        &mut self,
        state: LoopState<'_>,
        mut notification: impl FnMut(&mut Slot) -> Option<Notification>,
    ) -> io::Result<Action> {
        let mut strongest = Action::Continue;
        for index in 0..self.slots.len() {
            if let Some(notification) = notification(&mut self.slots[index]) {
                strongest = strongest.stronger(self.notify(index, notification, state)?);
            }
        }
        Ok(strongest)
    }

    fn notify(
        &mut self,
        index: usize,
        notification: Notification,
        state: LoopState<'_>,
    ) -> io::Result<Action> {
        let Some(mut source) = self.slots.get_mut(index).and_then(|slot| slot.source.take()) else {
            return Ok(Action::Continue);
        };
        let action =
            self.with_handle(index, state, |handle| source.notify(notification, handle))?;
        match action {
            Action::Leave => {
                self.counters_of_left.extend(source.counters());
                return Ok(Action::Continue);
            }
            Action::Again => self.slots[index].wants_again = true,
            Action::Continue | Action::Drain | Action::Stop(_) => {}
        }
        self.slots[index].source = Some(source);
        Ok(action)
    }

    fn with_handle<T>(
        &self,
        index: usize,
        state: LoopState<'_>,
        call: impl FnOnce(&LoopHandle<'_>) -> T,
    ) -> T {
        call(&LoopHandle {
            counters: state.counters,
            now: state.now,
            registry: state.registry,
            first_token: FIRST_TOKEN + index * TOKENS,
            other_counters: &|| self.counters(),
        })
    }
}

impl Slot {
    fn due(&self) -> Option<Instant> {
        let due = self.source.as_ref()?.due()?;
        let earliest = self.last_due.and_then(|last| last.checked_add(DUE_INTERVAL));
        Some(earliest.map_or(due, |earliest| earliest.max(due)))
    }
}

impl fmt::Debug for SourceSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceSet").field("count", &self.slots.len()).finish_non_exhaustive()
    }
}
