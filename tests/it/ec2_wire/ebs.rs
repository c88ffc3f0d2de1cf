//! EBS direct: blocks of 512 KiB with a checksum into a snapshot that is open, out of one that is complete.
//!
//! Not here: its lists (`ebs_lists`).

use super::answer::{Answer, Refusal, Service, Stop};
use super::faults::Kind;
use super::model;
use super::params::Params;
use super::state::Blocks;
use super::upstream::numbered;
use super::wire::{Call, Raw, Wire};
use super::xml::{find, parse, text};
use base64::Engine as _;
use serde_json::Value;

const BLOCK: usize = 512 * 1024;

/// Reads a request of EBS direct: what is in path, query, headers and body becomes one flat map.
pub(super) fn read(raw: Raw) -> Call {
    let Some((action, operation, mut params)) = model::ebs().route(&raw.method, &raw.path) else {
        let action = format!("{} {}", raw.method, raw.path);
        return Call { service: Service::Ebs, action, params: Params::default(), raw };
    };
    params.0.extend(form_urlencoded::parse(raw.query.as_bytes()).into_owned());
    for (_, member) in model::ebs().members(operation) {
        let (Some("header"), Some(name)) = (member.location.as_deref(), &member.location_name) else { continue };
        if let Some(value) = raw.headers.get(name.to_lowercase()).and_then(|value| value.to_str().ok()) {
            params.0.insert(name.clone(), value.to_owned());
        }
    }
    match serde_json::from_slice(&raw.body) {
        _ if action == "PutSnapshotBlock" => drop(params.0.insert("BlockData".to_owned(), format!("{} bytes", raw.body.len()))),
        Ok(Value::Object(members)) => members.iter().for_each(|(name, value)| flatten(name, value, &mut params)),
        _ => {}
    }
    Call { service: Service::Ebs, action: action.to_owned(), params, raw }
}

/// Writes a value as the query protocol would.
fn flatten(at: &str, value: &Value, params: &mut Params) {
    match value {
        Value::Object(members) => members.iter().for_each(|(name, value)| flatten(&format!("{at}.{name}"), value, params)),
        Value::Array(all) => all.iter().zip(1..).for_each(|(value, n)| flatten(&format!("{at}.{n}"), value, params)),
        Value::String(text) => drop(params.0.insert(at.to_owned(), text.clone())),
        other => drop(params.0.insert(at.to_owned(), other.to_string())),
    }
}

/// The snapshot of a call.
pub(super) fn named(call: &Call) -> &str {
    call.params.get("snapshotId").unwrap_or_default()
}

/// With which a block is given out; moto's own do not match AWS's pattern.
pub(super) fn block_token(snapshot: &str, index: u32, sum: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(format!("{snapshot} {index} {sum}"))
}

fn checksum(of: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, of);
    base64::engine::general_purpose::STANDARD.encode(digest)
}

impl Wire {
    /// The effect of a call.
    pub(super) async fn ebs(&self, call: &Call) -> Result<Answer, Stop> {
        let _turn = self.turn.lock().await;
        match call.action.as_str() {
            "StartSnapshot" => self.start_snapshot(call).await,
            "PutSnapshotBlock" => self.put_block(call).await,
            "CompleteSnapshot" => self.complete(call).await,
            "ListSnapshotBlocks" => self.list_blocks(call),
            "ListChangedBlocks" => self.list_changed(call),
            "GetSnapshotBlock" => self.get_block(call).await,
            _ => self.moto_ebs(call).await,
        }
    }

    async fn start_snapshot(&self, call: &Call) -> Result<Answer, Stop> {
        if let Some(first) = self.first(call, "ClientToken")? {
            return Ok(first.answer);
        }
        let answer = self.moto_ebs(call).await?;
        let body: Value = serde_json::from_slice(&answer.body).unwrap();
        let id = body["SnapshotId"].as_str().unwrap().to_owned();
        let source = self.ask("DescribeSnapshots", &numbered("SnapshotId", &[&id])).await?;
        let document = parse(&source);
        let volume = find(document.root_element(), &["snapshotSet", "item"]).map(|item| text(item, &["volumeId"]).to_owned());
        let mut state = self.state.lock().unwrap();
        state.phantoms.extend(volume);
        let line = call.params.get("ParentSnapshotId").and_then(|parent| Some(state.snapshots.get(parent)?.line.clone()));
        let (line, volume_gib) = (line.unwrap_or_else(|| id.clone()), call.params.number("VolumeSize"));
        state.snapshots.insert(id.clone(), Blocks { line, volume_gib, ..Blocks::default() });
        drop(state);
        self.remember(call, "ClientToken", vec![id], &answer);
        Ok(answer)
    }

