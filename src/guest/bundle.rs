//! What is sent into a VM at first contact, as one shell script on the standard input of one command: assignments of single-quoted
//! texts, then `personalise.sh`, then the call. Quoted texts need no decoding program in the VM, nothing secret is ever an argument
//! of a process, and a transfer that breaks off does nothing.
//!
//! Files with a format of their own (systemd units, apt, Docker's JSON) are written here; the script only puts them in place.

use super::Personality;
use crate::domain::identity::{Identity, USER};
use crate::domain::secret::Secret;
use crate::domain::settings::GuestSettings;
use chrono::{DateTime, Utc};
use russh::keys::PublicKey;
use serde_json::json;
use std::fmt::Write;

/// Runs a script that arrives on standard input, as root.
pub(super) const AS_ROOT: &str = "sudo -n /bin/sh -s";
/// The same as the login's user.
pub(super) const AS_USER: &str = "/bin/sh -s";

const SCRIPT: &str = include_str!("personalise.sh");
/// With proxies and no list of exceptions.
const NO_PROXY: &str = "localhost,127.0.0.1";

/// The script that makes a VM what `identity` and `personality` say; for [`AS_ROOT`]. `personality.now` must be the present.
pub(super) fn personalise(identity: &Identity, personality: &Personality) -> Secret {
    let proxies = Proxies::of(&personality.settings);
    let docker = identity.docker.as_ref();
    let mut script = String::with_capacity(24 * 1024);
    let mut assign = |name: &str, value: &str| {
        script.push_str(name);
        script.push('=');
        quote(&mut script, value.trim_end());
        script.push('\n');
    };
    assign("now", &personality.now.timestamp().to_string());
    assign("end", &personality.absolute_end_at.timestamp().max(0).to_string());
    assign("host_private", identity.host_private.expose());
    assign("host_public", &identity.host_public);
    assign("login_public", &identity.login_public);
    assign("docker_ca", docker.map_or("", |it| &it.ca));
    assign("docker_cert", docker.map_or("", |it| &it.server_cert));
    assign("docker_key", docker.map_or("", |it| it.server_key.expose()));
    assign("environment", &proxies.environment());
    assign("apt_conf", &proxies.apt());
    assign("docker_unit", &proxies.docker_unit());
    assign("docker_client", &proxies.docker_client());
    script.push_str(SCRIPT);
    script.push_str("personalise");
    for certificate in &personality.settings.root_certificates {
        script.push(' ');
        quote(&mut script, certificate);
    }
    script.push_str(" </dev/null\n");
    Secret::new(script)
}

/// The script that tells a VM its end, seconds since 1970; for [`AS_ROOT`].
pub(super) fn set_end(end_at: DateTime<Utc>) -> String {
    format!("end={}\n{SCRIPT}set_end </dev/null\n", end_at.timestamp().max(0))
}

/// The script that lets `public_keys` log in beside those that may already; for [`AS_USER`]. Keys that cannot be read are an error.
/// Comments are left out: they are the requester's text.
pub(super) fn authorise(public_keys: &[String]) -> Result<String, String> {
    let mut script = String::from(
        "set -eu\numask 077\nauthorise() {\n    file=~/.ssh/authorized_keys had=\n    \
         while IFS= read -r line || [ -n \"$line\" ]; do had=\"$had|$line|\"; done <\"$file\"\n    \
         for key in \"$@\"; do case $had in *\"|$key|\"*) ;; *) printf '%s\\n' \"$key\" >>\"$file\" ;; esac; done\n}\nauthorise",
    );
    for key in public_keys {
        let mut key = PublicKey::from_openssh(key).map_err(|_| "a public key is not in OpenSSH format".to_owned())?;
        key.set_comment("");
        script.push(' ');
        let line = key.to_openssh().map_err(|_| "a public key cannot be written".to_owned())?;
        quote(&mut script, line.trim_end());
    }
    script.push('\n');
    Ok(script)
}

/// Appends `text` as one word of a POSIX shell, whatever is in it.
pub(super) fn quote(script: &mut String, text: &str) {
    script.push('\'');
    script.push_str(&text.replace('\'', r"'\''"));
    script.push('\'');
}

