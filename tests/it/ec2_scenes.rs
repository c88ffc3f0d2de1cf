//! The whole engine on the EC2 provider over the foreign wire: after each trouble that AWS can make, the job is served or told why not,
//! and no machine is there that no row knows.
//!
//! | file | holds |
//! | --- | --- |
//! | `scene` | what the tests stand on |
//! | `launches` | answers that are lost, late, fewer or refused (FAILURES.md rows 1, 5, 15, 16, 24) |
//! | `capacity` | candidates: zones, types and markets without room |
//! | `mistakes` | what operators get wrong: one sentence, and no loop that spends money |
//! | `notices` | scheduled events, and spot machines that are taken back |
//! | `reserve` | instances that are stopped and started (row 11) |
//! | `volumes`, `snapshots` | EBS volumes and their snapshots |
//! | `caches` | cached jobs: what is kept, in which order, and what it costs |
//! | `images` | AMIs: registered, launched, vanished, deleted |
//! | `blocks` | an image is written as a snapshot, over EBS direct |
//! | `seeds` | the commands that bring a generation in and compare two |
//! | `near` | the zone that a launch had better go to |
//! | `alone`, `looks`, `rights` | the provider without loops: shared looks; what it must be allowed, and no more |
//! | `speed`, `cpu` | calls counted; processor time |

mod alone;
mod blocks;
mod caches;
mod capacity;
mod cpu;
mod images;
mod launches;
mod looks;
mod mistakes;
mod near;
mod notices;
mod reserve;
mod rights;
mod scene;
mod seeds;
mod snapshots;
mod speed;
mod volumes;
