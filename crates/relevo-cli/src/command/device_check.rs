//! `relevo device check`.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use relevo_types::{Codename, DeviceManifest, Examined, MAX_MANIFEST, ManifestProblem, clashes, guide::SharedGuide};
use serde::Serialize;

use crate::{
    durable::read_text,
    error::CliError,
    home::Home,
    session::{Answer, Session},
};

/// Most manifests that are read of one directory.
const MAX_FILES: usize = 10_000;

/// One manifest that was checked.
#[derive(Debug, Serialize)]
struct Checked {
    file: String,
    /// None if the file could not be read that far, or is a guide.
    device: Option<Codename>,
    problems: Vec<Problem>,
}

#[derive(Debug, Serialize)]
struct Problem {
    /// Line in the file; none if it is about the whole of it.
    line: Option<usize>,
    message: String,
}

impl From<&ManifestProblem> for Problem {
    fn from(problem: &ManifestProblem) -> Self {
        Self { line: Some(problem.line()).filter(|&line| line > 0), message: problem.to_string() }
    }
}

pub(crate) fn check(session: &Session<'_>, manifests: &[String]) -> anyhow::Result<Answer> {
    let mut checked = Vec::new();
    let mut examined = Vec::new();
    for file in files(session, manifests)? {
        let (answer, manifest) = check_one(session, &file)?;
        examined.extend(manifest.map(|manifest| (checked.len(), answer.file.clone(), manifest)));
        checked.push(answer);
    }
    // Files that are checked together lie together, or will.
    let together: Vec<_> = examined.iter().map(|(_, file, examined)| (file.as_str(), examined)).collect();
    for clash in clashes(&together) {
        let (index, ..) = &examined[clash.index];
        checked[*index].problems.push(Problem::from(&clash.problem));
    }

    let problems: usize = checked.iter().map(|checked| checked.problems.len()).sum();
    let mut text = String::new();
    for checked in &checked {
        if checked.problems.is_empty() {
            let _ = writeln!(text, "{}: fine", checked.file);
        }
        for problem in &checked.problems {
            let _ = writeln!(text, "{}: {}", checked.file, problem.message);
        }
    }
    if checked.is_empty() {
        text.push_str("no devices\n");
    }
    let answer = Answer::new(&serde_json::json!({ "manifests": checked })).text(text);
    if problems > 0 { Err(answer.failed(problems)) } else { Ok(answer) }
}

/// A file to check.
struct Candidate {
    path: PathBuf,
    /// Whether it lies in a directory of manifests, where its name counts.
    in_directory: bool,
}

/// The files that are meant, each once.
fn files(session: &Session<'_>, manifests: &[String]) -> anyhow::Result<Vec<Candidate>> {
    let mut found = Vec::new();
    if manifests.is_empty() {
        let home = Home::open(&session.dir)?;
        let paths = home.devices()?.into_iter().map(|codename| home.manifest_path(&codename));
        found.extend(paths.map(|path| Candidate { path, in_directory: true }));
    }
    for text in manifests {
        let path = Path::new(text);
        if text.ends_with(".toml") {
            found.push(Candidate { path: path.into(), in_directory: false });
        } else if let Some(path) = own(session, text) {
            found.push(Candidate { path, in_directory: true });
        } else if path.is_dir() {
            found.extend(manifests_in(path)?.into_iter().map(|path| Candidate { path, in_directory: true }));
        } else {
            Home::open(&session.dir)?;
            return Err(CliError::NoManifest { text: text.clone() }.into());
        }
    }
    let mut seen = BTreeSet::new();
    found.retain(|candidate| seen.insert(candidate.path.clone()));
    Ok(found)
}

/// The manifest of a device of the maintainer's directory; none if it is not there.
fn own(session: &Session<'_>, text: &str) -> Option<PathBuf> {
    let codename = Codename::parse(text).ok()?;
    let path = Home::open(&session.dir).ok()?.manifest_path(&codename);
    path.exists().then_some(path)
}

/// The manifests of a directory, in the order of their names, and those of its `guides`.
fn manifests_in(dir: &Path) -> Result<Vec<PathBuf>, CliError> {
    let failed = |source| CliError::Read { path: dir.into(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)?.take(MAX_FILES) {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    let guides = dir.join("guides");
    if guides.is_dir() {
        paths.append(&mut manifests_in(&guides)?);
    }
    Ok(paths)
}

fn check_one(session: &Session<'_>, candidate: &Candidate) -> Result<(Checked, Option<Examined>), CliError> {
    let path = &candidate.path;
    let missing = || CliError::Read { path: path.clone(), source: std::io::ErrorKind::NotFound.into() };
    let text = read_text(path, MAX_MANIFEST.get())?.ok_or_else(missing)?;
    let file = path.display().to_string();
    if path.parent().is_some_and(|dir| dir.ends_with("guides")) {
        return Ok((Checked { problems: guide_problems(path, &text), file, device: None }, None));
    }
    let examined = match DeviceManifest::examine(&text) {
        Ok(examined) => examined,
        Err(error) => {
            let problems = error.problems.iter().map(Problem::from).collect();
            return Ok((Checked { file, device: None, problems }, None));
        }
    };
    let mut problems: Vec<_> = examined.contradictions.iter().map(Problem::from).collect();
    let codename = &examined.manifest.codename;
    if path.file_stem().is_none_or(|stem| stem != codename.as_str()) {
        let message = format!("it is the manifest of {codename}; name it {codename}.toml");
        match candidate.in_directory {
            true => problems.insert(0, Problem { line: None, message }),
            false => session.warn(format!("{file}: {message}")),
        }
    }
    Ok((Checked { file, device: Some(codename.clone()), problems }, Some(examined)))
}

fn guide_problems(path: &Path, text: &str) -> Vec<Problem> {
    match SharedGuide::parse(text) {
        Ok(guide) if path.file_stem().is_none_or(|stem| stem != guide.id.as_str()) => {
            let message = format!("it is the guide {0}; name it {0}.toml", guide.id);
            vec![Problem { line: None, message }]
        }
        Ok(_) => Vec::new(),
        Err(error) => error.problems.iter().map(Problem::from).collect(),
    }
}
