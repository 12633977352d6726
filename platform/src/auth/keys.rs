//! The public keys of one kind of token, and every check but that of the times.

use std::fmt;
use std::path::PathBuf;

use anyhow::Context as _;
use aws_lc_rs::digest;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use serde::de::DeserializeOwned;

use super::{AuthArgs, AuthError};

/// Longer tokens are refused before any work is done on them.
const TOKEN_MAX_BYTES: usize = 4096;

/// One key, or two while keys are rotated.
pub(super) struct Keys {
    typ: &'static str,
    keys: Vec<(String, DecodingKey)>,
    validation: Validation,
}

impl Keys {
    /// Reads the keys of tokens of kind `typ`.
    pub(super) fn load(
        typ: &'static str,
        files: &[PathBuf],
        args: &AuthArgs,
    ) -> anyhow::Result<Self> {
        let mut pems = Vec::new();
        for path in files {
            pems.push(
                std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read the public key {}", path.display()))?,
            );
        }
        let pems: Vec<&str> = pems.iter().map(String::as_str).collect();
        Self::from_pems(typ, &pems, &args.issuer, &args.audience)
    }

    /// The same from PEM texts.
    pub(super) fn from_pems(
        typ: &'static str,
        pems: &[&str],
        issuer: &str,
        audience: &str,
    ) -> anyhow::Result<Self> {
        anyhow::ensure!(
            (1..=2).contains(&pems.len()),
            "one public key is needed, or two while keys are rotated; got {}",
            pems.len()
        );
        let mut keys = Vec::new();
        for pem in pems {
            // from_ed_pem would also take a private key's file; that must not lie around here.
            anyhow::ensure!(
                pem.contains("BEGIN PUBLIC KEY"),
                "not a PEM file with a PUBLIC KEY in it"
            );
            let key = DecodingKey::from_ed_pem(pem.as_bytes())
                .context("not an Ed25519 public key in PEM form")?;
            let raw = key.try_get_as_bytes().context("not an Ed25519 public key")?;
            anyhow::ensure!(raw.len() == 32, "an Ed25519 public key has 32 bytes");
            keys.push((key_id(raw), key));
        }
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        // Checked by us: also at each use of a remembered token, and against a clock that tests
        // can choose.
        validation.validate_exp = false;
        Ok(Self { typ, keys, validation })
    }

    /// Returns whether the key of this id is one of these.
    pub(super) fn has(&self, key_id: &str) -> bool {
        self.keys.iter().any(|(known, _)| known == key_id)
    }

    /// Returns whether a key is among these and among `others`.
    pub(super) fn overlap(&self, others: &Self) -> bool {
        self.keys.iter().any(|(key_id, _)| others.has(key_id))
    }

    /// Checks everything but the times: header, key, signature, issuer, audience.
    pub(super) fn claims<T: DeserializeOwned>(&self, token: &str) -> Result<T, AuthError> {
        if token.len() > TOKEN_MAX_BYTES {
            return Err(AuthError::Malformed);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| AuthError::Malformed)?;
        if header.alg != Algorithm::EdDSA {
            return Err(AuthError::WrongAlgorithm);
        }
        if header.typ.as_deref() != Some(self.typ) {
            return Err(AuthError::WrongType);
        }
        let kid = header.kid.as_deref().ok_or(AuthError::UnknownKey)?;
        let (kid, key) =
            self.keys.iter().find(|(known, _)| known == kid).ok_or(AuthError::UnknownKey)?;
        // `jku`, `jwk`, `x5u`, `crit` and whatever else: our issuer writes none of them.
        if header != plain_header(self.typ, kid) {
            return Err(AuthError::Malformed);
        }
        let data =
            jsonwebtoken::decode::<T>(token, key, &self.validation).map_err(|error| match error
                .kind()
            {
                ErrorKind::InvalidSignature => AuthError::BadSignature,
                ErrorKind::InvalidIssuer | ErrorKind::InvalidAudience => AuthError::WrongAudience,
                ErrorKind::InvalidAlgorithm => AuthError::WrongAlgorithm,
                ErrorKind::Json(_) | ErrorKind::MissingRequiredClaim(_) => AuthError::BadClaims,
                _ => AuthError::Malformed,
            })?;
        Ok(data.claims)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|(key_id, _)| key_id)).finish()
    }
}

pub(super) fn plain_header(typ: &str, kid: &str) -> Header {
    let mut header = Header::new(Algorithm::EdDSA);
    header.typ = Some(typ.to_owned());
    header.kid = Some(kid.to_owned());
    header
}

/// First 16 hex digits of the SHA-256 of the 32 bytes of the public key.
pub(super) fn key_id(public_key: &[u8]) -> String {
    use std::fmt::Write as _;

    let digest = digest::digest(&digest::SHA256, public_key);
    digest.as_ref()[..8].iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
