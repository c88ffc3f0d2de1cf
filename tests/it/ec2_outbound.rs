//! The way to AWS: through the proxies of the guide's files, past them where it is said, and trusting what this system trusts.

use crate::ec2_wire::proxy::Cloud;
use crate::ec2_wire::rules::Rules;
use crate::service::{BINARY, data_folder, text};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use vm_service::domain::settings::{ProviderChoice, Settings};
use vm_service::http::serve::{HttpConfig, bind, serve_router};

/// A proxy that notes the first line of each connection, and leads it where that says.
async fn proxy() -> (String, Arc<Mutex<Vec<String>>>) {
    let (listener, seen) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), Arc::new(Mutex::new(Vec::new())));
    let (address, note) = (format!("http://{}", listener.local_addr().unwrap()), seen.clone());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(lead(stream, note.clone()));
        }
    });
    (address, seen)
}

async fn lead(mut client: TcpStream, seen: Arc<Mutex<Vec<String>>>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let first = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
    seen.lock().unwrap().push(first.clone());
    let target = first.split(' ').nth(1).unwrap_or_default().trim_start_matches("http://");
    let mut server = TcpStream::connect(target.split('/').next().unwrap_or_default()).await?;
    if first.starts_with("CONNECT ") {
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    } else {
        server.write_all(&head).await?;
    }
    tokio::io::copy_bidirectional(&mut client, &mut server).await.map(drop)
}

/// The cloud behind TLS, with a certificate that no system trusts by itself.
async fn behind_tls(cloud: &Cloud, folder: &Path) -> u16 {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let (cert, private) = (folder.join("cert.pem"), folder.join("key.pem"));
    std::fs::write(&cert, certificate.pem()).unwrap();
    std::fs::write(&private, key.serialize_pem()).unwrap();
    let (to, http) = (cloud.endpoint(), reqwest::Client::builder().no_proxy().build().unwrap());
    let pass = move |headers: axum::http::HeaderMap, body: String| async move {
        let answer = http.post(to).header("authorization", &headers["authorization"]).body(body).send().await.unwrap();
        (answer.status(), answer.bytes().await.unwrap())
    };
    let config = HttpConfig { tls: Some((cert, private)), ..HttpConfig::new(SocketAddr::from(([127, 0, 0, 1], 0))) };
    let listener = bind(&config).await.unwrap();
    let port = listener.url().rsplit_once(':').unwrap().1.parse().unwrap();
    tokio::spawn(serve_router(listener, axum::Router::new().fallback(pass), CancellationToken::new()));
    port
}

/// `vm-service doctor` with this endpoint, and what `change` says of its surroundings.
fn doctor(cloud: &Cloud, endpoint: &str, change: impl FnOnce(&mut Command)) -> String {
    let mut settings = Settings { provider: ProviderChoice::Ec2, ..Settings::default() };
    settings.ec2.region = Some(cloud.region().to_owned());
    settings.ec2.subnets = cloud.subnets().into_iter().map(|subnet| subnet.id).collect();
    settings.ec2.security_group = Some(cloud.security_group());
    settings.ec2.images.insert(cloud.region().to_owned(), cloud.image());
    settings.ec2.endpoint = Some(endpoint.to_owned());
    let mut command = Command::new(BINARY);
    command.arg("doctor").arg("--data").arg(data_folder("outbound"));
    command.env_clear().env("HOME", "/nonexistent").env("AWS_EC2_METADATA_DISABLED", "true");
    command.env("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE").env("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI");
    command.env("VM_SERVICE_SETTINGS", serde_json::to_string(&settings).unwrap());
    command.env("VM_SERVICE_INSTALLATION", Uuid::from_u128(42).to_string());
    change(&mut command);
    let said: Output = command.output().unwrap();
    let (out, _) = text(&said);
    out.lines().find(|line| line.contains("  EC2: ")).unwrap_or_else(|| panic!("{said:?}")).to_owned()
}

fn answers(line: &str) -> bool {
    line.starts_with("ok ") && line.contains("eu-west-1 answers")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guides_file_names_the_proxy_and_what_is_direct() {
    let cloud = Cloud::start(Rules::default()).await;
    let (proxy, seen) = proxy().await;
    let guide = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(guide.path().join("vm-service")).unwrap();
    let file = guide.path().join("vm-service/customizations");
    let asked = |lines: String| {
        std::fs::write(&file, lines).unwrap();
        let line = doctor(&cloud, &cloud.endpoint(), |command| {
            command.arg("--config").arg(guide.path());
        });
        assert!(answers(&line), "{line}");
        std::mem::take(&mut *seen.lock().unwrap())
    };
    let through = asked(format!("export HTTP_PROXY=\"{proxy}\"\n"));
    assert!(
        !through.is_empty() && through.iter().all(|line| line.starts_with(&format!("POST {}", cloud.endpoint()))),
        "{through:?}"
    );
    assert_eq!(asked(format!("export HTTP_PROXY=\"{proxy}\"\nexport NO_PROXY=\"10.1.2.3,127.0.0.0/8\"\n")), Vec::<String>::new());
    assert_eq!(asked(format!("export HTTPS_PROXY=\"{proxy}\"\n")), Vec::<String>::new(), "another scheme");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_goes_through_a_tunnel_and_trusts_what_the_system_trusts() {
    let cloud = Cloud::start(Rules::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let port = behind_tls(&cloud, folder.path()).await;
    let (proxy, seen) = proxy().await;
    let endpoint = format!("https://localhost:{port}");
    let line = doctor(&cloud, &endpoint, |command| {
        command.env("SSL_CERT_FILE", folder.path().join("cert.pem")).env("https_proxy", &proxy);
    });
    assert!(answers(&line), "{line}");
    assert_eq!(seen.lock().unwrap().first().map(String::as_str), Some(format!("CONNECT localhost:{port} HTTP/1.1").as_str()));
    let line = doctor(&cloud, &endpoint, |_| {});
    assert!(line.starts_with("MISSING") && line.contains("certificate"), "{line}");
}
