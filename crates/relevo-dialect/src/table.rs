//! The table of dialects: which paths there are, and what each answers.

use relevo_types::nearest;
use serde::Deserialize;

use crate::{
    answer::{Question, What},
    page,
    pattern::{Parts, Pattern, PatternError},
    shape::{Shape, ShapeError},
};

/// Longest table that we read, in bytes.
pub const MAX_TABLE: usize = 256 << 10;
/// Most dialects in a table.
const MAX_DIALECTS: usize = 200;
/// Most builds that one answer may list.
const MAX_BUILDS: usize = 50;
/// Builds that an answer lists unless the table says otherwise; as many as LineageOS's own server.
const BUILDS: usize = 4;

const BUILT_IN: &str = include_str!("dialects.toml");

/// All dialects, in the order in which they are tried.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    dialects: Vec<Dialect>,
    /// How many of them come before the pages that are no table's.
    own: usize,
}

/// One dialect.
#[derive(Debug, Clone, PartialEq)]
pub struct Dialect {
    /// Its name, for logs and warnings.
    pub name: String,
    pub(crate) paths: Vec<Pattern>,
    /// Its apps take packages over `https` alone.
    pub https: bool,
    /// Its apps follow a redirect from the package's URL, and the mirrors that come with it.
    pub redirect: bool,
    /// Longest answer that its apps take, in bytes.
    pub max_bytes: Option<usize>,
    /// Most builds in an answer.
    pub builds: usize,
    /// What is asked for by a path without type and channel.
    pub(crate) each_type: bool,
    /// Whether a device that nobody knows is 404 rather than an empty answer.
    pub(crate) absent: bool,
    pub(crate) body: Shape,
    pub(crate) item: Shape,
}

