//! OTA zips: entries in place, metadata, and the signature over the whole file.
//!
//! A zip says most things twice, and programs that believe different halves of it see different files. Here both have
//! to agree, and no two entries may share bytes. Entries that are stored as they are can be read where they lie.
//!
//! # Source
//! APPNOTE.TXT 6.3.10 of PKWARE, sections 4.3 and 4.5.3; AOSP `SignApk.java` and `bootable/recovery` of
//! android-15.0.0_r23 for the signature.

mod metadata;
mod signature;
mod write;

use std::{
    collections::BTreeMap,
    io::{self, Read},
};

use relevo_types::ByteLen;

pub use self::{
    metadata::{DeviceState, Metadata, MetadataError, PartitionState, Properties, PropertiesError},
    signature::{WholeFile, WholeFileError},
    write::{Contents, Layout, ZipWriteError, comment, signed_len},
};
pub(crate) use self::{
    signature::{SHA256, SIGNED_DATA},
    write::DATA,
};
use crate::{ReadAt, Section};

/// Where an A/B OTA has its payload.
pub const PAYLOAD: &str = "payload.bin";
/// Where it has the payload's lengths and digests.
pub const PROPERTIES: &str = "payload_properties.txt";
/// Where any OTA has what it is for, as lines of text.
pub const METADATA: &str = "META-INF/com/android/metadata";
/// The same as a message.
pub const METADATA_PB: &str = "META-INF/com/android/metadata.pb";
/// Where it has the certificate of the key that signed it.
pub const OTACERT: &str = "META-INF/com/android/otacert";
/// Where an A/B OTA has the APEXes of its build.
pub const APEX_INFO: &str = "apex_info.pb";
/// Where it may have the blocks of its partitions that hold files, in either form.
pub const CARE_MAPS: [&str; 2] = ["care_map.pb", "care_map.txt"];
/// Where those of Android 8 to 10 have what the vendor's partition goes with.
pub const COMPATIBILITY: &str = "compatibility.zip";

const END: [u8; 4] = *b"PK\x05\x06";
const END64: [u8; 4] = *b"PK\x06\x06";
const LOCATOR64: [u8; 4] = *b"PK\x06\x07";
const CENTRAL: [u8; 4] = *b"PK\x01\x02";
const LOCAL: [u8; 4] = *b"PK\x03\x04";
/// Bytes of these records, without what varies in length.
const END_LEN: u64 = 22;
const END64_LEN: u64 = 56;
const LOCATOR64_LEN: u64 = 20;
const CENTRAL_LEN: usize = 46;
const LOCAL_LEN: u64 = 30;
/// Kind of the extra field that holds lengths of 64 bits.
const EXTRA64: u16 = 1;
/// Bytes that are unpacked at a time.
const UNPACKED: usize = 1 << 18;
const STORED: u16 = 0;
const DEFLATED: u16 = 8;
/// Flags: encrypted; lengths stand behind the data; strong encryption.
const ENCRYPTED: u16 = 1;
const LATER: u16 = 1 << 3;
const STRONG: u16 = 1 << 6;

/// The most that is taken in.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Entries; zips of target files have some ten thousand.
    pub entries: u64,
    /// Bytes of the central directory.
    pub directory: ByteLen,
    /// Bytes of a name.
    pub name: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 1 << 17, directory: ByteLen::mib(32), name: 1024 }
    }
}

