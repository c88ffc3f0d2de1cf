use super::*;

fn image(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("vmlinuz"), "kernel").unwrap();
}

#[test]
fn an_image_that_is_current_or_runs_a_machine_is_kept_and_another_goes_whole() {
    let base = tempfile::tempdir().unwrap();
    let base = base.path().canonicalize().unwrap();
    let (data, images) = (base.join("data"), base.join("images"));
    let folders = Folders::open(&data).unwrap();
    for name in ["now", "used", "old"] {
        image(&images.join(name));
    }
    let current = images.join("current");
    std::os::unix::fs::symlink("now", &current).unwrap();
    let machine = folders.machine("onhost-1-0");
    std::fs::create_dir_all(&machine).unwrap();
    let plan = serde_json::json!({ "qemu": ["-kernel", images.join("used/vmlinuz")] }).to_string();
    std::fs::write(machine.join(keeper::PLAN), plan).unwrap();

    let removed = |name: &str| remove(&images.join(name), &current, &folders).unwrap();
    assert!(removed("now").unwrap_err().contains("leads to it"));
    assert!(removed("current").unwrap_err().contains("leads to it"));
    assert_eq!(removed("used"), Err("machine onhost-1-0 runs from it".to_owned()));
    assert_eq!(removed("old"), Ok(()));
    assert_eq!(removed("old"), Ok(()), "again is fine");
    let mut left: Vec<_> = std::fs::read_dir(&images).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, ["current", "now", "used"]);

    // Killed between the two steps.
    image(&images.join(".trash-half"));
    assert_eq!(removed("half"), Ok(()));
    assert!(!images.join(".trash-half").exists());
}
