//! What AWS says when it does not do what was asked, by what is done next.
//!
//! Codes: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html>; those of EBS direct end with `Exception`:
//! <https://docs.aws.amazon.com/ebs/latest/APIReference/CommonErrors.html>.

use crate::provider::ProviderError;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};

/// By what is done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// No machine of this type here now: the next candidate.
    NoCapacity,
    /// The account may not have more of this market: the next candidate in another one; an operator asks AWS for more.
    Quota,
    /// Asked too fast, nothing happened.
    Throttled,
    /// Ours or the operator's to mend.
    Denied,
    /// Ours or the operator's to mend.
    Invalid,
    /// It does not know the thing: not yet, or no more.
    NotFound,
    /// What this client token made has ended since.
    Ended,
    /// It may have happened.
    Unclear,
}

/// An answer that is none.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) kind: Kind,
    /// AWS's own word; empty when there was no answer.
    pub(super) code: String,
    /// AWS's own sentence, or what broke on the way.
    pub(super) message: String,
}

impl Refusal {
    /// What an error of any call means.
    pub(super) fn of<E, R>(error: SdkError<E, R>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
        R: std::fmt::Debug + Send + Sync + 'static,
    {
        let Some(code) = error.code().map(str::to_owned) else {
            let message = anyhow::Error::from(error);
            return Self { kind: Kind::Unclear, code: String::new(), message: format!("{message:#}") };
        };
        let message = error.message().unwrap_or_default().to_owned();
        Self { kind: kind(&code), code, message }
    }

    /// One that AWS names in an answer.
    pub(super) fn saying(code: String, message: String) -> Self {
        Self { kind: kind(&code), code, message }
    }

    /// What an operator reads: what AWS said, and what to change.
    pub(super) fn advice(&self) -> String {
        let Self { kind, code, message } = self;
        match kind {
            Kind::Denied => format!("AWS does not let us ({code}): {}", mend(code, message)),
            Kind::Throttled if code.is_empty() => format!("{message}: try again in a minute"),
            Kind::Throttled => format!("AWS throttles ({code}): try again in a minute"),
            Kind::Unclear if code.is_empty() && message.contains("credentials") => format!(
                "no credentials were found ({message}): give this machine an instance profile, or set ec2.authentication in the \
                 settings to an access key"
            ),
            Kind::Unclear if code.is_empty() => format!(
                "no answer ({message}): check ec2.region and ec2.endpoint in the settings, and this machine's way out (HTTPS_PROXY)"
            ),
            _ => format!("{code}: {message}"),
        }
    }

    /// For a call that has no candidates: what its caller does next.
    pub(super) fn into_error(self, what: &str) -> ProviderError {
        let advice = self.advice();
        let Self { kind, code, message } = self;
        match kind {
            Kind::NoCapacity | Kind::Quota => ProviderError::NoCapacity(format!("{code}: {message}")),
            Kind::Throttled => ProviderError::Throttled,
            Kind::Denied => ProviderError::Invalid(format!("{what}: {advice}")),
            Kind::Invalid | Kind::NotFound | Kind::Ended => ProviderError::Invalid(format!("{what}: {code}: {message}")),
            Kind::Unclear => ProviderError::transient(what, anyhow::anyhow!("{code} {message}")),
        }
    }
}

/// What a denial asks of the operator.
fn mend(code: &str, message: &str) -> String {
    // AWS ends some of its sentences, and some not.
    let message = &if message.ends_with('.') { message.to_owned() } else { format!("{message}.") };
    match code {
        "UnauthorizedOperation" | "AccessDeniedException" => {
            // "…You are not authorized to perform this operation. … Encoded authorization failure message: <4 KiB>"
            let sentence = message.split("Encoded authorization").next().unwrap_or(message).trim();
            format!("{sentence} Give the role or user what `vm-service iam-policy` prints.")
        }
        "AuthFailure" | "InvalidClientTokenId" | "SignatureDoesNotMatch" | "UnrecognizedClientException" => {
            format!(
                "{message} Check the access key and its secret half in the settings, this machine's clock, whether ec2.endpoint, if set, \
                 is in ec2.region, and whether the account has the region enabled."
            )
        }
        "ExpiredToken" | "RequestExpired" | "ExpiredTokenException" => {
            format!("{message} The credentials are out of date, or this machine's clock is wrong: get fresh ones, or set it right.")
        }
        "OptInRequired" => format!("{message} Enable the region in the account, or set another as ec2.region."),
        _ => message.to_owned(),
    }
}

fn kind(code: &str) -> Kind {
    match code {
        "InsufficientInstanceCapacity"
        | "Server.InsufficientInstanceCapacity"
        | "InsufficientHostCapacity"
        | "InsufficientReservedInstanceCapacity"
        | "InsufficientCapacity"
        | "UnfulfillableCapacity"
        | "Unsupported"
        | "SpotMaxPriceTooLow"
        | "InsufficientFreeAddressesInSubnet" => Kind::NoCapacity,
        "InstanceLimitExceeded"
        | "VcpuLimitExceeded"
        | "MaxSpotInstanceCountExceeded"
        | "VolumeLimitExceeded"
        | "MaxIOPSLimitExceeded"
        | "ServiceQuotaExceededException" => Kind::Quota,
        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "SlowDown"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "ConcurrentLimitExceededException" => Kind::Throttled,
        "UnauthorizedOperation"
        | "AuthFailure"
        | "InvalidClientTokenId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "RequestExpired"
        | "OptInRequired"
        | "PendingVerification"
        | "Blocked"
        | "AccessDenied"
        | "AccessDeniedException"
        | "ExpiredTokenException"
        | "UnrecognizedClientException" => Kind::Denied,
        "IdempotentInstanceTerminated" => Kind::Ended,
        "InternalError" | "InternalFailure" | "ServiceUnavailable" | "Unavailable" | "RequestTimeout" => Kind::Unclear,
        "ResourceNotFoundException" => Kind::NotFound,
        _ if code.ends_with(".NotFound") => Kind::NotFound,
        "ValidationException" | "ConflictException" | "VolumeInUse" | "DependencyViolation" | "AttachmentLimitExceeded" => {
            Kind::Invalid
        }
        _ if ["Invalid", "Missing", "Malformed", "Idempotent", "Unknown", "Incorrect", "Operation"]
            .iter()
            .any(|start| code.starts_with(start)) =>
        {
            Kind::Invalid
        }
        _ => Kind::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_says_what_is_done_next() {
        for (code, expected) in [
            ("InsufficientInstanceCapacity", Kind::NoCapacity),
            ("VcpuLimitExceeded", Kind::Quota),
            ("RequestLimitExceeded", Kind::Throttled),
            ("UnauthorizedOperation", Kind::Denied),
            ("InvalidInstanceID.NotFound", Kind::NotFound),
            ("InvalidParameterValue", Kind::Invalid),
            ("IdempotentParameterMismatch", Kind::Invalid),
            ("IdempotentInstanceTerminated", Kind::Ended),
            ("InternalError", Kind::Unclear),
            ("VolumeInUse", Kind::Invalid),
            ("RequestThrottledException", Kind::Throttled),
            ("AccessDeniedException", Kind::Denied),
            ("ResourceNotFoundException", Kind::NotFound),
            ("ValidationException", Kind::Invalid),
            ("InternalServerException", Kind::Unclear),
            ("SomethingNew", Kind::Unclear),
        ] {
            assert_eq!(kind(code), expected, "{code}");
        }
    }
}
