//! The commands, one file each.

pub(crate) mod ab;
pub(crate) mod ab_diff;
pub(crate) mod ab_sign;
pub(crate) mod ceremony;
pub(crate) mod delta;
pub(crate) mod device;
pub(crate) mod device_check;
pub(crate) mod device_guide;
pub(crate) mod generate;
pub(crate) mod import;
pub(crate) mod init;
pub(crate) mod key;
pub(crate) mod log;
pub(crate) mod offer;
pub(crate) mod ota;
pub(crate) mod publish;
pub(crate) mod publish_to;
pub(crate) mod refresh;
pub(crate) mod repo;
pub(crate) mod role;
