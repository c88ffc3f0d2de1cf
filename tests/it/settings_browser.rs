//! Somebody at the console without a script: signs in, follows forms as they stand in the page.

use crate::api_support::{Api, Reply};
use axum::body::Body;
use axum::http::Request;
use regex_lite::Regex;
use uuid::Uuid;
use vm_service::domain::access::{Caller, Role};
use vm_service::domain::ids::TokenId;

/// A session.
pub(crate) struct Browser<'a> {
    api: &'a Api,
    cookie: String,
}

impl<'a> Browser<'a> {
    pub(crate) async fn sign_in(api: &'a Api, token: &str) -> Self {
        let mut browser = Self { api, cookie: String::new() };
        let answer = browser.send("/console/sign-in", &[("token".to_owned(), token.to_owned())]).await;
        assert_eq!(answer.status, 303, "{answer:?}");
        browser.cookie = answer.header("set-cookie").split(';').next().unwrap().to_owned();
        browser
    }

    /// As an operator of this name.
    pub(crate) async fn sign_in_as(api: &'a Api, name: &str) -> Self {
        let caller = Caller { principal: name.to_owned(), role: Role::Operator, untrusted_only: false };
        let (id, now) = (TokenId(Uuid::new_v4()), api.state.clock.now());
        let token = format!("vms_{name}");
        api.db().insert_token(id, &caller, &api.state.sealer.token_hashes(&token)[0], now).await.unwrap();
        Self::sign_in(api, &token).await
    }

    fn request(&self, method: &str, path: &str) -> axum::http::request::Builder {
        let request =
            Request::builder().method(method).uri(path).header("host", "localhost").header("sec-fetch-site", "same-origin");
        request.header("cookie", &self.cookie)
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.api.send(self.request("GET", path).body(Body::empty()).unwrap()).await
    }

    pub(crate) async fn send(&self, path: &str, form: &[(String, String)]) -> Reply {
        let mut body = form_urlencoded::Serializer::new(String::new());
        body.extend_pairs(form);
        let request = self.request("POST", path).header("content-type", "application/x-www-form-urlencoded");
        self.api.send(request.body(Body::from(body.finish())).unwrap()).await
    }
}

/// What a browser would send of the first form whose opening tag has this in it, without its buttons.
pub(crate) fn fields(page: &str, form: &str) -> Vec<(String, String)> {
    let forms = Regex::new(r"(?s)<form\b([^>]*)>(.*?)</form>").unwrap();
    let inside =
        forms.captures_iter(page).find(|found| found[1].contains(form)).unwrap_or_else(|| panic!("no form {form}: {page}"));
    let controls =
        Regex::new(r"(?s)<input\b([^>]*)>|<textarea\b([^>]*)>\r?\n?(.*?)</textarea>|<select\b([^>]*)>(.*?)</select>").unwrap();
    let mut found = Vec::new();
    for control in controls.captures_iter(&inside[2]) {
        let part = |n: usize| control.get(n).map(|part| part.as_str());
        if let Some(tag) = part(1) {
            let is_off = attribute(tag, "type").as_deref() == Some("checkbox") && !tag.contains(" checked");
            if !is_off {
                found.push((attribute(tag, "name").unwrap(), attribute(tag, "value").unwrap()));
            }
        } else if let (Some(tag), Some(text)) = (part(2), part(3)) {
            found.push((attribute(tag, "name").unwrap(), plain(text)));
        } else if let (Some(tag), Some(options)) = (part(4), part(5)) {
            let options: Vec<&str> = options.split("<option").skip(1).collect();
            let chosen = options.iter().find(|option| option.contains(" selected")).or(options.first()).unwrap();
            found.push((attribute(tag, "name").unwrap(), attribute(chosen, "value").unwrap()));
        }
    }
    found
}

/// The same with these changed, or added.
pub(crate) fn with(mut form: Vec<(String, String)>, changes: &[(&str, &str)]) -> Vec<(String, String)> {
    for (name, value) in changes {
        form.retain(|(field, _)| field != name);
        form.push(((*name).to_owned(), (*value).to_owned()));
    }
    form
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let found = Regex::new(&format!(r#"\s{name}="([^"]*)""#)).unwrap().captures(tag)?;
    Some(plain(&found[1]))
}

fn plain(html: &str) -> String {
    let marks = [
        ("&#34;", "\""),
        ("&#39;", "'"),
        ("&#60;", "<"),
        ("&#62;", ">"),
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&#38;", "&"),
        ("&amp;", "&"),
    ];
    marks.iter().fold(html.to_owned(), |text, (mark, letter)| text.replace(mark, letter))
}
