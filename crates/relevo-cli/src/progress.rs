//! Progress bars, and stopping at Ctrl-C.

use std::{
    ops::ControlFlow,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use relevo_delta::{Progress, Stage};

/// Shows how far work has come, where somebody looks; stops it when somebody asked.
pub(crate) struct Bars<'a> {
    shown: bool,
    stop: &'a AtomicBool,
    /// What the bar says first: `ginkgo 100 to 101`.
    subject: String,
    bar: Mutex<Option<ProgressBar>>,
}

impl<'a> Bars<'a> {
    pub(crate) fn new(shown: bool, stop: &'a AtomicBool, subject: impl Into<String>) -> Self {
        Self { shown, stop, subject: subject.into(), bar: Mutex::new(None) }
    }

    /// Starts a step of `total` bytes.
    pub(crate) fn step(&self, what: &str, total: u64) {
        if !self.shown {
            return;
        }
        let style = ProgressStyle::with_template("{msg} [{bar:24}] {bytes}/{total_bytes} {eta}")
            .expect("the template is valid")
            .progress_chars("=> ");
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr()).with_style(style);
        bar.set_message(format!("{}: {what}", self.subject));
        let mut slot = self.bar.lock().expect("no thread panics while it holds the bar");
        if let Some(old) = slot.replace(bar) {
            old.finish_and_clear();
        }
    }

    /// Counts bytes; breaks if the user asked to stop.
    pub(crate) fn add(&self, bytes: u64) -> ControlFlow<()> {
        if self.shown
            && let Some(bar) = &*self.bar.lock().expect("no thread panics while it holds the bar")
        {
            bar.inc(bytes);
        }
        if self.stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl Drop for Bars<'_> {
    fn drop(&mut self) {
        if let Ok(mut slot) = self.bar.lock()
            && let Some(bar) = slot.take()
        {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Bars<'_> {
    fn start(&self, stage: Stage, total: u64) {
        self.step(&stage.to_string(), total);
    }

    fn advance(&self, bytes: u64) -> ControlFlow<()> {
        self.add(bytes)
    }
}
