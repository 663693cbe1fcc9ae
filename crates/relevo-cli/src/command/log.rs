//! `relevo log`: the transparency log.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use relevo_meta::log::{Checkpoint, Entry, LogError, LogKey, MAX_PROOF, Proof, Relation};
use relevo_repo::{LOG_SIGNER, Seen, Watch, WatchError};
use serde_json::{Value, json};

use crate::{
    args::{LogInit, LogShow, LogVerify, LogWatch},
    command::ceremony,
    error::CliError,
    home::Home,
    keyring::Keyring,
    log_source::Source,
    repository,
    session::{Answer, Session},
};

/// Names the log in the root, and has all that is there logged.
pub(crate) fn init(session: &Session<'_>, args: &LogInit) -> anyhow::Result<Answer> {
    let home = Home::open(&session.dir)?;
    let repository = repository::open(&home)?;
    let ring = Keyring::open(session, &home, &args.passphrase)?;
    ring.check_passphrase()?;
    let key = home.key_or_new(session, LOG_SIGNER, &ring.passphrase()?)?;
    let ring = ring.again()?;
    let known = repository.current()?.log_key().cloned();
    // Another key of a log that is there goes on with it, and so keeps its name.
    let log = match &known {
        Some(known) if !args.new => LogKey::new(known.name(), *key.public().verifying_key())?,
        _ => LogKey::self_named(*key.public().verifying_key()),
    };
    if args.new && known.is_some_and(|known| known.name() == log.name()) {
        return Err(CliError::SameLog { path: home.keys().join(format!("{LOG_SIGNER}.key")) }.into());
    }
    let mut publication = repository.publication()?;
    publication.set_log(&log)?;
    if let Some(file) = &args.ceremony {
        let proposal = publication.propose(session.now)?;
        return ceremony::started(session, &home, file, &proposal);
    }
    let signers = ring.signers(&publication.needs()?)?;
    publication.commit(&signers, session.now).context("could not name the log in the root")?;

    let checkpoint = repository.log().checkpoint(&log)?.ok_or(LogError::NoLog)?;
    let answer = json!({"log": log.to_string(), "size": checkpoint.size, "root": checkpoint.root});
    let text = format!("{} has {} entries\n", log.name(), checkpoint.size);
    let notes = "next: copy keys/ to your backup again; phones learn of the log with the new root\n";
    Ok(Answer::new(&answer).text(text).notes(notes))
}

/// Lists what a log says.
pub(crate) fn show(session: &Session<'_>, args: &LogShow) -> anyhow::Result<Answer> {
    let source = source(session, args.source.as_deref())?;
    let (key, checkpoint) = opened(session, &source, args.root.as_deref())?;
    let first = if args.role.is_some() { 0 } else { checkpoint.size.saturating_sub(args.last) };
    let mut entries = source.entries(&checkpoint, first)?;
    entries.retain(|(_, entry)| args.role.as_ref().is_none_or(|role| entry.role() == role));
    let skipped = entries.len().saturating_sub(usize::try_from(args.last).unwrap_or(usize::MAX));
    let entries = &entries[skipped..];
    let mut text = format!("{}: {} entries, root hash {}\n", key.name(), checkpoint.size, checkpoint.root);
    for (index, entry) in entries {
        let _ = writeln!(text, "{index:>8}  {}", line(entry));
    }
    let answer = json!({
        "log": key.to_string(),
        "size": checkpoint.size,
        "root": checkpoint.root,
        "entries": entries.iter().map(described).collect::<Vec<_>>(),
    });
    Ok(Answer::new(&answer).text(text))
}

