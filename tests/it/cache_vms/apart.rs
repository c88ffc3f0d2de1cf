//! Projects do not see each other's layers, and nothing of an untrusted job is kept.

use super::{at_rest, job, said, start, volumes};
use uuid::Uuid;

/// Counts a word on the whole raw disk, with the serial that the disk has.
fn count(word: &str) -> String {
    format!(r#"echo "found $(sudo grep -azcF {word} "$(disk)" || true) on $(cat /sys/block/$(basename "$(disk)")/serial)""#)
}

/// Writes a word where a job can: into an image's layer, and into a file beside the layers.
fn leave(image: &str, word: &str) -> String {
    format!(
        r#"cd "$(mktemp -d)" && echo {word} >word && printf 'FROM base\nCOPY word /word\n' >Dockerfile
        DOCKER_BUILDKIT=1 sudo -E docker build -q -t {image} . >/dev/null
        echo {word} | sudo tee $folder/{image} >/dev/null
        echo {word} | sudo tee $folder/docker/{image} >/dev/null
        sync"#
    )
}

/// How often the word was found on which disk.
fn found(out: &str) -> (u32, String) {
    let line = out.lines().find_map(|line| line.strip_prefix("found ")).unwrap();
    let (count, serial) = line.split_once(" on ").unwrap();
    (count.parse().unwrap(), serial.to_owned())
}

#[test]
#[ignore = "four VMs whose whole disks are read; make proof runs it"]
fn a_second_project_finds_nothing_and_no_marker() {
    let service = start("cache-apart", 1);
    let (marker, planted) = (Uuid::new_v4().simple().to_string(), Uuid::new_v4().simple().to_string());
    let run = |project, options: &[&str], script: &str| super::run(&service, project, options, script);
    let first = run("a", &[], &format!("layer base 4\n{}", leave("marked", &marker)));
    assert!(first.contains("base cached 0"), "{first}");

    // Together: another project, and code from outside in this one.
    let other = job(&service, "b", &[], &format!("sudo docker image ls -q | wc -l\nlayer base 4\n{}", count(&marker)));
    let script = format!("layer base 4\nwhole base\nsudo docker image inspect marked >/dev/null\n{}", leave("planted", &planted));
    let untrusted = job(&service, "a", &["--untrusted"], &script);
    let (other, untrusted) = (said(&service, other), said(&service, untrusted));
    assert!(other.starts_with("0\n") && other.contains("base cached 0"), "{other}");
    assert!(untrusted.contains("base cached 2"), "{untrusted}");
    let (times, serial) = found(&other);
    assert_eq!(times, 0, "{other}");
    at_rest(&service);
    let all = volumes(&service);
    assert!(all.iter().all(|it| it["trust"] == "trusted"), "{all:?}");
    let disk = |it: &serde_json::Value| it["provider_id"].as_str().unwrap().replace('-', "");
    assert!(all.iter().any(|it| it["project_id"] == "b" && disk(it) == serial), "{serial}: {all:?}");

    let script = format!(
        "layer base 4\nwhole base\nsudo docker image inspect marked >/dev/null\nsudo docker image ls --format '{{{{.Repository}}}}'\n\
         sudo ls $folder $folder/docker\n{}\n{}",
        count(&planted),
        count(&marker)
    );
    let last = run("a", &[], &script);
    assert!(last.contains("base cached 2") && !last.lines().any(|line| line == "planted"), "{last}");
    let (times, serial) = found(&last);
    assert_eq!(times, 0, "what the untrusted job left: {last}");
    let (times, again) = found(last.rsplit_once("found ").map(|(_, rest)| format!("found {rest}")).as_deref().unwrap());
    assert!(times > 0 && again == serial, "the project's own marker is found by the same look: {last}");
    println!("figure markers_found_elsewhere 0 markers");
    println!("figure markers_found_at_home {times} markers");
}
