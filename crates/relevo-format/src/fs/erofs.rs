//! EROFS.
//!
//! # Source
//! Linux 6.12 `fs/erofs/erofs_fs.h` and `zmap.c`, erofs-utils 1.5 to 1.8.

use std::collections::HashSet;

use super::{
    Cluster, Coding, Content, File, FileKind, FileSystem, FsError, Kind, Limits, Stored,
    contents::{MAX_DECODED, MAX_STORED, open},
    tree::{Extents, Tree, u16_at, u32_at, u64_at},
};
use crate::ReadAt;

/// `magic`.
pub(super) const MAGIC: [u8; 4] = [0xe2, 0xe1, 0xf5, 0xe0];
const SUPERBLOCK: u64 = 1024;
/// Bytes that a node id counts in, and of a small inode.
const SLOT: u64 = 32;

// feature_incompat; where two share a bit, both begin to be used with the same kernel.
const ZERO_PADDING: u32 = 0x1;
const BIG_PCLUSTER: u32 = 0x2;
const CHUNKED_FILE: u32 = 0x4;
const DEVICE_TABLE: u32 = 0x8;
const ZTAILPACKING: u32 = 0x10;
const FRAGMENTS: u32 = 0x20;
const XATTR_PREFIXES: u32 = 0x40;
const KNOWN: u32 =
    ZERO_PADDING | BIG_PCLUSTER | CHUNKED_FILE | DEVICE_TABLE | ZTAILPACKING | FRAGMENTS | XATTR_PREFIXES;
/// Others, by the names that the kernel has for them.
const UNKNOWN: [(u32, &str); 2] = [(0x80, "48bit"), (0x100, "metabox")];

// h_advise
const COMPACTED_2B: u16 = 0x1;
const BIG_PCLUSTER_1: u16 = 0x2;
const BIG_PCLUSTER_2: u16 = 0x4;
const INLINE_PCLUSTER: u16 = 0x8;
const INTERLACED_PCLUSTER: u16 = 0x10;
const FRAGMENT_PCLUSTER: u16 = 0x20;
const KNOWN_ADVICE: u16 =
    COMPACTED_2B | BIG_PCLUSTER_1 | BIG_PCLUSTER_2 | INLINE_PCLUSTER | INTERLACED_PCLUSTER | FRAGMENT_PCLUSTER;
/// In `h_clusterbits`: all of the file is a fragment.
const FRAGMENT_INODE: u8 = 0x80;

/// In the distance of a second logical cluster: it is the number of blocks instead.
const IS_BLOCK_COUNT: u16 = 1 << 11;
/// In `di_advise`: only the first part of what the cluster decodes to.
const PARTIAL_REF: u16 = 1 << 15;

/// `blkaddr` of nothing but zeros.
const NULL_ADDRESS: u32 = u32::MAX;

struct Erofs<'a> {
    image: &'a dyn ReadAt,
    tree: Tree<'a>,
    block_bits: u32,
    incompat: u32,
    /// First byte of the inodes.
    inodes: u64,
    /// What fragments are of.
    packed: Option<Box<File>>,
}

struct Inode {
    nid: u64,
    /// First byte in the image.
    offset: u64,
    mode: u16,
    size: u64,
    layout: u16,
    /// Block address, or the format of chunks.
    union: u32,
    /// First byte after it and its attributes.
    end: u64,
}

