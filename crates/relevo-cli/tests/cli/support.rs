//! A maintainer's machine in a temporary directory.

use std::{
    cell::Cell,
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
};

use jiff::Timestamp;
use relevo_cli::{Context, Passphrase};
use serde_json::Value;
use sha2::{Digest, Sha256};

pub(crate) const PASSPHRASE: &str = "correct horse battery staple";

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) status: u8,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    /// The document on standard output.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u8) -> Self {
        assert_eq!(self.status, status, "{}{}", self.out, self.err);
        self
    }
}

/// A maintainer's machine.
pub(crate) struct Machine {
    dir: tempfile::TempDir,
    now: Cell<Timestamp>,
    drawn: Cell<u64>,
    stop: AtomicBool,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            now: Cell::new("2026-01-01T00:00:00Z".parse().unwrap()),
            drawn: Cell::new(0),
            stop: AtomicBool::new(false),
        }
    }

    /// With a directory `desk` made by `init`, and the device `ginkgo`.
    pub(crate) fn with_device() -> Self {
        let machine = Self::new();
        machine.run(["init", machine.text("desk").as_str(), "--key-cost", "low"]).expect(0);
        let add = ["device", "add", "ginkgo", "--vendor", "xiaomi", "--kind", "native", "--channel", "stable"];
        machine.at_desk(add.into_iter().chain(["--channel", "beta"])).expect(0);
        machine
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Days go by.
    pub(crate) fn wait_days(&self, days: i64) {
        self.now.set(self.now.get() + jiff::SignedDuration::from_hours(24 * days));
    }

    /// As if Ctrl-C had been pressed.
    pub(crate) fn stop(&self, stop: bool) {
        self.stop.store(stop, Ordering::Relaxed);
    }

    /// Runs a command through the library, with the right passphrase in the environment.
    pub(crate) fn run<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Run {
        self.run_with(Some(PASSPHRASE), args)
    }

    /// The same with `--dir` of the directory that `init` made.
    pub(crate) fn at_desk<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Run {
        let mut all: Vec<String> = args.into_iter().map(str::to_owned).collect();
        all.extend(["--dir".to_owned(), self.text("desk")]);
        self.run(all.iter().map(String::as_str))
    }

    pub(crate) fn run_with<'a>(&self, passphrase: Option<&str>, args: impl IntoIterator<Item = &'a str>) -> Run {
        let refuse = |_: &str| Err(io::ErrorKind::Unsupported.into());
        self.run_asking(passphrase, &refuse, args)
    }

    pub(crate) fn run_asking<'a>(
        &self,
        passphrase: Option<&str>,
        ask: &dyn Fn(&str) -> io::Result<String>,
        args: impl IntoIterator<Item = &'a str>,
    ) -> Run {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let random = |bytes: &mut [u8]| {
            for chunk in bytes.chunks_mut(32) {
                self.drawn.set(self.drawn.get() + 1);
                chunk.copy_from_slice(&Sha256::digest(self.drawn.get().to_le_bytes())[..chunk.len()]);
            }
            Ok(())
        };
        let mut context = Context {
            now: self.now.get(),
            dir: None,
            passphrase: passphrase.map(|text| Passphrase::new(text.to_owned())),
            ask,
            random: &random,
            out: &mut out,
            err: &mut err,
            terminal: false,
            stop: &self.stop,
        };
        let status = relevo_cli::run(std::iter::once("relevo").chain(args), &mut context);
        Run { status, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
    }

    /// Runs the real binary.
    pub(crate) fn binary<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Run {
        binary(self.dir.path(), args)
    }

    /// Writes a directory of images.
    pub(crate) fn images(&self, dir: &str, images: &[(&str, Vec<u8>)]) -> String {
        fs::create_dir_all(self.path(dir)).unwrap();
        for (name, bytes) in images {
            fs::write(self.path(dir).join(format!("{name}.img")), bytes).unwrap();
        }
        self.text(dir)
    }

    /// The images of build `number`, with a build.json beside them.
    pub(crate) fn build(&self, number: u64) -> String {
        let dir = format!("build-{number}");
        let images = [("boot", program(1, 12)), ("system", edited(&program(2, 96), number))];
        let text = self.images(&dir, &images);
        let facts = serde_json::json!({
            "build": number.to_string(), "timestamp": 1_746_403_200 + number * 604_800, "version": format!("1.{number}"),
            "sdk": 35, "spl": "2025-05-05",
        });
        fs::write(self.path(&dir).join("build.json"), facts.to_string()).unwrap();
        text
    }

    /// Every file below a directory with its content; only names of unfinished files would be random.
    pub(crate) fn tree(&self, dir: &str) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        walk(&self.path(dir), &self.path(dir), &mut files);
        files
    }

    /// A text without the temporary directory.
    pub(crate) fn masked_paths(&self, text: &str) -> String {
        text.replace(self.dir.path().to_str().unwrap(), "[DIR]")
    }

    /// What a snapshot may hold: no temporary directory, no digests, no sizes that a better engine changes.
    pub(crate) fn masked(&self, text: &str) -> String {
        mask(&self.masked_paths(text))
    }
}

