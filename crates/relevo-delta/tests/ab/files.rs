//! Images with file systems: files are found again, and whatever is known of them, the result is the new image.

use std::{fs, io::Write as _, path::Path, process::Command, sync::OnceLock};

use relevo_delta::ab::Options;
use relevo_format::{ReadAt as _, payload::OperationKind};

use crate::{
    avb,
    support::{Build, count, made, noise},
};

/// A tool of Debian's, also where only root looks; without it the test says so and checks nothing, except in CI.
#[expect(clippy::disallowed_methods, reason = "whether CI promised the tools, only the environment knows")]
fn tool(name: &str) -> Option<Command> {
    let dirs = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect::<Vec<_>>();
    let all = dirs.into_iter().chain(["/usr/sbin", "/sbin"].map(Into::into));
    let path = all.map(|dir| dir.join(name)).find(|path| path.is_file());
    if path.is_none() {
        let in_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
        assert!(!in_ci, "{name} is not installed");
        eprintln!("\n*** {name} is not installed: NOTHING IS CHECKED HERE ***\n");
    }
    path.map(Command::new)
}

/// Bytes that compress about as well as code does.
pub(crate) fn text(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 16);
    for pick in noise(len, seed) {
        bytes.extend(noise(3 + usize::from(pick) % 9, u64::from(pick) + 1));
        if bytes.len() >= len {
            break;
        }
    }
    bytes.truncate(len);
    bytes
}

/// Changes a byte here and there, and where everything stands.
pub(crate) fn edited(bytes: &[u8]) -> Vec<u8> {
    let mut edited = [&bytes[..1000], b"a few bytes more", &bytes[1000..]].concat();
    (5000..edited.len()).step_by(20_011).for_each(|at| edited[at] ^= 0x55);
    edited
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The files of a build; the first of them have no blocks of their own.
fn tree(dir: &Path, is_new: bool) {
    let change = |bytes: Vec<u8>| if is_new { edited(&bytes) } else { bytes };
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    write("a/empty", b"");
    write("a/short", b"no blocks of its own, if they are kept in the inode");
    write("lib/libcode.so", &change(text(600_000, 1)));
    write("app/doc.gz", &gzip(&change(text(400_000, 2))));
    write("lib/libsame.so", &text(200_000, 3));
    write(if is_new { "lib/libnew-2.so" } else { "lib/libold-1.so" }, &change(text(300_000, 4)));
    if is_new {
        write("etc/added", &noise(20_000, 5));
    } else {
        write("etc/removed", &noise(30_000, 6));
    }
}

/// A file whose name says nothing of what it was called before, behind one that is kept in its inode.
fn renamed(dir: &Path, is_new: bool) {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("a"), b"short").unwrap();
    let code = text(600_000, 1);
    let (name, code) = if is_new { ("other", edited(&code)) } else { ("library", code) };
    fs::write(dir.join(name), code).unwrap();
}

fn ext4(is_new: bool) -> Option<Vec<u8>> {
    ext4_with(is_new, &["-b", "4096", "-O", "^has_journal,^metadata_csum"])
}

fn ext4_with(is_new: bool, options: &[&str]) -> Option<Vec<u8>> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (root, image) = (dir.path().join("root"), dir.path().join("image"));
    tree(&root, is_new);
    let mut command = tool("mkfs.ext4")?;
    command.args(["-q"]).args(options).arg("-d").arg(&root).arg(&image).arg("4M");
    assert!(command.status().unwrap().success());
    Some(fs::read(image).unwrap())
}

fn erofs(tree: fn(&Path, bool), is_new: bool, compression: &[&str]) -> Option<Vec<u8>> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (root, image) = (dir.path().join("root"), dir.path().join("image"));
    tree(&root, is_new);
    let mut command = tool("mkfs.erofs")?;
    command.args(compression).args(["-T", "1230768000", "-U", "00000000-0000-0000-0000-000000000001", "--quiet"]);
    assert!(command.arg(&image).arg(&root).status().unwrap().success());
    let mut bytes = fs::read(image).unwrap();
    bytes.resize(bytes.len().next_multiple_of(4096), 0);
    Some(bytes)
}

/// Two small builds, made once.
pub(crate) fn small(is_erofs: bool) -> Option<(Build, Build)> {
    static MADE: OnceLock<[Option<(Build, Build)>; 2]> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let compressed = |is_new| erofs(renamed, is_new, &["-zlz4hc,9", "-C16384"]);
        [pair(ext4(false), ext4(true)), pair(compressed(false), compressed(true))]
    });
    made[usize::from(is_erofs)].clone()
}

fn pair(old: Option<Vec<u8>>, new: Option<Vec<u8>>) -> Option<(Build, Build)> {
    Some((Build::from([("system", old?)]), Build::from([("system", new?)])))
}

#[test]
fn ext4_comes_back_at_every_minor_version() {
    let Some((old, new)) = pair(ext4(false), ext4(true)) else { return };

    for minor in 2..=9 {
        let generated = made(&old, &new, &Options { minor, ..Options::default() });

        assert_eq!(count(&generated, "system", OperationKind::Puffdiff) > 0, minor >= 5, "minor version {minor}");
        // Without puffin the gzip file is new, some 250 KB of it.
        let most = if minor >= 5 { 60_000 } else { 400_000 };
        assert!(generated.blobs.len().get() < most, "{} at minor version {minor}", generated.blobs.len());
    }
}

