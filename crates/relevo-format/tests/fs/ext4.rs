//! ext4 as e2fsprogs makes it.

use std::{fs, path::Path};

use relevo_format::{
    FileAt, ReadAt,
    fs::{self as images, Content, FileSystem, FsError, Kind, Limits, Stored},
};
use tempfile::TempDir;

use crate::fixture::{Entry, assert_same, entries_of_tree, make_tree, noise, run, tool};

/// An image of `tree`, by mke2fs with these arguments.
fn make(image: &Path, tree: &Path, arguments: &[&str], size: &str) -> Option<()> {
    run(tool("mke2fs")?.args(["-q", "-F", "-d"]).arg(tree).args(arguments).arg(image).arg(size));
    Some(())
}

fn holds_the_tree(arguments: &[&str]) -> Option<FileSystem> {
    let dir = TempDir::new().unwrap();
    let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
    make_tree(&tree, 3);
    if arguments.contains(&"inline_data") {
        // mke2fs 1.47.0 forgets the hole at the end of a file then.
        fs::remove_file(tree.join("etc/holes")).unwrap();
    }
    make(&image, &tree, arguments, "32M")?;

    let listing = assert_same(&image, &entries_of_tree(&tree));

    assert_eq!(listing.kind, Kind::Ext4);
    Some(listing)
}

fn extents<'a>(listing: &'a FileSystem, path: &str) -> &'a [images::Extent] {
    let file = listing.files.iter().find(|file| file.path == path.as_bytes()).unwrap();
    let Content::Plain(extents) = &file.content else { panic!("{path} is compressed") };
    extents
}

#[test]
fn reads_what_android_has() {
    let android = ["-t", "ext4", "-b", "4096", "-I", "256", "-O", "^has_journal,^metadata_csum,^64bit"];
    let Some(listing) = holds_the_tree(&android) else { return };

    assert_eq!(listing.block_size, 4096);
    assert!(extents(&listing, "lib/libtext.so").iter().all(|extent| matches!(extent.stored, Stored::Blocks(_))));
    assert!(extents(&listing, "etc/holes").iter().any(|extent| extent.stored == Stored::Hole));
    assert!(matches!(extents(&listing, "etc/link59")[0].stored, Stored::Inline(_)));
    assert!(matches!(extents(&listing, "etc/link60")[0].stored, Stored::Blocks(_)));
    let inode = |path: &[u8]| listing.files.iter().find(|file| file.path == path).unwrap().inode;
    assert_eq!(inode(b"lib/libtext.so"), inode(b"lib/libagain.so"));
    assert_ne!(inode(b"lib/libtext.so"), inode(b"lib/libtwin.so"));
}

#[test]
fn reads_every_block_size() {
    for (size, bytes) in [("1024", 1024), ("2048", 2048), ("65536", 65536)] {
        if let Some(listing) = holds_the_tree(&["-t", "ext4", "-b", size]) {
            assert_eq!(listing.block_size, bytes);
        }
    }
}

#[test]
fn reads_old_block_maps() {
    for arguments in
        [&["-t", "ext2", "-b", "1024"][..], &["-t", "ext3", "-b", "4096", "-I", "128"], &["-t", "ext2", "-r", "0"]]
    {
        holds_the_tree(arguments);
    }
}

#[test]
fn reads_inline_data() {
    let Some(listing) = holds_the_tree(&["-t", "ext4", "-b", "4096", "-I", "256", "-O", "inline_data"]) else { return };

    assert!(matches!(extents(&listing, "sizes/59")[..], [images::Extent { stored: Stored::Inline(_), .. }]));
    assert_eq!(extents(&listing, "sizes/100").len(), 2, "in the inode, and in its attribute");
    assert!(extents(&listing, "sizes/100").iter().all(|extent| matches!(extent.stored, Stored::Inline(_))));
}

