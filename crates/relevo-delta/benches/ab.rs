//! Operations between two directories of images: `cargo bench -p relevo-delta --bench ab -- OLD NEW [MINOR [THREADS [MIB]]]`.
//!
//! Prints bytes of data by partition and kind of operation; `tests/bench/ab.sh` puts time and memory beside it.

use std::{path::Path, process::ExitCode};

use relevo_delta::{
    Images, Silent,
    ab::{Options, generate},
};
use relevo_format::image::{image_dir, open_image};
use relevo_types::ByteLen;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let (Some(old), Some(new)) = (arguments.next(), arguments.next()) else {
        eprintln!("give two directories of images");
        return ExitCode::SUCCESS;
    };
    let mut number = |default: u64| arguments.next().map_or(default, |text| text.parse().expect("a number"));
    let minor = u32::try_from(number(9)).expect("a minor version");
    let threads = usize::try_from(number(0)).expect("a number of threads");
    let memory = ByteLen::new(number(1024) << 20);
    let open = |path: &str| -> Images<'static> {
        let images = image_dir(Path::new(path)).expect("a directory of images").into_iter();
        images.map(|(name, path)| (name, open_image(&path).expect("an image"))).collect()
    };
    let options = Options { minor, threads, memory, ..Options::default() };
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let generated = generate(&open(&old), &open(&new), &options, scratch.path(), &Silent).expect("operations");
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
    ExitCode::SUCCESS
}
