//! The address of a service: checked before anything is sent, and known to be this machine or not.
//!
//! Reads, writes, calls: nothing. Runs: in `connect`.

use reqwest::Url;

/// The address of the service.
#[derive(Clone, Debug)]
pub(super) struct Base(Url);

impl Base {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|e| format!("\"{text}\" is not a URL ({e}): use one such as http://127.0.0.1:3001."))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err(format!("\"{text}\" is not the URL of a service: use one such as http://127.0.0.1:3001."));
        }
        Ok(Self(url))
    }

    pub(super) fn is_tls(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// This machine: nothing goes over a network, nor over a proxy.
    pub(super) fn is_local(&self) -> bool {
        let host = self.0.host_str().unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }
}

impl std::fmt::Display for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::Base;

    #[test]
    fn only_this_machine_is_local() {
        for (url, local) in [
            ("http://127.0.0.1:3001", true),
            ("http://[::1]:3001/", true),
            ("https://localhost", true),
            ("http://localhost.example.org", false),
            ("http://127.0.0.1.example.org", false),
            ("http://127.0.0.1@example.org", false),
            ("http://192.0.2.1:3001", false),
        ] {
            assert_eq!(Base::parse(url).unwrap().is_local(), local, "{url}");
        }
        for wrong in ["127.0.0.1:3001", "ftp://localhost", "unix:/run/x", ""] {
            assert!(Base::parse(wrong).is_err(), "{wrong}");
        }
    }
}