/// Checks that a log continues an earlier state, and that files are in it.
pub(crate) fn verify(session: &Session<'_>, args: &LogVerify) -> anyhow::Result<Answer> {
    let source = source(session, args.source.as_deref())?;
    let (key, checkpoint) = opened(session, &source, args.root.as_deref())?;
    let mut answer = json!({"log": key.to_string(), "size": checkpoint.size, "root": checkpoint.root, "files": []});
    let mut text = format!("{}: {} entries, root hash {}\n", key.name(), checkpoint.size, checkpoint.root);
    if let Some(since) = &args.since {
        let (kept, other) = earlier(since, &key)?;
        let newer = other.as_ref().filter(|_| kept.size > checkpoint.size).unwrap_or(&source);
        let relation = match Source::compare(&kept, &checkpoint, newer) {
            Err(error) => match error.downcast::<LogError>() {
                Ok(LogError::Fork { kept, offered }) => return Err(forked(&source.name, since, &kept, &offered)),
                Ok(other) => return Err(other.into()),
                Err(other) => return Err(other),
            },
            Ok(relation) => relation,
        };
        answer["since"] = json!({"size": kept.size, "root": kept.root, "relation": word(relation)});
        let _ = writeln!(text, "{}", sentence(relation, &kept, &checkpoint, since));
    }
    let mut problems = 0;
    for file in &args.file {
        let verdict = included(&source, &key, &checkpoint, file);
        let (shown, verdict) = (file.display().to_string(), verdict.map_err(|error| format!("{error:#}")));
        match &verdict {
            Ok(index) => text += &format!("{shown}: entry {index}\n"),
            Err(reason) => {
                problems += 1;
                text += &format!("{shown}: {reason}\n");
            }
        }
        let (index, reason) = (verdict.as_ref().ok(), verdict.as_ref().err());
        answer["files"].as_array_mut().expect("it was made above").push(json!({
            "file": shown, "included": index.is_some(), "index": index, "message": reason,
        }));
    }
    let answer = Answer::new(&answer).text(text);
    if problems == 0 { Ok(answer) } else { Err(answer.failed(problems)) }
}

/// Holds what sources show against what was seen before.
pub(crate) fn watch(session: &Session<'_>, args: &LogWatch) -> anyhow::Result<Answer> {
    let watch = Watch::new(&args.state);
    let (mut text, mut problems, mut answers) = (String::new(), 0, Vec::new());
    let sources: Vec<Source> = args.sources.iter().map(|name| Source::new(name)).collect();
    for source in &sources {
        let name = &source.name;
        match watch_one(session, &watch, source, &sources, args.root.as_deref()) {
            Ok((seen, checkpoint, new)) => {
                let (state, words) = match seen {
                    Seen::First => ("first", "seen for the first time".to_owned()),
                    Seen::Same => ("same", "nothing new".to_owned()),
                    Seen::Ahead { from } => ("ahead", format!("{} new entries", checkpoint.size - from)),
                    Seen::Behind { by } => ("behind", format!("{by} entries behind what was seen elsewhere")),
                };
                let _ = writeln!(text, "{name}: {} entries, {words}", checkpoint.size);
                for (_, entry) in &new {
                    let _ = writeln!(text, "  {}", line(entry));
                }
                let new: Vec<Value> = new.iter().map(described).collect();
                answers.push(json!({"source": name, "state": state, "size": checkpoint.size, "new": new}));
            }
            Err(error) => {
                problems += 1;
                let fork = error.downcast_ref::<WatchError<crate::log_source::SourceError>>();
                let evidence = match fork {
                    Some(WatchError::Fork { evidence, .. }) => Some(evidence.display().to_string()),
                    _ => None,
                };
                let state = if evidence.is_some() { "fork" } else { "error" };
                let _ = writeln!(text, "{name}: {}{error:#}", if evidence.is_some() { "ALARM: " } else { "" });
                let message = format!("{error:#}");
                answers.push(json!({"source": name, "state": state, "message": message, "evidence": evidence}));
            }
        }
    }
    let answer = Answer::new(&json!({ "sources": answers })).text(text);
    if problems == 0 { Ok(answer) } else { Err(answer.failed(problems)) }
}

type Watched = (Seen, Checkpoint, Vec<(u64, Entry)>);

fn watch_one(
    session: &Session<'_>,
    watch: &Watch,
    source: &Source,
    sources: &[Source],
    root: Option<&Path>,
) -> anyhow::Result<Watched> {
    let key = source.log_key(&trusted_root(session, source, root)?)?;
    let note = source.note()?;
    let offered = Checkpoint::open(&note, &key)?;
    let kept = watch.last()?.filter(|kept| kept.origin == offered.origin);
    // The entries first: a checkpoint is only remembered once all that is new under it could be told.
    let new = match &kept {
        Some(kept) if kept.size < offered.size => source.entries(&offered, kept.size)?,
        _ => Vec::new(),
    };
    // One that is behind has not the tiles of what the others showed. Whoever sends them, they fit or they do not.
    let (seen, checkpoint) = watch.see(&key, &note, |name, limit| {
        let name = format!("log/{name}");
        let mut answer = source.read(&name, limit);
        for other in sources {
            if matches!(answer, Ok(Some(_))) {
                break;
            }
            answer = other.read(&name, limit).or(answer);
        }
        answer
    })?;
    Ok((seen, checkpoint, new))
}

