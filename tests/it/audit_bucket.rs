//! The audit log by the hour in a bucket, over moto's S3: the same lines as in the database, whole or not at all.

use crate::audit_chain::{add, files_in, forge};
use crate::ec2_wire::moto::Moto;
use crate::support::Bench;
use chrono::TimeDelta;
use futures::StreamExt;
use serde_json::Value;
use sqlx::PgPool;
use vm_service::domain::audit_place::{AuditBucket, AuditPlace};
use vm_service::domain::outbound::Outbound;
use vm_service::domain::secret::Secret;
use vm_service::loops::Loop;
use vm_service::loops::audit::Files;
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
    let elsewhere = Files::new(bench.world.clone(), Store::open(cloud.place()).unwrap(), "other".to_owned());
    elsewhere.tick(start + TimeDelta::minutes(61), 1).await.unwrap();
    assert_eq!(cloud.names().await, [] as [&str; 0]);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_object_is_never_replaced(pool: PgPool) {
    let bench = Bench::new(pool.clone()).await;
    let cloud = Cloud::start().await;
    cloud.make_bucket().await;
    let files = files_in(&bench, cloud.place());
    let start = bench.now();
    add(&bench.db, "test.before", start).await;
    bench.db.seal_audit(500).await.unwrap();
    let again = async || {
        sqlx::query("delete from vms.schedules").execute(&pool).await.unwrap();
        files.tick(start + TimeDelta::hours(1), 1).await.unwrap();
        let mut texts = Vec::new();
        for name in cloud.names().await {
            texts.push((name.rsplit_once('/').unwrap().1.to_owned(), cloud.get(&format!("/{name}")).await));
        }
        texts
    };
    let first = again().await;
    assert_eq!((first.len(), first[0].0.as_str()), (1, "2026-09-21T14-00-00Z.jsonl"));
    assert_eq!(again().await, first, "the same content is there already");
    forge(&pool, "update vms.audit set action = 'test.after'").await;
    let mut both = again().await;
    both.sort_by_key(|(name, _)| name.len());
    assert_eq!((both.len(), &both[0], both[1].0.as_str()), (2, &first[0], "2026-09-21T14-00-00Z.2.jsonl"));
    assert!(both[1].1.contains("test.after"), "{both:?}");
}

#[tokio::test]
async fn a_large_hour_goes_in_parts_and_a_broken_one_leaves_none() {
    let cloud = Cloud::start().await;
    cloud.make_bucket().await;
    let store = Store::open(cloud.place()).unwrap();
    let part = vec![b'x'; 1 << 20];
    let many = |count: usize| futures::stream::iter(vec![part.clone(); count].into_iter().map(anyhow::Ok));
    let small = || futures::stream::iter([anyhow::Ok(b"line\n".to_vec()), Ok(b"next\n".to_vec())]);
    let read = async |name: &str| cloud.get(&format!("/vm-service/audit-logs/audit_log/v1/{name}.jsonl")).await;
    assert_eq!(store.put("whole", || many(20)).await.unwrap(), None);
    assert_eq!(read("whole").await.len(), 20 << 20);
    assert_eq!(store.put("small", small).await.unwrap(), None);
    assert_eq!(read("small").await, "line\nnext\n");
    let broken = || many(20).chain(futures::stream::iter([Err(anyhow::anyhow!("the database went away"))]));
    let told = store.put("broken", broken).await.unwrap_err();
    assert_eq!(told.to_string(), "the database went away");

    // One that was sent in parts replaces none either, and is not replaced.
    assert_eq!(store.put("whole", || many(20)).await.unwrap(), None);
    assert_eq!(store.put("whole", || many(19)).await.unwrap().unwrap(), "whole.2.jsonl");
    assert_eq!(store.put("small", || many(19)).await.unwrap().unwrap(), "small.2.jsonl");
    assert_eq!(store.put("whole", small).await.unwrap().unwrap(), "whole.3.jsonl");
    assert_eq!((read("whole").await.len(), read("whole.2").await.len(), read("small").await.len()), (20 << 20, 19 << 20, 10));
    let mut names = cloud.names().await;
    names.sort();
    let all = ["small.2", "small", "whole.2", "whole.3", "whole"];
    assert_eq!(names, all.map(|name| format!("vm-service/audit-logs/audit_log/v1/{name}.jsonl")));
    let uploads = cloud.get("?uploads").await;
    assert!(uploads.contains("ListMultipartUploadsResult") && !uploads.contains("<Upload>"), "{uploads}");
}
