//! Parsing a command line, and error messages on stderr.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use rustix::stdio::stderr;

use crate::cli::output::write_within;
use crate::net::escape::one_line;

/// How long an error message waits for a stderr that is full. The exit code says that there was one.
const COMPLAINT_TIMEOUT: Duration = Duration::from_millis(500);

/// The `main` of a command: parses the command line, runs, and reports the error.
pub fn main<T: Parser>(run: impl FnOnce(&T) -> io::Result<ExitCode>) -> ExitCode {
    match parse::<T>() {
        Ok(options) => run(&options).unwrap_or_else(|e| fail(T::command().get_name(), &e)),
        Err(exit) => exit,
    }
}

/// Reports an error and returns its exit code.
pub fn fail(name: &str, why: &io::Error) -> ExitCode {
    complain(name, &why.to_string());
    ExitCode::FAILURE
}

/// Parses the command line of this process.
///
/// # Errors
/// The exit code, after the user has been told: 2 for a usage error, 0 where help or the version was
/// asked for.
pub fn parse<T: Parser>() -> Result<T, ExitCode> {
    T::try_parse().map_err(|e| {
        if e.use_stderr() {
            return usage(T::command().get_name(), &error_line(&e.to_string()));
        }
        // A reader that does not read the help to its end is not an error.
        let _ = e.print();
        ExitCode::SUCCESS
    })
}

/// Reports a usage error and returns its exit code.
pub fn usage(name: &str, why: &str) -> ExitCode {
    complain(name, why);
    ExitCode::from(2)
}

/// Returns the error part of a message of clap in one line, without the usage summary behind it.
fn error_line(message: &str) -> String {
    let lines: Vec<&str> = message
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .collect();
    let line = lines.join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

/// Writes one line to stderr that begins with the name of the command. Not `eprintln!`, which panics
/// if stderr is closed, and waits for ever if it is a pipe that is full.
pub fn complain(name: &str, why: &str) {
    complain_within(name, why, COMPLAINT_TIMEOUT);
}

/// The same, for a stderr that is waited for no longer than `timeout`.
pub fn complain_within(name: &str, why: &str, timeout: Duration) {
    let line = format!("{name}: {}\n", one_line(why));
    let _ = write_within(stderr(), line.as_bytes(), timeout);
}
