//! The origin and the mirror over HTTP.
