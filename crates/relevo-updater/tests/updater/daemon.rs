//! The poll loop.

use relevo_updater::stop::Stop;

use crate::support::{Fault, NoSync, Phone, Recipe, Repo, Server};

#[test]
fn polls_downloads_and_installs_as_configured_and_ends_when_asked() {
    let mut repo = Repo::new().with(&Recipe::delta("100", "101"));
    let server = Server::start(repo.publish());
    for (more, phase) in [
        ("[daemon]\ninstall = true\n", "pending_reboot"),
        ("[daemon]\ndownload = true\n", "staged"),
        ("[daemon]\ndownload = false\n", "idle"),
    ] {
        let phone = Phone::with(&repo, &[server.url()], "100", more);
        let stop = Stop::new();
        let asked = stop.clone();
        std::thread::scope(|scope| {
            let daemon = scope.spawn(|| phone.run_until(&NoSync, stop.clone(), |updater| updater.daemon()));
            // Ends once the phase is reached and the answer of the poll is kept.
            let mut waited = 0;
            while phone.status().phase != phase || phone.status().last_check.is_none() {
                assert!(!Stop::new().wait(std::time::Duration::from_millis(20)));
                waited += 1;
                assert!(waited < 1000 && !daemon.is_finished(), "never reached {phase}");
            }
            asked.set();
            daemon.join().unwrap().unwrap();
        });
    }
}

#[test]
fn a_stop_interrupts_a_read_that_stands_still() {
    let mut repo = Repo::new().with(&Recipe::full("101"));
    let server = Server::start(repo.publish());
    server.fault("-full.rvp", Fault::Stall(10_000), 1);
    let phone = Phone::new(&repo, &[server.url()]);
    let stop = Stop::new();
    let asked = stop.clone();

    std::thread::scope(|scope| {
        let daemon = scope.spawn(|| phone.run_until(&NoSync, stop.clone(), |updater| updater.daemon()));
        let mut waited = 0;
        while server.asked("-full.rvp").is_empty() {
            assert!(!Stop::new().wait(std::time::Duration::from_millis(20)));
            waited += 1;
            assert!(waited < 1000 && !daemon.is_finished());
        }
        asked.set();
        daemon.join().unwrap().unwrap();
    });

    assert_eq!(phone.status().phase, "downloading");
    phone.go(|updater| updater.download()).unwrap();
}
