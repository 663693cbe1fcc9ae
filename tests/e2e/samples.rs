//! The samples in `deploy/` load.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use relevo_tests::{
    maintainer::files,
    program::{command, program, run},
};

fn deploy() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn installed(name: &str) -> Option<PathBuf> {
    ["/usr/bin", "/usr/sbin", "/bin", "/sbin"]
        .iter()
        .map(|directory| Path::new(directory).join(name))
        .find(|path| path.exists())
}

#[test]
fn every_sample_has_a_test() {
    const KNOWN: &[&str] = &["service", "timer", "conf", "toml", "sh", "Containerfile"];

    for path in files(&deploy()) {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(KNOWN.iter().any(|end| name.ends_with(end)), "{} is loaded by no test here", path.display());
    }
}

#[test]
fn the_servers_settings_are_read() {
    for path in files(&deploy()).into_iter().filter(|path| path.ends_with("server.toml")) {
        let mut serve = command("relevo-server");
        serve.args(["serve", "--print-config", "--config"]).arg(&path);

        let printed = run(serve).ok().stdout;

        let printed: toml::Table = printed.parse().unwrap();
        let sample: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
        for (key, value) in sample {
            assert_eq!(printed.get(&key), Some(&value), "{}: {key}", path.display());
        }
    }
}

#[test]
fn the_units_are_right() {
    let base = tempfile::tempdir().unwrap();
    for path in files(&deploy().join("systemd")) {
        let text = fs::read_to_string(&path).unwrap();
        check_unit(&path, &text);
        // systemd looks for the program, which is installed nowhere here.
        let text = text
            .replace("/usr/local/bin/relevo-server", program("relevo-server").to_str().unwrap())
            .replace("/usr/local/bin/relevo ", &format!("{} ", program("relevo").display()));
        fs::write(base.path().join(path.file_name().unwrap()), text).unwrap();
    }
    if let Some(analyze) = installed("systemd-analyze") {
        for path in files(base.path()) {
            let said = run({
                let mut command = Command::new(&analyze);
                command.arg("verify").arg("--man=no").arg(&path);
                command
            });

            let ours = path.file_name().unwrap().to_str().unwrap();
            let about_us: Vec<&str> = said.stderr.lines().filter(|line| line.contains(ours)).collect();
            assert!(about_us.is_empty(), "{about_us:?}");
        }
    }
}

/// Sections and keys, where systemd is not installed.
fn check_unit(path: &Path, text: &str) {
    let mut section = None;
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            assert!(["Unit", "Service", "Timer", "Install"].contains(&name), "{}: [{name}]", path.display());
            section = Some(name);
        } else {
            let key = line.split_once('=').unwrap_or_else(|| panic!("{}: {line}", path.display())).0;
            assert!(section.is_some() && key.chars().all(char::is_alphabetic), "{}: {line}", path.display());
        }
    }
    assert!(text.contains("[Unit]"), "{}", path.display());
}

#[test]
fn the_options_in_the_units_and_the_container_exist() {
    let unit = fs::read_to_string(deploy().join("systemd/relevo-refresh.service")).unwrap();
    let mut refresh = command("relevo");
    refresh.args(["refresh", "--help"]);
    let help = run(refresh).ok().stdout;
    let start = unit.lines().find(|line| line.starts_with("ExecStart=")).unwrap();
    for option in start.split(' ').filter(|word| word.starts_with("--")) {
        assert!(help.contains(option), "`relevo refresh` knows no {option}");
    }

    let container = fs::read_to_string(deploy().join("container/Containerfile")).unwrap();
    let copied =
        container.lines().filter_map(|line| line.strip_prefix("COPY ")).map(|line| line.split(' ').next().unwrap());
    for file in copied.filter(|file| !file.starts_with("target/")) {
        assert!(deploy().join("..").join(file).exists(), "the container copies {file}, which is not there");
    }
    assert!(container.lines().any(|line| line == "USER 8787"), "the container runs as root");
}

#[test]
fn the_nginx_samples_are_right() {
    let base = tempfile::tempdir().unwrap();
    for path in files(&deploy().join("nginx")) {
        let text = fs::read_to_string(&path).unwrap();
        check_nginx(&path, &text);
        let Some(nginx) = installed("nginx") else { continue };
        // Paths and ports of a real machine, moved into this test's directory.
        let cert = base.path().join("cert.pem");
        let key = base.path().join("key.pem");
        let Some(openssl) = installed("openssl") else { continue };
        run({
            let mut command = Command::new(openssl);
            command.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test", "-keyout"]);
            command.arg(&key).arg("-out").arg(&cert);
            command
        })
        .ok();
        let here = base.path().to_str().unwrap();
        let text = text
            .replace("/etc/ssl/relevo/fullchain.pem", cert.to_str().unwrap())
            .replace("/etc/ssl/relevo/privkey.pem", key.to_str().unwrap())
            .replace("/var/log/nginx", here)
            .replace("/srv/relevo-mirror", here);
        // Older versions say this in the line `listen`.
        let text = text.replace("    http2 on;\n", "");
        fs::write(base.path().join("sample.conf"), text).unwrap();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {here}/{kind};"))
            .join("\n");
        let main = format!(
            "pid {here}/nginx.pid;\nerror_log {here}/error.log;\nevents {{}}\nhttp {{\n{temporary}\ninclude {here}/sample.conf;\n}}\n"
        );
        fs::write(base.path().join("nginx.conf"), main).unwrap();

        let said = run({
            let mut command = Command::new(nginx);
            command
                .arg("-t")
                .arg("-e")
                .arg(base.path().join("error.log"))
                .arg("-c")
                .arg(base.path().join("nginx.conf"));
            command
        });

        assert!(said.status.success(), "{}: {}", path.display(), said.stderr);
    }
}

/// Blocks and statements, where nginx is not installed.
fn check_nginx(path: &Path, text: &str) {
    let mut depth = 0;
    let mut statement = String::new();
    for line in text.lines().map(|line| line.split('#').next().unwrap().trim()) {
        for c in line.chars() {
            match c {
                '{' => {
                    assert!(!statement.trim().is_empty(), "{}: a block without a name", path.display());
                    depth += 1;
                    statement.clear();
                }
                '}' => {
                    assert!(statement.trim().is_empty(), "{}: {statement:?} has no semicolon", path.display());
                    depth -= 1;
                }
                ';' => statement.clear(),
                _ => statement.push(c),
            }
        }
        statement.push(' ');
        assert!(depth >= 0, "{}: a block ends twice", path.display());
    }
    assert!(depth == 0 && statement.trim().is_empty(), "{}: unfinished", path.display());
}
