//! `image`: what operators read of images, and what their commands send.

use super::api::{Api, World, now};
use super::{io, parse};
use chrono::TimeDelta;
use serde_json::json;
use uuid::Uuid;
use vm_service::cli;
use vm_service::domain::ec2::Architecture;
use vm_service::domain::ids::ImageId;
use vm_service::domain::image::{ImageFacts, ImageFigures, ImageKind, ImageView};
use vm_service::domain::lifecycle::ImageState;

async fn execute(api: &Api, words: &[&str]) -> (u8, String, String) {
    let (io, out, err) = io(None);
    let code = cli::run(parse(&api.url, words), &Default::default(), io).await;
    (code, out.text(), err.text())
}

fn image() -> ImageView {
    ImageView {
        id: ImageId(Uuid::from_u128(7)),
        name: "guest".to_owned(),
        provider: "ec2".to_owned(),
        place: "eu-west-1".to_owned(),
        architecture: Architecture::X86_64,
        kind: ImageKind::Gpu,
        provider_id: "ami-1".to_owned(),
        facts: ImageFacts { warnings: vec!["It is public.".to_owned()], ..ImageFacts::default() },
        state: ImageState::Candidate,
        share: 10,
        reason: None,
        registered_at: now() - TimeDelta::hours(3),
        registered_by: "op".to_owned(),
        changed_at: now(),
        changed_by: "op".to_owned(),
        missing_at: None,
        figures: ImageFigures {
            vms: 5,
            ready: 3,
            failed: 1,
            median_ms: Some(21_340),
            p90_ms: Some(30_000),
            tasks: 2,
            tasks_failed: 1,
        },
        promoted: Some(ImageFigures::default()),
    }
}

#[tokio::test]
async fn a_list_shows_what_was_measured_beside_the_promoted_ones() {
    let api = Api::start(World { images: vec![image()], ..World::default() }).await;
    let (code, out, err) = execute(&api, &["image", "list", "--state", "candidate", "--place", "eu-west-1"]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    let words: Vec<_> = out.lines().nth(1).unwrap().split_whitespace().skip(1).collect();
    let figures = ["3/4", "21.3s/30.0s", "1/2", "0/0", "-/-", "0/0", "3h"];
    assert_eq!(words, [&["candidate", "10%", "gpu", "x86_64", "eu-west-1", "ami-1"][..], &figures].concat());
    assert_eq!(api.world().calls, ["GET /api/v1/images?state=candidate&place=eu-west-1&limit=200"]);
    let (_, out, _) = execute(&api, &["image", "show", &Uuid::from_u128(7).to_string()]).await;
    assert!(out.contains("3/4 boots, ready after 21.3s/30.0s, 1/2 jobs") && out.contains("It is public."), "{out}");
    let none = Api::start(World::default()).await;
    assert!(execute(&none, &["image"]).await.1.starts_with("No images"));
    let (_, out, _) = execute(&api, &["image", "--json"]).await;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&out).unwrap(), json!([image()]));
}

#[tokio::test]
async fn a_manifest_or_a_folder_is_sent_and_a_mistake_in_the_file_is_said_before() {
    let api = Api::start(World { images: vec![image()], ..World::default() }).await;
    let folder = tempfile::tempdir().unwrap();
    let (manifest, nonsense) = (folder.path().join("manifest.json"), folder.path().join("nonsense"));
    std::fs::write(&manifest, r#"{"builds": []}"#).unwrap();
    std::fs::write(&nonsense, "{").unwrap();
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let (code, out, _) =
        execute(&api, &["image", "register", &path(&manifest), "--share", "10", "--region", "eu-west-1", "--name", "mine"]).await;
    assert_eq!(code, 0);
    let id = Uuid::from_u128(7);
    assert_eq!(out, format!("{id}  gpu ami-1 in eu-west-1: candidate, 10 % of the launches\n  It is public.\n"));
    execute(&api, &["image", "register", "--folder", &path(folder.path())]).await;
    let sent = [
        json!({ "manifest": { "builds": [] }, "regions": ["eu-west-1"], "name": "mine", "share": 10 }),
        json!({ "folder": { "builds": [] }, "share": 0 }),
    ];
    assert_eq!(api.world().bodies, sent);
    let (code, _, err) = execute(&api, &["image", "register", &path(&nonsense)]).await;
    assert!(code == 1 && err.contains("nonsense is not JSON"), "{err}");
    let (_, _, err) = execute(&api, &["image", "register", "/no/such/file"]).await;
    assert!(err.contains("/no/such/file cannot be read"), "{err}");
    assert_eq!(api.count("POST"), 2);
}

#[tokio::test]
async fn it_is_tried_promoted_and_retired() {
    let api = Api::start(World { images: vec![image()], ..World::default() }).await;
    let id = Uuid::from_u128(7).to_string();
    assert_eq!(execute(&api, &["image", "share", &id, "50"]).await.1, format!("Image {id} gets 50 % of the launches.\n"));
    let (code, _, err) = execute(&api, &["image", "promote", &id]).await;
    assert!(code == 1 && err.contains("No VM of it has become ready yet"), "{err}");
    assert!(execute(&api, &["image", "promote", &id, "--force"]).await.1.contains("is promoted"));
    assert!(execute(&api, &["image", "retire", &id, "--reason", "bug"]).await.1.contains("is retired"));
    let sent = [json!({ "share": 50 }), json!({ "force": false }), json!({ "force": true }), json!({ "reason": "bug" })];
    assert_eq!(api.world().bodies, sent);
}
