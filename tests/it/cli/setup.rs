//! URL, token and TLS: what is taken from where.

use super::api::{Api, World, vm};
use super::{Cli, io, parse};
use axum_server::tls_rustls::RustlsConfig;
use clap::Parser;
use std::sync::Arc;
use vm_service::cli::{self, Defaults};

#[tokio::test]
async fn the_token_comes_from_its_file_or_for_this_machine_from_the_data_folder() {
    let api = Api::start(World::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let [given, found] = ["given", "found"].map(|name| {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("{name}\n")).unwrap();
        path
    });
    let defaults = Defaults { operator_token: Some(found) };
    let list = |words: &[&str]| {
        let words = ["vm-service", "vms", "--url", &api.url].into_iter().chain(words.iter().copied());
        Cli::try_parse_from(words).unwrap().command
    };
    for words in [["--token-file", given.to_str().unwrap()].as_slice(), &["--token", "named"], &[]] {
        assert_eq!(cli::run(list(words), &defaults, io(None).0).await, 0);
    }
    assert_eq!(api.world().tokens, ["Bearer given", "Bearer named", "Bearer found"]);
    let (io, _, err) = io(None);
    assert_eq!(cli::run(list(&["--token-file", "/no/such/file"]), &defaults, io).await, 1);
    assert!(err.text().contains("/no/such/file cannot be read"), "{}", err.text());
}

#[tokio::test]
async fn tls_takes_the_named_issuer_and_no_other() {
    let signed = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, signed.cert.pem()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(signed.signing_key.serialize_der());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![signed.cert.der().clone()], key.into()).unwrap();
    let api = Api::start(World { vms: vec![vm(1)], ..World::default() }).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let server = axum_server::from_tcp_rustls(listener, RustlsConfig::from_config(Arc::new(config))).unwrap();
    tokio::spawn(server.serve(api.router().into_make_service()));

    let (io_1, out, err) = io(None);
    let code = cli::run(parse(&url, &["vms", "--ca-file", ca.to_str().unwrap()]), &Defaults::default(), io_1).await;
    assert_eq!((code, out.text().lines().count()), (0, 2), "{}", err.text());

    let (io_2, _, err) = io(None);
    assert_eq!(cli::run(parse(&url, &["vms"]), &Defaults::default(), io_2).await, 1);
    assert!(err.text().contains("--ca-file"), "{}", err.text());
}

#[test]
fn every_help_text_is_there_and_every_option_has_a_name_of_its_own() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
    for words in
        [["vm-service", "run", "--help"].as_slice(), &["vm-service", "vms", "hold", "--help"], &["vm-service", "tasks", "--help"]]
    {
        let help = Cli::try_parse_from(words.iter()).err().unwrap().to_string();
        assert!(help.contains("VM_SERVICE_URL"), "{help}");
        assert!(!help.contains("t0ken"));
    }
    for wrong in ["", "h", "2", "-1h", "0s", "999999999999999999h", "2 h"] {
        let words = ["vm-service", "vms", "hold", "00000000-0000-0000-0000-000000000001", "--reason", "r", "--for", wrong];
        assert!(Cli::try_parse_from(words).is_err(), "{wrong:?}");
    }
}
