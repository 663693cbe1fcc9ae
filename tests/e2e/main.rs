//! The real programs together: from two builds to an updated phone.
