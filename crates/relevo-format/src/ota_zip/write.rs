//! Writes OTA zips as stock tools lay them out, and signs them.
//!
//! Phones and updaters find things by position: the metadata come first, what an updater fetches by range is stored as it
//! is, and `ota-property-files` says where. All positions are known before the first byte is written, as all lengths are;
//! so the payload, gigabytes of it, is written once, where it stays.
//!
//! # Source
//! AOSP `SignApk.java`, `releasetools/ota_utils.py` of android-15.0.0_r23; APPNOTE.TXT 6.3.10 of PKWARE, section 4.3.

use std::io::{self, Read as _, Seek, SeekFrom, Write};

use prost::Message as _;
use relevo_types::{ByteLen, Sha256};

use super::{
    APEX_INFO, CARE_MAPS, CENTRAL, COMPATIBILITY, END, END64, END64_LEN, EXTRA64, LOCAL, LOCATOR64, METADATA,
    METADATA_PB, Metadata, OTACERT, PAYLOAD, PROPERTIES,
    signature::{FOOTER, SHA256, SIGNED_DATA},
};
use crate::payload::{
    self, Certificate, KeyKind,
    der::{self, value},
    key::{ECDSA_SHA256, RSA_SHA256},
};

/// What the property files are called, and whether they name the payload's front.
const PROPERTY_FILES: [(&str, bool); 2] = [("ota-property-files", true), ("ota-streaming-property-files", false)];
/// Characters that stock tools set aside for an offset and a length of what comes last.
const RESERVED: usize = 15;
/// Bytes that say how long the comment is; they end a zip that has none.
const COMMENT_LEN: u64 = 2;
/// 2009-01-01, midnight, as zips have dates; each entry of a signed zip has it.
const DATE: [u8; 4] = [0, 0, 0x21, 0x3a];
/// Names are UTF-8.
const UTF8: u16 = 1 << 11;
/// Extra field of the first entry: this is a JAR.
const JAR: [u8; 4] = [0xfe, 0xca, 0, 0];
/// Extra field of stored entries: aligned to nothing.
const ALIGNMENT: [u8; 6] = [0x35, 0xd9, 2, 0, 0, 0];
/// Version of the format that an entry needs: plain, deflated, with lengths of 64 bits.
const PLAIN: u16 = 10;
const WITH_DEFLATE: u16 = 20;
const WITH_64: u16 = 45;
/// "Made by Unix", and a regular file that everybody may read.
const UNIX: u16 = 3 << 8;
const MODE: u32 = 0o100_644 << 16;
/// What a comment says before the signature.
const SIGNED_BY: &[u8] = b"signed by SignApk\0";
/// `1.2.840.113549.1.7.1`, plain data.
pub(crate) const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];

/// What goes into an OTA zip.
#[derive(Debug)]
pub struct Contents<'a> {
    /// What it is for. The writer says where things lie.
    pub metadata: Metadata,
    /// The payload.
    pub payload: &'a payload::Unsigned,
    /// What the phone is told beside the payload: `POWERWASH` and such.
    pub properties: &'a [(String, String)],
    /// Further entries by name, stored as they are: `apex_info.pb`, `care_map.pb`.
    pub entries: &'a [(String, Vec<u8>)],
    /// The certificate of the key that will sign the whole file; none if nobody will.
    pub certificate: Option<&'a Certificate>,
}

/// Why an OTA zip could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ZipWriteError {
    /// The operating system refused.
    #[error("could not write the zip")]
    Write {
        /// What it answered.
        source: io::Error,
    },
    /// A name that two entries have, or that no reader of ours takes.
    #[error("an entry cannot be called {name:?}")]
    Name {
        /// Which name.
        name: String,
    },
    /// A property or a line of metadata that would be two.
    #[error("{key:?} or what it is set to has characters that end a line")]
    Line {
        /// Which one.
        key: String,
    },
    /// The payload has another length than it was laid out with.
    #[error("the payload has {actual} bytes, and was to have {expected}")]
    PayloadLen {
        /// As laid out.
        expected: u64,
        /// As written.
        actual: u64,
    },
    /// The signature looks like the end of a zip, which readers that search for it would take it for.
    #[error(
        "the signature holds the bytes that end a zip; sign other bytes, with another date in the metadata for one"
    )]
    EndInSignature,
    /// A signature with a certificate that do not fit into a comment.
    #[error("the signature and its certificate take {0} bytes; a zip's comment has room for 65535")]
    Comment(usize),
}

