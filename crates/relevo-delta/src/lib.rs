//! Chooses operations between two sets of images and writes the package.
