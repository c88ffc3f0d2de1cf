//! A browser for tests of the console: keeps its cookie, says where its requests come from, reads what a page holds. And which pages there are.

use crate::api_support::{Api, Reply};
use axum::body::Body;
use axum::http::Request;
use axum::http::request::Builder;
use regex_lite::Regex;
use std::collections::BTreeSet;
use std::path::Path;

/// Answered at `GET`, and no pages: ways to other pages, and files that a browser keeps. (The stream of the live parts, which
/// `console_cost` measures, stands in the router by its constant's name.)
const NO_PAGES: [&str; 3] = ["/console/", "/console/assets/{hash}/{file}", "/console/{*rest}"];

/// Signed in, or not.
pub(crate) struct Browser<'a> {
    pub(crate) api: &'a Api,
    /// Name and value.
    pub(crate) cookie: String,
}

/// As a browser asks for a page, under a name that is the service's own.
pub(crate) fn request(method: &str, path: &str) -> Builder {
    Request::builder().method(method).uri(path).header("host", "localhost:3001")
}

fn encoded(fields: &[(&str, &str)]) -> String {
    reqwest::Url::parse_with_params("http://x/", fields).unwrap().query().unwrap_or_default().to_owned()
}

/// As a browser sends a form of a page of the same site.
pub(crate) fn form(path: &str, fields: &[(&str, &str)]) -> (Builder, Body) {
    let builder = request("POST", path)
        .header("sec-fetch-site", "same-origin")
        .header("origin", "null")
        .header("content-type", "application/x-www-form-urlencoded");
    (builder, Body::from(encoded(fields)))
}

pub(crate) async fn sign_in(api: &Api, token: &str, next: &str) -> Reply {
    let (builder, body) = form("/console/sign-in", &[("token", token), ("next", next)]);
    api.send(builder.body(body).unwrap()).await
}

impl<'a> Browser<'a> {
    pub(crate) async fn new(api: &'a Api, token: &str) -> Self {
        let reply = sign_in(api, token, "").await;
        assert_eq!((reply.status, reply.header("location")), (303, "/console"), "{reply:?}");
        Self { api, cookie: reply.header("set-cookie").split(';').next().unwrap().to_owned() }
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.api.send(request("GET", path).header("cookie", &self.cookie).body(Body::empty()).unwrap()).await
    }

    /// What the forms of this session carry.
    pub(crate) fn form_token(&self) -> String {
        self.api.state.sealer.form_token(self.cookie.split_once('=').unwrap().1)
    }

    pub(crate) async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Reply {
        let token = self.form_token();
        let mut all = vec![("form_token", token.as_str())];
        all.extend(fields);
        let (builder, body) = form(path, &all);
        self.api.send(builder.header("cookie", &self.cookie).body(body).unwrap()).await
    }
}

/// The text of every file below the folder.
fn sources(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| match path.extension() {
            _ if path.is_dir() => sources(&path),
            Some(kind) if kind == "rs" => std::fs::read_to_string(path).unwrap(),
            _ => String::new(),
        })
        .collect()
}

/// The pages that the router has beside these.
pub(crate) fn pages_beside(known: &[&str]) -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/console");
    let route = Regex::new(r#"\.route\(\s*"([^"]+)",\s*get\("#).unwrap();
    let mut routes: BTreeSet<String> = route.captures_iter(&sources(&folder)).map(|found| found[1].to_owned()).collect();
    assert!(routes.remove("/"), "the way to the first page");
    for none in NO_PAGES {
        assert!(routes.remove(none), "{none} is no route any more");
    }
    let is_known = |route: &String| {
        known.iter().any(|path| {
            let parts: Vec<&str> = path.split('?').next().unwrap().split('/').collect();
            let route: Vec<&str> = route.split('/').collect();
            route.len() == parts.len() && route.iter().zip(&parts).all(|(route, part)| route == part || route.starts_with('{'))
        })
    };
    routes.retain(|route| !is_known(route));
    routes
}
