//! What would go wrong with a build, found before phones do: each finding with what to do about it.

mod avb;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::Context;
use base64::Engine as _;
use relevo_format::{
    ReadAt,
    ota_zip::{METADATA, METADATA_PB, OtaZip, PAYLOAD, PROPERTIES, WholeFileError},
    payload::{PublicKey, SignatureError, wire},
};
use relevo_meta::{Ab, AbFile};
use relevo_types::{BLOCK, ByteLen, DeviceManifest, InstallKind, PartitionName, Sha256};
use serde::Serialize;
use sha2::Digest as _;

use crate::{
    build_source::{BuildSource, Origin},
    builds::{Build, ImageFacts},
    command::ab::Update,
    error::CliError,
    facts::BuildFacts,
    progress::Bars,
    session::Session,
};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// Phones refuse the build, or lose something by it.
    Error,
    /// It may be meant so.
    Warning,
}

/// One thing that is wrong with a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    /// What kind of thing, for programs and for `--accept`.
    pub(crate) code: &'static str,
    pub(crate) text: String,
    /// What to do about it.
    pub(crate) fix: &'static str,
}

fn error(code: &'static str, text: impl Into<String>, fix: &'static str) -> Finding {
    Finding { level: Level::Error, code, text: text.into(), fix }
}

fn warning(code: &'static str, text: impl Into<String>, fix: &'static str) -> Finding {
    Finding { level: Level::Warning, code, text: text.into(), fix }
}

/// Certificates whose private keys are in AOSP's sources, `build/make/target/product/security`, by the SHA-256 of the
/// certificate.
const TEST_CERTIFICATES: [(&str, &str); 2] = [
    ("testkey", "a40da80a59d170caa950cf15c18c454d47a39b26989d8b640ecd745ba71bf5dc"),
    ("platform", "c8a2e9bccf597c2fb6dc66bee293fc13f2fc47ec77bc6b2b0d52c11f51192ab8"),
];

/// What makes a zip useless as it is, found before anything is unpacked.
pub(crate) fn container<R: ReadAt>(zip: &OtaZip<R>) -> Option<Finding> {
    match zip.entry(PAYLOAD) {
        None => Some(error(
            "payload-missing",
            "the zip has no payload.bin, so it is no A/B OTA",
            "give the OTA zip that the build made last, not an image zip or a recovery zip",
        )),
        Some(entry) if !entry.is_stored() => Some(error(
            "payload-compressed",
            "payload.bin is compressed in the zip; phones read it in place",
            "somebody packed the zip anew: give the one that the build made",
        )),
        Some(_) => None,
    }
}

/// What a whole A/B OTA zip says, checked against what it holds.
pub(crate) struct Checked {
    /// For the package's metadata.
    pub(crate) ab: Ab,
    pub(crate) findings: Vec<Finding>,
}

