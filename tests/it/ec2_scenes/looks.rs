//! Shared looks: as few calls as EC2 allows, and an unknown machine hides no other.

use super::alone::Alone;
use crate::ec2_wire::rules::Rules;
use std::collections::BTreeSet;
use vm_service::provider::Provider as _;

#[tokio::test]
async fn hundreds_are_seen_in_one_call_and_an_unknown_one_hides_no_other() {
    let alone = Alone::new(Rules { held_by_us: true, ..Rules::default() }).await;
    let ids = [alone.machines("one", 600).await, alone.machines("two", 401).await].concat();
    let look = async |ids: &[String]| {
        let before = alone.cloud.calls("DescribeInstances").len();
        let found = alone.ec2.find_machines(ids).await.unwrap();
        let found: BTreeSet<String> = found.into_iter().map(|it| it.provider_id).collect();
        (found, alone.cloud.calls("DescribeInstances").len() - before)
    };
    let all = |ids: &[String]| ids.iter().cloned().collect::<BTreeSet<_>>();
    for (count, calls) in [(1, 1), (200, 1), (201, 1), (1000, 1), (1001, 2)] {
        assert_eq!(look(&ids[..count]).await, (all(&ids[..count]), calls), "{count} machines");
    }
    let unknown = ["i-0123456789abcdef0".to_owned()];
    assert_eq!(look(&[&ids[..199], &unknown].concat()).await, (all(&ids[..199]), 1), "by filter");
    assert_eq!(look(&[&ids[..300], &unknown].concat()).await, (all(&ids[..300]), 3), "by id in vain, then by filter");
    let ended = &ids[..300];
    alone.ec2.terminate(ended).await.unwrap();
    assert_eq!(look(ended).await, (all(ended), 1), "for an hour they are shown");
}
