//! `relevo completions` and `relevo man`: made from the definitions of the command line.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::{
    args::{self, Completions, Man},
    durable::{PUBLIC, make_dir, write_file},
    session::Answer,
};

pub(crate) fn completions(args: &Completions) -> anyhow::Result<Answer> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut args::command(), "relevo", &mut script);
    let script = String::from_utf8(script)?;
    Ok(Answer::new(&json!({ "shell": args.shell.to_string(), "script": script })).text(script))
}

pub(crate) fn man(args: &Man) -> anyhow::Result<Answer> {
    let Some(dir) = &args.out else {
        let page = page(args::command())?;
        return Ok(Answer::new(&json!({ "page": page })).text(page));
    };
    make_dir(dir)?;
    let mut command = args::command().disable_help_subcommand(true);
    command.build();
    let mut files = Vec::new();
    write_pages(command, "relevo".to_owned(), dir, &mut files)?;
    let text = files.iter().map(|file| format!("{}\n", file.display())).collect::<String>();
    Ok(Answer::new(&json!({ "files": files })).text(text))
}

fn write_pages(command: clap::Command, name: String, dir: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        write_pages(inner.clone(), format!("{name}-{}", inner.get_name()), dir, files)?;
    }
    let path = dir.join(format!("{name}.1"));
    // clap_mangen wants the whole name in front of the options, and file names without spaces.
    let page = page(command.display_name(name))?;
    write_file(&path, page.as_bytes(), PUBLIC)?;
    files.push(path);
    Ok(())
}

fn page(command: clap::Command) -> anyhow::Result<String> {
    let mut page = Vec::new();
    // No date: the page must come out the same from the same source.
    clap_mangen::Man::new(command).date("").render(&mut page)?;
    Ok(String::from_utf8(page)?)
}
