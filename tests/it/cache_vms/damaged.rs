//! A volume whose file system was damaged while it was free: the next job goes on, and its timeline says why.

use super::{at_rest, cache_of_newest, run, start_warm, timeline_of_newest, volumes};
use std::path::Path;
use std::process::Command;

/// Where the first inode table is, bytes from the disk's beginning.
const WHERE: &str = r#"sudo dumpe2fs "$(disk)" 2>/dev/null | sed -n 's/^ *Inode table at \([0-9]*\)-.*/table \1/p' | head -n 1"#;

fn damage(disk: &Path, from: u64, bytes: u64) {
    let words = format!("write -P 0xaa {from} {bytes}");
    let output = Command::new("qemu-io").args(["-f", "qcow2", "-c", &words]).arg(disk).output().unwrap();
    assert!(output.status.success() && !String::from_utf8_lossy(&output.stdout).contains("failed"), "{words}: {output:?}");
}

#[test]
#[ignore = "four VMs; make proof runs it"]
fn a_damaged_disk() {
    let service = start_warm("cache-damaged", 1);
    let first = run(&service, "d", &[], &format!("layer base 8\n{WHERE}"));
    let told = || panic!("{first}\n{}", timeline_of_newest(&service, "d"));
    let table: u64 = first.lines().find_map(|line| line.strip_prefix("table ")).unwrap_or_else(told).parse().unwrap();
    let table = table * 4096;
    let damages: [(&str, u64, u64); 3] = [
        ("the superblock", 0, 4096),
        ("the group descriptors", 4096, 4096),
        // Behind the root's and the journal's.
        ("inodes", table + 16 * 256, 1 << 20),
    ];
    for (what, from, bytes) in damages {
        let free = volumes(&service).into_iter().find(|it| it["state"] == "available").unwrap();
        let provider_id = free["provider_id"].as_str().unwrap();
        damage(&service.data.join("onhost/volumes").join(provider_id).join("disk.qcow2"), from, bytes);
        let out = run(&service, "d", &[], "layer base 8; whole base");
        let (hit, reason) = cache_of_newest(&service, "d");
        let timeline = timeline_of_newest(&service, "d");
        println!("{what}: {out}{hit} {reason}\n{timeline}");
        assert!(timeline.contains("damaged"), "{timeline}");
        assert!(hit && out.starts_with("base cached 2"), "the last good state is found: {out}{reason}");
        at_rest(&service);
        let damaged = volumes(&service).into_iter().find(|it| it["id"] == free["id"]).unwrap();
        assert_eq!(damaged["state"], "quarantined", "{what}: it is used no more");
        println!("figure damage_survived_{} 1 jobs", what.replace(' ', "_"));
    }
}
