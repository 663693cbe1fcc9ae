//! What the program says of itself.

use std::fs;

use crate::support::{Machine, binary};

/// Every command with its subcommands.
const COMMANDS: [&str; 49] = [
    "",
    "init",
    "device",
    "device add",
    "device list",
    "device show",
    "device guide",
    "device check",
    "import",
    "delta",
    "publish",
    "withdraw",
    "refresh",
    "key",
    "key new",
    "key list",
    "key show",
    "key passwd",
    "role",
    "role list",
    "role show",
    "role add",
    "role remove",
    "role threshold",
    "role expire",
    "ceremony",
    "ceremony start",
    "ceremony show",
    "ceremony sign",
    "ceremony status",
    "ceremony finish",
    "repo",
    "repo check",
    "repo retire",
    "repo gc",
    "log",
    "log init",
    "log show",
    "log verify",
    "log watch",
    "ota",
    "ota inspect",
    "ota diff",
    "ota apply",
    "ota extract",
    "ota verify",
    "ota sign",
    "completions",
    "man",
];

#[test]
fn every_command_explains_itself() {
    let dir = tempfile::tempdir().unwrap();
    let mut text = String::new();
    for command in COMMANDS {
        let run = binary(dir.path(), command.split_whitespace().chain(["--help"])).expect(0);
        let lines: Vec<_> = run.out.lines().map(str::trim_end).collect();
        text += &format!("$ relevo {command} --help\n{}\n\n", lines.join("\n"));
    }

    insta::assert_snapshot!(text);
}

#[test]
fn no_command_and_an_unknown_one_are_wrong_usage() {
    let machine = Machine::new();

    assert!(machine.run([]).expect(2).err.contains("Usage: relevo"));
    let run = machine.run(["pubish"]).expect(2);
    assert!(run.err.contains("a similar subcommand exists: 'publish'"), "{}", run.err);
    assert_eq!(run.out, "");
    machine.binary(["ota", "diff", "a"]).expect(2);
}

#[test]
fn wrong_usage_is_json_too_if_asked() {
    let machine = Machine::new();

    let run = machine.run(["--json", "device", "show", "../x"]).expect(2);

    insta::assert_snapshot!(run.out);
    assert_eq!(run.err, "");
}

#[test]
fn the_version_is_the_packages() {
    let run = Machine::new().run(["--version"]).expect(0);

    assert_eq!(run.out, format!("relevo {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_are_made_for_every_shell() {
    let machine = Machine::new();

    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = machine.binary(["completions", shell]).expect(0).out;
        for word in ["relevo", "publish", "passphrase-file", "ginkgo"] {
            assert_eq!(script.contains(word), word != "ginkgo", "{shell}: {word}");
        }
        assert_eq!(machine.run(["completions", shell, "--json"]).expect(0).json()["script"], script);
    }
}

#[test]
fn man_pages_are_made_for_every_command() {
    let machine = Machine::new();

    let run = machine.run(["man", "--out", &machine.text("man"), "--json"]).expect(0);

    assert_eq!(run.json()["files"].as_array().unwrap().len(), COMMANDS.len());
    for command in COMMANDS {
        let name = format!("man/relevo {command}.1").replace(' ', "-").replace("-.1", ".1");
        let page = fs::read_to_string(machine.path(&name)).expect(&name);
        assert!(page.contains(".TH ") && page.contains("passphrase") == NEED_PASSPHRASE.contains(&command), "{name}");
    }
    assert!(machine.run(["man"]).expect(0).out.contains("relevo"));
}

/// Commands whose pages speak of passphrases: those that open keys.
const NEED_PASSPHRASE: [&str; 20] = [
    "init",
    "log init",
    "device add",
    "import",
    "delta",
    "publish",
    "withdraw",
    "repo retire",
    "refresh",
    "key",
    "key new",
    "key passwd",
    "role add",
    "role remove",
    "role threshold",
    "role expire",
    "ceremony sign",
    "ceremony finish",
    "ota diff",
    "ota sign",
];
