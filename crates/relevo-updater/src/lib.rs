//! The updater on the device: blocking, small, no async runtime.
//!
//! A poll verifies signed metadata ([`trust`]), decides on the phone what fits it, downloads it in checked chunks from
//! any mirrors ([`download`]), writes it to the slot that does not run ([`install`]), and lets the bootloader try it
//! ([`boot`]). What is under way is in [`state`]; [`updater`] puts it together. `docs/phone-guide.md` is for users.
//!
//! Only `main.rs` reads clock, environment and randomness; every change of the disk goes through [`storage`], so that
//! tests can cut the power at each of them.
//!
//! # Examples
//! ```
//! use relevo_updater::boot::{BootControl, Slot, SlotState};
//!
//! let mut control = BootControl::factory(Slot::A);
//! control.set(Slot::B, SlotState::trial(3));
//! control.active = Slot::B;
//!
//! assert!(control.trial_pending());
//! assert_eq!(BootControl::decode(&control.encode()), Some(control));
//! ```

pub mod boot;
pub mod config;
pub mod download;
pub mod factory;
pub mod http;
pub mod install;
pub mod mirror;
pub mod state;
pub mod stop;
pub mod storage;
pub mod transparency;
pub mod trust;
pub mod updater;

pub use config::Config;
pub use updater::{Environment, Updater};