/// The source that was named, or the repository of the maintainer's directory.
fn source(session: &Session<'_>, name: Option<&str>) -> anyhow::Result<Source> {
    match name {
        Some(name) => Ok(Source::new(name)),
        None => Ok(Source::new(&Home::open(&session.dir)?.repo().display().to_string())),
    }
}

/// Where trust starts from: the root that was named, that of the maintainer's directory, or the source's own.
fn trusted_root(session: &Session<'_>, source: &Source, named: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(root) = named {
        return Ok(root.into());
    }
    let own = source.own_root().or_else(|| {
        let home = Home::open(&session.dir).ok()?;
        Some(home.repo().join("metadata/1.root.json"))
    });
    Ok(own.ok_or(CliError::NoRoot)?)
}

fn opened(session: &Session<'_>, source: &Source, root: Option<&Path>) -> anyhow::Result<(LogKey, Checkpoint)> {
    let key = source.log_key(&trusted_root(session, source, root)?)?;
    let checkpoint = Checkpoint::open(&source.note()?, &key)?;
    Ok((key, checkpoint))
}

/// An earlier state: a file with a checkpoint, or another source and what it shows.
fn earlier(name: &str, key: &LogKey) -> anyhow::Result<(Checkpoint, Option<Source>)> {
    if Path::new(name).is_file() {
        let note = fs::read(name).map_err(|source| CliError::Read { path: name.into(), source })?;
        return Ok((Checkpoint::open(&note, key).with_context(|| format!("could not read {name}"))?, None));
    }
    let source = Source::new(name);
    let kept = Checkpoint::open(&source.note()?, key).with_context(|| format!("could not read the log of {name}"))?;
    Ok((kept, Some(source)))
}

/// The place of a role's file in the log, by the proof that the source has for it.
fn included(source: &Source, key: &LogKey, checkpoint: &Checkpoint, file: &Path) -> anyhow::Result<u64> {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let parts =
        name.split_once('.').and_then(|(version, role)| Some((version.parse().ok()?, role.strip_suffix(".json")?)));
    let (version, role): (u64, &str) = parts.context("it is not named VERSION.ROLE.json")?;
    let bytes = fs::read(file).map_err(|source| CliError::Read { path: file.into(), source })?;
    let entry = Entry::new(role, version, &bytes)?;
    let proof = source.read(&format!("log/proof/{version}.{role}.tlog-proof"), MAX_PROOF.get())?;
    let proof = Proof::parse(&proof.with_context(|| format!("{} has no proof that it is in the log", source.name))?)?;
    let proved = proof.verify(&entry, key)?;
    // It could end in a checkpoint of another history than the one that everybody is shown.
    Source::compare(&proved, checkpoint, source)?;
    Ok(proof.index())
}

fn line(entry: &Entry) -> String {
    format!("version {} of {}, SHA-256 {}", entry.version(), entry.role(), entry.sha256())
}

fn described((index, entry): &(u64, Entry)) -> Value {
    json!({"index": index, "role": entry.role(), "version": entry.version(), "sha256": entry.sha256()})
}

fn word(relation: Relation) -> &'static str {
    match relation {
        Relation::Same => "same",
        Relation::Ahead => "ahead",
        Relation::Behind => "behind",
    }
}

fn sentence(relation: Relation, kept: &Checkpoint, checkpoint: &Checkpoint, since: &str) -> String {
    match relation {
        Relation::Same => format!("it is the same as {since}"),
        Relation::Ahead => format!("it continues the {} entries of {since}", kept.size),
        Relation::Behind => format!("it is {} entries behind {since}, which continues it", kept.size - checkpoint.size),
    }
}

/// The alarm, with both checkpoints: together they show anybody that the log signed two histories.
fn forked(name: &str, since: &str, kept: &Checkpoint, offered: &Checkpoint) -> anyhow::Error {
    let note = |checkpoint: &Checkpoint| String::from_utf8_lossy(checkpoint.note()).into_owned();
    let fork = LogError::Fork { kept: Box::new(kept.clone()), offered: Box::new(offered.clone()) };
    let text = format!("{fork}\n\nfrom {since}:\n\n{}\nfrom {name}:\n\n{}", note(kept), note(offered));
    let json = json!({"fork": {"since": note(kept), "source": note(offered)}, "message": fork.to_string()});
    Answer::new(&json).text(text).failed(1)
}
