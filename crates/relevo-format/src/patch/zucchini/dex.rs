//! References in DEX files: between items of their tables, and from Dalvik code.

use super::{
    MAX_OFFSET,
    program::{Disassembly, Encoding, Group, Reference, Room, TooMany},
};

/// Items that references count in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item {
    String,
    Type,
    Proto,
    Field,
    Method,
    CallSite,
    MethodHandle,
    Class,
}

impl Item {
    fn len(self) -> u32 {
        match self {
            Self::String | Self::Type | Self::CallSite => 4,
            Self::Field | Self::Method | Self::MethodHandle => 8,
            Self::Proto => 12,
            Self::Class => 32,
        }
    }
}

/// Lists of items that are as long as they say.
#[derive(Debug, Clone, Copy)]
enum List {
    Types,
    SetReferences,
    Sets,
    Directories,
    Fields,
    Methods,
    Parameters,
}

/// Where a group's references are.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// At an offset in each item of a table.
    Table(Item, u32),
    /// In method handles of these kinds.
    Handle(u16, u16),
    /// At an offset in each entry of a list.
    List(List, u32),
    /// In instructions with these opcodes, so many bytes behind their start.
    Code(&'static [(u8, u8)], u32),
}

/// Pools, in the order in which AOSP's reader goes through them, are numbers from 0 on; so are the kinds of references.
const GROUPS: [(Encoding, u8, Place); 42] = {
    use Encoding::{Code, Index16, Index32, Offset};
    use Item::{CallSite, Class, Field, Method, MethodHandle, Proto, String, Type};
    [
        (Index32(String), 0, Place::Table(Type, 0)),
        (Index32(String), 0, Place::Table(Proto, 0)),
        (Index32(String), 0, Place::Table(Field, 4)),
        (Index32(String), 0, Place::Table(Method, 4)),
        (Index32(String), 0, Place::Table(Class, 16)),
        (Index16(String), 0, Place::Code(&[(0x1a, 0x1a)], 2)),
        (Index32(String), 0, Place::Code(&[(0x1b, 0x1b)], 2)),
        (Index32(Type), 1, Place::Table(Proto, 4)),
        (Index16(Type), 1, Place::Table(Field, 0)),
        (Index16(Type), 1, Place::Table(Field, 2)),
        (Index16(Type), 1, Place::Table(Method, 0)),
        (Index32(Type), 1, Place::Table(Class, 0)),
        (Index32(Type), 1, Place::Table(Class, 8)),
        (Index16(Type), 1, Place::List(List::Types, 0)),
        (Index16(Type), 1, Place::Code(&[(0x1c, 0x1c), (0x1f, 0x20), (0x22, 0x25)], 2)),
        (Index16(Proto), 2, Place::Code(&[], 0)),
        (Index16(Proto), 2, Place::Table(Method, 2)),
        (Index16(Field), 3, Place::Code(&[(0x52, 0x6d)], 2)),
        (Index16(Field), 3, Place::Handle(0, 3)),
        (Index32(Field), 3, Place::List(List::Fields, 0)),
        (Index16(Method), 4, Place::Code(&[(0x6e, 0x72), (0x74, 0x78), (0xfa, 0xfb)], 2)),
        (Index16(Method), 4, Place::Handle(4, 8)),
        (Index32(Method), 4, Place::List(List::Methods, 0)),
        (Index32(Method), 4, Place::List(List::Parameters, 0)),
        (Index16(CallSite), 5, Place::Code(&[(0xfc, 0xfd)], 2)),
        (Index16(MethodHandle), 6, Place::Code(&[(0xfe, 0xfe)], 2)),
        (Offset, 7, Place::Table(Proto, 8)),
        (Offset, 7, Place::Table(Class, 12)),
        (Offset, 8, Place::List(List::Parameters, 4)),
        (Offset, 9, Place::List(List::SetReferences, 0)),
        (Offset, 9, Place::List(List::Directories, 0)),
        (Offset, 9, Place::List(List::Fields, 4)),
        (Offset, 9, Place::List(List::Methods, 4)),
        (Offset, 10, Place::Table(Class, 24)),
        (Code(1), 11, Place::Code(&[(0x28, 0x28)], 1)),
        (Code(2), 11, Place::Code(&[(0x29, 0x29), (0x32, 0x3d)], 2)),
        (Code(4), 11, Place::Code(&[(0x26, 0x26), (0x2a, 0x2c)], 2)),
        (Offset, 12, Place::Table(String, 0)),
        (Offset, 13, Place::List(List::Sets, 0)),
        (Offset, 14, Place::Table(Class, 28)),
        (Offset, 15, Place::Table(Class, 20)),
        (Offset, 16, Place::Table(CallSite, 0)),
    ]
};
/// The group of prototypes in code, which stand at two places.
const CODE_PROTOS: usize = 15;

