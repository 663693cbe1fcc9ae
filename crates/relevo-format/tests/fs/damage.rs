//! What is damaged is an error or other contents, never a panic, and it takes no longer and no more.

use relevo_format::{
    ReadAt, Section,
    fs::{self as images, Limits},
};

use crate::{
    fixture::check,
    golden::{NAMES, image},
};

/// Enough for the golden images.
const LIMITS: Limits = Limits {
    files: 1000,
    path_bytes: 100_000,
    depth: 20,
    extents: 10_000,
    directory_bytes: 1 << 20,
    file_bytes: 1 << 20,
};

/// Reads all of it, as far as it can be read.
fn read(image: &dyn ReadAt, contents: bool) {
    let Ok(listing) = images::read(image, &LIMITS) else { return };
    check(image, &listing);
    if contents {
        for file in &listing.files {
            // An error here is one as good as an error before.
            let _outcome = std::io::copy(&mut Section::whole(images::open(image, file)), &mut std::io::sink());
        }
    }
}

/// Bytes of the superblock, and those of the image that are not zero and in no file.
fn structures(image: &[u8]) -> Vec<usize> {
    let listing = images::read(&image, &LIMITS).unwrap();
    let metadata = listing.metadata.iter().flat_map(|range| range.clone().map(|at| usize::try_from(at).unwrap()));
    metadata.filter(|&at| image[at] != 0 || (1024..1536).contains(&at)).collect()
}

#[test]
fn a_flipped_byte_of_metadata_is_no_panic() {
    for name in NAMES {
        let mut image = image(name);
        let places = structures(&image);
        // The superblock bit by bit, the rest so that no image takes longer than a few seconds.
        let step = places.len() / 1000 + 1;
        for (number, &at) in places.iter().enumerate() {
            let is_superblock = (1024..1536).contains(&at);
            if !is_superblock && number % step != 0 {
                continue;
            }
            let was = image[at];
            for mask in if is_superblock { &[1, 2, 4, 8, 16, 32, 64, 128, 255][..] } else { &[1, 0x10, 0x80, 255] } {
                image[at] = was ^ mask;
                read(&image, *mask == 0x10);
            }
            image[at] = was;
        }
    }
}

#[test]
fn a_flipped_byte_of_contents_is_no_panic() {
    for name in NAMES {
        let mut image = image(name);
        let listing = images::read(&image, &LIMITS).unwrap();
        for at in (0..image.len()).step_by(2039) {
            let was = image[at];
            if listing.metadata.iter().any(|range| range.contains(&(at as u64))) {
                continue;
            }
            image[at] = was ^ 0x55;
            read(&image, true);
            image[at] = was;
        }
    }
}

#[test]
fn an_image_cut_anywhere_is_refused() {
    for name in NAMES {
        let image = image(name);
        for len in (0..image.len()).step_by(512).chain(1000..1160) {
            let cut = &image[..len];
            assert!(images::read(&cut, &LIMITS).is_err(), "{name} cut to {len} bytes");
        }
    }
}

/// Every word of the inode tables as the largest number and as every small one.
#[test]
fn a_word_of_another_value_is_no_panic() {
    for name in NAMES {
        let mut image = image(name);
        let places = structures(&image);
        let step = places.len() / 600 + 1;
        for &at in places.iter().step_by(step) {
            let at = (at & !3).min(image.len() - 4);
            let was: [u8; 4] = image[at..at + 4].try_into().unwrap();
            for value in [0_u32, 1, 2, 7, 0x7fff_ffff, u32::MAX] {
                image[at..at + 4].copy_from_slice(&value.to_le_bytes());
                read(&image, value == 7);
            }
            image[at..at + 4].copy_from_slice(&was);
        }
    }
}
