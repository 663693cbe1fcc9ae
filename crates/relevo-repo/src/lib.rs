//! The repository as plain files: publish atomically, list, collect garbage.
