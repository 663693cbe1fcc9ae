//! `/`: the first page, for people.

use actix_web::{
    HttpRequest, HttpResponse,
    body::BoxBody,
    http::{
        Method, StatusCode,
        header::{self, AcceptEncoding, Header},
    },
    web,
};
use askama::Template;
use bytes::Bytes;
use jiff::{Timestamp, tz::TimeZone};
use relevo_types::Sha256;
use sha2::Digest;

use super::{SHORT, STEPS, not_found, refuse};
use crate::{
    body::HeadBody,
    catalog::{Build, Catalog, Device, Package, Problem, Retry, View},
    encoding::Coding,
    precondition::Tag,
    startup::State,
};

/// Most bytes that the devices of one page may take, so that the page stays under 50 KB.
const MAX_PAGE: usize = 42_000;

/// Builds shown of one device; the newest of each channel come first.
const MAX_BUILDS: usize = 6;

/// Deltas shown of one build.
const MAX_DELTAS: usize = 6;

/// Upper bound of what the template adds to a file, a build and a device, in bytes; a test holds it to that.
const FRAME: (usize, usize, usize) = (110, 420, 420);

/// No script, no frame, nothing from elsewhere; the one style sheet is inside.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[derive(Template)]
#[template(path = "index.html")]
struct Page {
    number: usize,
    has_next: bool,
    freshness: Option<Freshness>,
    problem: Option<String>,
    steps: Option<Steps>,
    troubles: usize,
    devices: Vec<DeviceView>,
}

struct Freshness {
    version: u64,
    expired: bool,
    machine: String,
    people: String,
}

struct Steps {
    say: &'static str,
    list: &'static [(&'static str, &'static str)],
}

struct DeviceView {
    vendor: String,
    codename: String,
    unmaintained_since: Option<String>,
    builds: Vec<BuildView>,
    more: usize,
}

struct BuildView {
    version: String,
    channel: String,
    id: String,
    date: String,
    tags: Vec<TagView>,
    files: Vec<FileView>,
    more: usize,
}

struct TagView {
    text: String,
    bad: bool,
}

struct FileView {
    name: String,
    href: String,
    size: String,
}

const FROM_NOTHING: Steps = Steps {
    say: "There is no repository in this server's directory yet. On the machine where you build:",
    list: &STEPS,
};

const WITHOUT_DEVICES: Steps =
    Steps { say: "The repository is ready, and holds no device yet. Next:", list: STEPS.split_at(1).1 };

const WITHOUT_BUILDS: Steps =
    Steps { say: "The repository knows its devices, and holds no build yet. Next:", list: STEPS.split_at(2).1 };

/// Answers with the page of the number in the query, or the first.
pub(crate) async fn serve(request: HttpRequest, state: web::Data<State>) -> HttpResponse {
    if let Some(refused) = refuse(&request) {
        return refused;
    }
    let view = state.catalogs.current(Retry::No).await;
    let Some(html) = page(&view, number(request.query_string()), (state.clock)()) else { return not_found() };
    let html = Bytes::from(html);
    let sha256 = Sha256::new(sha2::Sha256::digest(&html).into());
    let coding = Coding::negotiate(AcceptEncoding::parse(&request).ok().as_ref());
    let coded = coding.name().zip(state.compressed.get(&html, sha256, coding));
    let tag = Tag::new(&sha256.to_string());
    let tag = coded.as_ref().map_or(tag.clone(), |(name, _)| tag.coded(name));
    let mut response = HttpResponse::Ok();
    response
        .insert_header((header::ETAG, tag.as_str()))
        .insert_header((header::CACHE_CONTROL, SHORT))
        .insert_header((header::VARY, "Accept-Encoding"))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"));
    if tag.is_known(request.headers()) {
        return response.status(StatusCode::NOT_MODIFIED).body(());
    }
    response
        .insert_header((header::CONTENT_TYPE, "text/html; charset=utf-8"))
        .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((header::REFERRER_POLICY, "no-referrer"));
    let body = match coded {
        Some((name, compressed)) => {
            response.insert_header((header::CONTENT_ENCODING, name));
            compressed
        }
        None => html,
    };
    if *request.method() == Method::HEAD {
        return response.body(BoxBody::new(HeadBody(body.len() as u64)));
    }
    response.body(body)
}

/// The page's number in a query; what is no number means the first page.
fn number(query: &str) -> usize {
    query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("page="))
        .find_map(|number| number.parse().ok())
        .filter(|number| *number > 0)
        .unwrap_or(1)
}

/// The page of that number; `None` behind the last.
fn page(view: &View, number: usize, now: Timestamp) -> Option<String> {
    let catalog = view.catalog.as_deref();
    let (devices, has_next) = slice(catalog.map_or(&[], |catalog| &catalog.devices), number)?;
    let page = Page {
        number,
        has_next,
        freshness: catalog.map(|catalog| freshness(catalog, now)),
        problem: problem(view),
        steps: steps(view),
        troubles: catalog.map_or(0, |catalog| catalog.troubles.len()),
        devices: devices.iter().map(|device| describe_device(device, now)).collect(),
    };
    // Writing into a String cannot fail, and the template calls nothing that can.
    page.render().ok()
}

fn freshness(catalog: &Catalog, now: Timestamp) -> Freshness {
    Freshness {
        version: catalog.timestamp_version,
        expired: catalog.expires <= now,
        machine: catalog.expires.to_string(),
        people: catalog.expires.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M UTC").to_string(),
    }
}