struct Proxies<'a> {
    http: Option<&'a str>,
    https: Option<&'a str>,
    none: &'a str,
}

impl<'a> Proxies<'a> {
    fn of(settings: &'a GuestSettings) -> Self {
        Self {
            http: settings.http_proxy.as_deref(),
            https: settings.https_proxy.as_deref(),
            none: settings.no_proxy.as_deref().unwrap_or(NO_PROXY),
        }
    }

    fn any(&self) -> bool {
        self.http.is_some() || self.https.is_some()
    }

    /// Names and values; both spellings, because programs differ in which they read. Empty without a proxy.
    fn variables(&self) -> Vec<(&'static str, &'a str)> {
        let mut variables = Vec::new();
        variables.extend(self.http.into_iter().flat_map(|it| [("http_proxy", it), ("HTTP_PROXY", it)]));
        variables.extend(self.https.into_iter().flat_map(|it| [("https_proxy", it), ("HTTPS_PROXY", it)]));
        if self.any() {
            variables.extend([("no_proxy", self.none), ("NO_PROXY", self.none)]);
        }
        variables
    }

    /// Lines for /etc/environment.
    fn environment(&self) -> String {
        self.variables().into_iter().fold(String::new(), |mut text, (name, value)| {
            writeln!(text, "{name}={value}").ok();
            text
        })
    }

    fn apt(&self) -> String {
        let mut text = String::new();
        for (scheme, proxy) in [("http", self.http), ("https", self.https)] {
            if let Some(proxy) = proxy {
                writeln!(text, "Acquire::{scheme}::Proxy \"{proxy}\";").ok();
            }
        }
        text
    }

    /// A drop-in for the engine's unit; `%` begins a specifier there (systemd.unit(5)).
    fn docker_unit(&self) -> String {
        self.variables().into_iter().fold("[Service]\n".to_owned(), |mut text, (name, value)| {
            writeln!(text, "Environment=\"{name}={}\"", value.replace('%', "%%")).ok();
            text
        })
    }

    /// What Docker's client gives to builds and containers.
    fn docker_client(&self) -> String {
        let mut default = serde_json::Map::new();
        for (name, value) in [("httpProxy", self.http), ("httpsProxy", self.https), ("noProxy", Some(self.none))] {
            if let Some(value) = value {
                default.insert(name.to_owned(), value.into());
            }
        }
        json!({"proxies": {"default": default}}).to_string()
    }
}

