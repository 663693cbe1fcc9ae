//! What the updater apps of ROMs ask, and what they are answered: one view of what a repository offers, told in each app's
//! words. No IO, no clock; the server asks with paths, and `relevo publish` asks what apps would refuse.
//!
//! Facts on the apps are of their sources: LineageOS `android_packages_apps_Updater` (the v1 app as of 2024-10, the v2 app
//! as of 2026-06), GrapheneOS `platform_packages_apps_Updater`, `chenxiaolong/Custota` 5, crDroid and Evolution X.
//!
//! # Examples
//! ```
//! use relevo_dialect::{BaseUrl, Offers, Parts, Site, Table};
//! # use relevo_meta::{Stored, testing::TestRepo};
//! # let mut repo = TestRepo::new();
//! # repo.add_device("xiaomi", "ginkgo");
//! # repo.publish();
//! # let state = repo.refresh(&repo.stored_root(), TestRepo::device_scope("xiaomi", "ginkgo"));
//! # let (trusted, now) = (state.result?, repo.now);
//! let offers = Offers::new(&trusted);
//! let site = Site { public: Some(BaseUrl::parse("https://ota.example")?), mirrors: Vec::new() };
//! let table = Table::built_in();
//!
//! let path = Parts::new("/api/v1/ginkgo/nightly/eng.7").expect("it is a short path");
//! let question = table.find(&path).expect("it is one of LineageOS's");
//! let key = question.key(&offers, now);
//! assert_eq!(question.answer(&key, &offers, &site)?, br#"{"response":[]}"#);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod answer;
mod lineage_ota;
mod lint;
mod offer;
mod page;
mod pattern;
mod shape;
mod site;
mod table;

pub use answer::{Key, NoAnswer, Question, What};
pub use lineage_ota::{BadQuestion, MAX_QUESTION, Posted};
pub use lint::{Warning, lint};
pub use offer::{Build, ChannelOffer, Device, Offered, Offers, Package, SourceId, Wanted};
pub use page::Page;
pub use pattern::{Captures, Parts, Pattern, PatternError};
pub use shape::{Field, ShapeError};
pub use site::{BaseUrl, BaseUrlError, Site};
pub use table::{Dialect, MAX_TABLE, Table, TableError};
