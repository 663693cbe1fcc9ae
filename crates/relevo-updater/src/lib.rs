//! The updater on the device: blocking, small, no async runtime.
