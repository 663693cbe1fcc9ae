//! The paths that apps ask with: `/api/v1/{device}/{type}/{incr}`.

use std::borrow::Cow;

use relevo_types::nearest;

/// Longest path that is looked at, in bytes.
const MAX_PATH: usize = 1024;
/// Most parts of a path.
const MAX_PARTS: usize = 16;

/// What a place in a path is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variable {
    /// A name of the device.
    Device,
    /// `ro.lineage.releasetype`, in any case.
    Type,
    /// A channel of the repository.
    Channel,
    /// `ro.build.version.incremental` of the build that the phone runs.
    Incremental,
    /// Something that has no say in the answer.
    Ignored,
}

/// Names of variables. Those that have no say are listed too, so that a slip of the pen is an error.
const VARIABLES: [(&str, Variable); 8] = [
    ("device", Variable::Device),
    ("type", Variable::Type),
    ("channel", Variable::Channel),
    ("incr", Variable::Incremental),
    ("version", Variable::Ignored),
    ("ziptype", Variable::Ignored),
    ("flavor", Variable::Ignored),
    ("any", Variable::Ignored),
];

/// A part between two slashes.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Variable { before: String, variable: Variable, after: String },
}

/// A pattern of paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    parts: Vec<Part>,
}

/// What a path says, as it says it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Captures<'p> {
    /// The device's name.
    pub device: Cow<'p, str>,
    /// The release type, if the path has one.
    pub release_type: Option<Cow<'p, str>>,
    /// The channel, if the path has one.
    pub channel: Option<Cow<'p, str>>,
    /// The build that the phone runs, if the path has it.
    pub incremental: Option<Cow<'p, str>>,
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// It does not start at the top, or is longer than any.
    #[error("{path:?} is no path: it has to start with a slash, and have at most 16 parts")]
    Shape {
        /// The pattern.
        path: String,
    },
    /// More than one variable in a part, or a brace without its other half.
    #[error("part {part:?} of {path:?} is neither text nor one variable: expected TEXT, {{NAME}} or {{NAME}}.json")]
    Part {
        /// The pattern.
        path: String,
        /// The part.
        part: String,
    },
    /// No such variable.
    #[error("{path:?} has {name:?} in braces; the nearest known name is {nearest:?}")]
    Unknown {
        /// The pattern.
        path: String,
        /// The name.
        name: String,
        /// What was probably meant.
        nearest: &'static str,
    },
    /// Nothing in it says which device is asked about.
    #[error("{path:?} has no {{device}}")]
    NoDevice {
        /// The pattern.
        path: String,
    },
    /// Two places that say the same.
    #[error("{path:?} has {{{name}}} twice")]
    Twice {
        /// The pattern.
        path: String,
        /// The variable.
        name: &'static str,
    },
}

impl Pattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// [`PatternError`].
    pub fn parse(path: &str) -> Result<Self, PatternError> {
        let own = || path.chars().take(200).collect::<String>();
        let rest = path.strip_prefix('/').filter(|_| path.len() <= MAX_PATH).filter(|rest| !rest.is_empty());
        let rest = rest.ok_or_else(|| PatternError::Shape { path: own() })?;
        let parts = rest.split('/').map(|part| Part::parse(part, &own)).collect::<Result<Vec<_>, _>>()?;
        if parts.len() > MAX_PARTS {
            return Err(PatternError::Shape { path: own() });
        }
        for (name, variable) in VARIABLES {
            let places =
                parts.iter().filter(|part| matches!(part, Part::Variable { variable: of, .. } if *of == variable));
            match (variable, places.count()) {
                (Variable::Device, 0) => return Err(PatternError::NoDevice { path: own() }),
                (Variable::Ignored, _) | (_, 0 | 1) => {}
                _ => return Err(PatternError::Twice { path: own(), name }),
            }
        }
        Ok(Self { parts })
    }

    /// What a path says, if it is of this pattern; a slash at its end does not count.
    pub fn captures<'p>(&self, path: &Parts<'p>) -> Option<Captures<'p>> {
        if path.len != self.parts.len() {
            return None;
        }
        let mut captures = Captures::default();
        for (part, text) in self.parts.iter().zip(path.as_slice()) {
            let (before, variable, after) = match part {
                Part::Text(expected) if expected == text => continue,
                Part::Text(_) => return None,
                Part::Variable { before, variable, after } => (before, variable, after),
            };
            let raw = text.strip_prefix(before.as_str())?.strip_suffix(after.as_str())?;
            let value = decode(raw).filter(|value| !value.is_empty())?;
            match variable {
                Variable::Device => captures.device = value,
                Variable::Type => captures.release_type = Some(value),
                Variable::Channel => captures.channel = Some(value),
                Variable::Incremental => captures.incremental = Some(value),
                Variable::Ignored => {}
            }
        }
        Some(captures)
    }

    /// Whether the path says which build the phone runs.
    pub fn has_incremental(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Variable { variable: Variable::Incremental, .. }))
    }
}

