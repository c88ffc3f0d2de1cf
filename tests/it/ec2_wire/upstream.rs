//! Calls to moto. An error of moto's own (500) is a violation: it must never pass for a fault or for an answer.

use super::answer::{Answer, Refusal, Stop};
use super::params::Params;
use super::truth::{self, Truth, VolumeTruth};
use super::wire::{REGION, Raw, Wire};
use super::xml::{parse, text};
use axum::body::Bytes;
use axum::http::{HeaderMap, header};

impl Wire {
    /// A call of EC2 past every check, to moto or to what is held in its place.
    pub(super) async fn ask(&self, action: &str, params: &Params) -> Result<String, Stop> {
        match self.ask_held(action, params).await {
            Some(answer) => answer,
            None => self.ask_moto(action, params).await,
        }
    }

    /// A call of EC2 past every check; moto's refusal is passed on as AWS would send it.
    pub(super) async fn ask_moto(&self, action: &str, params: &Params) -> Result<String, Stop> {
        let (status, body) = post(&self.http, &self.moto, action, params).await;
        if status == 200 {
            return Ok(body);
        }
        if status >= 500 {
            self.violated("moto cannot", vec![format!("{action} {:?}", params.0)]);
            return Err(Refusal::new(500, "InternalError", "moto does not know this").into());
        }
        let document = parse(&body);
        let error = |name: &str| text(document.root_element(), &["Errors", "Error", name]).to_owned();
        Err(Refusal::new(status, &error("Code"), &error("Message")).into())
    }

    /// The instances of these ids, all of them or an error; without ids every instance.
    pub(super) async fn true_instances(&self, ids: &[&str]) -> Result<Vec<Truth>, Stop> {
        let mut params = numbered("InstanceId", ids);
        let mut all = Vec::new();
        loop {
            let (page, next) = truth::instances(&self.ask("DescribeInstances", &params).await?);
            all.extend(page);
            match next {
                Some(token) => params = params.with("NextToken", &token),
                None => return Ok(all),
            }
        }
    }

    /// The same for volumes.
    pub(super) async fn true_volumes(&self, ids: &[&str]) -> Result<Vec<VolumeTruth>, Stop> {
        Ok(truth::volumes(&self.ask("DescribeVolumes", &numbered("VolumeId", ids)).await?))
    }

    /// A request of EBS direct as it came.
    pub(super) async fn pass_on(&self, raw: &Raw) -> Answer {
        let query = if raw.query.is_empty() { String::new() } else { format!("?{}", raw.query) };
        let mut headers = raw.headers.clone();
        for name in [header::HOST, header::CONTENT_LENGTH, header::CONNECTION, header::TRANSFER_ENCODING] {
            headers.remove(name);
        }
        let request = self.http.request(raw.method.parse().unwrap(), format!("{}{}{query}", self.moto, raw.path));
        let response = request.headers(headers).body(raw.body.clone()).send().await.unwrap();
        let (status, mut headers) = (response.status().as_u16(), response.headers().clone());
        for name in [header::CONTENT_LENGTH, header::CONNECTION, header::TRANSFER_ENCODING] {
            headers.remove(name);
        }
        Answer { status, headers, body: response.bytes().await.unwrap() }
    }
}

/// `InstanceId.1`, `InstanceId.2` …
pub(super) fn numbered(list: &str, values: &[&str]) -> Params {
    Params(values.iter().enumerate().map(|(at, value)| (format!("{list}.{}", at + 1), (*value).to_owned())).collect())
}

/// One call of EC2 at moto.
pub(super) async fn post(http: &reqwest::Client, moto: &str, action: &str, params: &Params) -> (u16, String) {
    let scope = format!("Credential=moto/20260101/{REGION}/ec2/aws4_request");
    let mut headers = HeaderMap::new();
    let signature = format!("AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0");
    headers.insert(header::AUTHORIZATION, signature.parse().unwrap());
    headers.insert(header::CONTENT_TYPE, "application/x-www-form-urlencoded".parse().unwrap());
    let body = Bytes::from(params.encode(action));
    let response = http.post(moto).headers(headers).body(body).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}
