//! EBS direct: whole blocks with their checksum, into a snapshot that is open, out of one that is complete; volumes from it.

use super::faults::Fault;
use super::policy_tests::assert_violated;
use super::proxy::Cloud;
use super::requests::{code, volume};
use super::rules::Rules;
use aws_sdk_ebs::operation::put_snapshot_block::builders::PutSnapshotBlockFluentBuilder;
use aws_sdk_ebs::operation::start_snapshot::builders::StartSnapshotFluentBuilder;
use aws_sdk_ebs::primitives::ByteStream;
use aws_sdk_ebs::types::{ChecksumAlgorithm, Tag};
use base64::Engine as _;
use std::collections::BTreeSet;

const BLOCK: usize = 512 * 1024;

fn open(cloud: &Cloud, token: &str) -> StartSnapshotFluentBuilder {
    let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build();
    let call = cloud.ebs().start_snapshot().volume_size(1).client_token(token).encrypted(true);
    call.tags(tag("ManagedBy", "vm-service")).tags(tag("vm-service:installation", "42"))
}

fn put(cloud: &Cloud, snapshot: &str, index: i32, block: Vec<u8>) -> PutSnapshotBlockFluentBuilder {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &block);
    let call = cloud.ebs().put_snapshot_block().snapshot_id(snapshot).block_index(index).data_length(524_288);
    let call = call.checksum(base64::engine::general_purpose::STANDARD.encode(digest));
    call.checksum_algorithm(ChecksumAlgorithm::ChecksumAlgorithmSha256).block_data(ByteStream::from(block))
}

#[tokio::test]
async fn a_snapshot_is_written_block_by_block_and_read_when_it_is_complete() {
    let cloud = Cloud::by_hand(Rules::default()).await;
    let (ebs, ec2) = (cloud.ebs(), cloud.ec2());
    cloud.inject(Fault::lose_answer("StartSnapshot"));
    assert_eq!(code(open(&cloud, "s").send().await), "cut");
    let id = open(&cloud, "s").send().await.unwrap().snapshot_id.unwrap();
    assert_eq!(open(&cloud, "s").send().await.unwrap().snapshot_id.unwrap(), id);
    assert_eq!(code(open(&cloud, "s").volume_size(2).send().await), "ConflictException");
    assert_eq!(ec2.describe_volumes().send().await.unwrap().volumes(), [], "AWS makes no volume for it");
    assert_eq!(cloud.volumes().await, []);

    let blocks = [vec![7; BLOCK], vec![9; BLOCK]];
    put(&cloud, &id, 0, blocks[0].clone()).send().await.unwrap();
    put(&cloud, &id, 5, blocks[1].clone()).send().await.unwrap();
    assert_eq!(code(put(&cloud, &id, 6, vec![1; 100]).send().await), "ValidationException");
    assert_eq!(code(put(&cloud, &id, 6, blocks[0].clone()).checksum("AAAA").send().await), "ValidationException");
    assert_eq!(code(put(&cloud, "snap-0123456789abcdef0", 0, blocks[0].clone()).send().await), "ResourceNotFoundException");
    let state = || async {
        let answer = ec2.describe_snapshots().snapshot_ids(&id).send().await.unwrap();
        answer.snapshots()[0].state().unwrap().as_str().to_owned()
    };
    assert_eq!(state().await, "pending");
    assert_eq!(code(ebs.list_snapshot_blocks().snapshot_id(&id).send().await), "ValidationException");
    assert_eq!(code(volume(&cloud, 0, "early").snapshot_id(&id).send().await), "IncorrectState");
    let complete = |count: i32| ebs.complete_snapshot().snapshot_id(&id).changed_blocks_count(count).send();
    assert_eq!(code(complete(3).await), "ValidationException");
    assert_eq!(
        code(ebs.complete_snapshot().snapshot_id(&id).changed_blocks_count(2).checksum("AAAA").send().await),
        "ValidationException"
    );
    complete(2).await.unwrap();
    assert_eq!(state().await, "completed");
    assert_eq!(code(put(&cloud, &id, 6, blocks[0].clone()).send().await), "ValidationException");

    let listed = ebs.list_snapshot_blocks().snapshot_id(&id).send().await.unwrap();
    let indices: Vec<i32> = listed.blocks().iter().map(|block| block.block_index().unwrap()).collect();
    assert_eq!(indices, [0, 5]);
    let token = listed.blocks()[1].block_token().unwrap();
    let get = |index: i32| ebs.get_snapshot_block().snapshot_id(&id).block_index(index).block_token(token).send();
    let read = get(5).await.unwrap();
    assert_eq!(read.block_data.collect().await.unwrap().to_vec(), blocks[1]);
    assert_eq!(code(get(1).await), "ValidationException", "no such block");
    assert_eq!(code(get(0).await), "ValidationException", "the token of another block");
    volume(&cloud, 1, "late").snapshot_id(&id).send().await.unwrap();
    assert_eq!(cloud.volumes().await[0].snapshot, id);
    let names = ["CompleteSnapshot", "GetSnapshotBlock", "ListSnapshotBlocks", "PutSnapshotBlock", "StartSnapshot"];
    let mut actions = BTreeSet::from(names.map(|name| format!("ebs:{name}")));
    actions.extend(["ec2:CreateTags", "ec2:CreateVolume", "ec2:DescribeSnapshots", "ec2:DescribeVolumes"].map(str::to_owned));
    assert_eq!(cloud.actions(), actions);
}

