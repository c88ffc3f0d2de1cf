//! Answers in AWS's real forms: EC2's XML, EBS direct's JSON, and no answer at all.

use super::journal::Outcome;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, Response};

/// Which of the two services a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    Ec2,
    Ebs,
}

impl Service {
    /// As a policy and a signature name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ec2 => "ec2",
            Self::Ebs => "ebs",
        }
    }
}

/// A good answer.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// An error by its code.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    status: u16,
    code: String,
    pub(super) message: String,
    /// EBS direct says more of some.
    reason: Option<&'static str>,
}

/// Why there is no good answer.
#[derive(Clone, Debug)]
pub(super) enum Stop {
    Refused(Refusal),
    /// The connection is cut.
    Cut,
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Answer {
    /// An answer of EBS direct.
    pub(super) fn json(value: &serde_json::Value) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        Self { status: 200, headers, body: value.to_string().into() }
    }

    /// An answer of EC2.
    pub(super) fn xml(text: String) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("text/xml;charset=UTF-8"));
        Self { status: 200, headers, body: text.into() }
    }

    pub(super) fn into_http(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status.try_into().unwrap();
        *response.headers_mut() = self.headers;
        response
    }
}

impl Refusal {
    pub(super) fn new(status: u16, code: &str, message: &str) -> Self {
        Self { status, code: code.to_owned(), message: message.to_owned(), reason: None }
    }

    /// With one of EBS direct's reasons.
    pub(super) fn because(mut self, reason: &'static str) -> Self {
        self.reason = Some(reason);
        self
    }

    /// A rule is broken: status 400.
    pub(super) fn rule(code: &str, message: &str) -> Self {
        Self::new(400, code, message)
    }

    pub(super) fn throttled() -> Self {
        Self::new(503, "RequestLimitExceeded", "Request limit exceeded.")
    }

    /// As one of the errors in the answer to CreateFleet.
    pub(super) fn as_fleet_error(&self, instance_type: &str, subnet: &str) -> String {
        let Self { code, message, .. } = self;
        format!(
            "<item><errorCode>{code}</errorCode><errorMessage>{message}</errorMessage><launchTemplateAndOverrides><overrides>\
             <instanceType>{instance_type}</instanceType><subnetId>{subnet}</subnetId></overrides></launchTemplateAndOverrides></item>"
        )
    }

    pub(super) fn outcome(&self) -> Outcome {
        if self.code == "RequestLimitExceeded" { Outcome::Throttled } else { Outcome::Refused(self.code.clone()) }
    }

    pub(super) fn into_http(self, service: Service) -> Response<Body> {
        match service {
            Service::Ec2 => self.xml(),
            Service::Ebs => self.json(),
        }
    }

    fn xml(&self) -> Response<Body> {
        let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let (code, message) = (escape(&self.code), escape(&self.message));
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message>\
             </Error></Errors><RequestID>00000000-0000-4000-8000-000000000000</RequestID></Response>"
        );
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status.try_into().unwrap();
        response.headers_mut().insert("content-type", HeaderValue::from_static("text/xml;charset=UTF-8"));
        response
    }

    /// EBS direct has names of its own for what is common to all services.
    fn json(&self) -> Response<Body> {
        let (status, code) = match self.code.as_str() {
            "RequestLimitExceeded" => (400, "RequestThrottledException"),
            "UnauthorizedOperation" => (403, "AccessDeniedException"),
            "AuthFailure" => (403, "UnrecognizedClientException"),
            "RequestExpired" => (403, "ExpiredTokenException"),
            "InternalError" => (500, "InternalServerException"),
            code => (self.status, code),
        };
        let mut body = serde_json::json!({ "Message": self.message });
        if let Some(reason) = self.reason {
            body["Reason"] = reason.into();
        }
        let body = body.to_string();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status.try_into().unwrap();
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
        response.headers_mut().insert("x-amzn-errortype", HeaderValue::from_str(code).unwrap());
        response
    }
}
