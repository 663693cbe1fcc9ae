//! The JSON that apps expect, with places for what a package is.

use relevo_types::nearest;
use serde_json::{Map, Value};

/// How deep a shape may be nested.
const MAX_DEPTH: usize = 8;

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What can be said of a package.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Field {
            $($(#[$doc])* $name,)*
        }

        impl Field {
            /// Every field, by its name in braces.
            pub const ALL: &'static [(&'static str, Self)] = &[$(($text, Self::$name),)*];
        }
    };
}

fields! {
    /// The device's name as the phone has it.
    Device = "device",
    /// The device's codename.
    Codename = "codename",
    /// The device's vendor.
    Vendor = "vendor",
    /// The channel.
    Channel = "channel",
    /// The release type that the phone asks with.
    Type = "type",
    /// `ro.build.version.incremental` of the build.
    Incremental = "incr",
    /// The same of the build that a delta starts from.
    From = "from?",
    /// The file's name.
    File = "file",
    /// Its URL.
    Url = "url",
    /// Its length in bytes, a number.
    Size = "size",
    /// Its digest in hexadecimal.
    Sha256 = "sha256",
    /// When the build was made, in seconds since 1970; a second less for a full package that stands beside a delta, so
    /// that apps that sort by it show the delta first.
    Datetime = "datetime",
    /// When the build was made, in seconds since 1970.
    Timestamp = "timestamp",
    /// When the build was made, as `2026-01-31`.
    Date = "date",
    /// The build's version, for people.
    Version = "version",
    /// The version that LineageOS's updater compares: `22.2`.
    Release = "release",
    /// Android API level, a number.
    Sdk = "sdk",
    /// The same; the key is left out if nobody knows it.
    SdkIfKnown = "sdk?",
    /// Security patch level, as `2026-01-31`.
    Spl = "spl",
    /// The same; the key is left out if nobody knows it.
    SplIfKnown = "spl?",
    /// `ota-property-files`; the key is left out if the zip does not say.
    PropertyFiles = "property_files?",
    /// `ota-streaming-property-files`, the same.
    StreamingPropertyFiles = "streaming_property_files?",
    /// Fingerprint of the build; the key is left out if nobody knows it.
    Fingerprint = "fingerprint?",
}

impl Field {
    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, field)| *field == self).expect("every field is in the list").0
    }

    fn is_optional(self) -> bool {
        self.name().ends_with('?')
    }
}

/// What a package says of a field.
pub(crate) trait Fields {
    /// `None` if nobody knows.
    fn get(&self, field: Field) -> Option<Value>;
}

/// A piece of JSON with places in it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Shape {
    Fixed(Value),
    /// A value that is one place, and keeps its type.
    Field(Field),
    /// Text with places in it.
    Text(Vec<Piece>),
    List(Vec<Shape>),
    Object(Vec<(String, Shape)>),
    /// Where the packages go: a list of all, or the first alone.
    Items,
    Item,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Piece {
    Text(String),
    Field(Field),
}

/// Why a shape cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// No such field.
    #[error("{text:?} has {name:?} in braces; the nearest known name is {nearest:?}")]
    Unknown {
        /// The text.
        text: String,
        /// The name.
        name: String,
        /// What was probably meant.
        nearest: &'static str,
    },
    /// A brace without its other half.
    #[error("{text:?} has a brace without its other half")]
    Brace {
        /// The text.
        text: String,
    },
    /// A body without a place for packages, or with several.
    #[error("a body has \"{{items}}\" or \"{{item}}\" in it, once; this one has it {times} times")]
    Places {
        /// How often it has one.
        times: usize,
    },
    /// The place for packages where a package is described, or what is said of one where all are.
    #[error("{text:?} belongs into the {part}")]
    Misplaced {
        /// The text.
        text: String,
        /// Where it belongs: `body` or `item`.
        part: &'static str,
    },
    /// A value that JSON has no word for.
    #[error("{0} cannot be written as JSON")]
    Value(String),
    /// Deeper than any app asks for.
    #[error("it is nested deeper than 8 levels")]
    Depth,
}

impl Shape {
    /// The shape of a whole answer.
    pub(crate) fn body(value: &toml::Value) -> Result<Self, ShapeError> {
        let shape = Self::parse(value, 0)?;
        let times = shape.places();
        match shape.field() {
            Some(field) => Err(ShapeError::Misplaced { text: format!("{{{}}}", field.name()), part: "item" }),
            None if times == 1 => Ok(shape),
            None => Err(ShapeError::Places { times }),
        }
    }

