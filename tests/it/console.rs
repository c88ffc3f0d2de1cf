//! Who gets into the console, from where, for how long, and what he may do there.

use crate::api_support::{Api, CI, OPERATOR, VIEWER, machine, task_path};
use crate::console_support::{Browser, form, request, sign_in};
use axum::body::Body;
use chrono::TimeDelta;
use sqlx::PgPool;
use std::net::IpAddr;
use vm_service::clock::Clock;
use vm_service::http;

const PAGES: [&str; 6] = ["/console", "/console/tasks", "/console/vms", "/console/volumes", "/console/images", "/console/events"];

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_token_that_sees_everything_signs_in(pool: PgPool) {
    let api = Api::new(pool).await;
    for token in [OPERATOR, VIEWER] {
        let reply = sign_in(&api, &format!(" {token} "), "/console/tasks?state=queued").await;
        assert_eq!((reply.status, reply.header("location")), (303, "/console/tasks?state=queued"));
        let cookie = reply.header("set-cookie");
        assert!(cookie.starts_with("vm-service=") && !cookie.contains("Secure"), "{cookie}");
        for part in ["HttpOnly", "SameSite=Lax", "Path=/"] {
            assert!(cookie.contains(part), "{part}: {cookie}");
        }
        assert!(!cookie.contains("Domain"), "{cookie}");
    }
    let dispatcher = sign_in(&api, CI, "").await;
    assert_eq!((dispatcher.status, dispatcher.header("set-cookie")), (403, ""));
    assert!(dispatcher.text.contains("dispatcher") && dispatcher.text.contains("id=\"sign-in\""), "{dispatcher:?}");
    for wrong in ["vms_nobody", "", &"x".repeat(600)] {
        let reply = sign_in(&api, wrong, "").await;
        assert_eq!((reply.status, reply.header("set-cookie")), (401, ""), "{wrong}");
        assert!(reply.text.contains("not known, or was revoked"));
    }
    assert_eq!(sign_in(&api, OPERATOR, "//evil.example").await.header("location"), "/console");
    assert!(!api.logs.text().contains(OPERATOR), "no token is logged");
    let kept: Vec<Vec<u8>> = sqlx::query_scalar("select hash from vms.sessions").fetch_all(&api.db().pool).await.unwrap();
    let browser = Browser::new(&api, OPERATOR).await;
    let name = browser.cookie.split_once('=').unwrap().1;
    assert!(kept.iter().all(|hash| hash != name.as_bytes()) && kept.len() == 3, "only hashes are kept");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn with_tls_the_cookie_is_secure_and_of_this_host_alone(pool: PgPool) {
    let mut api = Api::new(pool).await;
    let hosts = http::Hosts::new(&["vms.example".to_owned()], IpAddr::from([127, 0, 0, 1]));
    api.state = api.state.with_console(hosts, true);
    api.router = http::router(api.state.clone());
    let reply = sign_in(&api, OPERATOR, "").await;
    let cookie = reply.header("set-cookie").to_owned();
    assert!(cookie.starts_with("__Host-vm-service=") && cookie.contains("Secure") && cookie.contains("Path=/"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap();
    let ask = async |host: &str| {
        let request = axum::http::Request::builder().uri("/console").header("host", host).header("cookie", cookie);
        api.send(request.body(Body::empty()).unwrap()).await.status
    };
    assert_eq!([ask("vms.example").await, ask("vms.example:443").await, ask("other.example").await], [200, 200, 421]);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn attempts_with_wrong_tokens_are_limited_and_keep_nobody_out(pool: PgPool) {
    let api = Api::new(pool).await;
    for _ in 0..10 {
        assert_eq!(sign_in(&api, "vms_guess", "").await.status, 401);
    }
    let refused = sign_in(&api, "vms_guess", "").await;
    assert_eq!((refused.status, refused.header("set-cookie")), (429, ""));
    assert!(refused.text.contains("wait"), "{refused:?}");
    for _ in 0..10 {
        assert_eq!(sign_in(&api, OPERATOR, "").await.status, 303, "all come from the address of one proxy");
    }
    let refused = sign_in(&api, OPERATOR, "").await;
    assert_eq!((refused.status, refused.header("set-cookie")), (429, ""), "one token does not fill the table of sessions");
    assert_eq!(sign_in(&api, VIEWER, "").await.status, 303);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn without_a_session_every_page_leads_to_the_sign_in(pool: PgPool) {
    let api = Api::new(pool).await;
    let ask = async |method: &str, path: &str, cookie: &str| {
        let request = request(method, path).header("cookie", cookie).header("sec-fetch-site", "same-origin");
        api.send(request.body(Body::empty()).unwrap()).await
    };
    assert_eq!(ask("GET", "/", "").await.header("location"), "/console");
    for page in PAGES.into_iter().chain(["/console/tasks/x?a=b"]) {
        for cookie in ["", "vm-service=", "vm-service=guess", "theme=dark"] {
            let reply = ask("GET", page, cookie).await;
            assert_eq!(reply.status, 303, "{page}: {reply:?}");
            let next = reqwest::Url::parse(&format!("http://x{}", reply.header("location"))).unwrap();
            assert_eq!(next.query_pairs().next().unwrap(), ("next".into(), page.into()));
        }
    }
    for cookie in ["", "vm-service=guess"] {
        let live = ask("GET", "/console/live?of=/console", cookie).await;
        assert_eq!((live.status, live.header("content-type")), (200, "text/event-stream"), "its reader follows no redirection");
        assert!(live.text.starts_with("event: gone\n") && !live.text.contains("event: part"), "{live:?}");
    }
    let reply = ask("POST", "/console/vms/x/terminate", "vm-service=guess").await;
    assert_eq!((reply.status, reply.header("location")), (303, "/console/sign-in?next=%2Fconsole%2Fvms%2Fx"));
    let browser = Browser::new(&api, OPERATOR).await;
    let request = Api::request("", "GET", "/api/v1/vms").header("cookie", &browser.cookie).header("host", "localhost");
    api.send(request.body(Body::empty()).unwrap()).await.problem(401);
    assert_eq!(browser.get("/console/sign-in").await.header("location"), "/console", "who is signed in goes on");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_session_ends_in_every_way_that_it_should(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    let is_in = async |browser: &Browser<'_>| browser.get("/console").await.status == 200;
    let out = Browser::new(&api, OPERATOR).await;
    assert!(is_in(&out).await);
    let gone = out.post("/console/sign-out", &[]).await;
    assert!(gone.status == 303 && gone.header("set-cookie").contains("Max-Age=0"), "{gone:?}");
    assert!(!is_in(&out).await, "signed out");

    let (operator, viewer) = (Browser::new(&api, OPERATOR).await, Browser::new(&api, VIEWER).await);
    sqlx::query("update vms.tokens set revoked_at = now() where principal = 'viewer'").execute(&pool).await.unwrap();
    assert!(!is_in(&viewer).await, "its token was revoked");
    api.clock.advance(TimeDelta::minutes(59));
    assert!(is_in(&operator).await);
    api.clock.advance(TimeDelta::minutes(59));
    assert!(is_in(&operator).await, "it was used in between");
    api.clock.advance(TimeDelta::minutes(61));
    assert!(!is_in(&operator).await, "nobody used it for an hour");

    let steady = Browser::new(&api, OPERATOR).await;
    for _ in 0..23 {
        api.clock.advance(TimeDelta::minutes(30));
        assert!(is_in(&steady).await);
    }
    api.clock.advance(TimeDelta::minutes(31));
    assert!(!is_in(&steady).await, "twelve hours are the end");
    let fresh = Browser::new(&api, OPERATOR).await;
    api.db().trim_sessions(api.clock.now()).await.unwrap();
    assert!(is_in(&fresh).await);
    let left: i64 = sqlx::query_scalar("select count(*) from vms.sessions").fetch_one(&pool).await.unwrap();
    assert_eq!(left, 1, "those that ended are collected");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_change_that_comes_from_elsewhere_is_refused(pool: PgPool) {
    let api = Api::new(pool).await;
    api.put(CI, &task_path(1), &machine()).await;
    let browser = Browser::new(&api, OPERATOR).await;
    let path = format!("/console/tasks/{}/release", uuid::Uuid::from_u128(1));
    let token = browser.form_token();
    let send = async |headers: &[(&str, &str)], token: &str| {
        let mut request = request("POST", &path).header("cookie", &browser.cookie);
        request = request.header("content-type", "application/x-www-form-urlencoded");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        api.send(request.body(Body::from(format!("form_token={token}"))).unwrap()).await.status
    };
    let elsewhere: [&[(&str, &str)]; 8] = [
        &[],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site")],
        &[("sec-fetch-site", "none")],
        &[("sec-fetch-site", "cross-site"), ("origin", "http://localhost:3001")],
        &[("origin", "http://evil.example")],
        &[("origin", "http://localhost:3002")],
        &[("origin", "null")],
    ];
    for elsewhere in elsewhere {
        assert_eq!(send(elsewhere, &token).await, 403, "{elsewhere:?}");
    }
    let ours = [("sec-fetch-site", "same-origin"), ("origin", "null")];
    let other = Browser::new(&api, OPERATOR).await.form_token();
    for wrong in ["", "x", &other] {
        assert_eq!(send(&ours, wrong).await, 403, "{wrong}");
    }
    assert_eq!(api.call(CI, "GET", &task_path(1)).await.json()["state"], "queued", "nothing was changed");
    let (builder, body) = form(&path, &[]);
    assert_eq!(api.send(builder.header("cookie", &browser.cookie).body(body).unwrap()).await.status, 400, "no token at all");
    assert_eq!(send(&ours, &token).await, 303);
    assert_eq!(send(&[("origin", "http://localhost:3001")], &token).await, 303, "an old browser, and again changes nothing");
    assert_eq!(api.call(CI, "GET", &task_path(1)).await.json()["state"], "cancelled");
    let foreign = form("/console/sign-in", &[("token", OPERATOR)]).0.header("x", "y");
    let mut foreign = foreign.body(Body::from(format!("token={OPERATOR}"))).unwrap();
    foreign.headers_mut().insert("sec-fetch-site", "cross-site".parse().unwrap());
    assert_eq!(api.send(foreign).await.status, 403, "nobody is signed in by another site");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_name_that_is_not_ours_gets_nothing(pool: PgPool) {
    let api = Api::new(pool).await;
    let browser = Browser::new(&api, OPERATOR).await;
    for host in [None, Some("evil.example"), Some("10.0.0.1:3001"), Some("localhost.evil.example")] {
        let mut request = axum::http::Request::builder().uri("/console").header("cookie", &browser.cookie);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let reply = api.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(reply.status, 421, "{host:?}");
        assert!(reply.text.contains("VM_SERVICE_CONSOLE_HOSTS") && !reply.text.contains("Pools"), "{reply:?}");
    }
    assert_eq!(browser.get("/console").await.status, 200);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn every_answer_keeps_the_browser_from_what_it_should_not_do(pool: PgPool) {
    let api = Api::new(pool).await;
    let browser = Browser::new(&api, OPERATOR).await;
    let page = browser.get("/console").await;
    let style = page.text.split("href=\"").find_map(|rest| rest.split('"').next().filter(|path| path.ends_with(".css"))).unwrap();
    let asset = browser.get(style).await;
    assert_eq!((asset.status, asset.header("content-type")), (200, "text/css; charset=utf-8"));
    assert!(asset.header("cache-control").contains("immutable"), "{asset:?}");
    let old = browser.get("/console/assets/0000/console.css").await;
    assert_eq!((old.status, old.header("cache-control")), (200, "no-store"));
    let others = [
        "/console/sign-in",
        "/console/nothing",
        "/console/tasks/x",
        "/console/tasks?state=x",
        "/console/assets/0/x",
        "/console/sign-out",
    ];
    for path in PAGES.into_iter().chain(others).chain([style]) {
        let reply = browser.get(path).await;
        let policy = reply.header("content-security-policy");
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "form-action 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
        ] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(reply.header("referrer-policy"), "same-origin");
        assert_eq!(reply.header("x-content-type-options"), "nosniff");
        assert_eq!(reply.header("cross-origin-opener-policy"), "same-origin");
        assert_eq!(reply.header("cross-origin-resource-policy"), "same-origin");
        if path != style {
            assert_eq!(reply.header("cache-control"), "no-store", "{path}");
            for never in ["<style", " style=", "javascript:", " onclick", "<script>", "http://", "https://"] {
                assert!(!reply.text.contains(never), "{path} has {never}");
            }
        }
    }
    let statuses = async |path: &str| (browser.get(path).await.status, browser.get(path).await.text.contains("<main"));
    assert_eq!(statuses("/console/nothing").await, (404, true));
    assert_eq!(statuses("/console/tasks/x").await, (404, true));
    assert_eq!(statuses("/console/tasks?state=x").await, (400, true));
    assert_eq!(statuses("/console/sign-out").await, (405, true));
    let zipped = request("GET", "/console").header("cookie", &browser.cookie).header("accept-encoding", "gzip");
    assert_eq!(api.send(zipped.body(Body::empty()).unwrap()).await.header("content-encoding"), "gzip");
    let asked = Api::request(OPERATOR, "GET", "/api/v1/vms").header("accept-encoding", "gzip");
    assert_eq!(api.send(asked.body(Body::empty()).unwrap()).await.header("content-encoding"), "", "the API is left as it was");
}
