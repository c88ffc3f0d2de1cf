//! A check of settings that name EC2, over the API and on the console's page: the account is asked with dry runs alone, what it refuses is
//! told, and one that throttles is asked again.

use crate::api_support::{Api, OPERATOR, VIEWER};
use crate::ec2_doctor::{OURS, SECRET, settings};
use crate::ec2_wire::faults::Fault;
use crate::ec2_wire::proxy::Cloud;
use crate::ec2_wire::rules::Rules;
use crate::settings_browser::Browser;
use crate::support::Bench;
use chrono::TimeDelta;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::sync::Arc;
use vm_service::domain::outbound::Outbound;
use vm_service::domain::settings::Settings;
use vm_service::loops::checks::CheckSettings;
use vm_service::provider::Provider;
use vm_service::provider::ec2::Ec2;

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_check_asks_ec2_with_dry_runs_alone(pool: PgPool) {
    let cloud = Cloud::start(Rules::default()).await;
    let (api, mut bench) = (Api::new(pool.clone()).await, Bench::new(pool).await);
    bench.world.sealer = api.state.sealer.clone();
    let open = |settings: &Settings| -> Option<Arc<dyn Provider>> {
        Some(Arc::new(Ec2::new(OURS, settings.ec2.region.clone()?, Outbound::default())))
    };
    let checker = CheckSettings { world: bench.world.clone(), open: Arc::new(open) };
    let mut proposed = serde_json::to_value(settings(&cloud)).unwrap();
    proposed["ec2"]["authentication"]["access_key"]["secret"] = json!(SECRET);
    let ask = async || {
        let asked = api.with_body(OPERATOR, "POST", "/api/v1/settings/checks", &proposed.to_string()).await;
        assert_eq!(asked.status, 201, "{asked:?}");
        asked.header("location").to_owned()
    };
    let look = async |at: &str| api.call(VIEWER, "GET", at).await.json();
    let told = |view: &Value| -> Vec<String> {
        let findings = view["result"]["findings"].as_array().unwrap_or_else(|| panic!("{view}"));
        let odd = findings.iter().filter(|it| it["severity"] != "fine" && it["what"] != "provider");
        odd.map(|it| format!("{}: {}", it["severity"].as_str().unwrap(), it["detail"].as_str().unwrap())).collect()
    };

    let at = ask().await;
    bench.tick(&checker).await;
    let view = look(&at).await;
    assert_eq!(told(&view), Vec::<String>::new(), "{view}");
    assert!(view["result"]["findings"].as_array().unwrap().iter().any(|it| it["what"] == "trial launch"), "{view}");
    let browser = Browser::sign_in(&api, OPERATOR).await;
    let page = browser.get(&at.replace("/api/v1", "/console")).await;
    assert!(page.text.contains("trial launch") && page.text.contains("id=\"save\""), "{}", page.text);

    cloud.inject(Fault::unauthorized("RunInstances").always());
    let at = ask().await;
    bench.tick(&checker).await;
    let denied = told(&look(&at).await);
    cloud.lift_all();
    assert!(denied.len() == 1 && denied[0].starts_with("problem: ") && denied[0].contains("`vm-service iam-policy`"), "{denied:?}");

    cloud.inject(Fault::throttle("DescribeSubnets").always());
    let at = ask().await;
    bench.tick(&checker).await;
    assert_eq!(look(&at).await["state"], "running", "it is put back, to be asked again");
    cloud.lift_all();
    for clock in [&api.clock, &bench.clock] {
        clock.advance(TimeDelta::seconds(2));
    }
    bench.tick(&checker).await;
    assert_eq!(told(&look(&at).await), Vec::<String>::new());
    assert!(cloud.instances().await.is_empty() && cloud.volumes().await.is_empty(), "a check makes nothing");
}
