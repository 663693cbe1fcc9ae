//! OTA zips that we write: as stock tools lay them out, readable by others, signed for recoveries.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Cursor, Seek, SeekFrom, Write},
    ops::ControlFlow,
    process::Command,
    sync::OnceLock,
};

use relevo_format::{
    ReadAt,
    ota_zip::{
        self, APEX_INFO, Contents, DeviceState, Layout, METADATA, METADATA_PB, Metadata, OTACERT, OtaZip, PAYLOAD,
        PROPERTIES, PartitionState, ZipWriteError,
    },
    payload::{Certificate, KeyError, Manifest, Payload, PrivateKey, Properties, Unsigned, WriteError},
};
use relevo_types::{ByteLen, Sha256};

use crate::{
    fixture::{Writer, read, sample, sha256},
    keys,
};

fn go_on(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn open(bytes: &[u8]) -> OtaZip<&[u8]> {
    OtaZip::read(bytes, &ota_zip::Limits::default()).unwrap()
}

/// A certificate of each key, as openssl makes them; with keys of P-256 that are made anew.
pub(crate) fn certified() -> &'static [(String, Vec<u8>)] {
    static CERTIFIED: OnceLock<Vec<(String, Vec<u8>)>> = OnceLock::new();
    CERTIFIED.get_or_init(|| {
        let Some(rsa) = keys::rsa_pems() else { return Vec::new() };
        let dir = tempfile::tempdir().unwrap();
        let mut pems = rsa.to_vec();
        assert!(keys::openssl(dir.path(), "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key").unwrap());
        pems.push(fs::read_to_string(dir.path().join("key")).unwrap());
        pems.into_iter()
            .map(|pem| {
                fs::write(dir.path().join("key"), &pem).unwrap();
                let arguments = "req -x509 -new -key key -sha256 -days 9000 -subj /C=XX/O=Acme/CN=releases -out cert";
                assert!(keys::openssl(dir.path(), arguments).unwrap());
                (pem, fs::read(dir.path().join("cert")).unwrap())
            })
            .collect()
    })
}

fn metadata() -> Metadata {
    let state = |build: &str, partition: &str| DeviceState {
        device: vec!["x".to_owned(), "y".to_owned()],
        build: vec![format!("acme/x/x:15/AP4A/{build}:user/release-keys")],
        build_incremental: build.to_owned(),
        partition_state: vec![PartitionState { partition_name: partition.to_owned(), ..PartitionState::default() }],
        ..DeviceState::default()
    };
    Metadata {
        kind: Metadata::AB,
        downgrade: true,
        precondition: Some(state("1", "system")),
        postcondition: Some(DeviceState { timestamp: 1_700_000_000, ..state("2", "system") }),
        ..Metadata::default()
    }
}

fn manifest() -> (Manifest, Vec<u8>) {
    let mut writer = Writer::new();
    writer.partition("boot", &[1; 8192]).operation(0, &[1; 8192], &[(0, 2)]);
    (read(&writer.bytes()).unwrap().manifest().clone(), writer.blobs)
}

