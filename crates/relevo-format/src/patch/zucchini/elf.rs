//! References in ELF files: relocations, what they relocate, and branches.

use super::{
    Program,
    address::{Addresses, Run},
    branch::{self, Branch},
    program::{Disassembly, Encoding, Group, Reference, Room, TooMany, elf_target},
};

/// Most that AOSP's reader takes for an offset or an address.
const MAX_PLACE: u64 = 0x7fff_0000;

const RELA: u32 = 4;
const NO_BITS: u32 = 8;
const REL: u32 = 9;
const SYMBOLS: u32 = 11;
const PROGRAM_BITS: u32 = 1;
const EXECUTABLE: u64 = 1 << 2;
const THREAD_LOCAL: u64 = 1 << 10;

/// Where fields are, for files of 32 and of 64 bits.
struct Layout {
    wide: bool,
    /// Length of an address.
    word: usize,
    header: usize,
    section: usize,
    segment: usize,
}

const NARROW: Layout = Layout { wide: false, word: 4, header: 52, section: 40, segment: 32 };
const WIDE: Layout = Layout { wide: true, word: 8, header: 64, section: 64, segment: 56 };

fn layout(program: Program) -> &'static Layout {
    match program {
        Program::ElfX86 | Program::ElfArm => &NARROW,
        _ => &WIDE,
    }
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|&half| u16::from_le_bytes(half))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|&word| u32::from_le_bytes(word))
}

impl Layout {
    /// An address, offset or length.
    fn word(&self, bytes: &[u8], at: usize) -> Option<u64> {
        let bytes = bytes.get(at..)?;
        if self.wide {
            bytes.first_chunk().map(|&word| u64::from_le_bytes(word))
        } else {
            bytes.first_chunk().map(|&word| u64::from(u32::from_le_bytes(word)))
        }
    }
}

/// The kind of ELF file that `bytes` start as; none if it is of no kind that is known.
pub(super) fn machine(bytes: &[u8]) -> Option<Program> {
    let (class, machine) = (*bytes.get(4)?, half(bytes, 18)?);
    let program = match (class, machine) {
        (1, 3) => Program::ElfX86,
        (1, 40) => Program::ElfArm,
        (2, 62) => Program::ElfX64,
        (2, 183) => Program::ElfArm64,
        _ => return None,
    };
    let layout = layout(program);
    let header = bytes.get(..layout.header)?;
    let little_endian = header[5] == 1 && header[6] == 1 && word(header, 20)? == 1;
    let linked = matches!(half(header, 16)?, 2 | 3);
    let section = usize::from(half(header, layout.header - 6)?);
    (header.starts_with(b"\x7fELF") && little_endian && linked && section == layout.section).then_some(program)
}

struct Section {
    kind: u32,
    flags: u64,
    address: u32,
    offset: u32,
    len: u32,
    entry: u64,
}

pub(super) struct Elf {
    pub(super) len: u32,
    pub(super) addresses: Addresses,
    /// Those with bytes and an address.
    sections: Vec<Section>,
}

