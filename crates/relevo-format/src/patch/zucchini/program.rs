//! Programs: what in them refers to what.

use super::{
    MAX_OFFSET, Program,
    address::Addresses,
    branch::Branch,
    dex::{self, Tables},
    elf,
};

/// Something at `location` that means `target`; both are offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) location: u32,
    pub(super) target: u32,
}

/// How a reference is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// The address that a relocation of ELF is for; 4 or 8 bytes.
    Relocation(u32),
    /// An address that is relocated; 4 or 8 bytes.
    Pointer(u32),
    /// The distance from behind these 4 bytes, of x86.
    Relative,
    /// A branch of ARM.
    Branch(Branch),
    /// The number of an item in 2 bytes.
    Index16(dex::Item),
    /// The number of an item in 4 bytes.
    Index32(dex::Item),
    /// An offset in 4 bytes.
    Offset,
    /// The distance between Dalvik instructions in 1, 2 or 4 bytes.
    Code(u32),
}

impl Encoding {
    /// Bytes of such a reference.
    pub(super) fn width(self) -> u32 {
        match self {
            Self::Relocation(width) | Self::Pointer(width) | Self::Code(width) => width,
            Self::Branch(branch) => branch.len(),
            Self::Index16(_) => 2,
            Self::Relative | Self::Index32(_) | Self::Offset => 4,
        }
    }
}

/// All references of one kind in a program.
pub(super) struct Group {
    pub(super) encoding: Encoding,
    /// Which list of targets they count in.
    pub(super) pool: u8,
    /// Sorted by location.
    pub(super) references: Vec<Reference>,
    /// Sorted locations of what would be a reference, but goes nowhere: a reader that comes to one stops.
    pub(super) stops: Vec<u32>,
}

impl Group {
    pub(super) fn new(encoding: Encoding, pool: u8) -> Self {
        Self { encoding, pool, references: Vec::new(), stops: Vec::new() }
    }

    /// The references in a part of the program.
    pub(super) fn within(&self, start: u32, end: u32) -> &[Reference] {
        let stop = self.stops.get(self.stops.partition_point(|&stop| stop < start)).copied();
        let end = stop.map_or(end, |stop| stop.min(end));
        let from = self.references.partition_point(|reference| reference.location < start);
        let rest = &self.references[from..];
        // Parts are mostly short.
        let len = rest.iter().take(16).take_while(|reference| reference.location < end).count();
        let len = if len < 16 { len } else { rest.partition_point(|reference| reference.location < end) };
        &rest[..len]
    }

    /// Those that a reader of the whole program comes to.
    pub(super) fn all(&self) -> &[Reference] {
        self.within(0, u32::MAX)
    }
}

/// What is needed to read and write references of a program whose bytes are at hand.
pub(super) enum Space {
    Elf(Addresses),
    Dex(Tables),
}

/// A program taken apart.
pub(super) struct Disassembly {
    /// Bytes that belong to it.
    pub(super) len: u32,
    /// Sorted by pool.
    pub(super) groups: Vec<Group>,
}

/// Bytes of a table of references for each of them: its vector may have twice the room.
pub(super) const REFERENCE_COST: u64 = 2 * size_of::<Reference>() as u64;

/// Counts references down, before they are kept.
pub(super) struct Room(pub(super) u64);

/// There are more references than fit into memory.
pub(super) struct TooMany;

impl Room {
    pub(super) fn take(&mut self) -> Result<(), TooMany> {
        self.0 = self.0.checked_sub(REFERENCE_COST).ok_or(TooMany)?;
        Ok(())
    }
}

/// Takes a program apart that starts with `bytes`; none if it is not of this kind or damaged.
pub(super) fn disassemble(program: Program, bytes: &[u8], room: &mut Room) -> Result<Option<Disassembly>, TooMany> {
    match program {
        Program::Dex => dex::disassemble(bytes, room),
        _ => elf::disassemble(program, bytes, room),
    }
}

/// The length and the space of a program alone.
pub(super) fn parse(program: Program, bytes: &[u8]) -> Option<(u32, Space)> {
    match program {
        Program::Dex => dex::parse(bytes).map(|dex| (dex.len, Space::Dex(dex.tables))),
        _ => elf::parse(program, bytes).map(|elf| (elf.len, Space::Elf(elf.addresses))),
    }
}

