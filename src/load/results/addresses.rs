//! The counts of each address of the target.

use std::io::{self, Write};

use serde::{Serialize, Serializer};

use crate::load::results::words::counted;
use crate::net::address::Address;

/// Most addresses that the report for people has.
const SHOWN: usize = 16;

/// Numbers of connections to one address, in the whole run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct AddressCounts {
    /// The address.
    #[serde(serialize_with = "as_text")]
    pub address: Address,
    /// Number of connections that were established.
    pub established: u64,
    /// Number of connects that failed.
    pub failed: u64,
    /// Number of connections that ended early.
    pub lost: u64,
}

impl AddressCounts {
    pub(crate) fn new(address: Address) -> AddressCounts {
        AddressCounts { address, established: 0, failed: 0, lost: 0 }
    }

    /// Adds the counts of another loop to those of the same address.
    pub(crate) fn add_to(self, all: &mut Vec<AddressCounts>) {
        match all.iter_mut().find(|counts| counts.address == self.address) {
            Some(counts) => {
                counts.established += self.established;
                counts.failed += self.failed;
                counts.lost += self.lost;
            }
            None => all.push(self),
        }
    }
}

/// Writes a line for each address, if there is more than one.
pub(super) fn text(out: &mut impl Write, addresses: &[AddressCounts]) -> io::Result<()> {
    if addresses.len() < 2 {
        return Ok(());
    }
    for (n, counts) in addresses.iter().take(SHOWN).enumerate() {
        let AddressCounts { address, established, failed, lost } = counts;
        let title = if n == 0 { "addresses" } else { "" };
        writeln!(
            out,
            "{title:12} {address}: {} established, {failed} failed, {lost} lost",
            counted(*established, "connection")
        )?;
    }
    match addresses.len().saturating_sub(SHOWN) {
        0 => Ok(()),
        more => writeln!(out, "             and {more} more"),
    }
}

fn as_text<S: Serializer>(address: &Address, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(address)
}
