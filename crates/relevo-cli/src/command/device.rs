//! `relevo device`: the devices that packages are made for.

use std::{
    collections::BTreeMap,
    fmt::Write,
    path::{Path, PathBuf},
};

use anyhow::Context;
use relevo_meta::Trusted;
use relevo_repo::{RepoError, RoleKeys};
use relevo_types::{Codename, DeviceManifest, InstallKind, MAX_MANIFEST, TargetPath, Variant, Vendor};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::{
    ab_keys,
    args::DeviceAdd,
    builds::{self, Build},
    durable::{PRIVATE, PUBLIC, make_dir, read_bytes, read_text, write_file},
    error::CliError,
    home::{Home, human, or_none, parse_manifest},
    keyring::Keyring,
    packages, repository,
    session::{Answer, Session},
};

/// Longest key or certificate for OTA zips that is kept, in bytes.
const MAX_OTA_KEY: u64 = 64 << 10;

/// What `device add --json` says.
#[derive(Debug, Serialize)]
struct Added {
    device: Codename,
    vendor: Vendor,
    kind: InstallKind,
    manifest: String,
    /// `added`, or `already there`.
    state: &'static str,
    /// Ids of the keys, by role.
    keys: BTreeMap<String, String>,
}

pub(crate) fn add(session: &Session<'_>, args: &DeviceAdd) -> anyhow::Result<Answer> {
    let home = Home::open(&session.dir)?;
    let (manifest, text) = given_manifest(args)?;
    let path = home.manifest_path(&args.codename);
    let there = match read_text(&path, MAX_MANIFEST.get())? {
        Some(text) => Some(parse_manifest(&path, &text, Some(&args.codename))?),
        None => None,
    };
    if there.as_ref().is_some_and(|there| *there != manifest) {
        return Err(CliError::DeviceExists { codename: args.codename.clone() }.into());
    }

    let ota_key = args.ota_key.as_ref().zip(args.ota_cert.as_ref());
    let ota_key = ota_key.map(|(key, cert)| read_ota_key(session, &home, args, key, cert)).transpose()?;
    let ring = Keyring::open(session, &home, &args.passphrase)?;
    // Fails at once if the passphrase is wrong, before any new key is made with it.
    ring.check_passphrase()?;
    let repository = repository::open(&home)?;
    let mut publication = repository.publication()?;
    let state = repository.current()?;
    if let Some(known) = state.device(&manifest.codename)
        && known.vendor != manifest.vendor
    {
        let (codename, vendor) = (known.codename.clone(), known.vendor.clone());
        return Err(RepoError::CodenameTaken { codename, vendor }.into());
    }
    let (vendor_role, device_role) = (format!("v-{}", manifest.vendor), format!("d-{}", manifest.codename));
    let mut ids = BTreeMap::new();
    for role in [&vendor_role, &device_role] {
        // A role that is there has its keys already; with another one it would be taken over, not added.
        let key = if repository::has_role(&state, role) {
            home.public_key(role)?
        } else {
            Some(home.key_or_new(session, role, &ring.passphrase()?)?.public().clone())
        };
        let Some(key) = key else { continue };
        ids.insert(role.clone(), key.key_id());
        let keys = RoleKeys::one(&key);
        if !repository::has_role(&state, role) {
            match role == &vendor_role {
                true => publication.add_vendor(&manifest.vendor, &keys)?,
                false => publication.add_device(&manifest.vendor, &manifest.codename, &keys)?,
            }
        }
    }
    // With the keys that were just made.
    let ring = ring.again()?;
    let signers = ring.signers(&publication.needs()?)?;
    if there.is_none() {
        make_dir(&home.dir().join("manifests"))?;
        write_file(&path, text.as_bytes(), PUBLIC)?;
    }
    for Kept { path, bytes, mode } in ota_key.into_iter().flatten() {
        write_file(&path, &bytes, mode)?;
    }
    let published = publication
        .commit(&signers, session.now)
        .with_context(|| format!("could not put {} into the repository", manifest.codename))?;

    let answer = Added {
        device: manifest.codename.clone(),
        vendor: manifest.vendor,
        kind: manifest.kind,
        manifest: path.display().to_string(),
        state: if there.is_none() || !published.roles.is_empty() { "added" } else { "already there" },
        keys: ids,
    };
    let text = format!("{} {} of {}, kind {}\n", answer.state, answer.device, answer.vendor, answer.kind);
    let notes = format!("next: copy keys/ to your backup again, then relevo import DIR --device {}\n", answer.device);
    Ok(Answer::new(&answer).text(text).notes(notes))
}

