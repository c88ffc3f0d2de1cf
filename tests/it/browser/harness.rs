//! The harness itself: it sees what is wrong with a page, and a page that the service has from elsewhere works in it.

use super::with_browser;
use crate::api_support::OPERATOR;
use crate::over_sim::OverSim;
use serde_json::json;
use sqlx::PgPool;

/// An image without words, text that can hardly be read, an error in the console, a table that is wider than a phone.
const BARRIERS: &str = "data:text/html,<!doctype html><html lang=en><title>t</title><main><h1>t</h1><img src='data:,'>\
    <p style='color:%23eee;background:white'>faint</p><div style='width:900px'>wide</div></main><script>nobody.knows()</script>";

#[tokio::test]
async fn it_sees_what_is_wrong() {
    with_browser(async |browser| {
        browser.client.goto(BARRIERS).await.unwrap();
        let found = browser.barriers().await.join("\n");
        assert!(found.contains("(image-alt, critical)") && found.contains("(color-contrast, serious)"), "{found}");
        let errors = browser.console_errors().await.join("\n");
        assert!(errors.contains("nobody is not defined"), "{errors}");
        let screen = json!({ "width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": false });
        browser.devtools("Emulation.setDeviceMetricsOverride", screen).await;
        assert!(browser.evaluate("document.documentElement.scrollWidth").await.as_i64().unwrap() >= 900);
    })
    .await;
}

/// Whatever a page names, nobody outside is asked.
#[tokio::test]
async fn it_knows_no_host_but_this() {
    with_browser(async |browser| {
        browser.client.goto("data:text/html,<title>t</title>").await.unwrap();
        let asked = browser.evaluate("fetch('http://example.com/').then(() => 'answered', error => error.message)").await;
        assert_eq!(asked, "Failed to fetch");
        let errors = browser.console_errors().await.join("\n");
        assert!(errors.contains("ERR_NAME_NOT_RESOLVED"), "{errors}");
    })
    .await;
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn the_document_can_be_read_at_docs(pool: PgPool) {
    let service = OverSim::start(&pool, |_| {}).await;
    with_browser(async |browser| {
        browser.client.goto(&format!("{}/docs", service.url)).await.unwrap();
        browser.client.send_alert_text(OPERATOR).await.unwrap();
        browser.client.accept_alert().await.unwrap();
        browser.until("the list of calls", "document.querySelectorAll('.opblock').length > 20").await;
        assert_eq!(browser.console_errors().await, Vec::<String>::new());
        browser.picture("docs-light").await;
    })
    .await;
    service.stop().await;
}
