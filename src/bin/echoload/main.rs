//! The load tester: from the command line to a [`Plan`](echoloop::load::Plan), a run, a report, and an
//! exit code.
#![forbid(unsafe_code)]

mod options;
mod progress;
mod signals;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use echoloop::cli;
use echoloop::load::Run;
use echoloop::load::results::{Report, Results, json, text};
use echoloop::process::{limits, start};

use options::{Format, NAME, Options};
use progress::Progress;

fn main() -> ExitCode {
    // First, so that every thread has this mask.
    match start::normalize_mask() {
        Ok(()) => cli::main(run),
        Err(e) => cli::fail(NAME, &e),
    }
}

fn run(options: &Options) -> io::Result<ExitCode> {
    // A usage error is reported before a name is resolved. Its message begins with the option.
    if let Err(e) = options.plan(Vec::new()).check() {
        return Ok(cli::usage(NAME, &format!("--{e}")));
    }
    let stopper = signals::handle()?;
    limits::raise_file_limit();
    let targets = options
        .target
        .resolve()
        .map_err(|e| io::Error::new(e.kind(), format!("cannot resolve {}: {e}", options.target)))?;
    let plan = match options.plan(targets).build() {
        Ok(plan) => plan,
        Err(e) => return Ok(cli::usage(NAME, &format!("--{e} ({})", options.target))),
    };
    // Before the run, which takes time: a file that cannot be written is reported at once.
    let mut output = create(options.output.as_ref())?;
    let hdr_file = options.hdr.as_ref().map(|path| create(Some(path))).transpose()?;
    let run = Run::new(&plan)?;
    let _ = stopper.set(run.stopper());
    let (results, written) = observe(run, options, &mut output)?;
    let target = options.target.to_string();
    let report = Report { target: &target, results: &results, thresholds: &options.fail_if };
    let written = written.and_then(|()| match options.output_format {
        Format::Text => text::write(&mut output, &report),
        Format::Json | Format::Ndjson => json::write(&mut output, &report),
    });
    let hdr_written = hdr_file.map_or(Ok(()), |mut file| results.latency.write_hdr(&mut file));
    let verdict = report.verdict().exit_code();
    Ok(ExitCode::from(match written.and(hdr_written) {
        Ok(()) => verdict,
        Err(e) => {
            cli::complain(NAME, &format!("cannot write the report: {e}"));
            // Wrong bytes keep their exit code, whether or not the report can be read.
            verdict.max(1)
        }
    }))
}

/// Runs the load and shows its intervals. Also returns whether they could be written.
fn observe(
    run: Run,
    options: &Options,
    output: &mut impl Write,
) -> io::Result<(Results, io::Result<()>)> {
    let progress = Progress::new(options);
    let ndjson = options.output_format == Format::Ndjson;
    let mut written = Ok(());
    let results = run.run(|interval| {
        progress.show(interval);
        if ndjson && written.is_ok() {
            written = json::write_interval(output, interval);
        }
    })?;
    progress.finish();
    Ok((results, written))
}

/// Creates a file, or takes stdout where there is no path.
fn create(path: Option<&PathBuf>) -> io::Result<Box<dyn Write>> {
    let Some(path) = path else { return Ok(Box::new(BufWriter::new(io::stdout()))) };
    let file = File::create(path)
        .map_err(|e| io::Error::new(e.kind(), format!("cannot write {}: {e}", path.display())))?;
    Ok(Box::new(BufWriter::new(file)))
}
