//! Escaping of text from outside: a path that a client chose, a word that a user typed.

use std::fmt;

/// Writes `text` with every character escaped that could end a line, move a terminal's cursor, or change
/// the direction in which the line reads.
///
/// # Errors
/// Those of `out`.
pub fn write_escaped(out: &mut impl fmt::Write, text: &str) -> fmt::Result {
    for c in text.chars() {
        if c.is_control() || is_format(c) {
            write!(out, "{}", c.escape_default())?;
        } else {
            out.write_char(c)?;
        }
    }
    Ok(())
}

/// Returns `text` as one line, escaped as by [`write_escaped`], without a newline at its end.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    // Writing to a string cannot fail.
    let _ = write_escaped(&mut line, text.trim_end_matches('\n'));
    line
}

/// Returns whether the character separates lines, or is one of Unicode's bidirectional controls (UAX 9,
/// section 2).
fn is_format(c: char) -> bool {
    matches!(
        c,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_quotes_another_stays_one_line() {
        let line = one_line("INFO from a\nERROR forged \x1b[2J \u{e9}\n");
        assert_eq!(line, "INFO from a\\nERROR forged \\u{1b}[2J \u{e9}");
    }

    #[test]
    fn a_line_cannot_change_its_direction() {
        assert_eq!(one_line("a\u{202e}b\u{2066}c\u{200f}"), "a\\u{202e}b\\u{2066}c\\u{200f}");
        assert_eq!(one_line("\u{2028}\u{5d0}"), "\\u{2028}\u{5d0}", "Hebrew itself is text");
    }
}
