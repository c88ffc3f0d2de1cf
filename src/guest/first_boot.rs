//! User data for a machine whose image knows nothing of us, such as the distribution's own: it brings the scripts of `ami/` along, and sshd
//! stays shut until they have made the machine what a built image is. Slower than that by a minute or two each time.
//!
//! The scripts go as one shell archive, compressed, because user data is limited.

use crate::domain::identity::Bootstrap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

/// Where the archive puts the scripts.
const FOLDER: &str = "/run/vm-service-ami";
/// Ends each file in the archive.
const MARK: &str = "END-OF-THIS-FILE-OF-VM-SERVICE";

/// A file of `ami/` and its text.
macro_rules! embed {
    ($path:literal) => {
        ($path, include_str!(concat!("../../ami/", $path)))
    };
}

const FILES: &[(&str, &str)] = &[
    embed!("files/base/etc/cloud/cloud.cfg.d/90_vm-service.cfg"),
    embed!("files/base/etc/pam.d/sshd"),
    embed!("files/base/etc/ssh/sshd_config.d/10-vm-service.conf"),
    embed!("files/base/etc/sudoers.d/vm-service"),
    embed!("files/base/etc/systemd/journald.conf.d/vm-service.conf"),
    embed!("files/base/etc/systemd/network/05-vm-service.network"),
    embed!("files/base/etc/systemd/resolved.conf.d/vm-service.conf"),
    embed!("files/base/etc/systemd/system/poweroff.target.d/vm-service.conf"),
    embed!("files/base/etc/systemd/system/ssh.service"),
    embed!("files/base/etc/systemd/system/vm-service-end.service"),
    embed!("files/base/etc/systemd/system/vm-service-runcmd.service"),
    embed!("files/base/etc/systemd/system/vm-service-seed.service"),
    embed!("files/base/usr/local/lib/vm-service/end-after"),
    embed!("files/base/usr/local/lib/vm-service/end-at"),
    embed!("files/base/usr/local/lib/vm-service/end-watch"),
    embed!("files/base/usr/local/lib/vm-service/seed"),
    embed!("files/engine/etc/containerd/config.toml"),
    embed!("files/engine/etc/docker/daemon.json"),
    embed!("files/engine/etc/systemd/system/containerd.service.d/vm-service.conf"),
    embed!("files/engine/etc/systemd/system/docker.service.d/vm-service.conf"),
    embed!("files/engine/etc/systemd/system/vm-service-docker-tls.service"),
    embed!("files/engine/etc/vm-service/stunnel.conf"),
    embed!("first-boot"),
    embed!("provision/10-base.sh"),
    embed!("provision/20-engine.sh"),
    embed!("provision/30-tools.sh"),
    embed!("provision/lib.sh"),
    embed!("provision/tools.list"),
];

/// User data that prepares a machine, makes it answer to `bootstrap` afterwards, and ends it after `silent_for` without first contact.
pub(super) fn cloud_config(bootstrap: &Bootstrap, silent_for: Duration) -> String {
    let seconds = silent_for.as_secs();
    // Runs at each boot: the first one shuts sshd and sets an end, those after it keep the end that was set.
    let at_boot = format!(
        "if [ -e /var/lib/vm-service/prepared ]; then exec /usr/local/lib/vm-service/end-after --unless-set {seconds}; fi; \
         shutdown -P +{}; systemctl mask --runtime --now ssh.service ssh.socket",
        seconds.div_ceil(60)
    );
    let config = json!({
        "ssh_keys": {
            "ed25519_private": bootstrap.host_private.expose(),
            "ed25519_public": bootstrap.host_public,
        },
        "bootcmd": [["sh", "-c", at_boot]],
        "write_files": [{ "path": format!("{FOLDER}.sh"), "encoding": "gz+b64", "content": BASE64.encode(packed(&archive())) }],
        "runcmd": [["sh", format!("{FOLDER}.sh")], ["bash", format!("{FOLDER}/first-boot"), bootstrap.login_public]],
    });
    format!("#cloud-config\n{config}\n")
}

/// A shell script that writes the files.
fn archive() -> String {
    let mut script = "set -eu\n".to_owned();
    for (path, text) in FILES {
        let (folder, _) = path.rsplit_once('/').unwrap_or(("", path));
        writeln!(script, "mkdir -p {FOLDER}/{folder}\ncat >{FOLDER}/{path} <<'{MARK}'\n{}\n{MARK}", text.trim_end()).ok();
        if text.starts_with("#!") {
            writeln!(script, "chmod +x {FOLDER}/{path}").ok();
        }
    }
    script
}

fn packed(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    // Writing to memory does not fail.
    encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    fn read(folder: &Path, at: &Path, into: &mut BTreeMap<String, (String, bool)>) {
        for entry in std::fs::read_dir(folder.join(at)).unwrap() {
            let entry = entry.unwrap();
            let path = at.join(entry.file_name());
            if entry.path().is_dir() {
                read(folder, &path, into);
                continue;
            }
            let runs = entry.metadata().unwrap().permissions().mode() & 0o100 != 0;
            into.insert(path.to_str().unwrap().to_owned(), (std::fs::read_to_string(entry.path()).unwrap(), runs));
        }
    }

    /// What the archive writes is what the folder holds: names, texts, and what can be run.
    #[test]
    fn the_archive_is_the_folder() {
        let ami = Path::new(env!("CARGO_MANIFEST_DIR")).join("ami");
        let mut expected = BTreeMap::new();
        for part in ["files", "provision"] {
            read(&ami, Path::new(part), &mut expected);
        }
        let first_boot = std::fs::read_to_string(ami.join("first-boot")).unwrap();
        expected.insert("first-boot".to_owned(), (first_boot, true));
        let folder = tempfile::tempdir().unwrap();
        let script = archive().replace(FOLDER, folder.path().join("ami").to_str().unwrap());
        assert!(FILES.iter().all(|(_, text)| !text.contains(MARK)));
        let done = std::process::Command::new("sh").arg("-c").arg(&script).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        let mut written = BTreeMap::new();
        read(&folder.path().join("ami"), Path::new(""), &mut written);
        let what = |map: &BTreeMap<String, (String, bool)>| -> BTreeMap<String, (String, bool)> {
            map.iter().map(|(path, (text, runs))| (path.clone(), (text.trim_end().to_owned(), *runs))).collect()
        };
        assert_eq!(what(&written), what(&expected));
    }

    #[test]
    fn it_fits_and_holds_no_login() {
        let bootstrap = Bootstrap::generate().unwrap();
        let text = cloud_config(&bootstrap, Duration::from_secs(600));
        // EC2's limit (EC2 user guide, "Run commands when you launch an instance").
        assert!(text.len() <= 16_384, "{}", text.len());
        let body: serde_json::Value = serde_json::from_str(text.strip_prefix("#cloud-config\n").unwrap()).unwrap();
        assert_eq!(body["runcmd"][1][2], bootstrap.login_public.as_str());
        assert!(!text.contains(bootstrap.login_private.expose().lines().nth(3).unwrap()));
        let at_boot = body["bootcmd"][0][2].as_str().unwrap();
        assert!(at_boot.contains("shutdown -P +10;") && at_boot.contains("end-after --unless-set 600"), "{at_boot}");
    }
}
