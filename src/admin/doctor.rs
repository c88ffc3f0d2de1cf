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
        Err(error) => findings.push(Finding::new(false, "VMs", format!("{error:#}"))),
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
        let word = match finding {
            Finding { ok: true, .. } => "ok     ",
            Finding { throttled: true, .. } => "UNKNOWN",
            _ => "MISSING",
        };
        writeln!(out, "{word}  {}: {}", finding.what, finding.detail)?;
    }
    Ok(())
}

fn configuration(mistakes: Option<&ConfigError>) -> Finding {
    let detail = mistakes.map_or_else(|| "read".to_owned(), ToString::to_string);
    Finding::new(mistakes.is_none(), "configuration", detail)
}

async fn postgres(external: Option<&Server>) -> Finding {
    const WHAT: &str = "Postgres";
    let Some(server) = external else {
        let installed = std::fs::read_dir("/usr/lib/postgresql").is_ok_and(|mut versions| versions.next().is_some());
        let detail = if installed {
            "embedded; its programs are installed"
        } else {
            "not installed: `apt-get install postgresql`, or set POSTGRES_HOST"
        };
        return Finding::new(installed, WHAT, detail);
    };
    match Db::lazily(server.options(), 1).check_schema().await {
        Ok(()) => Finding::new(true, WHAT, "external; answers, and its schema fits"),
        Err(error) => Finding::new(false, WHAT, format!("external; {error}")),
    }
}

fn docker_client() -> Finding {
    let path = std::process::Command::new("docker").arg("--version").output();
    let (ok, detail) = match path {
        Ok(done) if done.status.success() => (true, String::from_utf8_lossy(&done.stdout).trim().to_owned()),
        _ => (false, "not found; only `vm-service run --executor remote_docker` needs it: `apt-get install docker.io`".to_owned()),
    };
    Finding::new(ok, "Docker client", detail)
}
