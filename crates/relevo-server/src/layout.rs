//! Which request paths name a file of the repository, and opening that file safely.
//!
//! Only three shapes of path are served: `metadata/<file>`, `targets/<vendor>/<codename>/<channel>/<file>`, and the names
//! of C2SP tlog-tiles below `log/`. Every
//! part is checked against the alphabet of names, none of which can start with a dot, so hidden files, temporary
//! files and `..` are no names here and never reach the file system.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use relevo_types::{Codename, Sha256, TargetPath, Vendor};
use rustix::fs::{Mode, OFlags, ResolveFlags};

/// Longest request path that we look at, in bytes; the longest one that the layout allows has 364.
const MAX_PATH: usize = 1024;

/// Longest name of a role; `d-` and a codename of 48 characters, with room for `-nightly`.
const MAX_ROLE: usize = 96;

/// A file of the repository, as named by a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RepoFile {
    /// `metadata/timestamp.json`, the one file whose bytes change under its name.
    Timestamp,
    /// `metadata/<version>.<role>.json`.
    Metadata {
        /// `<version>.<role>`.
        stem: String,
    },
    /// A file of the transparency log: `log/checkpoint`, `log/tile/<level>/<n>`, `log/tile/entries/<n>`, both also
    /// `<n>.p/<width>`, `log/proof/<version>.<role>.tlog-proof`.
    Log {
        /// The path below `log/`.
        path: String,
    },
    /// `targets/<vendor>/<codename>/<channel>/<sha256>.<file>`.
    Target {
        /// The path that the metadata names.
        path: TargetPath,
        /// The digest in the file's name.
        sha256: Sha256,
    },
}

impl RepoFile {
    /// Parses the raw (still percent-encoded) part of a request path after `/repo/`.
    ///
    /// A path is decoded once, part by part, after it was split: an encoded slash or dot can therefore never make
    /// another path. `None` is what the layout does not know.
    pub fn parse(raw: &str) -> Option<Self> {
        if raw.len() > MAX_PATH {
            return None;
        }
        let mut parts = raw.split('/');
        let level = decode(parts.next()?)?;
        let rest = parts.map(decode).collect::<Option<Vec<_>>>()?;
        match (level.as_str(), rest.as_slice()) {
            ("metadata", [file]) => Self::metadata(file),
            ("log", parts) if is_log(parts) => Some(Self::Log { path: parts.join("/") }),
            ("targets", [vendor, codename, channel, file]) => {
                let (sha256, name) = file.split_once('.')?;
                // One spelling for each file: a digest in upper case would be a second URL of the same bytes.
                if sha256.bytes().any(|byte| byte.is_ascii_uppercase()) {
                    return None;
                }
                let sha256 = Sha256::parse(sha256).ok()?;
                let path = TargetPath::parse(&format!("{vendor}/{codename}/{channel}/{name}")).ok()?;
                Some(Self::Target { path, sha256 })
            }
            _ => None,
        }
    }

    /// Whether the bytes under this name never change. A proof does when the log gets another key.
    pub fn is_immutable(&self) -> bool {
        match self {
            Self::Timestamp => false,
            Self::Log { path } => path.starts_with("tile/"),
            Self::Metadata { .. } | Self::Target { .. } => true,
        }
    }

    fn metadata(file: &str) -> Option<Self> {
        if file == "timestamp.json" {
            return Some(Self::Timestamp);
        }
        let stem = file.strip_suffix(".json")?;
        let (version, role) = stem.split_once('.')?;
        let number = !version.is_empty()
            && version.len() <= 10
            && !version.starts_with('0')
            && version.bytes().all(|byte| byte.is_ascii_digit());
        let known = match role.split_once('-') {
            _ if role.len() > MAX_ROLE => false,
            None => matches!(role, "root" | "targets" | "snapshot"),
            Some(("v", vendor)) => Vendor::parse(vendor).is_ok(),
            Some(("d", rest)) => role_name(rest),
            Some(_) => false,
        };
        (number && known).then(|| Self::Metadata { stem: stem.to_owned() })
    }

    /// Where the file lies below the repository's root.
    pub fn path(&self) -> PathBuf {
        match self {
            Self::Timestamp => PathBuf::from("metadata/timestamp.json"),
            Self::Metadata { stem } => PathBuf::from(format!("metadata/{stem}.json")),
            Self::Log { path } => Path::new("log").join(path),
            Self::Target { path, sha256 } => Path::new("targets").join(path.consistent(sha256)),
        }
    }
}

