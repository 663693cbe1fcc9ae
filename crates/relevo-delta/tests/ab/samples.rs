//! The images that AOSP's tools made, with all that is in real ones: programs, packages, a kernel.

use std::{collections::BTreeMap, env, fs, path::Path, process::Command, sync::OnceLock};

use relevo_delta::{
    Images, Silent,
    ab::{Generated, Options, generate},
};
use relevo_format::{FileAt, ReadAt, payload::OperationKind};
use relevo_types::PartitionName;

use crate::support::{Build, contents, count, made};

const NAMES: [&str; 3] = ["boot", "product", "system"];

/// The samples' images by path, `new/boot.img` for one; unpacked once.
fn images() -> &'static BTreeMap<String, Vec<u8>> {
    static IMAGES: OnceLock<BTreeMap<String, Vec<u8>>> = OnceLock::new();
    IMAGES.get_or_init(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/aosp/images.tar.zst");
        let tar = zstd::decode_all(&fs::read(path).unwrap()[..]).unwrap();
        let mut images = BTreeMap::new();
        let mut rest = &tar[..];
        while let Some((header, after)) = rest.split_first_chunk::<512>().filter(|(header, _)| header[0] != 0) {
            let text = |range: std::ops::Range<usize>| {
                let text = str::from_utf8(&header[range]).unwrap();
                text.trim_end_matches(' ').split('\0').next().unwrap().to_owned()
            };
            let len = usize::from_str_radix(&text(124..136), 8).unwrap();
            images.insert(text(0..100).trim_start_matches("./").to_owned(), after[..len].to_vec());
            rest = &after[len.next_multiple_of(512)..];
        }
        images
    })
}

fn build(which: &str) -> Build {
    NAMES.into_iter().map(|name| (name, images()[&format!("{which}/{name}.img")].clone())).collect()
}

/// Bytes of data as they were measured, with a twentieth to spare: a better engine needs less, a broken one much more.
#[track_caller]
fn comes_back(minor: u32, measured: u64) -> Generated {
    let generated = made(&build("old"), &build("new"), &Options { minor, ..Options::default() });

    let len = generated.blobs.len().get();
    assert!(len < measured + measured / 20, "{len} bytes at minor version {minor}, {measured} before");
    assert_eq!(generated.report.warnings, [""; 0]);
    generated
}

#[test]
fn samples_come_back_at_minor_version_2() {
    comes_back(2, 1_333_064);
}

#[test]
fn samples_come_back_at_minor_version_3() {
    comes_back(3, 1_333_064);
}

#[test]
fn samples_come_back_at_minor_version_4() {
    comes_back(4, 1_309_370);
}

#[test]
fn samples_come_back_at_minor_version_5() {
    comes_back(5, 1_230_520);
}

#[test]
fn samples_come_back_at_minor_version_6() {
    comes_back(6, 1_230_520);
}

#[test]
fn samples_come_back_at_minor_version_7() {
    comes_back(7, 1_230_520);
}

#[test]
fn samples_come_back_at_minor_version_8() {
    let generated = comes_back(8, 1_229_260);

    assert!(count(&generated, "system", OperationKind::Zucchini) > 0);
    assert!(count(&generated, "system", OperationKind::Puffdiff) > 0);
}

#[test]
fn samples_come_back_at_minor_version_9() {
    let generated = comes_back(9, 1_156_782);

    for kind in [OperationKind::Lz4diffBsdiff, OperationKind::Lz4diffPuffdiff] {
        assert!(count(&generated, "product", kind) > 0, "{kind}");
    }
}

#[test]
fn samples_have_the_same_bytes_for_any_number_of_threads() {
    let of = |threads| contents(&made(&build("old"), &build("new"), &Options { threads, ..Options::default() }));

    assert!(of(1) == of(4));
}

#[test]
fn samples_come_back_with_the_least_memory() {
    let least = Options { memory: Options::MIN_MEMORY, threads: 4, ..Options::default() };

    let generated = made(&build("old"), &build("new"), &least);

    let len = generated.blobs.len().get();
    assert!(len < 1_250_000, "{len} bytes with the least memory");
}

/// A process of its own is asked: what other tests hold is not the generator's.
#[test]
fn the_least_memory_is_kept() {
    let mut inner = Command::new(env::current_exe().unwrap());
    inner.args(["--exact", "samples::peak_with_the_least_memory", "--nocapture"]);
    let output = inner.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let peak = text.lines().find_map(|line| line.strip_prefix("peak in KiB: ")).unwrap_or_else(|| panic!("{text}"));

    let peak: u64 = peak.parse().unwrap();

    assert!(peak * 1024 <= Options::MIN_MEMORY.get(), "{peak} KiB");
}

/// Says how much memory more than before was resident at once.
#[test]
fn peak_with_the_least_memory() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let open = |which: &str| -> Images<'static> {
        let open = |name: &str| {
            let path = dir.path().join(format!("{which}-{name}"));
            fs::write(&path, &images()[&format!("{which}/{name}.img")]).unwrap();
            let image: Box<dyn ReadAt> = Box::new(FileAt::open(&path).unwrap());
            (PartitionName::parse(name).unwrap(), image)
        };
        NAMES.into_iter().map(open).collect()
    };
    let (old, new) = (open("old"), open("new"));
    // Makes what is resident now the peak; see proc(5).
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let peak = || -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    let before = peak();

    let least = Options { memory: Options::MIN_MEMORY, threads: 4, ..Options::default() };
    generate(&old, &new, &least, dir.path(), &Silent).unwrap();

    println!("peak in KiB: {}", peak() - before);
}
