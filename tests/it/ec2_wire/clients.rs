//! The AWS SDK as our provider uses it, against a `Cloud`, but without retries: a test counts calls.

use super::proxy::Cloud;
use aws_sdk_ec2::config::retry::RetryConfig;
use aws_sdk_ec2::config::{BehaviorVersion, Credentials, Region};

fn credentials() -> Credentials {
    Credentials::new("AKIATEST", "secret", None, None, "test")
}

impl Cloud {
    /// A client of EC2.
    pub(crate) fn ec2(&self) -> aws_sdk_ec2::Client {
        let config = aws_sdk_ec2::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(self.region()))
            .endpoint_url(self.endpoint())
            .credentials_provider(credentials())
            .retry_config(RetryConfig::disabled());
        aws_sdk_ec2::Client::from_conf(config.build())
    }

    /// A client of EBS direct.
    pub(crate) fn ebs(&self) -> aws_sdk_ebs::Client {
        let config = aws_sdk_ebs::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(self.region()))
            .endpoint_url(self.endpoint())
            .credentials_provider(credentials())
            .retry_config(RetryConfig::disabled());
        aws_sdk_ebs::Client::from_conf(config.build())
    }
}
