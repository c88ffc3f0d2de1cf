//! `make pictures`: the pages that the README shows, over a staged afternoon of the simulated cloud, written to `docs/pictures/`.

use super::console::{ask, task};
use super::{Browser, with_browser};
use crate::api_support::{CI, OPERATOR};
use crate::over_sim::OverSim;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::TimeDelta;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::path::PathBuf;
use vm_service::domain::preallocated::Schedule;
use vm_service::domain::settings::Settings;
use vm_service::domain::task::Executor;

/// In CSS pixels: a laptop's window, and the longest picture.
const WIDTH: u64 = 1180;
const LONGEST: u64 = 1200;
/// Starts of the hours before, which the chart of the overview shows.
const STARTS: &str = "insert into vms.events (at, kind, message)
    select now() - interval '1 min' * m, case when m % 37 = 0 then 'vm.start_failed' else 'vm.available' end, 'staged'
    from generate_series(16, 340) m, generate_series(1, (2 + 2.4 * abs(sin(m / 90.0)))::int)";

fn staged(settings: &mut Settings) {
    let schedule = |cron: &str, count| Schedule {
        executor: Executor::Machine,
        resource_class: "medium".to_owned(),
        cron: cron.to_owned(),
        count,
    };
    let all = &mut settings.preallocated;
    (all.machine, all.remote_docker, all.time_zone) = (4, 2, "Europe/Paris".to_owned());
    all.schedules = vec![schedule("0 7 * * 1-5", 12), schedule("0 20 * * *", 2)];
    settings.limits.vms = Some(60);
}

impl Browser {
    /// Both themes of the page as it is now, as far down as a picture shows it.
    async fn pictures(&self, name: &str) {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/pictures");
        std::fs::create_dir_all(&folder).unwrap();
        for theme in ["light", "dark"] {
            self.media(theme).await;
            let height = self.evaluate("document.documentElement.scrollHeight").await.as_u64().unwrap().min(LONGEST);
            let clip = json!({ "x": 0, "y": 0, "width": WIDTH, "height": height, "scale": 1 });
            let picture = json!({ "format": "webp", "quality": 85, "captureBeyondViewport": true, "clip": clip });
            let picture = self.devtools("Page.captureScreenshot", picture).await;
            let file = folder.join(format!("{name}-{theme}.webp"));
            std::fs::write(file, BASE64.decode(picture["data"].as_str().unwrap()).unwrap()).unwrap();
            self.picture(&format!("readme-{name}-{theme}")).await;
        }
    }
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
#[ignore = "writes docs/pictures/; `make pictures` runs it"]
async fn pictures_of_the_readme(pool: PgPool) {
    let service = OverSim::start(&pool, staged).await;
    sqlx::query(STARTS).execute(&pool).await.unwrap();
    service.sim.set_boot_time(TimeDelta::seconds(9));
    let mut first = Value::Null;
    for (n, project) in
        ["acme/shop", "acme/shop", "acme/api", "acme/web", "globex/etl", "acme/api", "initech/tps"].iter().enumerate()
    {
        let job = ("labels", json!({ "job": (4711 + n).to_string() }));
        let caches = ("docker_layer_caching", json!(n % 2 == 0));
        let made = task(&service, n % 3 == 0, &[("project_id", json!(project)), caches, job]).await;
        match n {
            0 => first = made,
            4 => drop(ask(&service, CI, "DELETE", &format!("/api/v1/tasks/{}", made["id"].as_str().unwrap()), None).await),
            _ => {}
        }
    }
    // What is asked for from now on waits.
    service.sim.set_boot_time(TimeDelta::hours(1));
    for class in ["large", "large", "large"] {
        task(&service, false, &[("resource_class", json!(class)), ("project_id", json!("globex/etl"))]).await;
    }
    with_browser(async |browser| {
        let screen = json!({ "width": WIDTH, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        browser.devtools("Emulation.setDeviceMetricsOverride", screen).await;
        browser.sign_in(&service, OPERATOR).await;
        browser.open(&service, "/console").await;
        browser.until("what is on its way", "document.body.innerText.includes('large')").await;
        browser.pictures("overview").await;
        browser.open(&service, &format!("/console/tasks/{}", first["id"].as_str().unwrap())).await;
        browser.pictures("task").await;
        browser.open(&service, "/console/settings").await;
        browser.pictures("settings").await;
    })
    .await;
    service.stop().await;
}
