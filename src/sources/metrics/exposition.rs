//! Prometheus's text format.

use std::fmt::Write as _;

use crate::server::counters::Counters;
use crate::server::source::SourceCounter;

/// A metric with its samples, each with its labels and its value.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    samples: Vec<String>,
}

impl Metric {
    fn counter(name: &'static str, help: &'static str, value: u64) -> Metric {
        Metric { name, kind: "counter", help, samples: vec![format!(" {value}")] }
    }

    fn gauge(name: &'static str, help: &'static str, sample: String) -> Metric {
        Metric { name, kind: "gauge", help, samples: vec![sample] }
    }
}

/// Writes all counters: those of the server, and those of the other event sources. Names end in their unit,
/// those of counters in `_total`; times are in seconds.
pub(crate) fn write(counters: &Counters, of_sources: &[SourceCounter]) -> String {
    let mut text = String::new();
    for Metric { name, kind, help, samples } in metrics(counters) {
        write_head(&mut text, name, kind, help);
        for sample in samples {
            let _ = writeln!(text, "echod_{name}{sample}");
        }
    }
    for same_name in of_sources.chunk_by(|one, next| one.name == next.name) {
        let name = format!("{}_total", same_name[0].name);
        write_head(&mut text, &name, "counter", same_name[0].help);
        for counter in same_name {
            let cause = counter.cause.map(|cause| format!("{{cause=\"{cause}\"}}"));
            let _ = writeln!(text, "echod_{name}{} {}", cause.unwrap_or_default(), counter.value);
        }
    }
    text
}

fn write_head(text: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# HELP echod_{name} {help}\n# TYPE echod_{name} {kind}");
}

#[rustfmt::skip]
fn metrics(counters: &Counters) -> Vec<Metric> {
    let version = format!("{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
    let longest_turn = format!(" {}", counters.longest_turn.as_secs_f64());
    let closed = counters.closed().map(|(cause, n)| format!("{{cause=\"{cause}\"}} {n}"));
    vec![
        Metric::gauge("build_info", "Version of the program.", version),
        Metric::counter("connections_accepted_total", "Connections accepted.", counters.accepted),
        Metric::gauge("connections_open", "Connections open now.", format!(" {}", counters.open())),
        Metric::counter("connections_refused_total", "Connections closed at once, by the limit per IP address.", counters.refused),
        Metric { name: "connections_closed_total", kind: "counter", help: "Connections closed, by cause.", samples: closed.into() },
        Metric::counter("received_bytes_total", "Bytes received.", counters.bytes_in),
        Metric::counter("sent_bytes_total", "Bytes sent.", counters.bytes_out),
        Metric::counter("unsent_bytes_total", "Bytes owed to connections when they closed.", counters.bytes_unsent),
        Metric::counter("discarded_bytes_total", "Bytes that arrived after our end of the stream.", counters.bytes_discarded),
        Metric::counter("accept_errors_total", "Errors of accept.", counters.accept_errors),
        Metric::counter("memory_waits_total", "Times that a connection had to wait for memory.", counters.memory_waits),
        Metric::gauge("longest_turn_seconds", "Longest time between two waits since the start.", longest_turn),
    ]
}
