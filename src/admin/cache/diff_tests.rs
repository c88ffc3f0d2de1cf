//! Names, ranges, sums, and what is refused.

use super::*;
use uuid::Uuid;

const BLOCK: u64 = 512 * 1024;

struct Rows;

#[async_trait]
impl Generations for Rows {
    async fn find_generation(&self, id: GenerationId) -> anyhow::Result<Option<Home>> {
        let kept = |provider: &str, place: &str| Home {
            provider: provider.to_owned(),
            place: place.to_owned(),
            provider_id: format!("snap-{}", id.0.as_u128()),
        };
        Ok(match id.0.as_u128() {
            1 | 2 => Some(kept("ec2", "eu-west-1")),
            3 => Some(kept("onhost", "host-1")),
            _ => None,
        })
    }
}

/// Says which two it was asked for.
struct Told;

#[async_trait]
impl Compare for Told {
    fn can_read(&self, provider: &str, place: &str) -> bool {
        (provider, place) == ("ec2", "eu-west-1")
    }

    async fn compare(&self, first: &str, second: &str) -> anyhow::Result<Changes> {
        bail!("{first} {second}")
    }
}

async fn told(first: &str, second: &str) -> String {
    let named = |text: &str| text.parse().unwrap();
    diff(&named(first), &named(second), &Rows, "eu-west-1", &[&Told]).await.unwrap_err().to_string()
}

fn id(number: u128) -> String {
    Uuid::from_u128(number).to_string()
}

#[tokio::test]
async fn generations_and_snapshots_are_looked_up() {
    assert_eq!(told(&id(1), &id(2)).await, "snap-1 snap-2");
    assert_eq!(told("snap-0a", &id(2)).await, "snap-0a snap-2");
    assert_eq!(told(&id(9), &id(2)).await, format!("there is no generation {}", id(9)));
    let elsewhere = told(&id(1), &id(3)).await;
    assert!(elsewhere.ends_with("snap-1 is kept by ec2 in eu-west-1, and snap-3 is kept by onhost in host-1"), "{elsewhere}");
    assert_eq!(told(&id(3), &id(3)).await, "snap-3 is kept by onhost in host-1: this command cannot read it there");
    for wrong in ["snap-", "snap-../x", "disk.qcow2", ""] {
        assert!(wrong.parse::<Named>().unwrap_err().contains("neither"), "{wrong}");
    }
}

#[test]
fn blocks_that_touch_are_one_range() {
    let changes = Changes::of_blocks(1 << 30, BLOCK, [0, 1, 2, 7, 9]);
    let range = |from: u64, blocks: u64| Range { from: from * BLOCK, bytes: blocks * BLOCK };
    assert_eq!((changes.changed_bytes, &changes.ranges), (5 * BLOCK, &vec![range(0, 3), range(7, 1), range(9, 1)]));
    let mut text = Vec::new();
    print(&changes, false, &mut text).unwrap();
    let expected = "bytes 0 to 1572863: 1.5 MiB\nbytes 3670016 to 4194303: 512 KiB\nbytes 4718592 to 5242879: 512 KiB\n\
                    2.5 MiB of 1 GiB changed: 5 blocks of 512 KiB in 3 places.\n";
    assert_eq!(String::from_utf8(text).unwrap(), expected);
    let mut json = Vec::new();
    print(&Changes::of_blocks(1 << 30, BLOCK, [4]), true, &mut json).unwrap();
    let expected = serde_json::json!({
        "volume_bytes": 1 << 30, "block_bytes": BLOCK, "changed_bytes": BLOCK, "ranges": [{ "from": 4 * BLOCK, "bytes": BLOCK }]
    });
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&json).unwrap(), expected);
}
