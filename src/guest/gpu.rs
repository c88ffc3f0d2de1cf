//! Whether a VM's GPUs can be used: the check of its image (`ami/gpu`) is run in it, and its last line says what there is, or what is wrong.

use super::GuestError;
use super::bundle::AS_ROOT;
use super::linux::{Failed, MOST_OUTPUT, failed, run_capped};
use crate::ssh::{Session, printable};
use std::time::Duration;
use tokio::time::Instant;

/// The driver of a machine with many GPUs takes most of a minute.
const PATIENCE: Duration = Duration::from_secs(120);
/// The check ends by itself before we stop waiting for it.
const MARGIN: Duration = Duration::from_secs(5);
const CHECK: &str = "/usr/local/lib/vm-service/gpu-ready";

/// Waits until so many GPUs work, and says what they are, as the image's check puts it.
///
/// # Errors
/// `Misbehaved` with the check's own reason.
pub(super) async fn ready(session: &Session, gpus: u32, until: Instant) -> Result<String, GuestError> {
    let left = until.saturating_duration_since(Instant::now());
    let until = until.min(Instant::now() + PATIENCE);
    let within = until.saturating_duration_since(Instant::now()).saturating_sub(MARGIN).as_secs().max(1);
    match run_capped(session, AS_ROOT, &script(gpus, within), MOST_OUTPUT, until).await {
        Ok(said) => Ok(printable(last_line(&String::from_utf8_lossy(&said)).as_bytes())),
        Err(Failed::Command(_)) => Err(GuestError::Misbehaved("GPUs: the check ended without a word".to_owned())),
        Err(other) => Err(match failed(other, left) {
            GuestError::NotReachable(_) => GuestError::Misbehaved(format!("GPUs: the check did not end within {within} s")),
            other => other,
        }),
    }
    .and_then(|line| match line.strip_prefix("not ready: ") {
        Some(why) => Err(GuestError::Misbehaved(format!("GPUs: {why}"))),
        None => Ok(line),
    })
}

/// Says the check's last line; one that failed begins with `not ready: `.
fn script(gpus: u32, within: u64) -> String {
    format!(
        "check={CHECK}\n\
         if [ ! -x \"$check\" ]; then echo \"not ready: the image has no $check: use one of the kind gpu\"; exit 0; fi\n\
         if said=$(\"$check\" --expect {gpus} --within {within} 2>&1 </dev/null); then mark=; else mark='not ready: '; fi\n\
         last=$(printf '%s\\n' \"$said\" | grep . | tail -n 1)\n\
         printf '%s%s\\n' \"$mark\" \"${{last:-without a word}}\"\n"
    )
}

fn last_line(said: &str) -> &str {
    said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("not ready: the check ended without a word")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    /// What the script says where the image's check is this program.
    fn said(check: Option<&str>) -> String {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("gpu-ready");
        if let Some(check) = check {
            std::fs::write(&at, check).unwrap();
            std::fs::set_permissions(&at, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let script = script(4, 30).replace(CHECK, at.to_str().unwrap());
        let output = Command::new("/bin/sh").args(["-c", &script]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        last_line(&String::from_utf8(output.stdout).unwrap()).to_owned()
    }

    #[test]
    fn the_checks_last_line_is_the_answer_and_its_code_decides() {
        let good = "#!/bin/sh\necho noise\necho \"ready 4 580.95.05 Tesla T4 for $*\"\n";
        assert_eq!(said(Some(good)), "ready 4 580.95.05 Tesla T4 for --expect 4 --within 30");
        let bad = "#!/bin/sh\necho failed nvidia-smi shows 3 GPUs of 4\nexit 1\n";
        assert_eq!(said(Some(bad)), "not ready: failed nvidia-smi shows 3 GPUs of 4");
        assert_eq!(said(Some("#!/bin/sh\nexit 7\n")), "not ready: without a word");
        assert!(said(None).ends_with("gpu-ready: use one of the kind gpu"));
    }
}
