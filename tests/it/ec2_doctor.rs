//! `vm-service doctor` on EC2: an account where all fits, and each mistake told by name with what to change; nothing is made or ended.

use crate::ec2_wire::faults::Fault;
use crate::ec2_wire::proxy::Cloud;
use crate::ec2_wire::rules::Rules;
use crate::service::{BINARY, Service, data_folder, text};
use std::process::{Command, Output};
use uuid::Uuid;
use vm_service::domain::ec2::{AccessKey, Architecture, Authentication, Market};
use vm_service::domain::ids::{ImageId, InstallationId, LaunchId};
use vm_service::domain::image::ImageKind;
use vm_service::domain::lifecycle::ImageState;
use vm_service::domain::outbound::Outbound;
use vm_service::domain::plan::images::Registered;
use vm_service::domain::secret::Secret;
use vm_service::domain::settings::{ProviderChoice, Settings};
use vm_service::domain::tags::{Origin, Tags};
use vm_service::domain::task::Executor;
use vm_service::provider::ec2::Ec2;
use vm_service::provider::ec2::policy::{self, Features};
use vm_service::provider::{Finding, LaunchSpec, Provider};

pub(crate) const OURS: InstallationId = InstallationId(Uuid::from_u128(42));
pub(crate) const KEY: &str = "AKIAIOSFODNN7EXAMPLE";
pub(crate) const SECRET: &str = "wJalrXUtnFEMI";

pub(crate) fn settings(cloud: &Cloud) -> Settings {
    let mut settings = Settings { provider: ProviderChoice::Ec2, ..Settings::default() };
    settings.ec2.region = Some(cloud.region().to_owned());
    settings.ec2.subnets = cloud.subnets().into_iter().map(|subnet| subnet.id).collect();
    settings.ec2.security_group = Some(cloud.security_group());
    settings.ec2.images.insert(cloud.region().to_owned(), cloud.image());
    settings.ec2.endpoint = Some(cloud.endpoint());
    settings.ec2.authentication = Authentication::AccessKey(AccessKey { id: KEY.to_owned(), secret: None, sealed: None });
    settings
}

pub(crate) fn ec2(settings: &Settings) -> Ec2 {
    let ec2 = Ec2::new(OURS, settings.ec2.region.clone().unwrap(), Outbound::default());
    ec2.configure(settings, Some(&Secret::new(SECRET)));
    ec2
}

fn lines(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(|it| format!("{}{}: {}", if it.ok { "" } else { "MISSING " }, it.what, it.detail)).collect()
}

#[tokio::test]
async fn an_account_where_all_fits() {
    let cloud = Cloud::start(Rules::default()).await;
    let mut settings = settings(&cloud);
    settings.resource_classes.get_mut("large").unwrap().ec2.market = Market::SpotThenOnDemand;
    let (subnets, group, image) = (cloud.subnets(), cloud.security_group(), cloud.image());
    let (one, two) = (&subnets[0].id, &subnets[1].id);
    let class = format!("{image}, x86_64, root disk of 15 GiB; m5.large in eu-west-1a, eu-west-1b");
    let vpc = cloud.behind_our_back("DescribeSubnets", &[]).await;
    let vpc = vpc.split_once(one.as_str()).unwrap().1.split_once("<vpcId>").unwrap().1.split_once('<').unwrap().0;
    let expected = [
        format!("EC2: eu-west-1 answers; signed in with the access key {KEY}"),
        format!("subnets: {one} in eu-west-1a: 4091 addresses free; {two} in eu-west-1b: 4091 addresses free; all in {vpc}"),
        format!("security group: {group}; TCP 22 from 10.0.0.0/8; TCP 2376 from 10.0.0.0/8"),
        format!("class large: {class}"),
        format!("class medium: {class}"),
        format!(
            "trial launch: allowed: class large: m5.large on demand in {one}; class large: m5.large spot in {one} (of 2 different ones)"
        ),
        "vCPU quota: no trial launch named one; AWS tells it in full only to a real launch, or in Service Quotas, Amazon EC2"
            .to_owned(),
        "trial termination: not tried: this installation has no machine; listing them works".to_owned(),
        "volumes: listing them works; this installation has 0".to_owned(),
    ];
    assert_eq!(lines(&ec2(&settings).check(&[]).await), expected);
    assert!(cloud.instances().await.is_empty() && cloud.volumes().await.is_empty(), "a dry run makes nothing");
    let made: Vec<_> = cloud.journal().into_iter().filter(|call| !call.action.starts_with("Describe")).collect();
    assert!(made.iter().all(|call| call.params.get("DryRun") == Some("true")), "{made:?}");
    assert_eq!(cloud.journal().len(), 9, "{:?}", cloud.actions());
    let allowed = policy::actions(&Features::of(&settings));
    assert_eq!(cloud.actions().difference(&allowed).cloned().collect::<Vec<_>>(), Vec::<String>::new());
}