pub(crate) fn binary<'a>(dir: &Path, args: impl IntoIterator<Item = &'a str>) -> Run {
    let output = command(dir, args).output().unwrap();
    Run {
        status: u8::try_from(output.status.code().unwrap()).unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The real binary, not yet started.
pub(crate) fn command<'a>(dir: &Path, args: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relevo"));
    command
        .args(args)
        .current_dir(dir)
        .env_remove("RELEVO_DIR")
        .env_remove("COLUMNS")
        .env("RELEVO_PASSPHRASE", PASSPHRASE)
        .stdin(Stdio::null());
    command
}

fn walk(root: &Path, dir: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(root, &path, files);
        } else {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            files.insert(name, fs::read(&path).unwrap());
        }
    }
}

/// Digests become `[sha256]`, sizes `[size]`; a line with a size loses its alignment.
fn mask(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let is_unit = |word: &str| ["B", "KB", "MB", "GB", "bytes"].contains(&word.trim_end_matches([',', ';', ')']));
        let is_number = |word: &str| {
            let word = word.trim_start_matches('(');
            word.starts_with(|c: char| c.is_ascii_digit()) && word.chars().all(|c| c.is_ascii_digit() || c == '.')
        };
        let mut masked: Vec<String> = Vec::new();
        let mut sizes = false;
        for (index, word) in words.iter().enumerate() {
            let unit = words.get(index + 1).is_some_and(|next| is_unit(next));
            if unit && is_number(word) {
                masked.push("[size]".to_owned());
                sizes = true;
            } else if index > 0 && is_unit(word) && is_number(words[index - 1]) {
                continue;
            } else {
                masked.push(mask_digests(word));
            }
        }
        if sizes {
            masked.retain(|word| !word.is_empty());
        }
        out += &masked.join(" ");
        out.push('\n');
    }
    out
}

fn mask_digests(word: &str) -> String {
    let mut parts = Vec::new();
    for part in word.split_inclusive(|c: char| !c.is_ascii_hexdigit()) {
        let digits = part.trim_end_matches(|c: char| !c.is_ascii_hexdigit());
        parts.push(if digits.len() == 64 { part.replace(digits, "[sha256]") } else { part.to_owned() });
    }
    parts.concat()
}

/// What a snapshot of an inspection may hold: no number that a better engine changes.
pub(crate) fn mask_counts(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                // Which kinds there are is the engine's choice too.
                if key == "operations" || key == "streams" {
                    *value = Value::from("[by kind]");
                }
                let counted = ["count", "raw", "stored", "memory", "pieces", "copied", "added", "inserted", "zeros"]
                    .contains(&key.as_str());
                match value {
                    Value::Number(_) if counted || key == "bytes" => *value = Value::from("[number]"),
                    Value::String(text) if key == "sha256" => *text = "[sha256]".to_owned(),
                    value => mask_counts(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(mask_counts),
        _ => {}
    }
}

/// Something like a program of `blocks` blocks: a header, code that repeats with changing addresses, zeros.
pub(crate) fn program(seed: u64, blocks: usize) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01\0".to_vec();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while bytes.len() < blocks * 4096 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        match state % 5 {
            0 => bytes.extend_from_slice(&state.to_le_bytes()),
            1 => bytes.extend_from_slice(&[0x1f, 0x20, 0x03, 0xd5].repeat(3)),
            2 => bytes.extend_from_slice(&[0; 40]),
            _ => bytes.extend_from_slice(&((bytes.len() as u32 / 16) ^ (state as u32 & 0xff)).to_le_bytes()),
        }
    }
    bytes.truncate(blocks * 4096);
    bytes
}

/// The same program, a version later: some bytes in, some changed.
pub(crate) fn edited(bytes: &[u8], version: u64) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for step in 0..version {
        let at = usize::try_from(step * 7919 % 50_000).unwrap() + 5_000;
        out.splice(at..at, format!("version {step}").into_bytes());
        let changed = (at + 60_000) % out.len();
        out[changed] ^= 0x55;
    }
    out.truncate(bytes.len());
    out
}

/// An Android sparse image of `bytes`: raw chunks, and fills for blocks of one value.
pub(crate) fn sparse(bytes: &[u8]) -> Vec<u8> {
    let blocks: Vec<&[u8]> = bytes.chunks(4096).collect();
    let mut out = Vec::new();
    out.extend_from_slice(&0xed26_ff3a_u32.to_le_bytes());
    for half in [1_u16, 0, 28, 12] {
        out.extend_from_slice(&half.to_le_bytes());
    }
    for word in [4096, blocks.len() as u32, blocks.len() as u32, 0] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    for block in blocks {
        let fill = block.iter().all(|&byte| byte == block[0]);
        let (kind, content) = if fill { (0xcac2_u16, &block[..4]) } else { (0xcac1, block) };
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&1_u32.to_le_bytes());
        out.extend_from_slice(&(12 + content.len() as u32).to_le_bytes());
        out.extend_from_slice(content);
    }
    out
}
