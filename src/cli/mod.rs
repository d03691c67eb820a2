//! How a command of ours speaks to the one who typed it.

pub mod units;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

/// The command line as a type, or the exit code after the user has been told: what is wrong with it
/// (2), or the help or version that was asked for (0).
///
/// # Errors
/// The exit code.
pub fn parse<T: Parser>() -> Result<T, ExitCode> {
    T::try_parse().map_err(|e| {
        if e.use_stderr() {
            return usage(T::command().get_name(), &essence(&e.to_string()));
        }
        // Help that nobody reads to its end is no failure.
        let _ = e.print();
        ExitCode::SUCCESS
    })
}

/// Complains of a word on the command line, and the exit code that says so.
pub fn usage(name: &str, why: &str) -> ExitCode {
    complain(name, why);
    ExitCode::from(2)
}

/// The whole message in one line, without the summary of the usage that would hide it.
fn essence(text: &str) -> String {
    let said: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .filter(|line| !line.is_empty())
        .collect();
    let said = said.join(" ");
    said.strip_prefix("error: ").unwrap_or(&said).to_owned()
}

/// One line on stderr that names the command. Not `eprintln!`, which panics where stderr is closed.
pub fn complain(name: &str, why: &str) {
    let _ = writeln!(io::stderr(), "{name}: {}", one_line(why));
}

/// Escapes what could end the line or move a terminal's cursor: a text may quote whatever somebody
/// sent, or typed.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.trim_end_matches('\n').chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_quotes_another_stays_one_line() {
        let line = one_line("INFO from a\nERROR forged \x1b[2J \u{e9}\n");
        assert_eq!(line, "INFO from a\\nERROR forged \\u{1b}[2J \u{e9}");
    }
}
