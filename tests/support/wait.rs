//! Waiting for a condition.

use std::{
    thread,
    time::{Duration, Instant},
};

/// After this long a test says what it waited for, rather than hanging; nothing is measured with it.
pub const GUARD: Duration = Duration::from_secs(60);

/// Asks `probe` until it has an answer.
///
/// # Panics
/// When there is no answer after [`GUARD`], with `what` in the message.
pub fn wait_for<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    wait_at_most(GUARD, probe).unwrap_or_else(|| panic!("waited {GUARD:?} in vain for {what}"))
}

/// Asks `probe` until it has an answer or the time is over.
pub fn wait_at_most<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let began = Instant::now();
    loop {
        if let Some(answer) = probe() {
            return Some(answer);
        }
        let left = limit.checked_sub(began.elapsed())?;
        thread::park_timeout(left.min(Duration::from_micros(500)));
    }
}