/// A zip with a payload of one partition, signed by all keys, the first of which signs the whole file too.
fn signed(pairs: &[(String, Vec<u8>)]) -> Vec<u8> {
    let keys: Vec<_> = pairs.iter().map(|(key, _)| PrivateKey::parse(key.as_bytes(), None).unwrap()).collect();
    let certificate = Certificate::parse(&pairs[0].1).unwrap();
    let kinds: Vec<_> = keys.iter().map(|key| key.public().kind()).collect();
    let (manifest, blobs) = manifest();
    let payload = Unsigned::new(&manifest, &kinds).unwrap();
    let contents = Contents {
        metadata: metadata(),
        payload: &payload,
        properties: &[("POWERWASH".to_owned(), "1".to_owned())],
        entries: &[("care_map.pb".to_owned(), vec![7; 70]), (APEX_INFO.to_owned(), vec![8; 80])],
        certificate: Some(&certificate),
    };
    let layout = Layout::new(&contents).unwrap();
    let mut out = Cursor::new(Vec::new());
    let sign = |digest: &Sha256| keys.iter().map(|key| Ok(key.sign(digest)?)).collect::<Result<Vec<_>, WriteError>>();
    let write_payload = |out: &mut dyn Write| -> Result<Properties, Error> {
        let metadata = sign(&payload.metadata_sha256())?;
        Ok(payload.write(&blobs, &metadata, sign, out, go_on)?)
    };
    let len = layout.write(&mut out, write_payload).unwrap();
    let mut zip = out.into_inner();
    assert_eq!(len, ByteLen::new(zip.len() as u64));
    zip.truncate(usize::try_from(ota_zip::signed_len(len).get()).unwrap());
    let signature = keys[0].sign(&sha256(&zip)).unwrap();
    zip.extend(ota_zip::comment(&certificate, &signature).unwrap());
    zip
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Zip(#[from] ZipWriteError),
    #[error(transparent)]
    Payload(#[from] WriteError),
}

#[test]
fn the_zip_of_releasetools_comes_out_byte_by_byte() {
    let bytes = sample("incremental_ota.zip");
    let zip = open(&bytes);
    let certificate = Certificate::parse(&sample("ota_cert.x509.pem")).unwrap();
    let stored = zip.stored(PAYLOAD).unwrap();
    let payload = Payload::read(&stored, &Default::default()).unwrap();
    let unsigned = Unsigned::new(payload.manifest(), &[certificate.key().kind()]).unwrap();
    let contents = Contents {
        metadata: zip.metadata().unwrap().unwrap(),
        payload: &unsigned,
        properties: &[],
        entries: &[],
        certificate: Some(&certificate),
    };

    let layout = Layout::new(&contents).unwrap();
    let mut out = Cursor::new(Vec::new());
    let mut blobs = vec![0; usize::try_from(payload.blobs_len().get()).unwrap()];
    stored.read_exact_at(&mut blobs, payload.blobs_offset().get()).unwrap();
    let write_payload = |out: &mut dyn Write| -> Result<Properties, Error> {
        let sign = |_: &Sha256| Ok(payload.signatures().to_vec());
        Ok(unsigned.write(&blobs, payload.metadata_signatures(), sign, out, go_on)?)
    };
    layout.write(&mut out, write_payload).unwrap();
    let ours = out.into_inner();

    assert_eq!(layout.payload_offset(), ByteLen::new(1452));
    // All up to the certificate: another deflate packs it otherwise.
    let otacert = usize::try_from(zip.entry(OTACERT).unwrap().offset).unwrap();
    assert!(ours[..otacert] == bytes[..otacert]);
    let ours_read = open(&ours);
    assert_eq!(ours_read.small(OTACERT, ByteLen::kib(4)).unwrap(), zip.small(OTACERT, ByteLen::kib(4)).unwrap());
    // The directory, but for that one entry's lengths and whatever comes after.
    let directory = |bytes: &[u8]| {
        let at = bytes.windows(4).rposition(|window| window == b"PK\x05\x06").unwrap();
        let start = usize::try_from(u32::from_le_bytes(bytes[at + 16..at + 20].try_into().unwrap())).unwrap();
        bytes[start..at].to_vec()
    };
    let (ours, theirs) = (directory(&ours), directory(&bytes));
    let last = ours.len() - 46 - OTACERT.len();
    assert!(ours[..last] == theirs[..last]);
    assert_eq!(ours[last..last + 20], theirs[last..last + 20]);
    assert_eq!(ours[last + 24..], theirs[last + 24..]);
    // The signature, in the same frame.
    let comment_at = usize::try_from(zip.signature().unwrap().signed().get()).unwrap();
    let signature = bytes[bytes.len() - 6 - 256..bytes.len() - 6].to_vec();
    assert!(ota_zip::comment(&certificate, &signature).unwrap() == bytes[comment_at..]);
}

#[test]
fn what_is_written_is_read_and_says_where_things_are() {
    let pairs = certified();
    let Some(pair) = pairs.first() else { return };
    let bytes = signed(std::slice::from_ref(pair));
    let zip = open(&bytes);

    let names: Vec<_> = zip.entries().iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, [METADATA, METADATA_PB, APEX_INFO, "care_map.pb", PAYLOAD, PROPERTIES, OTACERT]);
    let message = zip.metadata().unwrap().unwrap();
    let text = zip.metadata_text().unwrap();
    assert_eq!(text, message.lines());
    assert_eq!(Metadata { property_files: BTreeMap::new(), ..message.clone() }, metadata());
    assert_eq!((&*text["ota-downgrade"], &*text["pre-device"], &*text["ota-type"]), ("yes", "x|y", "AB"));
    assert!(!text.contains_key("ota-wipe"));
    let payload = Payload::read(&zip.stored(PAYLOAD).unwrap(), &Default::default()).unwrap();
    for (name, files) in &message.property_files {
        for token in files.trim_end().split(',') {
            let [name, offset, len] = token.split(':').collect::<Vec<_>>().try_into().unwrap();
            let (offset, len) = (offset.parse::<u64>().unwrap(), len.parse::<u64>().unwrap());
            if name == "payload_metadata.bin" {
                assert_eq!(offset, zip.stored(PAYLOAD).unwrap().offset().get());
                assert_eq!(len, payload.blobs_offset().get());
                continue;
            }
            let entry = zip.entries().iter().find(|entry| entry.name.rsplit('/').next() == Some(name)).unwrap();
            assert_eq!((entry.offset, entry.stored, entry.len), (offset, len, len), "{name}");
        }
        assert!(files.contains("apex_info.pb:") && files.contains(",metadata.pb:"));
        assert_eq!(files.contains("payload_metadata.bin"), name == "ota-property-files");
    }
    let properties = zip.properties().unwrap();
    let mut content = vec![0; usize::try_from(properties.file_size.get()).unwrap()];
    zip.stored(PAYLOAD).unwrap().read_exact_at(&mut content, 0).unwrap();
    assert_eq!(properties.file_sha256, sha256(&content));
    assert_eq!(properties.metadata_sha256, payload.metadata_sha256());
    assert_eq!(properties.others, BTreeMap::from([("POWERWASH".to_owned(), "1".to_owned())]));
}

#[test]
fn every_kind_of_key_signs_the_whole_file() {
    for pair in certified() {
        let bytes = signed(std::slice::from_ref(pair));
        let zip = open(&bytes);
        let certificate = Certificate::parse(&pair.1).unwrap();
        assert_eq!(certificate.to_pem().as_bytes(), pair.1);
        let keys = [certificate.key().clone()];
        let signature = zip.signature().unwrap();

        assert_eq!(signature.verify(&bytes, &keys, go_on).unwrap(), &keys[0]);
        // openssl: the same, out of the comment.
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
        let at = usize::try_from(signature.signed().get()).unwrap();
        file("content", &bytes[..at]);
        file("signature", &bytes[at + 2 + 18..bytes.len() - 6]);
        file("cert", &pair.1);
        let verify = "cms -verify -inform DER -in signature -content content -binary -CAfile cert -purpose any";
        assert!(keys::openssl(dir.path(), verify).unwrap());
        file("content", &bytes[..at - 1]);
        assert!(!keys::openssl(dir.path(), verify).unwrap());
    }
}

#[test]
fn a_flipped_byte_of_a_zip_is_refused() {
    let Some(pair) = certified().first() else { return };
    let bytes = signed(std::slice::from_ref(pair));
    let keys = [Certificate::parse(&pair.1).unwrap().key().clone()];
    let signed = usize::try_from(open(&bytes).signature().unwrap().signed().get()).unwrap();
    let mut flipped = bytes.clone();
    for at in (0..signed).step_by(37).chain(signed..signed + 20).chain(bytes.len() - 256 - 6..bytes.len()) {
        flipped[at] ^= 1 << (at % 8);
        if let Ok(zip) = OtaZip::read(&flipped[..], &ota_zip::Limits::default())
            && let Ok(signature) = zip.signature()
        {
            let verified = signature.verify(&flipped, &keys, go_on);
            // "signed by SignApk" is read by nobody.
            assert!(verified.is_err() || (signed + 2..signed + 20).contains(&at), "byte {at}");
        }
        flipped[at] ^= 1 << (at % 8);
    }
}

#[test]
fn python_reads_it() {
    let Some(pair) = certified().first() else { return };
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("ota.zip"), signed(std::slice::from_ref(pair))).unwrap();
    let script = "import zipfile; z = zipfile.ZipFile('ota.zip'); assert z.testzip() is None; \
                  assert all(i.date_time == (2009, 1, 1, 0, 0, 0) for i in z.infolist()); \
                  assert z.comment.startswith(b'signed by SignApk'); print(len(z.namelist()))";
    let Ok(output) = Command::new("python3").current_dir(dir.path()).args(["-c", script]).output() else { return };

    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "7", "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_would_break_a_zip_is_refused() {
    let (manifest, _) = manifest();
    let payload = Unsigned::new(&manifest, &[]).unwrap();
    let lay = |metadata: Metadata, properties: &[(String, String)], entries: &[(String, Vec<u8>)]| {
        Layout::new(&Contents { metadata, payload: &payload, properties, entries, certificate: None })
    };
    let text = |text: &str| text.to_owned();
    assert!(lay(metadata(), &[], &[]).is_ok());
    for name in [METADATA, PAYLOAD, PROPERTIES, OTACERT, "", "META-INF/MANIFEST.MF", "a\nb", &"n".repeat(1025)] {
        let error = lay(metadata(), &[], &[(text(name), vec![])]).unwrap_err();
        assert!(matches!(error, ZipWriteError::Name { .. }), "{name}: {error:?}");
    }
    let twice = [(text("a"), vec![]), (text("a"), vec![])];
    assert!(matches!(lay(metadata(), &[], &twice), Err(ZipWriteError::Name { .. })));
    for (key, value) in [("A\nB", "1"), ("A=B", "1"), ("A", "1\nPOWERWASH=1")] {
        let error = lay(metadata(), &[(text(key), text(value))], &[]).unwrap_err();
        assert!(matches!(error, ZipWriteError::Line { .. }));
    }
    let mut broken = metadata();
    broken.postcondition.as_mut().unwrap().security_patch_level = text("2025-01-01\nota-wipe=yes");
    assert!(matches!(lay(broken, &[], &[]), Err(ZipWriteError::Line { .. })));

    let layout = lay(metadata(), &[], &[]).unwrap();
    let short = |out: &mut dyn Write| -> Result<Properties, Error> {
        out.write_all(b"short").unwrap();
        let (digest, len) = (Sha256::new([0; 32]), ByteLen::new(5));
        Ok(Properties { file_sha256: digest, file_size: len, metadata_sha256: digest, metadata_size: len })
    };
    let error = layout.write(&mut Cursor::new(Vec::new()), short).unwrap_err();
    assert!(matches!(error, Error::Zip(ZipWriteError::PayloadLen { actual: 5, .. })));

    let Some((_, certificate)) = certified().first() else { return };
    let certificate = Certificate::parse(certificate).unwrap();
    let signature = [&[0; 100][..], b"PK\x05\x06", &[0; 152]].concat();
    assert!(matches!(ota_zip::comment(&certificate, &signature), Err(ZipWriteError::EndInSignature)));
}

