//! Walks the TOML of manifests by hand, so that every complaint names its key and its line.

use std::{collections::BTreeMap, fmt};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::{ByteLen, device::MAX_MANIFEST};

/// Longest text in a manifest, in characters: a step of a guide is a sentence or three.
const MAX_TEXT: usize = 2_000;

/// Most entries of one list or table.
const MAX_ENTRIES: usize = 256;

/// Everything that is wrong with a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ManifestError {
    /// What is wrong, in the order of the file; never empty.
    pub problems: Vec<ManifestProblem>,
}

/// One thing that is wrong with a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestProblem {
    /// Over [`MAX_MANIFEST`].
    #[error("the manifest is {len} long; at most {MAX_MANIFEST} are read")]
    TooLong {
        /// Its length.
        len: ByteLen,
    },
    /// No TOML.
    #[error("line {line}: this is no TOML: {message}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// What the parser says.
        message: String,
    },
    /// A key that means nothing here.
    #[error("line {line}: unknown key {key}; {}", Suggestion { nearest, known })]
    UnknownKey {
        /// The key with its path: `payload.minor_version`.
        key: String,
        /// Line, from 1.
        line: usize,
        /// The known key that is written most like it, if one is near.
        nearest: Option<String>,
        /// The keys that are known there.
        known: &'static [&'static str],
    },
    /// A key that must be there.
    #[error("{key} is missing; expected {expected}")]
    Missing {
        /// The key with its path.
        key: String,
        /// What it must hold.
        expected: &'static str,
    },
    /// A value that is not what its key needs, or that another one contradicts.
    #[error("line {line}: {key} must be {expected}; it is {actual}")]
    Value {
        /// The key with its path.
        key: String,
        /// Line, from 1.
        line: usize,
        /// What it must hold.
        expected: String,
        /// What it holds, cut at 80 characters.
        actual: String,
    },
}

impl ManifestProblem {
    /// Where it stands among the problems of a file: those of the whole file come last.
    pub(crate) fn order(&self) -> usize {
        match self.line() {
            0 => usize::MAX,
            line => line,
        }
    }

    /// The line that it is about, from 1; 0 if it is about the whole file.
    pub fn line(&self) -> usize {
        match self {
            Self::TooLong { .. } | Self::Missing { .. } => 0,
            Self::Syntax { line, .. } | Self::UnknownKey { line, .. } | Self::Value { line, .. } => *line,
        }
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

/// How an unknown key is answered.
struct Suggestion<'a> {
    nearest: &'a Option<String>,
    known: &'a [&'static str],
}

impl fmt::Display for Suggestion<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.nearest {
            Some(nearest) => write!(f, "did you mean {nearest}?"),
            None => write!(f, "known are {}", self.known.join(", ")),
        }
    }
}
/// Gathers what is wrong while it reads.
pub(crate) struct Reader {
    /// Where each line starts, in bytes.
    starts: Vec<usize>,
    /// Problems that make it no manifest.
    problems: Vec<ManifestProblem>,
    /// Line of each key and each entry of a list, by its path.
    lines: BTreeMap<String, usize>,
}

/// A value with the path of its key.
pub(crate) struct At<'v> {
    pub(crate) key: String,
    pub(crate) value: &'v Spanned<DeValue<'v>>,
}

/// What was read, and where it stands.
pub(crate) struct Read<T> {
    pub(crate) value: T,
    /// Line of each key and each entry of a list, by its path: `models[0]`.
    pub(crate) lines: BTreeMap<String, usize>,
}

