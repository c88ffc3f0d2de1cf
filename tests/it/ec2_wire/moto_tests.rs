//! moto goes with its value, also out of a panic, and leaves no process.

use super::moto::Moto;
use std::path::Path;

#[tokio::test]
async fn moto_ends_with_its_value() {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let moto = Moto::start(&http).await;
    let (process, url) = (format!("/proc/{}", moto.process()), moto.url.clone());
    let command = std::fs::read_to_string(format!("{process}/cmdline")).unwrap();
    assert!(command.contains("moto.server"), "setpriv has become moto: {command}");
    assert!(http.get(&url).send().await.is_ok());
    let panicked = tokio::spawn(async move {
        let _moto = moto;
        panic!("on purpose");
    });
    assert!(panicked.await.unwrap_err().is_panic());
    assert!(!Path::new(&process).exists());
}