/// Length of an instruction in units of 2 bytes; none if AOSP's reader does not know it.
fn units(opcode: u8) -> Option<u32> {
    Some(match opcode {
        0x18 => 5,
        0xfa | 0xfb => 4,
        0x03 | 0x06 | 0x09 | 0x14 | 0x17 | 0x1b | 0x24..=0x26 | 0x2a..=0x2c => 3,
        0x6e..=0x72 | 0x74..=0x78 | 0xfc | 0xfd => 3,
        0x02 | 0x05 | 0x08 | 0x13 | 0x15 | 0x16 | 0x19 | 0x1a | 0x1c | 0x1f | 0x20 | 0x22 | 0x23 | 0x29 => 2,
        0x2d..=0x3d | 0x44..=0x6d | 0x90..=0xaf | 0xd0..=0xe2 | 0xfe | 0xff => 2,
        0x3e..=0x43 | 0x73 | 0x79 | 0x7a | 0xe3..=0xf9 => return None,
        _ => 1,
    })
}

/// A run of items: where, and how many.
#[derive(Debug, Clone, Copy, Default)]
struct Table {
    offset: u32,
    count: u32,
}

/// Where items are.
#[derive(Debug, Default)]
pub(super) struct Tables([Table; 8]);

pub(super) struct Dex {
    pub(super) len: u32,
    pub(super) tables: Tables,
    /// Offsets of all entries of lists.
    lists: [Vec<u32>; 7],
    /// Offsets of pieces of code.
    code: Vec<u32>,
}

fn half(bytes: &[u8], at: u32) -> Option<u16> {
    bytes.get(at as usize..)?.first_chunk().map(|&half| u16::from_le_bytes(half))
}

fn word(bytes: &[u8], at: u32) -> Option<u32> {
    bytes.get(at as usize..)?.first_chunk().map(|&word| u32::from_le_bytes(word))
}

/// Reads a file one thing after the other.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: u32,
}

impl<'a> Cursor<'a> {
    /// An offset behind the end counts as the end.
    fn new(bytes: &'a [u8], at: u32) -> Self {
        let end = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        Self { bytes, at: at.min(end) }
    }

    fn left(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX) - self.at
    }

    fn skip(&mut self, count: u32, len: u32) -> Option<()> {
        let len = count.checked_mul(len).filter(|&len| len <= self.left())?;
        self.at += len;
        Some(())
    }

    fn align(&mut self) -> Option<()> {
        self.skip(self.at.wrapping_neg() & 3, 1)
    }

    fn word(&mut self) -> Option<u32> {
        let value = word(self.bytes, self.at)?;
        self.at += 4;
        Some(value)
    }

    /// A number of at most 5 bytes, 7 bits in each, and how many bits it has.
    fn leb128(&mut self) -> Option<(u32, u32)> {
        let mut value = 0;
        for (index, &byte) in (0..5).zip(&self.bytes[self.at as usize..]) {
            value |= u32::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                self.at += index + 1;
                return Some((value, (7 * index + 7).min(32)));
            }
        }
        None
    }
}

