//! Small programs of each kind, and the same ones after a few functions more: all addresses moved.

use relevo_format::patch::{bsdiff::Match, zucchini::Program};

/// What a program is made of: functions by their numbers, each with as many words as its number says, and calls.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    pub(crate) functions: Vec<u32>,
    pub(crate) thumb: bool,
}

/// The bytes of a program, and where each function, pointer and table of it starts.
pub(crate) struct Built {
    pub(crate) bytes: Vec<u8>,
    /// What it is, where, how long.
    parts: Vec<(u32, usize, usize)>,
}

pub(crate) const KINDS: [(Program, bool); 6] = [
    (Program::ElfX86, false),
    (Program::ElfX64, false),
    (Program::ElfArm, false),
    (Program::ElfArm, true),
    (Program::ElfArm64, false),
    (Program::Dex, false),
];

impl Source {
    pub(crate) fn old(thumb: bool) -> Self {
        Self { functions: (1..40).collect(), thumb }
    }

    pub(crate) fn new(thumb: bool) -> Self {
        let functions = (1..8).chain([60, 61]).chain(8..20).chain(23..40).collect();
        Self { functions, thumb }
    }

    pub(crate) fn build(&self, program: Program) -> Built {
        match program {
            Program::Dex => self.dex(),
            _ => self.elf(program),
        }
    }

    /// The functions that one calls: as many as there are digits, all of those that are in the program.
    fn calls(&self, function: u32) -> impl Iterator<Item = u32> {
        let near = (1..6).map(move |step| (function * step * 7) % 40);
        near.filter(|called| self.functions.contains(called))
    }