fn problem(view: &View) -> Option<String> {
    let text = match (view.problem.as_ref()?, &view.catalog) {
        (Problem::Empty, None) => return None,
        (Problem::Empty, Some(_)) => "The repository has gone. Below is what it last held.".to_owned(),
        (Problem::Unreadable(_), Some(_)) => {
            "The repository cannot be read at the moment. Below is what it last held.".to_owned()
        }
        (Problem::Unreadable(_), None) => "The repository cannot be read at the moment.".to_owned(),
        (Problem::Untrusted(reason), Some(_)) => {
            format!("The repository does not verify ({reason}). Below is the last state that did.")
        }
        (Problem::Untrusted(reason), None) => format!("The repository does not verify: {reason}."),
    };
    // A reason quotes file names; it is bounded there, and once more here.
    Some(text.chars().take(600).collect())
}

fn steps(view: &View) -> Option<Steps> {
    match &view.catalog {
        None if view.problem == Some(Problem::Empty) => Some(FROM_NOTHING),
        None => None,
        Some(catalog) if catalog.devices.is_empty() && catalog.troubles.is_empty() => Some(WITHOUT_DEVICES),
        Some(catalog) if !catalog.devices.is_empty() && catalog.devices.iter().all(|d| d.builds.is_empty()) => {
            Some(WITHOUT_BUILDS)
        }
        Some(_) => None,
    }
}

/// The devices of a page, and whether there are more behind them.
fn slice(devices: &[Device], number: usize) -> Option<(&[Device], bool)> {
    let mut rest = devices;
    for _ in 1..number {
        rest = &rest[fitting(rest)..];
        if rest.is_empty() {
            return None;
        }
    }
    let (page, rest) = rest.split_at(fitting(rest));
    Some((page, !rest.is_empty()))
}

/// How many devices from the first on fit on a page.
fn fitting(devices: &[Device]) -> usize {
    let mut left = MAX_PAGE;
    let fit = devices.iter().take_while(|device| {
        let weight = weight(device);
        let fits = weight <= left;
        left = left.saturating_sub(weight);
        fits
    });
    // One device always fits, by the limits on what is shown of it.
    fit.count().max(usize::from(!devices.is_empty()))
}

/// Upper bound of a device's bytes on the page.
fn weight(device: &Device) -> usize {
    let (per_file, per_build, per_device) = FRAME;
    let names = device.vendor.as_str().len() + 3 * device.codename.as_str().len();
    let builds = shown_builds(device).map(|build| {
        let files = shown_files(build).map(|package| {
            // The path, the digest and a dot before the file's name, and the name of the build that it starts from.
            let from = package.from.as_ref().map_or(0, |from| from.as_str().len());
            per_file + package.path.to_string().len() + 65 + from
        });
        // The longest escape of one byte has five.
        let version = build.version.len() + 5 * build.version.bytes().filter(|b| br#"<>&"'"#.contains(b)).count();
        per_build + version + build.channel.as_str().len() + build.id.as_str().len() + files.sum::<usize>()
    });
    per_device + names + builds.sum::<usize>()
}

/// The newest build of each channel, then the newest of the rest.
fn shown_builds(device: &Device) -> impl Iterator<Item = &Build> {
    let newest =
        |index: usize| device.builds[..index].iter().all(|other| other.channel != device.builds[index].channel);
    let (mut first, rest): (Vec<usize>, Vec<usize>) = (0..device.builds.len()).partition(|&index| newest(index));
    first.extend(rest);
    first.truncate(MAX_BUILDS);
    // Back in the order of the catalog, which is by date.
    first.sort_unstable();
    first.into_iter().map(|index| &device.builds[index])
}

fn shown_files(build: &Build) -> impl Iterator<Item = &Package> {
    build.full.iter().take(3).chain(build.deltas.iter().take(MAX_DELTAS))
}

fn describe_device(device: &Device, now: Timestamp) -> DeviceView {
    let builds: Vec<BuildView> = shown_builds(device).map(describe_build).collect();
    DeviceView {
        vendor: device.vendor.to_string(),
        codename: device.codename.to_string(),
        unmaintained_since: (device.expires <= now).then(|| day(device.expires)),
        more: device.builds.len() - builds.len(),
        builds,
    }
}

fn describe_build(build: &Build) -> BuildView {
    let files: Vec<FileView> = shown_files(build).map(describe_file).collect();
    let packages = || build.full.iter().chain(&build.deltas);
    let mut tags = Vec::new();
    if packages().count() > 0 && packages().all(|package| package.withdrawn) {
        tags.push(TagView { text: "withdrawn".to_owned(), bad: true });
    }
    if let Some(least) = packages().map(|package| package.rollout).min().filter(|least| *least < 100) {
        tags.push(TagView { text: format!("offered to {least} % of phones"), bad: false });
    }
    BuildView {
        version: build.version.clone(),
        channel: build.channel.to_string(),
        id: build.id.to_string(),
        date: day(build.made),
        tags,
        more: packages().count() - files.len(),
        files,
    }
}

fn describe_file(package: &Package) -> FileView {
    FileView {
        name: package.from.as_ref().map_or_else(|| "Full package".to_owned(), |from| format!("Update from {from}")),
        href: package.path.consistent(&package.sha256),
        size: package.length.human(),
    }
}

fn day(time: Timestamp) -> String {
    time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d").to_string()
}
