//! What can go wrong beside the errors of the libraries, and what to do about it.

use std::{io, path::PathBuf};

use crate::push::PushError;
use relevo_types::{BuildId, Channel, Codename, PackageKind};

/// A mistake that the command itself finds.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// No maintainer's directory.
    #[error("{} is no maintainer's directory: it has no relevo.toml", dir.display())]
    NoHome {
        /// Where it was looked for.
        dir: PathBuf,
    },
    /// `init` into something else.
    #[error("{} is not empty", dir.display())]
    NotEmpty {
        /// Which directory.
        dir: PathBuf,
    },
    /// A file could not be read.
    #[error("could not read {}", path.display())]
    Read {
        /// Which file or directory.
        path: PathBuf,
        /// What it answered.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("could not write {}", path.display())]
    Write {
        /// Which file or directory.
        path: PathBuf,
        /// What it answered.
        source: io::Error,
    },
    /// Another `relevo` works there.
    #[error("another relevo is at work in {}", dir.display())]
    Busy {
        /// In which directory.
        dir: PathBuf,
    },
    /// Another `relevo` makes the same.
    #[error("another relevo is making {}", path.display())]
    BeingMade {
        /// A file, or a directory of images.
        path: PathBuf,
    },
    /// The root that an origin is checked against is missing.
    #[error("there is no {}, which the origin is checked against", path.display())]
    NoFirstRoot {
        /// Where it should be.
        path: PathBuf,
    },
    /// No passphrase to be had.
    #[error("no passphrase for the keys")]
    NoPassphrase,
    /// Typed differently the second time.
    #[error("the two passphrases differ")]
    PassphrasesDiffer,
    /// Empty, or too short to be one.
    #[error("the passphrase is {len} characters long; at least {min} are needed")]
    ShortPassphrase {
        /// Its length in characters.
        len: usize,
        /// Least length.
        min: usize,
    },
    /// The key file does not open.
    #[error("could not open the key {}", path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A key that is there already, or missing.
    #[error("there is no key {}", path.display())]
    NoKey {
        /// Which file.
        path: PathBuf,
    },
    /// Too few of a role's keys are here.
    #[error(
        "the role {role} needs {threshold} of its {keys} keys, and {} here",
        if *held == 0 { "none is".to_owned() } else { format!("{held} of them {}", if *held == 1 { "is" } else { "are" }) }
    )]
    NotAtHand {
        /// The role.
        role: String,
        /// How many have to sign.
        threshold: usize,
        /// How many keys it has.
        keys: usize,
        /// How many of them are here.
        held: usize,
    },
    /// A change that others have to sign as well.
    #[error("not everybody is here who has to sign this")]
    NeedsCeremony {
        /// What starts the ceremony.
        command: String,
        /// Whose keys are missing.
        source: Box<CliError>,
    },
    /// A name that cannot be a file's.
    #[error(
        "{name:?} is no name for a key: letters, digits, . _ - and at most 80 of them, beginning with a letter or digit"
    )]
    KeyName {
        /// The name.
        name: String,
    },
    /// There is a key of that name.
    #[error("{} is there already", path.display())]
    KeyExists {
        /// The file.
        path: PathBuf,
    },
    /// A key that is not one of the role's.
    #[error("the role {role} has no key {key}; it has {known}")]
    NotItsKey {
        /// The role.
        role: String,
        /// What was given.
        key: String,
        /// The keys that it has.
        known: String,
    },
    /// A threshold that the keys would not reach.
    #[error("the role {role} would need {threshold} signatures and have {keys} keys")]
    Threshold {
        /// The role.
        role: String,
        /// The threshold.
        threshold: usize,
        /// The number of keys.
        keys: usize,
    },
    /// A value of `ROLE=VALUE`.
    #[error("{role}={value}: expected {expected}")]
    RoleValue {
        /// The role.
        role: String,
        /// The value.
        value: String,
        /// What it must be.
        expected: &'static str,
    },
    /// A proposal that would change nothing.
    #[error("nothing is to be changed")]
    NoChange,
    /// A copy of another repository.
    #[error("{} begins with another root than {}", dir.display(), root.display())]
    OtherFirstRoot {
        /// The copy.
        dir: PathBuf,
        /// The first root that was given.
        root: PathBuf,
    },
    /// The signer did not agree.
    #[error("not signed")]
    NotConfirmed,
    /// A key that has no say in a proposal.
    #[error("none of the keys given has a say in this proposal, or all of them have signed")]
    NothingToSign,
    /// Signatures are missing.
    #[error("the proposal is not finished; missing are {missing}")]
    Unfinished {
        /// How many of which role.
        missing: String,
    },
    /// A build that no package leads to.
    #[error("no package of {codename} leads to build {build}; offered are {known}")]
    NotOffered {
        /// Which device.
        codename: Codename,
        /// Which build.
        build: BuildId,
        /// The builds that packages lead to, or `none`.
        known: String,
    },
    /// A package that the role vouches for and whose signatures are too few.
    #[error("{} is not signed by {threshold} of the keys that sign for {role}", path.display())]
    PackageSignatures {
        /// The package.
        path: PathBuf,
        /// How many have to sign.
        threshold: usize,
        /// The role.
        role: String,
    },
    /// A manifest is wrong.
    #[error("{} is no valid device manifest", path.display())]
    Manifest {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: relevo_types::ManifestError,
    },
    /// A manifest for another device.
    #[error("{} is the manifest of {found}, not of {wanted}", path.display())]
    OtherDevice {
        /// Which file.
        path: PathBuf,
        /// Whose it is.
        found: Codename,
        /// Whose it should be.
        wanted: Codename,
    },
    /// A device that was not added.
    #[error("there is no device {codename}; known are {known}")]
    NoDevice {
        /// Which one.
        codename: Codename,
        /// The others, or `none`.
        known: String,
    },
    /// The device is there with another manifest.
    #[error("device {codename} is there already, with another manifest")]
    DeviceExists {
        /// Which one.
        codename: Codename,
    },
    /// A build that was not imported.
    #[error("device {codename} has no build {build}; it has {known}")]
    NoBuild {
        /// Which device.
        codename: Codename,
        /// Which build.
        build: BuildId,
        /// The others, or `none`.
        known: String,
    },
    /// No build at all.
    #[error("device {codename} has no builds")]
    NoBuilds {
        /// Which device.
        codename: Codename,
    },
    /// The channel is not one of the device's.
    #[error("device {codename} has no channel {channel}; its manifest lists {known}")]
    NoChannel {
        /// Which device.
        codename: Codename,
        /// Which channel.
        channel: Channel,
        /// The ones it has.
        known: String,
    },
    /// The same id with other content.
    #[error("build {build} of {codename} is imported already, with another {what}: {there} there, {given} here")]
    BuildDiffers {
        /// Which device.
        codename: Codename,
        /// Which build.
        build: BuildId,
        /// What differs.
        what: String,
        /// What was imported.
        there: String,
        /// What was given now.
        given: String,
    },
    /// A fact about a build that nothing says.
    #[error("nothing says the build's {what}: neither {option}, nor build.json or build.prop in {}", dir.display())]
    UnknownFact {
        /// Which fact.
        what: &'static str,
        /// The option that would say it.
        option: &'static str,
        /// Where the files would be.
        dir: PathBuf,
    },
    /// A file beside the images is damaged.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong, with expected and actual.
        reason: String,
    },
    /// An image is not what it was when it was imported.
    #[error("{} has SHA-256 {actual}; it was imported with {expected}", path.display())]
    ImageDiffers {
        /// Which file.
        path: PathBuf,
        /// As imported.
        expected: relevo_types::Sha256,
        /// As it is.
        actual: relevo_types::Sha256,
    },
    /// Two builds of different channels.
    #[error(
        "build {from} is of channel {from_channel}, build {to} of {to_channel}; no phone goes from one to the other"
    )]
    OtherChannel {
        /// Source build.
        from: BuildId,
        /// Its channel.
        from_channel: Channel,
        /// Target build.
        to: BuildId,
        /// Its channel.
        to_channel: Channel,
    },
    /// From a build to an older one or itself.
    #[error("build {from} is not older than {to}; phones only go forward")]
    NotOlder {
        /// Source build.
        from: BuildId,
        /// Target build.
        to: BuildId,
    },
    /// A kind of package that is not there yet.
    #[error("kind {kind}: not in this version, which makes those of kind ab and native")]
    Kind {
        /// Which kind.
        kind: PackageKind,
    },
    /// A name that says another kind of package, or none.
    #[error("{} is not named as the package of kind {kind} that it would be", path.display())]
    OutName {
        /// Which file.
        path: PathBuf,
        /// What it would be.
        kind: PackageKind,
    },
    /// A delta without a source.
    #[error("the package is a delta: it starts from {bases} images, and no --source was given")]
    NoSource {
        /// How many images it needs.
        bases: usize,
    },
    /// An image to start from that is another one.
    #[error("{} has SHA-256 {actual}; the payload starts from {expected}", path.display())]
    SourceDiffers {
        /// Which file.
        path: PathBuf,
        /// As the payload says.
        expected: relevo_types::Sha256,
        /// As it is.
        actual: relevo_types::Sha256,
    },
    /// Nothing that a build comes in.
    #[error("{} is neither a directory of NAME.img, nor an OTA zip, a payload.bin or a zip of target files", path.display())]
    NoBuildSource {
        /// Which file.
        path: PathBuf,
    },
    /// An OTA for devices without slots.
    #[error("{} is a block-based OTA, which this version does not take apart", path.display())]
    BlockOta {
        /// Which file.
        path: PathBuf,
    },
    /// A delta where a build is needed.
    #[error("{} is no full OTA: it makes {partition} out of an older image", path.display())]
    NotFull {
        /// Which file.
        path: PathBuf,
        /// The first partition that is not whole.
        partition: relevo_types::PartitionName,
    },
    /// Target files of a device without slots.
    #[error("{} has no META/ab_partitions.txt, so its build is not for A/B", path.display())]
    NoAbPartitions {
        /// Which file.
        path: PathBuf,
    },
    /// An image that is listed and not there.
    #[error("META/ab_partitions.txt lists {partition}, and there is no IMAGES/{partition}.img")]
    NoImage {
        /// Of which partition.
        partition: relevo_types::PartitionName,
    },
    /// Nothing says which operations the source build knows.
    #[error("nothing says which payloads update_engine of build {build} of {codename} understands")]
    UnknownMinor {
        /// Which device.
        codename: Codename,
        /// Which build.
        build: BuildId,
    },
    /// Another key for OTA zips is there.
    #[error("{} is there already, with other content", path.display())]
    OtaKeyExists {
        /// Which file.
        path: PathBuf,
    },
    /// A partition that was asked for and is not there.
    #[error("the payload has no partition {partition}; it has {present}")]
    NoPartition {
        /// Which one.
        partition: relevo_types::PartitionName,
        /// Those that it has.
        present: String,
    },
    /// Blocks that the phone computes.
    #[error("could not compute what the payload leaves to the phone of {partition}")]
    Verity {
        /// Which partition.
        partition: relevo_types::PartitionName,
        /// What is wrong.
        source: relevo_format::verity::VerityError,
    },
    /// What stands beside the payload is not of it.
    #[error("payload_properties.txt has {key} {stated}; the payload has {actual}")]
    Property {
        /// Which property.
        key: &'static str,
        /// As stated.
        stated: String,
        /// As it is.
        actual: String,
    },
    /// No key that signs payloads.
    #[error("{} is no key or certificate", path.display())]
    AbKey {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: relevo_format::payload::KeyError,
    },
    /// No private key that signs payloads.
    #[error("{} is no key that signs A/B updates", path.display())]
    AbPrivateKey {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: relevo_format::payload::PrivateKeyError,
    },
    /// Neither a key nor the wish for none.
    #[error("no --key was given; phones refuse an A/B update that is not signed")]
    NoSigner,
    /// A zip's signature has to name a certificate.
    #[error("none of the {given} certificates given is that of the first key; the signature of a zip names it")]
    NoCertificate {
        /// How many were given.
        given: usize,
    },
    /// Keys elsewhere, and nothing says which.
    #[error("--exchange needs --cert: the certificates of the keys that will sign")]
    ExchangeCertificate,
    /// A signature of something else, or by another key.
    #[error("{} is no signature over {} by key {key} of --cert", path.display(), digest.display())]
    OtherSignature {
        /// Which file.
        path: PathBuf,
        /// What it was to be over.
        digest: PathBuf,
        /// Which key was to make it.
        key: usize,
    },
    /// Nothing says what the old build understands.
    #[error("nothing says which payloads the update_engine of the old build understands")]
    NoMinor,
    /// A fact that every phone compares.
    #[error("nothing says what {option} would say, and phones refuse an update without it")]
    NoFact {
        /// The option.
        option: &'static str,
    },
    /// Builds of two devices.
    #[error("the old build is for {from}, the new one for {to}")]
    TwoDevices {
        /// Of the old build.
        from: String,
        /// Of the new one.
        to: String,
    },
    /// A build that phones take for older.
    #[error("the {what} goes back from {from} to {to}; phones refuse that")]
    GoesBack {
        /// Date or patch level.
        what: &'static str,
        /// Of the old build.
        from: String,
        /// Of the new one.
        to: String,
    },
    /// Phones that know no partial updates.
    #[error(
        "phones take partial updates from minor version 7 on, with snapshots; the old build has {minor}, {}",
        if *snapshots { "with" } else { "without" }
    )]
    NoPartial {
        /// What the old build has.
        minor: u32,
        /// Whether the build uses snapshots.
        snapshots: bool,
    },
    /// Dynamic partitions that the phone would delete.
    #[error(
        "the new build has no image of {partitions}; phones delete dynamic partitions that an update does not bring"
    )]
    WouldDelete {
        /// Which ones.
        partitions: String,
    },
    /// Nothing to do.
    #[error("no partition changed")]
    NothingChanged,
    /// Entries that are not carried over.
    #[error("{} holds {entry}, which is not signed anew", path.display())]
    NotCarried {
        /// Which file.
        path: PathBuf,
        /// Which entry.
        entry: String,
    },
    /// Options of one kind of package given for another.
    #[error("{option} is for {kind} packages")]
    OtherKind {
        /// Which option.
        option: &'static str,
        /// The kind that it is for.
        kind: PackageKind,
    },
    /// Images would be made over those that they are made from.
    #[error("--out and --source are the same directory, {}", dir.display())]
    SameDirectory {
        /// Which one.
        dir: PathBuf,
    },
    /// The image made is not the one promised; a fault of the package.
    #[error("partition {partition} came out with SHA-256 {actual}; the package promises {expected}")]
    TargetDiffers {
        /// Which partition.
        partition: relevo_types::PartitionName,
        /// As promised.
        expected: relevo_types::Sha256,
        /// As made.
        actual: relevo_types::Sha256,
    },
    /// A new log needs a key of its own.
    #[error("{} is the key of the log that is there", path.display())]
    SameLog {
        /// The key.
        path: PathBuf,
    },
    /// Nothing says whom to trust.
    #[error("nothing says which root to trust")]
    NoRoot,
    /// Ctrl-C.
    #[error("stopped")]
    Stopped,
    /// Something is wrong, and was listed.
    #[error("{problems} problems found")]
    Problems {
        /// How many.
        problems: usize,
    },
    /// No device manifest has that name.
    #[error("{text:?} is neither a device of this directory nor a file ending in .toml nor a directory")]
    NoManifest {
        /// What was given.
        text: String,
    },
    /// A manifest names a guide that is not there.
    #[error("the manifest of {codename} names the guide {id}, and there is none; there are {known}")]
    NoGuide {
        /// Which device.
        codename: Codename,
        /// What it names.
        id: String,
        /// Those that there are.
        known: String,
    },
}

