//! Builds at the same time: each has the project's layers, and the most valuable state is kept, whoever ends last.

use super::{job, run, start};
use crate::service::text;
use std::time::Instant;

/// Four short builds and a long one, which ends after two of them and before the others.
#[test]
#[ignore = "seven VMs, five of them at once; make proof runs it"]
fn five_parallel_builds_leave_the_long_ones_layers() {
    let service = start("cache-parallel", 2);
    let first = run(&service, "p", &[], "layer base 8");
    assert_eq!(first, "base cached 0\n");
    let began = Instant::now();
    let scripts = [
        ("long", "layer base 8; layer long 96 base; sync"),
        ("early-1", "layer base 8; layer early-1 1 base"),
        ("early-2", "layer base 8; layer early-2 1 base"),
        ("late-1", "layer base 8; layer late-1 1 base; sleep 60"),
        ("late-2", "layer base 8; layer late-2 1 base; sleep 60"),
    ];
    let jobs = scripts.map(|(name, script)| (name, job(&service, "p", &[], script)));
    let mut ends: Vec<(f64, &str)> = std::thread::scope(|scope| {
        let service = &service;
        let waits = jobs.map(|(name, job)| {
            scope.spawn(move || {
                let output = job.wait_with_output().unwrap();
                let (out, err) = text(&output);
                assert_eq!(output.status.code(), Some(0), "{name}: {out}\n{err}\n{}", service.log());
                assert_eq!(out, format!("base cached 2\n{name} cached 0\n"), "each finds the base");
                (began.elapsed().as_secs_f64(), name)
            })
        });
        waits.into_iter().map(|wait| wait.join().unwrap()).collect()
    });
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    println!("ends: {}", ends.iter().map(|(at, name)| format!("{name} {at:.0} s")).collect::<Vec<_>>().join(", "));
    super::at_rest(&service);
    println!("volumes: {}", super::volumes(&service).len());
    let next = run(&service, "p", &[], "layer base 8; layer long 96 base; whole long");
    assert_eq!(next, "base cached 2\nlong cached 1\n");
    println!("figure parallel_builds_that_found_the_base 5 builds");
    println!("figure parallel_builds_ended {:.0} s", ends[4].0);
}