/// Whether these are the parts of a name below `log/`, C2SP tlog-tiles.
fn is_log(parts: &[String]) -> bool {
    let digits =
        |text: &str, most: usize| (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    let three = |text: &str| text.len() == 3 && digits(text, 3);
    // Four groups of three are a million million tiles.
    let groups =
        |parts: &[&str]| parts.len() <= 4 && parts.iter().all(|part| part.strip_prefix('x').is_some_and(three));
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    match parts.as_slice() {
        ["checkpoint"] => true,
        ["proof", file] => file
            .strip_suffix(".tlog-proof")
            .is_some_and(|stem| matches!(RepoFile::metadata(&format!("{stem}.json")), Some(RepoFile::Metadata { .. }))),
        ["tile", level, rest @ .., tile, width] if tile.ends_with(".p") => {
            let tile = tile.strip_suffix(".p").unwrap_or(tile);
            (digits(level, 2) || *level == "entries") && groups(rest) && three(tile) && digits(width, 3)
        }
        ["tile", level, rest @ .., tile] => (digits(level, 2) || *level == "entries") && groups(rest) && three(tile),
        _ => false,
    }
}

/// A codename, alone or with a suffix such as `-nightly`, which may make it longer than a codename.
fn role_name(text: &str) -> bool {
    Codename::parse(text).is_ok()
        || text.rsplit_once('-').is_some_and(|(name, suffix)| {
            Codename::parse(name).is_ok() && !suffix.is_empty() && suffix.bytes().all(|b| b.is_ascii_lowercase())
        })
}

/// Undoes percent-encoding; `None` for a broken escape or what is not UTF-8.
fn decode(part: &str) -> Option<String> {
    if !part.contains('%') {
        return Some(part.to_owned());
    }
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high << 4 | low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// The directory that is served, found anew for each request so that it may appear or be replaced at any time.
#[derive(Debug, Clone)]
pub struct Root {
    configured: PathBuf,
}

impl Root {
    /// Takes the directory from the settings: a maintainer's directory (as `relevo init` makes it) or the public
    /// repository alone.
    pub fn new(configured: impl Into<PathBuf>) -> Self {
        Self { configured: configured.into() }
    }

    /// The directory as it was configured.
    pub fn configured(&self) -> &Path {
        &self.configured
    }

    /// The public repository: `repo/` of a maintainer's directory, or else the directory itself.
    ///
    /// A public repository holds only `metadata` and `targets`, so the two cannot be confused.
    pub fn public(&self) -> PathBuf {
        let inner = self.configured.join("repo");
        if inner.is_dir() { inner } else { self.configured.clone() }
    }

    /// Opens a regular file of the repository for reading. Blocking.
    ///
    /// # Errors
    /// The error of the operating system; [`is_absent`] tells which of them mean "no such file". A symlink that
    /// leads out of the repository, a directory and a device are such errors.
    pub fn open(&self, file: &RepoFile) -> io::Result<File> {
        // NONBLOCK, or else somebody's FIFO would hold a thread for ever; regular files ignore it.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let root = self.public();
        let directory = rustix::fs::open(&root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let opened = match rustix::fs::openat2(&directory, file.path(), flags, Mode::empty(), resolve) {
            // Kernels before 5.6, and sandboxes that do not know the call.
            Err(rustix::io::Errno::NOSYS) => open_canonical(&root, &file.path(), flags)?,
            other => File::from(other?),
        };
        if !opened.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "not a regular file"));
        }
        Ok(opened)
    }
}

/// The same promise as `openat2` with `RESOLVE_BENEATH` as long as nobody swaps directories in between.
fn open_canonical(root: &Path, file: &Path, flags: OFlags) -> io::Result<File> {
    let root = root.canonicalize()?;
    let path = root.join(file).canonicalize()?;
    if !path.starts_with(&root) {
        return Err(rustix::io::Errno::XDEV.into());
    }
    Ok(rustix::fs::open(&path, flags | OFlags::NOFOLLOW, Mode::empty())?.into())
}

