//! Machines on this host: QEMU processes, one folder each.