/// Reads headers, tables, and where lists and code are; none if AOSP's reader would not take the file.
pub(super) fn parse(bytes: &[u8]) -> Option<Dex> {
    let header = bytes.get(..112)?;
    let known = matches!(&header[4..7], b"035" | b"037" | b"038" | b"039");
    if !header.starts_with(b"dex\n") || !known || header[7] != 0 {
        return None;
    }
    let (len, map) = (word(header, 32)?, word(header, 52)?);
    if len < 112 || map < 112 {
        return None;
    }
    let bytes = bytes.get(..len as usize)?;
    let fits = |table: Table, item_len: u32| table.offset <= len && (len - table.offset) / item_len >= table.count;

    let mut cursor = Cursor::new(bytes, map);
    let count = cursor.word().filter(|&count| count <= 21)?;
    let mut seen = Vec::new();
    let mut tables = Tables::default();
    let [mut types, mut references, mut sets, mut directories, mut pieces] = [Table::default(); 5];
    for _ in 0..count {
        let at = cursor.at;
        cursor.skip(1, 12)?;
        let (kind, table) = (half(bytes, at)?, Table { count: word(bytes, at + 4)?, offset: word(bytes, at + 8)? });
        let (place, item_len) = match kind {
            1 => (Some(&mut tables.0[Item::String as usize]), 4),
            2 => (Some(&mut tables.0[Item::Type as usize]), 4),
            3 => (Some(&mut tables.0[Item::Proto as usize]), 12),
            4 => (Some(&mut tables.0[Item::Field as usize]), 8),
            5 => (Some(&mut tables.0[Item::Method as usize]), 8),
            6 => (Some(&mut tables.0[Item::Class as usize]), 32),
            7 => (Some(&mut tables.0[Item::CallSite as usize]), 4),
            8 => (Some(&mut tables.0[Item::MethodHandle as usize]), 8),
            0x1001 => (Some(&mut types), 4),
            0x1002 => (Some(&mut references), 4),
            0x1003 => (Some(&mut sets), 4),
            0x2001 => (Some(&mut pieces), 16),
            0x2006 => (Some(&mut directories), 16),
            _ => (None, 1),
        };
        if !fits(table, item_len) || seen.contains(&kind) {
            return None;
        }
        seen.push(kind);
        if let Some(place) = place {
            *place = table;
        }
    }

    let [fields, methods, parameters, entries] = parse_directories(bytes, directories)?;
    let lists = [
        parse_lists(bytes, types, 2)?,
        parse_lists(bytes, references, 4)?,
        parse_lists(bytes, sets, 4)?,
        entries,
        fields,
        methods,
        parameters,
    ];
    let mut code = Vec::new();
    let mut cursor = Cursor::new(bytes, pieces.offset);
    for _ in 0..pieces.count {
        code.push(skip_code(&mut cursor)?);
    }
    (!code.is_empty()).then_some(Dex { len, tables, lists, code })
}

/// The offsets of the entries of lists that follow each other.
fn parse_lists(bytes: &[u8], lists: Table, entry_len: u32) -> Option<Vec<u32>> {
    let mut cursor = Cursor::new(bytes, lists.offset);
    let mut entries = Vec::new();
    for _ in 0..lists.count {
        cursor.align()?;
        let count = cursor.word()?;
        let start = cursor.at;
        cursor.skip(count, entry_len)?;
        entries.extend((start..cursor.at).step_by(entry_len as usize));
    }
    Some(entries)
}

/// The offsets of annotations of fields, methods and parameters, and of the directories that list them.
fn parse_directories(bytes: &[u8], directories: Table) -> Option<[Vec<u32>; 4]> {
    let mut cursor = Cursor::new(bytes, directories.offset);
    let mut found = [const { Vec::new() }; 4];
    for _ in 0..directories.count {
        cursor.align()?;
        found[3].push(cursor.at);
        cursor.word()?;
        let counts = [cursor.word()?, cursor.word()?, cursor.word()?];
        for (entries, count) in found.iter_mut().zip(counts) {
            let start = cursor.at;
            cursor.skip(count, 8)?;
            entries.extend((start..cursor.at).step_by(8));
        }
    }
    Some(found)
}

