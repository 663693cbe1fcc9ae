//! The binary: arguments, exit codes, JSON, and a kill in the middle.

use std::{
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
};

use relevo_updater::boot::Slot;
use serde_json::Value;

use crate::support::{Phone, Recipe, Repo, Server, config_text, made};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_relevo-updater")).args(arguments).output().unwrap()
}

struct Device {
    phone: Phone,
    config: PathBuf,
}

impl Device {
    fn new(repo: &Repo, server: &Server) -> Self {
        let phone = Phone::new(repo, &[server.url()]);
        let config = phone.path("updater.toml");
        std::fs::write(&config, config_text(&[server.url()], "")).unwrap();
        Self { phone, config }
    }

    fn command(&self, command: &str) -> Command {
        let mut process = Command::new(env!("CARGO_BIN_EXE_relevo-updater"));
        process.args(["--json", "--config", self.config.to_str().unwrap(), command]);
        process
    }

    fn json(&self, command: &str) -> Value {
        let output = self.command(command).output().unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

#[test]
fn wrong_usage_exits_with_2_and_names_what_is_wrong() {
    for (arguments, expected) in [
        (&["chekc"][..], "unknown command \"chekc\""),
        (&[], "a command is missing"),
        (&["check", "now"], "\"now\" is one word too many"),
        (&["--confg", "x", "check"], "--confg"),
        (&["factory"], "--build"),
        (&["--slot", "c", "factory"], "--slot is \"c\"; it must be a or b"),
        (&["--slot", "a", "check"], "belong to factory"),
    ] {
        let output = run(arguments);
        let error = String::from_utf8(output.stderr).unwrap();

        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}

#[test]
fn help_names_every_command() {
    let output = run(&["--help"]);

    let help = String::from_utf8(output.stdout).unwrap();
    for command in ["check", "download", "install", "status", "confirm", "revert", "daemon", "factory", "pretend-boot"]
    {
        assert!(help.contains(&format!("  {command}")), "{command}");
    }
    assert!(output.status.success());
}

#[test]
fn a_failure_exits_with_1_and_its_causes() {
    let output = run(&["--config", "/nonexistent/updater.toml", "--json", "check"]);

    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(answer["error"], "there is no /nonexistent/updater.toml");
}

#[test]
fn a_pretend_phone_goes_through_a_whole_update() {
    let mut repo = Repo::lasting().with(&Recipe::delta("100", "101")).with(&Recipe::full("101"));
    let server = Server::start(repo.publish());
    let device = Device::new(&repo, &server);
    std::fs::remove_dir_all(device.phone.path("boot")).unwrap();
    std::fs::remove_file(device.phone.path("slots/a/build.json")).unwrap();
    let time = made("100").to_string();
    let prepared = device.command("factory").args(["--build", "100", "--timestamp", &time]).output().unwrap();
    assert!(prepared.status.success(), "{prepared:?}");
    let again = device.command("factory").args(["--build", "100", "--timestamp", &time]).output().unwrap();
    assert_eq!(again.status.code(), Some(1), "a phone is prepared once");

    assert_eq!(device.json("pretend-boot")["slot"], "a");
    let found = device.json("check");
    assert_eq!((&found["answer"], &found["offer"]["to"]), (&"update".into(), &"101".into()));
    let downloaded = device.json("download");
    assert_eq!(downloaded["received_bytes"], downloaded["offer"]["length"]);
    assert_eq!(device.json("status")["phase"], "staged");
    assert_eq!(device.json("install")["phase"], "pending_reboot");
    assert_eq!(device.json("pretend-boot")["slot"], "b");
    assert_eq!(device.json("status")["phase"], "trial");
    assert_eq!(device.json("confirm")["phase"], "committed");
    let status = device.json("status");
    assert_eq!((&status["build"], &status["slot"], &status["confirmed"]), (&"101".into(), &"b".into(), &true.into()));
    assert_eq!(device.json("check")["answer"], "up_to_date");
    assert!(device.phone.holds(Slot::B, "101"));
}

#[test]
fn killed_at_any_part_of_the_download_it_goes_on() {
    let mut repo = Repo::lasting().with(&Recipe::full("101"));
    let server = Server::start(repo.publish());
    let mut device = Device::new(&repo, &server);
    let child: Arc<Mutex<Option<Child>>> = Arc::default();
    for round in 0..6 {
        let killed = child.clone();
        let start = server.sent();
        server.hook(move |sent| {
            if sent >= start + 20_000 + 50_000 * round
                && let Some(child) = killed.lock().unwrap().as_mut()
            {
                child.kill().unwrap();
            }
        });
        let spawned = device.command("download").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        *child.lock().unwrap() = Some(spawned);
        let status = loop {
            if let Some(status) = child.lock().unwrap().as_mut().unwrap().try_wait().unwrap() {
                break status;
            }
            std::thread::yield_now();
        };
        *child.lock().unwrap() = None;
        let phase = device.json("status")["phase"].clone();
        assert!(phase == "downloading" || phase == "idle" || status.success(), "{phase}");
    }
    server.hook(|_| {});

    device.json("install");

    assert!(device.phone.holds(Slot::B, "101"));
    assert_eq!(device.phone.reboot(), Slot::B);
}

#[test]
fn the_daemon_ends_on_a_signal() {
    let mut repo = Repo::lasting().with(&Recipe::full("101"));
    let server = Server::start(repo.publish());
    let device = Device::new(&repo, &server);
    let mut child = device.command("daemon").stdout(Stdio::piped()).spawn().unwrap();
    let wait = relevo_updater::stop::Stop::new();
    let mut waited = 0;
    while device.json("status")["phase"] != "staged" {
        assert!(!wait.wait(std::time::Duration::from_millis(20)));
        waited += 1;
        assert!(waited < 1000 && child.try_wait().unwrap().is_none());
    }

    let killed = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();

    assert!(killed.success());
    assert!(child.wait().unwrap().success());
}