/// Reads the headers; none if AOSP's reader would not take the file.
pub(super) fn parse(program: Program, bytes: &[u8]) -> Option<Elf> {
    if machine(bytes)? != program {
        return None;
    }
    let layout = layout(program);
    let file_len = u32::try_from(bytes.len()).ok()?;
    let (segments_at, sections_at) = (layout.word(bytes, 24 + layout.word)?, layout.word(bytes, 24 + 2 * layout.word)?);
    let counts = layout.header - 12;
    let (segment_count, section_count) = (half(bytes, counts + 4)?, half(bytes, counts + 8)?);
    let names = usize::from(half(bytes, counts + 10)?);

    // An offset behind the end counts as the end, where only an empty table is.
    let table = |at: u64, count: u16, len: usize| {
        let start = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
        let len = usize::from(count) * len;
        Some((bytes[start..].get(..len)?, start + len))
    };
    let (sections, sections_end) = table(sections_at, section_count, layout.section)?;
    let (segments, segments_end) = table(segments_at, segment_count, layout.segment)?;
    let mut end = u32::try_from(sections_end.max(segments_end)).ok()?;

    let sections = || sections.chunks_exact(layout.section);
    let place = 8 + 2 * layout.word;
    let range = |section: &[u8]| Some((layout.word(section, place)?, layout.word(section, place + layout.word)?));
    let (names_at, names_len) = range(sections().nth(names)?)?;
    if names_len > 0 {
        let start = usize::try_from(names_at).unwrap_or(usize::MAX).min(bytes.len());
        let names = bytes[start..].get(..usize::try_from(names_len).ok()?)?;
        if names.last() != Some(&0) {
            return None;
        }
    }

    let range_end = |start: u64, len: u64, limit: u64| start.checked_add(len).filter(|&end| end <= limit);
    for segment in segments.chunks_exact(layout.segment) {
        let start = layout.word(segment, layout.word)?;
        let len = layout.word(segment, 4 * layout.word)?;
        end = end.max(u32::try_from(range_end(start, len, u64::from(file_len))?).ok()?);
    }

    let mut runs = Vec::with_capacity(usize::from(section_count));
    let mut kept = Vec::with_capacity(usize::from(section_count));
    for section in sections() {
        let (kind, flags) = (word(section, 4)?, layout.word(section, 8)?);
        let address = layout.word(section, 8 + layout.word)?;
        let (offset, len) = range(section)?;
        let has_bytes = kind != NO_BITS;
        range_end(address, len, MAX_PLACE)?;
        let section_end = range_end(offset, len, if has_bytes { u64::from(file_len) } else { MAX_PLACE })?;
        // What has no address is in no memory. The offsets of what each thread has for itself overlap with others.
        if len == 0 || address == 0 || (!has_bytes && flags & THREAD_LOCAL != 0) {
            continue;
        }
        let (offset, address) = (u32::try_from(offset).ok()?, u32::try_from(address).ok()?);
        let len = u32::try_from(len).ok()?;
        runs.push(Run { offset, address, len });
        if has_bytes {
            end = end.max(u32::try_from(section_end).ok()?);
            let entry = layout.word(section, layout.section - layout.word)?;
            kept.push(Section { kind, flags, address, offset, len, entry });
        }
    }
    Some(Elf { len: end, addresses: Addresses::new(runs)?, sections: kept })
}

/// Reads headers and finds all references; none if AOSP's reader would not take the file, or for files that no linker
/// makes and that would take long to read.
pub(super) fn disassemble(program: Program, bytes: &[u8], room: &mut Room) -> Result<Option<Disassembly>, TooMany> {
    let Some(elf) = parse(program, bytes) else { return Ok(None) };
    let bytes = &bytes[..elf.len as usize];
    let layout = layout(program);
    let width = if layout.wide { 8 } else { 4 };

    let is_relocation = |section: &&Section| match section.kind {
        REL => section.entry == 2 * u64::from(width),
        RELA => section.entry == 3 * u64::from(width),
        _ => false,
    };
    let is_code = |section: &&Section| section.kind == PROGRAM_BITS && section.flags & EXECUTABLE != 0;
    let Some(relocations) = apart(elf.sections.iter().filter(is_relocation).collect()) else { return Ok(None) };
    let Some(code) = apart(elf.sections.iter().filter(is_code).collect()) else { return Ok(None) };

    let mut groups = vec![Group::new(Encoding::Relocation(width), 0), Group::new(Encoding::Pointer(width), 1)];
    let wanted = match program {
        Program::ElfArm => 23,
        Program::ElfArm64 => 0x403,
        _ => 8,
    };
    for section in relocations {
        let entry = u32::try_from(section.entry).expect("12, 16 or 24");
        let entries = bytes[section.offset as usize..].chunks(entry as usize);
        let starts = (section.offset..section.offset + section.len).step_by(entry as usize);
        for (location, relocation) in starts.zip(entries) {
            let address = layout.word(relocation, 0).and_then(|address| u32::try_from(address).ok());
            let kind = word(relocation, layout.word).map(|kind| if layout.wide { kind } else { kind & 0xff });
            // An entry that is cut off by the end of the file is none.
            if kind != Some(wanted) || relocation.len() < entry as usize {
                continue;
            }
            let Some(target) = address.and_then(|address| elf.addresses.offset(address)) else { continue };
            if u64::from(target) + u64::from(width) <= bytes.len() as u64 {
                room.take()?;
                groups[0].references.push(Reference { location, target });
            }
        }
    }

    let mut pointers: Vec<u32> = groups[0].references.iter().map(|reference| reference.target).collect();
    pointers.sort_unstable();
    let mut free = 0;
    for location in pointers {
        // Of what overlaps, the first one counts, among those that go anywhere.
        let target = elf_target(&elf.addresses, Encoding::Pointer(width), bytes, location);
        let Some(target) = target else { continue };
        if location >= free {
            room.take()?;
            groups[1].references.push(Reference { location, target });
            free = location + width;
        }
    }

    let mut search = Search { bytes, addresses: &elf.addresses, code: &code, room };
    let found = match program {
        Program::ElfX86 | Program::ElfX64 => {
            vec![search.x86(&groups[1].references, width, program == Program::ElfX64)?]
        }
        Program::ElfArm => search.arm(&groups[1].references)?,
        _ => search.arm64(&groups[1].references)?,
    };
    groups.extend(found);
    Ok(Some(Disassembly { len: elf.len, groups }))
}

