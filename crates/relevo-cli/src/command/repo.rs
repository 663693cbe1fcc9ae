//! `relevo repo`: the repository's files.

use std::fmt::Write;

use serde_json::json;

use crate::{
    home::{Home, human},
    repository,
    session::{Answer, Session},
};

pub(crate) fn gc(session: &Session<'_>, keep: u64) -> anyhow::Result<Answer> {
    let home = Home::open(&session.dir)?;
    let report = repository::open(&home)?.gc(keep)?;
    let mut text = String::new();
    for path in &report.removed {
        let _ = writeln!(text, "removed {}", path.display());
    }
    let _ = writeln!(text, "{} files freed {}, {} stay", report.removed.len(), human(report.freed.get()), report.kept);
    let answer = json!({ "removed": report.removed, "freed_bytes": report.freed, "kept": report.kept });
    Ok(Answer::new(&answer).text(text))
}

pub(crate) fn check(session: &Session<'_>) -> anyhow::Result<Answer> {
    let home = Home::open(&session.dir)?;
    let report = repository::open(&home)?.check(session.now)?;
    let mut text = String::new();
    for problem in &report.problems {
        let _ = writeln!(text, "{problem}");
    }
    let bytes = human(report.bytes.get());
    let _ = writeln!(text, "{} files checked, {bytes}; {} no longer needed", report.checked, report.unused);
    let problems: Vec<_> = report
        .problems
        .iter()
        .map(|problem| json!({ "path": problem.path, "message": problem.fault.to_string() }))
        .collect();
    let answer = json!({
        "checked": report.checked,
        "bytes": report.bytes,
        "unused": report.unused,
        "problems": problems,
    });
    let answer = Answer::new(&answer).text(text);
    if report.is_clean() { Ok(answer) } else { Err(answer.failed(report.problems.len())) }
}