#[test]
fn a_damaged_certificate_is_refused_or_another() {
    let pem = sample("ota_cert.x509.pem");
    let whole = Certificate::parse(&pem).unwrap();
    assert_eq!(whole.to_pem().as_bytes(), pem);
    let der = whole.der();
    assert_eq!(Certificate::parse(der).unwrap(), whole);
    for len in 0..der.len() {
        assert!(Certificate::parse(&der[..len]).is_err(), "{len}");
    }
    let mut flipped = der.to_vec();
    for at in 0..der.len() {
        flipped[at] ^= 1 << (at % 8);
        assert!(Certificate::parse(&flipped).map_or(true, |certificate| certificate != whole));
        flipped[at] ^= 1 << (at % 8);
    }
    let key = sample("payload_key.pub.pem");
    assert_eq!(Certificate::parse(&key), Err(KeyError::NoCertificate));
    assert!(matches!(Certificate::parse(&vec![0x30; 65 << 10]), Err(KeyError::TooLong(_))));
}

/// A file of gigabytes that are zeros, but for what is at its two ends.
#[derive(Default)]
struct Sparse {
    parts: BTreeMap<u64, Vec<u8>>,
    at: u64,
    len: u64,
}

impl Write for Sparse {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.iter().any(|&byte| byte != 0) {
            self.parts.insert(self.at, bytes.to_vec());
        }
        self.at += bytes.len() as u64;
        self.len = self.len.max(self.at);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Sparse {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = match to {
            SeekFrom::Start(at) => at,
            _ => self.len,
        };
        Ok(self.at)
    }
}