    fn elf(&self, program: Program) -> Built {
        let wide = matches!(program, Program::ElfX64 | Program::ElfArm64);
        let word = |value: usize| {
            let bytes = (value as u64).to_le_bytes();
            if wide { bytes.to_vec() } else { bytes[..4].to_vec() }
        };
        let (header_len, word_len): (usize, usize) = if wide { (64, 8) } else { (52, 4) };
        let fillers = |function: u32| function % 13 + 2;
        let len = |function: u32| 4 * fillers(function) as usize + 8 * self.calls(function).count();
        let address = |offset: usize| offset + 0x1000;

        let relocations_at = header_len.next_multiple_of(8);
        let count = self.functions.len();
        let relocations_len = 2 * word_len * count;
        let text_at = (relocations_at + relocations_len).next_multiple_of(16);
        let mut starts = Vec::new();
        let mut end = text_at;
        for &function in &self.functions {
            starts.push((function, end, len(function)));
            end += len(function);
        }
        let start = |function| starts.iter().find(|&&(other, _, _)| other == function).unwrap().1;
        let data_at = end.next_multiple_of(16);
        let names_at = data_at + word_len * count;
        let sections_at = (names_at + 1).next_multiple_of(8);

        let mut bytes = vec![0; sections_at];
        let (class, machine, relocation, kind) = match program {
            Program::ElfX86 => (1, 3_u16, 8_usize, 0),
            Program::ElfX64 => (2, 62, 8, 1),
            Program::ElfArm => (1, 40, 23, 2),
            _ => (2, 183, 0x403, 3),
        };
        for (index, &(_, at, _)) in starts.iter().enumerate() {
            let slot = data_at + word_len * index;
            let entry = [word(address(slot)), word(relocation)].concat();
            bytes[relocations_at + 2 * word_len * index..][..2 * word_len].copy_from_slice(&entry);
            bytes[slot..slot + word_len].copy_from_slice(&word(address(at)));
        }
        for &(function, at, _) in &starts {
            let mut code = Vec::new();
            for filler in 0..fillers(function) {
                let number = function * 100 + filler;
                code.extend(match (kind, self.thumb) {
                    (2, true) => ((number % 199 + 0x2000) | ((number % 211 + 0x1c00) << 16)).to_le_bytes(),
                    (2, false) => (0xe3a0_0000 | number).to_le_bytes(),
                    (3, _) => (0x9100_0000 | number << 10).to_le_bytes(),
                    _ => [0x31, 0xc0, number.to_le_bytes()[0] | 1, number.to_le_bytes()[1]],
                });
            }
            for (index, called) in self.calls(function).enumerate() {
                let distance = start(called) as i64 - (at + code.len()) as i64;
                let branch = match (kind, self.thumb) {
                    (2, true) => thumb(index, i32::try_from(distance).unwrap() - 4),
                    (2, false) => (0xeb00_0000 | bits(distance - 8, 2, 24)).to_le_bytes().to_vec(),
                    (3, _) => arm64(index, distance).to_le_bytes().to_vec(),
                    _ => {
                        [&[0xe8][..], &i32::try_from(distance - 5).unwrap().to_le_bytes(), &[0xc0, 0xc3, 0x90]].concat()
                    }
                };
                let padding = if kind < 2 { 0 } else { 8 - branch.len() };
                code.extend(branch);
                code.extend([0x05, 0x20, 0x06, 0x20, 0x07, 0x20].iter().take(padding));
            }
            bytes[at..at + code.len()].copy_from_slice(&code);
        }
        let mut section = |kind: u8, flags, address, at, len, entry| {
            let head = [&[0, 0, 0, 0, kind, 0, 0, 0][..], &word(flags)].concat();
            bytes.extend([head, word(address), word(at), word(len), vec![0; 8], word(0), word(entry)].concat());
        };
        section(0, 0, 0, 0, 0, 0);
        section(9, 2, address(relocations_at), relocations_at, relocations_len, 2 * word_len);
        section(1, 6, address(text_at), text_at, end - text_at, 0);
        section(1, 3, address(data_at), data_at, word_len * count, 0);
        section(3, 0, 0, names_at, 1, 0);
        let half = u16::to_le_bytes;
        let head = [&b"\x7fELF"[..], &[class, 1, 1], &[0; 9], &half(3), &half(machine), &[1, 0, 0, 0]].concat();
        let places = [word(0), word(0), word(sections_at)].concat();
        let (segment_len, section_len) = if wide { (56, 64) } else { (32, 40) };
        let sizes: Vec<u8> = [u16::try_from(header_len).unwrap(), segment_len, 0, section_len, 5, 4]
            .into_iter()
            .flat_map(half)
            .collect();
        let header = [head, places, vec![0; 4], sizes].concat();
        bytes[..header_len].copy_from_slice(&header);

        let mut parts = starts;
        for (index, &function) in self.functions.iter().enumerate() {
            parts.push((1000 + function, relocations_at + 2 * word_len * index, 2 * word_len));
            parts.push((2000 + function, data_at + word_len * index, word_len));
        }
        parts.push((3000, sections_at, bytes.len() - sections_at));
        parts.push((3001, 0, header_len));
        Built { bytes, parts }
    }