/// Where the settings name no image, the one that launches take is looked at: the promoted one.
#[tokio::test]
async fn the_promoted_image_is_looked_at() {
    let cloud = Cloud::start(Rules::default()).await;
    let mut settings = settings(&cloud);
    settings.ec2.images.clear();
    let promoted = |provider_id: &str| Registered {
        id: ImageId(Uuid::from_u128(1)),
        provider_id: provider_id.to_owned(),
        architecture: Architecture::X86_64,
        kind: ImageKind::Base,
        state: ImageState::Promoted,
        share: 0,
        missing: false,
    };
    let image = cloud.image();
    let found = lines(&ec2(&settings).check(&[promoted(&image)]).await);
    let of_class = |line: &&String| line.starts_with(&format!("class medium: {image}, x86_64"));
    assert_eq!(found.iter().filter(of_class).count(), 1, "{found:#?}");
    assert!(!found.iter().any(|line| line.contains("Canonical") || line.starts_with("MISSING")), "{found:#?}");
    let found = lines(&ec2(&settings).check(&[promoted("ami-0123456789abcdef0")]).await);
    assert!(
        found.iter().any(|line| line.starts_with("MISSING class medium: there is no image ami-0123456789abcdef0")),
        "{found:#?}"
    );
}

/// What is told when these settings or this fault are in the way; everything else must be fine.
async fn told(cloud: &Cloud, fault: Option<Fault>, change: impl FnOnce(&mut Settings)) -> Vec<String> {
    let mut settings = settings(cloud);
    change(&mut settings);
    if let Some(fault) = fault {
        cloud.inject(fault.always());
    }
    let findings = ec2(&settings).check(&[]).await;
    cloud.lift_all();
    assert!(cloud.instances().await.iter().all(|it| it.tags["vm-service:launch"] == Uuid::from_u128(7).to_string()));
    lines(&findings.into_iter().filter(|finding| !finding.ok).collect::<Vec<_>>())
}

fn assert_told(told: &[String], expected: &[&str]) {
    let fits = told.len() == expected.len() && told.iter().zip(expected).all(|(line, part)| line.contains(part));
    assert!(fits, "expected {expected:#?}, told {told:#?}");
}

#[tokio::test]
async fn each_mistake_in_the_settings_is_told_by_name() {
    const NOT_TRIED: &str = "trial launch: not tried: mend what is told above first";
    let cloud = Cloud::start(Rules::default()).await;
    let nothing = |_: &mut Settings| {};
    assert_told(&told(&cloud, None, nothing).await, &[]);
    let wrong = told(&cloud, None, |it| it.ec2.subnets.push("subnet-0123456789abcdef0".to_owned())).await;
    assert_told(&wrong, &["subnets: there is no subnet subnet-0123456789abcdef0"]);
    let wrong = told(&cloud, None, |it| it.ec2.subnets.clear()).await;
    assert_told(&wrong, &["subnets: none is set: set ec2.subnets", NOT_TRIED]);
    let wrong = told(&cloud, None, |it| it.ec2.security_group = None).await;
    assert_told(&wrong, &["security group: none is set: set ec2.security_group", NOT_TRIED]);
    let wrong = told(&cloud, None, |it| it.ec2.security_group = Some("sg-0123456789abcdef0".to_owned())).await;
    assert_told(&wrong, &["security group: there is no sg-0123456789abcdef0"]);
    let gone = "ami-0123456789abcdef0";
    let wrong = told(&cloud, None, |it| drop(it.ec2.images.insert("eu-west-1".to_owned(), gone.to_owned()))).await;
    assert_told(&wrong, &["class large: there is no image ami-0123456789abcdef0", "class medium: there is no image", NOT_TRIED]);
    let wrong = told(&cloud, None, |it| {
        it.ec2.images.clear();
        it.resource_classes.get_mut("large").unwrap().ec2.architecture = Architecture::Arm64;
    })
    .await;
    assert_told(&wrong, &["class large: no image is set for eu-west-1, and Canonical publishes none there"]);
    let of_large =
        |it: &mut Settings, name: &str| it.resource_classes.get_mut("large").unwrap().ec2.instance_types = vec![name.to_owned()];
    let wrong = told(&cloud, None, |it| of_large(it, "m9.large")).await;
    assert_told(&wrong, &["class large: this region has no instance type m9.large"]);
    let wrong = told(&cloud, None, |it| of_large(it, "p4d.24xlarge")).await;
    assert_told(&wrong, &["class large: p4d.24xlarge is not offered in eu-west-1a, eu-west-1b"]);
    let wrong = told(&cloud, None, |it| of_large(it, "m6g.large")).await;
    assert_told(&wrong, &["class large: m6g.large runs arm64 and the class is for x86_64"]);
    let wrong = told(&cloud, None, |it| it.resource_classes.get_mut("large").unwrap().ec2.architecture = Architecture::Arm64).await;
    assert_told(&wrong, &["is for x86_64 and the class for arm64: set another as ec2.images.eu-west-1"]);
}

