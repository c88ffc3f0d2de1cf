//! Certificates as people paste them: several in one text, with blanks and line ends of other systems. Kept one a text.

use serde::{Deserialize, Deserializer};

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Each with what stands before it: what is none is refused by its rule ([`is_pem`]).
pub(super) fn split(text: &str) -> impl Iterator<Item = String> {
    text.split_inclusive(END).map(|part| part.trim().replace('\r', "")).filter(|part| !part.is_empty())
}

/// For `#[serde(deserialize_with = "…")]`: however they came, one a text.
///
/// # Errors
/// It is no list of texts.
pub(super) fn one_a_text<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    Ok(texts.iter().flat_map(|text| split(text)).collect())
}

/// A rule of `garde`.
pub(super) fn is_pem(text: &str, _: &()) -> garde::Result {
    let text = text.trim();
    let plain = text.chars().all(|c| c.is_ascii_graphic() || c.is_ascii_whitespace());
    if !text.starts_with(BEGIN) || !text.ends_with(END) || !plain {
        return Err(garde::Error::new("is not a certificate in PEM form"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::settings::GuestSettings;
    use garde::Validate as _;

    #[test]
    fn certificates_are_kept_one_a_text_however_they_came() {
        let pem = |text: &str| format!("{BEGIN}\n{text}\n{END}");
        let (one, two) = (pem("one"), pem("two"));
        let read = |texts: &[&str]| -> GuestSettings {
            serde_json::from_value(serde_json::json!({ "root_certificates": texts })).unwrap()
        };
        let together = read(&[&format!("{one}\n"), &format!("\r\n{two}\r\n{one}")]);
        assert_eq!(together.root_certificates, [one.clone(), two, one.clone()]);
        assert!(together.validate().is_ok());
        assert!(read(&[&format!("{one}\nand more")]).validate().is_err());
        assert!(read(&[&format!("{one} {}", pem("é"))]).validate().is_err());
    }
}
