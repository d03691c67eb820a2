//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use echoloop::cli::units;

/// Compares the daemon with other servers, ratio by ratio, and prints Markdown.
#[derive(Parser)]
#[command(name = "peers")]
pub struct Options {
    /// Rounds; in each, every server is measured once
    #[arg(long, value_name = "N", default_value = "8", value_parser = units::count)]
    pub rounds: usize,

    /// Seconds that a server is measured in a round, such as 0.5
    #[arg(long, value_name = "S", default_value = "1", value_parser = seconds)]
    pub seconds: Duration,

    /// Only what has all these words in its title, such as '50 same'
    #[arg(long, value_name = "WORDS", default_value = "", hide_default_value = true)]
    pub only: String,

    /// Also write all that was measured, round by round
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// One more server; may be repeated. HOST:PORT becomes the last argument of its command, PORT is
    /// 0, and it must print where it listens as its first line
    #[arg(long, value_name = "NAME=COMMAND", value_parser = named)]
    pub also: Vec<(String, Vec<String>)>,

    /// What cargo says to a benchmark
    #[arg(long, hide = true)]
    pub bench: bool,
}

impl Options {
    /// Whether what has this title was asked for.
    pub fn want(&self, title: &str) -> bool {
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
