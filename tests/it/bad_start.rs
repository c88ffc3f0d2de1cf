//! What stands in the way of a start gives one clear sentence that says what to do, and loses nothing.

use crate::service::{BINARY, Service, data_folder, free_port, text};
use std::process::{Command, Output};

fn up(data: &str, port: u16, change: impl FnOnce(&mut Command)) -> Output {
    let mut command = Command::new(BINARY);
    command.args(["up", "--network", "closed", "--data", data, "--listen", &format!("127.0.0.1:{port}")]);
    change(&mut command);
    command.output().unwrap()
}

/// The one line that a person sees last.
fn sentence(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    text(output).1.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn a_port_in_use_a_folder_in_use_and_a_folder_that_cannot_be_written() {
    let service = Service::start("in-use");
    let other = data_folder("other");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let said = sentence(&up(other.to_str().unwrap(), port, |_| {}));
    assert!(said.contains(&port.to_string()) && said.contains("--listen"), "{said}");
    let said = sentence(&up(service.data.to_str().unwrap(), free_port(), |_| {}));
    assert!(said.contains("another `vm-service up` uses the data folder"), "{said}");
    let said = sentence(&up("/proc/nowhere", free_port(), |_| {}));
    assert!(said.contains("/proc/nowhere") && said.contains("--data"), "{said}");
    std::fs::remove_dir_all(other).unwrap();
}

#[test]
fn a_postgres_that_is_away() {
    let output = Command::new(BINARY)
        .arg("migrate")
        .env("POSTGRES_HOST", "127.0.0.1")
        .env("POSTGRES_PORT", free_port().to_string())
        .env("POSTGRES_PASSWORD", "hidden-canary")
        .output()
        .unwrap();
    let said = sentence(&output);
    assert!(said.contains("is Postgres running"), "{said}");
    assert!(!format!("{output:?}").contains("hidden-canary"));
}

#[test]
fn a_configuration_with_mistakes_tells_them_all() {
    let output = Command::new(BINARY)
        .arg("migrate")
        .env("POSTGRES_HOST", "127.0.0.1")
        .env("POSTGRES_PORT", "many")
        .env("POSTGRES_SSLMODE", "perhaps")
        .output()
        .unwrap();
    let said = text(&output).1;
    for name in ["POSTGRES_PORT", "POSTGRES_SSLMODE", "POSTGRES_PASSWORD"] {
        assert!(said.contains(name), "{said}");
    }
}

/// `serve` listens and says what is wrong, until it is mended: to a browser on a page.
#[test]
fn a_service_with_a_bad_configuration_says_so_in_its_status() {
    let port = free_port();
    let mut service = Command::new(BINARY)
        .args(["serve", "--listen", &format!("127.0.0.1:{port}")])
        .env("POSTGRES_PORT", "5432")
        .spawn()
        .unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let ask = |path: &str| {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-m", "2", "-w", "%{content_type} %{http_code}"]).arg(format!("http://127.0.0.1:{port}{path}"));
        String::from_utf8(curl.output().unwrap().stdout).unwrap()
    };
    let answer = loop {
        let answer = ask("/status");
        if !answer.ends_with("000") {
            break answer;
        }
        assert!(std::time::Instant::now() < deadline, "{answer}");
        std::thread::sleep(std::time::Duration::from_millis(100));
    };
    let (page, call) = (ask("/console"), ask("/api/v1/tasks"));
    assert!(Command::new("kill").arg(service.id().to_string()).status().unwrap().success());
    assert!(service.wait().unwrap().success());
    for (answer, form) in
        [(answer, "application/problem+json"), (call, "application/problem+json"), (page, "text/html; charset=utf-8")]
    {
        assert!(answer.ends_with(&format!("{form} 500")) && answer.contains("POSTGRES_HOST"), "{answer}");
    }
}

/// Without QEMU the service runs, a task's failure names what to install, and `doctor` says the same.
#[test]
fn no_qemu_on_the_machine() {
    let empty = tempfile::tempdir().unwrap();
    let output =
        Command::new(BINARY).args(["doctor", "--data", empty.path().to_str().unwrap()]).env("PATH", empty.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let (out, _) = text(&output);
    let line = out.lines().find(|line| line.contains("qemu-system")).unwrap_or_default();
    assert!(line.starts_with("MISSING") && line.contains("apt-get install"), "{out}");
}
