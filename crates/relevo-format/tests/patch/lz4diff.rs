//! `LZ4DIFF`.

use lzzzz::{lz4, lz4_hc};
use relevo_format::{
    fs::{Cluster, Coding},
    patch::{
        Codec, Limits, PatchError,
        bsdiff::{self, Format, Match},
        lz4diff::{Compression, Inner, Plain, Target, apply, plain, write},
        puffin,
    },
};
use relevo_types::ByteLen;

use crate::{
    golden,
    message::{field, varint},
};

const FORMAT: Format = Format::Bsdf2([Codec::Bzip2; 3]);
const BLOCK: usize = 4096;

fn run(old: &[u8], patch: &[u8]) -> Result<Vec<u8>, PatchError> {
    let mut out = Vec::new();
    apply(&old, patch, &mut out, &Limits { output: ByteLen::mib(1), memory: ByteLen::mib(1) })?;
    Ok(out)
}

/// A patch that makes `new` of `old`, byte for byte where both have one.
fn bsdiff(old: &[u8], new: &[u8]) -> Vec<u8> {
    let len = old.len().min(new.len());
    bsdiff::write(old, new, &[Match { old: 0, new: 0, len, extra: new.len() - len }], FORMAT)
}

#[derive(Clone, Default)]
struct Block {
    offset: u64,
    raw: u64,
    stored: u64,
    sha256: Vec<u8>,
    postfix: Vec<u8>,
}

#[derive(Clone)]
struct Info {
    algorithm: u8,
    padding: bool,
    blocks: Vec<Block>,
}

impl Info {
    fn message(&self) -> Vec<u8> {
        let mut out = field(1, &[8, self.algorithm, 16, 9]);
        for block in &self.blocks {
            let mut message = Vec::new();
            for (tag, value) in [(1, block.offset), (2, block.raw), (3, block.stored)] {
                message.push(tag << 3);
                message.extend(varint(value));
            }
            message.extend([field(4, &block.sha256), field(5, &block.postfix)].concat());
            out.extend(field(2, &message));
        }
        out.extend([24, u8::from(self.padding)]);
        out
    }
}

fn pack(old: &Info, new: &Info, kind: u8, inner: &[u8]) -> Vec<u8> {
    let header = [field(1, &old.message()), field(2, &new.message()), vec![24, kind]].concat();
    let len = u32::try_from(header.len()).unwrap().to_be_bytes();
    [&b"LZ4DIFF\0\0\0\x01"[..], &len, &[0], &header, inner].concat()
}

/// Text that LZ4 makes a few blocks of.
fn text() -> Vec<u8> {
    (0_u32..6000).flat_map(|number| format!("line {} of text\n", number * number % 7919).into_bytes()).collect()
}

/// `raw` in LZ4 blocks, the last one not compressed, and where they are.
fn compressed(raw: &[u8], algorithm: u8, padding: bool) -> (Vec<u8>, Info) {
    let (mut file, mut blocks, mut at) = (Vec::new(), Vec::new(), 0);
    while raw.len() - at > BLOCK {
        let mut block = vec![0; BLOCK];
        let (read, made) = match algorithm {
            1 => lz4::compress_fill(&raw[at..], &mut block).unwrap(),
            _ => lz4_hc::compress_fill(&raw[at..], &mut block, 9).unwrap(),
        };
        block[made..].fill(0);
        if padding {
            block.rotate_right(BLOCK - made);
        }
        file.extend(block);
        blocks.push(Block { offset: at as u64, raw: read as u64, stored: BLOCK as u64, ..Block::default() });
        at += read;
    }
    let rest = (raw.len() - at) as u64;
    file.extend_from_slice(&raw[at..]);
    if rest > 0 {
        blocks.push(Block { offset: at as u64, raw: rest, stored: rest, ..Block::default() });
    }
    (file, Info { algorithm, padding, blocks })
}

#[test]
fn applies_what_aosp_made() {
    for operation in [55, 58] {
        let [old, new, patch] = ["old", "new", "lz4diff"].map(|end| golden::read(&format!("{operation}.{end}")));

        assert!(run(&old, &patch).unwrap() == new, "{operation}");
    }
}

#[test]
fn applies_over_each_compression_and_padding() {
    let old_raw = text();
    let mut new_raw = old_raw.clone();
    new_raw.splice(5000..5003, *b"some other words");
    for (algorithm, padding) in [(1, false), (1, true), (2, false), (2, true)] {
        let (old, old_info) = compressed(&old_raw, algorithm, padding);
        let (new, new_info) = compressed(&new_raw, algorithm, padding);
        assert!(new_info.blocks.len() > 3);

        let patch = pack(&old_info, &new_info, 0, &bsdiff(&old_raw, &new_raw));

        assert!(run(&old, &patch).unwrap() == new, "{algorithm} {padding}");
    }
}

