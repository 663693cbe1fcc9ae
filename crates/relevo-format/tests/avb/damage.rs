//! What is damaged is an error or says something else, never a panic, and its signature no longer fits.

use relevo_format::avb::{self, AvbError, Vbmeta};

use crate::golden::{NAMES, image};

/// Bytes of the vbmeta image alone.
fn vbmeta(name: &str) -> Vec<u8> {
    let image = image(name);
    match avb::footer(&image).unwrap() {
        Some(footer) => {
            let start = usize::try_from(footer.vbmeta_offset).unwrap();
            image[start..start + usize::try_from(footer.vbmeta_len).unwrap()].to_vec()
        }
        None => image,
    }
}

#[test]
fn a_truncated_vbmeta_is_an_error() {
    for name in NAMES {
        let bytes = vbmeta(name);
        let used = bytes.iter().rposition(|&byte| byte != 0).unwrap();
        for len in 0..used {
            assert!(Vbmeta::parse(&bytes[..len]).is_err(), "{name} cut to {len}");
        }
    }
}

#[test]
fn a_flipped_byte_of_what_is_signed_is_noticed() {
    for name in ["vbmeta", "recovery"] {
        let mut bytes = vbmeta(name);
        let signed = Vbmeta::parse(&bytes).unwrap();
        let used = bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
        // Modular exponentiation takes its time without optimisation; digests are compared before it.
        for at in 0..used {
            bytes[at] ^= 0x10;
            if let Ok(vbmeta) = Vbmeta::parse(&bytes) {
                let signature_block = 256..256 + if name == "vbmeta" { 320 } else { 576 };
                // The same again where the byte was padding.
                let tried = !signature_block.contains(&at) || at % 64 == 0;
                assert!(!tried || vbmeta == signed || vbmeta.verify().is_err(), "{name} at {at}");
            }
            bytes[at] ^= 0x10;
        }
    }
}

#[test]
fn a_flipped_byte_of_an_unsigned_vbmeta_is_no_panic() {
    for name in ["system", "boot"] {
        let mut bytes = vbmeta(name);
        for at in 0..bytes.len() {
            for mask in [1, 0x80, 0xff] {
                bytes[at] ^= mask;
                let _outcome = Vbmeta::parse(&bytes);
                bytes[at] ^= mask;
            }
        }
    }
}

#[test]
fn a_flipped_byte_of_a_footer_is_no_panic() {
    let mut image = image("system");
    let start = image.len() - 64;
    for at in start..image.len() {
        for mask in [1, 0x80, 0xff] {
            image[at] ^= mask;
            let read = avb::read(&image);
            let magic = at < start + 4;
            assert!(!magic || matches!(read, Ok(None)), "{at}");
            image[at] ^= mask;
        }
    }
}

#[test]
fn refuses_a_footer_that_points_beyond_the_image() {
    let mut image = image("system");
    let offset = image.len() - 64 + 20;
    let beyond = (image.len() - 64 - 800) as u64;
    image[offset..offset + 8].copy_from_slice(&beyond.to_be_bytes());

    assert!(matches!(avb::footer(&image), Err(AvbError::FooterBeyond { .. })));

    image[offset..offset + 8].copy_from_slice(&u64::MAX.to_be_bytes());
    assert!(matches!(avb::footer(&image), Err(AvbError::FooterBeyond { .. })));
}

#[test]
fn refuses_more_than_a_bootloader_takes() {
    let mut image = vec![0; 1 << 20];
    let footer = image.len() - 64;
    image[footer..footer + 8].copy_from_slice(b"AVBf\0\0\0\x01");
    image[footer + 28..footer + 36].copy_from_slice(&(65537_u64).to_be_bytes());

    assert!(matches!(avb::read(&image), Err(AvbError::TooLong(65537))));
}

#[test]
fn refuses_what_it_does_not_know_by_name() {
    let bytes = vbmeta("vbmeta");
    let parse = |at: usize, new: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        Vbmeta::parse(&bytes)
    };

    assert!(matches!(parse(0, b"AVB1"), Err(AvbError::Magic { .. })));
    assert!(matches!(parse(4, &[0, 0, 0, 2]), Err(AvbError::Version { major: 2, .. })));
    assert!(matches!(parse(8, &[0, 0, 0, 9]), Err(AvbError::Version { minor: 9, .. })));
    assert!(matches!(parse(19, &[1]), Err(AvbError::Unaligned { len: 257, .. })));
    assert!(matches!(parse(20, &[0xff; 8]), Err(AvbError::Unaligned { .. })));
    assert!(matches!(parse(20, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xc0]), Err(AvbError::Truncated { .. })));
    assert!(matches!(parse(31, &[7]), Err(AvbError::Algorithm(7))));
    assert!(matches!(parse(64, &[0xff; 8]), Err(AvbError::Truncated { what: "key", .. })));
    assert!(matches!(parse(96, &[0xff; 16]), Err(AvbError::Truncated { what: "descriptors", .. })));
    assert!(matches!(parse(128, &[b'x'; 48]), Err(AvbError::Release)));
}
