//! Reads typed values out of one TOML table and notes every fault on the way. It knows types and ranges,
//! not what a key means.

use super::fault::{FaultKind, Faults, distance, nearest};
use super::schema;
use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value and where it was found.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    /// Offset in the text; that of the table for a default.
    pub(super) offset: usize,
    /// The key as a path from the root.
    pub(super) key: String,
    /// False for a default.
    pub(super) given: bool,
}

impl<T> At<T> {
    /// Turns the value into another one, found in the same place.
    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> At<U> {
        At { value: change(self.value), offset: self.offset, key: self.key, given: self.given }
    }
}

/// The items of a list that could be read.
pub(super) struct List<T> {
    pub(super) items: Vec<T>,
    /// No item was left out. What is judged by the whole list is judged only then.
    pub(super) complete: bool,
}

/// One table, with the keys that it may hold.
pub(super) struct Section<'f, 'a> {
    pub(super) faults: &'f mut Faults,
    pub(super) path: String,
    pub(super) offset: usize,
    /// By key: what it was called, and what was written.
    values: BTreeMap<&'a str, (&'a str, &'a Spanned<DeValue<'a>>)>,
}

impl<'f, 'a> Section<'f, 'a> {
    /// Opens a table. Keys that `known` does not have are faults, at once. A WSFC spelling stands for its key.
    pub(super) fn open(
        faults: &'f mut Faults,
        path: String,
        offset: usize,
        table: &'a DeTable<'a>,
        known: &'static [&'static str],
    ) -> Self {
        let mut values = BTreeMap::new();
        let mut entries: Vec<_> = table.iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        for (key, value) in entries {
            let name: &'a str = key.get_ref();
            let at = key.span().start;
            let canonical = schema::canonical(name);
            if !known.contains(&canonical) {
                faults.add(FaultKind::Unknown, at, join(&path, name), unknown(&path, name, known));
            } else if values.insert(canonical, (name, value)).is_some() {
                faults.add(FaultKind::Relation, at, join(&path, name), "is given twice, in two spellings");
            }
        }
        Self { faults, path, offset, values }
    }

    /// Returns the name of `key` as a path from the root.
    pub(super) fn key(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// Notes that `key` is not there.
    pub(super) fn missing(&mut self, key: &str) {
        let path = self.key(key);
        self.faults.add(FaultKind::Missing, self.offset, path, "is required");
    }

    fn found<T>(&self, key: &str, value: T, offset: usize) -> At<T> {
        At { value, offset, key: self.key(key), given: true }
    }

    /// Returns a default, as if it had been given with the table.
    pub(super) fn default<T>(&self, key: &str, value: T) -> At<T> {
        At { value, offset: self.offset, key: self.key(key), given: false }
    }

    /// Takes the raw value of `key`.
    pub(super) fn take(&mut self, key: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.values.remove(key).map(|(_, value)| value)
    }

    /// Says whether `key` is there as an integer.
    pub(super) fn is_integer(&self, key: &str) -> bool {
        self.values.get(key).is_some_and(|(_, value)| matches!(value.get_ref(), DeValue::Integer(_)))
    }

    /// Reads an integer in `range`. `None` if it is not there; `Some(None)` if it is at fault.
    /// Where the spelling that was used has another unit than the key, so have the range and the message.
    pub(super) fn integer(&mut self, key: &str, range: RangeInclusive<u64>, unit: &str) -> Option<Option<At<u64>>> {
        let (written, value) = self.values.remove(key)?;
        let (range, unit, scale) = if schema::in_seconds(written) {
            (range.start().div_ceil(1000)..=range.end() / 1000, "s", 1000)
        } else {
            (range, unit, 1)
        };
        let at = value.span();
        let (kind, rule) = match value.get_ref() {
            DeValue::Integer(integer) => {
                match i128::from_str_radix(&integer.as_str().replace('_', ""), integer.radix()) {
                    Ok(number) if within(number, &range) => {
                        return Some(Some(self.found(key, number as u64 * scale, at.start)));
                    }
                    _ => (FaultKind::Range, range_rule(&range, unit)),
                }
            }
            _ => (FaultKind::Type, format!("must be an integer, {}", &range_rule(&range, unit)["must be ".len()..])),
        };
        self.wrong(kind, key, at, &rule);
        Some(None)
    }

    /// Reads an integer with a default. `None` only if it is at fault.
    pub(super) fn integer_or(
        &mut self,
        key: &str,
        range: RangeInclusive<u64>,
        unit: &str,
        default: u64,
    ) -> Option<At<u64>> {
        self.integer(key, range, unit).unwrap_or_else(|| Some(self.default(key, default)))
    }

    /// Reads a time in seconds, whole or with decimals, as milliseconds in `range`. `None` only if it is at fault.
    pub(super) fn seconds_or(&mut self, key: &str, range: RangeInclusive<u64>, default: u64) -> Option<At<u64>> {
        let Some(value) = self.take(key) else { return Some(self.default(key, default)) };
        let at = value.span();
        let (least, most) = (*range.start() as f64, *range.end() as f64);
        let bounds = format!("{} to {} s, with at most 3 decimals", least / 1000.0, most / 1000.0);
        let number: Option<f64> = match value.get_ref() {
            DeValue::Integer(integer) => {
                i128::from_str_radix(&integer.as_str().replace('_', ""), integer.radix()).ok().map(|whole| whole as f64)
            }
            DeValue::Float(float) => float.as_str().replace('_', "").parse().ok(),
            _ => {
                self.wrong(FaultKind::Type, key, at, &format!("must be a number, {bounds}"));
                return None;
            }
        };
        // Far more than what the nearest number with so many decimals is off by, far less than a fourth decimal.
        let whole = |ms: &f64| (least..=most).contains(&ms.round()) && (ms - ms.round()).abs() < 1e-4;
        match number.map(|seconds| seconds * 1000.0).filter(whole) {
            Some(ms) => Some(self.found(key, ms.round() as u64, at.start)),
            None => {
                self.wrong(FaultKind::Range, key, at, &format!("must be {bounds}"));
                None
            }
        }
    }

    /// Reads a boolean, or 1 or 0 for one as WSFC has it, with a default.
    pub(super) fn switch_or(&mut self, key: &str, default: bool) -> Option<bool> {
        if self.is_integer(key) {
            return self.integer(key, 0..=1, "")?.map(|at| at.value == 1);
        }
        self.boolean_or(key, default)
    }

    /// Reads a boolean with a default.
    pub(super) fn boolean_or(&mut self, key: &str, default: bool) -> Option<bool> {
        let Some(value) = self.take(key) else { return Some(default) };
        if let DeValue::Boolean(boolean) = value.get_ref() {
            return Some(*boolean);
        }
        self.wrong(FaultKind::Type, key, value.span(), "must be true or false");
        None
    }

    /// Reads a string and hands it to `parse`, whose error is the rule broken.
    /// `None` if it is not there; `Some(None)` if it is at fault.
    pub(super) fn text<T>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Option<At<T>>> {
        let value = self.take(key)?;
        Some(self.parsed(key, value, parse))
    }

    fn parsed<T>(
        &mut self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<At<T>> {
        let at = value.span();
        let DeValue::String(text) = value.get_ref() else {
            self.wrong(FaultKind::Type, key, at, "must be a string");
            return None;
        };
        match parse(text) {
            Ok(parsed) => Some(self.found(key, parsed, at.start)),
            Err(rule) => {
                self.wrong(FaultKind::Range, key, at, &rule);
                None
            }
        }
    }

    /// Reads a required string.
    pub(super) fn required<T>(&mut self, key: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<At<T>> {
        self.text(key, parse).unwrap_or_else(|| {
            self.missing(key);
            None
        })
    }

    /// Reads a required list of 1 to `most` strings. Items at fault are left out.
    pub(super) fn list<T>(&mut self, key: &str, most: usize, parse: impl Fn(&str) -> Result<T, String>) -> List<At<T>> {
        let before = self.faults.count();
        let items = self.items(key, most, parse);
        List { items, complete: self.faults.count() == before }
    }

    /// Reads a list of at most `most` strings, which need not be there. Items at fault are left out.
    pub(super) fn list_or_empty<T>(
        &mut self,
        key: &str,
        most: usize,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> List<At<T>> {
        let empty = match self.values.get(key) {
            None => true,
            Some((_, value)) => matches!(value.get_ref(), DeValue::Array(items) if items.is_empty()),
        };
        if empty {
            self.take(key);
            return List { items: Vec::new(), complete: true };
        }
        self.list(key, most, parse)
    }

    fn items<T>(&mut self, key: &str, most: usize, parse: impl Fn(&str) -> Result<T, String>) -> Vec<At<T>> {
        let Some(value) = self.take(key) else {
            self.missing(key);
            return Vec::new();
        };
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong(FaultKind::Type, key, value.span(), "must be a list of strings");
            return Vec::new();
        };
        if items.is_empty() || items.len() > most {
            let (path, at) = (self.key(key), value.span().start);
            let rule = format!("must have 1 to {most} items (got {})", items.len());
            self.faults.add(FaultKind::Range, at, path, rule);
        }
        let numbered = items.iter().take(most).enumerate();
        numbered.filter_map(|(index, item)| self.parsed(&format!("{key}[{}]", index + 1), item, &parse)).collect()
    }

    /// Notes that the value of `key` at `span` breaks `rule`.
    fn wrong(&mut self, kind: FaultKind, key: &str, span: Range<usize>, rule: &str) {
        let (path, got) = (self.key(key), self.faults.got(span.clone()));
        self.faults.add(kind, span.start, path, format!("{rule} (got {got})"));
    }
}

fn within(number: i128, range: &RangeInclusive<u64>) -> bool {
    (i128::from(*range.start())..=i128::from(*range.end())).contains(&number)
}

fn range_rule(range: &RangeInclusive<u64>, unit: &str) -> String {
    let space = if unit.is_empty() { "" } else { " " };
    format!("must be {} to {}{space}{unit}", range.start(), range.end())
}

/// Joins a table's path and a key; a key that is not bare is quoted.
pub(super) fn join(path: &str, key: &str) -> String {
    let bare = |character: char| character.is_ascii_alphanumeric() || "-_[]".contains(character);
    let key = if !key.is_empty() && key.chars().all(bare) {
        super::fault::shorten(key)
    } else {
        format!("{:?}", key.chars().take(64).collect::<String>())
    };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// Says what may have been meant by an unknown key.
fn unknown(path: &str, name: &str, known: &'static [&'static str]) -> String {
    if let Some(home) = schema::home(name) {
        return format!("unknown key here, it belongs in {home}");
    }
    match nearest(name, known.iter().copied()).into_iter().chain(nearest_alias(path, name)).reduce(nearer(name)) {
        Some(meant) => format!("unknown key, did you mean {meant:?}?"),
        None => "unknown key".to_owned(),
    }
}

/// Returns the WSFC spelling nearest to `name`, in the words of whoever wrote it: who writes with underscores is told
/// of the key itself.
fn nearest_alias(path: &str, name: &str) -> Option<&'static str> {
    let aliases = if path == schema::SETTINGS { schema::ALIASES } else { &[] };
    let alias = nearest(name, aliases.iter().map(|(alias, _)| *alias))?;
    Some(if name.contains('_') { schema::canonical(alias) } else { alias })
}

/// Chooses between the key and the WSFC spelling that `name` may have meant: the latter only where it is nearer.
fn nearer(name: &str) -> impl Fn(&'static str, &'static str) -> &'static str {
    move |key, alias| if distance(name, alias) < distance(name, key) { alias } else { key }
}