/// Why something is no zip that we take.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ZipError {
    /// The operating system refused.
    #[error("could not read the zip")]
    Read {
        /// What it answered.
        source: io::Error,
    },
    /// There is no end record.
    #[error("it has no end record, so it is no zip or it is cut off")]
    NoEnd,
    /// There are several end records: which one counts would be each reader's choice.
    #[error("it has end records at byte {first} and at byte {second}")]
    TwoEnds {
        /// One.
        first: u64,
        /// Another.
        second: u64,
    },
    /// A zip in several files.
    #[error("it is one of several parts")]
    Parts,
    /// The records for 64 bits are damaged.
    #[error("its 64-bit end record is damaged: {what}")]
    End64 {
        /// What is wrong.
        what: &'static str,
    },
    /// The directory does not end where the end record starts.
    #[error("its directory is {len} bytes at {offset}; it has to end at byte {end}")]
    Directory {
        /// Where it starts.
        offset: u64,
        /// Its bytes.
        len: u64,
        /// Where it has to end.
        end: u64,
    },
    /// More than we take.
    #[error("its {what} is {actual}; the limit is {limit}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How much.
        actual: u64,
        /// The most that we take.
        limit: u64,
    },
    /// The directory has another number of entries than the end record says.
    #[error("entry {index} of {entries} in its directory is damaged or missing")]
    Entry {
        /// Which one.
        index: u64,
        /// How many there are to be.
        entries: u64,
    },
    /// Bytes behind the last entry of the directory.
    #[error("{bytes} bytes follow the last entry of its directory")]
    DirectoryTail {
        /// How many.
        bytes: usize,
    },
    /// A name that is no text.
    #[error("the name of entry {index} is not UTF-8, or has control characters")]
    Name {
        /// Which one.
        index: u64,
    },
    /// A name that occurs twice.
    #[error("{name} is there twice")]
    Twice {
        /// Which one.
        name: String,
    },
    /// Directory and entry disagree.
    #[error("{name}: its {what} is one thing in the directory and another before its data")]
    Mismatch {
        /// Which entry.
        name: String,
        /// What they disagree on.
        what: &'static str,
    },
    /// Data that reach into the directory or beyond the file.
    #[error("{name} ends at byte {end}; the entries end at {limit}")]
    Overrun {
        /// Which entry.
        name: String,
        /// Where it ends.
        end: u64,
        /// Where the entries end.
        limit: u64,
    },
    /// Two entries share bytes.
    #[error("{first} and {second} overlap")]
    Overlap {
        /// One.
        first: String,
        /// The other.
        second: String,
    },
    /// No such entry.
    #[error("it has no {name}")]
    Missing {
        /// Which one.
        name: String,
    },
    /// Encrypted.
    #[error("{name} is encrypted")]
    Encrypted {
        /// Which entry.
        name: String,
    },
    /// Compressed with something else.
    #[error("{name} is compressed with method {method}; expected none or deflate")]
    Method {
        /// Which entry.
        name: String,
        /// The method's number.
        method: u16,
    },
    /// Compressed where it has to lie as it is.
    #[error("{name} is compressed; phones read it in place, so it has to be stored as it is")]
    Compressed {
        /// Which entry.
        name: String,
    },
    /// Stored, but with two lengths.
    #[error("{name} is stored in {stored} bytes, but has {len}")]
    StoredLength {
        /// Which entry.
        name: String,
        /// Bytes in the zip.
        stored: u64,
        /// Bytes of the file.
        len: u64,
    },
    /// Larger than the reader wants.
    #[error("{name} has over {limit} bytes")]
    TooLong {
        /// Which entry.
        name: String,
        /// The most that is wanted.
        limit: ByteLen,
    },
    /// Who unpacks it cannot go on.
    #[error("could not take what {name} unpacks to")]
    Take {
        /// Which entry.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// Damaged data.
    #[error("the data of {name} are damaged: {what}")]
    Damaged {
        /// Which entry.
        name: String,
        /// What is wrong.
        what: &'static str,
    },
}

/// One file of a zip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Where its data start.
    pub offset: u64,
    /// Bytes in the zip.
    pub stored: u64,
    /// Bytes of the file.
    pub len: u64,
    /// CRC-32 of the file.
    pub crc32: u32,
    method: u16,
    flags: u16,
}

impl Entry {
    /// Whether its data lie in the zip as they are.
    pub fn is_stored(&self) -> bool {
        self.method == STORED
    }
}

/// A zip whose entries are where its directory says, and apart from each other.
#[derive(Debug)]
pub struct OtaZip<R> {
    file: R,
    entries: Vec<Entry>,
    names: BTreeMap<String, usize>,
    /// Where the end record starts, and bytes of its comment.
    end: u64,
    comment: u16,
}