/// Lists the files.
pub(super) fn read(image: &dyn ReadAt, limits: &Limits) -> Result<FileSystem, FsError> {
    let mut fs = Erofs::new(image, limits)?;
    let block_size = 1 << fs.block_bits;
    let bytes = fs.tree.array::<128>(SUPERBLOCK)?;
    let packed_nid = u64_at(&bytes, 96);
    if fs.incompat & FRAGMENTS != 0 && packed_nid != 0 {
        let inode = fs.inode(packed_nid, SUPERBLOCK + 96)?;
        let content = fs.content(&inode)?;
        fs.packed = Some(Box::new(file(&inode, content)));
    }

    let root = u64::from(u16_at(&bytes, 14));
    let mut seen = HashSet::from([root]);
    let mut open = vec![(root, Vec::new(), 0)];
    while let Some((directory, path, depth)) = open.pop() {
        for (nid, name, offset) in fs.entries(directory)? {
            let path = fs.tree.path(&path, depth, &name, offset)?;
            let inode = fs.inode(nid, offset)?;
            match inode.mode >> 12 {
                0o04 => {
                    if !seen.insert(nid) {
                        return Err(fs.tree.damaged("the node of a directory in two directories", nid, offset));
                    }
                    fs.tree.push_empty(path.clone(), nid, FileKind::Directory);
                    open.push((nid, path, depth + 1));
                }
                kind @ (0o10 | 0o12) => {
                    let kind = if kind == 0o10 { FileKind::Regular } else { FileKind::Symlink };
                    let content = fs.content(&inode)?;
                    fs.tree.push(path, nid, kind, inode.size, content);
                }
                0o01 | 0o02 | 0o06 | 0o14 => fs.tree.push_empty(path, nid, FileKind::Special),
                _ => return Err(fs.tree.damaged("the mode of an inode", inode.mode, inode.offset)),
            }
        }
    }
    fs.tree.finish(block_size)
}

/// A file without a name.
fn file(inode: &Inode, content: Content) -> File {
    File { path: Vec::new(), inode: inode.nid, kind: FileKind::Regular, size: inode.size, content }
}

impl<'a> Erofs<'a> {
    fn new(image: &'a dyn ReadAt, limits: &Limits) -> Result<Self, FsError> {
        let tree = Tree::new(image, Kind::Erofs, limits);
        let bytes = tree.array::<128>(SUPERBLOCK)?;
        let incompat = u32_at(&bytes, 80);
        if let Some((_, name)) = UNKNOWN.iter().find(|(bit, _)| incompat & bit != 0) {
            return Err(tree.unsupported(*name));
        }
        if incompat & !KNOWN != 0 {
            return Err(tree.unsupported(format!("features {:#x}", incompat & !KNOWN)));
        }
        if incompat & DEVICE_TABLE != 0 && u16_at(&bytes, 86) != 0 {
            return Err(tree.unsupported("device_table (blocks on another device)"));
        }
        let block_bits = u32::from(bytes[12]);
        if !(9..=16).contains(&block_bits) {
            return Err(tree.damaged("the logarithm of the block size", block_bits, SUPERBLOCK + 12));
        }
        if bytes[90] != 0 {
            return Err(tree.unsupported("directory blocks of another size"));
        }
        let (blocks, inodes) = (u64::from(u32_at(&bytes, 36)), u64::from(u32_at(&bytes, 40)) << block_bits);
        if blocks << block_bits > tree.len() {
            return Err(tree.damaged("the number of blocks, in a smaller image,", blocks, SUPERBLOCK + 36));
        }
        Ok(Self { image, tree, block_bits, incompat, inodes, packed: None })
    }

    /// Reads an inode; `named_at` is where its number was found.
    fn inode(&self, nid: u64, named_at: u64) -> Result<Inode, FsError> {
        let offset = nid
            .checked_mul(SLOT)
            .and_then(|offset| offset.checked_add(self.inodes))
            .filter(|&offset| offset < self.tree.len())
            .ok_or_else(|| self.tree.damaged("the number of a node", nid, named_at))?;
        let bytes = self.tree.array::<32>(offset)?;
        let format = u16_at(&bytes, 0);
        if format >> 4 != 0 {
            return Err(self.tree.unsupported(format!("the inode format {format:#x}")));
        }
        let (len, size) =
            if format & 1 == 0 { (SLOT, u64::from(u32_at(&bytes, 8))) } else { (2 * SLOT, u64_at(&bytes, 8)) };
        self.tree.check_file_size(size)?;
        let attributes = match u16_at(&bytes, 2) {
            0 => 0,
            count => 12 + 4 * (u64::from(count) - 1),
        };
        Ok(Inode {
            nid,
            offset,
            mode: u16_at(&bytes, 4),
            size,
            layout: format >> 1 & 7,
            union: u32_at(&bytes, 16),
            end: offset + len + attributes,
        })
    }