/// An OTA zip whose every position is known.
#[derive(Debug)]
pub struct Layout {
    entries: Vec<Entry>,
    properties: Vec<(String, String)>,
    directory: u64,
}

#[derive(Debug)]
struct Entry {
    name: String,
    data: Data,
    /// Where its header is.
    at: u64,
}

#[derive(Debug)]
enum Data {
    Stored(Vec<u8>),
    /// Deflated bytes, and the length and CRC-32 of what they are.
    Deflated(Vec<u8>, u64, u32),
    Payload(u64),
    /// `payload_properties.txt`, which is as long whatever the digests are.
    Properties(u64),
}

impl Entry {
    /// Bytes in the zip.
    fn stored(&self) -> u64 {
        match &self.data {
            Data::Stored(bytes) | Data::Deflated(bytes, ..) => bytes.len() as u64,
            Data::Payload(len) | Data::Properties(len) => *len,
        }
    }

    fn len(&self) -> u64 {
        match &self.data {
            Data::Deflated(_, len, _) => *len,
            _ => self.stored(),
        }
    }

    fn is_deflated(&self) -> bool {
        matches!(self.data, Data::Deflated(..))
    }

    fn extra(&self) -> Vec<u8> {
        let mut extra = Vec::new();
        if self.is_deflated() {
            return extra;
        }
        if self.stored() >= u64::from(u32::MAX) {
            extra.extend(EXTRA64.to_le_bytes());
            extra.extend(16_u16.to_le_bytes());
            extra.extend(self.stored().to_le_bytes());
            extra.extend(self.stored().to_le_bytes());
        }
        if self.at == 0 {
            extra.extend(JAR);
        }
        extra.extend(ALIGNMENT);
        extra
    }

    /// Where its data start.
    fn offset(&self) -> u64 {
        self.at + super::LOCAL_LEN + (self.name.len() + self.extra().len()) as u64
    }

    /// Where the next entry starts.
    fn end(&self) -> u64 {
        // Lengths and CRC-32 of what is deflated stand behind it.
        self.offset() + self.stored() + if self.is_deflated() { 16 } else { 0 }
    }

    fn version(&self) -> u16 {
        match self.data {
            Data::Deflated(..) => WITH_DEFLATE,
            _ if self.stored() >= u64::from(u32::MAX) => WITH_64,
            _ => PLAIN,
        }
    }

    /// What headers before the data and in the directory have in common, from the version to the length of the extra field.
    fn header(&self, crc32: u32, in_directory: bool) -> Vec<u8> {
        let mut header = self.version().to_le_bytes().to_vec();
        let later = self.is_deflated() && !in_directory;
        let (flags, method) = if self.is_deflated() { (UTF8 | super::LATER, super::DEFLATED) } else { (UTF8, 0) };
        header.extend(flags.to_le_bytes());
        header.extend(method.to_le_bytes());
        header.extend(DATE);
        header.extend(if later { 0 } else { crc32 }.to_le_bytes());
        for len in [self.stored(), self.len()] {
            header.extend(short(if later { 0 } else { len }).to_le_bytes());
        }
        header.extend(u16::try_from(self.name.len()).expect("the name was measured").to_le_bytes());
        header
    }

    fn local_header(&self, crc32: u32) -> Vec<u8> {
        let extra = self.extra();
        let mut header = LOCAL.to_vec();
        header.extend(self.header(crc32, false));
        header.extend(u16::try_from(extra.len()).expect("some 30 bytes").to_le_bytes());
        header.extend(self.name.as_bytes());
        header.extend(extra);
        header
    }

