//! The way to a bucket of the audit log: what is there is never replaced.
//!
//! Each request that would make an object says `If-None-Match: *`, so that the store itself refuses a name that is taken, whoever took it
//! (Amazon, "How to prevent object overwrites with conditional writes"). The library can say so for a small object alone; this also covers
//! one that was sent in parts. The header is not signed: S3 asks that of `host` and `x-amz-…`.
//!
//! Not here: what happens then (`audit_store`).

use async_trait::async_trait;
use object_store::client::{
    ClientOptions, HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use object_store::{HeaderValue, Result};

/// Connects as the library does.
#[derive(Debug)]
pub(super) struct Once;

impl HttpConnector for Once {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient> {
        Ok(HttpClient::new(OnceClient(ReqwestConnector::default().connect(options)?)))
    }
}

#[derive(Debug)]
struct OnceClient(HttpClient);

#[async_trait]
impl HttpService for OnceClient {
    async fn call(&self, mut request: HttpRequest) -> std::result::Result<HttpResponse, HttpError> {
        if makes_an_object(request.method().as_str(), request.uri().query().unwrap_or_default()) {
            request.headers_mut().insert("if-none-match", HeaderValue::from_static("*"));
        }
        self.0.execute(request).await
    }
}

/// `PutObject` and `CompleteMultipartUpload`; not `UploadPart` or `CreateMultipartUpload`, which know no such header.
fn makes_an_object(method: &str, query: &str) -> bool {
    match method {
        "PUT" => !query.contains("partNumber="),
        "POST" => query.contains("uploadId="),
        _ => false,
    }
}