    /// Names in a directory: node, name, where its inode is.
    fn entries(&mut self, nid: u64) -> Result<Vec<(u64, Vec<u8>, u64)>, FsError> {
        const ENTRY: usize = 12;
        let inode = self.inode(nid, SUPERBLOCK + 14)?;
        if inode.mode >> 12 != 0o04 {
            return Err(self.tree.damaged("the mode of a directory", inode.mode, inode.offset));
        }
        self.tree.count_directory(inode.size)?;
        let directory = file(&inode, self.content(&inode)?);
        let contents = open(self.image, &directory);
        let mut found = Vec::new();
        let block_size = 1_usize << self.block_bits;
        for start in (0..inode.size).step_by(block_size) {
            let len = usize::try_from(inode.size - start).unwrap_or(usize::MAX).min(block_size);
            let mut block = vec![0; len];
            contents.read_exact_at(&mut block, start).map_err(|source| FsError::Read {
                offset: inode.offset,
                len: len as u64,
                source,
            })?;
            let bad = |found: usize| self.tree.damaged("the offset of a directory's name", found as u64, inode.offset);
            if len < ENTRY {
                return Err(self.tree.damaged("the size of a directory", inode.size, inode.offset));
            }
            let names = usize::from(u16_at(&block, 8));
            if names < ENTRY || names % ENTRY != 0 || names > len {
                return Err(bad(names));
            }
            self.tree.check_names(found.len() + names / ENTRY)?;
            for at in (0..names).step_by(ENTRY) {
                let name_at = usize::from(u16_at(&block, at + 8));
                let next = if at + ENTRY < names { usize::from(u16_at(&block, at + ENTRY + 8)) } else { len };
                let name = block.get(name_at..next).filter(|_| name_at >= names).ok_or_else(|| bad(name_at))?;
                // The last name of a block ends there or at a zero byte.
                let name = if next == len { name.split(|&byte| byte == 0).next().unwrap_or(name) } else { name };
                if name != b"." && name != b".." {
                    found.push((u64_at(&block, at), name.to_vec(), inode.offset));
                }
            }
        }
        Ok(found)
    }

    fn content(&mut self, inode: &Inode) -> Result<Content, FsError> {
        match inode.layout {
            0 | 2 => self.flat(inode),
            4 => self.chunks(inode),
            1 | 3 => self.clusters(inode),
            layout => Err(self.tree.unsupported(format!("the data layout {layout}"))),
        }
    }

    /// First byte of a block; the `len` bytes from there on are in the image.
    fn blocks(&self, block: u32, len: u64, at: u64) -> Result<u64, FsError> {
        let start = u64::from(block) << self.block_bits;
        // Not every mkfs.erofs fills the last block of an image.
        if start.checked_add(len).is_none_or(|end| end > self.tree.len()) {
            return Err(self.tree.damaged("the number of a block", block, at));
        }
        Ok(start)
    }

    /// Bytes between metadata never cross into another block.
    fn check_inline(&self, start: u64, len: u64) -> Result<(), FsError> {
        let within = start & ((1 << self.block_bits) - 1);
        if within + len > 1 << self.block_bits || start + len > self.tree.len() {
            return Err(self.tree.damaged("the length of inline data", len, start));
        }
        Ok(())
    }

    /// All in one run, the last block perhaps behind the inode.
    fn flat(&mut self, inode: &Inode) -> Result<Content, FsError> {
        let mut found = Extents::new(inode.size);
        let inline = if inode.layout == 2 && inode.size > 0 {
            // A full last block would not fit behind an inode, so it is there only if it is not full.
            inode.size - ((inode.size - 1) >> self.block_bits << self.block_bits)
        } else {
            0
        };
        let len = inode.size - inline;
        if len > 0 {
            let start = self.blocks(inode.union, len, inode.offset)?;
            found.push(&mut self.tree, 0, len, Stored::Blocks(start))?;
        }
        if inline > 0 {
            self.check_inline(inode.end, inline)?;
            found.push(&mut self.tree, len, inline, Stored::Inline(inode.end))?;
        }
        Ok(Content::Plain(found.finish(&mut self.tree)?))
    }

