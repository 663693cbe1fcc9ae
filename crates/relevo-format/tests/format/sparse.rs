//! Android sparse images.

use std::{fs, io::Read, process::Command};

use proptest::prelude::*;
use relevo_format::{
    ReadAt, Section,
    image::{ImageError, SparseError, SparseImage, image_dir, open_image},
};

const BLOCK: usize = 4096;

#[derive(Debug, Clone)]
enum Chunk {
    Raw(Vec<u8>),
    Fill([u8; 4], u32),
    DontCare(u32),
    Crc,
}

fn word(value: usize) -> [u8; 4] {
    u32::try_from(value).unwrap().to_le_bytes()
}

fn header(blocks: usize, chunks: usize) -> Vec<u8> {
    let mut out = vec![0x3a, 0xff, 0x26, 0xed, 1, 0, 0, 0, 28, 0, 12, 0];
    for value in [BLOCK, blocks, chunks, 0] {
        out.extend(word(value));
    }
    out
}

fn chunk(kind: u16, blocks: usize, data: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0, 0], &word(blocks), &word(12 + data.len()), data].concat()
}

/// The file and the image that it stands for.
fn sparse(chunks: &[Chunk]) -> (Vec<u8>, Vec<u8>) {
    let (mut file, mut image) = (Vec::new(), Vec::new());
    for content in chunks {
        file.extend(match content {
            Chunk::Raw(bytes) => {
                image.extend(bytes);
                chunk(0xcac1, bytes.len() / BLOCK, bytes)
            }
            Chunk::Fill(value, blocks) => {
                image.extend(value.repeat(*blocks as usize * BLOCK / 4));
                chunk(0xcac2, *blocks as usize, value)
            }
            Chunk::DontCare(blocks) => {
                image.resize(image.len() + *blocks as usize * BLOCK, 0);
                chunk(0xcac3, *blocks as usize, &[])
            }
            Chunk::Crc => chunk(0xcac4, 0, &[1, 2, 3, 4]),
        });
    }
    ([header(image.len() / BLOCK, chunks.len()), file].concat(), image)
}

fn small() -> (Vec<u8>, Vec<u8>) {
    let raw = (0..2 * BLOCK).map(|at| u8::try_from(at % 251).unwrap()).collect();
    sparse(&[Chunk::Raw(raw), Chunk::Fill(*b"fill", 3), Chunk::Crc, Chunk::DontCare(2), Chunk::Fill([0; 4], 1)])
}

fn whole<R: ReadAt>(image: R) -> Vec<u8> {
    let mut bytes = Vec::new();
    Section::whole(image).read_to_end(&mut bytes).unwrap();
    bytes
}

fn chunks() -> impl Strategy<Value = Vec<Chunk>> {
    let chunk = prop_oneof![
        (0..4_usize, any::<u8>()).prop_map(|(blocks, value)| Chunk::Raw(vec![value; blocks * BLOCK])),
        (any::<[u8; 4]>(), 0..5_u32).prop_map(|(value, blocks)| Chunk::Fill(value, blocks)),
        (0..5_u32).prop_map(Chunk::DontCare),
        Just(Chunk::Crc),
    ];
    prop::collection::vec(chunk, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_range_reads_as_the_image_that_it_stands_for(chunks in chunks(), ranges in prop::collection::vec((any::<u32>(), 0..20_000_usize), 8)) {
        let (file, image) = sparse(&chunks);
        let opened = SparseImage::new(&file).unwrap();

        prop_assert_eq!(opened.len().get(), image.len() as u64);
        prop_assert!(whole(&opened) == image);
        for (start, len) in ranges {
            let start = start as usize % (image.len() + 1);
            let len = len.min(image.len() - start);
            let mut bytes = vec![0xaa; len];
            opened.read_exact_at(&mut bytes, start as u64).unwrap();
            prop_assert!(bytes == image[start..start + len]);
        }
    }
}

#[test]
fn does_not_read_past_the_end() {
    let (file, image) = small();
    let opened = SparseImage::new(&file).unwrap();
    let len = image.len() as u64;

    for (offset, len) in [(len, 1), (len - 1, 2), (u64::MAX, 1), (u64::MAX, 0), (len + 1, 0)] {
        assert!(opened.read_exact_at(&mut vec![0; len], offset).is_err(), "{offset} {len}");
    }
    assert!(opened.read_exact_at(&mut [], len).is_ok());
}

#[test]
fn refuses_a_file_cut_at_any_length() {
    let (file, _) = small();

    for len in (0..100).chain(file.len() - 200..file.len()).chain((100..file.len()).step_by(509)) {
        assert!(SparseImage::new(&file[..len]).is_err(), "cut at {len}");
    }
}

#[test]
fn a_flipped_bit_is_refused_or_makes_an_image_that_reads_to_its_end() {
    // The format has no checksum that covers content: an image is checked by its SHA-256.
    let (file, image) = small();
    let structure = (0..40).chain(28 + 12 + 2 * BLOCK..file.len());

    for (at, bit) in structure.flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        let mut damaged = file.clone();
        damaged[at] ^= 1 << bit;

        if let Ok(opened) = SparseImage::new(&damaged) {
            assert!(opened.len().get() <= 1 << 32, "byte {at}");
            if opened.len().get() == image.len() as u64 {
                assert_eq!(whole(opened).len(), image.len());
            }
        }
    }
}

