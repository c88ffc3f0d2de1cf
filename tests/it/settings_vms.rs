//! A check of changed settings on a real host: a probe VM boots for it, is told with its seconds, over the API and on the console's page, and
//! is gone afterwards; an image that cannot boot is told in one sentence, and leaves nothing either.

use crate::onhost::images;
use crate::service::{Service, data_folder};
use crate::settings_browser::{fields, with};
use reqwest::header::{COOKIE, LOCATION, SET_COOKIE};
use reqwest::{Client, Response, redirect};
use serde_json::{Value, json};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SETTINGS: &str = "/console/settings";

/// The built image under a name of its own, so that its QEMUs are told from others; its parts can be broken.
struct Image(PathBuf);

impl Image {
    fn of(name: &str) -> Self {
        let (folder, built) = (data_folder(name), images().canonicalize().unwrap());
        std::fs::create_dir_all(&folder).unwrap();
        for part in ["disk.qcow2", "vmlinuz", "initrd", "manifest.json"] {
            symlink(built.join(part), folder.join(part)).unwrap();
        }
        Self(folder)
    }

    fn take_away(&self, part: &str) {
        std::fs::remove_file(self.0.join(part)).unwrap();
    }

    /// Processes that were started on it.
    fn processes(&self) -> Vec<String> {
        let folder = self.0.to_str().unwrap();
        let lines = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|it| std::fs::read(it.path().join("cmdline")).ok());
        let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
        lines.filter(|line| line.contains("qemu-system") && line.contains(folder)).collect()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// An operator, over the API and, signed in, at the console.
struct Operator<'a> {
    service: &'a Service,
    client: Client,
    cookie: String,
}

impl<'a> Operator<'a> {
    async fn of(service: &'a Service) -> Self {
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let client = Client::builder().redirect(redirect::Policy::none()).build().unwrap();
        let mut operator = Self { service, client, cookie: String::new() };
        let signed_in = operator.send("/console/sign-in", &[("token".to_owned(), service.token().trim().to_owned())]).await;
        assert_eq!(signed_in.status().as_u16(), 303);
        let cookie = signed_in.headers()[SET_COOKIE].to_str().unwrap();
        operator.cookie = cookie.split(';').next().unwrap().to_owned();
        operator
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.service.port())
    }

    async fn send(&self, path: &str, form: &[(String, String)]) -> Response {
        let mut body = form_urlencoded::Serializer::new(String::new());
        body.extend_pairs(form);
        let request = self.client.post(self.url(path)).header(COOKIE, &self.cookie).header("sec-fetch-site", "same-origin");
        request.header("content-type", "application/x-www-form-urlencoded").body(body.finish()).send().await.unwrap()
    }

    async fn page(&self, path: &str) -> String {
        let page = self.client.get(self.url(path)).header(COOKIE, &self.cookie).send().await.unwrap();
        assert_eq!(page.status().as_u16(), 200, "{path}");
        page.text().await.unwrap()
    }

    /// What a check of one more VM finds, by what was looked at.
    async fn check(&self) -> impl Fn(&str) -> (String, String) + use<> {
        let proposed = json!({ "provider": "on_host", "on_host": { "network": "closed" }, "preallocated": { "machine": 1 } });
        let token = self.service.token().trim().to_owned();
        let asked = self.client.post(self.url("/api/v1/settings/checks")).bearer_auth(&token).json(&proposed).send().await.unwrap();
        assert_eq!(asked.status().as_u16(), 201);
        let at = format!("{}?wait=60", asked.headers()[LOCATION].to_str().unwrap());
        let view: Value = self.client.get(self.url(&at)).bearer_auth(&token).send().await.unwrap().json().await.unwrap();
        assert_eq!(view["state"], "done", "{view}\n{}", self.service.log());
        move |what| {
            let findings = view["result"]["findings"].as_array().unwrap();
            let found = findings.iter().find(|it| it["what"] == what).unwrap_or_else(|| panic!("{what}: {view}"));
            (found["severity"].as_str().unwrap().to_owned(), found["detail"].as_str().unwrap().to_owned())
        }
    }

    /// The same from the page of the settings to that of the check, as a browser without a script follows it.
    async fn check_at_the_console(&self) -> String {
        let form = fields(&self.page(SETTINGS).await, "settings");
        let sent = self.send(SETTINGS, &with(form, &[("preallocated.machine", "1"), ("do", "check")])).await;
        assert_eq!(sent.status().as_u16(), 303);
        let path = sent.headers()[LOCATION].to_str().unwrap().to_owned();
        for _ in 0..600 {
            let page = self.page(&path).await;
            if page.contains("data-state=\"done\"") {
                return page;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the check came to nothing: {}", self.service.log());
    }
}

/// Seconds of "… booted in 3.2 s …".
fn seconds(told: &str) -> f64 {
    let rest = told.split_once("a VM without a disk booted in ").unwrap_or_else(|| panic!("{told}")).1;
    rest.split_once(" s (").unwrap().0.parse().unwrap()
}

#[test]
#[ignore = "boots VMs; make proof runs it"]
fn a_check_boots_a_probe_and_leaves_nothing() {
    let image = Arc::new(Image::of("probe-image"));
    let mut service = Service::start_on("probe", Some(&image.0));
    let (seen, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let watch = {
        let (image, seen, over) = (image.clone(), seen.clone(), over.clone());
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                seen.fetch_or(!image.processes().is_empty(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(50));
            }
        })
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let operator = Operator::of(&service).await;
        let (severity, told) = operator.check().await("probe boot");
        println!("{told}");
        assert!(severity == "fine" && (0.1..40.0).contains(&seconds(&told)), "{severity}: {told}");
        assert!(seen.load(Ordering::Relaxed), "a QEMU ran for it");
        assert_eq!(image.processes(), Vec::<String>::new(), "and is gone");
        let page = operator.check_at_the_console().await;
        assert!(seconds(&page) < 40.0 && page.contains("id=\"save\"") && page.contains("data-starts>1</td>"), "{page}");
        assert_eq!((image.processes(), service.machines()), (Vec::new(), Vec::new()), "nothing is started before a save");

        image.take_away("initrd");
        std::fs::write(image.0.join("initrd"), b"no initrd").unwrap();
        let (severity, told) = operator.check().await("probe boot");
        println!("{told}");
        assert!(severity == "problem" && told.starts_with("a VM without a disk did not boot ("), "{severity}: {told}");
        assert!(
            !told.chars().any(char::is_control) && told.contains("it said: ") && told.contains("Kernel panic"),
            "one sentence: {told}"
        );
        let page = operator.check_at_the_console().await;
        assert!(page.contains("a VM without a disk did not boot (") && page.contains("Save all the same"), "{page}");
        image.take_away("vmlinuz");
        let looked = operator.check().await;
        for (what, begins) in [("VM image", "No usable VM image in "), ("probe boot", "not tried: No usable VM image in ")] {
            let (severity, told) = looked(what);
            assert!(severity == "problem" && told.starts_with(begins) && told.contains("ami/build-onhost"), "{severity}: {told}");
        }
        assert_eq!((image.processes(), service.machines()), (Vec::new(), Vec::new()));
    });
    over.store(true, Ordering::Relaxed);
    watch.join().unwrap();
    assert!(service.stop(), "{}", service.log());
}
