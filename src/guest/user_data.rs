//! Cloud-init user data: the keys a machine is first met with, and its end should nobody ever come.
//!
//! It is readable inside the VM (on EC2 for its whole life), so the bootstrap host key is the only secret in it, and that is void
//! after first contact. `#cloud-config` is YAML, and JSON is YAML: it is written by serde_json and nothing is escaped by hand.
//! The image's own quick reader (`ami/files/base/usr/local/lib/vm-service/seed`) knows exactly these keys; with any other key it
//! leaves the work to cloud-init, which takes many seconds longer. What is not said here are cloud-init's defaults: with
//! `ssh_keys`, other host keys are deleted and none are generated.

use crate::domain::identity::Bootstrap;
use serde_json::json;
use std::time::Duration;

/// Sets the end of the machine, and keeps one that was set before: `bootcmd` runs at each boot, also when a job restarts its VM.
const END_AFTER: [&str; 2] = ["/usr/local/lib/vm-service/end-after", "--unless-set"];

/// User data that makes a machine answer to `bootstrap` and end itself after `silent_for` (whole seconds) without first contact.
pub fn cloud_config(bootstrap: &Bootstrap, silent_for: Duration) -> String {
    let seconds = silent_for.as_secs().to_string();
    let config = json!({
        "ssh_keys": {
            "ed25519_private": bootstrap.host_private.expose(),
            "ed25519_public": bootstrap.host_public,
        },
        "ssh_authorized_keys": [bootstrap.login_public],
        "bootcmd": [[END_AFTER[0], END_AFTER[1], seconds]],
    });
    format!("#cloud-config\n{config}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_the_host_key_the_public_login_and_the_end_and_nothing_else() {
        let bootstrap = Bootstrap::generate().unwrap();
        let text = cloud_config(&bootstrap, Duration::from_secs(600));
        let body = text.strip_prefix("#cloud-config\n").unwrap();
        let read: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(
            read,
            json!({
                "ssh_keys": {"ed25519_private": bootstrap.host_private.expose(), "ed25519_public": bootstrap.host_public},
                "ssh_authorized_keys": [bootstrap.login_public],
                "bootcmd": [["/usr/local/lib/vm-service/end-after", "--unless-set", "600"]],
            })
        );
        // Nor in any other clothing: not one line of the login's private half.
        for line in bootstrap.login_private.expose().lines().filter(|line| !line.contains("OPENSSH") && line.len() > 8) {
            let shared_head = bootstrap.host_private.expose().contains(line);
            assert!(shared_head || !text.contains(line), "{line}");
        }
        // EC2 takes 16 KiB.
        assert!(text.len() < 2048, "{}", text.len());
    }
}