    /// The shape of one package.
    pub(crate) fn item(value: &toml::Value) -> Result<Self, ShapeError> {
        let shape = Self::parse(value, 0)?;
        let text = if shape.is_single() { "{item}" } else { "{items}" };
        if shape.places() == 0 { Ok(shape) } else { Err(ShapeError::Misplaced { text: text.to_owned(), part: "body" }) }
    }

    /// Whether the body takes one package rather than a list.
    pub(crate) fn is_single(&self) -> bool {
        match self {
            Self::Item => true,
            Self::List(list) => list.iter().any(Self::is_single),
            Self::Object(object) => object.iter().any(|(_, shape)| shape.is_single()),
            _ => false,
        }
    }

    /// A field that is in it.
    fn field(&self) -> Option<Field> {
        match self {
            Self::Field(field) => Some(*field),
            Self::Text(pieces) => pieces.iter().find_map(|piece| match piece {
                Piece::Field(field) => Some(*field),
                Piece::Text(_) => None,
            }),
            Self::List(list) => list.iter().find_map(Self::field),
            Self::Object(object) => object.iter().find_map(|(_, shape)| shape.field()),
            _ => None,
        }
    }

    fn places(&self) -> usize {
        match self {
            Self::Items | Self::Item => 1,
            Self::List(list) => list.iter().map(Self::places).sum(),
            Self::Object(object) => object.iter().map(|(_, shape)| shape.places()).sum(),
            _ => 0,
        }
    }

    fn parse(value: &toml::Value, depth: usize) -> Result<Self, ShapeError> {
        if depth > MAX_DEPTH {
            return Err(ShapeError::Depth);
        }
        Ok(match value {
            toml::Value::String(text) => Self::text(text)?,
            toml::Value::Integer(number) => Self::Fixed((*number).into()),
            toml::Value::Boolean(truth) => Self::Fixed((*truth).into()),
            toml::Value::Float(number) => {
                let number = serde_json::Number::from_f64(*number);
                Self::Fixed(Value::Number(number.ok_or_else(|| ShapeError::Value(value.to_string()))?))
            }
            toml::Value::Array(list) => {
                Self::List(list.iter().map(|value| Self::parse(value, depth + 1)).collect::<Result<_, _>>()?)
            }
            toml::Value::Table(table) => {
                let entry = |(key, value): (&String, &toml::Value)| Ok((key.clone(), Self::parse(value, depth + 1)?));
                Self::Object(table.iter().map(entry).collect::<Result<_, ShapeError>>()?)
            }
            toml::Value::Datetime(date) => return Err(ShapeError::Value(date.to_string())),
        })
    }

    fn text(text: &str) -> Result<Self, ShapeError> {
        // TOML has no word for it, and LineageOTA's answers have it.
        match text {
            "{null}" => return Ok(Self::Fixed(Value::Null)),
            "{items}" => return Ok(Self::Items),
            "{item}" => return Ok(Self::Item),
            _ => {}
        }
        let short = || text.chars().take(200).collect::<String>();
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or_else(|| ShapeError::Brace { text: short() })?;
            if matches!(name, "items" | "item") {
                return Err(ShapeError::Misplaced { text: short(), part: "body" });
            }
            let known = Field::ALL.iter().find(|(known, _)| *known == name);
            let (_, field) = known.ok_or_else(|| ShapeError::Unknown {
                text: short(),
                name: name.chars().take(80).collect(),
                nearest: nearest(name, Field::ALL.iter().map(|(known, _)| *known)),
            })?;
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            pieces.push(Piece::Field(*field));
            rest = after;
        }
        if rest.contains('}') {
            return Err(ShapeError::Brace { text: short() });
        }
        if pieces.is_empty() {
            return Ok(Self::Fixed(text.into()));
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        match pieces.as_slice() {
            [Piece::Field(field)] => Ok(Self::Field(*field)),
            _ => Ok(Self::Text(pieces)),
        }
    }

    /// The JSON of a package, or the first field that it needs and nobody knows.
    pub(crate) fn fill(&self, fields: &dyn Fields) -> Result<Value, Field> {
        Ok(self.fill_or_skip(fields)?.unwrap_or(Value::Null))
    }

