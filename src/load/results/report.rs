//! The results, with the name of the target and a verdict.

use serde::Serialize;

use crate::load::results::thresholds::Threshold;
use crate::load::results::whole_run::Results;

/// What a writer of a report needs.
#[derive(Debug, Clone, Copy)]
pub struct Report<'a> {
    /// The target as the user named it.
    pub target: &'a str,
    /// What was measured.
    pub results: &'a Results,
    /// The thresholds that the results are compared with.
    pub thresholds: &'a [Threshold],
    /// What was not written, since the load did not wait for it.
    pub unwritten: Unwritten,
}

/// Numbers of intervals that were not written, because who reads them was too slow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Unwritten {
    /// Number of intervals that are not in the output.
    pub intervals: u64,
    /// Number of lines of progress that were not shown.
    pub progress: u64,
}

/// The verdict on a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Verdict {
    /// Every message was sent and came back.
    Ok,
    /// A connection failed or was lost, a message timed out or could not be sent, or no message was measured.
    Failed,
    /// Wrong bytes came back.
    Corrupt,
    /// A threshold was crossed.
    Threshold,
    /// The run was stopped early.
    Interrupted,
}

impl Verdict {
    /// Returns the exit code of the command for this verdict.
    pub fn exit_code(self) -> u8 {
        match self {
            Verdict::Ok => 0,
            Verdict::Failed => 1,
            Verdict::Corrupt => 3,
            Verdict::Threshold => 99,
            Verdict::Interrupted => 130,
        }
    }
}

impl Report<'_> {
    /// Returns the thresholds that were crossed.
    pub fn crossed(&self) -> impl Iterator<Item = &Threshold> {
        self.thresholds.iter().filter(|threshold| threshold.is_crossed(self.results))
    }

    /// Returns the verdict: the worst one that applies.
    pub fn verdict(&self) -> Verdict {
        let Results { messages, connections, interrupted, .. } = self.results;
        if messages.corrupt > 0 {
            Verdict::Corrupt
        } else if *interrupted {
            Verdict::Interrupted
        } else if self.results.error_count() > connections.fell_back
            || messages.sent != messages.echoed
        {
            Verdict::Failed
        } else if self.crossed().next().is_some() {
            Verdict::Threshold
        } else if messages.echoed == 0 {
            Verdict::Failed
        } else {
            Verdict::Ok
        }
    }
}
