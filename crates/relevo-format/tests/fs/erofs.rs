//! EROFS as erofs-utils makes it.

use std::{fs, path::Path};

use relevo_format::{
    FileAt, ReadAt,
    fs::{self as images, Cluster, Coding, Content, FileSystem, FsError, Kind, Limits, Stored},
};
use tempfile::TempDir;

use crate::fixture::{Entries, assert_same, entries_of_image, entries_of_tree, make_tree, noise, run, text, tool};

/// An image of `tree`, by mkfs.erofs with these arguments.
fn make(image: &Path, tree: &Path, arguments: &[&str]) -> Option<()> {
    run(tool("mkfs.erofs")?.args(["--quiet", "-T0"]).args(arguments).arg(image).arg(tree));
    Some(())
}

fn holds_the_tree(arguments: &[&str]) -> Option<FileSystem> {
    // Not in TMPDIR, which may be a tmpfs: there mkfs.erofs 1.5 ends with an I/O error when it writes chunks.
    let dir = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
    make_tree(&tree, 3);
    make(&image, &tree, arguments)?;

    let listing = assert_same(&image, &entries_of_tree(&tree));

    assert_eq!((listing.kind, listing.block_size), (Kind::Erofs, 4096), "{arguments:?}");
    Some(listing)
}

fn clusters<'a>(listing: &'a FileSystem, path: &str) -> &'a [Cluster] {
    let file = listing.files.iter().find(|file| file.path == path.as_bytes()).unwrap();
    let Content::Compressed(clusters) = &file.content else { panic!("{path} is not compressed") };
    clusters
}

fn all_clusters(listing: &FileSystem) -> impl Iterator<Item = &Cluster> {
    listing.files.iter().flat_map(|file| match &file.content {
        Content::Compressed(clusters) => &clusters[..],
        Content::Plain(_) => &[],
    })
}

#[test]
fn reads_plain_files() {
    let Some(listing) = holds_the_tree(&[]) else { return };

    let file = listing.files.iter().find(|file| file.path == b"sizes/4097").unwrap();
    let Content::Plain(extents) = &file.content else { panic!("compressed") };
    assert!(matches!(extents[0].stored, Stored::Blocks(_)));
    assert!(matches!(extents[1].stored, Stored::Inline(_)));
    holds_the_tree(&["-Enoinline_data"]);
}

#[test]
fn reads_both_sizes_of_inodes_with_and_without_attributes() {
    holds_the_tree(&["-Eforce-inode-compact", "-x-1"]);
    holds_the_tree(&["-Eforce-inode-extended", "-zlz4"]);

    let dir = TempDir::new().unwrap();
    let (tree, image, contexts) = (dir.path().join("tree"), dir.path().join("image"), dir.path().join("contexts"));
    make_tree(&tree, 1);
    // Each file has a label, as on Android; some are shared, as there.
    fs::write(&contexts, "/.*    u:object_r:system_file:s0\n/lib/.*\\.so    u:object_r:system_lib_file:s0\n").unwrap();
    let contexts = format!("--file-contexts={}", contexts.display());
    for tolerance in ["-x0", "-x1", "-x100"] {
        let Some(()) = make(&image, &tree, &["-zlz4hc", tolerance, &contexts]) else { return };
        assert_same(&image, &entries_of_tree(&tree));
    }
}

#[test]
fn reads_compact_indexes() {
    for cluster in ["4096", "65536", "1048576"] {
        let Some(listing) = holds_the_tree(&["-zlz4hc,9", "-C", cluster]) else { return };

        let most: u64 = cluster.parse().unwrap();
        assert!(all_clusters(&listing).all(|cluster| cluster.stored_len <= most));
        assert!(all_clusters(&listing).any(|cluster| cluster.coding == Coding::Lz4));
        let plain = all_clusters(&listing).any(|cluster| cluster.coding == Coding::Plain);
        assert!(plain || most > 4096, "what does not compress is stored as it is");
        let longest = clusters(&listing, "lib/libtext.so").iter().map(|cluster| cluster.stored_len).max();
        assert_eq!(longest > Some(4096), most > 4096);
    }
}

