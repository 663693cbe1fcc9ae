//! Operations between two directories of images: `cargo bench -p relevo-delta --bench ab -- OLD NEW [MINOR [THREADS [MIB]]]`.
//!
//! Prints bytes of data by partition and kind of operation; `tests/bench/ab.sh` puts time and memory beside it.
//!
//! `cargo bench -p relevo-delta --bench ab -- merge [BLOCKS]` plans merges of made-up copies, and of half as many, to see
//! how the time grows.

use std::{io, path::Path, process::ExitCode, time::Instant};

use relevo_delta::{
    Images, Silent,
    ab::{
        Options,
        cow::{Compression, Settings},
        generate, merge,
    },
};
use relevo_format::{
    ReadAt,
    image::{image_dir, open_image},
    payload::{Extent, ImageInfo, Operation, OperationKind, Partition},
};
use relevo_types::{BLOCK, ByteLen, PartitionName, Sha256};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    match (arguments.next(), arguments.next()) {
        (Some(word), blocks) if word == "merge" => {
            merges(blocks.map_or(1 << 20, |text| text.parse().expect("a number of blocks")));
        }
        (Some(old), Some(new)) => {
            let number = |default: u64| arguments.next().map_or(default, |text| text.parse().expect("a number"));
            operations(&old, &new, number);
        }
        _ => eprintln!("give two directories of images, or the word merge"),
    }
    ExitCode::SUCCESS
}

fn operations(old: &str, new: &str, mut number: impl FnMut(u64) -> u64) {
    let minor = u32::try_from(number(9)).expect("a minor version");
    let threads = usize::try_from(number(0)).expect("a number of threads");
    let memory = ByteLen::new(number(1024) << 20);
    let open = |path: &str| -> Images<'static> {
        let images = image_dir(Path::new(path)).expect("a directory of images").into_iter();
        images.map(|(name, path)| (name, open_image(&path).expect("an image"))).collect()
    };
    let options = Options { minor, threads, memory, ..Options::default() };
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let generated = generate(&open(old), &open(new), &options, scratch.path(), &Silent).expect("operations");
    let mut all = 0;
    for (partition, report) in generated.partitions.iter().zip(&generated.report.partitions) {
        println!("{} ({} bytes)", report.name, report.target_len);
        let mut sum = 0;
        for (kind, tally) in &report.operations {
            println!("  {kind:18} {:6} {:12} -> {:11}", tally.count, tally.target_len, tally.data_len);
            sum += tally.data_len;
        }
        let extents: usize = partition.operations.iter().map(|one| one.source.len() + one.target.len()).sum();
        println!("  {sum:>50} with {} operations, {extents} extents", partition.operations.len());
        all += sum;
    }
    for warning in &generated.report.warnings {
        println!("warning: {warning}");
    }
    println!("all: {all} bytes of data");
    for (stage, time) in &generated.report.times {
        println!("{stage}: {:.1} s", time.as_secs_f64());
    }
}

/// Plans merges of so many blocks, and of half of them.
fn merges(blocks: u64) {
    type Shape = fn(u64, &mut Random) -> Vec<(u64, u64)>;
    let shapes: [(&str, Shape); 8] = [
        ("files moved, 256 blocks", |blocks, random| moved(blocks, 256, random)),
        ("files moved, 8 blocks", |blocks, random| moved(blocks, 8, random)),
        ("blocks moved, one by one", |blocks, random| moved(blocks, 1, random)),
        ("shifted by less than a file", |blocks, random| shifted(blocks, 4096, random)),
        ("shifted by a block as a whole", |blocks, _| (0..blocks - 1).map(|target| (target + 1, 1)).collect()),
        ("read many times, 16 blocks", |blocks, random| shared(blocks, 16, random)),
        ("one block read by half of all", |blocks, random| {
            let from =
                |target: u64, random: &mut Random| if target.is_multiple_of(2) { 0 } else { random.below(blocks) };
            (0..blocks).map(|target| (from(target, random), 1)).collect()
        }),
        ("read many times, one by one", |blocks, random| shared(blocks, 1, random)),
    ];
    println!("{:30} {:>9} {:>9} {:>9} {:>9} {:>7}", "copies", "blocks", "runs", "steps", "stored", "s");
    for (name, shape) in shapes {
        for blocks in [blocks / 2, blocks] {
            let copies = shape(blocks, &mut Random(1));
            let partition = partition(blocks, &copies);
            let runs = partition.operations.len();
            let settings = Settings { version: 3, compression: Compression::Lz4, factor: 4096, xor: false };
            let (image, start) = (Made(blocks), Instant::now());
            let steps = merge::plan(&partition, &Vec::new(), &image, &image, &settings).expect("a plan");
            let time = start.elapsed().as_secs_f64();
            let moved: u64 = steps.iter().map(|step| step.target.blocks).sum();
            let copied: u64 = copies.iter().map(|&(_, blocks)| blocks).sum();
            println!("{name:30} {blocks:9} {runs:9} {:9} {:9} {time:7.2}", steps.len(), copied - moved);
        }
    }
}