/// The program that `bytes` start with, and its length.
pub(super) fn detect(bytes: &[u8]) -> Option<(Program, u32)> {
    let program = match bytes.first_chunk::<4>()? {
        b"dex\n" => Program::Dex,
        b"\x7fELF" => elf::machine(bytes)?,
        _ => return None,
    };
    let (len, _) = parse(program, bytes)?;
    // As AOSP's reader has it.
    (len >= 16).then_some((program, len))
}

/// What stands for no address.
const NO_ADDRESS: u32 = u32::MAX - 1;

fn get<const N: usize>(bytes: &[u8], at: u32) -> Option<[u8; N]> {
    bytes.get(at as usize..)?.first_chunk().copied()
}

/// What the reference at a place of an ELF file goes to.
pub(super) fn elf_target(addresses: &Addresses, encoding: Encoding, bytes: &[u8], location: u32) -> Option<u32> {
    let address = match encoding {
        Encoding::Relocation(4) | Encoding::Pointer(4) => u32::from_le_bytes(get(bytes, location)?),
        Encoding::Relocation(_) | Encoding::Pointer(_) => u64::from_le_bytes(get(bytes, location)?).try_into().ok()?,
        Encoding::Relative => {
            let distance = u32::from_le_bytes(get(bytes, location)?);
            addresses.address(location)?.wrapping_add(4).wrapping_add(distance)
        }
        Encoding::Branch(branch) => {
            let code = branch.load(bytes.get(location as usize..)?.get(..branch.len() as usize)?);
            branch.target(addresses.address(location)?, code)?
        }
        Encoding::Index16(_) | Encoding::Index32(_) | Encoding::Offset | Encoding::Code(_) => return None,
    };
    addresses.offset(address)
}

impl Space {
    /// What the reference at a place goes to; none if there is none.
    pub(super) fn target(&self, encoding: Encoding, bytes: &[u8], location: u32) -> Option<u32> {
        match self {
            Self::Elf(addresses) => elf_target(addresses, encoding, bytes, location),
            Self::Dex(tables) => tables.target(encoding, bytes, location),
        }
    }

    /// Writes a reference. What cannot be written is left as it is, as AOSP's writer does.
    ///
    /// None if it is out of the program or AOSP's writer would end there.
    pub(super) fn put(&self, encoding: Encoding, bytes: &mut [u8], reference: Reference) -> Option<()> {
        let Reference { location, target } = reference;
        let place = bytes.get_mut(location as usize..)?;
        let addresses = match self {
            Self::Elf(addresses) => addresses,
            Self::Dex(tables) => return tables.put(encoding, place, reference),
        };
        match encoding {
            // The whole relocation is looked at, which is twice as long.
            Encoding::Relocation(4) => {
                place.get(..8)?;
                *place.first_chunk_mut()? = addresses.address(target).unwrap_or(NO_ADDRESS).to_le_bytes();
            }
            Encoding::Relocation(_) => {
                place.get(..16)?;
                *place.first_chunk_mut()? = u64::from(addresses.address(target).unwrap_or(NO_ADDRESS)).to_le_bytes();
            }
            Encoding::Pointer(width) => {
                if let Some(address) = addresses.address(target) {
                    let width = width as usize;
                    place.get_mut(..width)?.copy_from_slice(&u64::from(address).to_le_bytes()[..width]);
                }
            }
            Encoding::Relative => {
                let address = |offset| addresses.address(offset).unwrap_or(NO_ADDRESS);
                let distance = address(target).wrapping_sub(address(location).wrapping_add(4));
                *place.first_chunk_mut()? = distance.to_le_bytes();
            }
            Encoding::Branch(branch) => {
                let place = place.get_mut(..branch.len() as usize)?;
                let address = |offset| addresses.address(offset).unwrap_or(NO_ADDRESS);
                if let Some(code) = branch.with_target(address(location), address(target), branch.load(place)) {
                    branch.store(place, code);
                }
            }
            Encoding::Index16(_) | Encoding::Index32(_) | Encoding::Offset | Encoding::Code(_) => return None,
        }
        Some(())
    }
}

/// Whether an offset may be a target in a patch.
pub(super) fn is_target(offset: u32) -> bool {
    offset < MAX_OFFSET
}
