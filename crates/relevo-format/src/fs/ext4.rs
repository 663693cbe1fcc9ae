//! ext2, ext3 and ext4.
//!
//! # Source
//! Linux 6.12 `Documentation/filesystems/ext4/`, and e2fsprogs 1.47.0 where that page is silent.

use std::collections::HashSet;

use super::{
    Content, FileKind, FileSystem, FsError, Kind, Limits, Stored,
    tree::{Extents, Tree, read_extents, u16_at, u32_at},
};
use crate::ReadAt;

/// `s_magic`.
pub(super) const MAGIC: [u8; 2] = [0x53, 0xef];
const SUPERBLOCK: u64 = 1024;
const ROOT: u32 = 2;

// s_feature_compat
const SPARSE_SUPER2: u32 = 0x200;
// s_feature_incompat
const FILETYPE: u32 = 0x2;
const META_BG: u32 = 0x10;
const EXTENTS: u32 = 0x40;
const BIT64: u32 = 0x80;
const MMP: u32 = 0x100;
const FLEX_BG: u32 = 0x200;
const EA_INODE: u32 = 0x400;
const CSUM_SEED: u32 = 0x2000;
const LARGEDIR: u32 = 0x4000;
const INLINE_DATA: u32 = 0x8000;
const ENCRYPT: u32 = 0x10000;
const CASEFOLD: u32 = 0x20000;
/// What reading needs no more than is done here. Encrypted files are refused one by one.
const KNOWN: u32 = FILETYPE
    | META_BG
    | EXTENTS
    | BIT64
    | MMP
    | FLEX_BG
    | EA_INODE
    | CSUM_SEED
    | LARGEDIR
    | INLINE_DATA
    | ENCRYPT
    | CASEFOLD;
/// The others, by the names that mke2fs and debugfs have for them.
const UNKNOWN: [(u32, &str); 4] =
    [(0x1, "compression"), (0x4, "needs_recovery (a journal to replay)"), (0x8, "journal_dev"), (0x1000, "dirdata")];
// s_feature_ro_compat; what is not known among them does not matter to a reader.
const SPARSE_SUPER: u32 = 0x1;

// i_flags
const COMPRESSED_FILE: u32 = 0x4;
const ENCRYPTED_FILE: u32 = 0x800;
const EXTENT_FILE: u32 = 0x8_0000;
const INLINE_FILE: u32 = 0x1000_0000;

/// Bytes of `i_block`, and where it is in an inode.
const I_BLOCK: usize = 60;
const I_BLOCK_AT: u64 = 0x28;
/// The format allows no deeper trees.
const MAX_DEPTH: u16 = 5;
/// Longest run of blocks in one extent; longer ones stand for unwritten blocks.
const MAX_INITIALIZED: u16 = 32768;

/// What the superblock says.
struct Layout {
    block_size: u32,
    /// Blocks of the file system.
    blocks: u64,
    inodes: u32,
    first_block: u64,
    blocks_per_group: u64,
    inodes_per_group: u32,
    inode_size: u64,
    descriptor_size: u64,
    first_meta_group: u64,
    compat: u32,
    incompat: u32,
    ro_compat: u32,
    backup_groups: [u32; 2],
}

struct Inode {
    number: u32,
    /// First byte in the image.
    offset: u64,
    mode: u16,
    flags: u32,
    size: u64,
    extra_size: u16,
    block: [u8; I_BLOCK],
}

struct Ext4<'a> {
    tree: Tree<'a>,
    layout: Layout,
}

/// Lists the files.
pub(super) fn read(image: &dyn ReadAt, limits: &Limits) -> Result<FileSystem, FsError> {
    let tree = Tree::new(image, Kind::Ext4, limits);
    let layout = Layout::read(&tree)?;
    let mut fs = Ext4 { tree, layout };
    let mut seen = HashSet::from([ROOT]);
    let mut open = vec![(ROOT, Vec::new(), 0)];
    while let Some((directory, path, depth)) = open.pop() {
        for (number, name, offset) in fs.entries(directory)? {
            let path = fs.tree.path(&path, depth, &name, offset)?;
            let inode = fs.inode(number, offset)?;
            let id = u64::from(number);
            match inode.mode >> 12 {
                0o04 => {
                    if !seen.insert(number) {
                        return Err(fs.tree.damaged("the inode of a directory in two directories", number, offset));
                    }
                    fs.tree.push_empty(path.clone(), id, FileKind::Directory);
                    open.push((number, path, depth + 1));
                }
                kind @ (0o10 | 0o12) => {
                    let kind = if kind == 0o10 { FileKind::Regular } else { FileKind::Symlink };
                    let extents = fs.extents(&inode)?;
                    fs.tree.push(path, id, kind, inode.size, Content::Plain(extents));
                }
                0o01 | 0o02 | 0o06 | 0o14 => fs.tree.push_empty(path, id, FileKind::Special),
                _ => return Err(fs.tree.damaged("the mode of an inode", inode.mode, inode.offset)),
            }
        }
    }
    fs.tree.finish(fs.layout.block_size)
}

