//! Answers: what one phone is told, out of what the repository offers and how its app wants to hear it.

use jiff::{Timestamp, tz::TimeZone};
use serde_json::Value;

use crate::{
    offer::{Device, Offered, Offers, Package, SourceId, Wanted},
    page::Page,
    pattern::Captures,
    shape::{Field, Fields},
    site::Site,
    table::Dialect,
};

/// All that an answer depends on. Two questions with the same key have the same answer, for the same offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    what: KeyWhat,
    /// Place of the name among [`Offers::names`]; none for a device that nobody knows.
    name: Option<usize>,
    wanted: Wanted,
    source: Option<SourceId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum KeyWhat {
    Dialect(usize),
    Page(Page),
}

/// What a path asks.
#[derive(Debug, Clone, PartialEq)]
pub struct Question<'t, 'p> {
    /// Whose words it is in.
    pub what: What<'t>,
    /// What the path says.
    pub captures: Captures<'p>,
}

/// Whose words a question is in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum What<'t> {
    /// A dialect of the table, and its place there.
    Dialect(usize, &'t Dialect),
    /// One that is more than a path and a shape.
    Page(Page),
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoAnswer {
    /// There is no such device, or nothing for it, and its apps want to be told so by a status.
    #[error("there is nothing for this device")]
    Absent,
    /// Nobody said how phones reach this server, or the apps of the dialect take `https` alone and it is not.
    #[error("the server was not told its public https address")]
    NoAddress,
}

impl Question<'_, '_> {
    /// What the answer depends on.
    pub fn key(&self, offers: &Offers, now: Timestamp) -> Key {
        let captures = &self.captures;
        let name = offers.find(&captures.device, now);
        let device = name.map(|name| offers.named(name).1);
        let wanted = device.map_or(Wanted::None, |device| {
            match (captures.channel.as_deref(), captures.release_type.as_deref()) {
                (Some(channel), _) => device.channel(channel),
                (None, Some(text)) => device.release_type(text),
                (None, None) if self.wants_each_type() => device.each_release_type(now),
                (None, None) => device.first(),
            }
        });
        let wanted = device.map_or(wanted, |device| device.vouched(wanted, now));
        let source = captures.incremental.as_deref();
        let source = device.and_then(|device| device.source(source?));
        let what = match self.what {
            What::Dialect(place, _) => KeyWhat::Dialect(place),
            What::Page(page) => KeyWhat::Page(page),
        };
        Key { what, name, wanted, source }
    }

    /// The answer's bytes.
    ///
    /// # Errors
    /// [`NoAnswer`] if a status says it better.
    pub fn answer(&self, key: &Key, offers: &Offers, site: &Site) -> Result<Vec<u8>, NoAnswer> {
        match self.what {
            What::Dialect(_, dialect) => render(dialect, key, offers, site),
            What::Page(page) => page.answer(key.name, key.wanted, offers),
        }
    }

    /// What the answer is.
    pub fn content_type(&self) -> &'static str {
        match self.what {
            What::Dialect(..) => "application/json",
            What::Page(page) => page.content_type(),
        }
    }

    fn wants_each_type(&self) -> bool {
        matches!(self.what, What::Dialect(_, dialect) if dialect.each_type)
    }
}

/// The answer of a dialect for a key.
pub(crate) fn render(dialect: &Dialect, key: &Key, offers: &Offers, site: &Site) -> Result<Vec<u8>, NoAnswer> {
    let public = site.public.as_ref().filter(|public| public.is_https() || !dialect.https);
    let public = public.ok_or(NoAnswer::NoAddress)?;
    let mirrored = dialect.redirect && site.mirrors.iter().any(|mirror| mirror.is_https() == public.is_https());
    let packages = format!("{public}{}", if mirrored { "get/" } else { "repo/targets/" });
    let named = key.name.map(|name| offers.named(name));
    if named.is_none() && dialect.absent {
        return Err(NoAnswer::Absent);
    }
    let mut items = Vec::new();
    if let Some((name, device)) = named {
        let listed = list(device, name, key.wanted, key.source, &packages, dialect.builds);
        // What lacks a field that the app needs is left out: some apps drop the whole list otherwise.
        items.extend(listed.iter().filter_map(|entry| dialect.item.fill(entry).ok()));
    }
    loop {
        let body = dialect.body.wrap(&items).ok_or(NoAnswer::Absent)?.to_string().into_bytes();
        // The last ones are the oldest, which are missed least.
        match dialect.max_bytes {
            Some(most) if body.len() > most && items.pop().is_some() => {}
            _ => return Ok(body),
        }
    }
}

/// One package in an answer.
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a str,
    pub(crate) device: &'a Device,
    pub(crate) offered: Offered<'a>,
    pub(crate) package: &'a Package,
    /// Whether a delta stands before it that makes the same build.
    pub(crate) is_second: bool,
    /// What the package's path is appended to.
    pub(crate) packages: &'a str,
}

/// The packages for a phone: for each build the delta from what it runs, then the full one.
pub(crate) fn list<'a>(
    device: &'a Device,
    name: &'a str,
    wanted: Wanted,
    source: Option<SourceId>,
    packages: &'a str,
    builds: usize,
) -> Vec<Entry<'a>> {
    let mut entries = Vec::new();
    for offered in device.offered(wanted, source).into_iter().take(builds) {
        let entry = |package, is_second| Entry { name, device, offered, package, is_second, packages };
        entries.extend(offered.delta.map(|delta| entry(delta, false)));
        entries.extend(offered.full.map(|full| entry(full, offered.delta.is_some())));
    }
    entries
}

impl Fields for Entry<'_> {
    fn get(&self, field: Field) -> Option<Value> {
        let (build, package) = (self.offered.build, self.package);
        let made = build.made.as_second();
        Some(match field {
            Field::Device => self.name.into(),
            Field::Codename => self.device.codename.as_str().into(),
            Field::Vendor => self.device.vendor.as_str().into(),
            Field::Channel => self.offered.channel.channel.as_str().into(),
            Field::Type => build.release_type.as_str().into(),
            Field::Incremental => build.incremental.as_str().into(),
            Field::From => package.from.as_deref()?.into(),
            Field::File => package.path.file().into(),
            Field::Url => format!("{}{}", self.packages, package.path.consistent(&package.sha256)).into(),
            Field::Size => package.length.get().into(),
            Field::Sha256 => package.sha256.to_string().into(),
            Field::Datetime => (made - i64::from(self.is_second)).into(),
            Field::Timestamp => made.into(),
            Field::Date => build.made.to_zoned(TimeZone::UTC).date().to_string().into(),
            Field::Version => build.version.as_str().into(),
            Field::Release => build.release.as_deref()?.into(),
            Field::Sdk | Field::SdkIfKnown => build.sdk?.into(),
            Field::Spl | Field::SplIfKnown => build.spl?.to_string().into(),
            Field::PropertyFiles => package.property_files.as_deref()?.into(),
            Field::StreamingPropertyFiles => package.streaming_property_files.as_deref()?.into(),
            Field::Fingerprint => package.fingerprint.as_deref()?.into(),
        })
    }
}
