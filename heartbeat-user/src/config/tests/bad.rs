//! Every rule broken once, with the exact message; fault 86 of the catalogue among them.

use super::*;

/// Returns the messages for a text, without the file's name.
fn messages(bytes: &[u8]) -> Vec<String> {
    let errors = match parse("t.toml", bytes) {
        Ok(config) => panic!("taken: {config:?}"),
        Err(errors) => errors,
    };
    errors.0.iter().map(|fault| fault.to_string().strip_prefix("t.toml:").unwrap().to_owned()).collect()
}

/// Replaces `from` in the good configuration and compares the messages.
#[track_caller]
fn case(from: &str, to: &str, expected: &[&str]) {
    let text = GOOD.replacen(from, to, 1);
    assert_ne!(text, GOOD, "{from:?} is not there");
    assert_eq!(messages(text.as_bytes()), expected, "{from:?} -> {to:?}");
}

#[track_caller]
fn setting(lines: &str, expected: &[&str]) {
    case("profile = \"lan\"", lines, expected);
}

#[track_caller]
fn appended(lines: &str, expected: &[&str]) {
    assert_eq!(messages(format!("{GOOD}{lines}").as_bytes()), expected, "{lines:?}");
}

#[test]
fn fault_86() {
    assert_eq!(messages(b""), Vec::<String>::new());
}
