//! `relevo publish --to URL`: signs at home, and sends an origin what it lacks.
//!
//! Nothing is written down between runs but the metadata that was verified: the origin says what it lacks, and the same
//! packages are signed into the same bytes. So a push that was cut anywhere is gone on with by running it again.

mod origin;
mod send;
mod signature;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use relevo_format::FileAt;
use relevo_meta::{
    Answer as Found, Custom, Limits, Refresh, Scope, Step, Stored, Target, Trusted,
    author::{DeviceFile, RoleKeys},
    chunks::{Builder, chunk_size_for},
    keys::{PublicKey, Signer},
};
use relevo_repo::push::{CutList, MAX_CHUNK, Manifest, ManifestRole, ManifestTarget, PROTOCOL, Receipt, State, Status};
use relevo_types::{Codename, DeviceManifest, PackageKind, Sha256, TargetPath, Vendor};
use serde_json::{Value, json};
use sha2::Digest as _;

pub(crate) use self::origin::{Origin, PushError};
use crate::{
    command::ota::check_streams_of,
    csig,
    durable::{PUBLIC, make_dir, read_bytes, write_file},
    error::CliError,
    home::Home,
    keyring::{Hand, Keyring},
    packages::{self, Made},
    progress::Bars,
    session::Session,
};

/// A device with packages to publish, and who signs for it here.
struct Work<'a> {
    manifest: &'a DeviceManifest,
    pending: &'a [Made],
    hands: Vec<Hand>,
}

/// What a push did.
pub(crate) struct Pushed {
    pub(crate) receipt: Receipt,
    /// The packages, in the order of the work, and whether each was new.
    pub(crate) packages: Vec<(TargetPath, Target, bool)>,
    /// Bytes that were sent, those of broken requests and of the manifest as well.
    pub(crate) sent: u64,
    /// Bytes of all files that were published.
    pub(crate) total: u64,
}

/// A file that may have to be sent.
pub(crate) struct File {
    pub(crate) path: PathBuf,
    /// What it is made of; none for small files, which are one chunk.
    pub(crate) cut: CutList,
}

/// Files of this length and less are sent in one chunk, in bytes.
const WHOLE: u64 = 64 << 10;

/// How often a role is signed anew because another publication came in between.
const TURNS: usize = 5;

/// How often everything that is missing is sent, with every request ending well.
const ROUNDS: usize = 5;

/// Pushes everything that waits. `scratch` is a directory for signed packages, gone afterwards.
pub(crate) fn run(
    session: &Session<'_>,
    home: &Home,
    ring: &Keyring<'_>,
    origin: &Origin<'_>,
    devices: &[(&DeviceManifest, &[Made])],
    parallel: usize,
    scratch: &Path,
) -> anyhow::Result<Pushed> {
    origin.greet()?;
    let work = devices.iter().map(|(manifest, pending)| {
        Ok(Work { manifest, pending, hands: hands(session, home, ring, origin, manifest)? })
    });
    let work = &work.collect::<anyhow::Result<Vec<_>>>()?[..];
    let mut files: Vec<(TargetPath, Target, Value, File)> = Vec::new();
    for work in work {
        for made in work.pending {
            let prepared = prepare(session, home, work, made, scratch);
            files.extend(prepared.with_context(|| format!("could not publish {}", made.target))?);
        }
    }
    let mut next: BTreeMap<Codename, u64> = BTreeMap::new();
    for turn in 0.. {
        let (manifest, new) = sign(session, home, origin, work, &files, &next)?;
        if manifest.roles.is_empty() {
            let state = current(session, home, origin, &work[0].manifest.vendor, &work[0].manifest.codename)?.1;
            let receipt = Receipt {
                roles: Vec::new(),
                snapshot_version: state.snapshot_version(),
                timestamp_version: state.timestamp_version(),
                changed: false,
            };
            return Ok(Pushed { receipt, packages: listed(&files, &new), sent: 0, total: 0 });
        }
        let bars = session.bars("publish");
        match push_once(origin, &manifest, &files, parallel, &bars) {
            Ok(receipt) => {
                let sent = origin.sent();
                let total = manifest.targets.iter().map(|target| target.length.get()).sum();
                return Ok(Pushed { receipt, packages: listed(&files, &new), sent, total });
            }
            Err(PushError::Version { role, next: version }) if turn < TURNS => {
                // Somebody published in between, or the origin was cut off: from the state as it is now, once more.
                let codename = role.strip_prefix("d-").and_then(|name| Codename::parse(name).ok());
                next.extend(codename.map(|codename| (codename, version)));
            }
            Err(error) => return Err(error.into()),
        }
    }
    unreachable!("the last turn ends with its error")
}

