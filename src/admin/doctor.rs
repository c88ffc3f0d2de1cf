//! `vm-service doctor`: says what is missing on this machine and how to get it; changes nothing.

use crate::config::ConfigError;
use crate::db::Db;
use crate::db::connect::Server;
use crate::domain::plan::images::Registered;
use crate::provider::{Finding, Provider};
use std::io::Write;
use std::sync::Arc;

/// Looks at everything that the service needs here; `provider` is where the settings say that VMs come from, and what is registered there.
pub async fn look(
    mistakes: Option<&ConfigError>,
    external: Option<&Server>,
    settings: Finding,
    provider: anyhow::Result<(Arc<dyn Provider>, Vec<Registered>)>,
) -> Vec<Finding> {
    let mut findings = vec![configuration(mistakes), postgres(external).await, settings, docker_client()];
    match provider {
        Ok((provider, registered)) => findings.extend(provider.check(&registered).await),
        Err(error) => findings.push(Finding { ok: false, what: "VMs".to_owned(), detail: format!("{error:#}") }),
    }
    findings
}

/// Prints the findings, one a line, or as JSON.
///
/// # Errors
/// `out` is closed.
pub fn print(findings: &[Finding], json: bool, out: &mut impl Write) -> anyhow::Result<()> {
    if json {
        serde_json::to_writer_pretty(&mut *out, findings)?;
        writeln!(out)?;
        return Ok(());
    }
    for finding in findings {
        writeln!(out, "{}  {}: {}", if finding.ok { "ok     " } else { "MISSING" }, finding.what, finding.detail)?;
    }
    Ok(())
}

fn configuration(mistakes: Option<&ConfigError>) -> Finding {
    let detail = mistakes.map_or_else(|| "read".to_owned(), ToString::to_string);
    Finding { ok: mistakes.is_none(), what: "configuration".to_owned(), detail }
}

async fn postgres(external: Option<&Server>) -> Finding {
    let what = "Postgres".to_owned();
    let Some(server) = external else {
        let installed = std::fs::read_dir("/usr/lib/postgresql").is_ok_and(|mut versions| versions.next().is_some());
        let detail = if installed {
            "embedded; its programs are installed"
        } else {
            "not installed: `apt-get install postgresql`, or set POSTGRES_HOST"
        };
        return Finding { ok: installed, what, detail: detail.to_owned() };
    };
    match Db::lazily(server.options(), 1).check_schema().await {
        Ok(()) => Finding { ok: true, what, detail: "external; answers, and its schema fits".to_owned() },
        Err(error) => Finding { ok: false, what, detail: format!("external; {error}") },
    }
}

fn docker_client() -> Finding {
    let path = std::process::Command::new("docker").arg("--version").output();
    let (ok, detail) = match path {
        Ok(done) if done.status.success() => (true, String::from_utf8_lossy(&done.stdout).trim().to_owned()),
        _ => (false, "not found; only `vm-service run --executor remote_docker` needs it: `apt-get install docker.io`".to_owned()),
    };
    Finding { ok, what: "Docker client".to_owned(), detail }
}
