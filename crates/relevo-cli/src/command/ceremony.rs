//! `relevo ceremony`: changes that people far from each other sign, as a file that travels.

use std::{
    collections::BTreeMap,
    fmt::Write,
    path::{Path, PathBuf},
};

use anyhow::Context;
use jiff::Timestamp;
use relevo_meta::{
    Target,
    ceremony::{Ground, MAX_LEN, Proposal, Review, Reviewed},
    expiry::Expiry,
    keys::Signer,
};
use relevo_repo::Repository;
use serde::Serialize;

use crate::{
    args::{CeremonyFinish, CeremonyLook, CeremonySign, CeremonyStart, GroundFrom},
    changes::Changes,
    command::role::warn_of_packages,
    durable::{PUBLIC, read_bytes, write_file},
    error::CliError,
    home::{Home, or_none},
    keyring::{Keyring, known_names},
    keys, packages, repository,
    session::{Answer, Session},
};

/// Longest root that is read, in bytes.
const MAX_ROOT: u64 = 64 << 10;

pub(crate) fn start(session: &Session<'_>, args: &CeremonyStart) -> anyhow::Result<Answer> {
    let home = Home::open(&session.dir)?;
    let changes = changes(args)?;
    let repository = repository::open(&home)?;
    let mut publication = repository.publication()?;
    changes.make(&home, &mut publication)?;
    if publication.needed_signers().is_empty() {
        return Err(CliError::NoChange.into());
    }
    let proposal = publication.propose(session.now)?;
    started(session, &home, &args.file, &proposal)
}

/// Writes a new proposal, and says what it is.
pub(crate) fn started(session: &Session<'_>, home: &Home, file: &Path, proposal: &Proposal) -> anyhow::Result<Answer> {
    let look = Look::own(home)?;
    let review = proposal.review(&look.ground, &look.names, session.now)?;
    write(file, proposal)?;
    let text = format!("wrote {}\n{}", file.display(), in_words(&review, &look));
    let notes = format!(
        "next: send {0} to those who are missing; each runs `relevo ceremony sign {0}`. When enough have signed:\n\
         relevo ceremony finish {0}\n",
        file.display()
    );
    Ok(Answer::new(&Said { file: Some(file.to_owned()), review: &review }).text(text).notes(notes))
}

fn changes(args: &CeremonyStart) -> Result<Changes, CliError> {
    let wrong = |(role, value): &(String, String), expected| CliError::RoleValue {
        role: role.clone(),
        value: value.clone(),
        expected,
    };
    let threshold = |pair: &(String, String)| match pair.1.parse::<u16>() {
        Ok(number) if number > 0 => Ok((pair.0.clone(), usize::from(number))),
        _ => Err(wrong(pair, "a number of at least 1")),
    };
    let expire = |pair: &(String, String)| match pair.1.parse::<Timestamp>() {
        Ok(date) => Ok((pair.0.clone(), date)),
        Err(_) => Err(wrong(pair, "a time such as 2027-01-31T00:00:00Z")),
    };
    Ok(Changes {
        add: args.add.clone(),
        remove: args.remove.clone(),
        threshold: args.threshold.iter().map(threshold).collect::<Result<_, _>>()?,
        expire: args.expire.iter().map(expire).collect::<Result<_, _>>()?,
        renew: args.renew.clone(),
        retire: args.retire.clone(),
        vendor: args.vendor.clone(),
    })
}

pub(crate) fn show(session: &Session<'_>, args: &CeremonyLook) -> anyhow::Result<Answer> {
    let look = Look::from(session, &args.ground)?;
    let review = read_all(&args.files)?.review(&look.ground, &look.names, session.now)?;
    let text = format!("{}{}", look.says(), in_words(&review, &look));
    Ok(Answer::new(&Said { file: None, review: &review }).text(text).notes(look.notes))
}

pub(crate) fn status(session: &Session<'_>, args: &CeremonyLook) -> anyhow::Result<Answer> {
    let look = Look::from(session, &args.ground)?;
    let review = read_all(&args.files)?.review(&look.ground, &look.names, session.now)?;
    let mut text = format!("proposal {}\n", review.id);
    for document in &review.documents {
        let _ = writeln!(text, "{}, version {}", document.role, document.version);
        text += &signatures(document, &look);
    }
    text += if review.is_complete() { "enough have signed: it can be finished\n" } else { "" };
    Ok(Answer::new(&Said { file: None, review: &review }).text(text))
}

