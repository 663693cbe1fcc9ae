//! Sending the chunks that are missing: runs of them, several at once.
//!
//! A request that broke is not sent again as it was: what came of it is kept, so the origin is asked what it lacks now.

use std::{
    ops::ControlFlow,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use relevo_format::{FileAt, ReadAt};
use relevo_repo::push::Status;

use super::{File, Origin, PushError};
use crate::progress::Bars;

/// Most bytes of one request: large enough that its head does not count.
pub(super) const MAX_RUN: u64 = 1 << 20;
/// Fewest bytes of one request, on lines that break all the time.
pub(super) const MIN_RUN: u64 = 64 << 10;

/// Consecutive chunks of one file.
struct Run {
    target: usize,
    first: usize,
    last: usize,
    offset: u64,
    length: u64,
}

/// Sends everything that `status` misses, in requests of about `run` bytes; gives what broke, if something did that another
/// try may mend.
pub(super) fn all(
    origin: &Origin<'_>,
    status: &Status,
    files: &[&File],
    (parallel, run): (usize, u64),
    bars: &Bars<'_>,
) -> Result<Option<PushError>, PushError> {
    let runs = runs(status, files, run);
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<PushError>> = Mutex::new(None);
    let fail = |error| {
        failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    };
    thread::scope(|scope| {
        for _ in 0..parallel.min(runs.len()) {
            scope.spawn(|| {
                while failed.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
                    let Some(run) = runs.get(next.fetch_add(1, Ordering::SeqCst)) else { return };
                    match one(origin, status, files, run) {
                        Ok(()) => {
                            if let ControlFlow::Break(()) = bars.add(run.length) {
                                return fail(PushError::Stopped);
                            }
                        }
                        // It was started anew and forgot; the caller asks what it still has.
                        Err(PushError::Refused { code, .. }) if code == "no-session" || code == "no-such-part" => {
                            next.store(runs.len(), Ordering::SeqCst);
                        }
                        Err(error) => return fail(error),
                    }
                }
            });
        }
    });
    let broke = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    match broke {
        Some(error) if !error.is_break() => Err(error),
        broke => Ok(broke),
    }
}

fn one(origin: &Origin<'_>, status: &Status, files: &[&File], run: &Run) -> Result<(), PushError> {
    let path = &files[run.target].path;
    let failed = |source| PushError::Read { path: path.clone(), source };
    let mut bytes = vec![0; usize::try_from(run.length).expect("a run has a megabyte or one chunk")];
    FileAt::open(path).and_then(|file| file.read_exact_at(&mut bytes, run.offset)).map_err(failed)?;
    let Run { target, first, last, .. } = run;
    origin.put_once(&format!("sessions/{}/targets/{target}/chunks/{first}-{last}", status.session), &bytes)
}

/// The missing chunks in runs of about so many bytes.
fn runs(status: &Status, files: &[&File], most: u64) -> Vec<Run> {
    let mut runs = Vec::new();
    for (number, target) in status.targets.iter().enumerate() {
        let chunks = files[number].cut.chunks();
        for (first, count) in &target.missing {
            let (first, end) = (*first as usize, first.saturating_add(*count) as usize);
            let mut open: Option<Run> = None;
            // What the origin says is held against what there is.
            for (index, chunk) in chunks.iter().enumerate().take(end).skip(first) {
                let length = u64::from(chunk.length);
                match &mut open {
                    Some(run) if run.length + length <= most => {
                        run.last = index;
                        run.length += length;
                    }
                    _ => runs.extend(open.replace(Run {
                        target: number,
                        first: index,
                        last: index,
                        offset: chunk.offset,
                        length,
                    })),
                }
            }
            runs.extend(open);
        }
    }
    runs
}
