//! Reads the moment that `events --since` names. It reads the clock only to count a duration back from now.

use jiff::{Span, SpanRelativeTo, Timestamp};

/// Parses a duration counted back from now (`90s`, `15m`, `2h`, `1d`), an RFC 3339 time, or `now`.
///
/// # Errors
/// A sentence for people, if `text` is none of these or lies outside of what a timestamp can hold.
pub fn parse_since(text: &str) -> Result<Timestamp, String> {
    since(text, Timestamp::now())
}

/// As [`parse_since`], with the time given.
pub(super) fn since(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if text == "now" {
        return Ok(now);
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    let span: Span = text.parse().map_err(|_| {
        "expected a duration such as 90s, 15m, 2h or 1d, a time such as 2026-01-31T12:00:00Z, or now".to_owned()
    })?;
    let back = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| "years and months have no fixed length: use days, hours, minutes or seconds".to_owned())?;
    if back.is_negative() {
        return Err("a duration counts back from now and cannot be negative".to_owned());
    }
    now.checked_sub(back).map_err(|_| "that is further back than time goes here".to_owned())
}
