//! The load tester: from the command line to a [`Plan`], a run, a report, and an exit code.
#![forbid(unsafe_code)]

mod destination;
mod options;
mod output;
mod progress;
mod signals;

use std::io;
use std::process::ExitCode;

use echoloop::cli;
use echoloop::load::results::{Report, Results, Unwritten, Verdict, json, text};
use echoloop::load::{Plan, Run, Update};
use echoloop::process::{limits, start};

use destination::Destination;
use options::{Format, NAME, Options};
use output::{Output, Writing};
use progress::{Progress, complain};
use signals::Signals;

fn main() -> ExitCode {
    // First of all: every thread has this mask, and no signal may end it without a word.
    let signals = start::normalize_mask().and_then(|()| Signals::handle());
    let code = cli::main(|options: &Options| run(options, &signals?));
    destination::remove_unfinished();
    code
}

fn run(options: &Options, signals: &Signals) -> io::Result<ExitCode> {
    // A usage error is reported before a name is resolved. Its message begins with the option.
    if let Err(e) = options.check() {
        return Ok(cli::usage(NAME, &format!("--{e}")));
    }
    limits::raise_file_limit();
    let targets = options
        .target
        .resolve()
        .map_err(|e| io::Error::new(e.kind(), format!("cannot resolve {}: {e}", options.target)))?;
    match options.plan(targets).build() {
        Ok(plan) => load(&plan, options, signals),
        Err(e) => Ok(cli::usage(NAME, &format!("--{e} ({})", options.target))),
    }
}

fn load(plan: &Plan, options: &Options, signals: &Signals) -> io::Result<ExitCode> {
    // Before the run, which takes time: a file that cannot be written is reported at once.
    let destination = Destination::open(options.output.as_ref())?;
    let hdr_file = options.hdr.as_ref().map(|path| Destination::open(Some(path))).transpose()?;
    let run = Run::new(plan)?;
    signals.stop(run.stopper());
    let output = Output::start(destination, run.stopper())?;
    let (results, unwritten, output) = observe(run, options, output)?;
    let target = options.target.to_string();
    let thresholds = &options.fail_if;
    let report = Report { target: &target, results: &results, thresholds, unwritten };
    let writing = write(&report, options.output_format, output)?;
    let hdr_written = hdr_file.map_or(Ok(()), |file| write_hdr(&results, file));
    let Err(e) = writing.wait().and(hdr_written) else {
        return Ok(report.verdict().exit_code().into());
    };
    complain(&format!("cannot write the report: {e}"));
    Ok(ExitCode::from(match report.verdict() {
        // The run was ended because nobody reads its report.
        Verdict::Interrupted if !signals.have_come() => 1,
        // Wrong bytes keep their exit code, whether or not the report can be read.
        verdict => verdict.exit_code().max(1),
    }))
}

/// Runs the load and shows its intervals. Nothing here waits for a reader.
fn observe(
    run: Run,
    options: &Options,
    mut output: Output,
) -> io::Result<(Results, Unwritten, Output)> {
    let mut progress = Progress::start(options)?;
    let results = run.run(|update| {
        progress.offer(update);
        if let (Update::Interval(interval), Format::Ndjson) = (update, options.output_format) {
            output.offer(interval);
        }
    })?;
    let unwritten = Unwritten { progress: progress.finish(), intervals: output.left_out() };
    Ok((results, unwritten, output))
}

fn write(report: &Report<'_>, format: Format, output: Output) -> io::Result<Writing> {
    let mut bytes = Vec::new();
    match format {
        Format::Text => text::write(&mut bytes, report)?,
        Format::Json | Format::Ndjson => json::write(&mut bytes, report)?,
    }
    Ok(output.report(bytes))
}

fn write_hdr(results: &Results, file: Destination) -> io::Result<()> {
    let name = file.name().to_owned();
    let mut bytes = Vec::new();
    let written = results.latency.write_hdr(&mut bytes).and_then(|()| file.complete(&bytes));
    written.map_err(|e| io::Error::new(e.kind(), format!("{name}: {e}")))
}
