//! Keys: made, shown, re-encrypted, and held by programs.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use serde_json::json;

use crate::support::{Machine, PASSPHRASE};

/// The sample signer.
const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../signing/openssl-signer.sh");

#[test]
fn a_key_is_made_with_a_public_half_that_people_can_read() {
    let machine = Machine::with_device();

    let made = machine.at_desk(["key", "new", "alice", "--json"]).expect(0).json();

    let text = fs::read_to_string(machine.path("desk/keys/alice.pub")).unwrap();
    assert!(text.starts_with("Relevo public key \"alice\"\nId: "), "{text}");
    assert!(text.contains(made["id"].as_str().unwrap()) && text.contains("-----BEGIN PUBLIC KEY-----"), "{text}");
    let mode = fs::metadata(machine.path("desk/keys/alice.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = machine.at_desk(["key", "new", "alice"]).expect(1);
    assert!(again.err.contains("alice.key is there already"), "{}", again.err);
    for name in ["../x", ".x", "", "d-ginkgo.ota", "a b"] {
        let refused = machine.at_desk(["key", "new", name]).expect(1);
        assert!(refused.err.contains("is no name for a key"), "{}", refused.err);
    }
    let shown = machine.at_desk(["key", "show", "alice", "--json"]).expect(0).json();
    assert_eq!((&shown["id"], &shown["roles"]), (&made["id"], &json!([])));
    let shown = machine.at_desk(["key", "show", &machine.text("desk/keys/d-ginkgo.pub")]).expect(0);
    assert!(shown.out.contains("signs for d-ginkgo\n"), "{}", shown.out);
}

#[test]
fn a_signer_needs_no_directory_of_a_maintainer() {
    let machine = Machine::new();
    let out = machine.text("usb");

    machine.run(["key", "new", "bob", "--out", &out, "--key-cost", "low"]).expect(0);

    machine.run(["key", "show", &machine.text("usb/bob.pub"), "--dir", &machine.text("nowhere")]).expect(0);
    let missing = machine.run(["key", "new", "bob", "--dir", &machine.text("nowhere")]).expect(1);
    assert!(missing.err.contains("no maintainer's directory"), "{}", missing.err);
}

#[test]
fn the_keys_at_hand_are_listed_with_their_roles() {
    let machine = Machine::with_device();
    machine.at_desk(["key", "new", "spare"]).expect(0);

    let list = machine.at_desk(["key", "list", "--json"]).expect(0).json();

    let keys = list["keys"].as_array().unwrap();
    let roles = |name: &str| keys.iter().find(|key| key["name"] == name).unwrap()["roles"].clone();
    assert_eq!(keys.len(), 8);
    assert_eq!(roles("log"), json!(["log"]));
    assert_eq!((roles("root"), roles("d-ginkgo"), roles("spare")), (json!(["root"]), json!(["d-ginkgo"]), json!([])));
}

#[test]
fn a_passphrase_is_changed_everywhere_or_nowhere() {
    let machine = Machine::with_device();
    let new = machine.text("new");
    fs::write(&new, "another long passphrase\n").unwrap();
    let before = machine.tree("desk");

    let desk = machine.text("desk");
    let args = ["key", "passwd", "--new-passphrase-file", &new, "--dir", &desk];
    machine.run_with(Some("not the passphrase"), args).expect(1);
    assert_eq!(machine.tree("desk"), before);
    fs::write(machine.path("short"), "short\n").unwrap();
    machine.at_desk(["key", "passwd", "--new-passphrase-file", &machine.text("short")]).expect(1);
    machine.run_with(Some(PASSPHRASE), args).expect(0);

    machine.at_desk(["refresh"]).expect(1);
    machine.run_with(Some("another long passphrase"), ["refresh", "--dir", &desk]).expect(0);
    // A run that was cut off after some of the files is repeated.
    let file = machine.text("desk/keys/root.key");
    let back = machine.text("back");
    fs::write(&back, format!("{PASSPHRASE}\n")).unwrap();
    let one = ["key", "passwd", &file, "--new-passphrase-file", &back, "--dir", &desk];
    machine.run_with(Some("another long passphrase"), one).expect(0);
    let all = ["key", "passwd", "--new-passphrase-file", &back, "--dir", &desk];
    machine.run_with(Some("another long passphrase"), all).expect(0);
    machine.at_desk(["refresh"]).expect(0);
}

/// A machine on which a program has the key `token`, which signs for the timestamp too.
fn with_token(script: &str) -> Machine {
    let machine = Machine::with_device();
    let text = fs::read_to_string(machine.path("desk/relevo.toml")).unwrap();
    let pem = Command::new("openssl")
        .args(["genpkey", "-algorithm", "ed25519", "-out", &machine.text("token.pem")])
        .status()
        .expect("openssl is a part of every test machine");
    assert!(pem.success());
    let public = machine.text("token.pub");
    let made =
        Command::new("openssl").args(["pkey", "-in", &machine.text("token.pem"), "-pubout", "-out", &public]).status();
    assert!(made.unwrap().success());
    let program = machine.path("signer.sh");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let signer = format!(
        "{text}\n[[signer]]\nname = \"token\"\npublic_key = \"{public}\"\ncommand = [\"../signer.sh\", \"{}\"]\n\
         timeout_seconds = 20\n",
        machine.text("token.pem")
    );
    fs::write(machine.path("desk/relevo.toml"), signer).unwrap();
    machine
}

/// Leaves the timestamp to the program.
fn timestamp_by_token(machine: &Machine) {
    machine.at_desk(["role", "add", "timestamp", "token"]).expect(0);
    machine.at_desk(["role", "remove", "timestamp", "timestamp"]).expect(0);
}

#[test]
fn a_program_signs_with_a_key_that_relevo_does_not_have() {
    let machine = with_token(&fs::read_to_string(SAMPLE).unwrap());

    timestamp_by_token(&machine);
    let list = machine.at_desk(["key", "list"]).expect(0).out;
    let role = machine.at_desk(["role", "show", "timestamp"]).expect(0).out;
    machine.at_desk(["import", &machine.build(1), "--device", "ginkgo"]).expect(0);
    machine.at_desk(["publish"]).expect(0);
    machine.at_desk(["repo", "check"]).expect(0);

    assert!(list.lines().any(|line| line.contains("token") && line.ends_with("signs for timestamp")), "{list}");
    assert!(role.contains("token, at hand"), "{role}");
}

#[test]
fn the_request_says_what_is_signed() {
    let record = "#!/bin/sh\ncat >\"$(dirname \"$0\")/request.json\"\nexit 1\n";
    let machine = with_token(record);
    machine.at_desk(["role", "add", "timestamp", "token", "--threshold", "2"]).expect(1);

    let request: serde_json::Value = serde_json::from_slice(&fs::read(machine.path("request.json")).unwrap()).unwrap();

    assert_eq!(request["relevo_signer"], 1);
    assert_eq!(request["subject"], "timestamp");
    assert_eq!(request["what"], "version 3 of the role timestamp, valid until 2026-01-08T00:00:00Z");
    let id = machine.at_desk(["key", "show", "token", "--json"]).expect(0).json()["id"].clone();
    assert_eq!(request["key_id"], id);
    let keys: Vec<&String> = request.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["key_id", "message", "public_key", "relevo_signer", "subject", "what"]);
}

#[test]
fn a_program_that_misbehaves_is_named_and_nothing_is_published() {
    let cases = [
        ("exit 3", "ended with exit status: 3"),
        ("cat >/dev/null; echo nonsense", "answered something else than"),
        ("cat >/dev/null; echo '{}'", "answered a signature that is not this key's"),
        (
            "cat >/dev/null; printf '{\"signature\":\"%s\"}' \"$(head -c 64 /dev/zero | base64 -w0)\"",
            "answered a signature that is not this key's",
        ),
        ("cat >/dev/null; echo '{\"error\":\"no touch within a minute\"}'", "refused: no touch within a minute"),
        ("cat >/dev/null; head -c 100000 /dev/zero", "answered more than 16384 bytes"),
        ("kill $$", "ended with signal"),
    ];
    for (line, message) in cases {
        let machine = with_token(&format!("#!/bin/sh\n{line}\n"));
        let before = machine.tree("desk/repo");

        let run = machine.at_desk(["role", "add", "timestamp", "token", "--threshold", "2"]).expect(1);

        assert!(run.err.contains(message), "{line}: {}", run.err);
        assert_eq!(machine.tree("desk/repo"), before, "{line}");
    }
}

#[test]
fn a_program_that_hangs_is_stopped() {
    let machine = with_token("#!/bin/sh\nexec tail -f /dev/null\n");
    let settings = fs::read_to_string(machine.path("desk/relevo.toml")).unwrap();
    fs::write(machine.path("desk/relevo.toml"), settings.replace("timeout_seconds = 20", "timeout_seconds = 1"))
        .unwrap();

    let run = machine.at_desk(["role", "add", "timestamp", "token", "--threshold", "2"]).expect(1);

    assert!(run.err.contains("did not answer within 1 s and was stopped"), "{}", run.err);
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let machine = with_token("");
    fs::remove_file(machine.path("signer.sh")).unwrap();

    let run = machine.at_desk(["role", "add", "timestamp", "token", "--threshold", "2"]).expect(1);

    assert!(run.err.contains("could not start ../signer.sh"), "{}", run.err);
}