/// Runs of about `len` blocks in another order.
fn moved(blocks: u64, len: u64, random: &mut Random) -> Vec<(u64, u64)> {
    let mut runs = Vec::new();
    let mut start = 0;
    while start < blocks {
        let run = random.run(len).min(blocks - start);
        runs.push((start, run));
        start += run;
    }
    for last in (1..runs.len()).rev() {
        runs.swap(last, usize::try_from(random.below(last as u64 + 1)).expect("a place in memory"));
    }
    runs
}

/// Runs of about `len` blocks, each some blocks further up or down, so that most overlap themselves and their neighbours.
fn shifted(blocks: u64, len: u64, random: &mut Random) -> Vec<(u64, u64)> {
    let mut runs = Vec::new();
    let mut target = 0;
    while target < blocks {
        let run = random.run(len).min(blocks - target);
        let source = (target + random.below(200)).saturating_sub(100).min(blocks - run);
        runs.push((source, run));
        target += run;
    }
    runs
}

/// Runs of about `len` blocks from anywhere.
fn shared(blocks: u64, len: u64, random: &mut Random) -> Vec<(u64, u64)> {
    let mut runs = Vec::new();
    let mut target = 0;
    while target < blocks {
        let run = random.run(len).min(blocks - target);
        runs.push((random.below(blocks - run + 1), run));
        target += run;
    }
    runs
}

/// A partition that copies these runs (first old block, blocks), one after the other.
fn partition(blocks: u64, copies: &[(u64, u64)]) -> Partition {
    let info = ImageInfo { size: ByteLen::new(blocks * BLOCK.get()), sha256: Sha256::new([0; 32]) };
    let mut start = 0;
    let operation = |&(source, blocks): &(u64, u64)| {
        let target = Extent { start, blocks };
        start += blocks;
        let source = vec![Extent { start: source, blocks }];
        Operation { kind: OperationKind::SourceCopy, data: None, source, source_sha256: None, target: vec![target] }
    };
    Partition {
        name: PartitionName::parse("system").expect("a name"),
        old: Some(info),
        new: info,
        operations: copies.iter().map(operation).collect(),
        verity: None,
        version: None,
        postinstall: None,
        merge_operations: Vec::new(),
        estimate_cow_size: None,
        estimate_op_count_max: None,
    }
}

/// An image of so many blocks, each with bytes of its own that compress to half.
struct Made(u64);

impl ReadAt for Made {
    fn len(&self) -> ByteLen {
        ByteLen::new(self.0 * BLOCK.get())
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut random = Random(offset + 1);
        for words in buf.chunks_mut(16) {
            words.fill(0);
            let len = words.len().min(8);
            words[..len].copy_from_slice(&random.next().to_le_bytes()[..len]);
        }
        Ok(())
    }
}

/// The same numbers in every run (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// A length that is `len` on average.
    fn run(&mut self, len: u64) -> u64 {
        1 + self.below(2 * len - 1)
    }
}