/// Zeros what else depends on addresses, though AOSP's reader does not know it as references: what relocations of all kinds
/// are for and what RELA adds, where symbols are, and the pages that ADRP counts in.
pub(super) fn forget(program: Program, bytes: &mut [u8]) {
    let Some(elf) = parse(program, bytes) else { return };
    let width = layout(program).word;
    for section in &elf.sections {
        let place = &mut bytes[section.offset as usize..][..section.len as usize];
        match section.kind {
            REL => place.chunks_exact_mut(2 * width).for_each(|entry| entry[..width].fill(0)),
            RELA => place.chunks_exact_mut(3 * width).for_each(|entry| {
                entry[..width].fill(0);
                entry[2 * width..].fill(0);
            }),
            SYMBOLS if width == 8 => place.chunks_exact_mut(24).for_each(|symbol| symbol[8..16].fill(0)),
            SYMBOLS => place.chunks_exact_mut(16).for_each(|symbol| symbol[4..8].fill(0)),
            PROGRAM_BITS if program == Program::ElfArm64 && section.flags & EXECUTABLE != 0 => {
                for code in place.as_chunks_mut::<4>().0 {
                    let value = u32::from_le_bytes(*code);
                    if value & 0x9f00_0000 == 0x9000_0000 {
                        *code = (value & 0x9f00_001f).to_le_bytes();
                    }
                }
            }
            _ => {}
        }
    }
}

/// Sorts sections by offset; none if two have a byte in common. Each could be read as often as there are sections.
fn apart(mut sections: Vec<&Section>) -> Option<Vec<&Section>> {
    sections.sort_unstable_by_key(|section| section.offset);
    let apart = sections.windows(2).all(|pair| pair[0].offset + pair[0].len <= pair[1].offset);
    apart.then_some(sections)
}

/// Looks for branches in code.
struct Search<'a> {
    bytes: &'a [u8],
    addresses: &'a Addresses,
    /// Sorted by offset.
    code: &'a [&'a Section],
    room: &'a mut Room,
}

/// The parts of a section between pointers, as offsets.
fn gaps(section: &Section, pointers: &[Reference], width: u32) -> Vec<(u32, u32)> {
    let end = section.offset + section.len;
    let first = pointers.partition_point(|pointer| pointer.location < section.offset);
    let mut start = section.offset;
    if let Some(before) = first.checked_sub(1) {
        start = start.max(pointers[before].location + width);
    }
    let mut gaps = Vec::new();
    for pointer in pointers[first..].iter().take_while(|pointer| pointer.location < end) {
        if start < pointer.location {
            gaps.push((start, pointer.location));
        }
        start = pointer.location + width;
    }
    if start < end {
        gaps.push((start, end));
    }
    gaps
}