/// A file that is to be kept.
struct Kept {
    path: PathBuf,
    bytes: Zeroizing<Vec<u8>>,
    mode: u32,
}

/// What is to be kept of the key for OTA zips. It has to open, and to be the
/// certificate's; an encrypted one stays encrypted.
fn read_ota_key(
    session: &Session<'_>,
    home: &Home,
    args: &DeviceAdd,
    key: &Path,
    cert: &Path,
) -> anyhow::Result<[Kept; 2]> {
    ab_keys::Signers::open(session, &[key.into()], &[cert.into()], None, true, &args.passphrase)?;
    let own = home.own_ota_key(&args.codename);
    let kept = |from: &Path, to: PathBuf, mode| {
        let missing = || CliError::NoKey { path: from.into() };
        let bytes = Zeroizing::new(read_bytes(from, MAX_OTA_KEY)?.ok_or_else(missing)?);
        match read_bytes(&to, MAX_OTA_KEY)?.map(Zeroizing::new) {
            Some(there) if there != bytes => Err(CliError::OtaKeyExists { path: to }),
            _ => Ok(Kept { path: to, bytes, mode }),
        }
    };
    // The certificate first: a key without one would be used and then be found useless.
    Ok([kept(cert, own.cert, PUBLIC)?, kept(key, own.key, PRIVATE)?])
}

/// The manifest of the options, and as text.
fn given_manifest(args: &DeviceAdd) -> anyhow::Result<(DeviceManifest, String)> {
    if let Some(path) = &args.manifest {
        let missing = || CliError::Read { path: path.clone(), source: std::io::ErrorKind::NotFound.into() };
        let text = read_text(path, MAX_MANIFEST.get())?.ok_or_else(missing)?;
        return Ok((parse_manifest(path, &text, Some(&args.codename))?, text));
    }
    let (vendor, kind) = (args.vendor.clone(), args.kind);
    let (vendor, kind) = (vendor.expect("clap asks for it"), kind.expect("clap asks for it"));
    let mut manifest = DeviceManifest::new(args.codename.clone(), vendor, kind);
    manifest.names = args.name.clone();
    manifest.models = args.model.clone();
    if !args.channel.is_empty() {
        manifest.channels = args.channel.clone();
    }
    manifest.partitions = args.partition.iter().map(|name| (name.clone(), Default::default())).collect();
    let text = manifest.to_toml();
    // Names come from the command line and are checked as those in a file are.
    let path = Path::new("the device");
    Ok((parse_manifest(path, &text, Some(&args.codename))?, text))
}

/// One line of `device list`.
#[derive(Debug, Serialize)]
struct Listed {
    device: Codename,
    vendor: Vendor,
    kind: InstallKind,
    names: Vec<String>,
    builds: usize,
    newest: Option<String>,
    /// Packages in the repository.
    published: usize,
    /// Packages that wait for `publish`.
    pending: usize,
    /// When the device's role expires; none if it is not in the repository.
    expires: Option<jiff::Timestamp>,
}

pub(crate) fn list(session: &Session<'_>) -> anyhow::Result<Answer> {
    let home = Home::open(&session.dir)?;
    let state = repository::current(&home)?;
    let mut devices = Vec::new();
    for codename in home.devices()? {
        let manifest = home.manifest(&codename)?;
        devices.push(listed(&home, &state, manifest)?);
    }
    let mut text = String::new();
    if devices.is_empty() {
        text.push_str("no devices\n");
    } else {
        let heads = ("device", "vendor", "kind", "builds", "newest", "published", "pending");
        let _ = writeln!(
            text,
            "{:<16} {:<12} {:<7} {:>6} {:<24} {:>9} {:>7}",
            heads.0, heads.1, heads.2, heads.3, heads.4, heads.5, heads.6
        );
    }
    for device in &devices {
        let newest = device.newest.as_deref().unwrap_or("-");
        let _ = writeln!(
            text,
            "{:<16} {:<12} {:<7} {:>6} {newest:<24} {:>9} {:>7}",
            device.device.as_str(),
            device.vendor.as_str(),
            device.kind.to_string(),
            device.builds,
            device.published,
            device.pending
        );
    }
    Ok(Answer::new(&serde_json::json!({ "devices": devices })).text(text))
}

