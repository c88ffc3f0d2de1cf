//! What the cache saves a build with remote Docker.

use super::{at_rest, cache_of_newest, median, number_from_environment, start};
use crate::service::{Service, text};
use std::path::Path;
use std::time::Instant;

/// Prints the seconds that the build took, and how many steps were cached.
const BUILD: &str = r#"from=$(date +%s.%N)
    docker build -t built . >log 2>&1 || { cat log >&2; exit 1; }
    echo $from $(date +%s.%N) $(grep -cE "CACHED|Using cache" log)"#;

/// A build that takes real work: three layers of random bytes and their sums, each made of several readings.
pub(super) fn context(folder: &Path) {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists()).unwrap();
    std::fs::copy(busybox, folder.join("busybox")).unwrap();
    let mut file = "FROM scratch\nCOPY busybox /bin/busybox\n".to_owned();
    for n in 1..=3 {
        let work = format!(
            "b=/bin/busybox; $b head -c 25000000 /dev/urandom >/work{n}; for n in 1 2 3 4 5; do $b sha512sum /work{n} >/sum{n}; done"
        );
        file += &format!("RUN [\"/bin/busybox\", \"sh\", \"-c\", \"{work}\"]\n");
    }
    std::fs::write(folder.join("Dockerfile"), file).unwrap();
}

/// Seconds, and how many steps were cached.
pub(super) fn build(service: &Service, options: &[&str], folder: &Path) -> (f64, usize) {
    let began = Instant::now();
    let mut command = service.command(&["run", "--quiet", "--executor", "remote_docker", "--project", "remote"]);
    let output = command.args(options).args(["--", "sh", "-c", BUILD]).current_dir(folder).output().unwrap();
    let (out, err) = text(&output);
    assert_eq!(output.status.code(), Some(0), "{out}\n{err}\n{}", service.log());
    let numbers: Vec<f64> = out.split_whitespace().map(|word| word.parse().unwrap()).collect();
    let [from, to, cached] = numbers[..] else { panic!("{out}") };
    println!("build {options:?}: {:.2} s, {cached} cached; the job {:.0} s", to - from, began.elapsed().as_secs_f64());
    (to - from, format!("{cached}").parse().unwrap())
}

/// The same build in VMs of the same kind, with the project's layers and without.
#[test]
#[ignore = "minutes of builds in seven VMs; make proof runs it"]
fn remote_docker_too() {
    let service = start("cache-remote", 2);
    let folder = tempfile::tempdir().unwrap();
    context(folder.path());
    let cached = ["--docker-layer-caching"];
    let (first, found) = build(&service, &cached, folder.path());
    assert_eq!(found, 0, "nothing is there yet");
    at_rest(&service);
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..number_from_environment("PAIRS", 3) {
        let (seconds, found) = build(&service, &cached, folder.path());
        assert_eq!(found, 4, "every layer is found");
        assert!(cache_of_newest(&service, "remote").0);
        with.push(seconds);
        at_rest(&service);
        let (seconds, found) = build(&service, &[], folder.path());
        assert_eq!(found, 0);
        without.push(seconds);
    }
    let (with, without) = (median(with), median(without));
    println!("figure build_on_new_volume {first:.2} s");
    println!("figure build_without_cache {without:.2} s");
    println!("figure build_with_cache {with:.2} s");
    println!("figure cached_build_ratio {:.3} x", with / without);
    println!("figure cached_build_speedup {:.1} x", without / with);
    assert!(without >= 10.0 * with, "with {with} s, without {without} s");
}