impl Search<'_> {
    fn x86(&mut self, pointers: &[Reference], width: u32, wide: bool) -> Result<Group, TooMany> {
        let mut group = Group::new(Encoding::Relative, 2);
        for section in self.code {
            let memory = section.address..section.address + section.len;
            for (start, end) in gaps(section, pointers, width) {
                let code = &self.bytes[start as usize..end as usize];
                let mut at = 0;
                while at + 5 <= code.len() {
                    let rest = &code[at..];
                    let second = rest[1];
                    let (opcode_len, anywhere) = match rest[0] {
                        0xe8 | 0xe9 => (1, false),
                        0x0f if second & 0xf0 == 0x80 => (2, false),
                        0xff if wide && matches!(second, 0x15 | 0x25) => (2, true),
                        0x89 | 0x8b | 0x8d if wide && second & 0xc7 == 5 => (2, true),
                        _ => (0, false),
                    };
                    if let Some(&distance) =
                        rest.get(opcode_len..).filter(|_| opcode_len > 0).and_then(<[u8]>::first_chunk)
                    {
                        let location = start + u32::try_from(at + opcode_len).expect("an offset");
                        let address = self.addresses.address(location).map(|address| address.wrapping_add(4));
                        let address = address.map(|address| address.wrapping_add(u32::from_le_bytes(distance)));
                        let target = address.filter(|address| anywhere || memory.contains(address));
                        if let Some(target) = target.and_then(|address| self.addresses.offset(address)) {
                            self.room.take()?;
                            group.references.push(Reference { location, target });
                            at += opcode_len + 4;
                            continue;
                        }
                    }
                    at += 1;
                }
            }
        }
        Ok(group)
    }

    /// Where a branch goes to, if that is code.
    fn branch(&self, branch: Branch, location: u32) -> Option<u32> {
        let code = branch.load(&self.bytes[location as usize..]);
        // Most instructions are none, and looking for their addresses takes longer than seeing that.
        branch.target(0, code)?;
        let target = self.addresses.offset(branch.target(self.addresses.address(location)?, code)?)?;
        let index = self.code.partition_point(|section| section.offset <= target);
        let section = self.code.get(index.checked_sub(1)?)?;
        (target - section.offset < section.len).then_some(target)
    }

    fn find(&mut self, branch: Branch, group: &mut Group, location: u32) -> Result<(), TooMany> {
        if let Some(target) = self.branch(branch, location) {
            self.room.take()?;
            group.references.push(Reference { location, target });
        }
        Ok(())
    }

    fn arm(&mut self, pointers: &[Reference]) -> Result<Vec<Group>, TooMany> {
        let mut groups = [Branch::A24, Branch::T8, Branch::T11, Branch::T20, Branch::T24]
            .map(|branch| Group::new(Encoding::Branch(branch), 2));
        let [a24, t8, t11, t20, t24] = &mut groups;
        for section in self.code {
            let thumb = self.is_thumb(section);
            for (start, end) in gaps(section, pointers, 4) {
                if !thumb {
                    for location in (start.next_multiple_of(4)..end.saturating_sub(3)).step_by(4) {
                        self.find(Branch::A24, a24, location)?;
                    }
                    continue;
                }
                let mut location = start.next_multiple_of(2);
                while location + 2 <= end {
                    let first = half(self.bytes, location as usize).expect("it is inside");
                    if !branch::is_wide(first) {
                        if first >> 12 == 13 {
                            self.find(Branch::T8, t8, location)?;
                        } else if first >> 11 == 28 {
                            self.find(Branch::T11, t11, location)?;
                        }
                        location += 2;
                        continue;
                    }
                    if location + 4 <= end && first >> 11 == 30 {
                        let second = half(self.bytes, location as usize + 2).expect("it is inside");
                        match second & 0xd000 {
                            0x8000 => self.find(Branch::T20, t20, location)?,
                            0x9000 | 0xd000 | 0xc000 => self.find(Branch::T24, t24, location)?,
                            _ => {}
                        }
                    }
                    location += 4;
                }
            }
        }
        Ok(groups.into())
    }

    /// Whether a section holds Thumb code: where less than 40 % of words are ARM instructions without a condition.
    fn is_thumb(&self, section: &Section) -> bool {
        if !section.address.is_multiple_of(4) || !section.len.is_multiple_of(4) {
            return true;
        }
        let code = &self.bytes[section.offset as usize..][..section.len as usize];
        let always = code.as_chunks::<4>().0.iter().filter(|word| word[3] & 0xf0 == 0xe0).count();
        5 * always < 2 * (code.len() / 4)
    }

    fn arm64(&mut self, pointers: &[Reference]) -> Result<Vec<Group>, TooMany> {
        let mut groups =
            [Branch::Imm14, Branch::Imm19, Branch::Imm26].map(|branch| Group::new(Encoding::Branch(branch), 2));
        let [imm14, imm19, imm26] = &mut groups;
        for section in self.code {
            for (start, end) in gaps(section, pointers, 8) {
                for location in (start.next_multiple_of(4)..end.saturating_sub(3)).step_by(4) {
                    match self.bytes[location as usize + 3] & 0x7f {
                        0x36 | 0x37 => self.find(Branch::Imm14, imm14, location)?,
                        0x54 | 0x34 | 0x35 => self.find(Branch::Imm19, imm19, location)?,
                        high if high & 0x7c == 0x14 => self.find(Branch::Imm26, imm26, location)?,
                        _ => {}
                    }
                }
            }
        }
        Ok(groups.into())
    }
}