#[tokio::test]
async fn a_network_that_does_not_fit_is_told() {
    let cloud = Cloud::start(Rules::default()).await;
    let id = |answer: &str, name: &str| {
        let after = answer.split_once(&format!("<{name}>")).unwrap().1;
        after.split_once('<').unwrap().0.to_owned()
    };
    let vpc = id(&cloud.behind_our_back("CreateVpc", &[("CidrBlock", "10.21.0.0/16")]).await, "vpcId");
    let params = [("VpcId", vpc.as_str()), ("CidrBlock", "10.21.0.0/20"), ("AvailabilityZone", "eu-west-1a")];
    let subnet = id(&cloud.behind_our_back("CreateSubnet", &params).await, "subnetId");
    let params = [("GroupName", "closed"), ("GroupDescription", "closed"), ("VpcId", &vpc)];
    let group = id(&cloud.behind_our_back("CreateSecurityGroup", &params).await, "groupId");
    let wrong = told(&cloud, None, |it| it.ec2.subnets.push(subnet.clone())).await;
    assert_told(&wrong, &["subnets: they lie in several VPCs", &format!("and subnets lie in {vpc}")]);
    let wrong =
        told(&cloud, None, |it| (it.ec2.subnets, it.ec2.security_group) = (vec![subnet.clone()], Some(group.clone()))).await;
    assert_told(&wrong, &["lets nobody in on TCP 22: add an inbound rule"]);
    assert!(wrong[0].contains("lets nobody in on TCP 2376"), "{wrong:?}");
}

#[tokio::test]
async fn what_aws_refuses_is_told_with_what_to_change() {
    let cloud = Cloud::start(Rules::default()).await;
    let nothing = |_: &mut Settings| {};
    let wrong = told(&cloud, Some(Fault::expired()), nothing).await;
    assert_told(&wrong, &["EC2: eu-west-1: AWS does not let us (RequestExpired)"]);
    assert!(wrong[0].contains("this machine's clock is wrong: get fresh ones"), "{wrong:?}");
    let wrong = told(&cloud, Some(Fault::auth_failure()), nothing).await;
    assert_told(&wrong, &["Check the access key and its secret half"]);
    assert!(wrong[0].contains("whether the account has the region enabled"), "{wrong:?}");
    let wrong = told(&cloud, Some(Fault::throttle("DescribeSubnets")), nothing).await;
    assert_told(&wrong, &["EC2: eu-west-1: AWS throttles (RequestLimitExceeded): try again"]);
    let wrong = told(&cloud, Some(Fault::cut("DescribeSubnets")), nothing).await;
    assert_told(&wrong, &["check ec2.region and ec2.endpoint in the settings, and this machine's way out"]);
    for (action, topic) in [
        ("DescribeSubnets", "EC2: eu-west-1: "),
        ("DescribeSecurityGroups", "security group: "),
        ("DescribeInstances", "trial termination: "),
        ("DescribeVolumes", "volumes: "),
        ("RunInstances", "trial launch: class large: m5.large on demand in subnet-"),
    ] {
        let wrong = told(&cloud, Some(Fault::unauthorized(action)), nothing).await;
        assert_told(&wrong, &[topic]);
        assert!(wrong[0].contains("UnauthorizedOperation") && wrong[0].contains("`vm-service iam-policy`"), "{wrong:?}");
    }
    let several = |it: &mut Settings| {
        it.resource_classes.get_mut("large").unwrap().ec2.instance_types = ["m5.large", "m6i.large"].map(str::to_owned).to_vec();
    };
    assert_eq!(told(&cloud, None, several).await, Vec::<String>::new());
    let wrong = told(&cloud, Some(Fault::unauthorized("CreateLaunchTemplate")), several).await;
    assert_told(&wrong, &["trial launch template: class large: AWS does not let us"]);
    for action in ["DescribeImages", "DescribeInstanceTypes", "DescribeInstanceTypeOfferings"] {
        let wrong = told(&cloud, Some(Fault::unauthorized(action)), nothing).await;
        assert_told(&wrong, &["resource classes: AWS does not let us", "trial launch: not tried"]);
    }
    let wrong = told(&cloud, Some(Fault::quota("RunInstances", "VcpuLimitExceeded")), nothing).await;
    assert_told(&wrong, &["vCPU quota: class large: m5.large on demand"]);
    assert!(wrong[0].contains("ask AWS for more"), "{wrong:?}");
    let sealed = ec2(&settings(&cloud));
    sealed.configure(&settings(&cloud), None);
    let calls = cloud.journal().len();
    assert_told(&lines(&sealed.check(&[]).await), &["MISSING EC2: the secret half of the access key cannot be opened"]);
    assert_eq!(cloud.journal().len(), calls, "nobody signs in as somebody else");
}

