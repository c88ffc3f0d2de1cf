//! A throw-away certificate authority per VM, and what it signs. The authority's key exists only inside [`DockerIdentity::generate`],
//! so nobody can ever sign another certificate for this VM; an address that changes means a new identity.

use crate::domain::identity::DockerIdentity;
use crate::domain::secret::Secret;
use chrono::{DateTime, Datelike, TimeDelta, Utc};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, SanType,
};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// How far a guest's or a client's clock may be behind ours.
const CLOCK_MARGIN: TimeDelta = TimeDelta::hours(1);
/// The host name inside every VM.
const VM_NAME: &str = "vm";

impl DockerIdentity {
    /// Makes an authority and what it signs, valid from an hour before `now` to `valid_until`. The engine may be called by each of
    /// `addresses`, by `localhost`, 127.0.0.1 and `vm`.
    ///
    /// # Errors
    /// One sentence: the cryptographic library refused (out of randomness), or a time is out of range.
    pub fn generate(addresses: &[IpAddr], now: DateTime<Utc>, valid_until: DateTime<Utc>) -> Result<Self, String> {
        sign(addresses, now - CLOCK_MARGIN, valid_until).map_err(|e| format!("the Docker certificates cannot be made: {e}"))
    }
}

fn sign(addresses: &[IpAddr], not_before: DateTime<Utc>, not_after: DateTime<Utc>) -> Result<DockerIdentity, rcgen::Error> {
    // RFC 5280 §4.1.2.5 ends with the year 9999.
    let at = |time: DateTime<Utc>| match u64::try_from(time.timestamp()) {
        Ok(seconds) if time.year() <= 9999 => Ok(rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds)),
        _ => Err(rcgen::Error::Time),
    };
    let named = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = at(not_before)?;
        params.not_after = at(not_after)?;
        Ok::<_, rcgen::Error>(params)
    };
    let new_key = || KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256);

    let mut authority = named("authority of this VM")?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let authority_key = new_key()?;
    let ca = authority.self_signed(&authority_key)?.pem();
    let issuer = Issuer::new(authority, authority_key);

    let mut server = named(VM_NAME)?;
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.use_authority_key_identifier_extension = true;
    server.subject_alt_names = vec![SanType::DnsName(VM_NAME.try_into()?), SanType::DnsName("localhost".try_into()?)];
    let mut every = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    every.extend(addresses);
    every.sort_unstable();
    every.dedup();
    server.subject_alt_names.extend(every.into_iter().map(SanType::IpAddress));
    let server_key = new_key()?;

    let mut client = named("job")?;
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    client.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    client.use_authority_key_identifier_extension = true;
    let client_key = new_key()?;

    Ok(DockerIdentity {
        ca,
        server_cert: server.signed_by(&server_key, &issuer)?.pem(),
        server_key: Secret::new(server_key.serialize_pem()),
        client_cert: client.signed_by(&client_key, &issuer)?.pem(),
        client_key: Secret::new(client_key.serialize_pem()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_790_000_000, 0).unwrap()
    }

    /// Asks openssl, which is what the VM's TLS front is built on, about `cert`; the answer is its output.
    fn openssl(identity: &DockerIdentity, cert: &str, at: DateTime<Utc>, questions: &[&str]) -> (bool, String) {
        let folder = tempfile::tempdir().unwrap();
        let (ca, leaf) = (folder.path().join("ca.pem"), folder.path().join("leaf.pem"));
        std::fs::write(&ca, &identity.ca).unwrap();
        std::fs::write(&leaf, cert).unwrap();
        let at = at.timestamp().to_string();
        let output = Command::new("openssl")
            .args(["verify", "-x509_strict", "-attime", &at, "-CAfile"])
            .arg(&ca)
            .args(questions)
            .arg(&leaf)
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    #[test]
    fn openssl_accepts_every_name_both_purposes_and_the_whole_life() {
        let addresses = ["127.0.0.7".parse().unwrap(), "2001:db8::7".parse().unwrap()];
        let end = now() + TimeDelta::hours(30);
        let identity = DockerIdentity::generate(&addresses, now(), end).unwrap();
        let server = &identity.server_cert;
        for ip in ["127.0.0.1", "127.0.0.7", "2001:db8::7"] {
            let answer = openssl(&identity, server, now(), &["-purpose", "sslserver", "-verify_ip", ip]);
            assert!(answer.0, "{ip}: {answer:?}");
        }
        for name in ["localhost", "vm"] {
            assert!(openssl(&identity, server, now(), &["-purpose", "sslserver", "-verify_hostname", name]).0, "{name}");
        }
        assert!(openssl(&identity, &identity.client_cert, now(), &["-purpose", "sslclient"]).0);
        for at in [now() - TimeDelta::minutes(59), end - TimeDelta::seconds(1)] {
            assert!(openssl(&identity, server, at, &[]).0, "{at}");
        }
    }

    #[test]
    fn openssl_refuses_other_names_other_purposes_other_times_and_other_vms() {
        let end = now() + TimeDelta::hours(30);
        let identity = DockerIdentity::generate(&["127.0.0.7".parse().unwrap()], now(), end).unwrap();
        let other = DockerIdentity::generate(&["127.0.0.7".parse().unwrap()], now(), end).unwrap();
        let server = &identity.server_cert;
        assert!(!openssl(&identity, server, now(), &["-verify_ip", "127.0.0.8"]).0);
        assert!(!openssl(&identity, server, now(), &["-purpose", "sslclient"]).0);
        assert!(!openssl(&identity, &identity.client_cert, now(), &["-purpose", "sslserver"]).0);
        assert!(!openssl(&identity, server, now() - TimeDelta::minutes(61), &[]).0);
        assert!(!openssl(&identity, server, end + TimeDelta::seconds(1), &[]).0);
        assert!(!openssl(&identity, &other.server_cert, now(), &[]).0);
        assert!(!openssl(&identity, &other.client_cert, now(), &["-purpose", "sslclient"]).0);
    }

    #[test]
    fn a_year_that_certificates_cannot_say_is_an_error() {
        assert!(DockerIdentity::generate(&[], now(), DateTime::<Utc>::MAX_UTC).is_err());
    }
}
