//! A way to ask running work to end.

use std::{
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

type Hook = Box<dyn Fn() + Send>;

/// Set once, from a signal or a test; every wait ends then.
#[derive(Clone, Default)]
pub struct Stop(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    set: bool,
    hooks: Vec<Hook>,
}

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stop").field(&self.is_set()).finish()
    }
}

impl Stop {
    /// Not set.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all waits, now and from now on.
    pub fn set(&self) {
        let mut state = self.state();
        state.set = true;
        state.hooks.iter().for_each(|hook| hook());
        self.0.changed.notify_all();
    }

    /// Whether work should end.
    pub fn is_set(&self) -> bool {
        self.state().set
    }

    /// Also calls `hook` when set: it interrupts a read that is blocked.
    pub fn on_stop(&self, hook: impl Fn() + Send + 'static) {
        self.state().hooks.push(Box::new(hook));
    }

    /// Waits for `time`, or until set; says whether it is set.
    pub fn wait(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        let mut state = self.state();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if state.set || left.is_zero() {
                return state.set;
            }
            state = self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
