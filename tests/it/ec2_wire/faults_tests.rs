//! Each fault strikes what it says, as often as it says, in AWS's words.

use super::faults::Fault;
use super::journal::Outcome;
use super::proxy::Cloud;
use super::requests::{code, launch, launch_spot, launched};
use super::rules::Rules;
use aws_sdk_ec2::types::InstanceType;
use std::time::{Duration, Instant};

/// Calls that are refused or cut have no effect, and the journal says what became of each.
#[tokio::test]
async fn refused_throttled_and_cut_calls_do_nothing_and_lost_answers_did() {
    let cloud = Cloud::by_hand(Rules::default()).await;
    let ec2 = cloud.ec2();
    let faults = [
        (Fault::throttle("RunInstances"), "RequestLimitExceeded"),
        (Fault::unauthorized("RunInstances"), "UnauthorizedOperation"),
        (Fault::auth_failure(), "AuthFailure"),
        (Fault::expired(), "RequestExpired"),
        (Fault::internal_error("RunInstances"), "InternalError"),
        (Fault::refuse("RunInstances", 503, "Unavailable"), "Unavailable"),
        (Fault::quota("RunInstances", "VcpuLimitExceeded"), "VcpuLimitExceeded"),
        (Fault::quota("RunInstances", "InstanceLimitExceeded"), "InstanceLimitExceeded"),
        (Fault::no_capacity("RunInstances"), "InsufficientInstanceCapacity"),
        (Fault::cut("RunInstances"), "cut"),
    ];
    for (fault, expected) in faults {
        cloud.inject(fault);
        assert_eq!(code(launch(&cloud, "t").send().await), expected);
    }
    assert_eq!(cloud.instances().await, []);
    cloud.inject(Fault::lose_answer("RunInstances"));
    assert_eq!(code(launch(&cloud, "t").send().await), "cut");
    assert_eq!((cloud.instances().await.len(), cloud.faults_waiting()), (1, 0));

    let outcomes: Vec<Outcome> = cloud.calls("RunInstances").into_iter().map(|request| request.outcome).collect();
    assert_eq!(outcomes.len(), 11);
    assert_eq!(outcomes[0], Outcome::Throttled);
    assert_eq!(outcomes[1], Outcome::Refused("UnauthorizedOperation".to_owned()));
    assert_eq!(outcomes[9..], [Outcome::Cut, Outcome::AnswerLost]);
    assert!(cloud.journal().windows(2).all(|pair| pair[0].at < pair[1].at));
    let first = &cloud.calls("RunInstances")[0];
    assert_eq!((first.params.get("ClientToken"), first.name.as_str()), (Some("t"), "ec2:RunInstances"));

    cloud.inject(Fault::throttle("DescribeInstances").times(2));
    let always = cloud.inject(Fault::unauthorized("TerminateInstances").always());
    for expected in ["RequestLimitExceeded", "RequestLimitExceeded", "fine"] {
        assert_eq!(code(ec2.describe_instances().send().await), expected);
    }
    let id = cloud.instances().await[0].id.clone();
    for _ in 0..3 {
        assert_eq!(code(ec2.terminate_instances().instance_ids(&id).send().await), "UnauthorizedOperation");
    }
    cloud.lift(always);
    cloud.inject(Fault::throttle("*").always());
    cloud.lift_all();
    assert_eq!(code(ec2.terminate_instances().instance_ids(&id).send().await), "fine");
    assert_eq!(cloud.instances().await[0].state, "terminated");
}

/// The answers are the real ones: status, XML, and what the SDK makes of it.
#[tokio::test]
async fn errors_have_the_form_of_ec2() {
    let cloud = Cloud::by_hand(Rules::default()).await;
    cloud.inject(Fault::throttle("DescribeInstances"));
    let error = cloud.ec2().describe_instances().send().await.unwrap_err();
    let raw = error.raw_response().unwrap();
    assert_eq!(raw.status().as_u16(), 503);
    let text = String::from_utf8(raw.body().bytes().unwrap().to_vec()).unwrap();
    assert!(text.contains("<Response><Errors><Error><Code>RequestLimitExceeded</Code><Message>Request limit exceeded."), "{text}");
    cloud.inject(Fault::no_capacity("RunInstances"));
    let error = launch(&cloud, "t").send().await.unwrap_err();
    assert_eq!(error.raw_response().unwrap().status().as_u16(), 500, "the SDK would take it for a passing trouble");
    cloud.inject(Fault::slow("DescribeInstances", Duration::from_millis(400)));
    let began = Instant::now();
    cloud.ec2().describe_instances().send().await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(400));
}

/// By type, zone and market; also for a machine that is started again; quota on the spot market.
#[tokio::test]
async fn capacity_lacks_where_it_says() {
    let cloud = Cloud::by_hand(Rules::default()).await;
    let (here, there) = (cloud.subnets()[0].clone(), cloud.subnets()[1].clone());
    assert_ne!(here.zone, there.zone);
    let lack = "InsufficientInstanceCapacity";
    cloud.inject(Fault::no_capacity("RunInstances").of_type("m7i.large").in_zone(&here.zone).market(false).always());
    assert_eq!(code(launch(&cloud, "a").send().await), lack);
    assert_eq!(code(launch(&cloud, "b").subnet_id(&there.id).send().await), "fine");
    assert_eq!(code(launch(&cloud, "c").instance_type(InstanceType::C7iLarge).send().await), "fine");
    assert_eq!(code(launch_spot(&cloud, "d").send().await), "fine");
    cloud.inject(Fault::quota("RunInstances", "MaxSpotInstanceCountExceeded").market(true).always());
    assert_eq!(code(launch_spot(&cloud, "e").send().await), "MaxSpotInstanceCountExceeded");
    assert_eq!(code(launch(&cloud, "a").send().await), lack);
    cloud.lift_all();

    cloud.inject(Fault::fewer(2));
    assert_eq!(launched(launch(&cloud, "f").max_count(5)).await.len(), 2);
    assert_eq!(launched(launch(&cloud, "f").max_count(5)).await.len(), 2, "the token made two");
    assert_eq!(launched(launch(&cloud, "g").max_count(5)).await.len(), 5);

    let (ec2, id) = (cloud.ec2(), launched(launch(&cloud, "h")).await.remove(0));
    ec2.stop_instances().instance_ids(&id).send().await.unwrap();
    cloud.inject(Fault::no_capacity("StartInstances").in_zone(&here.zone));
    assert_eq!(code(ec2.start_instances().instance_ids(&id).send().await), lack);
    assert_eq!(code(ec2.start_instances().instance_ids(&id).send().await), "fine");
}
