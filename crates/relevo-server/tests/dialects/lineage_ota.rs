//! LineageOTA's own paths: CyanogenMod's updater, and scripts that ask for deltas.
//!
//! # Source
//! `julianxhokaxhiu/LineageOTA` (25630e0), `src/CmOta.php`.

use serde_json::{Value, json};

use crate::{
    fixture::{self, HOST, add, file, made, server, zip},
    net::Network,
    support::{Response, TestServer},
};

fn post(server: &TestServer, path: &str, body: &str) -> Response {
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    server.raw(format!("{head}{body}").as_bytes())
}

fn ask(server: &TestServer, channels: &[&str], source: &str) -> Vec<Value> {
    let params = json!({"device": "ginkgo", "channels": channels, "source_incremental": source});
    let response = post(server, "/api", &json!({"method": "get_all_builds", "params": params}).to_string());
    assert_eq!((response.status, response.header("content-type")), (200, "application/json"));
    let answer = response.json();
    assert_eq!((&answer["id"], &answer["error"]), (&Value::Null, &Value::Null));
    answer["result"].as_array().unwrap().clone()
}

fn names(builds: &[Value]) -> Vec<&str> {
    builds.iter().map(|build| build["filename"].as_str().unwrap()).collect()
}

#[test]
fn cyanogenmods_updater_gets_the_delta_from_its_build_first() {
    let server = server(&fixture::repo());

    let builds = ask(&server, &["unofficial"], "eng.102");

    assert_eq!(names(&builds)[..2], [file(Some(102), 103), file(None, 103)]);
    let delta = &builds[0];
    assert_eq!((&delta["incremental"], &delta["api_level"]), (&json!("eng.103"), &json!(35)));
    assert_eq!((&delta["timestamp"], &delta["channel"]), (&json!(made(103)), &json!("stable")));
    let bytes = Network::of(HOST, server.address).follow(delta["url"].as_str().unwrap(), &[]).unwrap().body;
    assert_eq!(bytes, zip(Some(102), 103));
}

#[test]
fn channels_that_are_asked_for_are_listed_and_no_others() {
    let mut repo = fixture::repo();
    add(&mut repo, "nightly", None, 120, |custom| custom["ab"]["release_type"] = "NIGHTLY".into());
    repo.publish();
    let server = server(&repo);

    assert_eq!(names(&ask(&server, &["nightly", "nightly", "snapshot"], "")), [file(None, 120)]);
    assert_eq!(ask(&server, &["stable", "nightly"], "").len(), 4);
    assert_eq!(names(&ask(&server, &[], ""))[0], file(None, 103));
}

#[test]
fn a_delta_is_found_by_its_two_builds() {
    let server = server(&fixture::repo());
    let delta = |source: &str, target: &str| {
        let question = json!({"source_incremental": source, "target_incremental": target});
        post(&server, "/api/v1/build/get_delta", &question.to_string()).json()
    };

    let found = delta("eng.101", "eng.103");

    assert_eq!((&found["filename"], &found["incremental"]), (&json!(file(Some(101), 103)), &json!("eng.103")));
    assert_eq!((&found["date_created_unix"], &found["api_level"]), (&json!(made(103)), &json!(35)));
    let bytes = Network::of(HOST, server.address).follow(found["download_url"].as_str().unwrap(), &[]).unwrap().body;
    assert_eq!(bytes, zip(Some(101), 103));
    for (source, target) in [("eng.103", "eng.101"), ("eng.99", "eng.103"), ("eng.101", "")] {
        assert_eq!(delta(source, target), json!({"errors": {"message": "Unable to find delta"}}), "{source} {target}");
    }
}

#[test]
fn a_question_that_is_none_is_refused_cheaply() {
    let server = server(&fixture::repo());

    for body in ["", "{", "[]", "null", r#"{"params":{"device":7}}"#] {
        assert_eq!(post(&server, "/api", body).status, 400, "{body}");
    }
    assert_eq!(post(&server, "/api", &" ".repeat(5_000)).status, 413);
    assert_eq!(post(&server, "/api/v1/build/get_delta", "{}").status, 400);
    assert_eq!(post(&server, "/api/v1/ginkgo", "{}").status, 405);
    let get = server.get("/api");
    assert_eq!((get.status, get.header("allow")), (405, "POST"));
}

#[test]
fn the_short_forms_of_version_1_are_there() {
    let server = server(&fixture::repo());

    let all = server.get("/api/v1/ginkgo").json();
    let typed = server.get("/api/v1/ginkgo/unofficial").json();

    assert_eq!(all, typed);
    assert_eq!(all["response"].as_array().unwrap().len(), 3);
}