impl CliError {
    /// What to do about it, if that can be said in general.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoHome { .. } => "make one with `relevo init DIR`, or name yours with --dir or RELEVO_DIR".to_owned(),
            Self::NotEmpty { .. } => "give a directory that is empty or not there yet".to_owned(),
            Self::Busy { .. } | Self::BeingMade { .. } => "wait until it is done, or stop it, and try again".to_owned(),
            Self::NoPassphrase => {
                "give --passphrase-file FILE, set RELEVO_PASSPHRASE, or run this on a terminal to be asked".to_owned()
            }
            Self::ShortPassphrase { .. } => "five random words are easy to remember and hard to guess".to_owned(),
            Self::Key { .. } => "is it the passphrase that was given to `relevo init`?".to_owned(),
            Self::NotAtHand { role, .. } if ["snapshot", "timestamp", "log"].contains(&role.as_str()) => {
                "do this where the repository's online keys are".to_owned()
            }
            Self::NotAtHand { role, .. } if role.starts_with("d-") => {
                "put it into keys/ with its .pub, name a program that has it in relevo.toml, or let its owners sign: `relevo \
                 publish --ceremony FILE` for packages, `relevo ceremony start FILE` with the same change for all else"
                    .to_owned()
            }
            Self::NotAtHand { .. } => {
                "put it into keys/ with its .pub, name a program that has it in relevo.toml, or let its owners sign: `relevo \
                 ceremony start FILE` with the same change"
                    .to_owned()
            }
            Self::NeedsCeremony { command, .. } => format!("let the others sign it: {command}"),
            Self::NotConfirmed => "type yes, or give --yes once you have looked at `relevo ceremony show`".to_owned(),
            Self::NothingToSign => "`relevo ceremony status FILE` says whose signatures are missing".to_owned(),
            Self::Unfinished { .. } => {
                "send the file on; `relevo ceremony status` says who is missing, and takes several signed copies".to_owned()
            }
            Self::PackageSignatures { .. } => {
                "let the other maintainers sign it: `relevo ota sign FILE --key KEY --out FILE`".to_owned()
            }
            Self::KeyExists { .. } => "choose another name; a key file is never written over".to_owned(),
            Self::NoDevice { codename, .. } => {
                format!("add it with `relevo device add {codename} --manifest FILE`")
            }
            Self::DeviceExists { codename } => {
                format!("edit manifests/{codename}.toml and check it with `relevo device check {codename}`")
            }
            Self::NoBuilds { codename } => format!("import one with `relevo import DIR --device {codename}`"),
            Self::NoChannel { codename, .. } => format!("add it to `channels` in manifests/{codename}.toml"),
            Self::BuildDiffers { .. } => "give the new build an id of its own, with --build ID".to_owned(),
            Self::UnknownFact { option, .. } => format!("give {option}"),
            Self::ImageDiffers { .. } => {
                "the disk or a program changed it; import the build again from its origin".to_owned()
            }
            Self::Kind { .. } => "give --kind ab or --kind native".to_owned(),
            Self::OutName { .. } => "A/B updates end in .zip or .bin, native packages in .rvp".to_owned(),
            Self::NoSigner => {
                "give --key and --cert, or --unsigned to sign it later with `relevo ota sign`".to_owned()
            }
            Self::NoCertificate { .. } => "give --cert with the certificate that the ROM has in otacerts.zip; a new one comes \
                 from `openssl req -new -x509 -sha256 -key KEY -days 10000 -out CERT`"
                .to_owned(),
            Self::AbPrivateKey {
                source:
                    relevo_format::payload::PrivateKeyError::OldEncryption
                    | relevo_format::payload::PrivateKeyError::Encryption,
                ..
            } => "write it anew with `openssl pkcs8 -topk8 -v2 aes-256-cbc -in KEY -out NEW`".to_owned(),
            Self::OtherSignature { .. } => {
                "remove it and sign the file with .sha256 beside it as it is now: `openssl pkeyutl -sign -inkey KEY -in FILE \
                 -pkeyopt digest:sha256`"
                    .to_owned()
            }
            Self::NoMinor => "give --minor: 5 for Android 9, 6 for 10 and 11, 7 for 12, 8 for 13 and 14, 9 for 15 and later"
                .to_owned(),
            Self::NoFact { option } => format!("give {option}"),
            Self::GoesBack { .. } => "give --downgrade if that is meant; it erases the phone's data".to_owned(),
            Self::WouldDelete { .. } => "give a build with all of them, or --partial to keep what the phone has".to_owned(),
            Self::NoBuildSource { .. } => "is it whole? compare its length with that of the original".to_owned(),
            Self::BlockOta { .. } => {
                "give a directory with its images as NAME.img: unpack NAME.new.dat.br with brotli and sdat2img"
                    .to_owned()
            }
            Self::UnknownMinor { codename, .. } => {
                format!("give `[payload] minor_versions` in manifests/{codename}.toml, or import with --sdk")
            }
            Self::OtaKeyExists { .. } => "phones know the old key: put the file aside only if none of them need it".to_owned(),
            Self::NotFull { .. } => "give the full OTA of that build".to_owned(),
            Self::NoAbPartitions { .. } => "unpack its IMAGES, and give that directory".to_owned(),
            Self::SameLog { .. } => "put it and its .pub aside; a new one is made".to_owned(),
            Self::NoRoot => "give --root FILE with the first root, as phones are built with".to_owned(),
            Self::NoSource { .. } => "give --source DIR with the images that the phone has now".to_owned(),
            Self::SameDirectory { .. } => "give --out a directory of its own".to_owned(),
            Self::Read { source, .. } | Self::Write { source, .. } => return io_hint(source),
            _ => return None,
        })
    }
}