    /// Strings and types of the functions' numbers, and one piece of code for each function.
    fn dex(&self) -> Built {
        let count = self.functions.len();
        let index = |function| self.functions.iter().position(|&other| other == function).unwrap();
        let word = |value: usize| u32::try_from(value).unwrap().to_le_bytes();
        let half = |value: usize| u16::try_from(value).unwrap().to_le_bytes();
        let (strings, types) = (112, 112 + 4 * count);
        let protos = types + 4 * count;
        let methods = protos + 12;
        let classes = methods + 8 * count;
        let code = classes + 32;
        let mut bytes = vec![0; code];
        let mut parts = Vec::new();
        for (position, &function) in self.functions.iter().enumerate() {
            let mut insns = Vec::new();
            for called in self.calls(function) {
                insns
                    .extend([&[0x1a, 0][..], &half(index(called)), &[0x71, 0], &half(index(called)), &[0, 0]].concat());
            }
            insns.extend([0x28, 2, 0, 0, 0x13, 1, function.to_le_bytes()[0], 0, 0x0e, 0]);
            let start = bytes.len();
            bytes.extend([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            bytes.extend(word(insns.len() / 2));
            bytes.extend(&insns);
            parts.push((function, start, bytes.len() - start));
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            let table = [(strings, 4, word(0)), (types, 4, word(position))];
            for (at, len, value) in table {
                bytes[at + len * position..][..len].copy_from_slice(&value);
            }
            let method = [&half(position)[..], &half(0), &word(position)].concat();
            bytes[methods + 8 * position..][..8].copy_from_slice(&method);
            parts.push((1000 + function, methods + 8 * position, 8));
            parts.push((2000 + function, strings + 4 * position, 4));
            parts.push((4000 + function, types + 4 * position, 4));
        }
        for (position, &function) in self.functions.iter().enumerate() {
            let at = word(bytes.len());
            bytes[strings + 4 * position..][..4].copy_from_slice(&at);
            let name = format!("\x04{function:04}\0");
            parts.push((5000 + function, bytes.len(), name.len()));
            bytes.extend(name.into_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        let map = bytes.len();
        let items = [
            (1, count, strings),
            (2, count, types),
            (3, 1, protos),
            (5, count, methods),
            (6, 1, classes),
            (0x2001, count, code),
        ];
        bytes.extend(word(items.len()));
        for (kind, count, at) in items {
            bytes.extend([half(kind).as_slice(), &[0, 0], &word(count), &word(at)].concat());
        }
        bytes[classes + 8..classes + 12].fill(0xff);
        bytes[..8].copy_from_slice(b"dex\n035\0");
        let len = word(bytes.len());
        bytes[32..36].copy_from_slice(&len);
        bytes[52..56].copy_from_slice(&word(map));
        parts.push((3000, map, bytes.len() - map));
        parts.push((3001, protos, 12));
        parts.push((3002, classes, 32));
        Built { bytes, parts }
    }
}

/// Some bits of a distance that is divided first.
fn bits(distance: i64, shift: u32, bits: u32) -> u32 {
    u32::try_from(distance >> shift & ((1 << bits) - 1)).unwrap()
}

fn arm64(index: usize, distance: i64) -> u32 {
    match index % 3 {
        0 => 0x9400_0000 | bits(distance, 2, 26),
        1 => 0x3400_0001 | bits(distance, 2, 19) << 5,
        _ => 0x3600_0002 | bits(distance, 2, 14) << 5,
    }
}

fn thumb(index: usize, distance: i32) -> Vec<u8> {
    let half = |value: u32| u16::try_from(value).unwrap().to_le_bytes();
    let wide = i64::from(distance);
    let sign = bits(wide, 24, 1);
    match index % 4 {
        0 if (-256..256).contains(&distance) => half(0xd000 | bits(wide, 1, 8)).to_vec(),
        1 if (-2048..2048).contains(&distance) => half(0xe000 | bits(wide, 1, 11)).to_vec(),
        2 => {
            let first = 0xf000 | bits(wide, 20, 1) << 10 | bits(wide, 12, 6);
            let second = 0x8000 | bits(wide, 18, 1) << 13 | bits(wide, 19, 1) << 11 | bits(wide, 1, 11);
            [half(first), half(second)].concat()
        }
        _ => {
            let first = 0xf000 | sign << 10 | bits(wide, 12, 10);
            let crossed = |at| bits(wide, at, 1) ^ sign ^ 1;
            [half(first), half(0xd000 | crossed(23) << 13 | crossed(22) << 11 | bits(wide, 1, 11))].concat()
        }
    }
}

/// What two programs have in common: whatever is the same thing.
pub(crate) fn matches(old: &Built, new: &Built) -> Vec<Match> {
    let mut matches: Vec<_> = new
        .parts
        .iter()
        .filter_map(|&(what, new, new_len)| {
            let &(_, old, len) = old.parts.iter().find(|&&(other, _, _)| other == what)?;
            Some(Match { old, new, len: len.min(new_len), extra: 0 })
        })
        .collect();
    matches.sort_by_key(|found| found.new);
    matches
}