#[test]
fn reads_full_indexes() {
    holds_the_tree(&["-zlz4", "-Elegacy-compress", "-C4096"]);
    holds_the_tree(&["-zlz4", "-Elegacy-compress", "-C65536"]);
}

#[test]
fn reads_images_from_before_the_padding() {
    let dir = TempDir::new().unwrap();
    let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
    make_tree(&tree, 3);
    let Some(()) = make(&image, &tree, &["-zlz4", "-Elegacy-compress"]) else { return };
    let bytes = fs::read(&image).unwrap();
    assert_eq!(bytes[1024 + 80] & 1, 0, "legacy images have no padding in front");

    let listing = assert_same(&image, &entries_of_tree(&tree));

    assert!(all_clusters(&listing).any(|cluster| cluster.coding == Coding::Lz4Unpadded));
}

#[test]
fn reads_tails_packed_behind_inodes() {
    for indexes in ["-Eztailpacking", "-Eztailpacking,legacy-compress"] {
        let Some(listing) = holds_the_tree(&["-zlz4hc,9", "-C16384", indexes]) else { return };

        assert!(all_clusters(&listing).any(|cluster| cluster.inline));
    }
}

/// Whether the image has fragments or shared clusters, which have one bit of the superblock. erofs-utils 1.5, Debian
/// 12's, knows neither and says nothing when asked for them; the golden images have both.
fn shares(image: &Path) -> bool {
    let shares = fs::read(image).unwrap()[1024 + 80] & 0x20 != 0;
    if !shares {
        eprintln!("\n*** this mkfs.erofs makes neither fragments nor shared clusters ***\n");
    }
    shares
}

#[test]
fn reads_fragments() {
    let dir = TempDir::new().unwrap();
    let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
    make_tree(&tree, 3);
    for arguments in [
        &["-zlz4hc,9", "-Efragments"][..],
        &["-zlz4hc,9", "-Efragments,ztailpacking"],
        &["-zlz4hc,9", "-C16384", "-Efragments,legacy-compress"],
        &["-zlz4hc,9", "-C16384", "-Eall-fragments"],
        &["-zlz4hc,9", "-C65536", "-Eall-fragments,dedupe"],
    ] {
        let Some(()) = make(&image, &tree, arguments) else { return };

        let listing = assert_same(&image, &entries_of_tree(&tree));

        assert!(!shares(&image) || all_clusters(&listing).any(|cluster| cluster.skip > 0), "{arguments:?}");
    }
}

#[test]
fn reads_clusters_that_files_share() {
    let dir = TempDir::new().unwrap();
    let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
    make_tree(&tree, 1);
    let shared = [text(150_000, 1), noise(30_000, 2), text(50_000, 3)].concat();
    fs::write(tree.join("one"), &shared).unwrap();
    fs::write(tree.join("two"), [b"begins otherwise", &shared[..110_000], &text(9000, 7)].concat()).unwrap();
    fs::write(tree.join("three"), [&shared[40_000..], &shared[..100_000]].concat()).unwrap();
    for arguments in
        [&["-zlz4hc,9", "-Ededupe"][..], &["-zlz4", "-C65536", "-Ededupe"], &["-zlz4hc", "-Ededupe,fragments"]]
    {
        let Some(()) = make(&image, &tree, arguments) else { return };

        let listing = assert_same(&image, &entries_of_tree(&tree));

        assert!(!shares(&image) || all_clusters(&listing).any(|cluster| cluster.partial), "{arguments:?}");
    }
}

#[test]
fn reads_chunks() {
    for arguments in [&["--chunksize=4096"][..], &["--chunksize=65536"], &["--chunksize=4096", "-Eforce-chunk-indexes"]]
    {
        let Some(listing) = holds_the_tree(arguments) else { return };

        let content = |path: &[u8]| &listing.files.iter().find(|file| file.path == path).unwrap().content;
        assert_eq!(content(b"lib/libtext.so"), content(b"lib/libtwin.so"), "equal chunks are stored once");
    }
}

