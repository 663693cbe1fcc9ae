//! What a phone says of itself: nothing.

use relevo_tests::{images, phone::Phone, program::Server, proxy::Recorder};

use crate::world::World;

/// Polls and downloads on a phone with this environment; returns what it sent, in order.
fn requests(phone: &Phone, wire: &Recorder, environment: &[(&str, &str)]) -> Vec<Vec<u8>> {
    wire.take();
    let mut sent = Vec::new();
    for words in [["check"], ["download"]] {
        let mut command = phone.command(&words);
        command.envs(environment.iter().copied());
        relevo_tests::program::run(command).ok();
    }
    sent.extend(wire.take());
    sent
}

#[test]
fn two_phones_in_two_places_send_the_same_bytes() {
    let world = World::published(images::builds());
    let server = Server::start(&world.maintainer.repository(), &world.path("server.db"));
    let wire = Recorder::start(server.address());
    let mirrors = [format!("http://{}/repo/", wire.address())];
    let here = [("LANG", "es_CU.UTF-8"), ("LC_ALL", "es_CU.UTF-8"), ("LANGUAGE", "es"), ("TZ", "America/Havana")];
    let there = [("LANG", "fa_IR.UTF-8"), ("LC_ALL", "fa_IR.UTF-8"), ("LANGUAGE", "fa"), ("TZ", "Asia/Tehran")];

    let first = requests(&world.phone("one", &mirrors), &wire, &here);
    let second = requests(&world.phone("another-phone-with-a-longer-name", &mirrors), &wire, &there);

    let text = |requests: &[Vec<u8>]| -> Vec<String> {
        let mut texts: Vec<String> = requests.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect();
        // Two connections run side by side: which of them is accepted first is chance.
        texts.sort();
        texts
    };
    assert!(!first.is_empty());
    assert_eq!(text(&first), text(&second));
    for request in text(&first) {
        for word in ["Havana", "es_CU", "Cookie", "If-Modified-Since", "Date:", "Accept-Language", "From:", "Referer"] {
            assert!(!request.to_ascii_lowercase().contains(&word.to_ascii_lowercase()), "{word} in {request}");
        }
    }
}