/// Whether an error of [`Root::open`] means that there is no such file, as opposed to trouble with the disk.
pub fn is_absent(error: &io::Error) -> bool {
    use rustix::io::Errno;
    error.kind() == io::ErrorKind::NotFound
        || [Errno::NOTDIR, Errno::LOOP, Errno::XDEV, Errno::NAMETOOLONG, Errno::NXIO, Errno::ISDIR]
            .iter()
            .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn knows_the_two_levels_of_the_layout() {
        for (raw, path) in [
            ("metadata/timestamp.json".to_owned(), "metadata/timestamp.json".to_owned()),
            ("metadata/1.root.json".to_owned(), "metadata/1.root.json".to_owned()),
            ("metadata/12.v-xiaomi.json".to_owned(), "metadata/12.v-xiaomi.json".to_owned()),
            ("metadata/3.d-SM-A520F.json".to_owned(), "metadata/3.d-SM-A520F.json".to_owned()),
            ("metadata/3.d-ginkgo-nightly.json".to_owned(), "metadata/3.d-ginkgo-nightly.json".to_owned()),
            ("metadata/%31.root.json".to_owned(), "metadata/1.root.json".to_owned()),
            ("log/checkpoint".to_owned(), "log/checkpoint".to_owned()),
            ("log/tile/0/x001/234".to_owned(), "log/tile/0/x001/234".to_owned()),
            ("log/tile/entries/000.p/7".to_owned(), "log/tile/entries/000.p/7".to_owned()),
            ("log/proof/12.d-ginkgo.tlog-proof".to_owned(), "log/proof/12.d-ginkgo.tlog-proof".to_owned()),
            (
                format!("targets/xiaomi/ginkgo/stable/{HASH}.a%2Bb.rvp"),
                format!("targets/xiaomi/ginkgo/stable/{HASH}.a+b.rvp"),
            ),
        ] {
            let file = RepoFile::parse(&raw);

            assert_eq!(file.map(|file| file.path()), Some(PathBuf::from(path)), "{raw}");
        }
    }

    #[test]
    fn knows_nothing_else() {
        let targets = |rest: &str| format!("targets/xiaomi/ginkgo/stable/{rest}");
        for raw in [
            String::new(),
            "/".into(),
            "metadata".into(),
            "metadata/".into(),
            "metadata//timestamp.json".into(),
            "/metadata/timestamp.json".into(),
            "metadata/timestamp.json/".into(),
            "metadata/root.json".into(),
            "metadata/0.root.json".into(),
            "metadata/01.root.json".into(),
            "metadata/+1.root.json".into(),
            "metadata/99999999999.root.json".into(),
            "metadata/1.evil.json".into(),
            "metadata/1.v-.json".into(),
            "metadata/1.d-../x.json".into(),
            "metadata/.1.root.json".into(),
            "metadata/1.root.json.tmp".into(),
            "metadata/.tmpAbC123".into(),
            "metadata/../keys/root.key".into(),
            "metadata/%2e%2e%2fkeys/root.key".into(),
            "metadata/..%2f..%2fetc%2fpasswd".into(),
            "metadata/1.root.json%00".into(),
            "metadata/%zz".into(),
            "metadata/%".into(),
            "metadata/%ff%fe".into(),
            "metadata/1.root.json\\..\\x".into(),
            "log/.signed".into(),
            "log/tile/0/000.p/.tmp-7".into(),
            "log/tile/0/00".into(),
            "log/tile/../000".into(),
            "log/tile/x/000".into(),
            "log/tile/0/000.p".into(),
            "log/proof/timestamp.tlog-proof".into(),
            "log/proof/1.evil.tlog-proof".into(),
            "targets/xiaomi/ginkgo/x.rvp".into(),
            targets("x.rvp"),
            targets(HASH),
            targets(&format!("{HASH}.")),
            targets(&format!("{HASH}..rvp")),
            targets(&format!("{HASH}.x/y")),
            targets(&format!("{}.x", HASH.to_uppercase())),
            targets(&format!(".{HASH}.x")),
            format!("targets/../../{HASH}.x"),
            format!("targets/xiaomi/../stable/{HASH}.x"),
            format!("targets/xiaomi/%2e%2e/stable/{HASH}.x"),
            format!("keys/xiaomi/ginkgo/stable/{HASH}.x"),
            "a".repeat(100_000),
        ] {
            assert_eq!(RepoFile::parse(&raw), None, "{raw}");
        }
    }
}