impl Part {
    fn parse(part: &str, path: &dyn Fn() -> String) -> Result<Self, PatternError> {
        let failed = || PatternError::Part { path: path(), part: part.chars().take(80).collect() };
        let Some((before, rest)) = part.split_once('{') else {
            let plain = !part.is_empty() && !part.contains(['}', '%', '?', '#']);
            return if plain { Ok(Self::Text(part.to_owned())) } else { Err(failed()) };
        };
        let (name, after) = rest.split_once('}').ok_or_else(failed)?;
        if before.contains('}') || after.contains(['{', '}']) {
            return Err(failed());
        }
        let known = VARIABLES.iter().find(|(known, _)| *known == name);
        let (_, variable) = known.ok_or_else(|| PatternError::Unknown {
            path: path(),
            name: name.chars().take(80).collect(),
            nearest: nearest(name, VARIABLES.iter().map(|(known, _)| *known)),
        })?;
        Ok(Self::Variable { before: before.to_owned(), variable: *variable, after: after.to_owned() })
    }
}

/// A request's path, taken apart once for all patterns. Not decoded: an encoded slash makes no other path.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'p> {
    parts: [&'p str; MAX_PARTS],
    len: usize,
}

impl<'p> Parts<'p> {
    /// Takes a path apart; `None` for what no pattern has.
    pub fn new(path: &'p str) -> Option<Self> {
        let rest = path.strip_prefix('/').filter(|_| path.len() <= MAX_PATH)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (mut parts, mut len) = ([""; MAX_PARTS], 0);
        for part in rest.split('/') {
            *parts.get_mut(len)? = part;
            len += 1;
        }
        Some(Self { parts, len })
    }

    /// The parts, still percent-encoded.
    pub fn as_slice(&self) -> &[&'p str] {
        &self.parts[..self.len]
    }
}

/// Undoes percent-encoding; `None` for a broken escape or what is not UTF-8.
fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high << 4 | low).ok()?);
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn captures<'p>(pattern: &str, path: &'p str) -> Option<Captures<'p>> {
        Pattern::parse(pattern).unwrap().captures(&Parts::new(path)?)
    }

    #[test]
    fn reads_what_a_path_says() {
        let found = captures("/api/v1/{device}/{type}/{incr}", "/api/v1/ginkgo/nightly/eng.7").unwrap();
        assert_eq!((&*found.device, found.release_type.as_deref()), ("ginkgo", Some("nightly")));
        assert_eq!(found.incremental.as_deref(), Some("eng.7"));

        let found = captures("/x/{channel}/{device}.json", "/x/beta/gin%6bgo.json/").unwrap();
        assert_eq!((&*found.device, found.channel.as_deref()), ("ginkgo", Some("beta")));

        for path in ["/x/beta/.json", "/x/beta/ginkgo", "/x/ginkgo.json", "/x/a/b/c.json", "/x/beta/%zz.json"] {
            assert_eq!(captures("/x/{channel}/{device}.json", path), None, "{path}");
        }
    }

    #[test]
    fn refuses_what_is_no_pattern() {
        use PatternError::{NoDevice, Part, Shape, Twice, Unknown};
        for path in ["", "x/{device}", "/"] {
            assert!(matches!(Pattern::parse(path), Err(Shape { .. })), "{path}");
        }
        for path in ["/{device}{incr}", "/{device", "/device}/{device}", "//{device}", "/a%2fb/{device}"] {
            assert!(matches!(Pattern::parse(path), Err(Part { .. })), "{path}");
        }
        assert!(matches!(Pattern::parse("/{incr}"), Err(NoDevice { .. })));
        assert!(matches!(Pattern::parse("/{device}/{device}"), Err(Twice { name: "device", .. })));
        assert!(matches!(Pattern::parse("/{devise}"), Err(Unknown { nearest: "device", .. })));
        assert!(Pattern::parse("/{any}/{any}/{device}").is_ok());
    }

    proptest! {
        #[test]
        fn no_path_and_no_pattern_panics(pattern in "(/[a{}evic%.]{0,9}){0,20}", path in "(/[a-z%0-9.]{0,9}){0,20}") {
            if let (Ok(pattern), Some(parts)) = (Pattern::parse(&pattern), Parts::new(&path)) {
                let _ = pattern.captures(&parts);
            }
        }

        #[test]
        fn what_is_put_in_comes_out(device in "[A-Za-z0-9][A-Za-z0-9._-]{0,20}", incr in "[A-Za-z0-9][A-Za-z0-9.+_-]{0,20}") {
            let path = format!("/u/{device}/{incr}.json");

            let found = captures("/u/{device}/{incr}.json", &path).unwrap();

            prop_assert_eq!(found.device, device);
            prop_assert_eq!(found.incremental.unwrap(), incr);
        }
    }
}