#[test]
fn applies_a_puffin_patch_inside() {
    let raw = text();
    let (file, info) = compressed(&raw, 2, true);
    let side = field(2, &[&[24], &varint(raw.len() as u64)[..]].concat());
    let header = [&[8, 1], &side[..], &[0x1a], &side[1..]].concat();
    let len = u32::try_from(header.len()).unwrap().to_be_bytes();
    let inner = [&b"PUF1"[..], &len, &header, &bsdiff(&raw, &raw)].concat();

    assert!(run(&file, &pack(&info, &info, 1, &inner)).unwrap() == file);
}

#[test]
fn a_block_of_its_own_making_is_mended() {
    let raw = text();
    let (file, info) = compressed(&raw, 2, true);
    let (mut new, mut new_info) = (file.clone(), info.clone());
    new[100] ^= 1;
    new_info.blocks[0].postfix = bsdiff(&file[..BLOCK], &new[..BLOCK]);

    assert!(run(&file, &pack(&info, &new_info, 0, &bsdiff(&raw, &raw))).unwrap() == new);
}

#[test]
fn refuses_a_block_that_lz4_makes_differently_here() {
    let raw = text();
    let (file, info) = compressed(&raw, 2, true);
    let mut new_info = info.clone();
    new_info.blocks[1].sha256 = vec![7; 32];

    let made = run(&file, &pack(&info, &new_info, 0, &bsdiff(&raw, &raw)));

    assert!(matches!(made, Err(PatchError::Recompressed { index: 1 })));
}

#[test]
fn a_patch_cut_short_is_an_error() {
    let [old, patch] = ["58.old", "58.lz4diff"].map(golden::read);
    for len in 0..patch.len() {
        assert!(run(&old, &patch[..len]).is_err(), "cut to {len} bytes");
    }
}

#[test]
fn a_changed_byte_is_an_error_or_another_target_of_the_same_length() {
    let [old, new, patch] = ["58.old", "58.new", "58.lz4diff"].map(golden::read);
    for at in 0..patch.len() {
        let mut patch = patch.clone();
        patch[at] ^= 0x55;
        // Only blocks with a hash are checked. Who applies a patch compares the target's hash.
        if let Ok(out) = run(&old, &patch) {
            assert_eq!(out.len(), new.len(), "byte {at}");
        }
    }
}

#[test]
fn a_changed_byte_of_the_old_file_is_an_error_or_another_target() {
    let [old, patch] = ["58.old", "58.lz4diff"].map(golden::read);
    for at in (0..old.len()).step_by(7) {
        let mut old = old.clone();
        old[at] ^= 0x55;
        let _ = run(&old, &patch);
    }
}

#[test]
fn refuses_blocks_that_cannot_be() {
    let raw = text();
    let (file, good) = compressed(&raw, 2, true);
    let inner = bsdiff(&raw, &raw);
    let changes: [fn(&mut Info); 6] = [
        |info| info.blocks.swap(0, 1),
        |info| info.blocks[1].offset += 1,
        |info| info.blocks[0].stored = 0,
        |info| info.blocks[0].stored = u64::MAX,
        |info| info.blocks[0].raw = u64::MAX,
        |info| info.blocks.clear(),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut bad = good.clone();
        change(&mut bad);

        for patch in [pack(&bad, &good, 0, &inner), pack(&good, &bad, 0, &inner)] {
            assert!(run(&file, &patch).is_err(), "{index}");
        }
    }
}

#[test]
fn refuses_raw_lengths_over_the_limit() {
    let (file, mut info) = compressed(&text(), 2, true);
    info.blocks.truncate(1);
    info.blocks[0].raw = 1 << 40;

    let read = run(&file[..BLOCK], &pack(&info, &info, 0, b""));

    assert!(matches!(read, Err(PatchError::Memory { .. })));
}

#[test]
fn refuses_a_header_of_very_many_blocks() {
    let header = [18, 0].repeat(1 << 18);
    let len = u32::try_from(header.len()).unwrap().to_be_bytes();
    let patch = [&b"LZ4DIFF\0\0\0\x01"[..], &len, &[0], &header].concat();

    assert!(matches!(run(b"", &patch), Err(PatchError::Memory { .. })));
}

#[test]
fn refuses_what_does_not_exist() {
    let raw = text();
    let (file, info) = compressed(&raw, 2, true);
    let inner = bsdiff(&raw, &raw);

    assert!(matches!(run(&file, &pack(&info, &info, 2, &inner)), Err(PatchError::Inner(2))));
    let none = Info { algorithm: 3, ..info.clone() };
    assert!(matches!(run(&file, &pack(&info, &none, 0, &inner)), Err(PatchError::Algorithm(3))));
    assert!(matches!(run(&file, b"LZ4DIFF\0\0\0\x02\0\0\0\0\0"), Err(PatchError::Version(2))));
    assert!(matches!(run(&file, b"LZ5DIFF\0\0\0\x01\0\0\0\0\0"), Err(PatchError::Magic { .. })));
}

fn compressed_blocks(info: &Info) -> usize {
    info.blocks.iter().filter(|block| block.stored < block.raw).count()
}

fn at(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}