#[test]
fn refuses_hostile_headers() {
    let (file, _) = small();
    let with = |at: usize, bytes: &[u8]| {
        let mut damaged = file.clone();
        damaged[at..at + bytes.len()].copy_from_slice(bytes);
        SparseImage::new(damaged).map(|opened| opened.len()).unwrap_err()
    };
    let header = |at, bytes: &[u8], field: &str| {
        let error = with(at, bytes);
        assert!(matches!(error, SparseError::Header { what, .. } if what == field), "{field}: {error:?}");
    };

    header(0, b"nope", "magic");
    assert!(matches!(with(4, &[2, 0]), SparseError::Version { major: 2, minor: 0 }));
    header(8, &[27, 0], "file header length");
    header(10, &[11, 0], "chunk header length");
    header(12, &[0; 4], "block size");
    header(12, &[1, 0, 0, 0], "block size");
    header(12, &[0xfc, 0xff, 0xff, 0xff], "block size");
    header(16, &[0xff; 4], "number of blocks");
    header(20, &[0xff; 4], "number of chunks");
    // Every chunk takes 12 bytes of the file.
    header(20, &word(file.len() / 12 + 1), "number of chunks");
    assert!(matches!(with(8, &[0xff, 0xff]), SparseError::Read(_)));
    assert!(matches!(with(20, &word(4)), SparseError::Blocks { found: 7, expected: 8 }));
    assert!(matches!(with(28, &[0, 0]), SparseError::Kind { index: 0, kind: 0 }));
}

#[test]
fn refuses_chunks_whose_length_does_not_fit() {
    let one = |kind: u16, blocks: usize, data: &[u8], stated: usize| {
        let mut file = [header(blocks, 1), chunk(kind, blocks, data)].concat();
        file[36..40].copy_from_slice(&word(stated));
        SparseImage::new(file).map(|opened| opened.len())
    };

    let block = [7; BLOCK];
    assert!(one(0xcac1, 1, &block, 12 + BLOCK).is_ok());
    for (kind, blocks, data, stated) in [
        (0xcac1, 1, &block[..], 12 + BLOCK - 1),
        (0xcac1, 1, &block, 12),
        (0xcac1, 1, &block, 0),
        (0xcac1, 2, &block, 12 + 2 * BLOCK),
        (0xcac1, 1, &block, 0xffff_ffff),
        (0xcac2, 1, b"fill", 12),
        (0xcac3, 1, b"", 16),
        (0xcac4, 1, b"crc!", 16),
    ] {
        let refused = one(kind, blocks, data, stated);
        assert!(matches!(refused, Err(SparseError::Chunk { index: 0, .. })), "{kind:#x} {stated}: {refused:?}");
    }
}

#[test]
fn refuses_chunks_that_make_more_than_the_image() {
    // 2^32 - 1 blocks in each of two chunks: the sum must neither wrap nor be believed.
    let many = chunk(0xcac3, 0xffff_ffff, &[]);
    let file = [header(8, 2), many.clone(), many].concat();

    assert!(matches!(SparseImage::new(file), Err(SparseError::Chunk { index: 0, .. })));
}

#[test]
fn opens_raw_and_sparse_files_by_what_they_start_with() {
    let dir = tempfile::tempdir().unwrap();
    let (file, image) = small();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };

    assert_eq!(whole(open_image(&write("sparse.img", &file)).unwrap()), image);
    assert_eq!(whole(open_image(&write("raw.img", &image)).unwrap()), image);
    assert_eq!(whole(open_image(&write("short.img", &file[..4])).unwrap()), file[..4]);
    assert_eq!(whole(open_image(&write("empty.img", &[])).unwrap()), [0; 0]);
    assert!(matches!(open_image(&write("cut.img", &file[..100])), Err(ImageError::Sparse { .. })));
    assert!(matches!(open_image(&dir.path().join("none.img")), Err(ImageError::Read { .. })));
}

#[test]
fn lists_the_images_of_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(image_dir(dir.path()), Err(ImageError::Empty { .. })));
    for name in ["system.img", "boot.img", "notes.txt", "img"] {
        fs::write(dir.path().join(name), b"x").unwrap();
    }
    fs::create_dir(dir.path().join("dir.img")).unwrap();

    let names: Vec<_> = image_dir(dir.path()).unwrap().into_keys().map(|name| name.to_string()).collect();

    assert_eq!(names, ["boot", "system"]);
    fs::write(dir.path().join("no name.img"), b"x").unwrap();
    assert!(matches!(image_dir(dir.path()), Err(ImageError::Name { .. })));
    assert!(matches!(image_dir(&dir.path().join("none")), Err(ImageError::Read { .. })));
}

#[test]
fn reads_what_img2simg_writes() {
    let dir = tempfile::tempdir().unwrap();
    let (_, image) = small();
    let (raw, sparse) = (dir.path().join("raw.img"), dir.path().join("sparse.img"));
    fs::write(&raw, &image).unwrap();
    // Debian's android-sdk-libsparse-utils; the other tests of this file stand without it.
    let Ok(status) = Command::new("img2simg").args([&raw, &sparse]).status() else { return };

    assert!(status.success());
    assert_eq!(whole(open_image(&sparse).unwrap()), image);
}