/// Where in a table an error is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// Longer than any table.
    #[error("it has {0} bytes; at most 262144 are read")]
    TooLong(usize),
    /// No TOML, a key that is missing or unknown, or a value of another type.
    #[error("it is no table of dialects")]
    Syntax(#[source] Box<toml::de::Error>),
    /// More than make sense.
    #[error("it has {0} dialects; at most 200 are read")]
    TooMany(usize),
    /// A word that is none of those that can stand there.
    #[error("dialect {dialect}: {key} is {value:?}; the nearest that can stand there is {nearest:?}")]
    Word {
        /// The dialect.
        dialect: String,
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
        /// What was probably meant.
        nearest: &'static str,
    },
    /// A number that cannot be.
    #[error("dialect {dialect}: builds is {builds}; it must be from 1 to 50")]
    Builds {
        /// The dialect.
        dialect: String,
        /// The number.
        builds: usize,
    },
    /// No path at all.
    #[error("dialect {dialect} has no paths")]
    NoPaths {
        /// The dialect.
        dialect: String,
    },
    /// A path that is no pattern.
    #[error("dialect {dialect}")]
    Pattern {
        /// The dialect.
        dialect: String,
        /// Why.
        source: PatternError,
    },
    /// JSON that cannot be filled in.
    #[error("dialect {dialect}: {part}")]
    Shape {
        /// The dialect.
        dialect: String,
        /// `body` or `item`.
        part: &'static str,
        /// Why.
        source: ShapeError,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTable {
    #[serde(default)]
    dialect: Vec<RawDialect>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDialect {
    name: String,
    paths: Vec<String>,
    #[serde(default)]
    https: bool,
    #[serde(default)]
    redirect: bool,
    max_bytes: Option<usize>,
    builds: Option<usize>,
    #[serde(default)]
    channels: Option<String>,
    #[serde(default)]
    unknown: Option<String>,
    body: toml::Value,
    item: toml::Value,
}

impl Table {
    /// The dialects that are known without anybody's help.
    ///
    /// # Panics
    /// Never: a test reads the built-in table.
    pub fn built_in() -> Self {
        Self::parse(BUILT_IN).expect("the built-in table is one")
    }

    /// The dialects of `text`, and behind them the built-in ones.
    ///
    /// # Errors
    /// [`TableError`], naming the dialect and what is wrong with it.
    pub fn with(text: &str) -> Result<Self, TableError> {
        let mut table = Self::parse(text)?;
        table.own = table.dialects.len();
        table.dialects.extend(Self::built_in().dialects);
        Ok(table)
    }

    /// Reads a table.
    ///
    /// # Errors
    /// [`TableError`], naming the dialect and what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, TableError> {
        if text.len() > MAX_TABLE {
            return Err(TableError::TooLong(text.len()));
        }
        let raw: RawTable = toml::from_str(text).map_err(|error| TableError::Syntax(Box::new(error)))?;
        if raw.dialect.len() > MAX_DIALECTS {
            return Err(TableError::TooMany(raw.dialect.len()));
        }
        Ok(Self { dialects: raw.dialect.into_iter().map(Dialect::new).collect::<Result<_, _>>()?, own: 0 })
    }

    /// The dialects.
    pub fn dialects(&self) -> &[Dialect] {
        &self.dialects
    }

    /// What a path asks: by the first pattern that it is of, the operator's own before ours.
    pub fn find<'t, 'p>(&'t self, path: &Parts<'p>) -> Option<Question<'t, 'p>> {
        let (own, built_in) = self.dialects.split_at(self.own);
        find(own, 0, path).or_else(|| page::find(path)).or_else(|| find(built_in, self.own, path))
    }
}

fn find<'t, 'p>(dialects: &'t [Dialect], first: usize, path: &Parts<'p>) -> Option<Question<'t, 'p>> {
    dialects.iter().zip(first..).find_map(|(dialect, place)| {
        let captures = dialect.paths.iter().find_map(|pattern| pattern.captures(path))?;
        Some(Question { what: What::Dialect(place, dialect), captures })
    })
}

impl Dialect {
    fn new(raw: RawDialect) -> Result<Self, TableError> {
        let RawDialect { name, paths, https, redirect, max_bytes, builds, channels, unknown, body, item } = raw;
        let dialect: String = name.chars().take(80).collect();
        let builds = builds.unwrap_or(BUILDS);
        if !(1..=MAX_BUILDS).contains(&builds) {
            return Err(TableError::Builds { dialect, builds });
        }
        let word = |key, value: Option<String>, [plain, other]: [&'static str; 2]| match value {
            None => Ok(false),
            Some(value) if value == plain => Ok(false),
            Some(value) if value == other => Ok(true),
            Some(value) => {
                let nearest = nearest(&value, [plain, other]);
                let value = value.chars().take(80).collect();
                Err(TableError::Word { dialect: dialect.clone(), key, value, nearest })
            }
        };
        let each_type = word("channels", channels, ["first", "each-type"])?;
        let absent = word("unknown", unknown, ["empty", "absent"])?;
        let pattern = |path: &String| {
            Pattern::parse(path).map_err(|source| TableError::Pattern { dialect: dialect.clone(), source })
        };
        let paths: Vec<Pattern> = paths.iter().map(pattern).collect::<Result<_, _>>()?;
        if paths.is_empty() {
            return Err(TableError::NoPaths { dialect });
        }
        let shape = |part, shape: Result<Shape, ShapeError>| {
            shape.map_err(|source| TableError::Shape { dialect: dialect.clone(), part, source })
        };
        let (body, item) = (shape("body", Shape::body(&body))?, shape("item", Shape::item(&item))?);
        Ok(Self { name: dialect, paths, https, redirect, max_bytes, builds, each_type, absent, body, item })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEAST: &str = "[[dialect]]\nname = \"a\"\npaths = [\"/{device}\"]\nbody = \"{items}\"\nitem = {}\n";

    #[test]
    fn own_dialects_are_tried_before_the_built_in_ones() {
        let own = LEAST.replace("/{device}", "/api/v1/{device}/{type}/{incr}");
        let table = Table::with(&own).unwrap();

        let name = |path| match table.find(&Parts::new(path).unwrap()).unwrap().what {
            What::Dialect(place, dialect) => (place, dialect.name.as_str()),
            What::Page(page) => panic!("{page:?}"),
        };

        assert_eq!(name("/api/v1/ginkgo/nightly/7"), (0, "a"));
        assert_eq!(name("/api/v1/ginkgo/nightly"), (1, "lineage-v1"));
    }

    #[test]
    fn the_sample_is_read() {
        let table = Table::with(include_str!("../../../deploy/dialects.toml")).unwrap();

        assert_eq!(table.own, 2);
        assert!(table.dialects().iter().all(|dialect| dialect.https));
    }

    #[test]
    fn says_what_is_wrong_with_a_table() {
        use TableError::{Builds, NoPaths, Pattern, Shape, Syntax, TooLong, TooMany, Word};
        let with = |line: &str| Table::parse(&format!("{LEAST}{line}\n")).unwrap_err();

        assert!(matches!(with("path = 1"), Syntax(_)));
        assert!(matches!(with("channels = \"each-typ\""), Word { key: "channels", nearest: "each-type", .. }));
        assert!(matches!(with("unknown = \"404\""), Word { key: "unknown", .. }));
        assert!(matches!(with("builds = 0"), Builds { .. }));
        assert!(matches!(Table::parse(&LEAST.replace("\"/{device}\"", "")), Err(NoPaths { .. })));
        assert!(matches!(Table::parse(&LEAST.replace("/{device}", "/x")), Err(Pattern { .. })));
        assert!(matches!(Table::parse(&LEAST.replace("{items}", "items")), Err(Shape { part: "body", .. })));
        assert!(matches!(Table::parse(&LEAST.repeat(201)), Err(TooMany(201))));
        assert!(matches!(Table::parse(&" ".repeat(MAX_TABLE + 1)), Err(TooLong(_))));
    }

    proptest! {
        #[test]
        fn a_damaged_table_never_panics(at in 0..BUILT_IN.len(), byte in any::<char>()) {
            let mut text = BUILT_IN.to_owned();
            let at = (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap();
            text.truncate(at);
            let _ = Table::parse(&text);
            text.push(byte);
            text.push_str(&BUILT_IN[at..]);
            let _ = Table::parse(&text);
        }
    }
}
