//! Mirrors, ranked by what this phone saw of them.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// Weight of the newest observation; about the last four count.
const WEIGHT: f64 = 0.25;
/// What an unknown mirror is taken for, in milliseconds: better than a slow one, worse than a good one.
const UNKNOWN_LATENCY_MS: f64 = 800.0;

/// What was measured of a mirror.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Share of requests that succeeded, 0 to 1.
    pub success: f64,
    /// Time until an answer began, in milliseconds.
    pub latency_ms: Option<f64>,
}

impl Default for Measured {
    fn default() -> Self {
        Self { success: 1.0, latency_ms: None }
    }
}

#[derive(Debug)]
struct Mirror {
    url: String,
    measured: Measured,
    busy: u32,
    no_ranges: bool,
    failures: u32,
    aside: Option<String>,
}

/// All mirrors of a run, shared by its requests.
#[derive(Debug)]
pub struct Mirrors {
    list: Mutex<Vec<Mirror>>,
    retries: u32,
}

/// A mirror that was put aside, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aside {
    /// The mirror.
    pub mirror: String,
    /// What it did.
    pub reason: String,
}

/// A mirror while a request to it runs.
#[derive(Debug)]
pub struct Lease<'a> {
    mirrors: &'a Mirrors,
    index: usize,
    /// Its base address.
    pub url: String,
}

impl Mirrors {
    /// The mirrors in the order of the config, with what earlier runs measured. A mirror is put aside once it failed
    /// more than `retries` times in a row.
    pub fn new(urls: &[String], measured: &BTreeMap<String, Measured>, retries: u32) -> Self {
        let mirror = |url: &String| {
            let mut measured = measured.get(url).copied().unwrap_or_default();
            // Forgives a little with each run, so that a mirror that was down comes back.
            measured.success = (measured.success + 0.1).clamp(0.1, 1.0);
            Mirror { url: url.clone(), measured, busy: 0, no_ranges: false, failures: 0, aside: None }
        };
        Self { list: Mutex::new(urls.iter().map(mirror).collect()), retries }
    }

    fn list(&self) -> MutexGuard<'_, Vec<Mirror>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mirror to ask next; `None` if all are aside. `ranges`: whether parts of files are wanted.
    pub fn best(&self, ranges: bool) -> Option<Lease<'_>> {
        self.best_but(ranges, &[])
    }

    /// As [`Mirrors::best`], without those already tried.
    pub fn best_but(&self, ranges: bool, tried: &[String]) -> Option<Lease<'_>> {
        let mut list = self.list();
        let cost = |mirror: &Mirror| {
            let latency = mirror.measured.latency_ms.unwrap_or(UNKNOWN_LATENCY_MS).max(1.0);
            let busy = f64::from(1 + mirror.busy);
            let whole = if ranges && mirror.no_ranges { 100.0 } else { 1.0 };
            latency * busy * whole / mirror.measured.success.max(0.01).powi(3)
        };
        let (index, mirror) = list
            .iter_mut()
            .enumerate()
            .filter(|(_, mirror)| mirror.aside.is_none() && !tried.contains(&mirror.url))
            .min_by(|(_, a), (_, b)| cost(a).total_cmp(&cost(b)))?;
        mirror.busy += 1;
        Some(Lease { mirrors: self, index, url: mirror.url.clone() })
    }

    /// Those that were put aside in this run.
    pub fn aside(&self) -> Vec<Aside> {
        let aside = |mirror: &Mirror| {
            let reason = mirror.aside.clone()?;
            Some(Aside { mirror: mirror.url.clone(), reason })
        };
        self.list().iter().filter_map(aside).collect()
    }

    /// What is known now, for the next run.
    pub fn measured(&self) -> BTreeMap<String, Measured> {
        self.list().iter().map(|mirror| (mirror.url.clone(), mirror.measured)).collect()
    }
}

