//! Spans reach a collector: the real binary sends them to one that this test is, which finds a request's span with the id of its task, and
//! no secret. A collector that is not there, or never answers, neither slows the service nor keeps it from its end.

use crate::service::{Service, free_port};
use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use serde_json::json;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use uuid::Uuid;

const AWS_SECRET: &str = "canary+aws/secret0123456789abcdefghijkl";

/// What was sent, as it came.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Bytes>>>);

impl Collector {
    /// Answers until the test's process ends; its address.
    fn start(&self) -> String {
        let (to, socket) = (self.0.clone(), TcpListener::bind("127.0.0.1:0").unwrap());
        let url = format!("http://{}", socket.local_addr().unwrap());
        socket.set_nonblocking(true).unwrap();
        let keep = post(move |body: Bytes| async move { to.lock().unwrap().push(body) });
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let socket = tokio::net::TcpListener::from_std(socket).unwrap();
                axum::serve(socket, Router::new().route("/v1/traces", keep)).await.unwrap();
            });
        });
        url
    }

    /// Every span, with the name of its service.
    fn spans(&self) -> Vec<(String, Span)> {
        let mut found = Vec::new();
        for body in self.0.lock().unwrap().iter() {
            for of in ExportTraceServiceRequest::decode(body.clone()).unwrap().resource_spans {
                let resource = of.resource.unwrap_or_default();
                let service = resource.attributes.iter().find(|it| it.key == "service.name").and_then(|it| it.value.clone());
                let Some(Value::StringValue(service)) = service.and_then(|it| it.value) else { panic!("{resource:?}") };
                found.extend(of.scope_spans.into_iter().flat_map(|scope| scope.spans).map(|span| (service.clone(), span)));
            }
        }
        found
    }

    fn holds(&self, text: &str) -> bool {
        self.0.lock().unwrap().iter().any(|body| memchr::memmem::find(body, text.as_bytes()).is_some())
    }
}

fn attribute<'a>(span: &'a Span, key: &str) -> Option<&'a str> {
    let value = span.attributes.iter().find(|it| it.key == key)?.value.as_ref()?.value.as_ref()?;
    if let Value::StringValue(text) = value { Some(text) } else { None }
}

/// A service that starts no VM and logs little, and what it is asked: a task comes and goes, an access key is saved.
fn used(endpoint: &str, name: &str) -> (Service, Uuid, Duration) {
    let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint), ("RUST_LOG", "warn,vm_service::app=info")];
    let service = Service::start_with(name, &environment);
    let key = json!({ "access_key": { "id": "AKIAIOSFODNN7EXAMPLE", "secret": AWS_SECRET } });
    service.set(|settings| (settings["provider"], settings["ec2"]["authentication"]) = (json!("none"), key));
    let (task, mut slowest) = (Uuid::new_v4(), Duration::ZERO);
    let url = format!("http://127.0.0.1:{}/api/v1/tasks/{task}", service.port());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, token) = (reqwest::Client::new(), service.token());
        let body = json!({ "executor": "machine", "project_id": "acme/app" });
        let put = client.put(&url).bearer_auth(token.trim()).json(&body);
        assert_eq!(put.send().await.unwrap().status().as_u16(), 201);
        for _ in 0..300 {
            let began = Instant::now();
            let seen = client.get(&url).bearer_auth(token.trim()).send().await.unwrap();
            assert_eq!(seen.status().as_u16(), 200);
            slowest = slowest.max(began.elapsed());
        }
        assert_eq!(client.delete(&url).bearer_auth(token.trim()).send().await.unwrap().status().as_u16(), 200);
    });
    (service, task, slowest)
}

#[test]
fn a_collector_gets_the_spans_of_requests_and_no_secret() {
    let collector = Collector::default();
    let (mut service, task, _) = used(&collector.start(), "otlp");
    let file = |name: &str| std::fs::read_to_string(service.data.join(name)).unwrap().trim().to_owned();
    let secrets = [service.token().trim().to_owned(), file("sealing.key"), file("postgres/password"), AWS_SECRET.to_owned()];
    assert!(service.stop(), "{}", service.log());

    let spans = collector.spans();
    let requests: Vec<&Span> = spans.iter().map(|(_, span)| span).filter(|span| span.name == "request").collect();
    let of_task: Vec<&&Span> = requests.iter().filter(|span| attribute(span, "task") == Some(&task.to_string())).collect();
    assert_eq!(of_task.len(), 302, "each request about the task, until the stop");
    for span in of_task {
        assert_eq!(attribute(span, "principal"), Some("operator"));
        assert!(
            attribute(span, "request_id").is_some_and(|id| !id.is_empty()) && span.end_time_unix_nano > span.start_time_unix_nano
        );
    }
    assert!(spans.iter().all(|(service, _)| service == "vm-service") && spans.len() > requests.len(), "loops have spans too");
    for secret in &secrets {
        assert!(secret.len() >= 20 && !collector.holds(secret), "a secret was sent");
    }
    assert!(collector.holds(&task.to_string()), "what is sent can be searched");
}

#[test]
fn a_collector_that_is_not_there_slows_and_stops_nothing() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let away = format!("http://127.0.0.1:{}", free_port());
    // One refuses the connection; one takes it and never answers.
    for (endpoint, name) in [(away, "otlp-away"), (format!("http://{}", silent.local_addr().unwrap()), "otlp-silent")] {
        let (mut service, _, slowest) = used(&endpoint, name);
        // Who waited for a batch would wait five seconds.
        assert!(slowest < Duration::from_secs(3), "{name}: {slowest:?}");
        let deadline = Instant::now() + Duration::from_secs(30);
        let told = |service: &Service| service.log().matches("spans are not sent until the collector takes them").count();
        while told(&service) == 0 {
            assert!(Instant::now() < deadline, "{name}: nobody is told: {}", service.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        let began = Instant::now();
        assert!(service.stop(), "{name}: {}", service.log());
        assert!(began.elapsed() < Duration::from_secs(10), "{name}: {:?}", began.elapsed());
        assert_eq!(told(&service), 1, "{name}: once");
    }
}
