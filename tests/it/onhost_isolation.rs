//! What a hostile root in a VM with an open network reaches: the outside world, and nothing of this host.
//!
//! The host of this test is a network namespace with two addresses on its card to the outside, a second card, and loopback; the outside is
//! another namespace. Servers on every address of the host write down whoever speaks to them. The VM tries them all: as it is, with its
//! loopback route turned to the network, and under the host's own address. So does one that goes on from a snapshot. Boots two VMs, one of
//! them for the snapshot. No packet leaves the two namespaces.
//! The test runs itself again inside: `unshare` → [`host`] → the VM, and `nsenter` → [`outside`]. Not root: a user namespace does it.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use crate::onhost::{installation, open, spec, wait_for};
use base64::Engine as _;
use std::io::Write;
use std::net::{TcpListener, UdpSocket};
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use vm_service::domain::settings::{Settings, VmNetwork};
use vm_service::provider::onhost::OnHost;
use vm_service::provider::{Machine, Provider};

const WORLD: &str = r#"
set -eu
server=
ip link set lo up
unshare -n sleep 600 & outside=$!
trap 'kill $server $outside' EXIT
while [ "$(readlink /proc/$outside/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do sleep 0.01; done
ip link add h0 type veth peer name o0
ip link set o0 netns $outside
ip addr add 10.1.0.2/24 dev h0; ip addr add 10.1.0.3/24 dev h0; ip -6 addr add fd01::2/64 dev h0 nodad; ip link set h0 up
ip link add h1 type veth peer name h2; ip addr add 172.20.0.1/24 dev h1; ip link set h1 up; ip link set h2 up
ip route add default via 10.1.0.1
nsenter -t $outside -n sh -c 'ip link set lo up; ip addr add 10.1.0.1/24 dev o0; ip link set o0 up'
nsenter -t $outside -n "$0" --ignored --exact onhost_isolation::outside --nocapture >/dev/null & server=$!
"$0" --ignored --exact onhost_isolation::host --nocapture
"#;

/// Every address of the host, and broadcast; VM addresses are loopback ones.
const OURS: [&str; 8] = ["127.0.0.1", "127.64.0.200", "10.1.0.2", "10.1.0.3", "172.20.0.1", "10.1.0.255", "0.0.0.0", "192.0.0.1"];

/// What the guest does, as root; it writes what it reached to its console.
fn guest_script() -> String {
    let ours = OURS.join(" ");
    format!(
        r#"exec 2>/dev/null
echo TRYING >/dev/ttyS0
say() {{ echo "FOUND $*" >/dev/ttyS0; }}
try() {{ for a in $2; do
  timeout 2 bash -c "exec 3<>/dev/tcp/$a/9000 && read -t 1 -u 3 line && [ \"\$line\" = hello ]" && say "$1 tcp $a"
  timeout 2 bash -c "exec 3<>/dev/udp/$a/9000 && echo hi >&3 && [ \"\$(timeout 1 head -c 5 <&3)\" = hello ]" && say "$1 udp $a"
done; }}
for n in $(seq 50); do ip route | grep -q default && break; sleep 0.2; done
say "$(grep nameserver /etc/resolv.conf | tr '\n' ' ')"
try plain "10.1.0.1 {ours}"
ping -c1 -W1 10.1.0.2 && say "plain icmp"
sysctl -qw net.ipv4.conf.all.route_localnet=1 net.ipv4.conf.eth0.route_localnet=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0
ip route del local 127.0.0.0/8 dev lo table local; ip route del local 127.0.0.1 dev lo table local
for a in 127.0.0.1 127.64.0.200; do ip route add $a via 192.0.0.1 dev eth0 src 192.0.0.2; done
try loopback "127.0.0.1 127.64.0.200"
for spoofed in 10.1.0.2 10.1.0.99; do
  ip addr add $spoofed/32 dev eth0; ip route replace default via 192.0.0.1 dev eth0 src $spoofed
  try "as-$spoofed" "10.1.0.1 10.1.0.3 172.20.0.1"
  ip addr del $spoofed/32 dev eth0; ip route replace default via 192.0.0.1 dev eth0
done
try again 10.1.0.1
echo "ALL-TRIED" >/dev/ttyS0"#
    )
}

/// Answers on all addresses and says who called.
fn serve(called: &Sender<String>) {
    let tcp = TcpListener::bind("[::]:9000").unwrap();
    let udp = UdpSocket::bind("[::]:9000").unwrap();
    let said = called.clone();
    thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            drop(said.send(format!("tcp {:?} to {:?}", stream.peer_addr(), stream.local_addr())));
            drop(stream.write_all(b"hello\n"));
        }
    });
    let said = called.clone();
    thread::spawn(move || {
        let mut buffer = [0; 100];
        loop {
            let (_, peer) = udp.recv_from(&mut buffer).unwrap();
            drop(said.send(format!("udp {peer}")));
            drop(udp.send_to(b"hello\n", peer));
        }
    });
}