/// Those who sign for a device here, up to the threshold of its role at the origin.
fn hands(
    session: &Session<'_>,
    home: &Home,
    ring: &Keyring<'_>,
    origin: &Origin<'_>,
    manifest: &DeviceManifest,
) -> anyhow::Result<Vec<Hand>> {
    let role = format!("d-{}", manifest.codename);
    let (_, trusted) = current(session, home, origin, &manifest.vendor, &manifest.codename)?;
    let keys = match trusted.device(&manifest.codename) {
        Some(device) => {
            RoleKeys { keys: device.keys.iter().copied().map(PublicKey::from).collect(), threshold: device.threshold }
        }
        // It was never published; the origin says whether the key that is called so is the right one.
        None => RoleKeys { keys: home.public_key(&role)?.into_iter().collect(), threshold: 1 },
    };
    let mut held = ring.of(&role, &keys);
    if held.len() < keys.threshold {
        return Err(ring.missing(&role, &keys, held.len()).into());
    }
    held.truncate(keys.threshold);
    held.into_iter().map(|held| ring.hand(held, &role)).collect()
}

fn listed(files: &[(TargetPath, Target, Value, File)], new: &[TargetPath]) -> Vec<(TargetPath, Target, bool)> {
    let packages = files.iter().filter(|(_, _, custom, _)| is_package(custom));
    packages.map(|(path, target, _, _)| (path.clone(), *target, new.contains(path))).collect()
}

/// Whether what is said of a target says that it is a package: only they have chunk lists.
fn is_package(custom: &Value) -> bool {
    custom.get("chunks").is_some()
}

/// One package as it will lie in the repository, and what lies beside it.
fn prepare(
    session: &Session<'_>,
    home: &Home,
    work: &Work<'_>,
    made: &Made,
    scratch: &Path,
) -> anyhow::Result<Vec<(TargetPath, Target, Value, File)>> {
    let path = if made.custom.kind == PackageKind::Native {
        let path = scratch.join(made.target.file());
        check_streams_of(session, &made.path)?;
        packages::sign_native(&made.path, &path, &work.hands)?;
        path
    } else {
        packages::check_zip(session, made)?;
        made.path.clone()
    };
    let bars = session.bars(made.target.file());
    let (target, cut, list) = read(&path, &bars)?;
    let beside = format!("{}.chunks", made.target.file());
    let beside = TargetPath::new(made.target.vendor(), made.target.codename(), made.target.channel(), &beside)?;
    let list_path = scratch.join(beside.file());
    write_file(&list_path, &list, PUBLIC)?;
    let list_target = Target::of(&list);
    let list_cut = CutList::whole(list_target.length, list_target.sha256)?;
    let custom = Custom { chunks: Some(beside.file().to_owned()), ..made.custom.clone() };
    let mut files = vec![
        (made.target.clone(), target, custom.to_value(), File { path, cut }),
        (beside, list_target, json!({"kind": "chunks"}), File { path: list_path, cut: list_cut }),
    ];
    if let Some(path) = csig::check(home, made)? {
        let (target, cut, _) = read(&path, &bars)?;
        files.push((csig::target(&made.target)?, target, json!({"kind": "csig"}), File { path, cut }));
    }
    Ok(files)
}

/// Hashes a file, cuts it, and makes the list of chunks that phones check it by.
fn read(path: &Path, bars: &Bars<'_>) -> anyhow::Result<(Target, CutList, Vec<u8>)> {
    let failed = |source| CliError::Read { path: path.into(), source };
    let file = FileAt::open(path).map_err(failed)?;
    let length = relevo_format::ReadAt::len(&file);
    bars.step("reading", length.get());
    let mut list = Builder::new(length, chunk_size_for(length)?)?;
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < length.get() {
        let len = usize::try_from(length.get() - at).unwrap_or(buffer.len()).min(buffer.len());
        relevo_format::ReadAt::read_exact_at(&file, &mut buffer[..len], at).map_err(failed)?;
        hasher.update(&buffer[..len]);
        list.update(&buffer[..len])?;
        at += len as u64;
        if bars.add(len as u64).is_break() {
            return Err(CliError::Stopped.into());
        }
    }
    let target = Target { length, sha256: Sha256::new(hasher.finalize().into()) };
    let cut = if (1..=WHOLE).contains(&length.get()) {
        CutList::whole(length, target.sha256)?
    } else {
        bars.step("cutting", length.get());
        let mut stopped = false;
        let cut = CutList::of(&file, &mut |bytes| stopped |= bars.add(bytes).is_break()).map_err(failed)?;
        if stopped {
            return Err(CliError::Stopped.into());
        }
        cut
    };
    Ok((target, cut, list.finish()?.encode()))
}

