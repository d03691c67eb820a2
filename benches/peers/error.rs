//! The error of every step: a message, with whatever caused it.

use std::process::ExitCode;

use echoloop::cli;

pub type Error = Box<dyn std::error::Error>;

/// Reports the error of a bench, and returns its exit code.
pub fn exit_code(name: &str, done: Result<(), Error>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            cli::complain(name, &e.to_string());
            ExitCode::FAILURE
        }
    }
}
