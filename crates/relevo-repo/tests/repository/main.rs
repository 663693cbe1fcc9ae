//! A repository on a real file system: publishing, checking, collecting garbage, and cutting the power.

#[cfg(test)]
mod check;
#[cfg(test)]
mod cut;
#[cfg(test)]
mod fleet;
#[cfg(test)]
mod gc;
#[cfg(test)]
mod log;
#[cfg(test)]
mod power;
#[cfg(test)]
mod publish;
#[cfg(test)]
mod push;
#[cfg(test)]
mod roles;
#[cfg(test)]
mod simulate;
#[cfg(test)]
mod support;