pub(crate) fn sign(session: &Session<'_>, args: &CeremonySign) -> anyhow::Result<Answer> {
    let look = Look::from(session, &args.ground)?;
    let mut proposal = read_all(std::slice::from_ref(&args.file))?;
    let review = proposal.review(&look.ground, &look.names, session.now)?;
    let home = Home::open(&session.dir).ok();
    let ring = home.as_ref().map(|home| Keyring::open(session, home, &args.passphrase)).transpose()?;

    // What will be signed, and by whom, is known before anything is opened.
    let mut work: Vec<(String, With<'_>)> = Vec::new();
    if args.key.is_empty() {
        let ring = ring.as_ref().ok_or_else(|| CliError::NoHome { dir: session.dir.clone() })?;
        for held in ring.held() {
            let roles = review.waits_for(&held.public.key_id()).into_iter().filter(|role| held.is_for(role));
            work.extend(roles.map(|role| (role.to_owned(), With::Held(held))));
        }
    }
    for key in &args.key {
        let held = ring.as_ref().and_then(|ring| ring.held().iter().find(|held| held.name == *key));
        let roles: Vec<String> = review.documents.iter().map(|document| document.role.clone()).collect();
        work.extend(roles.into_iter().map(|role| (role, held.map_or_else(|| With::File(key.into()), With::Held))));
    }
    let shown = format!("{}{}", look.says(), in_words(&review, &look));
    if work.is_empty() {
        return Err(CliError::NothingToSign.into());
    }
    if !args.yes {
        let prompt = format!("{shown}\nSign this? Type yes (it is not shown): ");
        match (session.ask)(&prompt) {
            Ok(answer) if answer.trim() == "yes" => {}
            _ => return Err(CliError::NotConfirmed.into()),
        }
    }

    let mut files: BTreeMap<PathBuf, relevo_meta::keys::PrivateKey> = BTreeMap::new();
    let mut signed: Vec<String> = Vec::new();
    for (role, with) in &work {
        let new = match with {
            With::Held(held) => {
                if !review
                    .documents
                    .iter()
                    .any(|document| document.role == *role && document.waits_for(&held.public.key_id()))
                {
                    continue;
                }
                let ring = ring.as_ref().expect("held keys are of a keyring");
                proposal.sign(role, &ring.hand(held, role)?)?
            }
            With::File(path) => {
                if !files.contains_key(path) {
                    let passphrase = keys::passphrase(session, &args.passphrase)?;
                    files.insert(path.clone(), keys::open_key(path, &passphrase)?);
                }
                let key = &files[path];
                if !review.documents.iter().any(|document| document.role == *role && document.waits_for(&key.key_id()))
                {
                    continue;
                }
                proposal.sign(role, key)?
            }
        };
        if new && !signed.contains(role) {
            signed.push(role.clone());
        }
    }
    if signed.is_empty() {
        return Err(CliError::NothingToSign.into());
    }
    let review = proposal.review(&look.ground, &look.names, session.now)?;
    let file = args.out.as_ref().unwrap_or(&args.file);
    write(file, &proposal)?;
    let mut text = if args.yes { shown } else { String::new() };
    let _ = writeln!(text, "signed {} in {}", signed.join(", "), file.display());
    text += &missing_text(&review);
    Ok(Answer::new(&Said { file: Some(file.clone()), review: &review }).text(text))
}

/// With which key.
#[derive(Debug, Clone)]
enum With<'a> {
    Held(&'a crate::keyring::Held),
    File(PathBuf),
}

pub(crate) fn finish(session: &Session<'_>, args: &CeremonyFinish) -> anyhow::Result<Answer> {
    let home = Home::open(&session.dir)?;
    let proposal = read_all(&args.files)?;
    let look = Look::own(&home)?;
    let review = proposal.review(&look.ground, &look.names, session.now)?;
    if !review.is_complete() {
        return Err(CliError::Unfinished { missing: missing(&review).join(", ") }.into());
    }
    let repository = repository::open(&home)?;
    let mut publication = repository.publication()?;
    publication.adopt(&proposal, session.now)?;
    let placed = packages::place_missing(&home, &mut publication)?;
    let ring = Keyring::open(session, &home, &args.passphrase)?;
    let signers = ring.signers(&publication.needs()?)?;
    let published = publication.commit(&signers, session.now)?;
    published.expiries.iter().filter_map(Expiry::warning).for_each(|text| session.warn(text));
    for document in &review.documents {
        warn_of_packages(session, &home, &document.role)?;
    }
    packages::remove_published(&placed)?;
    let text = format!("published {}: timestamp {}\n", published.roles.join(", "), published.timestamp_version);
    let answer = serde_json::json!({ "signed": published.roles, "timestamp_version": published.timestamp_version });
    Ok(Answer::new(&answer).text(text))
}

/// What a proposal is looked at against.
struct Look {
    ground: Ground,
    /// Names of keys by id.
    names: BTreeMap<String, String>,
    /// What the repository is, for people.
    place: String,
    notes: String,
}

impl Look {
    fn from(session: &Session<'_>, from: &GroundFrom) -> anyhow::Result<Self> {
        let home = Home::open(&session.dir);
        let Some(dir) = &from.repository else { return Self::own(&home?) };
        let failed = || format!("could not verify the copy {}", dir.display());
        let repository = Repository::open(dir)?;
        let ground = repository.ground().with_context(failed)?;
        let mut notes = String::new();
        match &from.root {
            Some(path) => {
                let missing = || CliError::Read { path: path.clone(), source: std::io::ErrorKind::NotFound.into() };
                let root = read_bytes(path, MAX_ROOT)?.ok_or_else(missing)?;
                if Target::of(&root).sha256 != ground.repository() {
                    return Err(CliError::OtherFirstRoot { dir: dir.clone(), root: path.clone() }.into());
                }
            }
            None => {
                notes = format!(
                    "compare the SHA-256 of the first root with what you noted when you first got it, or give --root:\n{}\n",
                    ground.repository()
                );
            }
        }
        let names = home.as_ref().map_or_else(|_| Ok(BTreeMap::new()), known_names)?;
        Ok(Self { ground, names, place: place(&repository)?, notes })
    }

    fn own(home: &Home) -> anyhow::Result<Self> {
        let repository = repository::open(home)?;
        let ground = repository.ground()?;
        Ok(Self { ground, names: known_names(home)?, place: place(&repository)?, notes: String::new() })
    }

    fn says(&self) -> String {
        format!("against {}\n", self.place)
    }
}

fn place(repository: &Repository) -> anyhow::Result<String> {
    let state = repository.current()?;
    let (root, timestamp, until) = (state.root_version(), state.timestamp_version(), state.timestamp_expires());
    Ok(format!("{} (root {root}, timestamp {timestamp}, fresh until {until})", repository.directory().display()))
}

/// What `--json` says of a proposal.
#[derive(Debug, Serialize)]
struct Said<'a> {
    /// The file that was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    #[serde(flatten)]
    review: &'a Review,
}

