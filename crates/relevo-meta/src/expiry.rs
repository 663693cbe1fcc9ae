//! What will expire, said early enough: 60, 14 and 3 days before.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::trusted::RoleFile;

/// How much it matters that a role expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Level {
    /// Not yet.
    Fine,
    /// Within 60 days: time to bring people together.
    Notice,
    /// Within 14 days.
    Soon,
    /// Within 3 days.
    Urgent,
    /// Phones refuse it.
    Expired,
}

/// When a role expires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Expiry {
    /// The role.
    pub role: String,
    /// Its version.
    pub version: u64,
    /// When it expires.
    pub expires: Timestamp,
    /// Whole days from now; negative once it has expired.
    pub days_left: i64,
    /// How much it matters.
    pub level: Level,
}

/// When the roles of a state expire, the next one first.
///
/// The levels know how long a role lives at all: a timestamp lives for 7 days and is signed anew every day by a machine,
/// a snapshot for 60 and is signed anew when half of them have passed, so that neither is worth a word before that did not
/// happen. All others are signed by people.
pub fn expiries(roles: &BTreeMap<String, RoleFile>, now: Timestamp) -> Vec<Expiry> {
    let mut expiries: Vec<Expiry> = roles
        .iter()
        .map(|(role, file)| {
            let days_left = (file.expires.as_second() - now.as_second()).div_euclid(86_400);
            let level = match (role.as_str(), Level::of(days_left)) {
                ("timestamp", Level::Notice | Level::Soon) | ("snapshot", Level::Notice) => Level::Fine,
                (_, level) => level,
            };
            Expiry { role: role.clone(), version: file.version, expires: file.expires, days_left, level }
        })
        .collect();
    expiries.sort_by(|a, b| (a.expires, &a.role).cmp(&(b.expires, &b.role)));
    expiries
}

impl Level {
    fn of(days_left: i64) -> Self {
        match days_left {
            ..0 => Self::Expired,
            0..=3 => Self::Urgent,
            4..=14 => Self::Soon,
            15..=60 => Self::Notice,
            _ => Self::Fine,
        }
    }
}

impl Expiry {
    /// The warning that it deserves, with what to do; none while all is fine.
    pub fn warning(&self) -> Option<String> {
        let Self { role, days_left, .. } = self;
        let remedy = match role.as_str() {
            "root" => {
                "sign a new one with relevo refresh --role root, or by relevo ceremony start --renew root".to_owned()
            }
            "timestamp" | "snapshot" => "run relevo refresh every day".to_owned(),
            role => format!("sign it anew with relevo refresh --role {role}"),
        };
        match self.level {
            Level::Fine => None,
            Level::Notice => Some(format!("{role} expires in {days_left} days; {remedy}")),
            Level::Soon => Some(format!("{role} expires soon, in {days_left} days; {remedy}")),
            Level::Urgent => Some(format!("{role} EXPIRES within {} hours; {remedy}", (days_left + 1) * 24)),
            Level::Expired => Some(format!("{role} HAS EXPIRED, at {}; {remedy}", self.expires)),
        }
    }
}
