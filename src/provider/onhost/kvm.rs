//! KVM is used only where a VM was seen to boot with it: that `/dev/kvm` can be opened proves nothing in a nested host.
//!
//! The probe starts the image's own kernel without any disk and waits for a word that a program in the initrd prints. A QEMU that
//! ends before, a kernel that panics or says nothing: no KVM. The answer is kept for this kernel, this QEMU and this image.
//! Contract with `ami/`: the initrd has `/bin/busybox`.
//! Reads, writes: `DATA/kvm.json`. Calls: QEMU. Runs: once, when the provider is opened or first launches.

use super::config::AcceleratorChoice;
use super::folder::write_whole;
use super::image::Image;
use super::qemu::{self, Accelerator};
use super::{host, process};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// A kernel reaches its first program in 1 s with KVM.
const PROBE_DEADLINE: Duration = Duration::from_secs(15);
const WORD: &str = "vm-service-probe-booted";

/// What makes the processors, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) accelerator: Accelerator,
    pub(super) reason: String,
}

/// A probe's answer.
#[derive(Serialize, Deserialize)]
struct Known {
    key: String,
    works: bool,
    reason: String,
}

/// Chooses, probing when the answer is not known.
pub(super) async fn choose(choice: AcceleratorChoice, data: &Path, image: &Image) -> Choice {
    let (accelerator, reason) = match choice {
        AcceleratorChoice::Kvm => (Accelerator::Kvm, "the configuration says so".to_owned()),
        AcceleratorChoice::Tcg => (Accelerator::Tcg, "the configuration says so".to_owned()),
        AcceleratorChoice::Auto => {
            let known = known(data, image).await;
            (if known.works { Accelerator::Kvm } else { Accelerator::Tcg }, known.reason)
        }
    };
    tracing::info!(?accelerator, %reason, "processors of the VMs");
    Choice { accelerator, reason }
}

async fn known(data: &Path, image: &Image) -> Known {
    if let Err(error) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        let reason = format!("software emulation: /dev/kvm cannot be opened ({error}); its group is usually kvm");
        return Known { key: String::new(), works: false, reason };
    }
    let version = process::run(qemu::PROGRAM, &["--version"], Duration::from_secs(5)).await.unwrap_or_default();
    let key = format!("{} | {} | {}", host::kernel_release(), version.lines().next().unwrap_or_default(), image.manifest.hash);
    let path = data.join("kvm.json");
    let kept = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Known>(&text).ok());
    if let Some(known) = kept.filter(|known| known.key == key) {
        return known;
    }
    let known = match probe(Accelerator::Kvm, image, PROBE_DEADLINE).await {
        Ok(()) => Known { key, works: true, reason: "a probe VM booted with KVM".into() },
        Err(error) => {
            Known { key, works: false, reason: format!("software emulation: a probe VM did not boot with KVM: {error:#}") }
        }
    };
    let kept = serde_json::to_vec(&known).map_err(anyhow::Error::new).and_then(|text| write_whole(&path, &text));
    if let Err(error) = kept {
        tracing::warn!(error = format!("{error:#}"), "the answer of the KVM probe cannot be kept");
    }
    known
}

/// Boots the kernel up to its first program.
pub(super) async fn probe(accelerator: Accelerator, image: &Image, deadline: Duration) -> anyhow::Result<()> {
    let mut line = qemu::base();
    line.extend(accelerator.arguments().map(str::to_owned));
    // Behind "--" stand the arguments of the first program; it ends at once, the kernel panics and QEMU with it.
    let append = format!("console=ttyS0 panic=-1 rdinit=/bin/busybox -- echo {WORD}");
    let (kernel, initrd) = (image.kernel.to_string_lossy(), image.initrd.to_string_lossy());
    let rest = ["-m", "512", "-kernel", &kernel, "-initrd", &initrd, "-append", &append];
    line.extend(rest.map(str::to_owned));
    let mut command = Command::new(&line[0]);
    command.args(&line[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let mut said = Vec::new();
    let booted = tokio::time::timeout(deadline, read_until_word(child.stdout.take(), &mut said)).await;
    if matches!(booted, Ok(true)) {
        child.kill().await?;
        return Ok(());
    }
    let silent = booted.is_err();
    drop(child.start_kill());
    let mut errors = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        drop(tokio::time::timeout(Duration::from_secs(1), stderr.read_to_string(&mut errors)).await);
    }
    child.wait().await?;
    let said = String::from_utf8_lossy(&said);
    // Behind a panic the kernel says more, and less.
    let panic = said.lines().rfind(|line| line.contains("Kernel panic"));
    let last = errors.lines().last().or(panic).or(said.lines().last()).unwrap_or_default();
    let what = if silent { format!("no word from it within {deadline:?}") } else { "QEMU ended before".to_owned() };
    let last: String = last.chars().filter(|letter| !letter.is_control()).collect();
    anyhow::bail!("{what}; it said: {last}");
}

/// True when the word came, false when the output ended.
async fn read_until_word(stdout: Option<tokio::process::ChildStdout>, said: &mut Vec<u8>) -> bool {
    let Some(mut stdout) = stdout else { return false };
    let mut buffer = [0; 4096];
    // The kernel repeats its command line early on; the word alone on its line is the program's.
    let word = format!("\n{WORD}\r\n");
    while let Ok(count @ 1..) = stdout.read(&mut buffer).await {
        said.extend_from_slice(&buffer[..count]);
        if said.windows(word.len()).any(|seen| seen == word.as_bytes()) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_known_answer_is_used_and_one_of_another_image_is_not() {
        let choice = choose(AcceleratorChoice::Kvm, Path::new("/nonexistent"), &Image::for_tests()).await;
        assert_eq!(choice.accelerator, Accelerator::Kvm);
        let choice = choose(AcceleratorChoice::Tcg, Path::new("/nonexistent"), &Image::for_tests()).await;
        assert_eq!(choice.accelerator, Accelerator::Tcg);
    }

    /// Boots a kernel by emulation, about 3 s: shows that the probe sees a boot. Run by hand: it needs an image.
    #[tokio::test]
    #[ignore = "needs a built image in /var/tmp/vm-service-images/current"]
    async fn the_probe_sees_a_boot_and_the_lack_of_one() {
        let image = Image::open(Path::new("/var/tmp/vm-service-images/current")).unwrap();
        probe(Accelerator::Tcg, &image, Duration::from_secs(60)).await.unwrap();
        let error = probe(Accelerator::Tcg, &image, Duration::from_millis(300)).await.unwrap_err();
        assert!(error.to_string().contains("no word"), "{error}");
        let error = probe(Accelerator::Kvm, &image, PROBE_DEADLINE).await;
        println!("{error:?}");
    }
}
