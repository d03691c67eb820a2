//! The outages of a run, for both reports.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use crate::load::outage::{Cost, Outage, Outages};
use crate::load::results::words::counted;

/// Most outages that the report for people has.
const SHOWN: usize = 8;

/// Writes a line for all outages together, and one for each of the first.
pub(super) fn text(out: &mut impl Write, outages: &Outages) -> io::Result<()> {
    if outages.count == 0 {
        return Ok(());
    }
    writeln!(
        out,
        "outages      {}, {:.3} s in all, the longest {:.3} s",
        outages.count,
        outages.total.as_secs_f64(),
        outages.longest.as_secs_f64()
    )?;
    for outage in outages.list.iter().take(SHOWN) {
        let Outage { from, length, is_open, cost } = outage;
        let Cost { connections, lost, delayed, unsent } = cost;
        let (from, length) = (from.as_secs_f64(), length.as_secs_f64());
        let end = if *is_open { ", until the end" } else { "" };
        writeln!(
            out,
            "             {length:.3} s, from {from:.3} s on{end}: {} down; {} lost, {delayed} delayed, \
             {unsent} unsent",
            counted(*connections, "connection"),
            counted(*lost, "message")
        )?;
    }
    match outages.count.saturating_sub(SHOWN as u64) {
        0 => Ok(()),
        more => writeln!(out, "             and {more} more"),
    }
}

/// The outages as JSON has them.
#[derive(Serialize)]
pub(super) struct Document {
    count: u64,
    total_us: f64,
    longest_us: f64,
    list: Vec<Listed>,
}

#[derive(Serialize)]
struct Listed {
    from_s: f64,
    length_us: f64,
    until_the_end: bool,
    connections_down: u64,
    messages_lost: u64,
    messages_delayed: u64,
    messages_unsent: u64,
}

impl Document {
    pub(super) fn new(outages: &Outages) -> Document {
        let micros = |time: Duration| time.as_nanos() as f64 / 1e3;
        let listed = |outage: &Outage| Listed {
            from_s: outage.from.as_secs_f64(),
            length_us: micros(outage.length),
            until_the_end: outage.is_open,
            connections_down: outage.cost.connections,
            messages_lost: outage.cost.lost,
            messages_delayed: outage.cost.delayed,
            messages_unsent: outage.cost.unsent,
        };
        Document {
            count: outages.count,
            total_us: micros(outages.total),
            longest_us: micros(outages.longest),
            list: outages.list.iter().map(listed).collect(),
        }
    }
}