impl Layout {
    fn read(tree: &Tree<'_>) -> Result<Self, FsError> {
        let bytes = tree.array::<1024>(SUPERBLOCK)?;
        let at = |field: u64| SUPERBLOCK + field;
        let u32_at = |field| u32_at(&bytes, field);

        // Revision 0 has no features and no sizes: those fields are zero there or mean nothing.
        let dynamic = u32_at(0x4c) >= 1;
        let [compat, incompat, ro_compat] = [0x5c, 0x60, 0x64].map(|field| if dynamic { u32_at(field) } else { 0 });
        if let Some((_, name)) = UNKNOWN.iter().find(|(bit, _)| incompat & bit != 0) {
            return Err(tree.unsupported(*name));
        }
        if incompat & !KNOWN != 0 {
            return Err(tree.unsupported(format!("features {:#x}", incompat & !KNOWN)));
        }

        let log_block_size = u32_at(0x18);
        if log_block_size > 6 {
            return Err(tree.damaged("the logarithm of KiB in a block", log_block_size, at(0x18)));
        }
        let block_size = 1024 << log_block_size;
        let wide = incompat & BIT64 != 0;
        let blocks = u64::from(u32_at(4)) | if wide { u64::from(u32_at(0x150)) << 32 } else { 0 };
        if blocks.checked_mul(u64::from(block_size)).is_none_or(|bytes| bytes > tree.len()) {
            return Err(tree.damaged("the number of blocks, in a smaller image,", blocks, at(4)));
        }
        let first_block = u64::from(u32_at(0x14));
        if first_block > 1 || first_block >= blocks {
            return Err(tree.damaged("the first data block", first_block, at(0x14)));
        }
        let [blocks_per_group, inodes_per_group] = [0x20, 0x28].map(u32_at);
        if blocks_per_group == 0 {
            return Err(tree.damaged("the number of blocks in a group", blocks_per_group, at(0x20)));
        }
        if inodes_per_group == 0 {
            return Err(tree.damaged("the number of inodes in a group", inodes_per_group, at(0x28)));
        }
        let inode_size = if dynamic { u16_at(&bytes, 0x58) } else { 128 };
        if !inode_size.is_power_of_two() || inode_size < 128 || u32::from(inode_size) > block_size {
            return Err(tree.damaged("the size of an inode", inode_size, at(0x58)));
        }
        let descriptor_size = if wide { u16_at(&bytes, 0xfe) } else { 32 };
        if !descriptor_size.is_power_of_two() || !(32..=1024).contains(&descriptor_size) {
            return Err(tree.damaged("the size of a group descriptor", descriptor_size, at(0xfe)));
        }
        Ok(Self {
            block_size,
            blocks,
            inodes: u32_at(0),
            first_block,
            blocks_per_group: blocks_per_group.into(),
            inodes_per_group,
            inode_size: inode_size.into(),
            descriptor_size: descriptor_size.into(),
            first_meta_group: u32_at(0x104).into(),
            compat,
            incompat,
            ro_compat,
            backup_groups: [0x24c, 0x250].map(u32_at),
        })
    }

    /// Whether a group begins with a copy of the superblock.
    fn has_superblock(&self, group: u64) -> bool {
        if group == 0 {
            return true;
        }
        if self.compat & SPARSE_SUPER2 != 0 {
            return self.backup_groups.iter().any(|&backup| u64::from(backup) == group);
        }
        self.ro_compat & SPARSE_SUPER == 0 || group == 1 || [3, 5, 7].iter().any(|&base| is_power(group, base))
    }

