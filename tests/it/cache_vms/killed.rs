//! VMs that are killed while they write: their volume is never used again, and what earlier jobs left is whole.

use super::{at_rest, job, number_from_environment, said, start_warm, volumes, wait};
use crate::service::Service;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// Reads all that good jobs left, then adds to it; prints `whole N`.
fn good(n: usize) -> String {
    let check = if n == 0 { String::new() } else { format!("whole good-{}; ", n - 1) };
    let from = if n == 0 { String::new() } else { format!("good-{}", n - 1) };
    format!("{check}layer good-{n} 4 {from}; sync; echo whole {n}")
}

/// Reads all that good jobs left, then writes layers and files, and syncs, until it is killed.
fn endless(last_good: usize) -> String {
    format!(
        "whole good-{last_good}; (while :; do sudo head -c 300000 /dev/urandom | sudo tee $folder/docker/image/$RANDOM$(date +%N) >/dev/null; sudo sync; done) &
        n=0; echo writing; while :; do n=$((n + 1)); layer lost-$n 2 good-{last_good}; sudo sync; done"
    )
}

/// The QEMU of the VM that has a job, and the volume on it.
fn at_work(service: &Service) -> (u32, String) {
    let volume = volumes(service).into_iter().find(|it| it["state"] == "attached").unwrap();
    let vm = service.json(&["vms", "show", volume["vm_id"].as_str().unwrap()]);
    let folder = service.data.join("onhost/machines").join(vm["provider_id"].as_str().unwrap());
    let is_its = |process: &std::path::Path| {
        std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(&folder))
            && std::fs::read_to_string(process.join("comm")).is_ok_and(|name| name.starts_with("qemu-system"))
    };
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let qemu = processes.filter(|process| is_its(process)).find_map(|it| it.file_name()?.to_str()?.parse().ok());
    (qemu.expect("the VM has a QEMU"), volume["id"].as_str().unwrap().to_owned())
}

/// Kills the job's VM so many milliseconds after it began to write; answers the volume.
fn kill(service: &Service, mut job: Child, after: u64) -> String {
    let mut line = String::new();
    BufReader::new(job.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if line != "writing\n" {
        let output = job.wait_with_output().unwrap();
        panic!("{line}{}\n{}", String::from_utf8_lossy(&output.stderr), service.log());
    }
    std::thread::sleep(Duration::from_millis(after));
    let (qemu, volume) = at_work(service);
    assert!(Command::new("kill").args(["-KILL", &qemu.to_string()]).status().unwrap().success());
    assert!(!job.wait().unwrap().success(), "its VM is gone");
    volume
}

/// CYCLES of: a job that ends well, one that is killed. Each reads all that the good ones before it left.
#[test]
#[ignore = "two VMs a cycle, and 20 cycles; make proof runs it"]
fn killed_in_the_middle_of_a_write() {
    let service = start_warm("cache-killed", 2);
    let cycles = number_from_environment("CYCLES", 20);
    let mut lost = BTreeSet::new();
    for n in 0..cycles {
        let began = Instant::now();
        let out = said(&service, job(&service, "k", &[], &good(n)));
        assert!(out.ends_with(&format!("whole {n}\n")), "{out}");
        let good_took = began.elapsed().as_secs_f64();
        at_rest(&service);
        let after = u64::from(rand::random::<u16>()) % 12_000;
        let volume = kill(&service, job(&service, "k", &[], &endless(n)), after);
        wait(&service, "its volume is in quarantine", |service| {
            volumes(service).iter().all(|it| it["id"] != *volume || it["state"] == "quarantined")
        });
        println!("cycle {n}: good {good_took:.0} s, killed after {after} ms, {:.0} s in all", began.elapsed().as_secs_f64());
        assert!(lost.insert(volume), "a volume whose VM was killed came back");
    }
    // Nothing holds the disk, and the file system has no fault.
    let script = format!(
        r#"whole good-{}
        d=$(disk); sudo systemctl stop docker.socket docker.service; sudo umount /var/lib/docker; sudo umount $folder
        sudo e2fsck -fn $d >/dev/null && echo no fault"#,
        cycles - 1
    );
    let last = said(&service, job(&service, "k", &[], &script));
    assert!(last.ends_with("no fault\n"), "{last}");
    println!("figure killed_writers {} VMs", lost.len());
    println!("figure killed_writers_corrupted 0 layers");
}
