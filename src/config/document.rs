//! A TOML document with positions: tables are taken apart key by key, and every complaint keeps its place in the text.
//!
//! Knows TOML and no key of ours.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Problem;

/// A value with its place.
pub(super) type Value<'i> = Spanned<DeValue<'i>>;

/// What is wrong with a value, and where if not in all of it.
pub(super) struct Fault {
    at: Option<usize>,
    message: String,
}

impl Fault {
    /// About the part of the value that starts at octet `at` of the text.
    pub(super) fn at(at: usize, message: String) -> Fault {
        Fault { at: Some(at), message }
    }
}

impl Fault {
    /// The same, about the part at octet `at` unless it says which.
    pub(super) fn or_at(self, at: usize) -> Fault {
        Fault { at: self.at.or(Some(at)), ..self }
    }
}

impl From<String> for Fault {
    fn from(message: String) -> Fault {
        Fault { at: None, message }
    }
}

/// Complaints as they are found, by octet of the text.
#[derive(Default)]
pub(super) struct Problems(Vec<(usize, String)>);

impl Problems {
    /// Adds a complaint about octet `at`.
    pub(super) fn add(&mut self, at: usize, message: String) {
        self.0.push((at, message));
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The complaints in the order of the text, with line and column.
    pub(super) fn resolve(mut self, text: &str) -> Vec<Problem> {
        self.0.sort_by_key(|(at, _)| *at);
        self.0
            .into_iter()
            .map(|(at, message)| Problem { position: Some(position(text.as_bytes(), at)), message })
            .collect()
    }
}

/// Parses `text`, complaining about every syntax error.
pub(super) fn parse<'i>(text: &'i str, problems: &mut Problems) -> DeTable<'i> {
    let (root, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let place = error.span().unwrap_or_default();
        let message = match (error.message(), text.get(place.clone())) {
            (DUPLICATE, Some(key)) => {
                format!("{DUPLICATE} {:?}: it is there already; keep one", key.trim_matches(['"', '\'']))
            }
            (other, _) => other.to_owned(),
        };
        problems.add(place.start, message);
    }
    root.into_inner()
}

/// The parser's words, which do not say which key.
const DUPLICATE: &str = "duplicate key";

/// One table while it is taken apart.
pub(super) struct Section<'d, 'i> {
    /// How messages name it.
    pub(super) name: String,
    at: usize,
    table: Option<&'d DeTable<'i>>,
    known: Vec<&'static str>,
}

impl<'d, 'i> Section<'d, 'i> {
    /// The document itself.
    pub(super) fn root(table: &'d DeTable<'i>) -> Section<'d, 'i> {
        Section { name: String::new(), at: 0, table: Some(table), known: Vec::new() }
    }

    /// The table in `value`.
    pub(super) fn new(name: String, value: &'d Value<'i>, problems: &mut Problems) -> Section<'d, 'i> {
        let at = value.span().start;
        let table = match value.get_ref() {
            DeValue::Table(table) => Some(table),
            other => {
                problems.add(at, format!("{name}: must be a table, not {}", kind(other)));
                None
            }
        };
        Section { name, at, table, known: Vec::new() }
    }

    /// The table under `key`, empty if it is absent.
    pub(super) fn table(&mut self, key: &'static str, problems: &mut Problems) -> Section<'d, 'i> {
        match self.take(key) {
            Some(value) => Section::new(key.to_owned(), value, problems),
            None => Section { name: key.to_owned(), at: self.at, table: None, known: Vec::new() },
        }
    }

    /// The table under `key` of this one, named after both; empty if it is absent.
    pub(super) fn child(&mut self, key: &'static str, problems: &mut Problems) -> Section<'d, 'i> {
        let name = format!("{}: {key}", self.name);
        match self.take(key) {
            Some(value) => Section::new(name, value, problems),
            None => Section { name, at: self.at, table: None, known: Vec::new() },
        }
    }

    /// The value under `key`, which is then a known key.
    pub(super) fn take(&mut self, key: &'static str) -> Option<&'d Value<'i>> {
        self.known.push(key);
        self.table?.get(key)
    }

