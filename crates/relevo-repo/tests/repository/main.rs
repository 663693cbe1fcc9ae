//! A repository on a real file system: publishing, checking, collecting garbage, and cutting the power.

#[cfg(test)]
mod publish;
#[cfg(test)]
mod support;
