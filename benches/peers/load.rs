//! One run of the load tester, with every byte checked.

use serde_json::Value;

use crate::error::Error;
use crate::process::Process;

/// Returns its report. `observe` is called for each interval, when the interval ends.
///
/// # Errors
/// Any verdict other than "ok", and any error that the report counts.
pub fn run(
    cpu: usize,
    endpoint: &str,
    options: &str,
    mut observe: impl FnMut(&Value),
) -> Result<Value, Error> {
    let itself = env!("CARGO_BIN_EXE_echoload");
    let words = format!("-q --output-format ndjson {options} {endpoint}");
    let command: Vec<String> =
        [itself].into_iter().chain(words.split(' ')).map(Into::into).collect();
    let mut load = Process::pinned(cpu, &command)?;
    let mut last = Value::Null;
    while let Some(line) = load.line()? {
        last = serde_json::from_str(&line)?;
        if last["verdict"].is_null() {
            observe(&last);
        }
    }
    let errors = last["errors"].as_object().is_none_or(|errors| !errors.is_empty());
    if last["verdict"] != "ok" || errors {
        let (verdict, errors) = (&last["verdict"], &last["errors"]);
        return Err(format!("echoload {words}: verdict {verdict}, errors {errors}").into());
    }
    Ok(last)
}