fn in_words(review: &Review, look: &Look) -> String {
    let mut text = format!("proposal {}\n", review.id);
    for document in &review.documents {
        let from = document.from.map_or("new".to_owned(), |from| format!("version {from}"));
        let _ = writeln!(text, "\n{}: {from} becomes version {}", document.role, document.version);
        for change in &document.changes {
            let _ = writeln!(text, "  - {change}");
        }
        for warning in &document.warnings {
            let _ = writeln!(text, "  ! {warning}");
        }
        text += &signatures(document, look);
    }
    text
}

fn signatures(document: &Reviewed, look: &Look) -> String {
    let mut text = String::new();
    for group in &document.groups {
        let (signed, threshold) = (group.signed.len(), group.threshold);
        let state = if group.missing() == 0 { "enough".to_owned() } else { format!("{} missing", group.missing()) };
        let _ = writeln!(text, "  keys of {}: {signed} of {threshold} signatures, {state}", group.name);
        for id in &group.keys {
            let name = look.names.get(id).map_or("not known here", String::as_str);
            let has = if group.signed.contains(id) { "has signed" } else { "has not signed" };
            let _ = writeln!(text, "    {id} {name}: {has}");
        }
    }
    text
}

fn missing(review: &Review) -> Vec<String> {
    let groups = review.documents.iter().flat_map(|document| &document.groups);
    let missing = groups.filter(|group| group.missing() > 0);
    missing.map(|group| format!("{} of {}", group.missing(), group.name)).collect()
}

fn missing_text(review: &Review) -> String {
    match review.is_complete() {
        true => "enough have signed: it can be finished\n".to_owned(),
        false => format!("still missing: {}\n", or_none(&missing(review))),
    }
}

/// Reads copies of one proposal and puts their signatures together.
fn read_all(files: &[PathBuf]) -> anyhow::Result<Proposal> {
    let mut all: Option<Proposal> = None;
    for path in files {
        let failed = || format!("could not use {}", path.display());
        let missing = || CliError::Read { path: path.clone(), source: std::io::ErrorKind::NotFound.into() };
        let bytes = read_bytes(path, MAX_LEN as u64)?.ok_or_else(missing)?;
        let proposal = Proposal::parse(&bytes).with_context(failed)?;
        match &mut all {
            None => all = Some(proposal),
            Some(all) => all.merge(&proposal).with_context(failed)?,
        }
    }
    Ok(all.expect("clap asks for one"))
}

fn write(path: &Path, proposal: &Proposal) -> Result<(), CliError> {
    write_file(path, proposal.to_text().as_bytes(), PUBLIC)
}
