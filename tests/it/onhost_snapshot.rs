//! A snapshot that went bad costs a job the time of a boot, and nothing else. Real VMs: three boots.

use crate::service::{Service, text};
use std::time::{Duration, Instant};

#[test]
#[ignore = "three boots; make proof runs it"]
fn a_job_boots_when_the_snapshot_is_broken() {
    let mut service = Service::start("broken-snapshot");
    service.set(|settings| settings["on_host"]["snapshots"] = true.into());
    let job = |service: &Service| {
        let job = service.command(&["run", "--quiet", "--", "echo", "served"]).output().unwrap();
        assert_eq!(text(&job).0, "served\n", "{job:?}\n{}", service.log());
    };
    job(&service);
    let deadline = Instant::now() + Duration::from_secs(400);
    while !service.log().contains("made a snapshot of a machine") {
        assert!(Instant::now() < deadline, "no snapshot is made\n{}", service.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    let made = service.data.join("onhost/snapshots-of-machines");
    let made =
        std::fs::read_dir(made).unwrap().flatten().map(|entry| entry.path()).find(|path| path.join("state").is_file()).unwrap();
    let state = std::fs::read(made.join("state")).unwrap();
    std::fs::write(made.join("state"), &state[..state.len() / 2]).unwrap();

    job(&service);
    let log = service.log();
    assert_eq!(log.matches("going on from a snapshot; the next try boots").count(), 1, "{log}");
    assert_eq!(log.matches("restored=false").count(), 2, "the second try booted: {log}");
    assert_eq!(log.matches("made a snapshot of a machine").count(), 1, "{log}");

    // A new process knows nothing of it, and the file is whole again.
    std::fs::write(made.join("state"), &state).unwrap();
    assert!(service.stop(), "{}", service.log());
    service.start_again();
    job(&service);
    assert_eq!(service.log().matches("restored=true").count(), 1, "{}", service.log());
    service.assert_nothing_left();
    assert!(service.stop(), "{}", service.log());
}
