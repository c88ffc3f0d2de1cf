//! A disk that is nearly full: what was not used for longest goes, and the next job works.

use super::{run, start_warm, timeline_of_newest};

const FULL: &str = r#"echo "full $(df --output=pcent $folder | tail -n 1 | tr -dc 0-9)""#;
const IMAGES: &str = "sudo docker image ls --format 'has {{.Repository}}'";

fn full(out: &str) -> Vec<u32> {
    out.lines().filter_map(|line| line.strip_prefix("full ")).map(|number| number.parse().unwrap()).collect()
}

/// Three jobs fill it: `first`, `second`, and then `first` is used again and `third` is made.
#[test]
#[ignore = "four VMs that write a whole disk; make proof runs it"]
fn a_full_disk() {
    let service = start_warm("cache-full", 1);
    run(&service, "f", &[], &format!("layer first 220; {FULL}"));
    run(&service, "f", &[], &format!("layer second 220; {FULL}"));
    let third = run(&service, "f", &[], &format!("whole first; layer third 430; sync; {FULL}"));
    assert!(full(&third)[0] > 90, "{third}");
    let script = format!("{FULL}; {IMAGES}; whole first; whole third; layer fourth 50; whole fourth; {FULL}");
    let last = run(&service, "f", &[], &script);
    println!("{}", timeline_of_newest(&service, "f"));
    let has = |name: &str| last.lines().any(|line| line == format!("has {name}"));
    assert!(full(&last)[0] < 85, "{last}");
    assert!(has("first") && has("third") && !has("second"), "the least recently used one goes, and it alone: {last}");
    println!("figure full_disk_before {} percent", full(&third)[0]);
    println!("figure full_disk_next_job {} percent", full(&last)[0]);
}
