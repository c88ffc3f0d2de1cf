//! How EC2 is spoken to: who we are, where it is, and how long an answer may take. No call is repeated in here: the loops repeat, and
//! nobody else, so a throttled account is not asked again by two at once.

use crate::domain::ec2::{Authentication, Ec2Settings};
use crate::domain::outbound::Outbound;
use crate::domain::secret::Secret;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_ec2::Client;
use aws_sdk_ec2::config::Credentials;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::{Connector, tls};
use aws_smithy_runtime_api::client::http::{HttpConnectorSettings, SharedHttpClient, SharedHttpConnector, http_client_fn};
use std::time::Duration;
use tokio::sync::OnceCell;

/// A call of the contract returns within 7 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(6);
/// A block of 512 KiB may take so long on a slow line; nobody but an operator waits for it.
const BLOCK_WITHIN: Duration = Duration::from_secs(60);
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// The settings of one region, and the client that they make.
pub(super) struct Connection {
    pub(super) settings: Ec2Settings,
    secret: Option<Secret>,
    client: OnceCell<Client>,
    ebs: OnceCell<aws_sdk_ebs::Client>,
}

impl Connection {
    pub(super) fn new(settings: Ec2Settings, secret: Option<Secret>) -> Self {
        Self { settings, secret, client: OnceCell::new(), ebs: OnceCell::new() }
    }

    /// Whether these settings make the same connection.
    pub(super) fn is_of(&self, settings: &Ec2Settings, secret: Option<&Secret>) -> bool {
        self.settings == *settings && self.secret.as_ref() == secret
    }

    /// Whether the settings name an access key whose secret half could not be opened.
    pub(super) fn lacks_secret(&self) -> bool {
        matches!(self.settings.authentication, Authentication::AccessKey(_)) && self.secret.is_none()
    }

    /// The client; `base` is what the surroundings say.
    pub(super) async fn client(&self, base: &SdkConfig, outbound: &Outbound) -> Client {
        self.client.get_or_init(async || self.connect(base, outbound)).await.clone()
    }

    /// The client of EBS direct.
    pub(super) async fn ebs_client(&self, base: &SdkConfig, outbound: &Outbound) -> aws_sdk_ebs::Client {
        self.ebs.get_or_init(async || self.connect_ebs(base, outbound)).await.clone()
    }

    fn connect_ebs(&self, base: &SdkConfig, outbound: &Outbound) -> aws_sdk_ebs::Client {
        let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_WITHIN).operation_timeout(BLOCK_WITHIN).build();
        let mut config = aws_sdk_ebs::config::Builder::from(base).timeout_config(timeouts);
        // An address of Amazon's own, such as that of a VPC endpoint, is of EC2 alone; an emulator answers for both.
        if let Some(endpoint) = self.settings.endpoint.as_ref().filter(|endpoint| !endpoint.contains(".amazonaws.com")) {
            config = config.endpoint_url(endpoint).http_client(http_client(outbound, endpoint));
        }
        if let Some(credentials) = self.access_key() {
            config = config.credentials_provider(credentials);
        }
        aws_sdk_ebs::Client::from_conf(config.build())
    }

    /// A client for other surroundings than this connection's own: another region.
    pub(super) fn fresh_client(&self, base: &SdkConfig, outbound: &Outbound) -> Client {
        self.connect(base, outbound)
    }

    fn connect(&self, base: &SdkConfig, outbound: &Outbound) -> Client {
        let mut config = aws_sdk_ec2::config::Builder::from(base);
        if let Some(endpoint) = &self.settings.endpoint {
            config = config.endpoint_url(endpoint).http_client(http_client(outbound, endpoint));
        }
        if let Some(credentials) = self.access_key() {
            config = config.credentials_provider(credentials);
        }
        Client::from_conf(config.build())
    }

    /// The access key of the settings, if they name one.
    fn access_key(&self) -> Option<Credentials> {
        let Authentication::AccessKey(key) = &self.settings.authentication else { return None };
        // Without its secret half AWS refuses the key, and says so: never signed in as the machine instead.
        let secret = self.secret.as_ref().map_or("", Secret::expose);
        Some(Credentials::new(&key.id, secret, None, None, "settings"))
    }
}

/// What the surroundings say: credentials of the machine.
pub(super) async fn surroundings(region: &str, outbound: &Outbound) -> SdkConfig {
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT_WITHIN).operation_timeout(ANSWER_WITHIN).build();
    aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new(region.to_owned()))
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .http_client(http_client(outbound, "https://"))
        .load()
        .await
}

/// The way to this endpoint: through the proxy of its scheme, trusting the certificates of this system.
fn http_client(outbound: &Outbound, endpoint: &str) -> SharedHttpClient {
    let proxy = match outbound.proxy_to(endpoint) {
        None => Ok(ProxyConfig::disabled()),
        Some(proxy) if endpoint.starts_with("http://") => ProxyConfig::http(proxy),
        Some(proxy) => ProxyConfig::https(proxy),
    };
    // `config` refuses what is no address of a proxy.
    let proxy = proxy.unwrap_or_else(|_| ProxyConfig::disabled()).no_proxy(outbound.direct());
    let settings = HttpConnectorSettings::builder().connect_timeout(CONNECT_WITHIN).build();
    let tls = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::AwsLc);
    let connector = Connector::builder().proxy_config(proxy).connector_settings(settings).tls_provider(tls).build();
    let connector = SharedHttpConnector::new(connector);
    http_client_fn(move |_, _| connector.clone())
}