#[tokio::test]
async fn errors_have_the_form_of_ebs_and_the_policy_holds() {
    let cloud = Cloud::by_hand(Rules::default()).await;
    let faults = [
        (Fault::throttle("StartSnapshot"), "RequestThrottledException"),
        (Fault::unauthorized("StartSnapshot"), "AccessDeniedException"),
        (Fault::internal_error("StartSnapshot"), "InternalServerException"),
        (Fault::expired(), "ExpiredTokenException"),
        (Fault::cut("StartSnapshot"), "cut"),
    ];
    for (fault, expected) in faults {
        cloud.inject(fault);
        assert_eq!(code(open(&cloud, "s").send().await), expected);
    }
    open(&cloud, "t").set_tags(None).encrypted(false).send().await.unwrap();
    assert_violated(&cloud, &["not encrypted", "snapshot: no tag ManagedBy", "snapshot: no tag vm-service:installation"]);
    assert_eq!(code(open(&cloud, "u").timeout(5).send().await), "ValidationError");
    assert_violated(&cloud, &["model: StartSnapshot: Timeout=5"]);
}

/// What the model says of ListChangedBlocks; moto does not know it.
#[tokio::test]
async fn changed_blocks_are_those_that_differ() {
    let cloud = Cloud::by_hand(Rules::default()).await;
    let ebs = cloud.ebs();
    let write = async |token: &str, blocks: &[(i32, u8)]| {
        let id = open(&cloud, token).send().await.unwrap().snapshot_id.unwrap();
        for (index, byte) in blocks {
            put(&cloud, &id, *index, vec![*byte; BLOCK]).send().await.unwrap();
        }
        let count = i32::try_from(blocks.len()).unwrap();
        ebs.complete_snapshot().snapshot_id(&id).changed_blocks_count(count).send().await.unwrap();
        id
    };
    let first = write("one", &[(0, 1), (3, 1), (4, 1)]).await;
    let second = write("two", &[(0, 1), (3, 2), (7, 1)]).await;
    let compare = || ebs.list_changed_blocks().first_snapshot_id(&first).second_snapshot_id(&second).send();
    assert_eq!(code(compare().await), "ValidationException", "unrelated");
    cloud.of_one_volume(&[&first, &second]);
    let changed = compare().await.unwrap();
    let shown: Vec<_> = changed
        .changed_blocks()
        .iter()
        .map(|it| (it.block_index().unwrap(), it.first_block_token().is_some(), it.second_block_token().is_some()))
        .collect();
    assert_eq!(shown, [(3, true, true), (4, true, false), (7, false, true)]);
    assert_eq!(
        code(ebs.list_changed_blocks().first_snapshot_id("snap-00000000").second_snapshot_id(&second).send().await),
        "ResourceNotFoundException"
    );
}
