//! What a document changes, in words. Everything that differs is said: what has no sentence of its own is shown as it
//! stands.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use relevo_types::ByteLen;
use serde_json::{Map, Value};

use super::shape::Kind;
use crate::refresh::{GRACE_FIELD, LOG_FIELD, ROOT_FIELD};

/// Most targets of a device that are listed one by one.
const MAX_LISTED: usize = 200;
/// Longest value that is shown as it stands, in characters.
const MAX_SHOWN: usize = 300;

/// What is said about a document.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) changes: Vec<String>,
    pub(super) warnings: Vec<String>,
}

/// Explains how `new` differs from `old`.
pub(super) fn explain(
    kind: &Kind,
    old: Option<&Map<String, Value>>,
    new: &Map<String, Value>,
    names: &BTreeMap<String, String>,
    now: Timestamp,
) -> Said {
    let empty = Map::new();
    let mut words = Words { old: old.unwrap_or(&empty), new, names, said: Said::default() };
    words.date(old.is_none(), now);
    let mut told: Vec<&str> = vec!["_type", "version", "expires"];
    match kind {
        Kind::Root => {
            words.root_roles();
            words.root_settings();
            told.extend(["roles", "keys", ROOT_FIELD]);
        }
        Kind::Targets | Kind::Vendor(_) => {
            words.delegations();
            told.extend(["delegations"]);
        }
        Kind::Device(..) | Kind::Nightly(..) => {
            words.delegations();
            words.targets();
            told.extend(["delegations", "targets"]);
        }
    }
    words.rest(&told);
    if words.said.changes.len() == 1 && old.is_some() {
        words.said.changes.push("nothing else changes: it is signed anew".to_owned());
    }
    words.said
}

struct Words<'a> {
    old: &'a Map<String, Value>,
    new: &'a Map<String, Value>,
    names: &'a BTreeMap<String, String>,
    said: Said,
}

/// What a role is given: its keys and how many of them sign.
#[derive(Debug, Default, PartialEq)]
struct Given {
    ids: BTreeSet<String>,
    threshold: u64,
}

