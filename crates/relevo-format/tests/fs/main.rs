//! File systems in images, through the crate's public face.
#![expect(clippy::unwrap_used, reason = "fixtures are tests too")]

mod damage;
mod erofs;
mod ext4;
mod fixture;
mod golden;
