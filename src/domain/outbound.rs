//! How the service itself reaches the world: the proxies of its host, as the guide's `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` say.
//!
//! Not here: what is set inside the VMs (`settings::GuestSettings`).

/// The machine's own addresses for credentials, of instances, tasks and pods: never asked through a proxy, which would be asked for its
/// own. Source: AWS, "Using an HTTP proxy" of the command line interface, and "Container credential provider".
const METADATA: &str = "169.254.169.254,169.254.170.2,169.254.170.23,fd00:ec2::254,fd00:ec2::23";

/// Proxies for calls of the service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outbound {
    /// For `http://`.
    pub http_proxy: Option<String>,
    /// For `https://`.
    pub https_proxy: Option<String>,
    /// Hosts, domains and networks that are reached directly, separated by commas.
    pub no_proxy: Option<String>,
}

impl Outbound {
    /// The proxy on the way to this URL.
    pub fn proxy_to(&self, url: &str) -> Option<&str> {
        let proxy = if url.starts_with("http://") { &self.http_proxy } else { &self.https_proxy };
        proxy.as_deref()
    }

    /// What is reached directly: that, and where credentials come from.
    pub fn direct(&self) -> String {
        match self.no_proxy.as_deref().map(str::trim) {
            None | Some("") => METADATA.to_owned(),
            Some(hosts) => format!("{hosts},{METADATA}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metadata_address_is_always_direct() {
        for no_proxy in [None, Some(String::new()), Some("10.0.0.0/8,.internal".to_owned())] {
            let outbound = Outbound { no_proxy: no_proxy.clone(), ..Outbound::default() };
            let direct = outbound.direct();
            assert!(direct.split(',').any(|host| host == "169.254.169.254") && !direct.starts_with(','), "{direct}");
            assert!(direct.starts_with(&no_proxy.unwrap_or_default()));
        }
    }

    #[test]
    fn each_scheme_has_its_proxy() {
        let outbound = Outbound { https_proxy: Some("http://proxy:3128".to_owned()), ..Outbound::default() };
        assert_eq!(outbound.proxy_to("https://ec2.eu-west-1.amazonaws.com"), Some("http://proxy:3128"));
        assert_eq!(outbound.proxy_to("http://127.0.0.1:5000"), None);
    }
}
