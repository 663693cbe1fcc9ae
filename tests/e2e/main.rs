//! The real programs together: from two builds to an updated phone, through kills, damage and bad mirrors.

#[cfg(test)]
mod ceremonies;
#[cfg(test)]
mod kills;
#[cfg(test)]
mod mirrors;
#[cfg(test)]
mod ota;
#[cfg(test)]
mod privacy;
#[cfg(test)]
mod push;
#[cfg(test)]
mod samples;
#[cfg(test)]
mod tamper;
#[cfg(test)]
mod walk;
#[cfg(test)]
mod world;
