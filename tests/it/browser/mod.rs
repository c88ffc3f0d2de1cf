//! The pages of the service in a real Chromium, driven over WebDriver: what a person sees, reads and presses.
//!
//! chromedriver is a child of the test on a free port of the loopback; its Chromium asks no host but 127.0.0.1. Pictures of what was looked
//! at are kept in `reports/console/`, for a look.
//!
//! Not here: what is judged on a page (`page`).

mod console;
mod harness;
mod page;
mod pages;
mod pictures;
mod script;

use fantoccini::{Client, ClientBuilder};
use futures::FutureExt as _;
use serde_json::{Value, json};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

/// A cold start of Chromium on a busy machine; below the limit of a test.
const STARTS_WITHIN: Duration = Duration::from_secs(60);
/// For something to appear on a page: a job of the simulated cloud takes seconds.
pub(crate) const APPEARS_WITHIN: Duration = Duration::from_secs(30);

/// One Chromium with one window.
pub(crate) struct Browser {
    pub(crate) client: Client,
    http: reqwest::Client,
    session: String,
    /// Chromium's own folder.
    _home: tempfile::TempDir,
    _driver: Child,
}

/// Runs `test` with a browser, which is ended whatever comes of it.
pub(crate) async fn with_browser(test: impl AsyncFnOnce(&Browser)) {
    let browser = Browser::start().await;
    let done = AssertUnwindSafe(test(&browser)).catch_unwind().await;
    if done.is_err() {
        browser.picture("failed").await;
    }
    browser.client.clone().close().await.ok();
    if let Err(panic) = done {
        std::panic::resume_unwind(panic);
    }
}

impl Browser {
    async fn start() -> Self {
        let home = tempfile::Builder::new().prefix("vm-service-browser-").tempdir_in("/var/tmp").unwrap();
        let mut driver = command(home.path()).spawn().unwrap_or_else(|error| {
            panic!(
                "chromedriver does not start ({error}): run .ci/setup --test, or put a Chromium and its chromedriver on the PATH"
            )
        });
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                let port =
                    line.rsplit_once("successfully on port ").and_then(|(_, rest)| rest.trim_end_matches('.').parse::<u16>().ok());
                if let Some(port) = port {
                    return port;
                }
            }
            panic!("chromedriver ended before it said its port");
        };
        let port = tokio::time::timeout(STARTS_WITHIN, port).await.expect("chromedriver says no port");
        // It must not stop for want of a reader.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let url = format!("http://127.0.0.1:{port}");
        let mut builder = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new());
        builder.capabilities(capabilities(home.path()).as_object().unwrap().clone());
        let client = tokio::time::timeout(STARTS_WITHIN, builder.connect(&url)).await.expect("Chromium does not start").unwrap();
        let session = format!("{url}/session/{}", client.session_id().await.unwrap().unwrap());
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let browser = Self { client, http, session, _home: home, _driver: driver };
        browser.media("light").await;
        browser
    }

    /// A command of chromedriver's own, beside the standard.
    async fn post(&self, path: &str, body: Value) -> Value {
        let answer = self.http.post(format!("{}/{path}", self.session)).json(&body).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        assert!(answer["value"].get("error").is_none(), "{path}: {answer}");
        answer["value"].clone()
    }

    /// A command of Chromium's own protocol.
    pub(crate) async fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.post("goog/cdp/execute", json!({ "cmd": command, "params": parameters })).await
    }

    /// The value of an expression, or of the promise that it is; a page's content security policy does not stop it.
    pub(crate) async fn evaluate(&self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let answer = self.devtools("Runtime.evaluate", parameters).await;
        assert!(answer.get("exceptionDetails").is_none(), "{answer}");
        answer["result"]["value"].clone()
    }

    /// Prefers `light` or `dark`, and no movement: what is judged must stand still.
    pub(crate) async fn media(&self, theme: &str) {
        let features = json!([
            { "name": "prefers-color-scheme", "value": theme },
            { "name": "prefers-reduced-motion", "value": "reduce" },
        ]);
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }

    /// Waits until the expression is true.
    pub(crate) async fn until(&self, what: &str, expression: &str) {
        self.until_within(APPEARS_WITHIN, what, expression).await;
    }

    /// The same for what takes longer.
    pub(crate) async fn until_within(&self, longest: Duration, what: &str, expression: &str) {
        let end = tokio::time::Instant::now() + longest;
        while self.evaluate(&format!("!!({expression})")).await != true {
            assert!(tokio::time::Instant::now() < end, "{what} did not come: {expression}\n{}", self.text().await);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What a reader reads.
    pub(crate) async fn text(&self) -> String {
        self.evaluate("document.body ? document.body.innerText : ''").await.as_str().unwrap_or_default().to_owned()
    }
}

fn command(home: &std::path::Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--", "chromedriver", "--port=0"]);
    // Chromium keeps everything in this folder, and what the user has is not seen.
    command.env("HOME", home).env("TMPDIR", home).env_remove("XDG_CONFIG_HOME").env_remove("XDG_CACHE_HOME");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    command
}

fn capabilities(home: &std::path::Path) -> Value {
    let mut arguments = vec![
        "--headless=new",
        "--window-size=1280,900",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-proxy-server",
        "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    ];
    let profile = format!("--user-data-dir={}", home.join("profile").display());
    arguments.push(&profile);
    if rustix::process::geteuid().is_root() {
        // Chromium's sandbox refuses root. What it shows is ours.
        arguments.push("--no-sandbox");
    }
    json!({
        "browserName": "chrome",
        "goog:chromeOptions": { "args": arguments },
        "goog:loggingPrefs": { "browser": "ALL" },
        "unhandledPromptBehavior": "ignore",
    })
}

/// Where pictures go.
fn pictures() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("reports/console");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
