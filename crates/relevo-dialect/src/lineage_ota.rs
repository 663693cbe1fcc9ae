//! What LineageOTA (julianxhokaxhiu) answers besides version 1 of LineageOS's API: CyanogenMod's `/api`, and deltas by the
//! builds that they lead from and to.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    answer::{Entry, NoAnswer, list},
    offer::{Device, Offers, Wanted},
    shape::{Field, Fields},
    site::Site,
};

/// Longest question that we read, in bytes; CyanogenMod's has 200.
pub const MAX_QUESTION: usize = 4 << 10;
/// Builds in an answer.
const BUILDS: usize = 4;

/// A question in a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Posted {
    /// `/api`: the builds of a device.
    Builds,
    /// `/api/v1/build/get_delta`: one delta.
    Delta,
}

/// A question that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the question is no JSON of the kind that is asked here")]
pub struct BadQuestion(#[source] serde_json::Error);

#[derive(Deserialize)]
struct BuildsQuestion {
    #[serde(default)]
    params: Params,
}

#[derive(Default, Deserialize)]
struct Params {
    #[serde(default)]
    device: String,
    #[serde(default)]
    channels: Vec<String>,
    #[serde(default)]
    source_incremental: String,
}

#[derive(Deserialize)]
struct DeltaQuestion {
    source_incremental: String,
    target_incremental: String,
}

impl Posted {
    /// The question of a path.
    pub fn at(path: &str) -> Option<Self> {
        match path.trim_end_matches('/') {
            "/api" => Some(Self::Builds),
            "/api/v1/build/get_delta" => Some(Self::Delta),
            _ => None,
        }
    }

    /// The answer.
    ///
    /// # Errors
    /// [`BadQuestion`] for what is no question; the inner result is [`NoAnswer`] if nobody said how phones reach this
    /// server.
    ///
    /// # Source
    /// `julianxhokaxhiu/LineageOTA`, `src/CmOta.php`, for path, question and answer.
    pub fn answer(
        self,
        question: &[u8],
        offers: &Offers,
        site: &Site,
        now: Timestamp,
    ) -> Result<Result<Vec<u8>, NoAnswer>, BadQuestion> {
        Ok(match self {
            Self::Builds => {
                let BuildsQuestion { params } = parse(question)?;
                packages(site).map(|packages| builds(&params, offers, &packages, now))
            }
            Self::Delta => {
                let question: DeltaQuestion = parse(question)?;
                packages(site).map(|packages| delta(&question, offers, &packages, now))
            }
        }
        .map(|value| value.to_string().into_bytes()))
    }
}

fn parse<'q, T: Deserialize<'q>>(question: &'q [u8]) -> Result<T, BadQuestion> {
    // A list would pass for a structure, its first value for the first field.
    if question.trim_ascii_start().first() != Some(&b'{') {
        return Err(BadQuestion(serde::de::Error::custom("it is no object")));
    }
    serde_json::from_slice(question).map_err(BadQuestion)
}

fn packages(site: &Site) -> Result<String, NoAnswer> {
    let public = site.public.as_ref().ok_or(NoAnswer::NoAddress)?;
    Ok(format!("{public}repo/targets/"))
}

/// The newest builds of each channel that is asked for; without one that we know, of the calmest.
fn builds(params: &Params, offers: &Offers, packages: &str, now: Timestamp) -> Value {
    let mut result = Vec::new();
    if let Some((name, device)) = offers.find(&params.device, now).map(|place| offers.named(place)) {
        let source = device.source(&params.source_incremental);
        // No more than a device has; a list of thousands of names asks for nothing else.
        let mut places: Vec<Wanted> = Vec::new();
        for channel in &params.channels {
            let wanted = device.release_type(channel);
            if wanted != Wanted::None && !places.contains(&wanted) {
                places.push(wanted);
            }
        }
        if places.is_empty() {
            places.push(device.first());
        }
        for wanted in places.into_iter().map(|wanted| device.vouched(wanted, now)) {
            result.extend(list(device, name, wanted, source, packages, BUILDS).iter().filter_map(describe));
        }
    }
    json!({"id": null, "result": result, "error": null})
}

/// What CyanogenMod's updater reads. The metadata have no MD5, so that stays empty.
fn describe(entry: &Entry<'_>) -> Option<Value> {
    let get = |field| entry.get(field);
    Some(json!({
        "incremental": get(Field::Incremental)?,
        "api_level": get(Field::Sdk).unwrap_or_else(|| 0.into()),
        "url": get(Field::Url)?,
        "timestamp": get(Field::Datetime)?,
        "md5sum": "",
        "changes": "",
        "channel": get(Field::Channel)?,
        "filename": get(Field::File)?,
    }))
}

/// The delta between two builds, whichever device they are of: their incremental versions say it.
fn delta(question: &DeltaQuestion, offers: &Offers, packages: &str, now: Timestamp) -> Value {
    let found = offers.devices().iter().filter(|device| device.expires > now).find_map(|device| {
        let source = device.source(&question.source_incremental)?;
        (0..device.channels.len()).find_map(|place| {
            let offered = device.offered(device.vouched(Wanted::Channel(place), now), Some(source));
            let offered =
                offered.into_iter().find(|offered| offered.build.incremental == question.target_incremental)?;
            entry(device, offered, packages)
        })
    });
    found.unwrap_or_else(|| json!({"errors": {"message": "Unable to find delta"}}))
}

fn entry(device: &Device, offered: crate::offer::Offered<'_>, packages: &str) -> Option<Value> {
    let name = device.codename.as_str();
    let entry = Entry { name, device, offered, package: offered.delta?, is_second: false, packages };
    let get = |field| entry.get(field);
    Some(json!({
        "date_created_unix": get(Field::Timestamp)?,
        "filename": get(Field::File)?,
        "download_url": get(Field::Url)?,
        "api_level": get(Field::Sdk).unwrap_or_else(|| 0.into()),
        "md5sum": "",
        "incremental": get(Field::Incremental)?,
    }))
}
