//! What the policy allows, and above all what it does not.

use super::*;
use crate::domain::settings::ProviderChoice;

const OURS: &str = "00000000-0000-0000-0000-00000000002a";

fn of(features: &Features) -> Vec<Value> {
    let document = policy(features, InstallationId(Uuid::from_u128(42)), "eu-west-1");
    assert_eq!(document["Version"], "2012-10-17");
    document["Statement"].as_array().unwrap().clone()
}

/// The statements that name an action.
fn with<'a>(statements: &'a [Value], action: &str) -> Vec<&'a Value> {
    statements.iter().filter(|it| it["Action"].as_array().unwrap().iter().any(|name| name == action)).collect()
}

fn condition<'a>(statement: &'a Value, key: &str) -> &'a Value {
    &statement["Condition"]["StringEquals"][key]
}

#[test]
fn what_is_always_needed_and_nothing_else() {
    let expected = [
        "ec2:CreateTags",
        "ec2:DescribeImages",
        "ec2:DescribeInstanceStatus",
        "ec2:DescribeInstanceTypeOfferings",
        "ec2:DescribeInstanceTypes",
        "ec2:DescribeInstances",
        "ec2:DescribeSecurityGroups",
        "ec2:DescribeSubnets",
        "ec2:DescribeVolumes",
        "ec2:GetConsoleOutput",
        "ec2:RunInstances",
        "ec2:TerminateInstances",
    ];
    assert_eq!(actions(&Features::default()).into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn a_feature_brings_its_own_actions_only() {
    let base = actions(&Features::default());
    let more = |features: &Features| -> Vec<String> { actions(features).difference(&base).cloned().collect() };
    let only = Features::default();
    assert_eq!(more(&Features { spot: true, ..only }), ["ec2:DescribeSpotInstanceRequests"]);
    assert_eq!(more(&Features { fleet: true, ..only }), ["ec2:CreateFleet", "ec2:CreateLaunchTemplate"]);
    assert_eq!(more(&Features { instance_profile: true, ..only }), ["iam:PassRole"]);
    assert_eq!(more(&Features { reserve: true, ..only }), ["ec2:StartInstances", "ec2:StopInstances"]);
    assert!(more(&Features { volumes: true, ..only }).iter().all(|name| name.starts_with("ec2:")));
    assert!(more(&Features { volumes: true, ..only }).contains(&"ec2:AttachVolume".to_owned()));
    assert_eq!(more(&Features { images: true, ..only }), ["ec2:DeleteSnapshot", "ec2:DeregisterImage", "ec2:DescribeSnapshots"]);
    let seed = more(&Features { seed: true, ..only });
    assert!(seed.iter().all(|name| name.starts_with("ebs:") || name == "ec2:DescribeSnapshots"), "{seed:?}");
}

/// The wall between two installations in one account: whoever changes this test gives one of them the machines of the other.
#[test]
fn what_makes_or_changes_something_asks_for_our_tag() {
    let free = |it: &&Value| it["Sid"] != "Look" && it["Sid"] != "LaunchFrom" && it["Sid"] != "PassRole";
    let all = of(&Features::ALL);
    let bound: Vec<&Value> = all.iter().filter(free).collect();
    assert_eq!(bound.len(), 13, "{bound:#?}");
    for statement in bound {
        let tags = ["aws:RequestTag/vm-service:installation", "aws:ResourceTag/vm-service:installation"];
        let values: Vec<&Value> = tags.iter().map(|tag| condition(statement, tag)).filter(|it| !it.is_null()).collect();
        assert_eq!(values, [OURS], "{statement:#}");
    }
    for action in [
        "ec2:TerminateInstances",
        "ec2:StopInstances",
        "ec2:StartInstances",
        "ec2:GetConsoleOutput",
        "ec2:DeleteVolume",
        "ec2:DeregisterImage",
    ] {
        let statements = with(&all, action);
        assert_eq!(statements.len(), 1, "{action}");
        assert_eq!(condition(statements[0], "aws:ResourceTag/vm-service:installation"), OURS, "{action}");
    }
}

#[test]
fn a_launch_makes_only_what_is_tagged_and_uses_only_what_it_must() {
    let all = of(&Features { spot: true, ..Features::default() });
    let [made, used] = with(&all, "ec2:RunInstances")[..] else { panic!("{all:#?}") };
    let expected = ["instance", "volume", "network-interface", "spot-instances-request"];
    assert_eq!(made["Resource"], json!(expected.map(|kind| format!("arn:aws:ec2:eu-west-1:*:{kind}/*"))));
    assert_eq!(condition(made, "aws:RequestTag/vm-service:installation"), OURS);
    let expected = json!([
        "arn:aws:ec2:eu-west-1::image/*",
        "arn:aws:ec2:eu-west-1::snapshot/*",
        "arn:aws:ec2:eu-west-1:*:subnet/*",
        "arn:aws:ec2:eu-west-1:*:security-group/*"
    ]);
    assert_eq!((&used["Resource"], condition(used, "aws:RequestedRegion")), (&expected, &json!("eu-west-1")));
    let on_demand = of(&Features::default());
    assert!(!with(&on_demand, "ec2:RunInstances")[0].to_string().contains("spot"));
}

#[test]
fn tags_are_given_only_in_the_creating_call() {
    let calls = |features| condition(with(&of(&features), "ec2:CreateTags")[0], "ec2:CreateAction").clone();
    assert_eq!(calls(Features::default()), json!(["RunInstances"]));
    let all = ["RunInstances", "CreateFleet", "CreateLaunchTemplate", "CreateVolume", "CreateSnapshot", "StartSnapshot"];
    assert_eq!(calls(Features::ALL), json!(all));
}

#[test]
fn one_role_is_passed_to_ec2_alone() {
    let all = of(&Features { instance_profile: true, ..Features::default() });
    let [passed] = with(&all, "iam:PassRole")[..] else { panic!("{all:#?}") };
    assert_eq!(passed["Resource"], json!([format!("arn:aws:iam::ACCOUNT:role/{ROLE}")]));
    assert_eq!(condition(passed, "iam:PassedToService"), "ec2.amazonaws.com");
    let china = policy(&Features::ALL, InstallationId(Uuid::nil()), "cn-north-1").to_string();
    assert!(china.contains("ec2.amazonaws.com.cn") && china.contains("arn:aws-cn:") && !china.contains("arn:aws:"), "{china}");
}

#[test]
fn only_looking_is_allowed_on_everything() {
    for statement in of(&Features::ALL) {
        let everything = statement["Resource"].as_array().unwrap().iter().any(|it| it == "*");
        assert_eq!(everything, statement["Sid"] == "Look", "{statement:#}");
        for action in statement["Action"].as_array().unwrap() {
            let action = action.as_str().unwrap();
            assert!(!action.contains('*'), "{action}");
            assert_eq!(action.starts_with("ec2:Describe"), everything, "{action}");
        }
    }
}

/// AWS takes 6144 characters in a managed policy, without white space.
#[test]
fn the_whole_policy_fits() {
    let length = policy(&Features::ALL, InstallationId(Uuid::nil()), "ap-southeast-10").to_string().len();
    assert!(length <= 6144, "{length}");
}

#[test]
fn the_settings_switch_features_on() {
    let mut settings = Settings { provider: ProviderChoice::Ec2, ..Settings::default() };
    let always = Features { volumes: true, ..Features::default() };
    assert_eq!(Features::of(&settings), always);
    settings.ec2.instance_profile = Some("jobs".to_owned());
    settings.resource_classes.get_mut("large").unwrap().ec2.market = Market::SpotThenOnDemand;
    assert_eq!(Features::of(&settings), Features { spot: true, instance_profile: true, ..always });
}
