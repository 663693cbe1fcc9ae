//! Our engine against the `bsdiff` crate, the reference implementation of the algorithm.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::io::Read;

use relevo_delta::{Images, Options, Silent, diff};
use relevo_format::ReadAt;
use relevo_types::PartitionName;

/// Bytes like machine code: words from a small vocabulary, with addresses that shift when code is inserted before them.
fn program(functions: &[u32]) -> Vec<u8> {
    let mut at = 0_u32;
    let starts: Vec<u32> = functions
        .iter()
        .map(|id| {
            let start = at;
            at += 16 + id % 40;
            start
        })
        .collect();
    let mut code = Vec::new();
    for (index, &id) in functions.iter().enumerate() {
        let mut state = id.wrapping_mul(2_654_435_761) | 1;
        for word in 0..16 + id % 40 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let opcode = if word % 6 == 5 {
                // A call: the distance to another function.
                let target = starts[(state >> 8) as usize % starts.len()];
                0x9400_0000 | (target.wrapping_sub(starts[index] + word) & 0x03ff_ffff)
            } else {
                0xd280_0000 | (state >> 12 & 0x001f_ffff)
            };
            code.extend(opcode.to_le_bytes());
        }
    }
    code
}

fn ours(old: &[u8], new: &[u8]) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let image = |bytes| {
        let name = PartitionName::parse("system").unwrap();
        Images::from([(name, Box::new(bytes) as Box<dyn ReadAt>)])
    };
    diff(&image(old), &image(new), &Options::default(), &dir.path().join("x.rvp"), &Silent).unwrap().partitions[0]
        .stored
}

/// The reference's patch: its streams lie in one, compressed as ours are.
fn reference(old: &[u8], new: &[u8]) -> u64 {
    let mut patch = Vec::new();
    bsdiff::diff(old, new, &mut patch).unwrap();
    let mut made = Vec::new();
    bsdiff::patch(old, &mut patch.as_slice(), &mut made).unwrap();
    assert_eq!(made, new);
    let mut compressed = Vec::new();
    zstd::stream::read::Encoder::new(&patch[..], 19).unwrap().read_to_end(&mut compressed).unwrap();
    compressed.len() as u64
}

#[test]
fn is_no_larger_than_the_reference_on_shifted_code() {
    let mut functions: Vec<u32> = (0..4000).collect();
    let old = program(&functions);
    functions.splice(500..500, 10_000..10_020);
    functions.drain(3000..3010);
    let new = program(&functions);

    let (ours, reference) = (ours(&old, &new), reference(&old, &new));

    assert!(ours <= reference, "ours {ours}, the reference {reference} of {}", new.len());
}