fn read<R: ReadAt>(file: &R, offset: u64, len: u64) -> Result<Vec<u8>, ZipError> {
    let len = usize::try_from(len).map_err(|_| ZipError::Read { source: io::ErrorKind::OutOfMemory.into() })?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, offset).map_err(|source| ZipError::Read { source })?;
    Ok(bytes)
}

/// Little-endian numbers at the start of bytes whose length was checked.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn skip(&mut self, len: usize) {
        self.0 = self.0.get(len..).unwrap_or_default();
    }

    fn u16(&mut self) -> u16 {
        let value = self.0.first_chunk().copied().map_or(0, u16::from_le_bytes);
        self.skip(2);
        value
    }

    fn u32(&mut self) -> u32 {
        let value = self.0.first_chunk().copied().map_or(0, u32::from_le_bytes);
        self.skip(4);
        value
    }

    fn u64(&mut self) -> u64 {
        let value = self.0.first_chunk().copied().map_or(0, u64::from_le_bytes);
        self.skip(8);
        value
    }
}

/// What the end record says.
struct End {
    at: u64,
    comment: u16,
    entries: u64,
    directory: u64,
    directory_len: u64,
    /// Where the directory has to end.
    directory_end: u64,
}

impl<R: ReadAt> OtaZip<R> {
    /// Reads the directory and the header before each entry's data.
    ///
    /// # Errors
    /// [`ZipError`], naming the first rule that is broken.
    pub fn read(file: R, limits: &Limits) -> Result<Self, ZipError> {
        let end = find_end(&file)?;
        let over = |what, actual, limit| Err(ZipError::TooMany { what, actual, limit });
        if end.entries > limits.entries {
            return over("number of entries", end.entries, limits.entries);
        }
        if end.directory_len > limits.directory.get() {
            return over("directory's length in bytes", end.directory_len, limits.directory.get());
        }
        if end.directory.checked_add(end.directory_len) != Some(end.directory_end) {
            let (offset, len) = (end.directory, end.directory_len);
            return Err(ZipError::Directory { offset, len, end: end.directory_end });
        }
        let directory = read(&file, end.directory, end.directory_len)?;
        let mut rest = &directory[..];
        // Grown as entries come: their number is only a claim yet.
        let mut found = Vec::new();
        let mut names = BTreeMap::new();
        for index in 0..end.entries {
            let damaged = ZipError::Entry { index, entries: end.entries };
            let (entry, offset) = central(&mut rest, index, limits)?.ok_or(damaged)?;
            if names.insert(entry.name.clone(), found.len()).is_some() {
                return Err(ZipError::Twice { name: entry.name });
            }
            found.push((entry, offset));
        }
        if !rest.is_empty() {
            return Err(ZipError::DirectoryTail { bytes: rest.len() });
        }
        let mut entries = Vec::with_capacity(found.len());
        let mut ranges = Vec::with_capacity(found.len());
        for (mut entry, offset) in found {
            local(&file, &mut entry, offset, end.directory)?;
            ranges.push((offset, entry.offset + entry.stored, entries.len()));
            entries.push(entry);
        }
        ranges.sort_unstable();
        for pair in ranges.windows(2) {
            if pair[0].1 > pair[1].0 {
                let name = |index: usize| entries[index].name.clone();
                return Err(ZipError::Overlap { first: name(pair[0].2), second: name(pair[1].2) });
            }
        }
        Ok(Self { file, entries, names, end: end.at, comment: end.comment })
    }

    /// The file that the zip is in.
    pub fn file(&self) -> &R {
        &self.file
    }

