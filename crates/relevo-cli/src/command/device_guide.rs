//! `relevo device guide`.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use relevo_types::{
    Codename, DeviceManifest, Guide, MAX_MANIFEST,
    guide::{self, StepKind, Value},
};
use serde::Serialize;

use crate::{
    durable::read_text,
    error::CliError,
    home::{Home, parse_manifest},
    session::{Answer, Session},
};

/// What `device guide --json` says.
#[derive(Debug, Serialize)]
struct Guided {
    device: Codename,
    /// Facts of the device for translations of the texts.
    values: BTreeMap<&'static str, Value>,
    unlock: Stage,
    install: Stage,
}

#[derive(Debug, Serialize)]
struct Stage {
    parts: Vec<Part>,
    /// A page with the steps.
    link: Option<String>,
}

#[derive(Debug, Serialize)]
struct Part {
    title: String,
    /// Id of the message of the title; none for steps of the manifest's own.
    message: Option<String>,
    steps: Vec<Step>,
}

#[derive(Debug, Serialize)]
struct Step {
    message: Option<String>,
    kind: StepKind,
    /// In English, with the device's facts in it.
    text: String,
    commands: Vec<String>,
    link: Option<String>,
}

pub(crate) fn guide(session: &Session<'_>, device: &str) -> anyhow::Result<Answer> {
    let manifest = manifest(session, device)?;
    let values = guide::values(&manifest);
    let guided = Guided {
        unlock: stage(&manifest, &manifest.unlock, &values)?,
        install: stage(&manifest, &manifest.install, &values)?,
        device: manifest.codename,
        values,
    };
    let mut text = String::new();
    for (name, stage) in [("Unlocking", &guided.unlock), ("Installation", &guided.install)] {
        stage.parts.iter().for_each(|part| write_part(&mut text, part));
        if let Some(link) = &stage.link {
            let _ = writeln!(text, "{name}, page: {link}\n");
        }
    }
    if text.is_empty() {
        let _ = writeln!(text, "the manifest of {} names no guides, no steps and no pages", guided.device);
    }
    Ok(Answer::new(&guided).text(text))
}

fn manifest(session: &Session<'_>, device: &str) -> anyhow::Result<DeviceManifest> {
    if device.ends_with(".toml") {
        let path = Path::new(device);
        let missing = || CliError::Read { path: path.into(), source: std::io::ErrorKind::NotFound.into() };
        let text = read_text(path, MAX_MANIFEST.get())?.ok_or_else(missing)?;
        return Ok(parse_manifest(path, &text, None)?);
    }
    let home = Home::open(&session.dir)?;
    let codename = Codename::parse(device).map_err(|_| CliError::NoManifest { text: device.to_owned() })?;
    Ok(home.manifest(&codename)?)
}

fn stage(manifest: &DeviceManifest, of: &Guide, values: &BTreeMap<&'static str, Value>) -> Result<Stage, CliError> {
    let mut parts = Vec::new();
    for id in &of.guides {
        let Some(guide) = guide::builtin(id) else {
            let known = guide::all().iter().map(|guide| guide.id.as_str()).collect::<Vec<_>>().join(", ");
            return Err(CliError::NoGuide { codename: manifest.codename.clone(), id: id.clone(), known });
        };
        let steps = guide.steps_for(manifest).map(|step| Step {
            message: Some(guide.message(Some(step))),
            kind: step.kind,
            text: step.english(values),
            commands: step.commands(values),
            link: step.link.clone(),
        });
        parts.push(Part { title: guide.title.clone(), message: Some(guide.message(None)), steps: steps.collect() });
    }
    if let Some(own) = of.steps.get("en") {
        let step = |text: &String| Step {
            message: None,
            kind: StepKind::Step,
            text: text.clone(),
            commands: Vec::new(),
            link: None,
        };
        parts.push(Part {
            title: format!("For {}", manifest.codename),
            message: None,
            steps: own.iter().map(step).collect(),
        });
    }
    Ok(Stage { parts, link: of.link.clone() })
}

fn write_part(text: &mut String, part: &Part) {
    let _ = writeln!(text, "{}\n", part.title);
    let mut number = 0;
    for step in &part.steps {
        let _ = match step.kind {
            StepKind::Warning => writeln!(text, "  WARNING: {}", step.text),
            StepKind::Note => writeln!(text, "  Note: {}", step.text),
            StepKind::Step => {
                number += 1;
                writeln!(text, "  {number}. {}", step.text)
            }
        };
        for line in step.link.iter().chain(&step.commands) {
            let _ = writeln!(text, "         {line}");
        }
    }
    text.push('\n');
}