#[tokio::test]
async fn a_machine_is_asked_for_and_lives_on() {
    let cloud = Cloud::start(Rules::default()).await;
    let settings = settings(&cloud);
    let ec2 = ec2(&settings);
    let class = settings.resource_classes["medium"].clone();
    let launch = LaunchSpec {
        client_token: "one".to_owned(),
        tags: Tags {
            installation: OURS,
            launch: LaunchId(Uuid::from_u128(7)),
            executor: Executor::Machine,
            resource_class: "medium".to_owned(),
            origin: Origin::OnDemand,
            created_at: chrono::DateTime::UNIX_EPOCH,
        },
        candidate: ec2.choose(&class, ec2.named_images(&class).first().as_deref(), None).await.unwrap(),
        image: None,
        class,
        count: 1,
        user_data: "#cloud-config\n".to_owned(),
    };
    let machine = ec2.launch(&launch).await.unwrap().remove(0).provider_id;
    let findings = ec2.check(&[]).await;
    let last = findings.iter().find(|finding| finding.what == "trial termination").unwrap();
    assert_eq!((last.ok, last.detail.clone()), (true, format!("allowed: {machine}")));
    assert_eq!(
        cloud.instances().await.into_iter().map(|it| (it.id, it.state)).collect::<Vec<_>>(),
        [(machine, "running".to_owned())]
    );
    let wrong = told(&cloud, Some(Fault::unauthorized("TerminateInstances")), |_| {}).await;
    assert_told(&wrong, &["trial termination: i-"]);
    let reserve = |it: &mut Settings| it.resource_classes.get_mut("medium").unwrap().reserve.machine = 1;
    assert_eq!(told(&cloud, None, reserve).await, Vec::<String>::new());
    let wrong = told(&cloud, Some(Fault::unauthorized("StopInstances")), reserve).await;
    assert_told(&wrong, &["trial stop: i-"]);
    let wrong = told(&cloud, Some(Fault::unauthorized("StartInstances")), reserve).await;
    assert_told(&wrong, &["trial start: i-"]);
    assert_eq!(cloud.instances().await[0].state, "running", "they were trials");
    assert!(wrong[0].contains("`vm-service iam-policy`"), "{wrong:?}");
    let allowed = policy::actions(&Features { reserve: true, ..Features::default() });
    assert_eq!(cloud.actions().difference(&allowed).cloned().collect::<Vec<_>>(), Vec::<String>::new());
}

