//! `vm-service tokens`: made, listed and revoked by whoever runs the host, of an external database and of `up`; and the audit log tells.

use crate::api_support::{Api, VIEWER};
use crate::service::{Service, text};
use serde_json::{Value, json};
use sqlx::PgPool;
use vm_service::admin::tokens::{self, Output, TokensCommand};
use vm_service::domain::access::Role;
use vm_service::domain::ids::TokenId;
use vm_service::seal::Sealer;

/// Runs a command; what it wrote to its two outputs.
async fn run(api: &Api, key: &str, command: TokensCommand, json: bool) -> anyhow::Result<(String, String)> {
    let (mut out, mut notes) = (Vec::new(), Vec::new());
    let sealer = || Ok(Sealer::new([key])?);
    tokens::run(command, api.db(), sealer, Output { out: &mut out, notes: &mut notes, json }).await?;
    Ok((String::from_utf8(out)?, String::from_utf8(notes)?))
}

fn create(principal: &str) -> TokensCommand {
    TokensCommand::Create { principal: principal.to_owned(), role: Role::Dispatcher, untrusted: true }
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_token_is_made_listed_and_revoked_and_each_is_told(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    let key = Sealer::fresh_key().unwrap();
    let (out, notes) = run(&api, &key, create("forks\u{1b}[2J"), false).await.unwrap();
    let first = out.trim_end();
    assert!(out.lines().count() == 1 && first.starts_with("vms_"), "{out}");
    let id: TokenId = notes.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert_eq!(notes, format!("Token {id} of forks\\u{{1b}}[2J, role dispatcher:\n"));
    let (out, notes) = run(&api, &key, create("ci"), true).await.unwrap();
    let made: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&made["principal"], &made["untrusted_only"], notes.as_str()), (&json!("ci"), &json!(true), ""));

    let listed: Value = serde_json::from_str(&run(&api, &key, TokensCommand::List, true).await.unwrap().0).unwrap();
    let of = |listed: &Value, id: &Value| listed.as_array().unwrap().iter().find(|token| token["id"] == *id).unwrap().clone();
    let ci = of(&listed, &made["id"]);
    let (at, role) = (&ci["created_at"], "dispatcher");
    let row =
        json!({ "id": made["id"], "principal": "ci", "role": role, "untrusted_only": true, "created_at": at, "revoked_at": null });
    assert_eq!((listed.as_array().unwrap().len(), &ci), (6, &row));
    let hashes = Sealer::new([key.as_str()]).unwrap().token_hashes(first);
    assert!(api.db().find_caller(&hashes).await.unwrap().is_some());

    let (out, _) = run(&api, &key, TokensCommand::Revoke { id }, false).await.unwrap();
    assert_eq!(out, format!("Token {id} of forks\\u{{1b}}[2J is revoked.\n"));
    assert!(api.db().find_caller(&hashes).await.unwrap().is_none());
    let again = run(&api, &key, TokensCommand::Revoke { id }, false).await.unwrap_err().to_string();
    assert!(again.contains("no token") && again.contains("tokens list"), "{again}");
    let (table, _) = run(&api, &key, TokensCommand::List, false).await.unwrap();
    let line = table.lines().find(|line| line.contains(&id.to_string())).unwrap();
    assert!(line.contains("forks\\u{1b}[2J, untrusted, revoked 20") && !table.contains(first), "{table}");

    let told = api.call(VIEWER, "GET", &format!("/api/v1/audit?target={id}")).await.json();
    let [revoked, created] = &told["items"].as_array().unwrap()[..] else { panic!("{told}") };
    assert_eq!((&revoked["action"], &created["action"]), (&json!("token.revoke"), &json!("token.create")));
    assert_eq!((&revoked["actor"]["type"], &revoked["payload"]), (&json!("local_user"), &created["payload"]));
    assert!(!told.to_string().contains(first));

    // What cannot be told is not done.
    sqlx::query("alter table vms.audit add check (false) not valid").execute(&pool).await.unwrap();
    let id: TokenId = made["id"].as_str().unwrap().parse().unwrap();
    run(&api, &key, TokensCommand::Revoke { id }, false).await.unwrap_err();
    let listed: Value = serde_json::from_str(&run(&api, &key, TokensCommand::List, true).await.unwrap().0).unwrap();
    assert_eq!(of(&listed, &made["id"]), row);
}

#[test]
fn the_tokens_of_up_are_made_and_revoked_on_its_host() {
    let service = Service::start("tokens");
    let data = service.data.to_str().unwrap();
    let tokens = |words: &[&str]| service.command(&[&["tokens"], words, &["--data", data]].concat()).output().unwrap();
    let (token, notes) = text(&tokens(&["create", "grafana", "--role", "viewer"]));
    let id = notes.split_whitespace().nth(1).unwrap_or_else(|| panic!("{notes}"));
    let with_it = || service.command(&["vms"]).env("VM_SERVICE_TOKEN", token.trim()).output().unwrap();
    assert_eq!(with_it().status.code(), Some(0), "{token}{notes}");
    let (table, _) = text(&tokens(&["list"]));
    assert!(table.contains(id) && table.contains("operator"), "{table}");
    assert_eq!(tokens(&["revoke", id]).status.code(), Some(0));
    assert_eq!(with_it().status.code(), Some(1));
    let wrong = text(&tokens(&["revoke", id])).1;
    assert!(wrong.contains("is in force"), "{wrong}");
    let nowhere = text(&service.command(&["tokens", "list", "--data", "/proc/nowhere"]).output().unwrap()).1;
    assert!(nowhere.contains("name its folder with --data"), "{nowhere}");
}

/// As root: the service's user is whom `sudo` would name.
#[test]
fn the_backup_of_up_is_made_as_the_book_says() {
    let service = Service::start("backup");
    let (_, book) = include_str!("../../docs/operate.md").split_once("    of_up() {\n").unwrap();
    let (book, _) = book.split_once("\n\n").unwrap();
    let book = book.replace("/var/lib/vm-service", service.data.to_str().unwrap()).replace(">vms-$(date +%F).dump", "| head -c 5");
    let book = format!(
        "set -e; PATH=$PATH:$(echo /usr/lib/postgresql/*/bin | tr ' ' :)\nsudo() {{ shift 2; \"$@\"; }}\nof_up() {{\n{book}"
    );
    let done = std::process::Command::new("bash").args(["-c", &book]).output().unwrap();
    let (out, err) = text(&done);
    assert!(done.status.success() && out.starts_with("PGDMP") && out.contains("(1 row)"), "{book}\n{out}{err}");
}