/// Checks an A/B OTA zip from its first byte to its last, and gives what updaters need to know of it.
pub(crate) fn ota_zip(session: &Session<'_>, path: &Path) -> anyhow::Result<Checked> {
    let update = Update::open(path)?;
    let refused = || format!("{} is refused", path.display());
    let zip = update.zip().with_context(refused)?;
    let stored = zip.stored(PAYLOAD)?;
    let bars = session.bars(path.file_name().unwrap_or_default().to_string_lossy());
    bars.step("checking the zip", update.payload.len().get() * 2 + zip.file().len().get());
    let mut findings = Vec::new();

    let payload_sha256 = hash(&stored, 0, update.payload.len(), path, &bars)?;
    let at = |offset: u64, size: ByteLen| -> anyhow::Result<AbFile> {
        Ok(AbFile { offset: ByteLen::new(offset), size, sha256: hash(zip.file(), offset, size, path, &bars)? })
    };
    let payload = AbFile { offset: stored.offset(), size: update.payload.len(), sha256: payload_sha256 };
    let metadata = at(stored.offset().get(), update.payload.blobs_offset())?;
    let mut files = BTreeMap::new();
    for (entry, name) in [
        (PROPERTIES, PROPERTIES),
        (METADATA, "metadata"),
        (METADATA_PB, "metadata.pb"),
        ("care_map.pb", "care_map.pb"),
        ("care_map.txt", "care_map.txt"),
        ("apex_info.pb", "apex_info.pb"),
    ] {
        if let Some(found) = zip.entry(entry).filter(|entry| entry.is_stored()) {
            files.insert(name.to_owned(), at(found.offset, ByteLen::new(found.len))?);
        }
    }
    let properties = properties(&update, zip, payload_sha256, &mut findings)?;
    signatures(&update, zip, &bars, &mut findings)?;
    let lines = match zip.entry(METADATA) {
        Some(_) => zip.metadata_text().with_context(refused)?,
        None => {
            findings.push(error(
                "metadata-missing",
                "the zip has no META-INF/com/android/metadata; recoveries and updaters refuse it",
                "make the OTA with ota_from_target_files, or with `relevo ota diff --kind ab`",
            ));
            BTreeMap::new()
        }
    };
    let line = |key: &str| lines.get(key).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    let files_line = |key: &str| lines.get(key).cloned().unwrap_or_default();
    let facts = BuildFacts::of_metadata(&lines);
    if lines.get("ota-type").is_some_and(|kind| kind.trim() != "AB") {
        findings.push(error(
            "ota-type",
            format!("the metadata say that it is of type {}, and it has a payload", files_line("ota-type")),
            "make the OTA anew; recoveries go by the type",
        ));
    }
    property_files(&files_line("ota-property-files"), &payload, &mut findings);
    let manifest = update.payload.manifest();
    if manifest.max_timestamp.is_none_or(|timestamp| timestamp <= 0) {
        findings.push(error(
            "date-missing",
            "the payload does not say how old its build is; phones refuse it",
            "make the OTA with ota_from_target_files, or with `relevo ota diff --kind ab`",
        ));
    }
    if manifest.partial {
        findings.push(warning(
            "partial",
            "the payload is a part of an update: partitions that it does not name stay as they are",
            "give the OTA of the whole build",
        ));
    }
    Ok(Checked {
        ab: Ab {
            payload,
            metadata,
            files,
            properties,
            property_files: files_line("ota-property-files"),
            streaming_property_files: files_line("ota-streaming-property-files"),
            devices: facts.device,
            fingerprint: facts.build,
            incremental: facts.incremental,
            from_fingerprint: line("pre-build"),
            from_incremental: line("pre-build-incremental"),
            minor: manifest.minor_version,
            vbmeta_digest: None,
            from_vbmeta_digest: None,
            lineage_version: None,
            release_type: None,
        },
        findings,
    })
}

fn hash(file: &dyn ReadAt, offset: u64, len: ByteLen, path: &Path, bars: &Bars<'_>) -> Result<Sha256, CliError> {
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    let mut done = 0;
    while done < len.get() {
        let now = usize::try_from(len.get() - done).unwrap_or(buffer.len()).min(buffer.len());
        let read = file.read_exact_at(&mut buffer[..now], offset + done);
        read.map_err(|source| CliError::Read { path: path.into(), source })?;
        hasher.update(&buffer[..now]);
        done += now as u64;
        if bars.add(now as u64).is_break() {
            return Err(CliError::Stopped);
        }
    }
    Ok(Sha256::new(hasher.finalize().into()))
}

/// The lines of `payload_properties.txt`, which have to be those of the payload.
fn properties<R: ReadAt>(
    update: &Update,
    zip: &OtaZip<R>,
    payload_sha256: Sha256,
    findings: &mut Vec<Finding>,
) -> anyhow::Result<BTreeMap<String, String>> {
    const FIX: &str = "the zip was put together from parts of two builds, or damaged: make it anew";
    let encode = |digest: Sha256| base64::engine::general_purpose::STANDARD.encode(digest.as_bytes());
    let payload = &update.payload;
    let actual = [
        ("FILE_HASH", encode(payload_sha256)),
        ("FILE_SIZE", payload.len().get().to_string()),
        ("METADATA_HASH", encode(payload.metadata_sha256())),
        ("METADATA_SIZE", payload.metadata_len().get().to_string()),
    ];
    let mut lines: BTreeMap<_, _> = actual.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    if zip.entry(PROPERTIES).is_none() {
        let text = "the zip has no payload_properties.txt; updaters cannot install it";
        findings.push(error("properties-missing", text, FIX));
        return Ok(lines);
    }
    let stated = zip.properties()?;
    let said = [
        encode(stated.file_sha256),
        stated.file_size.get().to_string(),
        encode(stated.metadata_sha256),
        stated.metadata_size.get().to_string(),
    ];
    for ((key, actual), said) in actual.iter().zip(said).filter(|((_, actual), said)| actual != said) {
        let text = format!("payload_properties.txt has {key} {said}; the payload has {actual}");
        findings.push(error("properties-mismatch", text, FIX));
    }
    lines.extend(stated.others);
    Ok(lines)
}

