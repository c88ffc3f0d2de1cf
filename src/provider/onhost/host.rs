//! What this host has: programs, memory, processors, kernel, space. Pure reading.
//!
//! Reads: `/proc`, the usual program folders.

use crate::domain::settings::Budget;
use std::num::NonZero;
use std::path::{Path, PathBuf};

/// Where programs are looked for, by us and by the keeper.
pub(super) const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// Where a program is installed.
pub(super) fn program(name: &str) -> Option<PathBuf> {
    PATH.split(':').map(|folder| Path::new(folder).join(name)).find(|path| path.is_file())
}

/// Whether a program is installed.
pub(super) fn has_program(name: &str) -> bool {
    program(name).is_some()
}

/// What the first processor is and can, as the kernel says it.
pub(super) fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let first = text.split("\n\n").next().unwrap_or_default();
    let lines = first.lines().filter(|line| ["model name", "microcode", "flags"].iter().any(|name| line.starts_with(name)));
    lines.collect::<Vec<_>>().join("; ")
}

/// `uname -r`.
pub(super) fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// Bytes a user may still write in a folder.
pub(super) fn free_bytes(folder: &Path) -> std::io::Result<u64> {
    let found = rustix::fs::statvfs(folder)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Bytes that a folder's file system has in all.
pub(super) fn total_bytes(folder: &Path) -> std::io::Result<u64> {
    let found = rustix::fs::statvfs(folder)?;
    Ok(found.f_blocks.saturating_mul(found.f_frsize))
}

/// What this host can carry.
pub(super) fn capacity() -> Budget {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    capacity_of(u32::try_from(cores).unwrap_or(u32::MAX), memory_mib(&memory).unwrap_or(0))
}

/// Memory is what a host cannot lend twice: four fifths of it go to VMs of class `medium` (4 GiB), the rest is for the host, Postgres and
/// the page cache that all VMs read their image through. Processors can be lent: two VMs each. At least two VMs, so that the next one can
/// start while one works. In flight: starting a VM keeps one processor busy. Volumes: what a few projects a VM leave behind.
fn capacity_of(cores: u32, memory_mib: u32) -> Budget {
    let by_memory = memory_mib / 5 * 4 / 4096;
    let vms = by_memory.min(cores.saturating_mul(2)).max(2);
    Budget { vms, in_flight: cores.clamp(2, vms), volumes: vms.saturating_mul(5) }
}

fn memory_mib(meminfo: &str) -> Option<u32> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    u32::try_from(kib / 1024).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacity_follows_memory_and_processors_and_is_never_nothing() {
        let of = |cores, gib: u32| {
            let Budget { vms, in_flight, .. } = capacity_of(cores, gib * 1024);
            (vms, in_flight)
        };
        assert_eq!(of(2, 23), (4, 2));
        assert_eq!(of(64, 256), (51, 51));
        assert_eq!(of(4, 256), (8, 4), "not more than two for a processor");
        assert_eq!(of(1, 1), (2, 2));
        assert_eq!(memory_mib("MemTotal:       24612345 kB\nMemFree: 1 kB\n"), Some(24_035));
    }
}
