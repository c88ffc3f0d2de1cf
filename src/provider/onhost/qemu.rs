//! QEMU's command line for one machine. It is public on this host, so nothing secret is ever in it.
//!
//! All paths of the machine are relative to its folder, where the keeper starts QEMU. Not here: starting it (`keeper`).

use super::address::Ports;
use super::image::{DISK, Image};
use super::keeper::NET_SOCKET;
use super::keeper::filter::{GATEWAY, GUEST, NETMASK};
use super::passt::Dns;
use super::qmp;
use super::snapshot::{self, restore};
use crate::domain::resource_class::ResourceClass;
use std::net::Ipv4Addr;
use std::path::Path;

pub(super) const PROGRAM: &str = "qemu-system-x86_64";
pub(super) const SEED: &str = "seed.img";

/// Free slots for disks that are attached later.
const HOTPLUG_PORTS: u32 = 4;

/// Of QEMU's own user network.
const CLOSED_PREFIX: u32 = 24;

/// What makes the processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accelerator {
    /// The processor's own virtualization.
    Kvm,
    /// Software.
    Tcg,
}

/// The VM's way to the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// Through the keeper to passt.
    Guarded,
    /// QEMU's own user network, from which nothing leads out.
    Closed,
    /// A card with nothing behind it, and no state: what a snapshot keeps of it fits behind any other.
    Apart,
}

/// How a machine comes to life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin<'a> {
    /// It boots, and finds its user data on a disk.
    Boot,
    /// It boots to where it waits for its identity; its memory is this file. `words`: see [`words`].
    Wait { memory: &'a Path, words: &'a str },
    /// It waits for a snapshot of such a machine, of which this is the memory.
    Restore { memory: &'a Path, words: &'a str },
}

/// What differs from machine to machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine<'a> {
    pub(super) provider_id: &'a str,
    pub(super) class: &'a ResourceClass,
    pub(super) image: &'a Image,
    pub(super) accelerator: Accelerator,
    pub(super) link: Link,
    pub(super) ip: Ipv4Addr,
    pub(super) ports: Ports,
    pub(super) begin: Begin<'a>,
}

impl Accelerator {
    pub(super) const fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // max: with every feature that the emulation has, else newer distributions do not start.
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }
}

/// What every QEMU of ours has, the probe too: no default devices, no display, no configuration of the host's user, no new privileges.
pub(super) fn base() -> Vec<String> {
    let fixed = [
        PROGRAM,
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-machine",
        "q35,usb=off,vmport=off,dump-guest-core=off",
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-chardev",
        // Standard output: the keeper's pipe, which is always drained.
        "file,id=console,path=/dev/fd/1",
        "-serial",
        "chardev:console",
    ];
    fixed.map(str::to_owned).to_vec()
}

/// The whole command of one machine.
pub(super) fn command(machine: &Machine<'_>) -> Vec<String> {
    let mut line = base();
    let mut add = |option: &str, value: String| line.extend([option.to_owned(), value]);
    let (waits, words) = match machine.begin {
        Begin::Boot => (false, String::new()),
        Begin::Wait { words, .. } | Begin::Restore { words, .. } => (true, format!(" vm-service.wait{words}")),
    };
    if let Some(memory) = snapshot::memory(machine.begin, machine.class.memory_mib) {
        add("-object", memory);
        add("-machine", "memory-backend=memory".into());
    }
    let [accel, accelerator, cpu, model] = machine.accelerator.arguments();
    add(accel, accelerator.into());
    add(cpu, model.into());
    add("-name", machine.provider_id.into());
    add("-smp", machine.class.vcpus.to_string());
    add("-m", machine.class.memory_mib.to_string());
    add("-kernel", machine.image.kernel.to_string_lossy().into_owned());
    add("-initrd", machine.image.initrd.to_string_lossy().into_owned());
    add("-append", format!("{}{words}", machine.image.manifest.kernel_append));
    add("-chardev", format!("socket,id=qmp,path={},server=on,wait=off", qmp::SOCKET));
    add("-mon", "chardev=qmp,mode=control".into());
    // The disk dies with the machine: what the guest flushes need not reach the host's disk, and what it discards is given back.
    let disk = format!(
        "driver=qcow2,node-name=root,discard=unmap,cache.no-flush=on,file.driver=file,file.filename={DISK},file.discard=unmap"
    );
    add("-blockdev", format!("{disk},file.cache.no-flush=on"));
    add("-device", "virtio-blk-pci,drive=root,serial=root,addr=0x2".into());
    if waits {
        // Where it is told who it is; and a kernel that knows this device is told that it goes on as another machine.
        add("-device", "virtio-serial-pci,addr=0x6,max_ports=2".into());
        add("-chardev", format!("socket,id=door,path={},server=on,wait=off", restore::DOOR));
        add("-device", "virtserialport,chardev=door,name=vm-service,nr=1".into());
        add("-device", "vmgenid,guid=auto".into());
    } else {
        add("-blockdev", format!("driver=raw,node-name=seed,read-only=on,file.driver=file,file.filename={SEED},file.read-only=on"));
        add("-device", "virtio-blk-pci,drive=seed,serial=seed,addr=0x3".into());
    }
    add("-netdev", netdev(machine));
    add("-device", format!("virtio-net-pci,netdev=net,mac={},addr=0x4,romfile=", "52:54:00:12:34:56"));
    add("-object", "rng-random,id=random,filename=/dev/urandom".into());
    add("-device", "virtio-rng-pci,rng=random,addr=0x5".into());
    for port in 0..HOTPLUG_PORTS {
        add("-device", format!("pcie-root-port,id={}{port},chassis={},addr=0x{:x}", qmp::PORT, port + 1, 0x10 + port));
    }
    if matches!(machine.begin, Begin::Restore { .. }) {
        add("-incoming", "defer".into());
    }
    line
}

