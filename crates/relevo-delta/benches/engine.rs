//! The engine against the reference crate on code whose addresses shifted: `cargo bench -p relevo-delta`.

use relevo_delta::{Images, Options, Silent, diff};
use relevo_format::ReadAt;
use relevo_types::PartitionName;

fn main() {
    divan::main();
}

/// 1 MiB of words, every 31st of which is an address; `shift` moves them all.
fn code(shift: u32) -> Vec<u8> {
    let word = |at: u32| if at.is_multiple_of(31) { at.wrapping_add(shift) } else { at.wrapping_mul(2_654_435_761) };
    (0..1 << 18).map(word).flat_map(u32::to_le_bytes).collect()
}

#[divan::bench]
fn ours(bencher: divan::Bencher<'_, '_>) {
    let (old, new) = (code(0), code(64));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let image = |bytes| {
        let name = PartitionName::parse("system").expect("a name");
        Images::from([(name, Box::new(bytes) as Box<dyn ReadAt>)])
    };
    let out = dir.path().join("x.rvp");
    bencher.bench(|| diff(&image(&old[..]), &image(&new[..]), &Options::default(), &out, &Silent).expect("a delta"));
}

#[divan::bench]
fn reference(bencher: divan::Bencher<'_, '_>) {
    let (old, new) = (code(0), code(64));
    bencher.bench(|| {
        let mut patch = Vec::new();
        bsdiff::diff(&old, &new, &mut patch).expect("a patch");
        zstd::bulk::compress(&patch, 19).expect("a compressed patch")
    });
}