/// Reads a whole file; `read` may give nothing only after it has reported a problem.
pub(crate) fn read<T>(
    text: &str,
    read: impl FnOnce(&mut Reader, &DeTable<'_>) -> Option<T>,
) -> Result<Read<T>, ManifestError> {
    let len = ByteLen::new(text.len() as u64);
    if len > MAX_MANIFEST {
        return Err(ManifestError { problems: vec![ManifestProblem::TooLong { len }] });
    }
    let newlines = text.bytes().enumerate().filter(|&(_, byte)| byte == b'\n');
    let starts = std::iter::once(0).chain(newlines.map(|(index, _)| index + 1)).collect();
    let mut reader = Reader { starts, problems: Vec::new(), lines: BTreeMap::new() };
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            let line = reader.line(error.span().map_or(0, |span| span.start));
            let message = error.message().to_owned();
            return Err(ManifestError { problems: vec![ManifestProblem::Syntax { line, message }] });
        }
    };
    match read(&mut reader, table.get_ref()) {
        Some(value) if reader.problems.is_empty() => Ok(Read { value, lines: reader.lines }),
        _ => {
            reader.problems.sort_by_key(ManifestProblem::order);
            Err(ManifestError { problems: reader.problems })
        }
    }
}

impl Reader {
    /// A text with something in it.
    pub(crate) fn text(&mut self, at: &At<'_>) -> Option<String> {
        let text = self.any_text(at)?;
        if text.is_empty() {
            self.value(at, "a text that is not empty");
            return None;
        }
        Some(text)
    }

    pub(crate) fn any_text(&mut self, at: &At<'_>) -> Option<String> {
        let text = at.value.get_ref().as_str();
        let fine = text.filter(|text| text.chars().count() <= MAX_TEXT && !text.chars().any(char::is_control));
        if fine.is_none() {
            self.value(at, "a text of one line, at most 2000 characters");
        }
        fine.map(str::to_owned)
    }

    pub(crate) fn texts(&mut self, table: &DeTable<'_>, path: &str, key: &str) -> Vec<String> {
        match get(table, path, key) {
            Some(at) => self.list(&at).iter().filter_map(|at| self.text(at)).collect(),
            None => Vec::new(),
        }
    }

