//! EBS direct's lists, out of what was written: moto gives tokens that AWS's pattern refuses, knows no pages, and answers
//! `ListChangedBlocks` with 500.

use super::answer::{Answer, Refusal, Stop};
use super::ebs::{block_token, named};
use super::wire::{Call, Wire};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use std::collections::BTreeSet;

impl Wire {
    pub(super) fn list_blocks(&self, call: &Call) -> Result<Answer, Stop> {
        let id = self.check_snapshot(named(call), true)?;
        let blocks = self.state.lock().unwrap().snapshots[&id].clone();
        let one = |(index, sum): (&u32, &String)| json!({ "BlockIndex": index, "BlockToken": block_token(&id, *index, sum) });
        let all: Vec<Value> = blocks.written.iter().map(one).collect();
        self.page(call, "Blocks", &all, blocks.volume_gib)
    }

    pub(super) fn list_changed(&self, call: &Call) -> Result<Answer, Stop> {
        let get = |name: &str| self.check_snapshot(call.params.get(name).unwrap_or_default(), true);
        let (first, second) = (get("firstSnapshotId")?, get("secondSnapshotId")?);
        let state = self.state.lock().unwrap();
        let (a, b) = (state.snapshots[&first].clone(), state.snapshots[&second].clone());
        drop(state);
        if a.line != b.line {
            let refusal = Refusal::rule("ValidationException", "The snapshots are not of one lineage");
            return Err(refusal.because("UNRELATED_SNAPSHOTS").into());
        }
        let indices: BTreeSet<u32> = a.written.keys().chain(b.written.keys()).copied().collect();
        let changed = indices.into_iter().filter(|index| a.written.get(index) != b.written.get(index)).map(|index| {
            let mut one = json!({ "BlockIndex": index });
            for (name, id, blocks) in [("FirstBlockToken", &first, &a), ("SecondBlockToken", &second, &b)] {
                if let Some(sum) = blocks.written.get(&index) {
                    one[name] = block_token(id, index, sum).into();
                }
            }
            one
        });
        self.page(call, "ChangedBlocks", &changed.collect::<Vec<_>>(), b.volume_gib)
    }

    /// "The request can return less blocks than MaxResults or an empty array of blocks."
    fn page(&self, call: &Call, name: &str, all: &[Value], volume_gib: u32) -> Result<Answer, Stop> {
        let size = usize::try_from(call.params.number("maxResults")).unwrap().clamp(100, 10_000).min(self.rules.blocks_per_page);
        let told = call.params.get("pageToken").map(|token| String::from_utf8(BASE64.decode(token).unwrap()).unwrap());
        let begins_empty = told.is_none() && self.rules.blocks_per_page < 100;
        let from: usize = told.map_or(0, |from| from.parse().unwrap());
        let to = if begins_empty { 0 } else { (from + size).min(all.len()) };
        let mut answer = json!({ "BlockSize": 524_288, "VolumeSize": volume_gib, "ExpiryTime": 1_900_000_000.0 });
        answer[name] = all[from..to].into();
        if to < all.len() {
            answer["NextToken"] = BASE64.encode(to.to_string()).into();
        }
        Ok(Answer::json(&answer))
    }
}