/// The user whose home the scripts write to is the one that logs in.
const _: () = assert!(matches!(USER.as_bytes(), b"circleci"));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::task::Executor;
    use chrono::{DateTime, TimeDelta};
    use std::process::{Command, Stdio};

    const SHELLS: [&str; 2] = ["dash", "bash"];

    fn personality(settings: GuestSettings) -> Personality {
        let now = DateTime::from_timestamp(1_790_000_000, 0).unwrap();
        Personality { settings, gpus: 0, absolute_end_at: now + TimeDelta::hours(30), now }
    }

    fn identity() -> Identity {
        let Personality { now, absolute_end_at, .. } = personality(GuestSettings::default());
        Identity::generate(Executor::RemoteDocker, &[], now, absolute_end_at).unwrap()
    }

    fn run(shell: &str, script: &str) -> (bool, String) {
        let mut child =
            Command::new(shell).arg("-s").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), script.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }

    /// The script with its actions replaced by ones that only say what they got.
    fn harmless(script: &str) -> String {
        let (assignments, call) = script.split_once(SCRIPT).unwrap();
        let show = "personalise() { printf '%s|' \"$now\" \"$end\" \"$host_private\" \"$login_public\" \"$docker_key\" \
                    \"$environment\" \"$apt_conf\" \"$docker_unit\" \"$docker_client\" \"$@\"; }\n";
        format!("{assignments}{show}{call}")
    }

    #[test]
    fn every_text_arrives_as_it_was_and_nothing_is_run() {
        let mut identity = identity();
        identity.host_private = Secret::new("it's $(touch /tmp/owned) `id` \\ \"$HOME\" ''' end");
        let pem = |text: &str| format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----");
        let settings = GuestSettings {
            http_proxy: Some("http://u:p%40w@proxy.example:3128".to_owned()),
            root_certificates: vec![pem("one"), pem("two"), pem("three")],
            ..GuestSettings::default()
        };
        let script = personalise(&identity, &personality(settings));
        let docker_key = identity.docker.as_ref().unwrap().server_key.expose().trim_end().to_owned();
        let expected = [
            "1790000000",
            "1790108000",
            identity.host_private.expose(),
            &identity.login_public,
            &docker_key,
            "http_proxy=http://u:p%40w@proxy.example:3128\nHTTP_PROXY=http://u:p%40w@proxy.example:3128\n\
             no_proxy=localhost,127.0.0.1\nNO_PROXY=localhost,127.0.0.1",
            "Acquire::http::Proxy \"http://u:p%40w@proxy.example:3128\";",
            "[Service]\nEnvironment=\"http_proxy=http://u:p%%40w@proxy.example:3128\"\n\
             Environment=\"HTTP_PROXY=http://u:p%%40w@proxy.example:3128\"\n\
             Environment=\"no_proxy=localhost,127.0.0.1\"\nEnvironment=\"NO_PROXY=localhost,127.0.0.1\"",
            r#"{"proxies":{"default":{"httpProxy":"http://u:p%40w@proxy.example:3128","noProxy":"localhost,127.0.0.1"}}}"#,
            &pem("one"),
            &pem("two"),
            &pem("three"),
        ];
        for shell in SHELLS {
            let (ok, said) = run(shell, &harmless(script.expose()));
            assert!(ok, "{shell}: {said}");
            assert_eq!(said, format!("{}|", expected.join("|")), "{shell}");
        }
    }

    #[test]
    fn without_proxies_there_is_nothing_to_set_and_no_private_login_in_it() {
        let identity = identity();
        let script = personalise(&identity, &personality(GuestSettings::default()));
        for name in ["environment", "apt_conf"] {
            assert!(script.expose().contains(&format!("\n{name}=''\n")), "{name}");
        }
        for private in [identity.login_private.expose(), identity.docker.as_ref().unwrap().client_key.expose()] {
            let telling = private.lines().nth(3).or(private.lines().nth(1)).unwrap();
            assert!(telling.len() > 30 && !script.expose().contains(telling));
        }
    }

    #[test]
    fn a_transfer_that_breaks_off_does_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mark = folder.path().join("done");
        let script = personalise(&identity(), &personality(GuestSettings::default()));
        let (assignments, call) = script.expose().split_once(SCRIPT).unwrap();
        let text = format!("{assignments}personalise() {{\n echo >{}\n}}\n{call}", mark.display());
        let last_line = text.trim_end().rfind('\n').unwrap();
        for shell in SHELLS {
            for cut in (0..last_line).step_by(97) {
                run(shell, text.get(..cut).unwrap());
            }
            assert!(!mark.exists(), "{shell}");
        }
        run("dash", &text);
        assert!(mark.exists());
    }

    #[test]
    fn authorising_twice_adds_once_and_keeps_what_was_there() {
        let keys = [identity().login_public, format!("{} it's $(a) comment", identity().login_public)];
        let script = authorise(&keys).unwrap();
        for shell in SHELLS {
            let home = tempfile::tempdir().unwrap();
            let file = home.path().join(".ssh/authorized_keys");
            std::fs::create_dir(home.path().join(".ssh")).unwrap();
            std::fs::write(&file, "ssh-ed25519 OWN\n").unwrap();
            let script = format!("HOME={}\n{script}", home.path().display());
            for _ in 0..2 {
                let (ok, said) = run(shell, &script);
                assert!(ok, "{shell}: {said}");
            }
            let second = keys[1].split(' ').take(2).collect::<Vec<_>>().join(" ");
            assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("ssh-ed25519 OWN\n{}\n{second}\n", keys[0]));
        }
        assert!(authorise(&["command=\"id\" ssh-ed25519 AAAA".to_owned()]).is_err());
    }

    #[test]
    fn the_script_is_clean() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/guest/personalise.sh");
        let output = Command::new("shellcheck").arg(path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}