/// The three signatures: metadata, payload, whole file; all by the certificate in the zip.
fn signatures<R: ReadAt>(
    update: &Update,
    zip: &OtaZip<R>,
    bars: &Bars<'_>,
    findings: &mut Vec<Finding>,
) -> anyhow::Result<()> {
    const SIGN: &str = "sign it with `relevo ota sign --key PEM --cert PEM`, or with the build's own tools";
    let otacert = match zip.entry(OTACERT) {
        Some(_) => Some(zip.small(OTACERT, ByteLen::kib(64))?),
        None => None,
    };
    if let Some(name) = otacert.as_deref().and_then(test_certificate) {
        findings.push(error(
            "test-certificate",
            format!("the zip is signed with AOSP's {name}, whose private key everybody has"),
            "make keys of your own (development/tools/make_key) and sign builds and OTAs with them; \
             `--accept test-certificate` for a build that nobody else gets",
        ));
    }
    let keys: Vec<_> = otacert.as_deref().and_then(|bytes| PublicKey::parse(bytes).ok()).into_iter().collect();
    let payload = &update.payload;
    for (what, signatures) in [("header", payload.metadata_signatures()), ("data", payload.signatures())] {
        if signatures.is_empty() {
            let text = format!("the payload's {what} is not signed; phones with a release build refuse it");
            findings.push(error("payload-unsigned", text, SIGN));
        }
    }
    let whole = match zip.signature() {
        Ok(whole) => Some(whole),
        Err(WholeFileError::Unsigned) => {
            let text = "the whole zip is not signed; recoveries and updaters refuse it";
            findings.push(error("zip-unsigned", text, SIGN));
            None
        }
        Err(problem) => {
            findings.push(error("zip-signature", problem.to_string(), SIGN));
            None
        }
    };
    if keys.is_empty() {
        findings.push(warning(
            "certificate-missing",
            "the zip has no certificate of RSA or P-256 in it, so its signatures were not checked",
            "check them with `relevo ota verify --cert PEM`",
        ));
        return Ok(());
    }
    let wrong = |code, what: &str, problem: SignatureError| -> anyhow::Result<Option<Finding>> {
        match problem {
            SignatureError::Stopped => Err(CliError::Stopped.into()),
            SignatureError::Unsigned { .. } => Ok(None),
            SignatureError::Unknown { .. } => {
                let text = format!("the signature of {what} is not by the certificate in the zip");
                Ok(Some(error(code, text, SIGN)))
            }
            problem => Err(problem.into()),
        }
    };
    if let Err(problem) = payload.verify_metadata(&keys) {
        findings.extend(wrong("payload-signature", "the payload's header", problem)?);
    }
    if let Err(problem) = payload.verify(&update.content(), &keys, |bytes| bars.add(bytes)) {
        findings.extend(wrong("payload-signature", "the payload", problem)?);
    }
    if let Some(Err(problem)) = whole.map(|whole| whole.verify(zip.file(), &keys, |bytes| bars.add(bytes)).map(|_| ()))
    {
        findings.extend(wrong("zip-signature", "the whole zip", problem)?);
    }
    Ok(())
}

const OTACERT: &str = "META-INF/com/android/otacert";

/// Which of AOSP's own certificates this is.
fn test_certificate(pem: &[u8]) -> Option<&'static str> {
    let text = std::str::from_utf8(pem).ok()?;
    let (_, rest) = text.split_once("-----BEGIN CERTIFICATE-----")?;
    let body: String = rest.split("-----END").next()?.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let der = base64::engine::general_purpose::STANDARD.decode(body).ok()?;
    let digest = Sha256::new(sha2::Sha256::digest(der).into()).to_string();
    TEST_CERTIFICATES.iter().find(|(_, known)| *known == digest).map(|(name, _)| *name)
}

