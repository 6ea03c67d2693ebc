//! What is wrong with a configuration, and where: one line a fault. It finds no fault by itself.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Most faults that are printed; the rest is counted.
const PRINTED_MAX: usize = 100;
/// Most characters of a wrong value that are repeated in a message.
const GOT_MAX: usize = 60;

/// What kind of rule a fault breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultKind {
    /// The text is no TOML, or no text.
    Syntax,
    /// A key that does not exist.
    Unknown,
    /// A required key or table is not there.
    Missing,
    /// A value of another type than the key takes.
    Type,
    /// A value outside what the key takes.
    Range,
    /// Two values that may not go together.
    Relation,
}

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file, as it was named to the reader.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The key, as a path from the root; items of lists are counted from 1. Empty for the file as a whole.
    pub key: String,
    /// What kind of rule is broken.
    pub kind: FaultKind,
    /// The rule, and what was there instead.
    pub rule: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if !self.key.is_empty() {
            write!(formatter, "{}: ", self.key)?;
        }
        formatter.write_str(&self.rule)
    }
}

/// Every fault of one configuration, in the order of the file. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<Fault>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().take(PRINTED_MAX).enumerate() {
            if index > 0 {
                formatter.write_str("\n")?;
            }
            write!(formatter, "{fault}")?;
        }
        match self.0.len().saturating_sub(PRINTED_MAX) {
            0 => Ok(()),
            more => write!(formatter, "\n... and {more} more faults"),
        }
    }
}

/// A fault whose line and column are not worked out yet.
struct Found {
    offset: usize,
    key: String,
    kind: FaultKind,
    rule: String,
}

/// Collects faults against one text and turns byte offsets into lines and columns.
pub(super) struct Faults {
    file: Arc<str>,
    text: String,
    /// Offset at which each line starts.
    lines: Vec<usize>,
    found: Vec<Found>,
}

impl Faults {
    pub(super) fn new(file: &str, text: &str) -> Self {
        let starts = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(offset, _)| offset + 1);
        Self {
            file: file.into(),
            text: text.to_owned(),
            lines: std::iter::once(0).chain(starts).collect(),
            found: Vec::new(),
        }
    }

    /// Returns the line of an offset, from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.lines.partition_point(|start| *start <= offset)
    }

    /// Adds a fault at `offset` bytes into the text.
    pub(super) fn add(&mut self, kind: FaultKind, offset: usize, key: impl Into<String>, rule: impl Into<String>) {
        self.found.push(Found { offset: offset.min(self.text.len()), key: key.into(), kind, rule: rule.into() });
    }

    /// Returns how many faults there are.
    pub(super) fn count(&self) -> usize {
        self.found.len()
    }

    /// Returns the text at `span`, shortened, on one line: what a message repeats of a wrong value.
    pub(super) fn got(&self, span: Range<usize>) -> String {
        shorten(self.text.get(span).unwrap_or_default())
    }

    /// Returns the faults, in the order of the text.
    pub(super) fn finish(mut self) -> Result<(), ConfigErrors> {
        let mut found = std::mem::take(&mut self.found);
        if found.is_empty() {
            return Ok(());
        }
        found.sort_by_key(|found| found.offset);
        // One walk over the text: a line may be long and hold any number of faults.
        let (mut line, mut column, mut reached) = (1, 1, 0);
        let mut faults = Vec::with_capacity(found.len());
        for Found { offset, key, kind, rule } in found {
            let now = self.line(offset);
            if now != line {
                (line, column, reached) = (now, 1, self.lines[now - 1]);
            }
            column += self.text[reached..].char_indices().take_while(|(at, _)| reached + at < offset).count();
            reached = offset;
            faults.push(Fault { file: self.file.clone(), line, column, key, kind, rule });
        }
        Err(ConfigErrors(faults))
    }
}

/// Makes one short line of `text`: control characters escaped, the end cut off.
pub(super) fn shorten(text: &str) -> String {
    let mut line: String = String::new();
    for (index, character) in text.chars().enumerate() {
        if index == GOT_MAX {
            line.push_str("...");
            break;
        }
        // Quotes stay as they are: the text is shown as it was written, but for what would not show.
        if "\"'\\".contains(character) { line.push(character) } else { line.extend(character.escape_debug()) }
    }
    line
}

/// Returns the candidate nearest to `word`, if it is near enough to be what was meant.
pub(super) fn nearest<'c>(word: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    // Longer than any key by more than the distance allowed: not worth the table.
    if word.len() > 64 {
        return None;
    }
    candidates
        .map(|candidate| (distance(&word.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 5)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Returns the number of insertions, deletions, replacements and neighbour swaps between two words.
pub(super) fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}
