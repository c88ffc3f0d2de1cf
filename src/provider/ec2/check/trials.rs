//! What AWS would say to a launch, a termination, a stop and a start, asked as dry runs: nothing is made or ended, permissions and parameters are
//! checked. It does not reserve room and may overlook a quota.

use super::super::Ec2;
use super::super::candidates;
use super::super::launch;
use super::super::refusal::{Kind, Refusal};
use super::classes::Plan;
use super::{finding, refused};
use crate::domain::ids::LaunchId;
use crate::domain::tags::{Origin, Tags};
use crate::domain::task::Executor;
use crate::provider::{Finding, LaunchSpec, MachineState, Provider as _};
use chrono::DateTime;
use uuid::Uuid;

const LAUNCH: &str = "trial launch";
const QUOTA: &str = "vCPU quota";
const TEMPLATE: &str = "trial launch template";
const END: &str = "trial termination";
const STOP: &str = "trial stop";
const START: &str = "trial start";
const VOLUMES: &str = "volumes";
/// Dry runs of one check: below the five launches that AWS takes at once, so that a real one beside it is not throttled.
const MOST: usize = 4;
/// What AWS answers to a dry run that would succeed.
const WOULD_SUCCEED: &str = "DryRunOperation";

/// Asks for these launches with exactly the request of a launch.
pub(super) async fn launch(ec2: &Ec2, plans: &[Plan]) -> Vec<Finding> {
    if plans.is_empty() {
        return vec![finding(false, LAUNCH, "not tried: mend what is told above first")];
    }
    let mut tried = Vec::new();
    for plan in plans.iter().take(MOST) {
        let what = what(plan);
        match dry_run(ec2, plan).await {
            Ok(()) => tried.push(what),
            Err(refusal) if refusal.kind == Kind::Quota => {
                let detail = format!("{what}: {}: ask AWS for more (Service Quotas, Amazon EC2)", refusal.advice());
                return vec![finding(false, QUOTA, detail)];
            }
            Err(refusal) => return vec![refused(LAUNCH, &what, &refusal)],
        }
    }
    let detail = format!("allowed: {} (of {} different ones)", tried.join("; "), plans.len());
    let quota = "no trial launch named one; AWS tells it in full only to a real launch, or in Service Quotas, Amazon EC2";
    vec![finding(true, LAUNCH, detail), finding(true, QUOTA, quota)]
}

fn what(plan: &Plan) -> String {
    let asked = &plan.parameters;
    let market = if asked.spot { "spot" } else { "on demand" };
    format!("class {}: {} {market} in {}", plan.name, asked.instance_type, asked.subnet)
}

async fn dry_run(ec2: &Ec2, plan: &Plan) -> Result<(), Refusal> {
    let spec = LaunchSpec {
        client_token: format!("doctor-{}", Uuid::new_v4()),
        tags: Tags {
            installation: ec2.installation,
            launch: LaunchId(Uuid::nil()),
            executor: Executor::Machine,
            resource_class: plan.name.clone(),
            origin: Origin::OnDemand,
            created_at: DateTime::UNIX_EPOCH,
        },
        class: plan.class.clone(),
        count: 1,
        user_data: "#cloud-config\n".to_owned(),
        candidate: String::new(),
        image: None,
    };
    let client = ec2.client().await;
    let asked = launch::request(&client, &spec, &plan.parameters).dry_run(true).send().await;
    let made = match asked.map_err(Refusal::of) {
        Err(refusal) if refusal.code == WOULD_SUCCEED => return Ok(()),
        Err(refusal) => return Err(refusal),
        Ok(made) => made,
    };
    // Not Amazon's own EC2, and one that does not know dry runs.
    let ids: Vec<String> = made.instances.unwrap_or_default().into_iter().filter_map(|it| it.instance_id).collect();
    let ended = if ec2.end(&ids).await.is_ok() { "it is ended again" } else { "it could not be ended: end it by hand" };
    let message = format!("the EC2 at ec2.endpoint launched {} for a dry run; {ended}", ids.join(", "));
    Err(Refusal { kind: Kind::Invalid, code: "NoDryRun".to_owned(), message })
}

/// Asks for the launch template of the classes that leave AWS a choice of types. The fleet itself needs the same right to launch, and one
/// of its own that is told when it is first used.
pub(super) async fn template(ec2: &Ec2, plans: &[Plan]) -> Option<Finding> {
    let settings = &ec2.connection().settings;
    let plan = plans.iter().find(|plan| candidates::has_choice(settings, &plan.class.ec2))?;
    Some(match ec2.try_template(&plan.parameters).await {
        Some(refusal) if refusal.code == WOULD_SUCCEED => finding(true, TEMPLATE, format!("allowed: class {}", plan.name)),
        Some(refusal) => refused(TEMPLATE, &format!("class {}", plan.name), &refusal),
        None => finding(false, TEMPLATE, "the EC2 at ec2.endpoint made one for a dry run: delete vm-service-trial"),
    })
}

/// Lists the machines of this installation, and asks for the end of one, and for its stop and start where the settings keep a reserve, when
/// EC2 is known to understand dry runs.
pub(super) async fn change(ec2: &Ec2, knows_dry_runs: bool) -> Vec<Finding> {
    let reserve = ec2.classes().values().any(|class| class.reserve.machine + class.reserve.remote_docker > 0);
    let topics: &[&str] = if reserve { &[END, STOP, START] } else { &[END] };
    let all = |detail: &str| topics.iter().map(|topic| finding(true, topic, detail)).collect();
    let machines = match ec2.list().await {
        Ok(listing) => listing.machines,
        Err(error) => return topics.iter().map(|topic| Finding::failed(topic, &error)).collect(),
    };
    let Some(machine) = machines.into_iter().find(|it| it.state != MachineState::Terminated) else {
        return all("not tried: this installation has no machine; listing them works");
    };
    if !knows_dry_runs {
        return all("not tried before a trial launch has succeeded; listing machines works");
    }
    let mut findings = Vec::new();
    for topic in topics {
        findings.push(try_on(ec2, topic, &machine.provider_id).await);
    }
    findings
}

async fn try_on(ec2: &Ec2, topic: &str, id: &str) -> Finding {
    let client = ec2.client().await;
    let (budget, at_once) = (&ec2.budget, "did it for a dry run: use one that knows dry runs");
    let refusal = match topic {
        END => budget.terminate.call(client.terminate_instances().instance_ids(id).dry_run(true).send()).await.err(),
        STOP => budget.change.call(client.stop_instances().instance_ids(id).dry_run(true).send()).await.err(),
        _ => budget.change.call(client.start_instances().instance_ids(id).dry_run(true).send()).await.err(),
    };
    match refusal {
        Some(refusal) if refusal.code == WOULD_SUCCEED => finding(true, topic, format!("allowed: {id}")),
        Some(refusal) if refusal.kind == Kind::NotFound => finding(true, topic, format!("not tried: {id} has just ended")),
        // AWS looks at the permission first.
        Some(refusal) if refusal.code == "IncorrectInstanceState" => finding(true, topic, format!("allowed: {id}")),
        Some(refusal) => refused(topic, id, &refusal),
        None => finding(false, topic, format!("{id}: the EC2 at ec2.endpoint {at_once}")),
    }
}

/// The collection of what was left behind lists them, also where no job has a cache.
pub(super) async fn list_volumes(ec2: &Ec2) -> Finding {
    match ec2.list_volumes().await {
        Ok(listing) => finding(true, VOLUMES, format!("listing them works; this installation has {}", listing.volumes.len())),
        Err(error) => Finding::failed(VOLUMES, &error),
    }
}