impl ReadAt for Sparse {
    fn len(&self) -> ByteLen {
        ByteLen::new(self.len)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        buf.fill(0);
        for (&start, part) in &self.parts {
            for (at, &byte) in (start..).zip(part) {
                if let Some(slot) = at.checked_sub(offset).and_then(|at| buf.get_mut(usize::try_from(at).ok()?)) {
                    *slot = byte;
                }
            }
        }
        Ok(())
    }
}

#[test]
fn a_payload_over_4_gib_has_lengths_of_64_bits() {
    let (mut manifest, _) = manifest();
    let blobs = (4_u64 << 30) + 5;
    manifest.partitions[0].operations[0].data.as_mut().unwrap().len = blobs;
    let payload = Unsigned::new(&manifest, &[]).unwrap();
    let contents = Contents {
        metadata: metadata(),
        payload: &payload,
        properties: &[],
        entries: &[("zzz".to_owned(), vec![1; 9])],
        certificate: None,
    };
    let layout = Layout::new(&contents).unwrap();
    let mut out = Sparse::default();
    let expected = payload.len();
    let zeros = |out: &mut dyn Write| -> Result<Properties, Error> {
        let piece = vec![0; 16 << 20];
        let mut left = usize::try_from(expected.get()).unwrap();
        while left > 0 {
            let now = left.min(piece.len());
            out.write_all(&piece[..now]).unwrap();
            left -= now;
        }
        let digest = Sha256::new([0; 32]);
        let metadata_size = payload.metadata_len();
        Ok(Properties { file_sha256: digest, file_size: expected, metadata_sha256: digest, metadata_size })
    };

    let len = layout.write(&mut out, zeros).unwrap();

    assert_eq!(len, out.len());
    let zip = OtaZip::read(&out, &ota_zip::Limits::default()).unwrap();
    assert_eq!((zip.entry(PAYLOAD).unwrap().len, zip.entry(PAYLOAD).unwrap().stored), (expected.get(), expected.get()));
    assert_eq!(zip.stored(PAYLOAD).unwrap().offset(), layout.payload_offset());
    assert_eq!(zip.small("zzz", ByteLen::kib(1)).unwrap(), [1; 9]);
    assert_eq!(zip.properties().unwrap().file_size, expected);
    let files = &zip.metadata_text().unwrap()["ota-property-files"];
    let end = zip.entry(PROPERTIES).unwrap().offset;
    assert!(files.contains(&format!("payload_properties.txt:{end}:")) && end > 1 << 32);
}
