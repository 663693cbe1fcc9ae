//! Support for the tests of everything together.