/// Goes to behind a piece of code; gives where it starts.
fn skip_code(cursor: &mut Cursor<'_>) -> Option<u32> {
    cursor.align()?;
    let start = cursor.at;
    cursor.skip(1, 16)?;
    let (tries, units) = (half(cursor.bytes, start + 6)?, word(cursor.bytes, start + 12)?);
    cursor.skip(units, 2)?;
    if tries > 0 {
        cursor.align()?;
        cursor.skip(u32::from(tries), 8)?;
        let (lists, _) = cursor.leb128().filter(|&(lists, _)| lists <= cursor.left())?;
        for _ in 0..lists {
            let (count, bits) = cursor.leb128()?;
            let count = (count << (32 - bits)).cast_signed() >> (32 - bits);
            if count.unsigned_abs() > cursor.left() {
                return None;
            }
            for _ in 0..count.unsigned_abs() {
                cursor.leb128()?;
                cursor.leb128()?;
            }
            if count <= 0 {
                cursor.leb128()?;
            }
        }
    }
    Some(start)
}

/// What a place means.
enum Meaning {
    /// It is a reference.
    Target(u32),
    /// It says that there is none.
    Absent,
    /// It goes nowhere.
    Wrong,
}

/// An index that stands for none.
const NO_INDEX: u32 = u32::MAX;

impl Tables {
    fn table(&self, item: Item) -> Table {
        self.0[item as usize]
    }

    fn meaning(&self, encoding: Encoding, bytes: &[u8], location: u32) -> Meaning {
        let index = |item, index: u32| {
            let table = self.table(item);
            // The file's map says that all of them are inside.
            if index < table.count { Meaning::Target(table.offset + index * item.len()) } else { Meaning::Wrong }
        };
        let found = match encoding {
            Encoding::Index16(item) => half(bytes, location).map(|value| index(item, value.into())),
            Encoding::Index32(item) => word(bytes, location).map(|value| match value {
                NO_INDEX => Meaning::Absent,
                value => index(item, value),
            }),
            Encoding::Offset => word(bytes, location).map(|value| match value {
                0 => Meaning::Absent,
                value if (value as usize) < bytes.len() => Meaning::Target(value),
                _ => Meaning::Wrong,
            }),
            Encoding::Code(width) => code_target(width, bytes, location),
            _ => None,
        };
        found.unwrap_or(Meaning::Wrong)
    }

    pub(super) fn target(&self, encoding: Encoding, bytes: &[u8], location: u32) -> Option<u32> {
        match self.meaning(encoding, bytes, location) {
            Meaning::Target(target) => Some(target),
            Meaning::Absent | Meaning::Wrong => None,
        }
    }

    /// Writes a reference to the start of `place`.
    pub(super) fn put(&self, encoding: Encoding, place: &mut [u8], reference: Reference) -> Option<()> {
        let index = |item: Item| {
            let table = self.table(item);
            let index = reference.target.wrapping_sub(table.offset) / item.len();
            (index < table.count).then_some(index)
        };
        match encoding {
            Encoding::Index16(item) => {
                if let Some(index) = index(item) {
                    *place.first_chunk_mut()? = u16::try_from(index).ok()?.to_le_bytes();
                }
            }
            Encoding::Index32(item) => {
                if let Some(index) = index(item) {
                    *place.first_chunk_mut()? = index.to_le_bytes();
                }
            }
            Encoding::Offset => *place.first_chunk_mut()? = reference.target.to_le_bytes(),
            Encoding::Code(width) => {
                let distance = (i64::from(reference.target) - i64::from(reference.location)) / 2 + 1;
                let bits = 64 - 8 * width;
                if distance << bits >> bits == distance {
                    let width = width as usize;
                    place.get_mut(..width)?.copy_from_slice(&distance.to_le_bytes()[..width]);
                }
            }
            _ => return None,
        }
        Some(())
    }
}

/// What the distance in an instruction leads to. It counts from the instruction's start, which is a unit before it.
fn code_target(width: u32, bytes: &[u8], location: u32) -> Option<Meaning> {
    let near = |distance: i32| Some(Meaning::Target(location.wrapping_add_signed(2 * (distance - 1))));
    match width {
        1 => near(bytes.get(location as usize)?.cast_signed().into()),
        2 => near(half(bytes, location)?.cast_signed().into()),
        _ => {
            let distance = i64::from(word(bytes, location)?.cast_signed());
            let target = u32::try_from(i64::from(location) + 2 * (distance - 1)).ok();
            Some(target.filter(|&target| target < MAX_OFFSET).map_or(Meaning::Wrong, Meaning::Target))
        }
    }
}

