//! What a package may ask of its reader, by name.
//!
//! A manifest opens with the names of all features that it uses, and refers to them by index from there on. A reader
//! refuses a package that names one it does not know, and says which: a later engine, transform, codec or kind of base
//! is a new name, not a new format.

macro_rules! features {
    ($(#[$doc:meta])* $kind:ident { $($(#[$variant_doc:meta])* $variant:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum $kind {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $kind {
            /// The feature's name in the manifest.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            pub(super) fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

features! {
    /// How the streams of a piece make target bytes.
    Engine {
        /// [`crate::ops`]: copy, add, insert, zero.
        Bsdiff = "engine/bsdiff",
    }
}
features! {
    /// How a stream is stored.
    Codec {
        /// As it is.
        Store = "codec/store",
        /// One zstd frame (RFC 8878).
        Zstd = "codec/zstd",
    }
}
features! {
    /// What a stream is to its engine.
    Role {
        /// The operations.
        Ops = "stream/ops",
        /// Differences to bytes of a base.
        Diff = "stream/diff",
        /// New bytes.
        Extra = "stream/extra",
    }
}
features! {
    /// What a base is.
    BaseKind {
        /// A whole partition of the source build.
        Source = "base/source",
    }
}

/// Whether a reader of this version knows the feature.
pub(super) fn is_known(name: &str) -> bool {
    Engine::from_name(name).is_some()
        || Codec::from_name(name).is_some()
        || Role::from_name(name).is_some()
        || BaseKind::from_name(name).is_some()
}