impl Lease<'_> {
    fn change(&self, change: impl FnOnce(&mut Mirror)) {
        change(&mut self.mirrors.list()[self.index]);
    }

    /// An answer began after `latency`.
    pub fn answered(&self, latency: Duration) {
        let latency = latency.as_secs_f64() * 1000.0;
        self.change(|mirror| {
            let old = mirror.measured.latency_ms.unwrap_or(latency);
            mirror.measured.latency_ms = Some(old + (latency - old) * WEIGHT);
        });
    }

    /// Bytes came that were right.
    pub fn progressed(&self) {
        self.change(|mirror| mirror.failures = 0);
    }

    /// A request ended well.
    pub fn succeeded(&self) {
        self.change(|mirror| {
            mirror.failures = 0;
            mirror.measured.success += (1.0 - mirror.measured.success) * WEIGHT;
        });
    }

    /// A request failed in a way that may pass; says how often in a row. Too often puts the mirror aside.
    pub fn failed(&self, reason: &str) -> u32 {
        let retries = self.mirrors.retries;
        let mut failures = 0;
        self.change(|mirror| {
            mirror.measured.success -= mirror.measured.success * WEIGHT;
            mirror.failures += 1;
            failures = mirror.failures;
            if failures > retries && mirror.aside.is_none() {
                tracing::warn!(mirror = mirror.url, reason, failures, "mirror put aside for this run");
                mirror.aside = Some(reason.to_owned());
            }
        });
        failures
    }

    /// The mirror did what a sound one never does: it is not asked again in this run.
    pub fn put_aside(&self, reason: &str) {
        self.change(|mirror| {
            mirror.measured.success -= mirror.measured.success * WEIGHT;
            if mirror.aside.is_none() {
                tracing::warn!(mirror = mirror.url, reason, "mirror put aside for this run");
                mirror.aside = Some(reason.to_owned());
            }
        });
    }

    /// The mirror sends whole files only.
    pub fn has_no_ranges(&self) {
        self.change(|mirror| mirror.no_ranges = true);
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.change(|mirror| mirror.busy -= 1);
    }
}

/// An error with its causes on one line, for reasons and logs.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some libraries print their cause themselves.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirrors() -> Mirrors {
        let urls = ["http://one/".to_owned(), "http://two/".to_owned()];
        Mirrors::new(&urls, &BTreeMap::new(), 1)
    }

    #[test]
    fn keeps_the_order_of_the_config_until_something_was_measured() {
        assert_eq!(mirrors().best(true).unwrap().url, "http://one/");
    }

    #[test]
    fn moves_on_from_a_slow_mirror_and_from_a_failing_one() {
        let slow = mirrors();
        slow.best(true).unwrap().answered(Duration::from_secs(3));
        assert_eq!(slow.best(true).unwrap().url, "http://two/");

        let failing = mirrors();
        failing.best(true).unwrap().failed("down");
        assert_eq!(failing.best(true).unwrap().url, "http://two/");
    }

    #[test]
    fn spreads_parallel_requests() {
        let mirrors = mirrors();

        let first = mirrors.best(true).unwrap();
        let second = mirrors.best(true).unwrap();

        assert_ne!(first.url, second.url);
    }

    #[test]
    fn never_asks_a_mirror_that_was_put_aside() {
        let mirrors = mirrors();
        mirrors.best(true).unwrap().put_aside("wrong chunk");
        assert_eq!(mirrors.best(true).unwrap().url, "http://two/");

        mirrors.best(true).unwrap().failed("down");
        mirrors.best(true).unwrap().failed("down");

        assert!(mirrors.best(true).is_none());
        assert_eq!(mirrors.aside().len(), 2);
    }

    #[test]
    fn prefers_mirrors_that_can_send_ranges() {
        let mirrors = mirrors();
        mirrors.best(true).unwrap().has_no_ranges();

        assert_eq!(mirrors.best(true).unwrap().url, "http://two/");
        assert_eq!(mirrors.best(false).unwrap().url, "http://one/");
    }
}
