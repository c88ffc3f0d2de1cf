//! What the pages of the console show, of nothing and of everything, and what an operator does on them.

use crate::api_support::{Api, CI, OPERATOR, VIEWER, machine, start, task_path};
use crate::console_support::Browser;
use chrono::TimeDelta;
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;
use vm_service::domain::task::Executor;

const EVIL: &str = "<script>alert(1)</script>\"'&";
const ESCAPED: &str = "&#60;script&#62;alert(1)&#60;/script&#62;&#34;&#39;&#38;";
const VOLUME: &str = "00000000-0000-0000-0000-0000000000e1";
const IMAGE: &str = "00000000-0000-0000-0000-0000000000e2";

async fn sql(pool: &PgPool, statement: &str) {
    sqlx::query(sqlx::AssertSqlSafe(statement.to_owned())).execute(pool).await.unwrap_or_else(|e| panic!("{e}: {statement}"));
}

/// A task at work and one that waits, both of a project with a wicked name; a cache, a generation, an image, a breaker, an unknown machine.
async fn everything(api: &Api, pool: &PgPool) -> String {
    let vm = api.available_vm(Executor::Machine).await;
    let body = json!({ "executor": "machine", "project_id": EVIL, "labels": { "branch": EVIL } });
    assert_eq!(api.put(CI, &task_path(1), &body).await.json()["state"], "ready");
    assert_eq!(api.put(CI, &task_path(2), &body).await.json()["state"], "queued");
    sql(pool, "update vms.budget set max_volumes = 9").await;
    let wicked = EVIL.replace('\'', "''");
    sql(pool, &format!(
        "insert into vms.volumes (id, project_id, cache_trust, architecture, store, engine_major, provider, place, provider_id, zone, size_gib,
             used_bytes, created_at, last_used_at, due_at)
         values ('{VOLUME}', '{wicked}', 'trusted', 'x86_64', 'classic', 28, 'sim', 'here', 'vol-1', 'z', 100, 3221225472, $x$2026-09-21$x$, $x$2026-09-21$x$, now())"
    )).await;
    sql(pool, "update vms.volumes set state = 'available', reason = '<b>why</b>'").await;
    sql(pool, &format!(
        "insert into vms.generations (id, project_id, architecture, store, engine_major, provider, place, provider_id, state, size_gib, created_at,
             last_used_at, deadline_at, due_at)
         values (gen_random_uuid(), '{wicked}', 'x86_64', 'classic', 28, 'sim', 'here', 'snap-1', 'good', 100, now(), now(), now(), now())"
    )).await;
    sql(pool, &format!(
        "insert into vms.cache_uses (task_id, at, project_id, cache_trust, hit) select gen_random_uuid(), now(), '{wicked}', 'trusted', n > 1
         from generate_series(1, 4) n"
    )).await;
    sql(pool, &format!(
        "insert into vms.images (id, name, provider, place, architecture, kind, provider_id, facts, registered_at, registered_by, changed_at,
             changed_by, due_at)
         values ('{IMAGE}', '<i>guest</i>', 'ec2', 'eu-west-1', 'x86_64', 'base', 'ami-1', '{{}}', now(), 'op', now(), 'op', now())"
    )).await;
    sql(
        pool,
        "insert into vms.breakers (provider, place, executor, resource_class, failed_at, reason)
               values ('sim', 'here', 'machine', 'medium', array['2026-09-21T14:13:19Z'::timestamptz], 'no <capacity>')",
    )
    .await;
    sql(
        pool,
        "insert into vms.orphans (provider, place, provider_id, unknown, first_seen_at, last_seen_at)
               values ('sim', 'here', 'm-unknown', true, now(), now())",
    )
    .await;
    sql(pool, "update vms.vms set console = E'\\x1b[31mkernel <panic>\\x1b[0m\\nend'").await;
    vm.to_string()
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn every_page_is_there_without_any_data(pool: PgPool) {
    let api = Api::new(pool).await;
    let browser = Browser::new(&api, VIEWER).await;
    let pages = [
        ("/console", "No provider is chosen"),
        ("/console", "No task waits."),
        ("/console/tasks", "There are no such tasks."),
        ("/console/vms", "There are no such VMs."),
        ("/console/volumes", "No project has a cache."),
        ("/console/volumes?project=p", "There are no such volumes."),
        ("/console/images", "No image is registered here."),
        ("/console/events", "Nothing has happened yet."),
    ];
    for (page, says) in pages {
        let reply = browser.get(page).await;
        assert_eq!(reply.status, 200, "{page}: {reply:?}");
        assert!(reply.text.contains(says), "{page}: {}", reply.text);
        assert!(reply.header("content-type").starts_with("text/html"), "{page}");
    }
    for kind in ["tasks", "vms", "volumes", "images"] {
        let none = browser.get(&format!("/console/{kind}/{}", Uuid::from_u128(9))).await;
        assert_eq!(none.status, 404, "{kind}: {none:?}");
    }
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn every_page_shows_what_there_is_and_nothing_of_it_is_markup(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    let vm = everything(&api, &pool).await;
    let (viewer, operator) = (Browser::new(&api, VIEWER).await, Browser::new(&api, OPERATOR).await);
    let (ready, waits) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let task = format!("/console/tasks/{ready}");
    let waiting = format!("/console/tasks/{waits}");
    let vm_page = format!("/console/vms/{vm}");
    let volume = format!("/console/volumes/{VOLUME}");
    let image = format!("/console/images/{IMAGE}");
    let of_project = reqwest::Url::parse_with_params("http://x/console/volumes", [("project", EVIL)]).unwrap();
    let of_project = format!("{}?{}", of_project.path(), of_project.query().unwrap());
    let pages: [(&str, &[&str]); 13] = [
        ("/console", &["data-trouble=\"breaker\"", "no &#60;capacity&#62;", "data-trouble=\"unknown\"", ESCAPED, "1 at work"]),
        ("/console/tasks", &[ESCAPED, "data-state=\"ready\"", "data-state=\"queued\""]),
        ("/console/tasks?state=queued&executor=machine&age=1h", &[ESCAPED, "data-state=\"queued\""]),
        (&task, &[ESCAPED, "id=\"timeline\"", "The job may begin.", "It was ready at once"]),
        (&waiting, &["phase-queued", "goes on", "task.queued"]),
        ("/console/vms", &[ESCAPED, "data-state=\"assigned\""]),
        ("/console/vms?state=assigned&class=medium", &[ESCAPED]),
        (&vm_page, &["kernel &#60;panic&#62;\nend", "given to its task", "vm.available", &task]),
        ("/console/volumes", &[ESCAPED, "75 %", "3.0 GiB"]),
        (&of_project, &["&#60;b&#62;why", "snap-1", "x86_64, classic 28"]),
        (&volume, &["3 of 4 found layers", ESCAPED]),
        ("/console/images", &["&#60;i&#62;guest"]),
        (&image, &["ami-1", "Became ready"]),
    ];
    for (page, says) in pages {
        for browser in [&viewer, &operator] {
            let reply = browser.get(page).await;
            assert_eq!(reply.status, 200, "{page}: {reply:?}");
            for text in says {
                assert!(reply.text.contains(text), "{page} has no {text}: {}", reply.text);
            }
            for never in ["<script>", "<b>why", "<i>guest", "<panic>", "\u{1b}", "canary"] {
                assert!(!reply.text.contains(never), "{page} has {never}");
            }
        }
        let forms = viewer.get(page).await.text.matches("method=\"post\"").count();
        assert_eq!(forms, 1, "{page}: a viewer can sign out, and nothing else");
    }
    let queued = viewer.get("/console/tasks?state=queued").await.text;
    assert!(!queued.contains("data-state=\"ready\"") && !queued.contains(&ready.to_string()), "{queued}");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn what_has_ended_is_found_in_the_same_lists(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    let vm = everything(&api, &pool).await;
    let browser = Browser::new(&api, OPERATOR).await;
    let task = format!("/console/tasks/{}", Uuid::from_u128(1));
    api.call(CI, "DELETE", &task_path(1)).await;
    sql(&pool, "delete from vms.volumes").await;
    sql(&pool, &format!("update vms.vms set state = 'terminated', terminated_at = '{}' where state = 'terminating'", start()))
        .await;
    api.clock.advance(TimeDelta::minutes(30));
    let now = start() + TimeDelta::minutes(30);
    assert!(api.db().move_to_history(now).await.unwrap() > 0);
    assert_eq!(api.db().move_to_history(now).await.unwrap(), 0);
    let hot: i64 =
        sqlx::query_scalar("select (select count(*) from vms.vms) + (select count(*) from vms.tasks where ended_at is not null)")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!(hot, 0);
    for list in ["/console/tasks", "/console/tasks?state=released", "/console/tasks?age=1h"] {
        let page = browser.get(list).await.text;
        assert!(page.contains(&task) && page.contains("data-state=\"released\""), "{list}: {page}");
    }
    let page = browser.get(&task).await.text;
    assert!(page.contains("The job is over.") && page.contains(&vm) && !page.contains("id=\"release\""), "{page}");
    let page = browser.get(&format!("/console/vms/{vm}")).await;
    assert!(page.status == 200 && page.text.contains("gone") && page.text.contains("kernel &#60;panic"), "{page:?}");

    // As an older version of the service wrote it.
    sql(&pool, "update vms.history set body = body - 'launch_id' - 'absolute_end_at' where kind = 'vm'").await;
    for (path, part) in [(task, "The job is over."), (format!("/console/vms/{vm}"), "kernel &#60;panic")] {
        let page = browser.get(&path).await;
        assert!(page.status == 200 && page.text.contains(part), "{page:?}");
    }
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn an_operator_does_what_the_api_does_and_a_viewer_does_not(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    let vm = everything(&api, &pool).await;
    let (viewer, operator) = (Browser::new(&api, VIEWER).await, Browser::new(&api, OPERATOR).await);
    let (vm, volume, image) =
        (format!("/console/vms/{vm}"), format!("/console/volumes/{VOLUME}"), format!("/console/images/{IMAGE}"));
    let hold: &[(&str, &str)] = &[("reason", "a look"), ("hours", "2")];
    // Where to, the form, the answer's status, and the page that it leads to.
    type Deed<'a> = (String, &'a [(&'a str, &'a str)], u16, String);
    let deeds: [Deed<'_>; 17] = [
        (format!("{vm}/hold"), hold, 303, format!("{vm}?done=held")),
        (format!("{vm}/terminate"), &[], 409, String::new()),
        (format!("{vm}/let-go"), &[], 303, format!("{vm}?done=let-go")),
        (format!("{vm}/terminate"), &[], 303, format!("{vm}?done=terminated")),
        (format!("{volume}/hold"), hold, 303, format!("{volume}?done=held")),
        (format!("{volume}/delete"), &[], 409, String::new()),
        (format!("{volume}/let-go"), &[], 303, format!("{volume}?done=let-go")),
        (format!("{volume}/delete"), &[], 303, format!("{volume}?done=deleted")),
        (format!("{volume}/hold"), &[("reason", ""), ("hours", "2")], 422, String::new()),
        (format!("{volume}/hold"), &[("reason", "x"), ("hours", "many")], 422, String::new()),
        (format!("{image}/share"), &[("share", "101")], 422, String::new()),
        (format!("{image}/share"), &[("share", "10")], 303, format!("{image}?done=share")),
        (format!("{image}/promote"), &[], 409, String::new()),
        (format!("{image}/promote"), &[("force", "yes")], 303, format!("{image}?done=promoted")),
        (format!("{image}/retire"), &[("reason", "a bug")], 303, format!("{image}?done=retired")),
        (
            format!("/console/tasks/{}/release", Uuid::from_u128(2)),
            &[],
            303,
            format!("/console/tasks/{}?done=released", Uuid::from_u128(2)),
        ),
        (format!("/console/tasks/{}/release", Uuid::from_u128(9)), &[], 404, String::new()),
    ];
    for (path, fields, ..) in &deeds {
        let refused = viewer.post(path, fields).await;
        assert_eq!(refused.status, 403, "{path}");
        assert!(refused.text.contains("A viewer may look"), "{refused:?}");
    }
    for (path, fields, status, location) in &deeds {
        let reply = operator.post(path, fields).await;
        assert_eq!((reply.status, reply.header("location")), (*status, location.as_str()), "{path}: {}", reply.text);
        if *status == 303 {
            let page = operator.get(location).await;
            assert!(page.status == 200 && page.text.contains("id=\"notice\""), "{location}: {page:?}");
        }
    }
    let said: Vec<String> =
        sqlx::query_scalar("select message from vms.events where message like '%operator%'").fetch_all(&pool).await.unwrap();
    assert!(said.iter().any(|message| message.contains("Held by operator")), "{said:?}");
    let states: (String, String, String) =
        sqlx::query_as("select (select state from vms.vms), (select state from vms.volumes), (select state from vms.images)")
            .fetch_one(&pool)
            .await
            .unwrap();
    assert_eq!(states, ("terminating".to_owned(), "deleting".to_owned(), "retired".to_owned()));
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn what_is_refused_is_said_in_the_consoles_words_with_a_way_back(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    let vm = everything(&api, &pool).await;
    let operator = Browser::new(&api, OPERATOR).await;
    let image = format!("/console/images/{IMAGE}");
    for (page, end) in [(format!("/console/vms/{vm}"), "terminate"), (format!("/console/volumes/{VOLUME}"), "delete")] {
        for (reason, hours, why) in [(EVIL, "many", "hours"), ("", "7", "reason"), (EVIL, "0", "hours"), ("x", "9000", "hours")] {
            let again = operator.post(&format!("{page}/hold"), &[("reason", reason), ("hours", hours)]).await;
            assert_eq!(again.status, 422, "{again:?}");
            let wrong = again.text.split("id=\"wrong\">").nth(1).unwrap_or_else(|| panic!("{}", again.text));
            assert!(wrong.split('<').next().unwrap().contains(why), "{reason} {hours}: {wrong}");
            for kept in ["id=\"facts\"", &format!("value=\"{hours}\""), &format!("of={}", page.replace('/', "%2F")), "id=\"who\""] {
                assert!(again.text.contains(kept), "{kept}: {}", again.text);
            }
            assert!(reason != EVIL || again.text.contains(&format!("value=\"{ESCAPED}\"")), "{}", again.text);
        }
        operator.post(&format!("{page}/hold"), &[("reason", "a look"), ("hours", "2")]).await;
        let held = operator.post(&format!("{page}/{end}"), &[]).await;
        assert!(held.status == 409 && held.text.contains("Let go of it") && !held.text.contains("/api/"), "{held:?}");
        assert!(held.text.contains(&format!("<a href=\"{page}\" id=\"back\"")), "{}", held.text);
    }
    let untried = operator.post(&format!("{image}/promote"), &[]).await;
    assert!(untried.text.contains("whatever was measured") && !untried.text.contains("force"), "{untried:?}");
    assert!(untried.text.contains(&format!("<a href=\"{image}\" id=\"back\"")), "{}", untried.text);
    for path in ["/console/settings", "/console/settings/json"] {
        let refused = operator.post(path, &[]).await;
        assert!(refused.status == 400 && refused.text.contains(&format!("<a href=\"{path}\" id=\"back\"")), "{refused:?}");
    }
    assert!(!operator.get("/console/vms/x").await.text.contains("id=\"back\""), "nothing was asked for from a page");
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_hold_that_is_over_is_not_shown_as_one(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    let vm = everything(&api, &pool).await;
    let operator = Browser::new(&api, OPERATOR).await;
    for (thing, id) in [("vms", vm.as_str()), ("volumes", VOLUME)] {
        let page = format!("/console/{thing}/{id}");
        let held = async || {
            let text = operator.get(&page).await.text;
            let seen = api.call(VIEWER, "GET", &format!("/api/v1/{thing}/{id}")).await.json()["hold"].is_object();
            let listed = api.call(VIEWER, "GET", &format!("/api/v1/{thing}")).await.json()["items"][0]["hold"].is_object();
            [text.contains("id=\"hold\""), text.contains("id=\"let-go\""), seen, listed]
        };
        assert_eq!(held().await, [false; 4], "{page}");
        operator.post(&format!("{page}/hold"), &[("reason", "a look"), ("hours", "1")]).await;
        assert_eq!(held().await, [true; 4], "{page}");
        api.clock.advance(TimeDelta::minutes(59));
        assert_eq!(operator.get("/console").await.status, 200);
        api.clock.advance(TimeDelta::minutes(1));
        assert_eq!(held().await, [false; 4], "{page}");
    }
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn what_the_overview_warns_of_is_found_in_the_lists(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    let vm = everything(&api, &pool).await;
    let operator = Browser::new(&api, OPERATOR).await;
    let listed = async |path: &str| {
        let text = operator.get(path).await.text;
        (text.contains(&format!("id=\"vm-{vm}\"")), text.contains("m-unknown"))
    };
    assert_eq!(listed("/console/vms").await, (true, true));
    for only in ["held", "old"] {
        assert_eq!(listed(&format!("/console/vms?only={only}")).await, (false, false), "{only}");
    }
    operator.post(&format!("/console/vms/{vm}/hold"), &[("reason", "a look"), ("hours", "200")]).await;
    assert_eq!(listed("/console/vms?only=held").await, (true, false));
    sql(&pool, "update vms.vms set created_at = created_at - interval '9 days'").await;
    let overview = operator.get("/console").await.text;
    assert!(overview.contains("data-trouble=\"old-vms\"") && overview.contains("href=\"/console/vms?only=held\""), "{overview}");
    assert!(overview.contains("href=\"/console/vms?only=old\""), "{overview}");
    assert_eq!(listed("/console/vms?only=old").await, (true, false));
    assert_eq!(operator.get("/console/vms?only=x").await.status, 400);

    let volume = format!("volumes/{VOLUME}");
    for (query, is_listed) in [("named=SCRIPT&state=available", true), ("named=x&state=available", false), ("state=deleted", false)]
    {
        let page = operator.get(&format!("/console/volumes?{query}")).await.text;
        assert_eq!(page.contains(&volume), is_listed, "{query}: {page}");
    }
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn every_limit_is_shown_with_what_is_used_of_it(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    everything(&api, &pool).await;
    api.settings.send_modify(|known| {
        known.settings.limits.vms_per_project = Some(7);
        known.settings.resource_classes.get_mut("medium").unwrap().limit = Some(5);
    });
    let page = Browser::new(&api, VIEWER).await.get("/console").await.text;
    for (limit, most) in [("Busiest project", 7), ("Class medium", 5)] {
        let row = format!("<th scope=\"row\">{limit}</th><td class=\"number\">1</td><td class=\"number\">{most}</td>");
        assert!(page.contains(&row), "{row}: {page}");
    }
}

/// The question that was asked, "cancel", is not the one that was meant any more.
#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn a_task_that_became_ready_meanwhile_is_not_released_by_a_cancel(pool: PgPool) {
    let api = Api::new(pool).await;
    api.put(CI, &task_path(1), &machine()).await;
    let operator = Browser::new(&api, OPERATOR).await;
    let page = |n: u128| format!("/console/tasks/{}", Uuid::from_u128(n));
    assert!(!operator.get(&page(1)).await.text.contains("name=\"ready\""), "it waits");
    assert_eq!(operator.post(&format!("{}/release", page(1)), &[]).await.status, 303);
    api.available_vm(Executor::Machine).await;
    assert_eq!(api.put(CI, &task_path(2), &machine()).await.json()["state"], "ready");
    assert!(operator.get(&page(2)).await.text.contains("name=\"ready\""));
    let told = operator.post(&format!("{}/release", page(2)), &[]).await;
    assert!(told.status == 409 && told.text.contains("has become ready") && told.text.contains("id=\"back\""), "{told:?}");
    assert_eq!(api.call(CI, "GET", &task_path(2)).await.json()["state"], "ready");
    assert_eq!(operator.post(&format!("{}/release", page(2)), &[("ready", "yes")]).await.status, 303);
}

#[sqlx::test(migrator = "vm_service::db::MIGRATOR")]
async fn lists_come_in_pages(pool: PgPool) {
    let api = Api::new(pool.clone()).await;
    for n in 0..120 {
        api.put(CI, &task_path(n + 1), &machine()).await;
        api.clock.advance(TimeDelta::seconds(1));
    }
    let browser = Browser::new(&api, VIEWER).await;
    let (mut path, mut rows) = ("/console/tasks?state=queued".to_owned(), Vec::new());
    loop {
        let page = browser.get(&path).await.text;
        rows.push(page.matches("<tr id=\"task-").count());
        let Some(next) = page.split("<a href=\"").find(|rest| rest.contains("id=\"next\"") && rest.contains("cursor=")) else {
            break;
        };
        path = next.split('"').next().unwrap().replace("&#38;", "&");
        assert!(path.contains("state=queued"), "{path}");
    }
    assert_eq!(rows, [50, 50, 20]);
    let events = browser.get("/console/events?about=task").await.text;
    assert_eq!(events.matches("<tr id=\"event-").count(), 50);
    assert!(events.contains("id=\"next\""));
}