    /// All entries, as the directory has them.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// An entry by its name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.names.get(name).map(|&index| &self.entries[index])
    }

    /// An entry whose data lie in the zip as they are, to be read in place.
    ///
    /// # Errors
    /// [`ZipError::Missing`], [`ZipError::Compressed`], [`ZipError::Encrypted`] or [`ZipError::StoredLength`].
    pub fn stored(&self, name: &str) -> Result<Stored<&R>, ZipError> {
        let entry = self.readable(name)?;
        if !entry.is_stored() {
            return Err(ZipError::Compressed { name: name.to_owned() });
        }
        Ok(Stored { inner: &self.file, offset: entry.offset, len: entry.len })
    }

    /// The bytes of a small entry, checked against its CRC-32.
    ///
    /// # Errors
    /// [`ZipError`] if it is missing, over `limit`, or damaged.
    pub fn small(&self, name: &str, limit: ByteLen) -> Result<Vec<u8>, ZipError> {
        let entry = self.readable(name)?;
        if entry.len > limit.get() {
            return Err(ZipError::TooLong { name: name.to_owned(), limit });
        }
        let mut bytes = Vec::new();
        self.unpack(name, limit, &mut |part| {
            bytes.extend_from_slice(part);
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Unpacks an entry of any size, part by part, and checks it against its length and CRC-32. What was taken before
    /// an error is worth nothing.
    ///
    /// # Errors
    /// [`ZipError`] if it is missing, over `limit`, or damaged; [`ZipError::Take`] if `take` refuses.
    pub fn unpack(
        &self,
        name: &str,
        limit: ByteLen,
        take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ZipError> {
        let entry = self.readable(name)?;
        if entry.len > limit.get() {
            return Err(ZipError::TooLong { name: name.to_owned(), limit });
        }
        let damaged = |what| ZipError::Damaged { name: name.to_owned(), what };
        // Nothing that is deflated unpacks to more than 1032 times its bytes; this claims to.
        if !entry.is_stored() && entry.len > entry.stored.saturating_mul(1032) {
            return Err(damaged("it cannot unpack to its length"));
        }
        let section =
            Section::new(&self.file, entry.offset, entry.stored).map_err(|source| ZipError::Read { source })?;
        let mut reader: Box<dyn Read + '_> = match entry.is_stored() {
            true => Box::new(section),
            false => Box::new(flate2::read::DeflateDecoder::new(section)),
        };
        let mut crc = flate2::Crc::new();
        let mut part = vec![0; usize::try_from(entry.len).unwrap_or(UNPACKED).clamp(1, UNPACKED)];
        let mut left = entry.len;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(part.len()).min(part.len());
            let len = match reader.read(&mut part[..wanted]) {
                Ok(0) => return Err(damaged("its length is another")),
                Ok(len) => len,
                Err(source) if entry.is_stored() => return Err(ZipError::Read { source }),
                Err(_) => return Err(damaged("it is no deflate stream")),
            };
            crc.update(&part[..len]);
            take(&part[..len]).map_err(|source| ZipError::Take { name: name.to_owned(), source })?;
            left -= len as u64;
        }
        // One byte more than there may be: a bomb shows itself there, and gets no further.
        match reader.read(&mut [0]) {
            Ok(0) => {}
            Ok(_) => return Err(damaged("its length is another")),
            Err(_) => return Err(damaged("it is no deflate stream")),
        }
        if crc.sum() == entry.crc32 { Ok(()) } else { Err(damaged("its CRC-32 is another")) }
    }

    fn readable(&self, name: &str) -> Result<&Entry, ZipError> {
        let entry = self.entry(name).ok_or_else(|| ZipError::Missing { name: name.to_owned() })?;
        let name = || name.to_owned();
        if entry.flags & (ENCRYPTED | STRONG) != 0 {
            return Err(ZipError::Encrypted { name: name() });
        }
        match entry.method {
            STORED if entry.stored != entry.len => {
                Err(ZipError::StoredLength { name: name(), stored: entry.stored, len: entry.len })
            }
            STORED | DEFLATED => Ok(entry),
            method => Err(ZipError::Method { name: name(), method }),
        }
    }
}

/// An entry that is read where it lies.
#[derive(Debug, Clone, Copy)]
pub struct Stored<R> {
    inner: R,
    offset: u64,
    len: u64,
}

impl<R> Stored<R> {
    /// Where it starts in the zip.
    pub fn offset(&self) -> ByteLen {
        ByteLen::new(self.offset)
    }
}

impl<R: ReadAt> ReadAt for Stored<R> {
    fn len(&self) -> ByteLen {
        ByteLen::new(self.len)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match offset.checked_add(buf.len() as u64) {
            Some(end) if end <= self.len => self.inner.read_exact_at(buf, self.offset + offset),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Finds the end record: the one whose comment ends with the file.
fn find_end<R: ReadAt>(file: &R) -> Result<End, ZipError> {
    let len = file.len().get();
    let tail_len = len.min(END_LEN + u64::from(u16::MAX));
    let tail_start = len - tail_len;
    let tail = read(file, tail_start, tail_len)?;
    let mut found: Option<(u64, u16)> = None;
    for (at, record) in tail.windows(22).enumerate() {
        if record[..4] != END {
            continue;
        }
        let comment = u16::from_le_bytes([record[20], record[21]]);
        if at + record.len() + usize::from(comment) != tail.len() {
            continue;
        }
        let second = tail_start + at as u64;
        if let Some((first, _)) = found {
            return Err(ZipError::TwoEnds { first, second });
        }
        found = Some((second, comment));
    }
    let (at, comment) = found.ok_or(ZipError::NoEnd)?;
    let record = &tail[usize::try_from(at - tail_start).expect("it was found there")..];
    let mut numbers = Numbers(&record[4..]);
    let parts = (numbers.u16(), numbers.u16());
    let here = numbers.u16();
    let entries = numbers.u16();
    let (directory_len, directory) = (numbers.u32(), numbers.u32());
    let large = entries == u16::MAX || directory_len == u32::MAX || directory == u32::MAX;
    if large {
        return find_end64(file, at, comment);
    }
    if parts != (0, 0) || here != entries {
        return Err(ZipError::Parts);
    }
    let (directory, directory_len) = (directory.into(), directory_len.into());
    Ok(End { at, comment, entries: entries.into(), directory, directory_len, directory_end: at })
}

fn find_end64<R: ReadAt>(file: &R, at: u64, comment: u16) -> Result<End, ZipError> {
    let damaged = |what| ZipError::End64 { what };
    let locator_at = at.checked_sub(LOCATOR64_LEN).ok_or(damaged("there is no room for it"))?;
    let locator = read(file, locator_at, LOCATOR64_LEN)?;
    if locator[..4] != LOCATOR64 {
        return Err(damaged("nothing says where it is"));
    }
    let mut numbers = Numbers(&locator[4..]);
    let part = numbers.u32();
    let record_at = numbers.u64();
    // Some writers count parts from 0.
    if part != 0 || numbers.u32() > 1 {
        return Err(ZipError::Parts);
    }
    if record_at.checked_add(END64_LEN).is_none_or(|end| end > locator_at) {
        return Err(damaged("it is not where it is said to be"));
    }
    let record = read(file, record_at, END64_LEN)?;
    if record[..4] != END64 {
        return Err(damaged("something else is where it is said to be"));
    }
    let mut numbers = Numbers(&record[4..]);
    let size = numbers.u64();
    if size.checked_add(12).and_then(|size| size.checked_add(record_at)) != Some(locator_at) {
        return Err(damaged("its length is another"));
    }
    numbers.skip(4);
    let parts = (numbers.u32(), numbers.u32());
    let (here, entries) = (numbers.u64(), numbers.u64());
    if parts != (0, 0) || here != entries {
        return Err(ZipError::Parts);
    }
    let (directory_len, directory) = (numbers.u64(), numbers.u64());
    Ok(End { at, comment, entries, directory, directory_len, directory_end: record_at })
}

/// Takes one entry off the directory: the entry, whose offset is not known yet, and where its header is.
fn central(rest: &mut &[u8], index: u64, limits: &Limits) -> Result<Option<(Entry, u64)>, ZipError> {
    let Some((record, variable)) = rest.split_at_checked(CENTRAL_LEN) else { return Ok(None) };
    if record[..4] != CENTRAL {
        return Ok(None);
    }
    let mut numbers = Numbers(&record[8..]);
    let (flags, method) = (numbers.u16(), numbers.u16());
    numbers.skip(4); // time and date
    let crc32 = numbers.u32();
    let (mut stored, mut len) = (u64::from(numbers.u32()), u64::from(numbers.u32()));
    let (name_len, extra_len, comment_len) = (numbers.u16(), numbers.u16(), numbers.u16());
    let part = numbers.u16();
    numbers.skip(6); // attributes
    let mut offset = u64::from(numbers.u32());
    if name_len > limits.name {
        let (actual, limit) = (name_len.into(), limits.name.into());
        return Err(ZipError::TooMany { what: "longest name", actual, limit });
    }
    if part != 0 {
        return Err(ZipError::Parts);
    }
    let Some((name, variable)) = variable.split_at_checked(name_len.into()) else { return Ok(None) };
    let Some((mut extra, variable)) = variable.split_at_checked(extra_len.into()) else { return Ok(None) };
    let Some(variable) = variable.get(usize::from(comment_len)..) else { return Ok(None) };
    *rest = variable;
    let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty() && !name.contains(char::is_control));
    let name = name.ok_or(ZipError::Name { index })?.to_owned();

    // Where a number does not fit, it is all ones, and stands in an extra field; in this order.
    let wanted: Vec<&mut u64> =
        [&mut len, &mut stored, &mut offset].into_iter().filter(|value| **value == u64::from(u32::MAX)).collect();
    if !wanted.is_empty() {
        let field = loop {
            let Some((header, after)) = extra.split_at_checked(4) else { return Ok(None) };
            let mut numbers = Numbers(header);
            let (kind, size) = (numbers.u16(), numbers.u16());
            let Some((field, after)) = after.split_at_checked(size.into()) else { return Ok(None) };
            if kind == EXTRA64 {
                break field;
            }
            extra = after;
        };
        if field.len() < 8 * wanted.len() {
            return Ok(None);
        }
        let mut numbers = Numbers(field);
        wanted.into_iter().for_each(|value| *value = numbers.u64());
    }
    Ok(Some((Entry { name, offset: 0, stored, len, crc32, method, flags }, offset)))
}

/// Reads the header before an entry's data, which says where they start, and compares it with the directory.
fn local<R: ReadAt>(file: &R, entry: &mut Entry, at: u64, limit: u64) -> Result<(), ZipError> {
    let overrun = |end: u64, name: &str| ZipError::Overrun { name: name.to_owned(), end, limit };
    let header_end = at.saturating_add(LOCAL_LEN + entry.name.len() as u64);
    if header_end > limit {
        return Err(overrun(header_end, &entry.name));
    }
    let header = read(file, at, header_end - at)?;
    let differs = |what| ZipError::Mismatch { name: entry.name.clone(), what };
    if header[..4] != LOCAL {
        return Err(differs("place"));
    }
    let mut numbers = Numbers(&header[6..]);
    let (flags, method) = (numbers.u16(), numbers.u16());
    numbers.skip(4); // time and date
    let (crc32, stored, len) = (numbers.u32(), numbers.u32(), numbers.u32());
    let (name_len, extra_len) = (numbers.u16(), numbers.u16());
    if usize::from(name_len) != entry.name.len() || header[30..] != *entry.name.as_bytes() {
        return Err(differs("name"));
    }
    if method != entry.method {
        return Err(differs("compression"));
    }
    // Whether it is encrypted, and where its lengths are.
    let counting = ENCRYPTED | LATER | STRONG;
    if flags & counting != entry.flags & counting {
        return Err(differs("set of flags"));
    }
    // With `LATER` they are behind the data, and may be zero here.
    let later = flags & LATER != 0;
    let same = |here: u32, there: u64| u64::from(here) == there || here == u32::MAX || later && here == 0;
    if !same(stored, entry.stored) || !same(len, entry.len) {
        return Err(differs("length"));
    }
    if crc32 != entry.crc32 && !(later && crc32 == 0) {
        return Err(differs("CRC-32"));
    }
    entry.offset = header_end + u64::from(extra_len);
    let end = entry.offset.saturating_add(entry.stored);
    if end > limit {
        return Err(overrun(end, &entry.name));
    }
    Ok(())
}