/// Updaters that stream go by these offsets alone.
fn property_files(line: &str, payload: &AbFile, findings: &mut Vec<Finding>) {
    let said = line.split(',').find_map(|part| part.trim().strip_prefix("payload.bin:"));
    let actual = format!("{}:{}", payload.offset.get(), payload.size.get());
    match said {
        None => findings.push(warning(
            "property-files",
            "the metadata do not say where the payload is; updaters have to download the whole zip",
            "make the OTA with ota_from_target_files, or with `relevo ota diff --kind ab`",
        )),
        Some(said) if said != actual => findings.push(error(
            "property-files",
            format!("the metadata have the payload at {said}; it is at {actual}"),
            "the zip was changed after it was made: make it anew",
        )),
        Some(_) => {}
    }
}

/// What is wrong with a build's images and with what it says of itself.
pub(crate) fn build(
    manifest: &DeviceManifest,
    source: &BuildSource,
    build: &Build,
    existing: &[Build],
) -> Vec<Finding> {
    let mut findings = Vec::new();
    device(manifest, source, &mut findings);
    if source.facts.tags.as_deref().is_some_and(|tags| tags.contains("test-keys")) {
        findings.push(warning(
            "test-keys",
            "the build is signed with test keys, which everybody has: any app can pass for one of its own",
            "sign the target files with keys of your own (sign_target_files_apks), and make the OTA of those",
        ));
    }
    images(manifest, &build.partitions, &mut findings);
    avb::check(manifest.kind, &source.images, &mut findings);
    dynamic(manifest, source, &build.partitions, &mut findings);
    history(build, existing, &mut findings);
    findings
}

fn device(manifest: &DeviceManifest, source: &BuildSource, findings: &mut Vec<Finding>) {
    let names: Vec<String> = match &source.beside.device {
        Some(device) => vec![device.to_string()],
        None => source.facts.device.clone(),
    };
    let ours = |name: &String| {
        *name == manifest.codename.as_str() || manifest.aliases.iter().any(|alias| alias.as_str() == name)
    };
    if names.is_empty() || names.iter().any(ours) {
        return;
    }
    let text = format!("the build says it is for {}, not for {}", names.join(", "), manifest.codename);
    let fix = "give --device of the right device, or add the name to `aliases` in the device's manifest";
    // Properties beside images are often those of a generic system; an OTA names whom it is for.
    findings.push(match source.origin {
        Origin::OtaZip => error("wrong-device", text, fix),
        _ => warning("wrong-device", text, fix),
    });
}

fn images(manifest: &DeviceManifest, images: &BTreeMap<PartitionName, ImageFacts>, findings: &mut Vec<Finding>) {
    const LIST: &str = "correct `[partitions]` in the device's manifest, or what the build brings";
    for (name, image) in images {
        let size = image.size.get();
        if !size.is_multiple_of(BLOCK.get()) {
            let text = format!("{name} is {size} bytes long, no multiple of {}", BLOCK.get());
            let fix = "pad the image with zeros to whole blocks";
            // update_engine counts in blocks, so there is no payload for such an image.
            findings.push(match manifest.kind {
                InstallKind::Ab => error("block-size", text, fix),
                _ => warning("block-size", text, fix),
            });
        }
        if size == 0 {
            findings.push(warning("empty-image", format!("{name} is empty"), "leave the image out"));
        }
        match manifest.partitions.get(name) {
            None if !manifest.partitions.is_empty() => {
                let text = format!("{name} is not among the partitions of the device's manifest");
                findings.push(warning("unknown-partition", text, LIST));
            }
            Some(partition) if partition.size.is_some_and(|most| image.size > most) => {
                let most = partition.size.map_or(0, |most| most.get());
                let text = format!("{name} is {size} bytes long; the device has room for {most}");
                findings.push(warning(
                    "too-large",
                    text,
                    "make the image smaller, or correct its size in the manifest",
                ));
            }
            _ => {}
        }
    }
    for name in manifest.partitions.keys().filter(|name| !images.contains_key(*name)) {
        let text = format!("the build has no {name}, which the device's manifest lists");
        findings.push(warning("missing-partition", text, LIST));
    }
}

