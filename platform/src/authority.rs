//! The authority that signed a store's certificate, as the store's URL names it.

use std::fs;

use anyhow::{Context as _, ensure};

/// The parameter of PostgreSQL's URLs, which ours for Redis have, too.
const PARAMETER: &str = "sslrootcert=";

/// Takes `sslrootcert=FILE` out of a URL; answers the rest of it, and the certificates in the file.
/// It is read once, at the start: a file that is missing would look like a store that is away.
///
/// # Errors
/// The file cannot be read, or there is no certificate in it.
pub(crate) fn of_url(url: &str) -> anyhow::Result<(String, Option<Vec<u8>>)> {
    let Some((address, parameters)) = url.split_once('?') else {
        return Ok((url.to_owned(), None));
    };
    let (files, others): (Vec<&str>, Vec<&str>) =
        parameters.split('&').partition(|parameter| parameter.starts_with(PARAMETER));
    let Some(file) = files.first() else { return Ok((url.to_owned(), None)) };
    let file = &file[PARAMETER.len()..];
    let pem = fs::read(file).with_context(|| format!("`sslrootcert` {file} cannot be read"))?;
    let has_certificate = pem::parse_many(&pem)
        .is_ok_and(|found| found.iter().any(|part| part.tag() == "CERTIFICATE"));
    ensure!(has_certificate, "`sslrootcert` {file} holds no certificate in PEM");
    let rest = match others.is_empty() {
        true => address.to_owned(),
        false => format!("{address}?{}", others.join("&")),
    };
    Ok((rest, Some(pem)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authority_is_read_from_its_file_and_leaves_the_url() {
        let dir = std::env::temp_dir().join(format!("authority-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a folder");
        let file = dir.join("ca.pem");
        let url = |before: &str| format!("rediss://h:1/0?{before}sslrootcert={}", file.display());
        assert!(of_url(&url("")).is_err(), "there is no file");
        fs::write(&file, "nothing").expect("a file");
        assert!(of_url(&url("")).is_err(), "there is no certificate in it");
        let text = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        fs::write(&file, text).expect("a file");
        let (rest, pem) = of_url(&url("protocol=resp3&")).expect("a certificate");
        assert_eq!(rest, "rediss://h:1/0?protocol=resp3");
        assert_eq!(pem.as_deref(), Some(text.as_bytes()));
        assert_eq!(of_url(&url("")).expect("a certificate").0, "rediss://h:1/0");
        let plain = "postgres://u:p@h/db?sslmode=require";
        assert_eq!(of_url(plain).expect("nothing to read"), (plain.to_owned(), None));
        fs::remove_dir_all(&dir).expect("removed");
    }
}
