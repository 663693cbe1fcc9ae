//! Measures the memory that applying a piece really takes, against what the manifest declares.
//!
//! `apply_memory make DIR WINDOW_LOG` writes a package whose one piece has three zstd streams, each longer than its
//! window; `apply_memory apply DIR` applies it in a process of its own and prints the peak of its resident memory
//! before and after.

use std::{fs, io, ops::ControlFlow, path::Path};

use relevo_format::{
    FileAt, ReadAt, Section,
    apply::{apply_piece, body, check_source},
    ops::{Encoder, Op},
    package::{Base, BaseKind, Codec, Engine, Front, Info, Limits, Manifest, Partition, Piece, Role, Stream},
};
use relevo_types::{ByteLen, PartitionName, Sha256};
use sha2::Digest;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> Outcome {
    let args: Vec<_> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["make", dir, window_log] => make(Path::new(dir), window_log.parse()?),
        ["apply", dir] => apply(Path::new(dir)),
        _ => Err("use: apply_memory make DIR WINDOW_LOG | apply DIR".into()),
    }
}

fn limits() -> Limits {
    Limits { memory: ByteLen::new(1 << 40), ..Limits::default() }
}

/// Bytes that compress, but not to nothing, and look back far.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 58).to_le_bytes()[0]
    };
    (0..len).map(|_| next()).collect()
}

fn sha256(bytes: &[u8]) -> Sha256 {
    Sha256::new(sha2::Sha256::digest(bytes).into())
}

fn make(dir: &Path, window_log: u32) -> Outcome {
    const STEP: usize = 4;
    let window = 1_usize << window_log;
    let base = noise(8 * window, 1);
    let (diff, extra) = (noise(2 * window, 2), noise(2 * window, 3));
    let mut ops = Encoder::new(1);
    let mut target = Vec::new();
    for at in (0..2 * window).step_by(STEP) {
        let start = at * 7919 % (base.len() - STEP);
        ops.push(Op::Add { base: 0, start: start as u64, len: STEP as u64 });
        ops.push(Op::Insert { len: STEP as u64 });
        target.extend((0..STEP).map(|i| base[start + i].wrapping_add(diff[at + i])));
        target.extend_from_slice(&extra[at..at + STEP]);
    }
    let mut package = Vec::new();
    let mut streams = Vec::new();
    for (role, raw) in [(Role::Ops, ops.finish()), (Role::Diff, diff), (Role::Extra, extra)] {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3)?;
        encoder.window_log(window_log)?;
        io::copy(&mut &raw[..], &mut encoder)?;
        let stored = encoder.finish()?;
        streams.push(Stream {
            role,
            codec: Codec::Zstd,
            offset: package.len() as u64,
            stored_len: stored.len() as u64,
            raw_len: raw.len() as u64,
            window_log,
            sha256: sha256(&stored),
        });
        package.extend(stored);
    }
    let name = PartitionName::parse("system")?;
    let len = target.len() as u64;
    let piece = Piece { start: 0, len, sha256: sha256(&target), engine: Engine::Bsdiff, bases: vec![0], streams };
    let size = ByteLen::new(base.len() as u64);
    let mut manifest = Manifest {
        info: Info::default(),
        bases: vec![Base { kind: BaseKind::Source, partition: name.clone(), size, sha256: sha256(&base) }],
        partitions: vec![Partition { name, size: ByteLen::new(len), sha256: sha256(&target), pieces: vec![piece] }],
        removed: Vec::new(),
    };
    manifest.info.memory = manifest.memory();
    let front = Front::new(manifest, &limits())?;
    fs::write(dir.join("base.img"), base)?;
    fs::write(dir.join("package.rvp"), [front.encode(), package].concat())?;
    Ok(())
}

fn apply(dir: &Path) -> Outcome {
    let file = FileAt::open(&dir.join("package.rvp"))?;
    let before = peak_kib()?;
    let front = Front::read(&mut Section::whole(&file), &limits())?;
    let body = body(&front, &file)?;
    let open = |_: &PartitionName| Ok(Box::new(FileAt::open(&dir.join("base.img"))?) as Box<dyn ReadAt>);
    let source = check_source(front.manifest(), open, |_| ControlFlow::Continue(()))?;
    apply_piece(&front, 0, 0, &source, &body, &mut io::sink())?;
    let after = peak_kib()?;
    let declared = front.manifest().memory().get() >> 10;
    for stream in front.manifest().streams() {
        println!("{}: {} bytes stored, {} decoded", stream.role.name(), stream.stored_len, stream.raw_len);
    }
    println!("peak before {before} KiB, after {after} KiB: {} KiB for {declared} KiB declared", after - before);
    Ok(())
}

fn peak_kib() -> Result<u64, Box<dyn std::error::Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM in /proc/self/status")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
