//! What is judged on a page: axe-core finds nothing that keeps a person out, the browser's console has no error, and on a phone nothing
//! is beside the screen. A picture of each theme is kept.

use super::{Browser, pictures};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use std::path::PathBuf;

/// What `.ci/setup --test` installs; the name says the version.
const AXE: &str = "vm-service/axe-core-4.14.1/axe.min.js";
/// The rules: WCAG 2.2 to level AA, and what axe calls best practice.
const TAGS: [&str; 6] = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
/// A small phone, in CSS pixels.
const PHONE: (u32, u32) = (360, 740);
/// Text in a picture shrinks with it; nobody reads less, in CSS pixels.
const SMALLEST: f64 = 10.0;
const SMALLEST_OF_PICTURES: &str = "Math.min(99, ...[...document.querySelectorAll('svg text')]
    .map(text => parseFloat(getComputedStyle(text).fontSize) * text.getScreenCTM().a))";
/// A picture is no longer than this, in pixels.
const LONGEST: u64 = 4000;

#[allow(clippy::disallowed_methods, reason = "where the test set-up put its tools is no configuration of the service")]
fn axe() -> String {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache");
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map_or_else(home, PathBuf::from);
    let file = cache.join(AXE);
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}: run .ci/setup --test", file.display()))
}

impl Browser {
    /// Looks at the page as it is now; fails with everything that is wrong.
    pub(crate) async fn look(&self, name: &str) {
        let wrong = self.found_at(name).await;
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    /// What is wrong with the page as it is now, in both themes and at the width of a phone.
    pub(crate) async fn found_at(&self, name: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        for theme in ["light", "dark"] {
            self.media(theme).await;
            wrong.extend(self.barriers().await.into_iter().map(|sentence| format!("{theme}: {sentence}")));
            self.picture(&format!("{name}-{theme}")).await;
        }
        self.media("light").await;
        wrong.extend(self.at_phone_width(name).await);
        wrong.extend(self.console_errors().await);
        wrong.into_iter().map(|sentence| format!("{name}, {sentence}")).collect()
    }

    /// What axe says, a sentence each.
    pub(crate) async fn barriers(&self) -> Vec<String> {
        if self.evaluate("typeof window.axe").await == "undefined" {
            // Its value would be everything that axe is.
            self.evaluate(&format!("{};0", axe())).await;
        }
        let options = json!({ "runOnly": TAGS, "resultTypes": ["violations"] });
        let found = self.evaluate(&format!("axe.run(document, {options}).then(found => found.violations)")).await;
        let violations = found.as_array().unwrap_or_else(|| panic!("axe said {found}"));
        violations.iter().flat_map(sentences).collect()
    }

    async fn at_phone_width(&self, name: &str) -> Vec<String> {
        let (width, height) = PHONE;
        let screen = json!({ "width": width, "height": height, "deviceScaleFactor": 2, "mobile": true });
        self.devtools("Emulation.setDeviceMetricsOverride", screen).await;
        let beside = self.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth").await;
        let mut wrong: Vec<String> = self.barriers().await.into_iter().map(|sentence| format!("phone: {sentence}")).collect();
        if beside.as_i64() != Some(0) {
            wrong.push(format!("phone: {beside} pixels are beside a screen of {width}"));
        }
        let smallest = self.evaluate(SMALLEST_OF_PICTURES).await;
        if smallest.as_f64().unwrap() < SMALLEST {
            wrong.push(format!("phone: {smallest} pixels is the height of a text in a picture"));
        }
        self.picture(&format!("{name}-phone")).await;
        self.devtools("Emulation.clearDeviceMetricsOverride", json!({})).await;
        wrong
    }

    /// Errors in the browser's console since the last look.
    pub(crate) async fn console_errors(&self) -> Vec<String> {
        let log = self.post("se/log", json!({ "type": "browser" })).await;
        let entries = log.as_array().unwrap_or_else(|| panic!("the console's log is {log}"));
        let errors = entries.iter().filter(|entry| entry["level"] == "SEVERE");
        errors.map(|entry| format!("console: {}", entry["message"].as_str().unwrap_or_default())).collect()
    }

    /// Keeps a picture of the whole page.
    pub(crate) async fn picture(&self, name: &str) {
        let metrics = self.devtools("Page.getLayoutMetrics", json!({})).await;
        let (width, height) = (metrics["cssContentSize"]["width"].as_u64(), metrics["cssContentSize"]["height"].as_u64());
        let clip =
            json!({ "x": 0, "y": 0, "width": width.unwrap_or(1280), "height": height.unwrap_or(900).min(LONGEST), "scale": 1 });
        let picture = json!({ "format": "png", "captureBeyondViewport": true, "clip": clip });
        let picture = self.devtools("Page.captureScreenshot", picture).await;
        std::fs::write(pictures().join(format!("{name}.png")), BASE64.decode(picture["data"].as_str().unwrap()).unwrap()).unwrap();
    }
}

/// One for each place: `Images must have alternative text (image-alt, critical): <img src="x">`.
fn sentences(violation: &Value) -> Vec<String> {
    let text = |name: &str| violation[name].as_str().unwrap_or("-").to_owned();
    let places = violation["nodes"].as_array().cloned().unwrap_or_default();
    let place = |node: Value| {
        let (html, why) = (node["html"].as_str().unwrap_or_default(), node["failureSummary"].as_str().unwrap_or_default());
        let why = why.lines().skip(1).map(str::trim).collect::<Vec<_>>().join("; ");
        format!("{} ({}, {}): {html}: {why}", text("help"), text("id"), text("impact"))
    };
    places.into_iter().map(place).collect()
}