    /// In chunks of equal length, each anywhere.
    fn chunks(&mut self, inode: &Inode) -> Result<Content, FsError> {
        const BITS: u32 = 0x1f;
        const INDEXES: u32 = 0x20;
        let format = inode.union & 0xffff;
        if format & !(BITS | INDEXES) != 0 {
            return Err(self.tree.unsupported(format!("the chunk format {format:#x}")));
        }
        let chunk_bits = self.block_bits + (format & BITS);
        let unit: u64 = if format & INDEXES == 0 { 4 } else { 8 };
        let count = inode.size.div_ceil(1 << chunk_bits);
        // Neighbours become one extent, but finding them takes as long.
        self.tree.count_extents(count / 2)?;
        let table = inode.end.next_multiple_of(unit);
        let mut found = Extents::new(inode.size);
        for number in 0..count {
            let at = table + number * unit;
            let address = if unit == 4 {
                u32_at(&self.tree.array::<4>(at)?, 0)
            } else {
                let index = self.tree.array::<8>(at)?;
                if u16_at(&index, 2) != 0 {
                    return Err(self.tree.unsupported("device_table (blocks on another device)"));
                }
                u32_at(&index, 4)
            };
            let file_offset = number << chunk_bits;
            let len = (inode.size - file_offset).min(1 << chunk_bits);
            let stored =
                if address == NULL_ADDRESS { Stored::Hole } else { Stored::Blocks(self.blocks(address, len, at)?) };
            found.push(&mut self.tree, file_offset, len, stored)?;
        }
        Ok(Content::Plain(found.finish(&mut self.tree)?))
    }

    fn clusters(&mut self, inode: &Inode) -> Result<Content, FsError> {
        if inode.size == 0 {
            return Ok(Content::Plain(Vec::new()));
        }
        let header = Header::read(self, inode)?;
        if let Some(offset) = header.whole_fragment {
            let mut clusters = Vec::new();
            self.fragment(inode, 0, offset, &mut clusters)?;
            return Ok(Content::Compressed(clusters));
        }
        let bits = header.cluster_bits;
        let count = inode.size.div_ceil(1 << bits);
        self.tree.count_extents(count / 2)?;

        let mut indexes = Indexes::new(self, inode, &header, count);
        let mut heads: Vec<Head> = Vec::new();
        for number in 0..count {
            let at = indexes.at(number);
            match indexes.next(self, number)? {
                Index::Head { kind, offset, block, partial } => {
                    if u64::from(offset) >= 1 << bits || (number == 0 && offset != 0) {
                        return Err(self.tree.damaged("where a cluster begins in a logical cluster", offset, at));
                    }
                    let file_offset = (number << bits) + u64::from(offset);
                    // The last one can stand for the end of the file alone.
                    if file_offset < inode.size {
                        self.tree.count_extents(1)?;
                        heads.push(Head { kind, number, file_offset, block, blocks: None, partial, at });
                    }
                }
                Index::Follows { blocks } => {
                    let Some(head) = heads.last_mut() else {
                        return Err(self.tree.damaged("the kind of the first logical cluster", 2_u32, at));
                    };
                    if let Some(blocks) = blocks {
                        if head.number + 1 != number || header.advice & (BIG_PCLUSTER_1 | BIG_PCLUSTER_2) == 0 {
                            return Err(self.tree.damaged("the number of blocks, at the wrong place,", blocks, at));
                        }
                        head.blocks = Some(blocks);
                    }
                }
            }
        }
        let indexes_end = indexes.end;

        let mut clusters = Vec::with_capacity(heads.len());
        for (position, head) in heads.iter().enumerate() {
            let next = heads.get(position + 1);
            let end = next.map_or(inode.size, |next| next.file_offset);
            let tail = next.is_none();
            if tail && header.advice & FRAGMENT_PCLUSTER != 0 {
                let high = if inode.layout == 1 { u64::from(head.block) << 32 } else { 0 };
                self.fragment(inode, head.file_offset, high | u64::from(header.fragment_offset), &mut clusters)?;
                break;
            }
            let inline = (tail && header.advice & INLINE_PCLUSTER != 0).then_some((indexes_end, header.inline_len));
            clusters.push(self.cluster(&header, head, end - head.file_offset, inline)?);
        }
        Ok(Content::Compressed(clusters))
    }

