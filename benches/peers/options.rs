//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use echoloop::cli::units;

/// Compares the daemon with other servers, ratio by ratio, and prints Markdown.
#[derive(Parser)]
#[command(name = "peers")]
pub struct Options {
    /// Number of rounds; each round measures every server once
    #[arg(long, value_name = "N", default_value = "8", value_parser = units::count)]
    pub rounds: usize,

    /// Seconds for each server in each round, such as 0.5
    #[arg(long, value_name = "S", default_value = "1", value_parser = seconds)]
    pub seconds: Duration,

    /// Run only the parts whose title has all of these words, such as '50 same'
    #[arg(long, value_name = "WORDS", default_value = "", hide_default_value = true)]
    pub only: String,

    /// Also write all figures of all rounds to FILE, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Also measure this server; may be repeated. HOST:PORT is added to COMMAND as its last argument,
    /// with 0 as PORT. The first line that it prints must be its address
    #[arg(long, value_name = "NAME=COMMAND", value_parser = named)]
    pub also: Vec<(String, Vec<String>)>,

    /// Cargo passes this to a benchmark
    #[arg(long, hide = true)]
    pub bench: bool,
}

impl Options {
    /// Whether the part with this title was asked for.
    pub fn wants(&self, title: &str) -> bool {
        let in_title = |word| title.split([' ', ',']).any(|other| other == word);
        self.only.split_whitespace().all(in_title)
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "expected seconds from 0.1 to 600".into())
}

fn named(text: &str) -> Result<(String, Vec<String>), String> {
    let (name, command) = text.split_once('=').ok_or("expected NAME=COMMAND")?;
    Ok((name.into(), command.split_whitespace().map(Into::into).collect()))
}