/// What to do about an error of the system.
pub(crate) fn io_hint(error: &io::Error) -> Option<String> {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            Some("run it as the user whom the directory belongs to, or change its permissions".to_owned())
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("make room on that disk; nothing half-written was left under a final name".to_owned())
        }
        io::ErrorKind::ReadOnlyFilesystem => Some("the disk is mounted read-only".to_owned()),
        _ => None,
    }
}

/// What to do about an error of the repository.
/// What to do when an origin does not take something.
pub(crate) fn push_hint(error: &PushError) -> Option<String> {
    Some(match error {
        PushError::Refused { code, .. } if code == "unknown-key" => {
            "send keys/origin.pub to whoever runs the origin; they add it with `relevo-server account add NAME --key \
             origin.pub --device CODENAME`"
                .to_owned()
        }
        PushError::Refused { code, .. } if code == "not-yours" => {
            "whoever runs the origin lets an account publish more devices by `relevo-server account`".to_owned()
        }
        PushError::Refused { code, .. } if code == "clock" => "set this computer's clock".to_owned(),
        PushError::Unreachable { .. } => "run it again when the network is back: it goes on where it was".to_owned(),
        PushError::Version { .. } => "run it again".to_owned(),
        _ => return None,
    })
}

pub(crate) fn repository_hint(error: &relevo_repo::RepoError) -> Option<String> {
    use relevo_repo::RepoError;

    Some(match error {
        RepoError::Locked { .. } => "wait until it is done, and try again".to_owned(),
        RepoError::NotARepository { .. } => "restore repo/ from your backup or a mirror: both are whole".to_owned(),
        RepoError::NoSuchDevice(codename) => format!("add it with `relevo device add {codename}`"),
        RepoError::NoSuchRole { .. } => {
            "`relevo role list` has all: root, targets, snapshot, timestamp, v-VENDOR, d-CODENAME, d-CODENAME-nightly"
                .to_owned()
        }
        RepoError::Ceremony(error) => return ceremony_hint(error),
        RepoError::NotPlaced { .. } => "finish it where the packages lie that `publish --ceremony` proposed".to_owned(),
        RepoError::Read { source, .. } | RepoError::Write { source, .. } => return io_hint(source),
        _ => return None,
    })
}

/// What to do about a proposal that is of no use.
pub(crate) fn ceremony_hint(error: &relevo_meta::ceremony::CeremonyError) -> Option<String> {
    use relevo_meta::ceremony::CeremonyError;

    Some(match error {
        CeremonyError::Stale { .. } | CeremonyError::Expired { .. } => {
            "whoever started it starts it again: `relevo ceremony start`".to_owned()
        }
        CeremonyError::Behind { .. } => "bring your copy of the repository up to date, and look again".to_owned(),
        CeremonyError::OtherBase { .. } | CeremonyError::OtherRepository { .. } => {
            "compare the SHA-256 of 1.root.json with the others, over another way than the file came".to_owned()
        }
        CeremonyError::Stranger { .. } | CeremonyError::BadSignature { .. } => {
            "somebody changed the file on the way; ask for it again, from whoever started it".to_owned()
        }
        CeremonyError::Shape { .. } => "ask whoever started it, over another way than the file came".to_owned(),
        _ => return None,
    })
}