fn listed(home: &Home, state: &Trusted, manifest: DeviceManifest) -> anyhow::Result<Listed> {
    let builds = builds::list(home, &manifest.codename)?;
    let pending = packages::pending(home, &manifest)?.len();
    let device = state.device(&manifest.codename);
    Ok(Listed {
        builds: builds.len(),
        newest: builds.last().map(|build| build.build.to_string()),
        published: device.map_or(0, |device| device.packages.len()),
        pending,
        expires: device.map(|device| device.expires),
        device: manifest.codename,
        vendor: manifest.vendor,
        kind: manifest.kind,
        names: manifest.names,
    })
}

/// What `device show --json` says.
#[derive(Debug, Serialize)]
struct Shown {
    device: Codename,
    manifest: DeviceManifest,
    /// Id of the device's own key here; none if it is not in this directory.
    key: Option<String>,
    builds: Vec<Build>,
    published: Vec<PublishedPackage>,
    /// Packages that wait for `publish`.
    pending: Vec<TargetPath>,
    expires: Option<jiff::Timestamp>,
}

#[derive(Debug, Serialize)]
struct PublishedPackage {
    path: TargetPath,
    bytes: u64,
    custom: relevo_meta::Custom,
}

pub(crate) fn show(session: &Session<'_>, codename: &Codename) -> anyhow::Result<Answer> {
    let home = Home::open(&session.dir)?;
    let manifest = home.manifest(codename)?;
    let state = repository::current(&home)?;
    let device = state.device(codename);
    let pending = packages::pending(&home, &manifest)?.into_iter().map(|made| made.target).collect();
    let published = device.map(|device| &device.packages[..]).unwrap_or_default().iter();
    let published = published.map(|package| PublishedPackage {
        path: package.path.clone(),
        bytes: package.length.get(),
        custom: package.custom.clone(),
    });
    let shown = Shown {
        device: codename.clone(),
        key: home.public_key(&format!("d-{codename}"))?.map(|key| key.key_id()),
        builds: builds::list(&home, codename)?,
        published: published.collect(),
        pending,
        expires: device.map(|device| device.expires),
        manifest,
    };
    Ok(Answer::new(&shown).text(description(&shown)))
}

/// `Redmi Note 9S, curtana, M2003J6A1G, Global`.
fn variant_line(variant: &Variant) -> String {
    let mut words = vec![variant.name.clone()];
    words.extend(variant.codename.as_ref().map(ToString::to_string));
    words.extend(variant.models.iter().chain(&variant.markets).cloned());
    words.join(", ")
}

fn description(shown: &Shown) -> String {
    let manifest = &shown.manifest;
    let mut text = String::new();
    let mut line = |label: &str, value: String| {
        let _ = writeln!(text, "{label:<11} {value}");
    };
    line("device", format!("{}, {}, kind {}", shown.device, manifest.vendor, manifest.kind));
    line("names", or_none(&manifest.names));
    if !manifest.models.is_empty() {
        line("models", or_none(&manifest.models));
    }
    for variant in &manifest.variants {
        line("variant", variant_line(variant));
    }
    if let Some(soc) = &manifest.hardware.soc {
        line("soc", soc.clone());
    }
    if let Some(link) = &manifest.links.wiki {
        line("wiki", link.clone());
    }
    let channels: Vec<_> = manifest.channels.iter().map(ToString::to_string).collect();
    line("channels", channels.join(", "));
    let partitions: Vec<_> = manifest.partitions.keys().map(ToString::to_string).collect();
    line("partitions", if partitions.is_empty() { "not known".to_owned() } else { partitions.join(", ") });
    line("key", shown.key.clone().unwrap_or_else(|| "not here".to_owned()));
    line("expires", shown.expires.map_or("not in the repository".to_owned(), |expires| expires.to_string()));
    for build in &shown.builds {
        line("build", format!("{} ({}), {}, {}", build.build, build.version, build.channel, human(build.size())));
    }
    for package in &shown.published {
        line("published", format!("{}, {}", package.path, human(package.bytes)));
    }
    for path in &shown.pending {
        line("pending", path.to_string());
    }
    text
}