    fn directory_entry(&self, crc32: u32) -> Vec<u8> {
        // Only what does not fit is said again, the place of the header too.
        let large: Vec<u64> =
            [self.len(), self.stored(), self.at].into_iter().filter(|&value| value >= u64::from(u32::MAX)).collect();
        let mut extra = Vec::new();
        if !large.is_empty() {
            extra.extend(EXTRA64.to_le_bytes());
            extra.extend(u16::try_from(8 * large.len()).expect("at most 24").to_le_bytes());
            large.iter().for_each(|value| extra.extend(value.to_le_bytes()));
        }
        if !self.is_deflated() {
            if self.at == 0 {
                extra.extend(JAR);
            }
            extra.extend(ALIGNMENT);
        }
        let version = if large.is_empty() { self.version() } else { WITH_64 };
        let (made_by, mode) = if self.is_deflated() { (version, 0) } else { (UNIX | version, MODE) };
        let mut entry = CENTRAL.to_vec();
        entry.extend(made_by.to_le_bytes());
        let mut header = self.header(crc32, true);
        header[..2].copy_from_slice(&version.to_le_bytes());
        entry.extend(header);
        entry.extend(u16::try_from(extra.len()).expect("some 40 bytes").to_le_bytes());
        entry.extend([0; 6]); // comment, part, attributes within
        entry.extend(mode.to_le_bytes());
        entry.extend(short(self.at).to_le_bytes());
        entry.extend(self.name.as_bytes());
        entry.extend(extra);
        entry
    }
}

