//! Signed metadata, tested through the crate's public face.

#[cfg(test)]
mod attacks;
#[cfg(test)]
mod authoring;
#[cfg(test)]
mod ceremony;
#[cfg(test)]
mod chunks;
#[cfg(test)]
mod crypto;
#[cfg(test)]
mod expiry;
#[cfg(test)]
mod http_signature;
#[cfg(test)]
mod log;
#[cfg(test)]
mod policy;
#[cfg(test)]
mod refresh;
#[cfg(test)]
mod search;
#[cfg(test)]
mod sizes;
#[cfg(test)]
mod stale;
