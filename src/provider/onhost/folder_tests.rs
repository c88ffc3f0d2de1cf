//! Folders without machines in them: names, addresses, what a crash leaves.

use super::*;
use crate::domain::ids::LaunchId;
use crate::domain::tags::Origin;
use crate::domain::task::Executor;
use uuid::Uuid;

const OURS: InstallationId = InstallationId(Uuid::from_u128(1));
const PORTS: Ports = Ports { ssh: 22222, docker: 22376 };

fn tags(installation: InstallationId) -> Tags {
    Tags {
        installation,
        launch: LaunchId(Uuid::from_u128(2)),
        executor: Executor::Machine,
        resource_class: "medium".into(),
        origin: Origin::OnDemand,
        created_at: chrono::DateTime::UNIX_EPOCH,
    }
}

fn pool() -> Pool {
    Pool { first: Ipv4Addr::new(127, 99, 0, 1), count: 200 }
}

#[test]
fn names_come_from_tokens_and_lead_nowhere_else() {
    assert_eq!(provider_id("a-1").unwrap(), "onhost-a-1-0");
    for token in ["", "a/b", "..", "a b", &"x".repeat(65)] {
        assert!(provider_id(token).is_err(), "{token}");
    }
    assert!(is_provider_id(&provider_id(&"x".repeat(64)).unwrap()));
    for name in ["onhost-../x", "../onhost-a-0", ".new-onhost-a-0", "onhost-a.0", ""] {
        assert!(!is_provider_id(name), "{name}");
    }
}

#[test]
fn a_name_has_one_machine_and_a_machine_its_own_address() {
    let data = tempfile::tempdir().unwrap();
    let folders = Folders::open(data.path()).unwrap();
    let workers: Vec<_> = (0..16)
        .map(|worker| {
            let folders = folders.clone();
            std::thread::spawn(move || {
                match folders.ensure(&format!("onhost-{}-0", worker % 8), &tags(OURS), &pool(), PORTS).unwrap() {
                    Place::Machine(record) => (record.provider_id, record.ip),
                    Place::Spent(_) => panic!("none is spent"),
                }
            })
        })
        .collect();
    let made: HashSet<_> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
    assert_eq!(made.len(), 8, "{made:?}");
    assert_eq!(made.iter().map(|(_, ip)| ip).collect::<HashSet<_>>().len(), 8, "{made:?}");
}

#[test]
fn a_half_made_machine_is_pending_and_a_foreign_one_is_not_listed() {
    let data = tempfile::tempdir().unwrap();
    let folders = Folders::open(data.path()).unwrap();
    folders.ensure("onhost-a-0", &tags(OURS), &pool(), PORTS).unwrap();
    folders.ensure("onhost-b-0", &tags(InstallationId(Uuid::from_u128(9))), &pool(), PORTS).unwrap();
    let (machines, complete) = folders.list(OURS).unwrap();
    let seen: Vec<_> = machines.iter().map(|machine| (machine.provider_id.as_str(), machine.state, machine.address)).collect();
    assert_eq!(seen, [("onhost-a-0", MachineState::Pending, None)]);
    assert!(complete);
    std::fs::write(folders.machine("onhost-a-0").join(RECORD), "{").unwrap();
    assert_eq!(folders.list(OURS).unwrap(), (vec![], false), "what cannot be read proves nothing");
}

#[test]
fn the_lock_says_who_lives() {
    let data = tempfile::tempdir().unwrap();
    let folders = Folders::open(data.path()).unwrap();
    folders.ensure("onhost-a-0", &tags(OURS), &pool(), PORTS).unwrap();
    let folder = folders.machine("onhost-a-0");
    let state = || folders.find("onhost-a-0", OURS).unwrap().unwrap().state;
    let alive = File::create(folder.join(keeper::ALIVE)).unwrap();
    File::create(folder.join(keeper::STARTED)).unwrap();
    assert_eq!(state(), MachineState::Terminated);
    alive.lock().unwrap();
    assert_eq!(state(), MachineState::Running);
    drop(alive);
    assert_eq!(state(), MachineState::Terminated);
}

#[test]
fn what_was_removed_leaves_a_name_that_is_never_used_again() {
    let data = tempfile::tempdir().unwrap();
    let folders = Folders::open(data.path()).unwrap();
    folders.ensure("onhost-a-0", &tags(OURS), &pool(), PORTS).unwrap();
    folders.remove("onhost-a-0", true).unwrap();
    assert!(matches!(folders.ensure("onhost-a-0", &tags(OURS), &pool(), PORTS).unwrap(), Place::Spent(_)));
    assert_eq!(folders.list(OURS).unwrap(), (vec![], true));
    // A crash in the middle of removing, and one in the middle of making.
    for rubbish in [".trash-onhost-b-0", ".new-onhost-c-0"] {
        std::fs::create_dir_all(folders.machine(rubbish).join("disk")).unwrap();
    }
    folders.list(OURS).unwrap();
    assert_eq!(std::fs::read_dir(folders.machines()).unwrap().count(), 0);
}