/// A number of 32 bits; all ones if it does not fit, and stands elsewhere.
fn short(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

impl Layout {
    /// Lays out a zip.
    ///
    /// # Errors
    /// [`ZipWriteError::Name`], [`ZipWriteError::Line`].
    pub fn new(contents: &Contents<'_>) -> Result<Self, ZipWriteError> {
        let line = |key: &str, value: &str| {
            let broken = [key, value].iter().any(|text| text.contains(char::is_control)) || key.contains('=');
            if broken { Err(ZipWriteError::Line { key: key.to_owned() }) } else { Ok(()) }
        };
        contents.properties.iter().try_for_each(|(key, value)| line(key, value))?;
        contents.metadata.lines().iter().try_for_each(|(key, value)| line(key, value))?;

        let digest = Sha256::new([0; 32]);
        let unknown = payload::Properties {
            file_sha256: digest,
            file_size: contents.payload.len(),
            metadata_sha256: digest,
            metadata_size: contents.payload.metadata_len(),
        };
        let properties_len = properties_text(&unknown, contents.properties).len() as u64;
        let mut stored: Vec<Entry> = [
            (METADATA, Data::Stored(Vec::new())),
            (METADATA_PB, Data::Stored(Vec::new())),
            (PAYLOAD, Data::Payload(contents.payload.len().get())),
            (PROPERTIES, Data::Properties(properties_len)),
        ]
        .into_iter()
        .map(|(name, data)| Entry { name: name.to_owned(), data, at: 0 })
        .collect();
        for (name, bytes) in contents.entries {
            let taken = stored.iter().any(|entry| entry.name == *name) || name == OTACERT;
            // Names before that of the metadata would come before them.
            if taken || name.is_empty() || name.len() > 1024 || name.contains(char::is_control) || **name < *METADATA {
                return Err(ZipWriteError::Name { name: name.clone() });
            }
            stored.push(Entry { name: name.clone(), data: Data::Stored(bytes.clone()), at: 0 });
        }
        let metadata_len = contents.payload.blobs_offset().get();
        let mut reserved = reserved(&stored, metadata_len);
        stored.sort_by(|a, b| a.name.cmp(&b.name));
        let mut entries = stored;
        if let Some(certificate) = contents.certificate {
            let pem = certificate.to_pem();
            let mut crc = flate2::Crc::new();
            crc.update(pem.as_bytes());
            let mut packed = Vec::new();
            let read =
                flate2::read::DeflateEncoder::new(pem.as_bytes(), flate2::Compression::best()).read_to_end(&mut packed);
            read.map_err(|source| ZipWriteError::Write { source })?;
            let data = Data::Deflated(packed, pem.len() as u64, crc.sum());
            entries.push(Entry { name: OTACERT.to_owned(), data, at: 0 });
        }
        let mut layout = Self { entries, properties: contents.properties.to_vec(), directory: 0 };
        loop {
            // Lines of the length that they will have say how long the metadata are, and so where all the rest is.
            let mut metadata = contents.metadata.clone();
            metadata.property_files.clear();
            for ((name, _), len) in PROPERTY_FILES.iter().zip(&reserved) {
                metadata.property_files.insert((*name).to_owned(), " ".repeat(*len));
            }
            layout.place(&metadata);
            let places: Vec<_> =
                layout.entries.iter().map(|entry| (&*entry.name, entry.offset(), entry.stored())).collect();
            let files = PROPERTY_FILES.map(|(_, front)| property_files(&places, metadata_len, front));
            if files.iter().zip(&reserved).all(|(files, &len)| files.len() <= len) {
                for (((name, _), files), len) in PROPERTY_FILES.iter().zip(files).zip(reserved) {
                    metadata.property_files.insert((*name).to_owned(), format!("{files:len$}"));
                }
                layout.place(&metadata);
                return Ok(layout);
            }
            // Offsets have more digits than in the layout that room was made for. They only grow, so this ends.
            reserved = [0, 1].map(|index: usize| reserved[index].max(files[index].len() + 2));
        }
    }

    /// Puts the metadata in, and says where each entry is.
    fn place(&mut self, metadata: &Metadata) {
        let mut at = 0;
        for entry in &mut self.entries {
            match &*entry.name {
                METADATA => entry.data = Data::Stored(metadata.to_text().into_bytes()),
                METADATA_PB => entry.data = Data::Stored(metadata.encode_to_vec()),
                _ => {}
            }
            entry.at = at;
            at = entry.end();
        }
        self.directory = at;
    }

    /// Where the payload will start.
    pub fn payload_offset(&self) -> ByteLen {
        let payload = self.entries.iter().find(|entry| entry.name == PAYLOAD);
        ByteLen::new(payload.expect("every layout has one").offset())
    }

    /// Writes the zip, whose `payload` writes itself in its place; gives its length.
    ///
    /// `out` is empty. What is written has room for no comment: [`comment`] says what comes over its last two bytes.
    ///
    /// # Errors
    /// [`ZipWriteError`], and whatever `payload` answers; what was written by then is of no use.
    pub fn write<W: Write + Seek, E: From<ZipWriteError>>(
        &self,
        out: &mut W,
        payload: impl FnOnce(&mut dyn Write) -> Result<payload::Properties, E>,
    ) -> Result<ByteLen, E> {
        let mut payload = Some(payload);
        let mut properties = None;
        let mut directory = Vec::new();
        let put = |out: &mut W, bytes: &[u8]| out.write_all(bytes).map_err(|source| ZipWriteError::Write { source });
        for entry in &self.entries {
            let stored = |out: &mut W, bytes: &[u8]| -> Result<u32, ZipWriteError> {
                let mut crc = flate2::Crc::new();
                crc.update(bytes);
                put(out, &entry.local_header(crc.sum()))?;
                put(out, bytes)?;
                Ok(crc.sum())
            };
            let crc32 = match &entry.data {
                Data::Stored(bytes) => stored(out, bytes)?,
                Data::Properties(len) => {
                    let properties =
                        properties.as_ref().expect("the payload's name comes before that of its properties");
                    let text = properties_text(properties, &self.properties);
                    let actual = text.len() as u64;
                    if actual != *len {
                        return Err(ZipWriteError::PayloadLen { expected: *len, actual }.into());
                    }
                    stored(out, text.as_bytes())?
                }
                Data::Deflated(bytes, len, crc32) => {
                    put(out, &entry.local_header(0))?;
                    put(out, bytes)?;
                    let mut behind = b"PK\x07\x08".to_vec();
                    behind.extend(crc32.to_le_bytes());
                    behind.extend(short(bytes.len() as u64).to_le_bytes());
                    behind.extend(short(*len).to_le_bytes());
                    put(out, &behind)?;
                    *crc32
                }
                Data::Payload(expected) => {
                    put(out, &entry.local_header(0))?;
                    let mut counted = Counted { inner: &mut *out, crc: flate2::Crc::new(), len: 0 };
                    let write = payload.take().expect("a layout has one payload");
                    properties = Some(write(&mut counted)?);
                    let (crc32, actual) = (counted.crc.sum(), counted.len);
                    if actual != *expected {
                        return Err(ZipWriteError::PayloadLen { expected: *expected, actual }.into());
                    }
                    // The header's sixth field is the one thing that was not known before.
                    let patched = out
                        .seek(SeekFrom::Start(entry.at + 14))
                        .and_then(|_| out.write_all(&crc32.to_le_bytes()))
                        .and_then(|()| out.seek(SeekFrom::End(0)));
                    patched.map_err(|source| ZipWriteError::Write { source })?;
                    crc32
                }
            };
            directory.extend(entry.directory_entry(crc32));
        }
        let end = self.end_records(directory.len() as u64);
        put(out, &directory)?;
        put(out, &end)?;
        out.flush().map_err(|source| ZipWriteError::Write { source })?;
        Ok(ByteLen::new(self.directory + (directory.len() + end.len()) as u64))
    }

    fn end_records(&self, directory_len: u64) -> Vec<u8> {
        let mut records = Vec::new();
        let entries = self.entries.len() as u64;
        let end = self.directory + directory_len;
        if self.directory >= u64::from(u32::MAX) {
            records.extend(END64);
            records.extend((END64_LEN - 12).to_le_bytes());
            records.extend(WITH_64.to_le_bytes());
            records.extend(WITH_64.to_le_bytes());
            records.extend([0; 8]);
            records.extend(entries.to_le_bytes());
            records.extend(entries.to_le_bytes());
            records.extend(directory_len.to_le_bytes());
            records.extend(self.directory.to_le_bytes());
            records.extend(LOCATOR64);
            records.extend([0; 4]);
            records.extend(end.to_le_bytes());
            records.extend(1_u32.to_le_bytes());
        }
        records.extend(END);
        records.extend([0; 4]);
        let entries = u16::try_from(entries).expect("some ten entries");
        records.extend(entries.to_le_bytes());
        records.extend(entries.to_le_bytes());
        records.extend(short(directory_len).to_le_bytes());
        records.extend(short(self.directory).to_le_bytes());
        records.extend([0; 2]);
        records
    }
}

/// `payload_properties.txt`.
fn properties_text(properties: &payload::Properties, more: &[(String, String)]) -> String {
    let mut text = properties.to_text();
    more.iter().for_each(|(key, value)| text.extend([key, "=", value, "\n"]));
    text
}

/// Where entries (name, offset, length) lie, for updaters that fetch them alone; in the order of stock tools.
fn property_files(places: &[(&str, u64, u64)], front: u64, with_front: bool) -> String {
    let mut tokens = Vec::new();
    let names = [&[PAYLOAD, PROPERTIES, APEX_INFO][..], &CARE_MAPS, &[COMPATIBILITY, METADATA, METADATA_PB]].concat();
    for name in names {
        let Some((_, offset, len)) = places.iter().find(|(other, ..)| *other == name) else { continue };
        if name == PAYLOAD && with_front {
            tokens.push(format!("payload_metadata.bin:{offset}:{front}"));
        }
        tokens.push(format!("{}:{offset}:{len}", basename(name)));
    }
    tokens.join(",")
}

fn basename(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// How long stock tools make these lines: they reckon with a zip that is not signed yet, where the payload comes first, and
/// set [`RESERVED`] characters aside for each of the metadata, which come last there.
fn reserved(entries: &[Entry], front: u64) -> [usize; 2] {
    let last = [METADATA, METADATA_PB];
    let mut at = 0;
    let mut places = Vec::new();
    for entry in entries.iter().filter(|entry| !last.contains(&&*entry.name)) {
        // As Python writes them, without extra fields.
        let offset = at + super::LOCAL_LEN + entry.name.len() as u64;
        at = offset + entry.stored();
        places.push((&*entry.name, offset, entry.stored()));
    }
    let more: usize = last.iter().map(|name| format!(",{}:", basename(name)).len() + RESERVED).sum();
    PROPERTY_FILES.map(|(_, with_front)| property_files(&places, front, with_front).len() + more)
}

/// Counts and sums up what goes through.
struct Counted<'a, W> {
    inner: &'a mut W,
    crc: flate2::Crc,
    len: u64,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.inner.write(bytes)?;
        self.crc.update(&bytes[..len]);
        self.len += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// How much of a zip without a comment is signed: all but the length of the comment.
pub fn signed_len(zip: ByteLen) -> ByteLen {
    ByteLen::new(zip.get().saturating_sub(COMMENT_LEN))
}

/// What comes behind the signed bytes of a zip: the comment that holds `signature`, and its length.
///
/// The signature is over the digest of the first [`signed_len`] bytes, by the key of `certificate`. It has no signed
/// attributes: recoveries take it for a signature of the file itself.
///
/// # Errors
/// [`ZipWriteError::EndInSignature`] if the bytes are such that no recovery takes them.
///
/// # Source
/// RFC 2315, section 9; AOSP `bootable/recovery/install/verifier.cpp`, `verify_file`, for the footer.
pub fn comment(certificate: &Certificate, signature: &[u8]) -> Result<Vec<u8>, ZipWriteError> {
    let signed = signed_data(certificate, signature);
    let len = SIGNED_BY.len() + signed.len() + FOOTER;
    let too_long = |_| ZipWriteError::Comment(len);
    let (start, len) = (u16::try_from(signed.len() + FOOTER).map_err(too_long)?, u16::try_from(len).map_err(too_long)?);
    let mut bytes = len.to_le_bytes().to_vec();
    bytes.extend(SIGNED_BY);
    bytes.extend(signed);
    bytes.extend(start.to_le_bytes());
    bytes.extend([0xff, 0xff]);
    bytes.extend(len.to_le_bytes());
    if bytes.windows(END.len()).any(|window| window == END) { Err(ZipWriteError::EndInSignature) } else { Ok(bytes) }
}

/// A PKCS#7 `SignedData` of one signer.
fn signed_data(certificate: &Certificate, signature: &[u8]) -> Vec<u8> {
    let sequence = |parts: &[&[u8]]| value(der::SEQUENCE, parts);
    let object = |name: &[u8]| value(der::OBJECT, &[name]);
    let version = value(der::INTEGER, &[&[1]]);
    let digest = sequence(&[&object(SHA256)]);
    let algorithm = match certificate.key().kind() {
        KeyKind::P256 => sequence(&[&object(ECDSA_SHA256)]),
        _ => sequence(&[&object(RSA_SHA256), &value(der::NULL, &[])]),
    };
    let signer = sequence(&[
        &version,
        &sequence(&certificate.issuer_and_serial()),
        &digest,
        &algorithm,
        &value(der::OCTETS, &[signature]),
    ]);
    let data = sequence(&[
        &version,
        &value(der::SET, &[&digest]),
        &sequence(&[&object(DATA)]),
        &value(der::CONTEXT_0, &[certificate.der()]),
        &value(der::SET, &[&signer]),
    ]);
    sequence(&[&object(SIGNED_DATA), &value(der::CONTEXT_0, &[&data])])
}
