//! Bytes of packages and images: parse, emit, check, apply one piece.