/// The devices' roles with what is new in them, signed, as the origin has them now; and which packages are new.
fn sign(
    session: &Session<'_>,
    home: &Home,
    origin: &Origin<'_>,
    work: &[Work<'_>],
    files: &[(TargetPath, Target, Value, File)],
    next: &BTreeMap<Codename, u64>,
) -> anyhow::Result<(Manifest, Vec<TargetPath>)> {
    let mut manifest = Manifest { protocol: PROTOCOL, roles: Vec::new(), targets: Vec::new() };
    let mut new = Vec::new();
    for work in work {
        let codename = &work.manifest.codename;
        let (stored, trusted) = current(session, home, origin, &work.manifest.vendor, codename)?;
        let name = format!("d-{codename}");
        let mut role = match stored.0.get(&format!("{name}.json")).filter(|_| trusted.device(codename).is_some()) {
            Some(bytes) => DeviceFile::edit(bytes).with_context(|| format!("could not change the role {name}"))?,
            None => {
                let mut role = DeviceFile::new(Timestamp::UNIX_EPOCH);
                role.set_version(0);
                role
            }
        };
        let mut changed = false;
        for (path, target, custom, file) in files.iter().filter(|(path, ..)| path.codename() == codename) {
            if role.target(path).is_some_and(|(old, _)| old != *target) {
                return Err(relevo_repo::RepoError::OtherContent { path: Box::new(path.clone()) }.into());
            }
            let put = role.put_target(path, *target, custom)?;
            changed |= put;
            if put && is_package(custom) {
                new.push(path.clone());
            }
            let cut = (file.cut.chunks().len() > 1).then(|| Target::of(&file.cut.encode()).sha256);
            let Target { length, sha256 } = *target;
            manifest.targets.push(ManifestTarget { path: path.clone(), length, sha256, cut });
        }
        if !changed {
            manifest.targets.retain(|target| target.path.codename() != codename);
            continue;
        }
        let version = role.version().saturating_add(1).max(next.get(codename).copied().unwrap_or(0));
        role.set_version(version);
        let days = home.settings.expiry_days.device;
        let expires = session.now.checked_add(SignedDuration::from_hours(i64::from(days) * 24))?;
        role.set_expires(expires);
        let signers: Vec<&dyn Signer> = work.hands.iter().map(|hand| hand as &dyn Signer).collect();
        let file = String::from_utf8(role.sign(&signers)?).expect("JSON is UTF-8");
        manifest.roles.push(ManifestRole { codename: codename.clone(), nightly: false, file });
    }
    Ok((manifest, new))
}

/// What the origin has now, verified as a phone of the device would, from what was verified before on.
fn current(
    session: &Session<'_>,
    home: &Home,
    origin: &Origin<'_>,
    vendor: &Vendor,
    codename: &Codename,
) -> anyhow::Result<(Stored, Trusted)> {
    let dir = home.dir().join("origin").join(origin.dir_name()).join(codename.as_str());
    make_dir(&dir)?;
    let mut stored = Stored::default();
    for name in crate::home::names(&dir)?.into_iter().filter(|name| name.ends_with(".json")) {
        if let Some(bytes) = read_bytes(&dir.join(&name), MAX_METADATA)? {
            stored.0.insert(name, bytes);
        }
    }
    if !stored.0.contains_key("root.json") {
        let path = home.repo().join("metadata/1.root.json");
        let root = read_bytes(&path, MAX_METADATA)?.ok_or(CliError::NoFirstRoot { path })?;
        stored = Stored::with_root(root);
    }
    let scope = Scope::Device { vendor: vendor.clone(), codename: codename.clone() };
    let wrong = || format!("the origin's metadata of {codename} does not verify");
    let mut refresh = Refresh::start(stored.clone(), scope, session.now, Limits::default()).with_context(wrong)?;
    loop {
        match refresh.next() {
            Step::Get(request) => {
                let answer = origin.metadata(&request.name, request.limit.get())?;
                refresh.supply(answer.map_or(Found::Absent, Found::Found)).with_context(wrong)?;
            }
            Step::Keep { name, bytes } => {
                write_file(&dir.join(&name), &bytes, PUBLIC)?;
                stored.0.insert(name, bytes);
            }
            Step::Done => return Ok((stored, refresh.finish().with_context(wrong)?)),
        }
    }
}

/// Longest metadata file that is kept, in bytes.
const MAX_METADATA: u64 = 1 << 20;

/// Sends one manifest and what it needs, and has it published.
fn push_once(
    origin: &Origin<'_>,
    manifest: &Manifest,
    files: &[(TargetPath, Target, Value, File)],
    parallel: usize,
    bars: &Bars<'_>,
) -> Result<Receipt, PushError> {
    let text = serde_json::to_vec(manifest).expect("a manifest has text keys only");
    let of = |path: &TargetPath| &files.iter().find(|(other, ..)| other == path).expect("it was made from them").3;
    let own: Vec<&File> = manifest.targets.iter().map(|target| of(&target.path)).collect();
    let (mut least, mut in_vain, mut run) = (u64::MAX, 0, send::MAX_RUN);
    // Rounds that ended well.
    let mut rounds = 0;
    loop {
        let status: Status = origin.post("sessions", &text)?;
        if status.state == State::Open {
            let mut lists = 0;
            let mut broke = None;
            for (target, file) in status.targets.iter().zip(&own) {
                let Some(have) = target.cut_have else { continue };
                let list = file.cut.encode();
                lists += list.len() as u64 - have;
                match send_list(origin, status.session, &list, have, run) {
                    Err(error) if error.is_break() => broke = Some(error),
                    other => other?,
                }
            }
            let missing = lists + status.targets.iter().map(|target| target.missing_bytes).sum::<u64>();
            in_vain = if missing < least { 0 } else { in_vain + 1 };
            least = least.min(missing);
            if lists == 0 {
                bars.step("sending", missing);
                broke = send::all(origin, &status, &own, (parallel, run), bars)?;
            }
            if let Some(broke) = broke {
                // Shorter requests get through where long ones do not.
                run = (run / 2).max(send::MIN_RUN);
                origin.wait(in_vain, broke)?;
                continue;
            }
            run = (run * 2).min(send::MAX_RUN);
            if lists > 0 {
                continue;
            }
            // What was sent and is missing all the same: an origin that lost power may, and not for ever.
            rounds += 1;
            if rounds > ROUNDS {
                return Err(PushError::Lost { bytes: missing });
            }
            bars.step("publishing", 0);
        }
        match origin.post(&format!("sessions/{}/commit", status.session), &[]) {
            Ok(receipt) => return Ok(receipt),
            // The origin was started anew, or the commit was heard and its answer was not.
            Err(PushError::Refused { code, .. }) if matches!(code.as_str(), "no-session" | "incomplete") => {
                if status.state == State::Published {
                    return origin.published(manifest);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

/// Sends the rest of a list of chunks.
fn send_list(origin: &Origin<'_>, session: Sha256, list: &[u8], have: u64, piece: u64) -> Result<(), PushError> {
    let sha256 = Target::of(list).sha256;
    let start = usize::try_from(have).unwrap_or(list.len()).min(list.len());
    let mut at = start;
    for piece in list[start..].chunks(usize::try_from(piece).expect("a piece has a megabyte at most")) {
        match origin.put_once(&format!("sessions/{session}/cuts/{sha256}/{at}"), piece) {
            // It has more or less than it said, or was started anew: it says so when it is asked.
            Err(PushError::Refused { code, .. }) if matches!(code.as_str(), "gap" | "no-session") => return Ok(()),
            other => other?,
        }
        at += piece.len();
    }
    Ok(())
}

impl Origin<'_> {
    /// The receipt of what was published before this run heard of it.
    fn published(&self, manifest: &Manifest) -> Result<Receipt, PushError> {
        let timestamp = self.metadata("timestamp.json", MAX_METADATA)?.unwrap_or_default();
        let value: serde_json::Value = serde_json::from_slice(&timestamp).unwrap_or_default();
        let version = |pointer: &str| value.pointer(pointer).and_then(serde_json::Value::as_u64).unwrap_or(0);
        let roles = manifest.roles.iter().map(|role| relevo_repo::push::ReceiptRole {
            role: role.name(),
            version: DeviceFile::edit(role.file.as_bytes()).map(|file| file.version()).unwrap_or(0),
        });
        Ok(Receipt {
            roles: roles.collect(),
            snapshot_version: version("/signed/meta/snapshot.json/version"),
            timestamp_version: version("/signed/version"),
            changed: true,
        })
    }
}

const _: () = assert!(WHOLE <= MAX_CHUNK as u64);