/// The blocks as a file system lists them.
fn clusters(info: &Info) -> Vec<Cluster> {
    let mut at = 0;
    let cluster = |block: &Block| {
        let image_offset = at;
        at += block.stored;
        let coding = match (block.raw > block.stored, info.padding) {
            (false, _) => Coding::Plain,
            (true, true) => Coding::Lz4,
            (true, false) => Coding::Lz4Unpadded,
        };
        Cluster {
            file_offset: block.offset,
            len: block.raw,
            image_offset,
            stored_len: block.stored,
            coding,
            skip: 0,
            inline: false,
            partial: false,
        }
    };
    info.blocks.iter().map(cluster).collect()
}

fn written(old: &Plain, new: &Target) -> Vec<u8> {
    write(old, new, Inner::Bsdiff(&bsdiff(&old.raw, &new.plain.raw)))
}

#[test]
fn writes_over_each_compression_and_padding() {
    let old_raw = text();
    let mut new_raw = old_raw.clone();
    new_raw.splice(5000..5003, *b"some other words");
    for (algorithm, padding) in [(1, false), (1, true), (2, false), (2, true)] {
        let (old, old_info) = compressed(&old_raw, algorithm, padding);
        let (new, new_info) = compressed(&new_raw, algorithm, padding);

        let plain = plain(&old, &clusters(&old_info)).unwrap();
        let target = Target::new(&new, &clusters(&new_info), None).unwrap();

        assert!(plain.raw == old_raw && target.plain.raw == new_raw);
        assert_eq!(target.compression(), if algorithm == 1 { Compression::Lz4 } else { Compression::Lz4Hc(9) });
        assert_eq!(target.counts(), (compressed_blocks(&new_info), 0));
        assert!(run(&old, &written(&plain, &target)).unwrap() == new);
    }
}

#[test]
fn writes_a_puffin_patch_inside() {
    let (file, info) = compressed(&text(), 2, true);
    let old = plain(&file, &clusters(&info)).unwrap();
    let new = Target::new(&file, &clusters(&info), Some(Compression::Lz4Hc(9))).unwrap();
    let puffed = puffin::puff(&old.raw, &[]).unwrap();
    let inner = puffin::write(&puffed, &puffed, &bsdiff(&puffed.stream, &puffed.stream));

    let patch = write(&old, &new, Inner::Puffdiff(&inner));

    assert!(run(&file, &patch).unwrap() == file);
}

#[test]
fn writes_a_patch_for_a_block_that_lz4_makes_differently() {
    let (file, info) = compressed(&text(), 2, true);
    let (mut new, mut new_raw) = (file.clone(), text());
    // Another way to write the same: more literals, where a match of four would do.
    let last = info.blocks.len() - 2;
    let (start, block) = (last * BLOCK, &info.blocks[last]);
    let raw = &new_raw[at(block.offset)..][..at(block.raw)];
    let mut other = vec![0; BLOCK];
    let (read, made) = lz4_hc::compress_fill(&raw[..raw.len() - 700], &mut other, 3).unwrap();
    other[made..].fill(0);
    other.rotate_right(BLOCK - made);
    new[start..][..BLOCK].copy_from_slice(&other);
    let end = at(block.offset) + at(block.raw);
    new_raw.drain(at(block.offset) + read..end);
    let mut new_info = info.clone();
    new_info.blocks[last].raw = read as u64;

    let target = Target::new(&new, &clusters(&new_info), None).unwrap();

    assert_eq!(target.counts(), (compressed_blocks(&info) - 1, 1));
    assert!(target.plain.raw == new_raw);
    assert!(run(&file, &written(&plain(&file, &clusters(&info)).unwrap(), &target)).unwrap() == new);
}

#[test]
fn does_not_write_what_another_compressor_made() {
    let raw = text();
    let (file, info) = compressed(&raw, 1, true);

    let target = Target::new(&file, &clusters(&info), Some(Compression::Lz4Hc(9)));

    assert!(matches!(target, Err(PatchError::Recompressed { .. })));
}

#[test]
fn what_cannot_be_decoded_or_is_shared_stays_as_it_is() {
    let (mut file, info) = compressed(&text(), 2, true);
    file[..BLOCK].fill(0xff);
    let mut clusters = clusters(&info);
    clusters[1].partial = true;
    clusters[1].len -= 100;
    file.extend([1, 2, 3]);

    let (old, new) = (plain(&file, &clusters).unwrap(), Target::new(&file, &clusters, None).unwrap());

    assert!(old.raw.starts_with(&file[..BLOCK]));
    assert!(new.plain.raw.starts_with(&file[..2 * BLOCK]));
    assert!(old.raw.ends_with(&[1, 2, 3]));
    assert!(run(&file, &written(&old, &new)).unwrap() == file);
}

#[test]
fn refuses_clusters_that_are_longer_than_their_bytes() {
    let (file, info) = compressed(&text(), 2, true);
    let clusters = clusters(&info);

    assert!(matches!(plain(&file[..BLOCK], &clusters), Err(PatchError::Extents { .. })));
    assert!(matches!(plain(b"", &[]), Err(PatchError::Extents { .. })));
    let mut huge = clusters;
    huge[0].len = u64::MAX;
    assert!(matches!(plain(&file, &huge), Err(PatchError::Extents { .. })));
}
