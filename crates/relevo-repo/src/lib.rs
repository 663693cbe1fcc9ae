//! The repository as plain files: publish atomically, list, check, collect garbage.
//!
//! A repository is a directory that any web server, bucket or USB stick can carry: `metadata/` with signed files,
//! `targets/` with the files that they vouch for, and `log/`, the transparency log of those signed files. A [`Publication`] writes new files beside the old ones and commits by
//! one rename, that of `timestamp.json`; before it, the new state has been verified as a phone would. So a cut at any
//! moment leaves the old state or the new one, and what else was left behind is removed by the next publication.
//!
//! # Layout
//! ```text
//! metadata/timestamp.json, N.snapshot.json, N.root.json, N.targets.json, N.v-<vendor>.json, N.d-<codename>.json
//! targets/<vendor>/<codename>/<channel>/<sha256>.<file>
//! log/checkpoint, log/tile/<level>/<n>, log/tile/entries/<n>, log/proof/<version>.<role>.tlog-proof
//! log/.signed    the checkpoint that was signed last, before anybody may see it
//! .lock          held by whoever writes
//! .publishing    there while a publication is under way, and after one that was cut
//! .rotating      a new root and its timestamp, until both are in place
//! .tmp-<name>    in any directory: a file that is being written
//! ```
//!
//! # Examples
//! ```no_run
//! use relevo_repo::Repository;
//!
//! # fn example(signers: relevo_repo::Signers, custom: relevo_meta::Custom, now: jiff::Timestamp)
//! #     -> Result<(), Box<dyn std::error::Error>> {
//! let repository = Repository::open("repo".as_ref())?;
//! let mut publication = repository.publication()?;
//! let path = "xiaomi/ginkgo/stable/ginkgo-101-full.rvp".parse()?;
//! publication.add_package(&path, "packages/ginkgo-101-full.rvp".as_ref(), &custom)?;
//! publication.commit(&signers, now)?;
//! # Ok(())
//! # }
//! ```

mod check;
mod error;
mod gc;
mod layout;
mod log;
mod publication;
pub mod push;
mod repository;
mod signers;
mod simulate;
mod storage;

pub use check::{Fault, Problem, Report};
pub use error::RepoError;
pub use gc::GcReport;
pub use log::{LOG_SIGNER, Log, Seen, Watch, WatchError};
pub use publication::{Added, Need, Publication, Published, RoleState};
pub use relevo_meta::author::RoleKeys;
pub use repository::{Expiries, NewRepository, Repository};
pub use signers::Signers;
pub use simulate::PhoneFault;
pub use storage::{Hook, Operation};
