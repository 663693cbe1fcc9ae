//! The `relevo` command for ROM maintainers.