    fn cluster(&self, header: &Header, head: &Head, len: u64, inline: Option<(u64, u16)>) -> Result<Cluster, FsError> {
        let (image_offset, stored_len) = match inline {
            Some((start, len)) => {
                self.check_inline(start, len.into())?;
                (start, u64::from(len))
            }
            None => {
                let len = match head.blocks {
                    Some(blocks) => u64::from(blocks) << self.block_bits,
                    None => 1 << header.cluster_bits,
                };
                (self.blocks(head.block, len, head.at)?, len)
            }
        };
        if stored_len == 0 || stored_len > MAX_STORED {
            return Err(self.tree.damaged("the stored length of a cluster", stored_len, head.at));
        }
        let coding = match head.kind {
            HeadKind::Plain if header.advice & INTERLACED_PCLUSTER != 0 => {
                let start = head.file_offset & ((1 << self.block_bits) - 1);
                match inline {
                    None if stored_len == 1 << self.block_bits => {
                        Coding::Interlaced(u32::try_from(start).expect("less than a block"))
                    }
                    Some(_) if start == 0 => Coding::Plain,
                    _ => return Err(self.tree.unsupported("interlaced clusters of other than one block")),
                }
            }
            HeadKind::Plain => Coding::Plain,
            HeadKind::First | HeadKind::Second => {
                let algorithm = header.algorithms[usize::from(head.kind == HeadKind::Second)];
                if algorithm != 0 {
                    let name = ["lz4", "lzma", "deflate", "zstd"].get(usize::from(algorithm)).copied();
                    let name = name.map_or_else(|| format!("compression {algorithm}"), str::to_owned);
                    return Err(self.tree.unsupported(name));
                }
                if self.incompat & ZERO_PADDING != 0 { Coding::Lz4 } else { Coding::Lz4Unpadded }
            }
        };
        let most = if head.kind == HeadKind::Plain { stored_len } else { MAX_DECODED };
        if len > most {
            return Err(self.tree.damaged("the length of a cluster", len, head.at));
        }
        Ok(Cluster {
            file_offset: head.file_offset,
            len,
            image_offset,
            stored_len,
            coding,
            skip: 0,
            inline: inline.is_some(),
            partial: head.partial,
        })
    }

    /// The rest of a file, from `file_offset` on, is at `offset` of the packed inode.
    fn fragment(
        &mut self,
        inode: &Inode,
        file_offset: u64,
        offset: u64,
        clusters: &mut Vec<Cluster>,
    ) -> Result<(), FsError> {
        let len = inode.size - file_offset;
        let damaged = |tree: &Tree<'_>| tree.damaged("the offset of a fragment", offset, inode.end);
        let packed = self.packed.take().ok_or_else(|| damaged(&self.tree))?;
        let end = offset.checked_add(len).filter(|&end| end <= packed.size).ok_or_else(|| damaged(&self.tree))?;
        let mut push = |tree: &mut Tree<'_>, mut part: Cluster| -> Result<(), FsError> {
            let (start, stop) = (part.file_offset.max(offset), (part.file_offset + part.len).min(end));
            tree.count_extents(1)?;
            part.partial |= stop < part.file_offset + part.len;
            part.skip += start - part.file_offset;
            part.len = stop - start;
            part.file_offset = start - offset + file_offset;
            clusters.push(part);
            Ok(())
        };
        match &packed.content {
            Content::Plain(extents) => {
                let first = extents.partition_point(|extent| extent.file_offset + extent.len <= offset);
                for extent in extents[first..].iter().take_while(|extent| extent.file_offset < end) {
                    let (image_offset, inline) = match extent.stored {
                        Stored::Blocks(start) => (start, false),
                        Stored::Inline(start) => (start, true),
                        Stored::Hole => return Err(damaged(&self.tree)),
                    };
                    let whole = Cluster {
                        file_offset: extent.file_offset,
                        len: extent.len,
                        image_offset,
                        stored_len: extent.len,
                        coding: Coding::Plain,
                        skip: 0,
                        inline,
                        partial: false,
                    };
                    push(&mut self.tree, whole)?;
                }
            }
            Content::Compressed(parts) => {
                let first = parts.partition_point(|part| part.file_offset + part.len <= offset);
                for part in parts[first..].iter().take_while(|part| part.file_offset < end) {
                    push(&mut self.tree, *part)?;
                }
            }
        }
        self.packed = Some(packed);
        Ok(())
    }
}

