//! `vm-service cache seed` and `cache diff` on this host, with real VMs: a project's first job begins with what an operator brought.

use crate::service::{Service, text};
use aws_lc_rs::digest::{SHA256, digest};
use serde_json::json;
use std::path::Path;

/// An archive as `docker save` makes it, of an image with one layer, which holds one file.
fn archive(path: &Path, name: &str, content: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let tar = |at: &Path, to: &str, files: &[&str]| {
        let done = std::process::Command::new("tar").arg("-C").arg(at).arg("-cf").arg(to).args(files).status().unwrap();
        assert!(done.success());
    };
    let hash = |bytes: &[u8]| digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let root = folder.path().join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("seeded"), content).unwrap();
    let layer = folder.path().join("layer.tar");
    tar(&root, layer.to_str().unwrap(), &["seeded"]);
    let diff_id = format!("sha256:{}", hash(&std::fs::read(&layer).unwrap()));
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": { "Cmd": ["/none"] }, "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        "history": [{ "created": "2026-01-01T00:00:00Z", "created_by": "a test" }],
    })
    .to_string();
    let config_name = format!("{}.json", hash(config.as_bytes()));
    std::fs::write(folder.path().join(&config_name), config).unwrap();
    let manifest = json!([{ "Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"] }]).to_string();
    std::fs::write(folder.path().join("manifest.json"), manifest).unwrap();
    tar(folder.path(), path.to_str().unwrap(), &["manifest.json", &config_name, "layer.tar"]);
}

#[test]
#[ignore = "two VMs; make proof runs it"]
fn the_first_job_of_a_seeded_project_is_warm() {
    let service = Service::start("seed");
    let data = service.data.to_str().unwrap().to_owned();
    let files = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::set_permissions(files.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = files.path().join("images.tar");
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[1]).collect();
    archive(&path, "seeded:1", &content);

    let wrong =
        service.command(&["cache", "seed", "--data", &data, "--project", "p", "--archive", "/nothing.tar"]).output().unwrap();
    assert!(!wrong.status.success() && text(&wrong).1.contains("opening /nothing.tar"), "{wrong:?}");
    let began = std::time::Instant::now();
    let seeded = service.command(&["cache", "seed", "--data", &data, "--project", "p", "--archive"]).arg(&path).output().unwrap();
    let (out, err) = text(&seeded);
    assert!(seeded.status.success() && err.contains("job of project p begins with it"), "{out}{err}\n{}", service.log());
    println!("figure cache_seed_on_host {:.1} s", began.elapsed().as_secs_f64());
    let first = out.split(' ').next().unwrap().to_owned();
    assert!(!std::fs::read_dir(&data).unwrap().any(|it| it.unwrap().file_name().to_string_lossy().starts_with("seed-")));

    let script = "sudo docker image ls -q seeded:1; head -c 9000000 /dev/urandom >more; tar -c more | sudo docker import - more:1 >/dev/null";
    let job = service.command(&["run", "--docker-layer-caching", "--project", "p", "--", "sh", "-c", script]).output().unwrap();
    let (out, err) = text(&job);
    assert!(job.status.success() && !out.trim().is_empty(), "{out}{err}\n{}", service.log());
    let task = &service.json(&["tasks", "list"])[0];
    assert!(task["cache"]["hit"] == true && task["cache"]["reason"].as_str().unwrap().contains(&first), "{task}");

    service.assert_nothing_left();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let volume = loop {
        let volume = service.json(&["volumes"])[0].clone();
        if volume["state"] == "available" && volume["generation"] != first.as_str() {
            break volume;
        }
        assert!(std::time::Instant::now() < deadline, "{volume}\n{}", service.log());
        std::thread::sleep(std::time::Duration::from_millis(200));
    };
    let second = volume["generation"].as_str().unwrap();
    let diff = service.command(&["cache", "diff", "--data", &data, &first, second, "--json"]).output().unwrap();
    let changes: serde_json::Value = serde_json::from_slice(&diff.stdout).unwrap_or_else(|error| panic!("{error}: {diff:?}"));
    let changed = changes["changed_bytes"].as_u64().unwrap();
    assert!((9_000_000..200_000_000).contains(&changed), "{changed} of {}", changes["volume_bytes"]);
    let reversed = service.command(&["cache", "diff", "--data", &data, second, &first]).output().unwrap();
    assert!(!reversed.status.success() && text(&reversed).1.contains("does not stand on"), "{reversed:?}");
    assert!({ service }.stop());
}