/// An EC2 of somebody else's that has never heard of dry runs: this cloud behind it.
async fn without_dry_runs(cloud: &Cloud) -> String {
    let (to, http) = (cloud.endpoint(), reqwest::Client::builder().no_proxy().build().unwrap());
    let pass = move |headers: axum::http::HeaderMap, body: String| async move {
        let request = http.post(to).header("authorization", &headers["authorization"]);
        let answer = request.body(body.replace("&DryRun=true", "")).send().await.unwrap();
        (answer.status(), answer.bytes().await.unwrap())
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let router = axum::Router::new().fallback(pass);
    tokio::spawn(async move { axum::serve(listener, router).await });
    endpoint
}

#[tokio::test]
async fn a_dry_run_that_was_none_is_undone() {
    let cloud = Cloud::start(Rules::default()).await;
    let mut settings = settings(&cloud);
    settings.ec2.endpoint = Some(without_dry_runs(&cloud).await);
    let findings = lines(&ec2(&settings).check(&[]).await);
    let made = cloud.instances().await;
    assert_eq!(made.iter().map(|it| it.state.as_str()).collect::<Vec<_>>(), ["terminated"]);
    let expected = format!("NoDryRun: the EC2 at ec2.endpoint launched {} for a dry run; it is ended again", made[0].id);
    assert!(findings.iter().any(|line| line.starts_with("MISSING trial launch") && line.ends_with(&expected)), "{findings:#?}");
}

/// The binary, with these settings as its seed.
pub(crate) fn run(arguments: &[&str], settings: &Settings, change: impl FnOnce(&mut Command)) -> Output {
    let folder = data_folder("doctor-seed");
    let mut command = Command::new(BINARY);
    command.args(arguments).arg("--data").arg(&folder);
    command.env_clear().env("HOME", "/nonexistent").env("AWS_EC2_METADATA_DISABLED", "true");
    command.env("VM_SERVICE_SETTINGS", serde_json::to_string(settings).unwrap()).env("VM_SERVICE_INSTALLATION", OURS.to_string());
    change(&mut command);
    command.output().unwrap()
}

pub(crate) fn with_key(command: &mut Command) {
    command.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", SECRET);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_looks_where_its_seed_says() {
    let cloud = Cloud::start(Rules::default()).await;
    let mut seed = settings(&cloud);
    seed.ec2.authentication = Authentication::InstanceProfile;
    let said = run(&["doctor", "--json"], &seed, with_key);
    let findings: Vec<serde_json::Value> = serde_json::from_slice(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    let find = |what: &str| findings.iter().find(|it| it["what"] == what).unwrap_or_else(|| panic!("{what}: {findings:#?}"));
    assert_eq!(find("settings")["detail"], "none are saved; those of VM_SERVICE_SETTINGS are in force; VMs come from EC2");
    assert_eq!(find("EC2")["detail"], "eu-west-1 answers; signed in as this machine or its environment says");
    assert_eq!(find("trial launch")["ok"], true);
    assert!(findings.iter().all(|it| it["what"] != "VM image"), "a host that makes no VMs needs no QEMU: {findings:#?}");
    let said = run(&["doctor"], &seed, |_| {});
    let line = text(&said).0.lines().find(|line| line.contains("EC2: ")).unwrap_or_default().to_owned();
    assert!(line.starts_with("MISSING") && line.contains("no credentials were found"), "{said:?}");
    assert_eq!(said.status.code(), Some(1));
    let said = run(&["doctor"], &seed, |it| {
        it.env_remove("VM_SERVICE_INSTALLATION");
    });
    assert!(text(&said).0.contains("MISSING  VMs: the installation's id is not known"), "{said:?}");
    let said = run(&["iam-policy", "--with", "reserve"], &seed, |_| {});
    let policy: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(policy, policy::policy(&Features { reserve: true, volumes: true, ..Features::default() }, OURS, "eu-west-1"));
    assert!(text(&said).1.starts_with("# Settings: none are saved; those of VM_SERVICE_SETTINGS"), "{said:?}");
}

/// The service keeps the settings, and the key's secret half sealed; `doctor` reads both beside it.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_reads_saved_settings_and_opens_the_key() {
    let cloud = Cloud::start(Rules::default()).await;
    let ec2 = serde_json::to_value(settings(&cloud).ec2).unwrap();
    let service = tokio::task::spawn_blocking(move || {
        let service = Service::start("doctor");
        service.set(|settings| {
            settings["provider"] = "ec2".into();
            settings["ec2"] = ec2;
            settings["ec2"]["authentication"]["access_key"]["secret"] = SECRET.into();
        });
        service
    });
    let service = service.await.unwrap();
    let said = Command::new(BINARY).args(["doctor", "--data"]).arg(&service.data).output().unwrap();
    let out = text(&said).0;
    assert!(out.contains("ok       settings: version 1; VMs come from EC2"), "{said:?}");
    assert!(out.contains(&format!("ok       EC2: eu-west-1 answers; signed in with the access key {KEY}")), "{said:?}");
    assert!(out.contains("ok       trial launch: allowed") && !out.contains(SECRET), "{said:?}");
    let said = Command::new(BINARY).args(["iam-policy", "--data"]).arg(&service.data).output().unwrap();
    let installation = std::fs::read_to_string(service.data.join("installation")).unwrap();
    assert!(text(&said).0.contains(installation.trim()), "{said:?}");
    tokio::task::spawn_blocking(move || drop(service)).await.unwrap();
}