#[test]
fn erofs_comes_back_at_every_minor_version() {
    for compression in [&["-zlz4hc,9", "-C65536"][..], &["-zlz4hc,9", "-C4096"], &["-zlz4"], &[]] {
        let made_of = |is_new| erofs(tree, is_new, compression);
        let Some((old, new)) = pair(made_of(false), made_of(true)) else { return };

        for minor in [2, 4, 5, 8, 9] {
            let generated = made(&old, &new, &Options { minor, ..Options::default() });

            let kinds = [OperationKind::Lz4diffBsdiff, OperationKind::Lz4diffPuffdiff];
            let lz4diff: u64 = kinds.iter().map(|&kind| count(&generated, "system", kind)).sum();
            assert_eq!(lz4diff > 0, minor >= 9 && !compression.is_empty(), "{compression:?}, minor version {minor}");
        }
    }
}

/// Two files had one number if the first had no blocks of its own, and the second was never looked into.
#[test]
fn a_renamed_file_behind_one_without_blocks_is_found_again() {
    for compression in [&["-zlz4hc,9", "-C65536"][..], &[]] {
        let made_of = |is_new| erofs(renamed, is_new, compression);
        let Some((old, new)) = pair(made_of(false), made_of(true)) else { return };

        let generated = made(&old, &new, &Options::default());

        assert!(generated.blobs.len().get() < 10_000, "{} with {compression:?}", generated.blobs.len());
    }
}

#[test]
fn file_systems_laid_out_otherwise_come_back() {
    let erofs_options = [
        &["-zlz4hc,9", "-C16384", "-Eztailpacking"][..],
        &["-zlz4hc,9", "-C65536", "-Eall-fragments,dedupe"],
        &["-zlz4", "-Elegacy-compress,ztailpacking"],
        &["-zlz4hc", "-Ededupe"],
        &["--chunksize=4096"],
        &["-Enoinline_data"],
    ];
    for options in erofs_options {
        let Some((old, new)) = pair(erofs(tree, false, options), erofs(tree, true, options)) else { return };
        made(&old, &new, &Options::default());
    }
    for options in [&["-O", "inline_data"][..], &["-b", "1024"], &["-O", "^extent,^64bit"]] {
        let Some((old, new)) = pair(ext4_with(false, options), ext4_with(true, options)) else { return };
        made(&old, &new, &Options::default());
    }
    // From one file system to the other.
    let Some((old, new)) = pair(ext4(false), erofs(tree, true, &["-zlz4"])) else { return };
    made(&old, &new, &Options::default());
    made(&new, &old, &Options::default());
}

/// From minor version 6 on phones compute what is behind the files, before that it is carried: the image is the same.
#[test]
fn files_come_back_with_what_phones_compute_behind_them() {
    let images = [pair(ext4(false), ext4(true)), {
        let made_of = |is_new| erofs(tree, is_new, &["-zlz4hc,9", "-C65536"]);
        pair(made_of(false), made_of(true))
    }];
    for (mut old, mut new) in images.into_iter().flatten() {
        let blocks = new["system"].len() as u64 / 4096;
        let end = |build: &mut Build| build.values_mut().for_each(|image| *image = avb::image(std::mem::take(image)));
        [&mut old, &mut new].into_iter().for_each(end);

        for (minor, verity) in [(5, true), (6, true), (6, false), (9, true), (9, false)] {
            let generated = made(&old, &new, &Options { minor, verity, ..Options::default() });

            let left = (minor >= 6 && verity).then(|| avb::left(blocks));
            assert_eq!(generated.partitions[0].verity, left, "minor version {minor}, asked for: {verity}");
        }
    }
}

#[test]
fn a_damaged_file_system_is_plain_bytes() {
    let Some((mut old, mut new)) = pair(ext4(false), ext4(true)) else { return };
    let at_root_inode = |image: &mut Vec<u8>| image[1024 + 0x58] = 1;
    [&mut old, &mut new].into_iter().for_each(|build| build.values_mut().for_each(at_root_inode));

    let generated = made(&old, &new, &Options::default());

    assert!(generated.report.warnings.iter().any(|text| text.contains("system")), "{:?}", generated.report.warnings);
    assert!(generated.blobs.len().get() < 500_000, "{}", generated.blobs.len());
}

#[test]
fn a_file_that_does_not_decompress_is_named_and_no_reason_to_stop() {
    for is_new in [false, true] {
        let Some((mut old, mut new)) = small(true) else { return };
        let build = if is_new { &mut new } else { &mut old };
        // The first blocks behind the metadata are of the one file that has some.
        build.get_mut("system").unwrap()[8192..12_288].copy_from_slice(&noise(4096, 9));

        let generated = made(&old, &new, &Options::default());

        let named = ["partition system of the source build is broken: library does not decompress"];
        assert_eq!(generated.report.warnings, if is_new { &[][..] } else { &named });
    }
}
