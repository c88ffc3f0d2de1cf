//! EBS direct: blocks of 512 KiB with a checksum into a snapshot that is open, out of one that is complete.
//!
//! Not here: `ListChangedBlocks`; moto answers it with 500, so it is a violation.

use super::answer::{Answer, Refusal, Service, Stop};
use super::model;
use super::params::Params;
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

impl Wire {
    /// The effect of a call.
    pub(super) async fn ebs(&self, call: &Call) -> Result<Answer, Stop> {
        let _turn = self.turn.lock().await;
        match call.action.as_str() {
            "StartSnapshot" => self.start_snapshot(call).await,
            "PutSnapshotBlock" => self.put_block(call).await,
            "CompleteSnapshot" => self.complete(call).await,
            "ListSnapshotBlocks" => {
                self.complete_blocks(call)?;
                self.moto_ebs(call).await
            }
            "GetSnapshotBlock" => {
                if !self.complete_blocks(call)?.contains(&call.params.number("blockIndex")) {
                    return Err(Refusal::rule("ValidationException", "The snapshot has no such block").into());
                }
                self.moto_ebs(call).await
            }
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
        state.snapshots.insert(id.clone(), super::state::Blocks::default());
        drop(state);
        self.remember(call, "ClientToken", vec![id], &answer);
        Ok(answer)
    }

    async fn put_block(&self, call: &Call) -> Result<Answer, Stop> {
        let id = self.check_snapshot(call, false)?;
        let invalid = |what: &str| Err(Refusal::rule("ValidationException", what).into());
        if call.raw.body.len() != BLOCK || call.params.get("x-amz-Data-Length") != Some("524288") {
            return invalid("a block has 524288 bytes");
        }
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &call.raw.body);
        let checksum = base64::engine::general_purpose::STANDARD.encode(digest);
        if call.params.get("x-amz-Checksum") != Some(checksum.as_str()) {
            return invalid("the checksum is not that of the block");
        }
        let answer = self.moto_ebs(call).await?;
        let mut state = self.state.lock().unwrap();
        state.snapshots.get_mut(&id).unwrap().written.insert(call.params.number("blockIndex"));
        Ok(answer)
    }

    async fn complete(&self, call: &Call) -> Result<Answer, Stop> {
        let id = self.check_snapshot(call, false)?;
        let written = self.state.lock().unwrap().snapshots[&id].written.len();
        if call.params.get("x-amz-ChangedBlocksCount") != Some(written.to_string().as_str()) {
            return Err(Refusal::rule("ValidationException", &format!("{written} blocks were written")).into());
        }
        let answer = self.moto_ebs(call).await?;
        self.state.lock().unwrap().snapshots.get_mut(&id).unwrap().complete = true;
        Ok(answer)
    }

    /// The snapshot of a call, if it is complete, or open, as it should be.
    fn check_snapshot(&self, call: &Call, complete: bool) -> Result<String, Stop> {
        let id = call.params.get("snapshotId").unwrap_or_default();
        match self.state.lock().unwrap().snapshots.get(id) {
            None => Err(Refusal::new(404, "ResourceNotFoundException", "The specified snapshot does not exist").into()),
            Some(blocks) if blocks.complete == complete => Ok(id.to_owned()),
            Some(_) => Err(Refusal::rule("ValidationException", "The snapshot is in another state").into()),
        }
    }

    fn complete_blocks(&self, call: &Call) -> Result<std::collections::BTreeSet<u32>, Stop> {
        let id = self.check_snapshot(call, true)?;
        Ok(self.state.lock().unwrap().snapshots[&id].written.clone())
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