#[test]
fn a_vm_reaches_the_outside_world_and_nothing_of_its_host() {
    let is_root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    let mut command = Command::new("timeout");
    command
        .args(["400", "unshare"])
        .arg(if is_root { "-n" } else { "-Urn" })
        .args(["bash", "-c", WORLD])
        .arg(std::env::current_exe().unwrap());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "it ran: {said}");
}

#[test]
#[ignore = "a part of a_vm_reaches_the_outside_world_and_nothing_of_its_host, in its outside namespace"]
fn outside() {
    let (called, calls) = channel();
    serve(&called);
    for call in calls {
        println!("outside: {call}");
    }
}

/// What the machine's script says that it reached; the machine is ended.
async fn found(provider: &OnHost, machine: &Machine) -> Vec<String> {
    let tried = async || provider.console(&machine.provider_id).await.unwrap().contains("ALL-TRIED").then_some(());
    wait_for("the guest's tries", tried).await;
    // What was sent last may still be on its way.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let console = provider.console(&machine.provider_id).await.unwrap();
    provider.terminate(std::slice::from_ref(&machine.provider_id)).await.unwrap();
    console.lines().filter_map(|line| line.trim().strip_prefix("FOUND ")).map(|found| found.trim().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a part of a_vm_reaches_the_outside_world_and_nothing_of_its_host, in its host namespace"]
async fn host() {
    let (called, calls) = channel();
    serve(&called);
    let data = tempfile::tempdir().unwrap();
    let ours = installation(1);
    let provider = open(data.path(), ours, VmNetwork::Open).await;
    let mut settings = Settings::default();
    (settings.on_host.network, settings.on_host.snapshots) = (VmNetwork::Open, true);
    provider.configure(&settings, None);
    let script = base64::engine::general_purpose::STANDARD.encode(guest_script());
    let script = format!("echo {script} | base64 -d >/run/tries; setsid bash /run/tries </dev/null >/dev/null 2>&1 &");
    let user_data = format!("#cloud-config\n{{\"runcmd\": [{}]}}\n", serde_json::json!(script));
    let booted = provider.launch(&spec("it-wall", ours, &user_data)).await.unwrap().remove(0);
    wait_for("an SSH banner through passt", async || crate::onhost::banner(&booted)).await;
    let of_booted = found(&provider, &booted).await;
    let made = data.path().join("snapshots-of-machines");
    let made = async || std::fs::read_dir(&made).unwrap().flatten().any(|it| it.path().join("inputs").exists()).then_some(());
    wait_for("a snapshot", made).await;
    let restored = provider.launch(&spec("it-wall-2", ours, "")).await.unwrap().remove(0);
    let mut door = provider.channel(&restored.provider_id).await.unwrap().expect("it goes on from a snapshot");
    let seed = "5e".repeat(64);
    door.write_all(format!("me {} {seed}\n{script}", script.len()).as_bytes()).await.unwrap();
    let of_restored = found(&provider, &restored).await;
    let outside_only = ["plain tcp 10.1.0.1", "plain udp 10.1.0.1", "again tcp 10.1.0.1", "again udp 10.1.0.1"];
    assert_eq!(of_booted[1..], outside_only);
    assert_eq!(of_restored, of_booted, "a restored machine has the name servers of a booted one, and its way out");
    assert_eq!(calls.try_iter().collect::<Vec<_>>(), Vec::<String>::new(), "servers of the host were spoken to");
    // The lock that says so is let go a moment before the process is gone.
    wait_for("the end of every process", async || crate::onhost::processes_in(data.path()).is_empty().then_some(())).await;
}
