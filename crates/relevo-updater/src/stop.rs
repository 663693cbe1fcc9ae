//! A way to ask running work to end.

use std::{
    collections::BTreeMap,
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
    hooks: BTreeMap<u64, Hook>,
    next: u64,
}

/// A hook that is called as long as this is kept.
pub struct Hooked {
    stop: Stop,
    number: u64,
}

impl Drop for Hooked {
    fn drop(&mut self) {
        self.stop.state().hooks.remove(&self.number);
    }
}

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hooked").field(&self.number).finish()
    }
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
        state.hooks.values().for_each(|hook| hook());
        self.0.changed.notify_all();
    }

    /// Whether work should end.
    pub fn is_set(&self) -> bool {
        self.state().set
    }

    /// Also calls `hook` when set, or now if it is: it interrupts a read that is blocked. Ends with what is returned.
    #[must_use]
    pub fn on_stop(&self, hook: impl Fn() + Send + 'static) -> Hooked {
        let mut state = self.state();
        if state.set {
            hook();
        }
        let number = state.next;
        state.next += 1;
        state.hooks.insert(number, Box::new(hook));
        Hooked { stop: self.clone(), number }
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn calls_the_hooks_that_are_still_kept() {
        let stop = Stop::new();
        let called = Arc::new(AtomicU32::new(0));
        let add = |number: u32| {
            let called = called.clone();
            move || {
                called.fetch_add(number, Ordering::SeqCst);
            }
        };
        let dropped = stop.on_stop(add(1));
        let _kept = stop.on_stop(add(10));
        drop(dropped);

        stop.set();
        let _late = stop.on_stop(add(100));

        assert_eq!(called.load(Ordering::SeqCst), 110);
        assert!(stop.wait(Duration::from_secs(3600)));
    }
}
