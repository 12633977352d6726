//! Makes tokens: for development, tests and the accounts service.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use jsonwebtoken::{EncodingKey, Header};
use pem::{EncodeConfig, LineEnding, Pem};
use serde::Serialize;
use uuid::Uuid;

use super::keys::{key_id, plain_header};
use super::tracking::TrackingClaims;
use super::{ACCESS_TYP, AccessClaims, Role, TRACKING_TYP, TrackingVerifier, Verifier, now_s};

const DEFAULT_NAME: &str = "swift-eats";

/// Signs tokens with an Ed25519 key: access tokens, or tracking tokens, as the services trust no
/// key for both.
pub struct Signer {
    key: EncodingKey,
    key_id: String,
    public_pem: String,
    access_header: Header,
    tracking_header: Header,
    issuer: String,
    audience: String,
}

impl Signer {
    /// Reads a private key (PKCS#8 in a PEM file).
    ///
    /// # Errors
    /// When the file cannot be read or is not an Ed25519 private key.
    pub fn load(private_pem_file: &Path, issuer: &str, audience: &str) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(private_pem_file).with_context(|| {
            format!("cannot read the signing key {}", private_pem_file.display())
        })?;
        Self::from_pem(&text, issuer, audience)
    }

    /// The same from the PEM's text.
    ///
    /// # Errors
    /// When it is not an Ed25519 private key.
    pub fn from_pem(private_pem: &str, issuer: &str, audience: &str) -> anyhow::Result<Self> {
        let parsed = pem::parse(private_pem).context("the signing key is not a PEM file")?;
        anyhow::ensure!(
            parsed.tag() == "PRIVATE KEY",
            "the signing key's file has no PRIVATE KEY in it"
        );
        let pair = Ed25519KeyPair::from_pkcs8(parsed.contents())
            .context("the signing key is not an Ed25519 key in PKCS#8 form")?;
        let kid = key_id(pair.public_key().as_ref());
        let public = pair.public_key().as_der().context("the public key has no DER form")?;
        Ok(Self {
            key: EncodingKey::from_ed_der(parsed.contents()),
            public_pem: to_pem("PUBLIC KEY", public.as_ref()),
            access_header: plain_header(ACCESS_TYP, &kid),
            tracking_header: plain_header(TRACKING_TYP, &kid),
            key_id: kid,
            issuer: issuer.to_owned(),
            audience: audience.to_owned(),
        })
    }

    /// A new key: the signer (issuer and audience `swift-eats`), the private and the public PEM.
    ///
    /// # Panics
    /// When the operating system has no randomness; nothing could go on without it.
    #[must_use]
    pub fn generate() -> (Self, String, String) {
        let pair = Ed25519KeyPair::generate().expect("the system gives random bytes");
        // Version 1 of PKCS#8, which every OpenSSL reads.
        let private = pair.to_pkcs8v1().expect("a fresh key can be written");
        let private_pem = to_pem("PRIVATE KEY", private.as_ref());
        let signer = Self::from_pem(&private_pem, DEFAULT_NAME, DEFAULT_NAME)
            .expect("a fresh key can be read");
        let public_pem = signer.public_pem.clone();
        (signer, private_pem, public_pem)
    }

    /// The public key, for verifiers.
    #[must_use]
    pub fn public_pem(&self) -> &str {
        &self.public_pem
    }

    /// The id of the key, `kid` in its tokens.
    pub(super) fn key_id(&self) -> &str {
        &self.key_id
    }

    /// A verifier of access tokens that trusts this key alone.
    ///
    /// # Panics
    /// Never: the key was read when this signer was made.
    #[must_use]
    pub fn verifier(&self) -> Verifier {
        Verifier::from_pems(&[&self.public_pem], &self.issuer, &self.audience)
            .expect("the key of a signer is an Ed25519 key")
    }

    /// A verifier of tracking tokens that trusts this key alone.
    ///
    /// # Panics
    /// Never: the key was read when this signer was made.
    #[must_use]
    pub fn tracking_verifier(&self) -> TrackingVerifier {
        TrackingVerifier::from_pems(&[&self.public_pem], &self.issuer, &self.audience)
            .expect("the key of a signer is an Ed25519 key")
    }

    /// An access token that ends `ttl` from now (whole seconds).
    #[must_use]
    pub fn access(&self, role: Role, subject: i64, restaurants: &[i64], ttl: Duration) -> String {
        let iat = now_s();
        self.sign(
            &self.access_header,
            &AccessClaims {
                iss: self.issuer.clone(),
                aud: self.audience.clone(),
                sub: subject.to_string(),
                role,
                restaurants: restaurants.to_vec(),
                exp: end_s(iat, ttl),
                nbf: None,
                iat,
            },
        )
    }

    /// A token that opens the tracking of one order until `ttl` from now (whole seconds).
    #[must_use]
    pub fn tracking(&self, order_id: Uuid, customer_id: i64, ttl: Duration) -> String {
        let iat = now_s();
        self.sign(
            &self.tracking_header,
            &TrackingClaims {
                iss: self.issuer.clone(),
                aud: self.audience.clone(),
                sub: customer_id.to_string(),
                order_id,
                exp: end_s(iat, ttl),
                nbf: None,
                iat,
            },
        )
    }

    pub(super) fn sign<T: Serialize>(&self, header: &Header, claims: &T) -> String {
        // The key was checked when it was read, and these structs are always JSON.
        jsonwebtoken::encode(header, claims, &self.key).expect("a checked key signs")
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("kid", &self.key_id).finish_non_exhaustive()
    }
}

fn end_s(from_s: i64, ttl: Duration) -> i64 {
    from_s.saturating_add(i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX))
}

fn to_pem(tag: &str, der: &[u8]) -> String {
    pem::encode_config(&Pem::new(tag, der), EncodeConfig::new().set_line_ending(LineEnding::LF))
}