    /// Where people can read on.
    pub(crate) fn link(&mut self, at: &At<'_>) -> Option<String> {
        let text = self.text(at)?;
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        if !rest.is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_ascii_graphic())) {
            self.value(at, "a link that starts with https:// or http://");
        }
        Some(text)
    }

    /// One of the words of a list.
    pub(crate) fn choice<T: Copy>(&mut self, at: &At<'_>, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(at)?;
        let found = choices.iter().find(|(name, _)| *name == text).map(|&(_, choice)| choice);
        if found.is_none() {
            let names: Vec<_> = choices.iter().map(|&(name, _)| name).collect();
            self.value(at, &format!("one of {}", names.join(", ")));
        }
        found
    }

    pub(crate) fn number(&mut self, at: &At<'_>, min: u32, max: u32) -> Option<u32> {
        let number = at.value.get_ref().as_integer();
        let number = number.and_then(|number| u32::from_str_radix(number.as_str(), number.radix()).ok());
        let fine = number.filter(|number| (min..=max).contains(number));
        if fine.is_none() {
            self.value(at, &format!("a number from {min} to {max}"));
        }
        fine
    }

    /// Bytes as a number, or a text such as `64 MiB`; whole blocks, since partitions are made of them.
    pub(crate) fn size(&mut self, at: &At<'_>) -> Option<ByteLen> {
        let size = match at.value.get_ref() {
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix()).ok().map(ByteLen::new),
            DeValue::String(text) => ByteLen::parse(text).ok(),
            _ => None,
        };
        // TOML's integers are signed, so that a larger one could not be written back.
        let fine = size.filter(|size| {
            *size > ByteLen::ZERO && size.get() % crate::BLOCK.get() == 0 && i64::try_from(size.get()).is_ok()
        });
        if fine.is_none() {
            self.value(at, "a size in whole blocks of 4096 bytes: 67108864 or \"64 MiB\"");
        }
        fine
    }

    pub(crate) fn list<'v>(&mut self, at: &At<'v>) -> Vec<At<'v>> {
        match at.value.get_ref().as_array() {
            Some(items) if items.len() <= MAX_ENTRIES => {
                let item = |(index, value)| At { key: format!("{}[{index}]", at.key), value };
                let items: Vec<_> = items.iter().enumerate().map(item).collect();
                for item in &items {
                    self.lines.insert(item.key.clone(), self.line(item.value.span().start));
                }
                items
            }
            _ => {
                self.value(at, "a list of at most 256 entries");
                Vec::new()
            }
        }
    }

    pub(crate) fn table<'v>(&mut self, at: &At<'v>) -> Option<&'v DeTable<'v>> {
        let table = at.value.get_ref().as_table();
        if table.is_none() {
            self.value(at, "a table");
        }
        table
    }

    /// The entries of a table whose keys are names of the maintainer's.
    pub(crate) fn entries<'v>(&mut self, at: &At<'v>) -> Vec<(&'v str, At<'v>)> {
        match self.table(at) {
            Some(table) if table.len() <= MAX_ENTRIES => {
                let mut entries = Vec::new();
                for (key, value) in table {
                    let path = join(&at.key, key.get_ref());
                    self.lines.insert(path.clone(), self.line(key.span().start));
                    entries.push((&**key.get_ref(), At { key: path, value }));
                }
                entries
            }
            Some(_) => {
                self.value(at, "a table of at most 256 entries");
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    pub(crate) fn required<'v>(&mut self, table: &'v DeTable<'v>, key: &str, expected: &'static str) -> Option<At<'v>> {
        self.required_in(table, "", key, expected)
    }

    pub(crate) fn required_in<'v>(
        &mut self,
        table: &'v DeTable<'v>,
        path: &str,
        key: &str,
        expected: &'static str,
    ) -> Option<At<'v>> {
        let at = get(table, path, key);
        if at.is_none() {
            self.problems.push(ManifestProblem::Missing { key: join(path, key), expected });
        }
        at
    }

    pub(crate) fn unknown_keys(&mut self, path: &str, table: &DeTable<'_>, known: &'static [&'static str]) {
        for key in table.keys() {
            let name = key.get_ref().as_ref();
            let line = self.line(key.span().start);
            if known.contains(&name) {
                self.lines.insert(join(path, name), line);
            } else {
                let nearest = nearest(name, known).map(|nearest| join(path, nearest));
                let key = join(path, &shorten(name));
                self.problems.push(ManifestProblem::UnknownKey { key, line, nearest, known });
            }
        }
    }

    pub(crate) fn value(&mut self, at: &At<'_>, expected: &str) {
        let actual = match at.value.get_ref() {
            DeValue::String(text) => format!("{:?}", shorten(text)),
            DeValue::Integer(number) => shorten(number.as_str()),
            DeValue::Float(number) => shorten(number.as_str()),
            DeValue::Boolean(value) => value.to_string(),
            DeValue::Datetime(_) => "a date".to_owned(),
            DeValue::Array(items) => format!("a list of {}", items.len()),
            DeValue::Table(_) => "a table".to_owned(),
        };
        self.problem(at, expected.to_owned(), actual);
    }

    pub(crate) fn problem(&mut self, at: &At<'_>, expected: String, actual: String) {
        let line = self.line(at.value.span().start);
        self.problems.push(ManifestProblem::Value { key: shorten(&at.key), line, expected, actual });
    }

    /// The line of a place in the file, from 1.
    fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|&start| start <= offset)
    }
}

pub(crate) fn get<'v>(table: &'v DeTable<'v>, path: &str, key: &str) -> Option<At<'v>> {
    table.get(key).map(|value| At { key: join(path, key), value })
}

pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

pub(crate) fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The known key that is written most like `key`: at most two changes away, or a third of its length.
fn nearest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let key: String = key.chars().take(64).collect::<String>().to_lowercase().replace('-', "_");
    known
        .iter()
        .map(|&candidate| (edit_distance(&key, candidate), candidate))
        .filter(|&(distance, candidate)| distance <= (candidate.len() / 3).max(2) && distance < candidate.len())
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours between two words (optimal string alignment).
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    least = least.min(rows[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn distance_is_symmetric_and_zero_for_the_same(a in "[a-c]{0,8}", b in "[a-c]{0,8}") {
            prop_assert_eq!(edit_distance(&a, &b), edit_distance(&b, &a));
            prop_assert_eq!(edit_distance(&a, &a), 0);
        }
    }
}
