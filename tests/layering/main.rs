//! The rules of the house that a machine can check.

#[cfg(test)]
mod crates;
#[cfg(test)]
mod tidy;
#[cfg(test)]
mod workspace;
