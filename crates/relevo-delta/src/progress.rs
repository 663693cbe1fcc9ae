//! Telling how far the work has come, and being told to stop.

use std::{
    fmt,
    ops::ControlFlow,
    time::{Duration, Instant},
};

use crate::DeltaError;

/// A stage of the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// Reading and hashing both builds.
    Scan,
    /// Matching and compressing.
    Match,
    /// Putting the package together.
    Write,
    /// Applying the package and comparing.
    Verify,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Scan => "reading both builds",
            Self::Match => "matching and compressing",
            Self::Write => "writing the package",
            Self::Verify => "applying it and comparing",
        })
    }
}

/// Is told how far the work has come; called from many threads.
pub trait Progress: Sync {
    /// A stage begins; it will take `total` bytes.
    fn start(&self, stage: Stage, total: u64);

    /// `bytes` more of the stage are done; [`ControlFlow::Break`] stops the work.
    fn advance(&self, bytes: u64) -> ControlFlow<()>;
}

/// Says nothing and never stops.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _stage: Stage, _total: u64) {}

    fn advance(&self, _bytes: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// [`Progress::advance`] as a `Result`.
pub(crate) fn advance(progress: &dyn Progress, bytes: u64) -> Result<(), DeltaError> {
    match progress.advance(bytes) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(DeltaError::Stopped),
    }
}

/// How long each stage took.
#[derive(Debug)]
pub(crate) struct Times {
    since: Instant,
    laps: Vec<(Stage, Duration)>,
}

impl Default for Times {
    fn default() -> Self {
        Self { since: Instant::now(), laps: Vec::new() }
    }
}

impl Times {
    pub(crate) fn lap(&mut self, stage: Stage) {
        let now = Instant::now();
        self.laps.push((stage, now - self.since));
        self.since = now;
    }

    pub(crate) fn finish(self) -> Vec<(Stage, Duration)> {
        self.laps
    }
}
