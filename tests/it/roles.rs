//! A role without an API, as a process: `--metrics-listen` answers for its own metrics and for nothing else, without a token; where an API
//! listens, `/metrics` wants one.

use crate::service::{BINARY, Service, free_port, text};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Status and body of `GET`.
fn get(port: u16, path: &str, token: &str) -> (u16, String) {
    let url = format!("http://127.0.0.1:{port}{path}");
    let mut curl = Command::new("curl");
    curl.args(["-s", "-m", "5", "-w", "\n%{http_code}", "-H"]).arg(format!("Authorization: {token}")).arg(url);
    let said = text(&curl.output().unwrap()).0;
    let (body, status) = said.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

/// The scaler, over the Postgres of an `up`.
fn scaler(of: &Service, metrics: u16) -> Command {
    let file = |name: &str| std::fs::read_to_string(of.data.join(name)).unwrap().trim().to_owned();
    let mut command = Command::new(BINARY);
    command
        .args(["scaler", "--metrics-listen", &format!("127.0.0.1:{metrics}")])
        .env("POSTGRES_HOST", of.data.join("run"))
        .env("POSTGRES_USER", "postgres")
        .env("POSTGRES_PASSWORD", file("postgres/password"))
        .env("POSTGRES_SSLMODE", "disable")
        .env("VM_SERVICE_SEALING_KEYS", file("sealing.key"))
        .stdin(Stdio::null());
    command
}

#[test]
fn a_role_without_an_api_answers_for_its_metrics_alone() {
    let service = Service::start("metrics");
    assert_eq!(get(service.port(), "/metrics", "").0, 401);
    let (status, said) = get(service.port(), "/metrics", &format!("Bearer {}", service.token().trim()));
    assert!(status == 200 && said.contains("vm_service_loop_tick_seconds_count{loop=\"assign\"}"), "{status} {said}");

    let port = free_port();
    let mut scaler_process = scaler(&service, port).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let said = loop {
        let (status, said) = get(port, "/metrics", "");
        if status == 200 && said.contains("vm_service_loop_tick_seconds_count{loop=\"scale\"}") {
            break said;
        }
        assert!(Instant::now() < deadline && scaler_process.try_wait().unwrap().is_none(), "{status} {said}");
        std::thread::sleep(Duration::from_millis(100));
    };
    assert!(!said.contains("{loop=\"assign\"}"), "its own, and not those of the process with the API: {said}");
    for path in ["/api/v1/tasks", "/status", "/"] {
        let (status, said) = get(port, path, &format!("Bearer {}", service.token().trim()));
        assert!(status == 404 && said.contains("There is only /metrics here."), "{path}: {status} {said}");
    }

    // Told at once, whether or not there is a database.
    let second = scaler(&service, port).env("POSTGRES_HOST", "/nowhere").output().unwrap();
    let said = text(&second).1.lines().last().unwrap_or_default().to_owned();
    let sentence = "is in use: stop the program that has it, or choose another port with --metrics-listen";
    assert_eq!((second.status.code(), said), (Some(1), format!("vm-service: 127.0.0.1:{port} {sentence}")));

    assert!(Command::new("kill").arg(scaler_process.id().to_string()).status().unwrap().success());
    assert!(scaler_process.wait().unwrap().success());
}