/// What a machine on this network hears over DHCP, for the kernel's command line of one that hears nothing (`ami/onhost/init`).
pub(super) fn words(link: Link, dns: &Dns) -> String {
    if link != Link::Guarded {
        return format!(" vm-service.address={GUEST}/{CLOSED_PREFIX}");
    }
    let prefix = NETMASK.to_bits().count_ones();
    let servers: Vec<String> = dns.servers().iter().map(ToString::to_string).collect();
    let dns = if servers.is_empty() { String::new() } else { format!(" vm-service.dns={}", servers.join(",")) };
    format!(" vm-service.address={GUEST}/{prefix} vm-service.router={GATEWAY}{dns}")
}

fn netdev(machine: &Machine<'_>) -> String {
    let Machine { ip, ports, .. } = machine;
    match machine.link {
        Link::Guarded => format!("stream,id=net,server=off,addr.type=unix,addr.path={NET_SOCKET}"),
        Link::Apart => "hubport,id=net,hubid=0".to_owned(),
        Link::Closed => format!(
            "user,id=net,restrict=on,ipv6=off,net={GATEWAY}/{CLOSED_PREFIX},host={GATEWAY},dhcpstart={GUEST},dns=192.0.0.3,\
             hostfwd=tcp:{ip}:{}-{GUEST}:22,hostfwd=tcp:{ip}:{}-{GUEST}:2376",
            ports.ssh, ports.docker
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_what_its_class_says_and_nothing_that_was_not_asked_for() {
        let class = ResourceClass {
            vcpus: 3,
            memory_mib: 2048,
            disk_gib: 20,
            limit: None,
            gpus: 0,
            ec2: crate::domain::ec2::Ec2Class::default(),
            reserve: Default::default(),
            price_per_hour: None,
        };
        let image = Image::for_tests();
        let of = |accelerator, link| {
            let ports = Ports { ssh: 22, docker: 2376 };
            let ip = Ipv4Addr::new(127, 64, 0, 9);
            let begin = Begin::Boot;
            command(&Machine { provider_id: "onhost-t-0", class: &class, image: &image, accelerator, link, ip, ports, begin })
                .join(" ")
        };
        let open = of(Accelerator::Tcg, Link::Guarded);
        for part in [
            "-smp 3 -m 2048",
            "-accel tcg,thread=multi -cpu max",
            "-nodefaults -no-user-config",
            "-append root=/dev/vda",
            "-sandbox on,",
        ] {
            assert!(open.contains(part), "{part} is not in {open}");
        }
        assert!(!open.contains("hostfwd") && !open.contains("-netdev user"), "{open}");
        assert!(!open.contains("vm-service.wait") && !open.contains("virtserialport"), "{open}");
        let closed = of(Accelerator::Kvm, Link::Closed);
        assert!(closed.contains("user,id=net,restrict=on"), "{closed}");
        assert!(closed.contains("hostfwd=tcp:127.64.0.9:22-192.0.0.2:22,hostfwd=tcp:127.64.0.9:2376-192.0.0.2:2376"), "{closed}");
        assert!(closed.contains("-accel kvm -cpu host"), "{closed}");
    }
    #[test]
    fn a_restored_machine_is_the_one_of_the_snapshot_but_for_its_memory_and_its_network() {
        let class = crate::domain::resource_class::default_classes()["medium"].clone();
        let image = Image::for_tests();
        let memory = Path::new("/snapshots/k,1/memory");
        let words = " vm-service.router=192.0.0.1";
        let made = command(&snapshot::make::machine(&class, &image, Accelerator::Tcg, memory, words));
        let mut machine = snapshot::make::machine(&class, &image, Accelerator::Tcg, memory, words);
        machine.begin = Begin::Restore { memory, words };
        machine.link = Link::Guarded;
        let restored = command(&machine);
        let only = |these: &[String], those: &[String]| these.iter().filter(|it| !those.contains(it)).cloned().collect::<Vec<_>>();
        let memory = "memory-backend-file,id=memory,size=4096M,mem-path=/snapshots/k,,1/memory";
        assert_eq!(only(&made, &restored)[0], format!("{memory},share=on"));
        assert_eq!(only(&restored, &made)[0], format!("{memory},share=off"), "nothing that a machine writes is in another one");
        assert_eq!(
            only(&restored, &made)[1..],
            [format!("stream,id=net,server=off,addr.type=unix,addr.path={NET_SOCKET}"), "-incoming".into(), "defer".into()]
        );
        assert_eq!(only(&made, &restored).len(), 2, "the network beside it");
        assert!(
            made.iter().any(|it| it.ends_with(" vm-service.wait vm-service.router=192.0.0.1"))
                && !made.iter().any(|it| it.contains("hostfwd") || it.contains(SEED))
        );
    }
}
