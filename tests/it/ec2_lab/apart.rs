//! A test runs again in a network namespace that has loopback and nothing else: nothing that a VM, moto or the service sends leaves this
//! machine, and the ports 22 and 2376, which are all that EC2 knows, are free whatever runs here. Root is not needed.

use std::process::Command;

/// `$0` is this program, `$1` the test, `$2` and `$3` the user and group.
const AS_ROOT: &str = r#"ip link set lo up && exec "$0" --ignored --exact "$1" --nocapture"#;
const AS_USER: &str = r#"ip link set lo up && echo 0 >/proc/sys/net/ipv4/ip_unprivileged_port_start &&
exec unshare -U --map-user="$2" --map-group="$3" "$0" --ignored --exact "$1" --nocapture"#;

/// Runs an ignored test of this binary, which must pass.
pub(super) fn run(test: &str) {
    let is_root = rustix::process::geteuid().is_root();
    let (namespaces, script) = if is_root { ("-n", AS_ROOT) } else { ("-Urn", AS_USER) };
    let mut command = Command::new("unshare");
    command.args([namespaces, "bash", "-c", script]).arg(std::env::current_exe().unwrap()).arg(test);
    command.arg(rustix::process::geteuid().as_raw().to_string()).arg(rustix::process::getegid().as_raw().to_string());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "it ran: {said}");
    said.lines().filter(|line| line.contains("figure ")).for_each(|line| println!("{line}"));
}