/// Reads a file and finds all references; none if AOSP's reader would not take it.
pub(super) fn disassemble(bytes: &[u8], room: &mut Room) -> Result<Option<Disassembly>, TooMany> {
    let Some(dex) = parse(bytes) else { return Ok(None) };
    let bytes = &bytes[..dex.len as usize];
    let tables = &dex.tables;
    let mut groups = GROUPS.map(|(encoding, pool, _)| Group::new(encoding, pool));
    let mut opcodes: [Option<(usize, u32)>; 256] = [None; 256];
    for (index, &(encoding, _, place)) in GROUPS.iter().enumerate() {
        let group = &mut groups[index];
        let mut add = |location, meaning| {
            match meaning {
                Meaning::Target(target) => {
                    room.take()?;
                    group.references.push(Reference { location, target });
                }
                Meaning::Absent => {}
                Meaning::Wrong => {
                    room.take()?;
                    group.stops.push(location);
                }
            }
            Ok(())
        };
        let items = |item: Item| {
            let table = tables.table(item);
            // A table at the start of the file, where its header is, counts as none.
            (0..if table.offset > 0 { table.count } else { 0 }).map(move |index| table.offset + index * item.len())
        };
        match place {
            Place::Table(item, at) => {
                for location in items(item).map(|start| start + at) {
                    add(location, tables.meaning(encoding, bytes, location))?;
                }
            }
            Place::Handle(first, last) => {
                for start in items(Item::MethodHandle) {
                    let meaning = match half(bytes, start) {
                        Some(kind) if (first..=last).contains(&kind) => tables.meaning(encoding, bytes, start + 4),
                        Some(0..9) => Meaning::Absent,
                        _ => Meaning::Wrong,
                    };
                    add(start + 4, meaning)?;
                }
            }
            Place::List(list, at) => {
                for location in dex.lists[list as usize].iter().map(|start| start + at) {
                    let meaning = tables.meaning(encoding, bytes, location);
                    // Only tables can do without an index.
                    let none = matches!(meaning, Meaning::Absent) && encoding != Encoding::Offset;
                    add(location, if none { Meaning::Target(NO_INDEX) } else { meaning })?;
                }
            }
            Place::Code(ranges, behind) => {
                for opcode in ranges.iter().flat_map(|&(first, last)| first..=last) {
                    opcodes[usize::from(opcode)] = Some((index, behind));
                }
            }
        }
    }

    for &start in &dex.code {
        let units = word(bytes, start + 12).expect("it was read before");
        let (mut at, mut end) = (start + 16, start + 16 + 2 * units);
        let code_end = end;
        while at < end {
            let opcode = bytes[at as usize];
            let Some(len) = self::units(opcode).map(|units| 2 * units).filter(|&len| len <= code_end - at) else {
                break;
            };
            if matches!(opcode, 0x26 | 0x2b | 0x2c) {
                // Data stand behind all instructions; the first that is met tells where.
                let distance = word(bytes, at + 2).expect("it is inside");
                if distance < len / 2 || distance >= (code_end - at) / 2 {
                    break;
                }
                end = end.min(at + 2 * distance);
            }
            let mut add = |group: usize, location| {
                let (encoding, group) = (GROUPS[group].0, &mut groups[group]);
                let target = match tables.meaning(encoding, bytes, location) {
                    Meaning::Target(target) => target,
                    Meaning::Absent => NO_INDEX,
                    Meaning::Wrong => return Ok(()),
                };
                room.take()?;
                group.references.push(Reference { location, target });
                Ok(())
            };
            if let Some((group, behind)) = opcodes[usize::from(opcode)] {
                add(group, at + behind)?;
            }
            match opcode {
                0xfa | 0xfb => add(CODE_PROTOS, at + 6)?,
                0xff => add(CODE_PROTOS, at + 2)?,
                _ => {}
            }
            at += len;
        }
    }
    Ok(Some(Disassembly { len: dex.len, groups: groups.into() }))
}