    /// First byte of a group's descriptor; `group` is one of the file system's.
    fn descriptor(&self, group: u64) -> u64 {
        let block_size = u64::from(self.block_size);
        let per_block = block_size / self.descriptor_size;
        let (table, within) = (group / per_block, group % per_block);
        let block = if self.incompat & META_BG == 0 || table < self.first_meta_group {
            // Behind the superblock, which is in block 1 where blocks have 1 KiB, even if the first group begins at 0.
            u64::from(block_size == 1024) + 1 + table
        } else {
            // A group of as many groups as have their descriptors in one block keeps that block at its start.
            let first = table * per_block;
            let superblock = if first == 0 && block_size == 1024 && self.first_block == 0 {
                2
            } else {
                u64::from(self.has_superblock(first))
            };
            self.first_block + first * self.blocks_per_group + superblock
        };
        block * block_size + within * self.descriptor_size
    }
}

fn is_power(mut value: u64, base: u64) -> bool {
    while value > 1 && value.is_multiple_of(base) {
        value /= base;
    }
    value == 1
}

impl Ext4<'_> {
    /// Reads an inode; `named_at` is where its number was found.
    fn inode(&self, number: u32, named_at: u64) -> Result<Inode, FsError> {
        let layout = &self.layout;
        if number == 0 || number > layout.inodes {
            return Err(self.tree.damaged("the number of an inode", number, named_at));
        }
        let index = number - 1;
        let group = u64::from(index / layout.inodes_per_group);
        let descriptor = group
            .checked_mul(layout.blocks_per_group)
            .filter(|&first| first < layout.blocks)
            .map(|_| layout.descriptor(group))
            .ok_or_else(|| self.tree.damaged("the group of an inode", group, named_at))?;
        let mut table = u64::from(u32_at(&self.tree.array::<4>(descriptor + 8)?, 0));
        if layout.descriptor_size >= 64 {
            table |= u64::from(u32_at(&self.tree.array::<4>(descriptor + 0x28)?, 0)) << 32;
        }
        if table == 0 || table >= layout.blocks {
            return Err(self.tree.damaged("the block of an inode table", table, descriptor));
        }
        let offset =
            table * u64::from(layout.block_size) + u64::from(index % layout.inodes_per_group) * layout.inode_size;
        let bytes = self.tree.array::<128>(offset)?;
        let extra_size = if layout.inode_size > 128 { u16_at(&self.tree.array::<2>(offset + 128)?, 0) } else { 0 };
        let mode = u16_at(&bytes, 0);
        // Of other kinds the upper half is an ACL of old.
        let high = if matches!(mode >> 12, 0o10 | 0o04) { u64::from(u32_at(&bytes, 0x6c)) } else { 0 };
        let size = u64::from(u32_at(&bytes, 4)) | high << 32;
        self.tree.check_file_size(size)?;
        let block = bytes[0x28..0x28 + I_BLOCK].try_into().expect("60 bytes");
        Ok(Inode { number, offset, mode, flags: u32_at(&bytes, 0x20), size, extra_size, block })
    }

    /// Names in a directory: inode, name, where it stands.
    fn entries(&mut self, number: u32) -> Result<Vec<(u32, Vec<u8>, u64)>, FsError> {
        let inode = self.inode(number, SUPERBLOCK)?;
        if inode.mode >> 12 != 0o04 {
            return Err(self.tree.damaged("the mode of a directory", inode.mode, inode.offset));
        }
        let mut found = Vec::new();
        self.tree.count_directory(inode.size)?;
        if inode.flags & INLINE_FILE != 0 {
            // The first four bytes are the parent's number; the two parts have entries of their own.
            self.parse_entries(&inode.block[4..], inode.offset + I_BLOCK_AT + 4, &mut found)?;
            if let Some((offset, len)) = self.inline_rest(&inode)? {
                self.tree.count_directory(len)?;
                let mut bytes = vec![0; usize::from(u16::try_from(len).expect("within an inode"))];
                self.tree.read(&mut bytes, offset)?;
                self.parse_entries(&bytes, offset, &mut found)?;
            }
            return Ok(found);
        }
        let block_size = u64::from(self.layout.block_size);
        if inode.size % block_size != 0 {
            return Err(self.tree.damaged("the size of a directory", inode.size, inode.offset));
        }
        let extents = self.extents(&inode)?;
        let mut block = vec![0; self.layout.block_size as usize];
        for extent in &extents {
            let Stored::Blocks(start) = extent.stored else { continue };
            for skip in (0..extent.len).step_by(block.len()) {
                read_extents(&self.tree, &extents, &mut block, extent.file_offset + skip)?;
                self.parse_entries(&block, start + skip, &mut found)?;
            }
        }
        Ok(found)
    }

    /// The entries of one block (or of a part of an inode). The inner nodes of an index look like one free entry.
    fn parse_entries(&self, block: &[u8], offset: u64, found: &mut Vec<(u32, Vec<u8>, u64)>) -> Result<(), FsError> {
        let mut at = 0;
        while block.len() - at >= 8 {
            let here = offset + at as u64;
            let number = u32_at(block, at);
            // 64 KiB does not fit; both of these stand for it.
            let len = match u16_at(block, at + 4) {
                0 | u16::MAX if block.len() >= 0xffff => block.len(),
                len => usize::from(len),
            };
            if len < 8 || len % 4 != 0 || len > block.len() - at {
                return Err(self.tree.damaged("the length of a directory entry", len as u64, here));
            }
            // Without file types the upper half of the length of a name is there, and never anything but zero.
            let name_len = usize::from(block[at + 6]);
            if number != 0 {
                if name_len > len - 8 {
                    return Err(self.tree.damaged("the length of a name", name_len as u64, here));
                }
                let name = &block[at + 8..at + 8 + name_len];
                if name != b"." && name != b".." {
                    self.tree.check_names(found.len() + 1)?;
                    found.push((number, name.to_vec(), here));
                }
            }
            at += len;
        }
        Ok(())
    }

    fn extents(&mut self, inode: &Inode) -> Result<Vec<super::Extent>, FsError> {
        for (flag, name) in [(ENCRYPTED_FILE, "encrypt"), (COMPRESSED_FILE, "compression")] {
            if inode.flags & flag != 0 {
                return Err(self.tree.unsupported(format!("{name} (inode {})", inode.number)));
            }
        }
        let block_at = inode.offset + I_BLOCK_AT;
        let mut found = Extents::new(inode.size);
        if inode.flags & INLINE_FILE != 0 {
            let first = inode.size.min(I_BLOCK as u64);
            found.push(&mut self.tree, 0, first, Stored::Inline(block_at))?;
            // Linux reads zeros behind what there is; mke2fs writes no more of files that are nothing but zeros.
            if let Some((offset, len)) = self.inline_rest(inode)? {
                found.push(&mut self.tree, first, len, Stored::Inline(offset))?;
            }
        } else if inode.mode >> 12 == 0o12 && inode.size < I_BLOCK as u64 {
            found.push(&mut self.tree, 0, inode.size, Stored::Inline(block_at))?;
        } else if inode.flags & EXTENT_FILE != 0 {
            let depth = u16_at(&inode.block, 6);
            if depth > MAX_DEPTH {
                return Err(self.tree.damaged("the depth of an extent tree", depth, block_at));
            }
            self.extent_node(&inode.block, block_at, depth, &mut found)?;
        } else {
            self.block_map(inode, &mut found)?;
        }
        found.finish(&mut self.tree)
    }

    fn extent_node(&mut self, node: &[u8], offset: u64, depth: u16, found: &mut Extents) -> Result<(), FsError> {
        const ENTRY: usize = 12;
        let (magic, entries, own_depth) = (u16_at(node, 0), u16_at(node, 2), u16_at(node, 6));
        if magic != 0xf30a {
            return Err(self.tree.damaged("the magic number of an extent node", magic, offset));
        }
        if own_depth != depth {
            return Err(self.tree.damaged("the depth of an extent node", own_depth, offset));
        }
        if usize::from(entries) > node.len() / ENTRY - 1 {
            return Err(self.tree.damaged("the number of entries of an extent node", entries, offset));
        }
        let block_size = u64::from(self.layout.block_size);
        let mut block = Vec::new();
        for (entry, at) in node[ENTRY..].chunks_exact(ENTRY).zip((offset + 12..).step_by(ENTRY)).take(entries.into()) {
            let first = u64::from(u32_at(entry, 0)) * block_size;
            if depth > 0 {
                let child = u64::from(u32_at(entry, 4)) | u64::from(u16_at(entry, 8)) << 32;
                self.check_blocks(child, 1, at)?;
                self.count_node()?;
                block.resize(self.layout.block_size as usize, 0);
                self.tree.read(&mut block, child * block_size)?;
                self.extent_node(&block, child * block_size, depth - 1, found)?;
                continue;
            }
            let (len, start) = (u16_at(entry, 4), u64::from(u16_at(entry, 6)) << 32 | u64::from(u32_at(entry, 8)));
            let (len, written) = if len > MAX_INITIALIZED { (len - MAX_INITIALIZED, false) } else { (len, true) };
            if len == 0 {
                return Err(self.tree.damaged("the length of an extent", len, at));
            }
            self.check_blocks(start, len.into(), at)?;
            // Blocks beyond the end were kept for later growth.
            if first >= found.size() {
                continue;
            }
            if first < found.reached() {
                return Err(self.tree.damaged("the first byte of an extent that others overlap", first, at));
            }
            let stored = if written { Stored::Blocks(start * block_size) } else { Stored::Hole };
            found.push(&mut self.tree, first, u64::from(len) * block_size, stored)?;
        }
        Ok(())
    }

    /// The map of ext2: twelve blocks, then blocks of block numbers, three levels deep.
    fn block_map(&mut self, inode: &Inode, found: &mut Extents) -> Result<(), FsError> {
        let mut logical = 0;
        let offset = inode.offset + I_BLOCK_AT;
        self.block_numbers(&inode.block[..48], offset, 0, &mut logical, found)?;
        for level in 1..=3 {
            let at = 44 + 4 * usize::from(level);
            self.block_numbers(&inode.block[at..at + 4], offset + at as u64, level, &mut logical, found)?;
        }
        let last = inode.size.div_ceil(self.layout.block_size.into());
        if logical < last {
            return Err(self.tree.damaged("the size of a file with a block map", inode.size, inode.offset));
        }
        Ok(())
    }

    fn block_numbers(
        &mut self,
        numbers: &[u8],
        offset: u64,
        level: u8,
        logical: &mut u64,
        found: &mut Extents,
    ) -> Result<(), FsError> {
        let block_size = u64::from(self.layout.block_size);
        let mut block = Vec::new();
        for (number, at) in numbers.chunks_exact(4).zip((offset..).step_by(4)) {
            let file_offset = *logical * block_size;
            if file_offset >= found.size() {
                break;
            }
            let number = u64::from(u32_at(number, 0));
            if number == 0 {
                *logical += (block_size / 4).pow(level.into());
                continue;
            }
            self.check_blocks(number, 1, at)?;
            if level == 0 {
                found.push(&mut self.tree, file_offset, block_size, Stored::Blocks(number * block_size))?;
                *logical += 1;
            } else {
                self.count_node()?;
                block.resize(self.layout.block_size as usize, 0);
                self.tree.read(&mut block, number * block_size)?;
                self.block_numbers(&block, number * block_size, level - 1, logical, found)?;
            }
        }
        Ok(())
    }

    /// A node costs what going through it takes, so that many names of one inode end at the limit too.
    fn count_node(&mut self) -> Result<(), FsError> {
        self.tree.count_extents(u64::from(self.layout.block_size) / 512)
    }

    fn check_blocks(&self, start: u64, len: u64, at: u64) -> Result<(), FsError> {
        if start == 0 || start.checked_add(len).is_none_or(|end| end > self.layout.blocks) {
            return Err(self.tree.damaged("the number of a block", start, at));
        }
        Ok(())
    }

    /// Where inline data goes on after `i_block`: in the attribute `system.data` behind the inode's fields.
    fn inline_rest(&self, inode: &Inode) -> Result<Option<(u64, u64)>, FsError> {
        const SYSTEM: u8 = 7;
        let start = 128 + u64::from(inode.extra_size);
        if start + 4 > self.layout.inode_size {
            return Ok(None);
        }
        let len = usize::try_from(self.layout.inode_size - start).expect("within a block");
        let offset = inode.offset + start;
        let mut bytes = vec![0; len];
        self.tree.read(&mut bytes, offset)?;
        if u32_at(&bytes, 0) != 0xea02_0000 {
            return Ok(None);
        }
        let (entries, offset) = (&bytes[4..], offset + 4);
        let mut at = 0;
        while entries.len() - at >= 16 && u32_at(entries, at) != 0 {
            let (name_len, index) = (usize::from(entries[at]), entries[at + 1]);
            let (value_at, value_inode) = (u64::from(u16_at(entries, at + 2)), u32_at(entries, at + 4));
            let value_len = u64::from(u32_at(entries, at + 8));
            let Some(name) = entries.get(at + 16..at + 16 + name_len) else {
                return Err(self.tree.damaged(
                    "the length of an attribute's name",
                    name_len as u64,
                    offset + at as u64,
                ));
            };
            if index == SYSTEM && name == b"data" {
                if value_inode != 0 || value_at + value_len > entries.len() as u64 {
                    return Err(self.tree.damaged("the length of inline data", value_len, offset + at as u64));
                }
                return Ok(Some((offset + value_at, value_len)));
            }
            at = (at + 16 + name_len).next_multiple_of(4).min(entries.len());
        }
        Ok(None)
    }
}
