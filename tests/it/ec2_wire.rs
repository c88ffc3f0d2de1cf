//! The foreign wire: what reaches it is a request that AWS would take and that our policy allows, or a test fails.
//!
//! The AWS SDK on one side and moto, an emulator by others, on the other; between them a strict proxy that keeps the rules of EC2.md
//! which moto does not, and that goes wrong on purpose. `.ci/setup --test` installs moto and AWS's service models (botocore).
//!
//! | file | holds |
//! | --- | --- |
//! | `proxy`, `clients` | `Cloud`, which tests use; the SDK against it |
//! | `wire` | the way of a request through all of the following |
//! | `model`, `shapes` | AWS's own service model |
//! | `policy` | the request policy of our provider |
//! | `faults`, `budgets`, `rules`, `clock` | what goes wrong on purpose; call budgets; what tests may change |
//! | `ec2`, `launch`, `tokens`, `machines`, `volumes`, `lists`, `notices`, `ebs`, `ebs_lists`, `state` | the rules that moto does not keep |
//! | `params`, `answer`, `xml`, `upstream`, `truth`, `journal` | the form of requests and answers; moto's; what is noted |
//! | `backing` | what stands behind the instances, where something does |
//! | `held` | machines in moto's place, where hundreds are counted |
//! | `moto`, `ground` | moto as a process; the network and images that are there |
//! | `requests`, `*_tests` | that each rule is kept and each fault strikes |

mod answer;
pub(crate) mod backing;
mod backing_tests;
mod budgets;
mod budgets_tests;
mod clients;
mod clock;
mod ebs;
mod ebs_lists;
mod ebs_tests;
mod ec2;
pub(crate) mod faults;
mod faults_tests;
pub(crate) mod ground;
mod held;
mod held_tests;
pub(crate) mod journal;
mod launch;
mod lists;
mod lists_tests;
mod machines;
mod machines_tests;
mod model;
mod model_tests;
pub(crate) mod moto;
mod moto_tests;
pub(crate) mod notices;
pub(crate) mod params;
mod policy;
mod policy_tests;
pub(crate) mod proxy;
mod requests;
pub(crate) mod rules;
mod shapes;
mod state;
mod tokens;
mod tokens_tests;
pub(crate) mod truth;
mod upstream;
mod volumes;
mod volumes_tests;
mod wire;
mod xml;