impl Words<'_> {
    fn say(&mut self, text: impl Into<String>) {
        self.said.changes.push(text.into());
    }

    fn warn(&mut self, text: impl Into<String>) {
        self.said.warnings.push(text.into());
    }

    fn key(&self, id: &str) -> String {
        match self.names.get(id) {
            Some(name) => format!("{id} ({name})"),
            None => format!("{id} (not known here)"),
        }
    }

    fn date(&mut self, is_new: bool, now: Timestamp) {
        let date = |from: &Map<String, Value>| -> Option<Timestamp> { from.get("expires")?.as_str()?.parse().ok() };
        let Some(expires) = date(self.new) else { return };
        let days = (expires.as_second() - now.as_second()).div_euclid(86_400);
        let until = match date(self.old).filter(|_| !is_new) {
            Some(old) if old != expires => format!("valid until {expires} ({days} days), so far until {old}"),
            _ => format!("valid until {expires} ({days} days)"),
        };
        self.say(until);
        if days > 800 {
            self.warn(format!("it would be valid for {days} days; a stolen key would count for as long"));
        }
    }

    fn root_roles(&mut self) {
        let given = |from: &Map<String, Value>, role: &str| {
            from.get("roles").and_then(|roles| roles.get(role)).map(read_given).unwrap_or_default()
        };
        for role in ["root", "targets", "snapshot", "timestamp"] {
            let (old, new) = (given(self.old, role), given(self.new, role));
            self.keys(role, Some(&old), &new);
            if role == "root" && new.threshold == 1 && new.ids.len() > 1 {
                self.warn("each of the root's keys alone could replace all others".to_owned());
            }
        }
    }

    /// What the root says of Relevo's own: each setting by itself, so that none hides behind a long one.
    fn root_settings(&mut self) {
        let settings = |from: &Map<String, Value>| match from.get(ROOT_FIELD) {
            Some(Value::Object(settings)) => settings.clone(),
            Some(other) => Map::from_iter([("(no object)".to_owned(), other.clone())]),
            None => Map::new(),
        };
        let (old, new) = (settings(self.old), settings(self.new));
        let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
        for name in names.into_iter().filter(|name| old.get(*name) != new.get(*name)) {
            let said = |value: Option<&Value>, none: &str| value.map_or(none.to_owned(), shown);
            let (now, before) = (new.get(name), old.get(name));
            match name.as_str() {
                GRACE_FIELD => self.say(format!(
                    "days for which an offline copy counts after its date: {}, so far {}",
                    said(now, "0"),
                    said(before, "0")
                )),
                LOG_FIELD => self.say(format!(
                    "key of the transparency log: {}, so far {}",
                    said(now, "none"),
                    said(before, "none")
                )),
                _ => self.say(format!(
                    "setting {} of {ROOT_FIELD}: {}, so far {}",
                    shown(&Value::from(name.as_str())),
                    said(now, "not there"),
                    said(before, "not there")
                )),
            }
            if name == LOG_FIELD && now.is_none() {
                self.warn("phones that ask for the transparency log would install nothing unattended".to_owned());
            }
        }
    }

    fn delegations(&mut self) {
        let roles = |from: &Map<String, Value>| -> Vec<(String, Given)> {
            let roles = from.get("delegations").and_then(|delegations| delegations.get("roles"));
            let roles = roles.and_then(Value::as_array).into_iter().flatten();
            roles.map(|role| (text(role.get("name")), read_given(role))).collect()
        };
        let (old, new) = (roles(self.old), roles(self.new));
        let paths: BTreeMap<String, String> = self
            .new
            .get("delegations")
            .and_then(|delegations| delegations.get("roles"))
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(|role| (text(role.get("name")), shown(role.get("paths").unwrap_or(&Value::Null))))
            .collect();
        for (name, given) in &new {
            match old.iter().find(|(known, _)| known == name) {
                Some((_, before)) => self.keys(name, Some(before), given),
                None => {
                    let paths = paths.get(name).map_or("", String::as_str);
                    self.say(format!("the role {name} is new; it speaks for {paths} and nothing else"));
                    self.keys(name, None, given);
                }
            }
        }
        for (name, _) in &old {
            if !new.iter().any(|(known, _)| known == name) {
                self.say(format!("the role {name} ends: nothing that it signs counts any more"));
            }
        }
        let order = |roles: &[(String, Given)], other: &[(String, Given)]| -> Vec<String> {
            let both = |name: &String| other.iter().any(|(known, _)| known == name);
            roles.iter().map(|(name, _)| name).filter(|name| both(name)).cloned().collect()
        };
        if order(&old, &new) != order(&new, &old) {
            self.say("the roles are asked in another order".to_owned());
        }
    }

    fn keys(&mut self, role: &str, old: Option<&Given>, new: &Given) {
        let none = Given::default();
        let before = old.unwrap_or(&none);
        for id in new.ids.difference(&before.ids) {
            let key = self.key(id);
            self.say(format!("{role}: key {key} may sign"));
        }
        for id in before.ids.difference(&new.ids) {
            let key = self.key(id);
            self.say(format!("{role}: key {key} may no longer sign"));
        }
        let (count, before_count) = (new.ids.len(), before.ids.len());
        if old.is_none() {
            self.say(format!("{role}: {} of {count} keys sign", new.threshold));
        } else if new.threshold != before.threshold || count != before_count {
            let (so_far, threshold) = (before.threshold, new.threshold);
            self.say(format!("{role}: {threshold} of {count} keys sign, so far {so_far} of {before_count}"));
        }
        if old.is_some() && new.threshold < before.threshold {
            self.warn(format!("{role}: fewer people are enough than before"));
        }
        if old.is_some() && !before.ids.is_empty() && new.ids.is_disjoint(&before.ids) {
            self.warn(format!("{role}: none of the keys so far stays"));
        }
    }

    fn targets(&mut self) {
        let empty = Map::new();
        let targets = |from: &'_ Map<String, Value>| from.get("targets").and_then(Value::as_object).cloned();
        let (old, new) = (targets(self.old).unwrap_or_default(), targets(self.new).unwrap_or(empty));
        let mut lines = Vec::new();
        for (path, entry) in &new {
            match old.get(path) {
                None => lines.push(format!("{path} is offered: {}", described(entry))),
                Some(before) if before != entry => {
                    let same = |name: &str| before.get(name) == entry.get(name);
                    if same("length") && same("hashes") {
                        lines.extend(changed_fields(path, before.get("custom"), entry.get("custom")));
                    } else {
                        lines.push(format!("{path} becomes another file: {}", described(entry)));
                    }
                }
                Some(_) => {}
            }
        }
        lines.extend(
            old.keys().filter(|path| !new.contains_key(*path)).map(|path| format!("{path} is no longer offered")),
        );
        let more = lines.len().saturating_sub(MAX_LISTED);
        lines.truncate(MAX_LISTED);
        self.said.changes.extend(lines);
        if more > 0 {
            self.warn(format!("{more} more files change than are listed here"));
        }
    }

    /// Fields that have no sentence of their own.
    fn rest(&mut self, told: &[&str]) {
        let names: BTreeSet<&String> = self.old.keys().chain(self.new.keys()).collect();
        for name in names.into_iter().filter(|name| !told.contains(&name.as_str())) {
            let (old, new) = (self.old.get(name), self.new.get(name));
            if old == new || (old.is_none() && is_plain(name, new)) {
                continue;
            }
            let said = |value: Option<&Value>| value.map_or("not there".to_owned(), shown);
            let text = format!("field {}: {}, so far {}", shown(&Value::from(name.as_str())), said(new), said(old));
            self.say(text);
        }
    }
}

