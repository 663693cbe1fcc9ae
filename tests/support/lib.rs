//! What the end-to-end tests stand on: real programs, pretend phones, images, and servers that misbehave.
//!
//! Everything here belongs to the one test that made it: a directory of its own, ports that the system chose, child
//! processes that end with it. Nothing waits for a time; see [`wait`].

pub mod corpus;
pub mod http;
pub mod images;
pub mod maintainer;
pub mod phone;
pub mod program;
pub mod proxy;
pub mod random;
pub mod sparse;
pub mod wait;