/// Dynamic partitions that a payload does not name are deleted by the phone.
fn dynamic(
    manifest: &DeviceManifest,
    source: &BuildSource,
    images: &BTreeMap<PartitionName, ImageFacts>,
    findings: &mut Vec<Finding>,
) {
    if manifest.kind != InstallKind::Ab {
        return;
    }
    let Some(dynamic) = &source.dynamic else {
        if manifest.dynamic.is_some() {
            findings.push(warning(
                "groups-missing",
                "the build does not say which partitions are dynamic; the device's manifest does",
                "give the target files, or the OTA zip that was made of them",
            ));
        }
        return;
    };
    let size = |name: &String| PartitionName::parse(name).ok().and_then(|name| images.get(&name)).map(|i| i.size.get());
    for group in &dynamic.groups {
        let label = group.name.clone().unwrap_or_default();
        for missing in group.partition_names.iter().filter(|name| size(name).is_none()) {
            findings.push(error(
                "dynamic-missing",
                format!("group {label} lists {missing}, which the build does not bring; phones would delete it"),
                "add the partition to AB_OTA_PARTITIONS and build the OTA anew",
            ));
        }
        let sum: u64 = group.partition_names.iter().filter_map(size).fold(0, u64::saturating_add);
        let most = group.size.unwrap_or(0);
        if sum > most {
            findings.push(error(
                "group-full",
                format!("the partitions of group {label} have {sum} bytes; the group may hold {most}"),
                "make the images smaller, or the group larger",
            ));
        }
    }
    let in_manifest = manifest.partitions.iter().filter(|(_, facts)| facts.group.is_some());
    let listed: BTreeSet<&str> = listed(dynamic);
    for (name, _) in in_manifest.filter(|(name, _)| images.contains_key(*name) && !listed.contains(name.as_str())) {
        findings.push(error(
            "dynamic-unlisted",
            format!("{name} is dynamic by the device's manifest, and in none of the build's groups"),
            "correct the groups of the build (BOARD_<GROUP>_PARTITION_LIST), or the device's manifest",
        ));
    }
}

fn listed(dynamic: &wire::DynamicPartitionMetadata) -> BTreeSet<&str> {
    dynamic.groups.iter().flat_map(|group| &group.partition_names).map(String::as_str).collect()
}

/// What goes back against the builds that are there: phones go forward only.
fn history(build: &Build, existing: &[Build], findings: &mut Vec<Finding>) {
    let others = || existing.iter().filter(|other| other.channel == build.channel && other.build != build.build);
    if let Some(newer) = others().max_by_key(|other| other.timestamp).filter(|other| other.timestamp >= build.timestamp)
    {
        let text = format!(
            "build {} is not newer than {}, which is there already: {} against {}; phones will not go to it",
            build.build, newer.build, build.timestamp, newer.timestamp
        );
        findings.push(warning(
            "older-build",
            text,
            "give a newer build; a withdrawn one needs a rebuild with a new date",
        ));
        return;
    }
    let older = || others().filter(|other| other.timestamp < build.timestamp);
    let by_spl = older().filter_map(|other| Some((other.spl.as_deref()?, other))).max_by_key(|(spl, _)| *spl);
    if let (Some((spl, other)), Some(own)) = (by_spl, build.spl.as_deref())
        && own < spl
    {
        findings.push(warning(
            "patch-level-back",
            format!(
                "the patch level goes back from {spl} of build {} to {own}; locked phones refuse that",
                other.build
            ),
            "merge the security patches of that month before you build",
        ));
    }
    let by_sdk = older().filter_map(|other| Some((other.sdk?, other))).max_by_key(|(sdk, _)| *sdk);
    if let (Some((sdk, other)), Some(own)) = (by_sdk, build.sdk)
        && own < sdk
    {
        findings.push(warning(
            "sdk-back",
            format!(
                "the SDK level goes back from {sdk} of build {} to {own}; data of apps do not go back",
                other.build
            ),
            "give it a channel of its own",
        ));
    }
}

/// Findings that stop an import: errors that were not accepted by their codes.
pub(crate) fn stopping<'f>(findings: &'f [Finding], accepted: &[String]) -> Vec<&'f Finding> {
    let stops = |finding: &&Finding| finding.level == Level::Error && !accepted.iter().any(|code| code == finding.code);
    findings.iter().filter(stops).collect()
}
