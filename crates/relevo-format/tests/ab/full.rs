//! Full payloads, written here.

use relevo_format::payload::ApplyError;

use crate::fixture::{Writer, apply_all, bz2, images, read, xz};

/// The parts of an image in pieces of 2 MiB, the way stock generators cut.
fn full(writer: &mut Writer, name: &str, image: &[u8]) {
    const PIECE: usize = 2 << 20;
    writer.partition(name, image);
    for (number, piece) in image.chunks(PIECE).enumerate() {
        let target = [((number * PIECE / 4096) as u64, (piece.len() / 4096) as u64)];
        if piece.iter().all(|&byte| byte == 0) {
            writer.operation(if number % 2 == 0 { 6 } else { 7 }, &[], &target);
            continue;
        }
        let choices = [(0, piece.to_vec()), (1, bz2(piece)), (8, xz(piece)), (14, zstd::encode_all(piece, 1).unwrap())];
        let (kind, data) = &choices[number % choices.len()];
        writer.operation(*kind, data, &target);
    }
}

#[test]
fn every_way_of_storing_makes_the_image() {
    let mut writer = Writer::new();
    for name in ["boot", "product"] {
        full(&mut writer, name, &images()[&format!("new/{name}.img")]);
    }
    let zeros = vec![0; 4 << 20];
    full(&mut writer, "empty", &zeros);
    let bytes = writer.bytes();
    let payload = read(&bytes).unwrap();

    let made = apply_all(&payload, &bytes, |_| None).unwrap();

    for name in ["boot", "product"] {
        assert!(made[name] == images()[&format!("new/{name}.img")], "{name}");
    }
    assert!(made["empty"] == zeros);
}

#[test]
fn blocks_go_where_the_extents_say() {
    let image: Vec<u8> = (0..6_u8).flat_map(|block| vec![block; 4096]).collect();
    let scattered: Vec<u8> = [5_u8, 0, 1, 3].iter().flat_map(|&block| vec![block; 4096]).collect();
    let rest: Vec<u8> = [2_u8, 4].iter().flat_map(|&block| vec![block; 4096]).collect();
    let mut writer = Writer::new();
    writer.partition("x", &image);
    writer.operation(8, &xz(&scattered), &[(5, 1), (0, 2), (3, 1)]).operation(1, &bz2(&rest), &[(2, 1), (4, 1)]);
    let bytes = writer.bytes();

    let made = apply_all(&read(&bytes).unwrap(), &bytes, |_| None).unwrap();

    assert_eq!(made["x"], image);
}

#[test]
fn bombs_end_where_the_partition_does() {
    // 64 MiB of zeros, which are some KB or less in each.
    let zeros = vec![0; 64 << 20];
    for (kind, data) in [(1, bz2(&zeros)), (8, xz(&zeros)), (14, zstd::encode_all(&zeros[..], 1).unwrap())] {
        let mut writer = Writer::new();
        writer.partition("x", &[0; 4096]).operation(kind, &data, &[(0, 1)]);
        let bytes = writer.bytes();

        let done = apply_all(&read(&bytes).unwrap(), &bytes, |_| None);

        assert!(matches!(done, Err(ApplyError::Length { expected: 4096, .. })), "{kind}: {done:?}");
    }
}

#[test]
fn an_xz_dictionary_over_the_limit_is_refused() {
    let mut options = liblzma::stream::LzmaOptions::new_preset(0).unwrap();
    options.dict_size(256 << 20);
    let mut filters = liblzma::stream::Filters::new();
    filters.lzma2(&options);
    let mut stream = liblzma::stream::Stream::new_stream_encoder(&filters, liblzma::stream::Check::Crc32).unwrap();
    let mut data = Vec::with_capacity(1 << 16);
    stream.process_vec(&[7; 4096], &mut data, liblzma::stream::Action::Finish).unwrap();
    let mut writer = Writer::new();
    writer.partition("x", &[7; 4096]).operation(8, &data, &[(0, 1)]);
    let bytes = writer.bytes();

    let done = apply_all(&read(&bytes).unwrap(), &bytes, |_| None);

    assert!(matches!(done, Err(ApplyError::Decode { .. })), "{done:?}");
}

#[test]
fn streams_that_are_cut_or_go_on_are_refused() {
    let block = vec![7; 4096];
    for (kind, data) in
        [(0, block.clone()), (1, bz2(&block)), (8, xz(&block)), (14, zstd::encode_all(&block[..], 1).unwrap())]
    {
        let longer = [&data[..], b"x"].concat();
        for data in [&data[..data.len() - 1], &longer] {
            let mut writer = Writer::new();
            writer.partition("x", &block).operation(kind, data, &[(0, 1)]);
            let bytes = writer.bytes();

            let done = apply_all(&read(&bytes).unwrap(), &bytes, |_| None);

            assert!(matches!(done, Err(ApplyError::Decode { .. } | ApplyError::Length { .. })), "{kind}: {done:?}");
        }
    }
}
