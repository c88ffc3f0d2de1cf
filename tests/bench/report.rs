//! The report: every line goes to standard output and to the file. A figure is one line, `figure NAME VALUE UNIT`; a bar stands behind
//! it in brackets; what is not a figure begins with `#`.

use anyhow::Context as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// See the module.
pub(crate) struct Report {
    file: File,
}

impl Report {
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        Ok(Self { file: File::create(path).with_context(|| format!("creating {}", path.display()))? })
    }

    pub(crate) fn line(&mut self, text: &str) -> anyhow::Result<()> {
        writeln!(std::io::stdout(), "{text}")?;
        writeln!(self.file, "{text}")?;
        Ok(())
    }

    /// Whole numbers from 100 on.
    pub(crate) fn figure(&mut self, name: &str, value: f64, unit: &str) -> anyhow::Result<()> {
        self.line(&format!("figure {name} {} {unit}", short(value)))
    }

    pub(crate) fn figure_with_bar(&mut self, name: &str, value: f64, bar: u32, unit: &str) -> anyhow::Result<()> {
        self.line(&format!("figure {name} {} {unit} (bar: {bar} {unit})", short(value)))
    }

    pub(crate) fn medians(&mut self, name: &str, values: &[f64]) -> anyhow::Result<()> {
        self.figure(&format!("{name}_median"), median(values), "ms")?;
        self.figure(&format!("{name}_min"), least(values), "ms")?;
        self.figure(&format!("{name}_max"), most(values), "ms")
    }
}

fn short(value: f64) -> String {
    let digits = match value.abs() {
        whole if whole.fract() == 0.0 => 0,
        100.0.. => 0,
        10.0.. => 1,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// Of an even number: the middle between the middle two.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) { f64::midpoint(sorted[half - 1], sorted[half]) } else { sorted[half] }
}

pub(crate) fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

pub(crate) fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

/// The averages over 1, 5 and 15 minutes.
pub(crate) fn load() -> anyhow::Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').take(3).collect::<Vec<_>>().join(" "))
}

/// What the figures depend on.
pub(crate) struct Machine {
    load: String,
    began: String,
    commit: String,
    rustc: String,
    qemu: String,
    kernel: String,
    cpu: String,
    /// Of the VMs, with its folder.
    image: Option<(serde_json::Value, PathBuf)>,
}

impl Machine {
    pub(crate) fn look(images: Option<&Path>) -> anyhow::Result<Self> {
        let commit = said("git", &["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])?;
        let cpus = std::fs::read_to_string("/proc/cpuinfo")?;
        let models = cpus.lines().filter(|line| line.starts_with("model name")).filter_map(|line| line.split(": ").nth(1));
        let model = models.clone().next().unwrap_or("unknown").to_owned();
        let cores = std::thread::available_parallelism()?;
        Ok(Self {
            load: load()?,
            began: said("date", &["-u", "+%Y-%m-%dT%H:%M:%SZ"])?,
            commit,
            rustc: said("rustc", &["--version"])?,
            qemu: said("qemu-system-x86_64", &["--version"])?.lines().next().unwrap_or_default().to_owned(),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            cpu: format!("{model}, {cores} cores"),
            image: match images {
                Some(images) => Some((serde_json::from_slice(&std::fs::read(images.join("manifest.json"))?)?, images.to_owned())),
                None => None,
            },
        })
    }

    pub(crate) fn tell(&self, report: &mut Report) -> anyhow::Result<()> {
        let profile = if cfg!(debug_assertions) { "dev, not optimised, as `make up` runs it" } else { "optimised" };
        report.line(&format!("# vm-service {} at {}, {}, build profile: {profile}", self.commit, self.began, self.rustc))?;
        report.line(&format!("# {}; kernel of the host {}", self.qemu, self.kernel))?;
        if let Some((image, folder)) = &self.image {
            let of = |name: &str| image[name].as_str().unwrap_or("unknown").to_owned();
            let (hash, kernel) = (of("hash"), of("kernel_version"));
            report.line(&format!("# image {hash} ({}), kernel of the guest {kernel}", folder.display()))?;
        }
        report.line(&format!("# CPU: {}; load at the start: {}", self.cpu, self.load))
    }
}

/// The trimmed standard output of a program that succeeded.
pub(crate) fn said(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("starting {program}"))?;
    anyhow::ensure!(output.status.success(), "{program} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
