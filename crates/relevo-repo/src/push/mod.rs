//! Publishing from afar: what a maintainer's machine sends, and how an origin takes it in.
//!
//! A maintainer signs the role of a device at home and sends it with the files that it lists. The origin says which
//! chunks of those files it lacks; they come in any order, each checked against the list of chunks, into a part file
//! that is the file once all are there. Then the origin checks the file's own hash, verifies the roles as phones would,
//! signs snapshot and timestamp, and commits. [`Intake`] is the origin's side; [`Manifest`], [`Status`], [`Receipt`] and
//! [`CutList`] are what goes over the wire.
//!
//! # Layout
//! ```text
//! accounts/<name>.toml               who may publish which devices, with which keys
//! staging/<account>/<sha256>.part    a file that is being filled
//! staging/<account>/<sha256>.cut     a list of chunks that was sent, named by its own hash
//! cuts/<sha256>.cut                  how a published file was cut, named by that file's hash
//! audit/log.jsonl                    who published what, one line each, appended
//! audit/pending.json                 a publication whose line may be missing
//! ```

mod account;
mod audit;
mod cut;
mod error;
mod intake;
mod part;
mod wire;

pub use self::{
    account::{Account, AccountError, AccountName, Accounts},
    audit::{AuditLine, AuditRole, AuditTarget},
    cut::{Chunk, CutError, CutList, MAX_CHUNK, MAX_CHUNKS, MAX_LIST},
    error::IntakeError,
    intake::{Intake, Limits, Run},
    wire::{Manifest, ManifestRole, ManifestTarget, PROTOCOL, Receipt, ReceiptRole, State, Status, TargetStatus},
};
