//! Conditional requests: which of them are answered with 304 or 412 instead of the bytes.

use std::time::SystemTime;

use actix_web::http::header::{self, HeaderMap, HeaderName, HttpDate};

/// A strong entity tag with its quotes: `"3.snapshot-1042"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tag(String);

impl Tag {
    /// Puts quotes around what identifies the bytes.
    pub(crate) fn new(opaque: &str) -> Self {
        Self(format!("\"{opaque}\""))
    }

    /// The tag of the same representation under a content coding; strong tags name bytes, and those differ.
    #[must_use]
    pub(crate) fn coded(&self, coding: &str) -> Self {
        Self::new(&format!("{}-{coding}", self.0.trim_matches('"')))
    }

    /// Whether `If-None-Match` names these bytes, for answers that have no date.
    pub(crate) fn is_known(&self, headers: &HeaderMap) -> bool {
        list(headers, header::IF_NONE_MATCH).is_some_and(|tags| self.named_in(&tags, Comparison::Weak))
    }

    fn named_in(&self, tags: &str, comparison: Comparison) -> bool {
        if tags.trim() == "*" {
            return true;
        }
        // Our own tags hold no comma, so splitting there cannot cut one of them.
        tags.split(',').map(str::trim).any(|tag| match comparison {
            Comparison::Strong => tag == self.as_str(),
            Comparison::Weak => tag.strip_prefix("W/").unwrap_or(tag) == self.as_str(),
        })
    }

    /// The field's value.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// What identifies the bytes that would be sent.
#[derive(Debug, Clone)]
pub(crate) struct Validators {
    /// Strong entity tag.
    pub tag: Tag,
    /// Time of the last change, in whole seconds.
    pub modified: SystemTime,
    /// Whether the name never stands for other bytes; only then is a date as good as a tag.
    pub immutable: bool,
}

/// What the preconditions of a request ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Go on.
    Proceed,
    /// 304: the client has these bytes.
    NotModified,
    /// 412: the client asked for other bytes than there are.
    Failed,
}

impl Validators {
    /// Decides a GET or HEAD request.
    ///
    /// # Source
    /// RFC 9110, section 13.2.2, in its order.
    pub(crate) fn decide(&self, headers: &HeaderMap) -> Verdict {
        match list(headers, header::IF_MATCH) {
            Some(tags) if !self.tag.named_in(&tags, Comparison::Strong) => return Verdict::Failed,
            Some(_) => {}
            None => {
                if date(headers, header::IF_UNMODIFIED_SINCE).is_some_and(|date| self.modified > date) {
                    return Verdict::Failed;
                }
            }
        }
        match list(headers, header::IF_NONE_MATCH) {
            Some(tags) if self.tag.named_in(&tags, Comparison::Weak) => Verdict::NotModified,
            Some(_) => Verdict::Proceed,
            None if date(headers, header::IF_MODIFIED_SINCE).is_some_and(|date| self.modified <= date) => {
                Verdict::NotModified
            }
            None => Verdict::Proceed,
        }
    }

    /// Whether a `Range` field counts: there is no `If-Range`, or it names exactly these bytes.
    ///
    /// # Source
    /// RFC 9110, section 13.1.5.
    pub(crate) fn range_applies(&self, headers: &HeaderMap) -> bool {
        let mut fields = headers.get_all(header::IF_RANGE);
        let Some(field) = fields.next() else { return true };
        if fields.next().is_some() {
            return false;
        }
        let Ok(text) = field.to_str() else { return false };
        let text = text.trim();
        // A weak tag (W/"…") is no date either, so it ends up false, as it must.
        text == self.tag.as_str() || (self.immutable && parse_date(text) == Some(self.modified))
    }
}

#[derive(Clone, Copy)]
enum Comparison {
    Strong,
    Weak,
}

/// All fields of one name as one list; `None` without any.
fn list(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    let fields: Vec<&str> = headers.get_all(name).map(|field| field.to_str().unwrap_or("")).collect();
    (!fields.is_empty()).then(|| fields.join(","))
}

/// A date field; one that does not parse is ignored, as the RFC asks.
fn date(headers: &HeaderMap, name: HeaderName) -> Option<SystemTime> {
    parse_date(headers.get(name)?.to_str().ok()?)
}

fn parse_date(text: &str) -> Option<SystemTime> {
    text.parse::<HttpDate>().ok().map(SystemTime::from)
}
