//! The audit log by the hour in a bucket, over moto's S3: the same lines as in the database, whole or not at all.

use crate::audit_chain::{add, files_in};
use crate::ec2_wire::moto::Moto;
use crate::support::Bench;
use chrono::TimeDelta;
use serde_json::Value;
use sqlx::PgPool;
use vm_service::domain::audit_place::{AuditBucket, AuditPlace};
use vm_service::domain::outbound::Outbound;
use vm_service::domain::secret::Secret;
use vm_service::loops::Loop;
use vm_service::loops::audit_store::Store;

/// moto, and its bucket's address.
struct Cloud {
    http: reqwest::Client,
    moto: Moto,
}

impl Cloud {
    async fn start() -> Self {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { moto: Moto::start(&http).await, http }
    }

    fn place(&self) -> AuditPlace {
        let option = |(name, value): (&str, &str)| (name.to_owned(), Secret::new(value));
        let options = [
            ("AWS_ENDPOINT_URL", self.moto.url.as_str()),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "hush"),
            ("AWS_PAGER", "less"),
        ];
        let options = options.into_iter().map(option).collect();
        AuditPlace::Bucket(AuditBucket::parse("s3://ci-logs/vm-service/", options, Outbound::default()).unwrap())
    }

    async fn make_bucket(&self) {
        self.ask("PUT", "").await;
    }

    async fn get(&self, path: &str) -> String {
        self.ask("GET", path).await
    }

    async fn ask(&self, method: &str, path: &str) -> String {
        let request = self.http.request(method.parse().unwrap(), format!("{}/ci-logs{path}", self.moto.url));
        // The objects are private; moto does not look at the signature.
        let signed = request.header("authorization", "AWS4-HMAC-SHA256 Credential=test/20261123/us-east-1/s3/aws4_request");
        let answer = signed.send().await.unwrap();
        assert!(answer.status().is_success(), "{method} {path}: {answer:?}");
        answer.text().await.unwrap()
    }

    /// Names of all objects.
    async fn names(&self) -> Vec<String> {
        let list = self.get("?list-type=2").await;
        let names = regex_lite::Regex::new("<Key>([^<]*)</Key>").unwrap();
        names.captures_iter(&list).map(|found| found[1].to_owned()).collect()
    }
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_hour_becomes_an_object_of_a_bucket(pool: PgPool) {
    let bench = Bench::new(pool).await;
    let cloud = Cloud::start().await;
    let files = files_in(&bench, cloud.place());
    let start = bench.now();
    for n in 0..2500 {
        add(&bench.db, &format!("test.n{n}"), start + TimeDelta::milliseconds(n)).await;
    }
    while bench.db.seal_audit(500).await.unwrap() > 0 {}
    let tick = async || files.tick(start + TimeDelta::minutes(60), 1).await.map(drop);

    // Without its bucket the hour is told and waits.
    let told = format!("{:#}", tick().await.unwrap_err());
    assert!(told.contains("to s3://ci-logs/vm-service") && told.contains("NoSuchBucket") && !told.contains("hush"), "{told}");
    cloud.make_bucket().await;
    tick().await.unwrap();
    assert_eq!(cloud.names().await, ["vm-service/audit-logs/audit_log/v1/2026-09-21T14-00-00Z.jsonl"]);
    let text = cloud.get("/vm-service/audit-logs/audit_log/v1/2026-09-21T14-00-00Z.jsonl").await;
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let rows = bench.db.list_audit_of(start, start + TimeDelta::hours(1), None, 9999).await.unwrap();
    assert!(lines.iter().eq(rows.iter().map(|row| serde_json::to_value(row).unwrap()).collect::<Vec<_>>().iter()), "other lines");
    assert_eq!((lines.len(), lines[2499]["link"].as_i64()), (2500, Some(2500)));

    // It is noted for the bucket, whatever host writes next: an object that was moved away stays away.
    cloud.ask("DELETE", &format!("/{}", cloud.names().await[0])).await;
    let elsewhere = vm_service::loops::audit::Files { host: "other".to_owned(), ..files };
    elsewhere.tick(start + TimeDelta::minutes(61), 1).await.unwrap();
    assert_eq!(cloud.names().await, [] as [&str; 0]);
}

#[tokio::test]
async fn a_large_hour_goes_in_parts_and_a_broken_one_leaves_none() {
    let cloud = Cloud::start().await;
    cloud.make_bucket().await;
    let store = Store::open(cloud.place()).unwrap();
    let part = vec![b'x'; 1 << 20];
    let whole = futures::stream::iter(vec![part.clone(); 20].into_iter().map(anyhow::Ok));
    store.put("whole", whole).await.unwrap();
    assert_eq!(cloud.get("/vm-service/audit-logs/audit_log/v1/whole").await.len(), 20 << 20);
    store.put("small", futures::stream::iter([anyhow::Ok(b"line\n".to_vec()), Ok(b"next\n".to_vec())])).await.unwrap();
    assert_eq!(cloud.get("/vm-service/audit-logs/audit_log/v1/small").await, "line\nnext\n");
    let broken = vec![part; 20].into_iter().map(anyhow::Ok).chain([Err(anyhow::anyhow!("the database went away"))]);
    let told = store.put("broken", futures::stream::iter(broken)).await.unwrap_err();
    assert_eq!(told.to_string(), "the database went away");
    assert_eq!(cloud.names().await, ["small", "whole"].map(|name| format!("vm-service/audit-logs/audit_log/v1/{name}")));
    let uploads = cloud.get("?uploads").await;
    assert!(uploads.contains("ListMultipartUploadsResult") && !uploads.contains("broken"), "{uploads}");
}