#[test]
fn clusters_are_those_that_dump_erofs_says() {
    let dir = TempDir::new().unwrap();
    let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
    make_tree(&tree, 4);
    let Some(()) = make(&image, &tree, &["-zlz4hc,9", "-C65536"]) else { return };
    let listing = assert_same(&image, &entries_of_tree(&tree));

    for path in ["lib/libtext.so", "lib/libmixed.so", "etc/holes"] {
        let Some(mut dump) = tool("dump.erofs") else { return };
        // Lines of `  0:   0..  65536 |  65536 :  4096..  69632 |  65536`: logical, then physical.
        let said: Vec<[u64; 4]> = run(dump.args(["-e", "--path"]).arg(format!("/{path}")).arg(&image))
            .lines()
            .filter(|line| line.contains("..") && line.contains('|'))
            .map(|line| {
                let numbers: Vec<u64> =
                    line.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect();
                [numbers[1], numbers[3], numbers[4], numbers[6]]
            })
            .collect();

        let ours: Vec<[u64; 4]> = clusters(&listing, path)
            .iter()
            .map(|cluster| [cluster.file_offset, cluster.len, cluster.image_offset, cluster.stored_len])
            .collect();
        assert_eq!(ours, said, "{path}");
    }
}

#[test]
fn refuses_by_name_what_it_does_not_know() {
    let dir = TempDir::new().unwrap();
    let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
    make_tree(&tree, 1);
    let Some(()) = make(&image, &tree, &["-zlz4hc"]) else { return };
    for (at, value, name) in
        [(80, 0x80, "48bit"), (81, 1, "metabox"), (83, 0x80, "0x80000000"), (90, 1, "directory blocks")]
    {
        let mut bytes = fs::read(&image).unwrap();
        bytes[1024 + at] |= value;

        let error = images::read(&bytes, &Limits::default()).unwrap_err();

        assert!(
            matches!(&error, FsError::Unsupported { kind: Kind::Erofs, feature } if feature.contains(name)),
            "{error}"
        );
    }

    let blobs = format!("--blobdev={}", dir.path().join("blobs").display());
    let Some(()) = make(&image, &tree, &["--chunksize=4096", &blobs]) else { return };
    let error = images::read(&FileAt::open(&image).unwrap(), &Limits::default()).unwrap_err();
    assert!(matches!(&error, FsError::Unsupported { feature, .. } if feature.contains("device_table")), "{error}");
}

#[test]
fn stops_at_each_limit() {
    let dir = TempDir::new().unwrap();
    let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
    make_tree(&tree, 1);
    let Some(()) = make(&image, &tree, &["-zlz4hc"]) else { return };
    let image = FileAt::open(&image).unwrap();
    let most = Limits::default();
    for limits in [
        Limits { files: 20, ..most },
        Limits { path_bytes: 100, ..most },
        Limits { depth: 3, ..most },
        Limits { extents: 30, ..most },
        Limits { directory_bytes: 1500, ..most },
        Limits { file_bytes: 100_000, ..most },
    ] {
        let error = images::read(&image, &limits).unwrap_err();

        assert!(matches!(error, FsError::Limit { kind: Kind::Erofs, .. }), "{limits:?}: {error}");
    }
}

#[test]
fn reads_compressed_contents_from_any_offset_and_cluster_by_cluster() {
    let dir = TempDir::new().unwrap();
    let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
    make_tree(&tree, 2);
    let Some(()) = make(&image, &tree, &["-zlz4hc", "-C16384"]) else { return };
    let wanted = fs::read(tree.join("lib/libmixed.so")).unwrap();
    let image = FileAt::open(&image).unwrap();
    let (listing, _): (_, Entries) = entries_of_image(&image);
    let file = listing.files.iter().find(|file| file.path == b"lib/libmixed.so").unwrap();

    let contents = images::open(&image, file);
    for offset in (0..wanted.len()).step_by(7919).chain([wanted.len() - 1, 0]) {
        let mut bytes = vec![1; 10_000.min(wanted.len() - offset)];
        contents.read_exact_at(&mut bytes, offset as u64).unwrap();
        assert_eq!(bytes, wanted[offset..offset + bytes.len()]);
    }

    let (mut stored, mut decoded, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for cluster in clusters(&listing, "lib/libmixed.so") {
        cluster.decode(&image, &mut stored, &mut decoded).unwrap();
        all.extend_from_slice(&decoded);
    }
    assert_eq!(all, wanted);
}
