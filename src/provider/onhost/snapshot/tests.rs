//! Which snapshot a machine goes on from, and which one stays. The making and the restore are proved with VMs (`tests/it/e2e.rs`).

use super::*;
use crate::domain::resource_class::default_classes;
use crate::provider::onhost::image::Image;

fn snapshots() -> (tempfile::TempDir, Snapshots) {
    let data = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(data.path()).unwrap();
    (data, snapshots)
}

fn keep(snapshots: &Snapshots, inputs: &str) -> Snapshot {
    let folder = snapshots.folder.join(key_of(inputs));
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join(INPUTS), inputs).unwrap();
    snapshots.find(inputs).unwrap()
}

#[test]
fn whatever_makes_another_machine_makes_another_snapshot() {
    let class = default_classes()["medium"].clone();
    let image = Image::for_tests();
    let folder = Path::new("/data/snapshots-of-machines");
    let of = |class: &ResourceClass, image: &Image, accelerator| inputs(folder, class, image, accelerator, "");
    let first = of(&class, &image, Accelerator::Tcg);
    assert_eq!(first, of(&class, &image, Accelerator::Tcg));
    let mut image_2 = image.clone();
    image_2.manifest.hash = "another".to_owned();
    let changed = |change: fn(&mut ResourceClass)| {
        let mut class = class.clone();
        change(&mut class);
        of(&class, &image, Accelerator::Tcg)
    };
    let others = [
        of(&class, &image_2, Accelerator::Tcg),
        of(&class, &image, Accelerator::Kvm),
        changed(|class| class.vcpus += 1),
        changed(|class| class.memory_mib += 1),
        changed(|class| class.disk_gib += 1),
    ];
    for other in &others {
        assert_ne!(key_of(other), key_of(&first), "{other}");
    }
    assert_eq!(changed(|class| class.limit = Some(3)), first, "a limit does not make a machine");
}

#[test]
fn one_of_other_inputs_is_none() {
    let (_data, snapshots) = snapshots();
    assert_eq!(snapshots.find("a"), None);
    let kept = keep(&snapshots, "a");
    assert_eq!((snapshots.find("a"), snapshots.find("b")), (Some(kept.clone()), None));
    std::fs::write(kept.folder.join(INPUTS), "of another program").unwrap();
    assert_eq!(snapshots.find("a"), None, "what it was made of is compared, not only its name");
}

#[test]
fn after_a_failure_machines_boot_and_one_that_keeps_failing_is_removed() {
    let (_data, snapshots) = snapshots();
    let kept = keep(&snapshots, "a");
    snapshots.note_failure(&kept);
    assert_eq!(snapshots.find("a"), None);
    assert!(snapshots.rests(&kept.key) && !snapshots.rests("another"), "nor is one made meanwhile");
    snapshots.note_success(&kept);
    assert_eq!(snapshots.find("a").as_ref(), Some(&kept));
    for _ in 0..MOST_FAILURES {
        assert!(kept.folder.exists());
        snapshots.note_failure(&kept);
    }
    assert!(!kept.folder.exists() && !snapshots.rests(&kept.key), "the next launch has one made");
}

#[test]
fn the_least_recently_used_go_first_and_what_was_not_finished_goes_too() {
    let (_data, snapshots) = snapshots();
    let began = snapshots.folder.metadata().unwrap().modified().unwrap() - Duration::from_secs(3600);
    let all: Vec<Snapshot> = (0..KEPT + 2).map(|no| keep(&snapshots, &no.to_string())).collect();
    for (second, kept) in all.iter().enumerate() {
        let file = std::fs::File::options().write(true).open(kept.folder.join(INPUTS)).unwrap();
        file.set_modified(began + Duration::from_secs(second as u64)).unwrap();
    }
    snapshots.note_success(&all[0]);
    snapshots.note_success(&all[1]);
    let aside = snapshots.folder.join(".making");
    std::fs::create_dir(&aside).unwrap();
    std::fs::write(aside.join(INPUTS), "").unwrap();
    std::fs::create_dir(snapshots.folder.join("broken")).unwrap();
    let unused = std::fs::File::options().write(true).open(all[3].folder.join(INPUTS)).unwrap();
    unused.set_modified(began - UNUSED).unwrap();
    snapshots.tidy().unwrap();
    let left: Vec<bool> = all.iter().map(|kept| kept.folder.exists()).collect();
    assert_eq!(left, (0..KEPT + 2).map(|no| no != 2 && no != 3).collect::<Vec<_>>());
    assert!(!aside.exists() && !snapshots.folder.join("broken").exists());
}
