//! What the cloud holds its callers to, where tests differ; everything else is always on.

use std::time::Duration;

/// Change single values with `Rules { budgets: true, ..Rules::default() }`.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// Whether AWS's call budgets are kept.
    pub(crate) budgets: bool,
    /// Seconds per real second on the clock of budgets and lags; 0 stops it, [`super::Cloud::pass`] moves it.
    pub(crate) speed: f64,
    /// How long a launched or started machine is shown as `pending`.
    pub(crate) runs_after: Duration,
    /// Instance types that this account can have.
    pub(crate) types: Vec<&'static str>,
    /// Volumes per machine, its root included.
    pub(crate) volumes_per_machine: usize,
    /// Ids per call.
    pub(crate) max_ids: usize,
    /// Blocks per page of a list; where it is small, the first page is empty too, as AWS may do.
    pub(crate) blocks_per_page: usize,
    /// Machines per launch.
    pub(crate) max_batch: u32,
    /// Whether machines are ours and not moto's: for hundreds of them, see `held`.
    pub(crate) held_by_us: bool,
}

impl Default for Rules {
    fn default() -> Self {
        let types = [
            "t3.small",
            "t3.medium",
            "t3.large",
            "t3.xlarge",
            "m5.large",
            "m5.xlarge",
            "m6i.large",
            "m6i.xlarge",
            "m7i.large",
            "m7i.xlarge",
            "m7i.2xlarge",
            "c6i.large",
            "c6i.xlarge",
            "c7i.large",
            "c7i.xlarge",
            "c7i.2xlarge",
            "r7i.large",
        ];
        Self {
            budgets: false,
            speed: 1.0,
            runs_after: Duration::ZERO,
            types: types.to_vec(),
            volumes_per_machine: 27,
            max_ids: 1000,
            blocks_per_page: 10_000,
            max_batch: 1000,
            held_by_us: false,
        }
    }
}