    async fn put_block(&self, call: &Call) -> Result<Answer, Stop> {
        let id = self.check_snapshot(named(call), false)?;
        let invalid = |what: &str| Err(Refusal::rule("ValidationException", what).into());
        if call.raw.body.len() != BLOCK || call.params.get("x-amz-Data-Length") != Some("524288") {
            return invalid("a block has 524288 bytes");
        }
        let checksum = checksum(&call.raw.body);
        if call.params.get("x-amz-Checksum") != Some(checksum.as_str()) {
            return invalid("the checksum is not that of the block");
        }
        let answer = self.moto_ebs(call).await?;
        let mut state = self.state.lock().unwrap();
        state.snapshots.get_mut(&id).unwrap().written.insert(call.params.number("blockIndex"), checksum);
        Ok(answer)
    }

    async fn complete(&self, call: &Call) -> Result<Answer, Stop> {
        let id = self.check_snapshot(named(call), false)?;
        let written = self.state.lock().unwrap().snapshots[&id].written.clone();
        if call.params.get("x-amz-ChangedBlocksCount") != Some(written.len().to_string().as_str()) {
            return Err(Refusal::rule("ValidationException", &format!("{} blocks were written", written.len())).into());
        }
        // "Arrange the checksums for each written block in ascending order of their block index, concatenate them …"
        let bytes = |sum: &String| base64::engine::general_purpose::STANDARD.decode(sum).unwrap();
        let all = checksum(&written.values().flat_map(bytes).collect::<Vec<u8>>());
        if call.params.get("x-amz-Checksum").is_some_and(|told| told != all) {
            return Err(Refusal::rule("ValidationException", &format!("the aggregated checksum is {all}")).into());
        }
        let answer = self.moto_ebs(call).await?;
        self.state.lock().unwrap().snapshots.get_mut(&id).unwrap().complete = true;
        Ok(answer)
    }

    /// A snapshot, if it is complete, or open, as it should be.
    pub(super) fn check_snapshot(&self, id: &str, complete: bool) -> Result<String, Stop> {
        match self.state.lock().unwrap().snapshots.get(id) {
            None => Err(Refusal::new(404, "ResourceNotFoundException", "The specified snapshot does not exist").into()),
            Some(blocks) if blocks.complete == complete => Ok(id.to_owned()),
            Some(_) => Err(Refusal::rule("ValidationException", "The snapshot is in another state").into()),
        }
    }

    async fn get_block(&self, call: &Call) -> Result<Answer, Stop> {
        let (id, index) = (self.check_snapshot(named(call), true)?, call.params.number("blockIndex"));
        let sum = self.state.lock().unwrap().snapshots[&id].written.get(&index).cloned();
        let Some(sum) = sum else {
            return Err(Refusal::rule("ValidationException", "The snapshot has no such block").because("INVALID_BLOCK").into());
        };
        if call.params.get("blockToken") != Some(block_token(&id, index, &sum).as_str()) {
            let refusal = Refusal::rule("ValidationException", "The block token is not that of the block");
            return Err(refusal.because("INVALID_BLOCK_TOKEN").into());
        }
        let mut answer = self.moto_ebs(call).await?;
        if self.strikes(call, |kind| matches!(kind, Kind::Damage)) {
            let mut body = answer.body.to_vec();
            body[BLOCK / 2] ^= 1;
            answer.body = body.into();
        }
        Ok(answer)
    }

    async fn moto_ebs(&self, call: &Call) -> Result<Answer, Stop> {
        let answer = self.pass_on(&call.raw).await;
        if answer.status < 500 {
            return Ok(answer);
        }
        self.violated("moto cannot", vec![format!("{} {:?}", call.action, call.params.0)]);
        Err(Refusal::new(500, "InternalError", "moto does not know this").into())
    }
}