#[test]
fn reads_every_layout_of_groups() {
    for features in
        ["64bit,^flex_bg", "meta_bg,^resize_inode", "meta_bg,^resize_inode,64bit,^flex_bg", "bigalloc", "sparse_super2"]
    {
        // Small groups, so that there are many.
        let groups = if features == "bigalloc" { &[][..] } else { &["-g", "1024"] };
        holds_the_tree(&[&["-t", "ext4", "-b", "1024", "-O", features][..], groups].concat());
    }
    holds_the_tree(&["-t", "ext4", "-O", "^filetype,^dir_index"]);
}

#[test]
fn reads_deep_trees_unwritten_extents_and_indexed_directories() {
    let dir = TempDir::new().unwrap();
    let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
    make_tree(&tree, 1);
    let scattered = fs::File::create(tree.join("scattered")).unwrap();
    for at in 0..2000 {
        std::os::unix::fs::FileExt::write_all_at(&scattered, &noise(1024, at), at * 8192).unwrap();
    }
    for number in 0..1500 {
        fs::write(tree.join(format!("etc/many/{number} {}", "x".repeat(60))), b"").unwrap();
    }
    fs::write(tree.join("n".repeat(255)), b"longest name").unwrap();
    fs::write(tree.join("grows"), b"").unwrap();
    let Some(()) = make(&image, &tree, &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum"], "32M") else { return };
    let (Some(mut debugfs), Some(mut fsck)) = (tool("debugfs"), tool("e2fsck")) else { return };
    run(debugfs.args(["-w", "-R", "fallocate /grows 0 9"]).arg(&image));
    run(tool("debugfs").unwrap().args(["-w", "-R", "set_inode_field /grows size 5000"]).arg(&image));
    // It says by its status that it changed something.
    fsck.args(["-fyD"]).arg(&image).output().unwrap();
    let depth = run(tool("debugfs").unwrap().args(["-R", "dump_extents /scattered"]).arg(&image));
    assert!(depth.contains(" 1/ 2 "), "not deep: {depth}");
    let indexed = run(tool("debugfs").unwrap().args(["-R", "htree_dump /etc/many"]).arg(&image));
    assert!(indexed.contains("Root node dump"), "{indexed}");

    let mut wanted = entries_of_tree(&tree);
    wanted.insert(b"grows".to_vec(), Entry::Regular(vec![0; 5000]));
    let listing = assert_same(&image, &wanted);

    assert_eq!(extents(&listing, "scattered").len(), 3999);
    assert_eq!(extents(&listing, "grows"), [images::Extent { file_offset: 0, len: 5000, stored: Stored::Hole }]);
}

#[test]
fn extents_are_those_that_debugfs_says() {
    let dir = TempDir::new().unwrap();
    let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
    make_tree(&tree, 3);
    let Some(()) = make(&image, &tree, &["-t", "ext4", "-b", "4096"], "32M") else { return };
    let listing = assert_same(&image, &entries_of_tree(&tree));

    for path in ["lib/libtext.so", "lib/libmixed.so", "sizes/12289", "etc/link200"] {
        let said = run(tool("debugfs").unwrap().args(["-R", &format!("blocks /{path}")]).arg(&image));
        let said: Vec<u64> = said.split_whitespace().map(|number| number.parse().unwrap()).collect();

        let mut ours = Vec::new();
        for extent in extents(&listing, path) {
            let Stored::Blocks(start) = extent.stored else { panic!("{extent:?}") };
            ours.extend((start..start + extent.len).step_by(4096).map(|byte| byte / 4096));
        }
        assert_eq!(ours, said, "{path}");
    }
}

/// AOSP's mke2fs lets equal blocks of files be one, and says so by the feature `shared_blocks`.
#[test]
fn reads_blocks_that_two_files_share() {
    let dir = TempDir::new().unwrap();
    let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
    fs::create_dir(&tree).unwrap();
    let bytes = noise(3 * 4096, 1);
    fs::write(tree.join("one"), &bytes).unwrap();
    fs::write(tree.join("two"), [&bytes[..4096], &[7; 4096], &bytes[8192..]].concat()).unwrap();
    let Some(()) = make(&image, &tree, &["-t", "ext2", "-b", "4096"], "1M") else { return };
    let mut wanted = entries_of_tree(&tree);
    let blocks = run(tool("debugfs").unwrap().args(["-R", "blocks /one"]).arg(&image));
    let blocks: Vec<&str> = blocks.split_whitespace().collect();
    for (command, argument) in [
        ("feature", "shared_blocks".to_owned()),
        ("sif", format!("/two block[1] {}", blocks[1])),
        ("sif", format!("/two block[0] {}", blocks[0])),
    ] {
        run(tool("debugfs").unwrap().args(["-w", "-R", &format!("{command} {argument}")]).arg(&image));
    }
    wanted.insert(b"two".to_vec(), Entry::Regular(bytes));

    let listing = assert_same(&image, &wanted);

    let [one, two] = ["one", "two"].map(|path| extents(&listing, path));
    assert_eq!(two[0].stored, one[0].stored);
    assert_eq!(two[0].len, 8192);
}

#[test]
fn refuses_by_name_what_it_does_not_know() {
    let dir = TempDir::new().unwrap();
    let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
    fs::create_dir(&tree).unwrap();
    let Some(()) = make(&image, &tree, &["-t", "ext4"], "4M") else { return };
    for (feature, name) in [(0x4_u32, "needs_recovery"), (0x1, "compression"), (0x8000_0000, "0x80000000")] {
        let mut bytes = fs::read(&image).unwrap();
        let incompat = u32::from_le_bytes(bytes[1024 + 0x60..][..4].try_into().unwrap());
        bytes[1024 + 0x60..][..4].copy_from_slice(&(incompat | feature).to_le_bytes());

        let error = images::read(&bytes, &Limits::default()).unwrap_err();

        assert!(
            matches!(&error, FsError::Unsupported { kind: Kind::Ext4, feature } if feature.contains(name)),
            "{error}"
        );
    }
}

#[test]
fn stops_at_each_limit() {
    let dir = TempDir::new().unwrap();
    let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
    make_tree(&tree, 1);
    let Some(()) = make(&image, &tree, &["-t", "ext4", "-b", "1024"], "8M") else { return };
    let image = FileAt::open(&image).unwrap();
    let most = Limits::default();
    for limits in [
        Limits { files: 20, ..most },
        Limits { path_bytes: 100, ..most },
        Limits { depth: 3, ..most },
        Limits { extents: 30, ..most },
        Limits { directory_bytes: 5000, ..most },
        Limits { file_bytes: 100_000, ..most },
    ] {
        let error = images::read(&image, &limits).unwrap_err();

        assert!(matches!(error, FsError::Limit { kind: Kind::Ext4, .. }), "{limits:?}: {error}");
    }
}

#[test]
fn reads_contents_from_any_offset() {
    let dir = TempDir::new().unwrap();
    let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
    make_tree(&tree, 1);
    let Some(()) = make(&image, &tree, &["-t", "ext4", "-b", "1024"], "8M") else { return };
    let wanted = fs::read(tree.join("etc/holes")).unwrap();
    let image = FileAt::open(&image).unwrap();
    let listing = images::read(&image, &Limits::default()).unwrap();
    let file = listing.files.iter().find(|file| file.path == b"etc/holes").unwrap();

    let contents = images::open(&image, file);

    for (offset, len) in [(0, 1), (4095, 2), (1, 20_000), (wanted.len() - 3, 3), (wanted.len(), 0)] {
        let mut bytes = vec![1; len];
        contents.read_exact_at(&mut bytes, offset as u64).unwrap();
        assert_eq!(bytes, wanted[offset..offset + len]);
    }
    assert!(contents.read_exact_at(&mut [0; 2], wanted.len() as u64 - 1).is_err());
    assert!(contents.read_exact_at(&mut [0], u64::MAX).is_err());
}