    /// `None` for what is left out.
    fn fill_or_skip(&self, fields: &dyn Fields) -> Result<Option<Value>, Field> {
        let get = |field: Field| match fields.get(field) {
            None if !field.is_optional() => Err(field),
            value => Ok(value),
        };
        Ok(Some(match self {
            Self::Fixed(value) => value.clone(),
            Self::Field(field) => return get(*field),
            Self::Text(pieces) => {
                let mut text = String::new();
                for piece in pieces {
                    match piece {
                        Piece::Text(piece) => text.push_str(piece),
                        Piece::Field(field) => match get(*field)? {
                            Some(Value::String(value)) => text.push_str(&value),
                            Some(value) => text.push_str(&value.to_string()),
                            None => return Ok(None),
                        },
                    }
                }
                text.into()
            }
            Self::List(list) => {
                let values = list.iter().filter_map(|shape| shape.fill_or_skip(fields).transpose());
                Value::Array(values.collect::<Result<_, _>>()?)
            }
            Self::Object(object) => {
                let mut map = Map::new();
                for (key, shape) in object {
                    if let Some(value) = shape.fill_or_skip(fields)? {
                        map.insert(key.clone(), value);
                    }
                }
                Value::Object(map)
            }
            Self::Items | Self::Item => Value::Null,
        }))
    }

    /// The whole answer around packages that were filled in; `None` if it takes one and there is none.
    pub(crate) fn wrap(&self, items: &[Value]) -> Option<Value> {
        Some(match self {
            Self::Items => Value::Array(items.to_vec()),
            Self::Item => items.first()?.clone(),
            Self::Fixed(value) => value.clone(),
            Self::Field(_) | Self::Text(_) => unreachable!("a body holds no fields: `body` refuses them"),
            Self::List(list) => Value::Array(list.iter().map(|shape| shape.wrap(items)).collect::<Option<_>>()?),
            Self::Object(object) => {
                let entries = object.iter().map(|(key, shape)| Some((key.clone(), shape.wrap(items)?)));
                Value::Object(entries.collect::<Option<_>>()?)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Known;

    impl Fields for Known {
        fn get(&self, field: Field) -> Option<Value> {
            match field {
                Field::Size => Some(7.into()),
                Field::File => Some("x.zip".into()),
                _ => None,
            }
        }
    }

    fn parse(text: &str) -> toml::Value {
        text.parse::<toml::Table>().unwrap().remove("x").unwrap()
    }

    #[test]
    fn fills_places_and_leaves_out_what_nobody_knows() {
        let shape =
            r#"x = { size = "{size}", md5 = "{file}.md5", level = "{sdk?}", gapps = "", list = [1, true, "{null}"] }"#;

        let value = Shape::item(&parse(shape)).unwrap().fill(&Known).unwrap();

        let expected = serde_json::json!({"size": 7, "md5": "x.zip.md5", "gapps": "", "list": [1, true, null]});
        assert_eq!(value, expected);
    }

    #[test]
    fn a_field_that_has_to_be_there_is_named_if_it_is_not() {
        let shape = Shape::item(&parse(r#"x = { level = "{sdk}" }"#)).unwrap();

        assert_eq!(shape.fill(&Known), Err(Field::Sdk));
    }

    #[test]
    fn a_body_has_one_place() {
        let body = |text: &str| Shape::body(&parse(text));

        assert_eq!(
            body(r#"x = { id = "{null}", result = "{items}" }"#).unwrap().wrap(&[]).unwrap().to_string(),
            r#"{"id":null,"result":[]}"#
        );
        assert_eq!(body(r#"x = "{item}""#).unwrap().wrap(&[]), None);
        assert_eq!(body("x = 1"), Err(ShapeError::Places { times: 0 }));
        assert_eq!(body(r#"x = ["{items}", "{item}"]"#), Err(ShapeError::Places { times: 2 }));
        assert!(matches!(body(r#"x = ["{items}", "{size}"]"#), Err(ShapeError::Misplaced { part: "item", .. })));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        let item = |text: &str| Shape::item(&parse(text)).unwrap_err();

        assert!(matches!(item(r#"x = "{sise}""#), ShapeError::Unknown { nearest: "size", .. }));
        assert!(matches!(item(r#"x = "{size""#), ShapeError::Brace { .. }));
        assert!(matches!(item(r#"x = "size}""#), ShapeError::Brace { .. }));
        assert!(matches!(item(r#"x = "a {items}""#), ShapeError::Misplaced { part: "body", .. }));
        assert!(matches!(item("x = nan"), ShapeError::Value(_)));
        assert_eq!(item(&format!("x = {}1{}", "[".repeat(20), "]".repeat(20))), ShapeError::Depth);
    }
}
