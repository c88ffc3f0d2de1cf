//! What the service answers is what its OpenAPI document says, whoever asks: schemathesis (PyPI) makes requests of the document, good
//! ones and bad ones, alone and one after the other, and judges each answer by it. No status 5xx, and no status, content type or body
//! outside the document; what the document forbids is refused.
//!
//! Seeded. `SCHEMATHESIS_EXAMPLES=n` sets how many requests are made of each operation in each phase (`make proof`: many more).
//!
//! What is not asked: polls of over a second (`api_wait` has them), and event streams (`api_sockets`): no tool reads one to its end.

use crate::api_support::{CI, OPERATOR, VIEWER};
use crate::over_sim::OverSim;
use sqlx::PgPool;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::Command;
use vm_service::http;

/// What `.ci/setup --test` installs; the name says the version.
const FOLDER: &str = "vm-service/schemathesis-4.32.5";
const SEED: &str = "20261122";
/// Takes half a minute a token on a machine of two cores.
const EXAMPLES: &str = "12";
const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/schemathesis");

#[allow(clippy::disallowed_methods, reason = "where the test set-up put its tools is no configuration of the service")]
fn tool() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache");
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map_or_else(home, PathBuf::from);
    let folder = cache.join(FOLDER);
    assert!(folder.join("complete").exists(), "{} is missing: run .ci/setup --test", folder.display());
    folder.join("bin/schemathesis")
}

#[allow(clippy::disallowed_methods, reason = "how long a test runs is no configuration of the service")]
fn examples() -> String {
    std::env::var("SCHEMATHESIS_EXAMPLES").unwrap_or_else(|_| EXAMPLES.to_owned())
}

/// Asks `service` with this token, by way of a hook where there is one; the options choose what.
async fn ask(service: &OverSim, token: &str, hook: Option<&str>, options: &[&str]) -> (bool, String) {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(tool());
    // Nothing of this machine's configuration, and no proxy.
    command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", home.path()).current_dir(home.path());
    command.env("VM_SERVICE_URL", &service.url).env("VM_SERVICE_TOKEN", token).env("PYTHONDONTWRITEBYTECODE", "1");
    command.envs(hook.map(|hook| ("SCHEMATHESIS_HOOKS", Path::new(HERE).join(hook))));
    command.arg("--config-file").arg(Path::new(HERE).join("schemathesis.toml"));
    command.args(["run", &format!("{}/openapi.json", service.url), "--header", &format!("Authorization: Bearer {token}")]);
    command.args(["--seed", SEED, "--max-examples", &examples(), "--generation-database", "none", "--no-color"]);
    command.args(["--warnings", "off", "--request-timeout", "70"]).args(options);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await.unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

/// Everything but the settings: what they are changed to decides what the other calls answer.
async fn every_answer_is_in_the_document(pool: PgPool, token: &str) {
    let service = OverSim::start(&pool, |settings| settings.preallocated.machine = 2).await;
    let (well, said) = ask(&service, token, None, &["--exclude-path", "/api/v1/settings"]).await;
    println!("{said}");
    assert!(well, "the service and its document differ");
    let operations = serde_json::to_value(http::document()).unwrap()["paths"].as_object().unwrap().clone();
    let operations = operations.iter().filter(|(path, _)| *path != "/api/v1/settings");
    let all: usize = operations.map(|(_, item)| item.as_object().unwrap().keys().filter(|key| *key != "parameters").count()).sum();
    assert!(said.contains(&format!("Tested: {all}")), "not all of {all} operations were tested");
    service.stop().await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_operator_gets_no_answer_outside_the_document(pool: PgPool) {
    every_answer_is_in_the_document(pool, OPERATOR).await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_viewer_gets_no_answer_outside_the_document(pool: PgPool) {
    every_answer_is_in_the_document(pool, VIEWER).await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_dispatcher_gets_no_answer_outside_the_document(pool: PgPool) {
    every_answer_is_in_the_document(pool, CI).await;
}

/// Settings of every form, each on top of the one before: saved or refused, and what is saved is shown as the document says.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn settings_that_the_document_allows_are_saved_or_refused(pool: PgPool) {
    let service = OverSim::start(&pool, |_| {}).await;
    // The hook sends its own If-Match and token, so their absence cannot be tested here.
    let only = ["--include-path", "/api/v1/settings", "--exclude-checks", "missing_required_header,ignored_auth"];
    let (well, said) = ask(&service, OPERATOR, Some("on_top_of_the_newest.py"), &only).await;
    println!("{said}");
    assert!(well, "the service and its document differ");
    let newest = service.db.find_settings().await.unwrap().unwrap();
    assert!(newest.version > 10, "only {} versions were saved", newest.version);
    service.stop().await;
}