/// What stands in front of a compressed file's indexes.
struct Header {
    /// First byte of the header.
    at: u64,
    advice: u16,
    algorithms: [u8; 2],
    /// Logarithm of the bytes of a logical cluster, which an index stands for.
    cluster_bits: u32,
    fragment_offset: u32,
    inline_len: u16,
    whole_fragment: Option<u64>,
}

impl Header {
    fn read(fs: &Erofs<'_>, inode: &Inode) -> Result<Self, FsError> {
        let at = inode.end.next_multiple_of(8);
        let mut header = Self {
            at,
            advice: 0,
            algorithms: [0; 2],
            cluster_bits: fs.block_bits,
            fragment_offset: 0,
            inline_len: 0,
            whole_fragment: None,
        };
        // The oldest images have none, only room for it.
        if inode.layout == 1 && fs.incompat & (BIG_PCLUSTER | ZTAILPACKING | FRAGMENTS) == 0 {
            return Ok(header);
        }
        let bytes = fs.tree.array::<8>(at)?;
        if bytes[7] & FRAGMENT_INODE != 0 {
            header.whole_fragment = Some(u64_at(&bytes, 0) & !(1 << 63));
            return Ok(header);
        }
        header.advice = u16_at(&bytes, 4);
        header.algorithms = [bytes[6] & 15, bytes[6] >> 4];
        header.fragment_offset = u32_at(&bytes, 0);
        header.inline_len = u16_at(&bytes, 2);
        header.cluster_bits += u32::from(bytes[7] & 7);
        if header.advice & !KNOWN_ADVICE != 0 || bytes[7] & !7 != 0 {
            return Err(fs.tree.unsupported(format!("compression of kind {:#x}, {:#x}", header.advice, bytes[7])));
        }
        // Both use the first bytes of the header.
        if header.advice & INLINE_PCLUSTER != 0 && header.advice & FRAGMENT_PCLUSTER != 0 {
            return Err(fs.tree.damaged("the kind of compression", header.advice, at));
        }
        if inode.layout == 3 && (header.cluster_bits != fs.block_bits || fs.block_bits > 14) {
            return Err(fs
                .tree
                .unsupported("compact indexes of logical clusters of several blocks, or of over 16 KiB"));
        }
        Ok(header)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum HeadKind {
    Plain,
    First,
    Second,
}

/// Where a cluster begins.
struct Head {
    kind: HeadKind,
    /// Number of the logical cluster.
    number: u64,
    file_offset: u64,
    block: u32,
    blocks: Option<u16>,
    partial: bool,
    /// Where its index is.
    at: u64,
}

/// What an index says of its logical cluster.
#[derive(Clone, Copy)]
enum Index {
    /// A cluster begins in it, after this many bytes.
    Head { kind: HeadKind, offset: u16, block: u32, partial: bool },
    /// None does; the first after a head has the number of stored blocks.
    Follows { blocks: Option<u16> },
}

/// The indexes of a file, in order.
struct Indexes {
    full: bool,
    start: u64,
    /// Indexes of four bytes, then of two, then of four again; in packs that end in a block number.
    first_wide: u64,
    narrow: u64,
    lo_bits: u32,
    /// Whether clusters have more blocks than one, and so a number of them.
    big: bool,
    pack: Vec<Index>,
    /// Number of the first index that is in `pack`, and of the first one after it.
    in_pack: std::ops::Range<u64>,
    /// First byte behind the indexes that were read.
    end: u64,
}

impl Indexes {
    fn new(fs: &Erofs<'_>, inode: &Inode, header: &Header, count: u64) -> Self {
        let full = inode.layout == 1;
        let start = header.at + if full { 16 } else { 8 };
        let first_wide = (start.next_multiple_of(32) - start) / 4;
        let narrow =
            if header.advice & COMPACTED_2B != 0 && first_wide < count { (count - first_wide) / 16 * 16 } else { 0 };
        Self {
            full,
            start,
            first_wide,
            narrow,
            lo_bits: fs.block_bits.max(12),
            big: header.advice & BIG_PCLUSTER_1 != 0,
            pack: Vec::new(),
            in_pack: 0..0,
            end: start,
        }
    }

    /// First byte of an index, or for packed ones of the two or four bytes that stand for one.
    fn at(&self, number: u64) -> u64 {
        if self.full {
            return self.start + number * 8;
        }
        let wide = number.min(self.first_wide);
        let narrow = (number - wide).min(self.narrow);
        self.start + 4 * wide + 2 * narrow + 4 * (number - wide - narrow)
    }

    /// Reads the next index.
    fn next(&mut self, fs: &Erofs<'_>, number: u64) -> Result<Index, FsError> {
        let at = self.at(number);
        if self.full {
            let bytes = fs.tree.array::<8>(at)?;
            self.end = at + 8;
            return Ok(self.full_index(&bytes));
        }
        if !self.in_pack.contains(&number) {
            let is_narrow = number >= self.first_wide && number < self.first_wide + self.narrow;
            let (len, count) = if is_narrow { (32, 16) } else { (8, 2) };
            if is_narrow && self.lo_bits > 12 {
                return Err(fs.tree.unsupported("compact indexes of two bytes for blocks of over 4 KiB"));
            }
            let mut bytes = [0; 32];
            let bytes = &mut bytes[..len];
            // Every pack begins at a multiple of its length.
            fs.tree.read(bytes, at)?;
            self.read_pack(bytes, count);
            self.in_pack = number..number + count as u64;
            self.end = at + len as u64;
        }
        let index = usize::try_from(number - self.in_pack.start).expect("within a pack");
        Ok(self.pack[index])
    }

    fn full_index(&self, bytes: &[u8; 8]) -> Index {
        let advice = u16_at(bytes, 0);
        match kind(advice & 3) {
            Some(kind) => Index::Head {
                kind,
                offset: u16_at(bytes, 2),
                block: u32_at(bytes, 4),
                partial: advice & PARTIAL_REF != 0,
            },
            None => Index::Follows { blocks: block_count(u16_at(bytes, 4)) },
        }
    }

    /// A pack has one block number; what each head adds to it is known by counting.
    fn read_pack(&mut self, bytes: &[u8], count: usize) {
        let bits = (bytes.len() - 4) * 8 / count;
        let base = u32_at(bytes, bytes.len() - 4);
        let raw = |index: usize| {
            let bit = index * bits;
            // The four bytes of the block number are behind it, so there are always four to read.
            let value = u32_at(bytes, bit / 8) >> (bit % 8);
            let low = u16::try_from(value & ((1 << self.lo_bits) - 1)).expect("at most 14 bits");
            (low, u16::try_from(value >> self.lo_bits & 3).expect("two bits"))
        };
        let blocks_at = |index: usize| {
            let (low, kind_bits) = raw(index);
            if self.big && kind(kind_bits).is_none() { block_count(low) } else { None }
        };
        // Where every cluster has one block, the number is that of the block in front of the first.
        let mut passed = u32::from(!self.big);
        let mut pack = Vec::with_capacity(count);
        for index in 0..count {
            let (low, kind_bits) = raw(index);
            let read = match kind(kind_bits) {
                Some(kind) => {
                    let block = base.wrapping_add(passed);
                    if index + 1 == count || blocks_at(index + 1).is_none() {
                        passed = passed.wrapping_add(1);
                    }
                    Index::Head { kind, offset: low, block, partial: false }
                }
                None => {
                    let blocks = blocks_at(index);
                    passed = passed.wrapping_add(blocks.unwrap_or(0).into());
                    Index::Follows { blocks }
                }
            };
            pack.push(read);
        }
        self.pack = pack;
    }
}

fn kind(bits: u16) -> Option<HeadKind> {
    match bits {
        0 => Some(HeadKind::Plain),
        1 => Some(HeadKind::First),
        3 => Some(HeadKind::Second),
        _ => None,
    }
}

fn block_count(distance: u16) -> Option<u16> {
    (distance & IS_BLOCK_COUNT != 0).then_some(distance & !IS_BLOCK_COUNT)
}