/// What every new file has.
fn is_plain(name: &str, value: Option<&Value>) -> bool {
    match name {
        "spec_version" | "consistent_snapshot" => true,
        "targets" => value.and_then(Value::as_object).is_some_and(Map::is_empty),
        _ => false,
    }
}

fn read_given(role: &Value) -> Given {
    let ids = role.get("keyids").and_then(Value::as_array).into_iter().flatten();
    Given {
        ids: ids.map(|id| text(Some(id))).collect(),
        threshold: role.get("threshold").and_then(Value::as_u64).unwrap_or(0),
    }
}

/// A package or another file.
fn described(entry: &Value) -> String {
    let field = |name: &str| entry.get("custom").and_then(|custom| custom.get(name));
    let length = entry.get("length").and_then(Value::as_u64).unwrap_or(0);
    let sha256 = text(entry.get("hashes").and_then(|hashes| hashes.get("sha256")));
    let what = match (field("kind").and_then(Value::as_str), field("to")) {
        (Some("chunks"), _) => "chunk list".to_owned(),
        (Some(kind), Some(to)) => {
            let from = field("from").map_or("any build".to_owned(), |from| format!("build {}", text(Some(from))));
            let mut what = format!("{kind} package from {from} to build {}", text(Some(to)));
            if let Some(rollout) = field("rollout").and_then(Value::as_u64).filter(|rollout| *rollout != 100) {
                what += &format!(", to {rollout} % of phones");
            }
            if field("withdrawn") == Some(&Value::Bool(true)) {
                what += ", withdrawn";
            }
            what
        }
        _ => "file".to_owned(),
    };
    format!("{what}, {}, SHA-256 {sha256}", ByteLen::new(length).human())
}

fn changed_fields(path: &str, old: Option<&Value>, new: Option<&Value>) -> Vec<String> {
    let empty = Map::new();
    let fields = |value: Option<&Value>| value.and_then(Value::as_object).cloned();
    let (old, new) = (fields(old).unwrap_or_else(|| empty.clone()), fields(new).unwrap_or(empty));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let changed = names.into_iter().filter(|name| old.get(*name) != new.get(*name));
    let said = |value: Option<&Value>| value.map_or("nothing".to_owned(), shown);
    let lines: Vec<String> = changed
        .map(|name| {
            format!(
                "{path}: {} is {}, so far {}",
                text(Some(&Value::from(name.as_str()))),
                said(new.get(name)),
                said(old.get(name))
            )
        })
        .collect();
    if lines.is_empty() { vec![format!("{path}: it is described in another form")] } else { lines }
}

/// A text from outside, fit for a terminal.
fn text(value: Option<&Value>) -> String {
    let text = value.and_then(Value::as_str).unwrap_or("?");
    text.chars().map(fit).take(MAX_SHOWN).collect()
}

/// Any value as JSON, which escapes what a terminal would obey.
fn shown(value: &Value) -> String {
    let json = value.to_string();
    let mut shown: String = json.chars().map(fit).take(MAX_SHOWN).collect();
    if json.chars().count() > MAX_SHOWN {
        shown.push('…');
    }
    shown
}

/// Nothing that moves the cursor, and nothing that turns the direction of what stands beside it.
fn fit(c: char) -> char {
    let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if c.is_control() || turns { '?' } else { c }
}