    /// The value under `key` as `parse` understands it, or `default` if it is absent or wrong.
    pub(super) fn read<T>(
        &mut self,
        key: &'static str,
        default: T,
        problems: &mut Problems,
        parse: impl FnOnce(&Value<'i>) -> Result<T, Fault>,
    ) -> T {
        let Some(value) = self.take(key) else { return default };
        match parse(value) {
            Ok(parsed) => parsed,
            Err(fault) => {
                let at = fault.at.unwrap_or(value.span().start);
                problems.add(at, format!("{}: {key}: {}", self.name, fault.message));
                default
            }
        }
    }

    /// Like [`Section::read`], for a key that must be there.
    pub(super) fn require<T>(
        &mut self,
        key: &'static str,
        problems: &mut Problems,
        parse: impl FnOnce(&Value<'i>) -> Result<T, Fault>,
    ) -> Option<T> {
        if self.table.is_some_and(|table| table.contains_key(key)) {
            return self.read(key, None, problems, |value| parse(value).map(Some));
        }
        self.known.push(key);
        problems.add(self.at, format!("{}: {key} is missing", self.name));
        None
    }

    /// Where the value of `key` starts, or else the table.
    pub(super) fn position(&self, key: &str) -> usize {
        self.table.and_then(|table| table.get(key)).map_or(self.at, |value| value.span().start)
    }

    /// Complains about every key that was not asked for.
    pub(super) fn finish(self, problems: &mut Problems) {
        let Some(table) = self.table else { return };
        for (key, _) in table.iter().filter(|(key, _)| !self.known.contains(&key.get_ref().as_ref())) {
            let place = if self.name.is_empty() { String::new() } else { format!("{}: ", self.name) };
            let known = self.known.join(", ");
            let message = format!("{place}unknown key {:?}; known here: {known}", key.get_ref());
            problems.add(key.span().start, message);
        }
    }
}

/// What a value is, with its article.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// Reads the file at `path`, at most [`MAX_FILE_OCTETS`] of it.
pub(super) fn read_file(path: &Path) -> Result<String, Problem> {
    let unreadable = |error: std::io::Error| {
        let remedy = if error.kind() == std::io::ErrorKind::NotFound { NO_FILE } else { "" };
        Problem { position: None, message: format!("cannot be read: {error}{remedy}") }
    };
    let mut octets = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_FILE_OCTETS + 1).read_to_end(&mut octets).map_err(unreadable)?;
    if octets.len() as u64 > MAX_FILE_OCTETS {
        let message = format!("is longer than {MAX_FILE_OCTETS} octets; no configuration needs that");
        return Err(Problem { position: None, message });
    }
    String::from_utf8(octets).map_err(|error| {
        let position = position(error.as_bytes(), error.utf8_error().valid_up_to());
        Problem { position: Some(position), message: "is not UTF-8 text".to_owned() }
    })
}

/// Line and column of octet `at`, both counted from 1.
fn position(text: &[u8], at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.iter().rposition(|octet| *octet == b'\n').map_or(0, |newline| newline + 1);
    let line = 1 + before.iter().filter(|octet| **octet == b'\n').count();
    let current: Range<usize> = line_start..before.len();
    // UTF-8 continuation octets are no characters of their own.
    let column = 1 + before.get(current).unwrap_or(&[]).iter().filter(|octet| **octet & 0xc0 != 0x80).count();
    (line, column)
}

/// The first message that many see.
const NO_FILE: &str = ": begin with a copy of config/synwall.toml, or name another file by --config FILE";

/// The longest file that is read: 256 services of every key are a tenth of it. Keeps a wrong path (a disk, a log) from
/// filling the memory.
const MAX_FILE_OCTETS: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_and_lines_count_from_one() {
        assert_eq!(position(b"", 0), (1, 1));
        assert_eq!(position("ä = 1\n é 2".as_bytes(), 6), (1, 6));
        assert_eq!(position("ä\n é 2".as_bytes(), 7), (2, 4));
        assert_eq!(position(b"ab", 99), (1, 3));
    }
}
