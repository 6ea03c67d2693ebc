//! Finds where a value was written, for faults that only the host shows: a program that is not there, a device that does
//! not suit. It judges nothing, and reads the file again, as a configuration keeps no places.

use super::fault::{ConfigErrors, FaultKind, Faults};
use super::file::{open_regular, read_limited};
use super::{SIZE_MAX, schema};
use std::path::Path;
use toml::de::{DeTable, DeValue};

/// Returns the fault that `table.key`, or `item` of its list, counted from 0, breaks `rule`. Where the file does not have
/// the value any more, the fault is that of its first line.
#[must_use]
pub fn fault_at(path: &Path, table: &str, key: &str, item: Option<usize>, rule: &str) -> ConfigErrors {
    let read = open_regular(path, true).and_then(|(file, _)| read_limited(file, path, SIZE_MAX)).unwrap_or_default();
    let bytes = read.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&read);
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let mut faults = Faults::new(&path.display().to_string(), text);
    let (root, _) = DeTable::parse_recoverable(text);
    let offset = offset(root.get_ref(), table, key, item).unwrap_or(0);
    let number = item.map_or_else(String::new, |item| format!("[{}]", item + 1));
    faults.add(FaultKind::Relation, offset, format!("{table}.{key}{number}"), rule);
    faults.finish().expect_err("a fault was added")
}

fn offset(root: &DeTable<'_>, table: &str, key: &str, item: Option<usize>) -> Option<usize> {
    let DeValue::Table(found) = root.get(table)?.get_ref() else { return None };
    let (_, value) = found.iter().find(|(name, _)| schema::canonical(name.get_ref()) == key)?;
    let inner = match (value.get_ref(), item) {
        (DeValue::Array(items), Some(item)) => items.get(item),
        _ => None,
    };
    Some(inner.unwrap_or(value).span().start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_the_host_is_put_where_the_value_was_written() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path();
        std::fs::write(path, "[daemon]\nwatchdog_device = \"/d\"\non_event = [\n  \"/a\",\n  \"/b\",\n]\n").unwrap();
        let at = |key: &str, item| fault_at(path, "daemon", key, item, "must not").to_string();
        let shown = path.display();
        assert_eq!(at("watchdog_device", None), format!("{shown}:2:19: daemon.watchdog_device: must not"));
        assert_eq!(at("on_event", Some(1)), format!("{shown}:5:3: daemon.on_event[2]: must not"));
        assert_eq!(at("on_event", Some(7)), format!("{shown}:3:12: daemon.on_event[8]: must not"));
        // Whatever became of the file meanwhile.
        assert_eq!(at("run_dir", None), format!("{shown}:1:1: daemon.run_dir: must not"));
        for text in [&b"daemon = 3"[..], b"[daemon", b"\xff\xfe"] {
            std::fs::write(path, text).unwrap();
            assert_eq!(at("on_event", Some(0)), format!("{shown}:1:1: daemon.on_event[1]: must not"));
        }
        let gone = fault_at(Path::new("/no/such/file"), "daemon", "on_event", None, "must not").to_string();
        assert_eq!(gone, "/no/such/file:1:1: daemon.on_event: must not");
    }
}
