//! The lab: the whole service as processes, on EC2 as it finds it, with real VMs behind the instances.
//!
//! ```text
//! vm-service run ─▶ serve, scaler, gc ─ EC2 API ─▶ strict proxy ─▶ moto keeps the books
//!       │                  │                            └────────▶ a VM of the on-host provider per instance, a file per volume
//!       └───── job ────────┴──────── SSH, Docker over TLS ───────▶ the VM, at an address of this machine's loopback
//! ```
//!
//! | file | holds |
//! | --- | --- |
//! | `jobs` | what is tried: one VM in the gate, all of it by `make ec2-lab` |
//! | `lab` | Postgres, the roles and the settings that lead to the cloud |
//! | `disk` | a volume that comes to a machine and leaves it again |
//! | `vms`, `qmp` | the VMs behind the instances |
//! | `apart` | a network of its own, with loopback and nothing else |

mod apart;
mod disk;
mod jobs;
mod lab;
mod qmp;
mod vms;
