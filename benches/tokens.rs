//! Access and tracking tokens of one fixed key: the same bytes at every run, as the cost of a
//! signature check depends on them.

use aws_lc_rs::{
    digest,
    encoding::AsDer as _,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use pem::Pem;
use platform::auth::{ACCESS_TYP, TRACKING_TYP, TrackingVerifier, Verifier};
use serde_json::{Value, json};

const NAME: &str = "swift-eats";
/// 2286: no benchmark runs that long.
const EXPIRES_AT_S: i64 = 9_999_999_999;

/// Signs with a key that everybody knows.
#[derive(Debug)]
pub struct Tokens {
    key: EncodingKey,
    key_id: String,
    public: Vec<u8>,
    public_pem: String,
}

impl Default for Tokens {
    fn default() -> Self {
        Self::new()
    }
}

impl Tokens {
    /// The key.
    ///
    /// # Panics
    /// Never: the seed has the length of one.
    pub fn new() -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("32 bytes are a seed");
        let private = pair.to_pkcs8v1().expect("a key can be written");
        let public = pair.public_key();
        let der = public.as_der().expect("a key can be written");
        let public_pem = pem::encode(&Pem::new("PUBLIC KEY", der.as_ref()));
        let public = public.as_ref().to_vec();
        let hash = digest::digest(&digest::SHA256, &public);
        let key_id = hash.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        Self { key: EncodingKey::from_ed_der(private.as_ref()), key_id, public, public_pem }
    }

    /// A verifier that trusts the key.
    ///
    /// # Panics
    /// Never: the key was just written.
    pub fn verifier(&self) -> Verifier {
        Verifier::from_pems(&[&self.public_pem], NAME, NAME).expect("a public key")
    }

    /// A verifier of tracking tokens that trusts the key.
    ///
    /// # Panics
    /// Never: the key was just written.
    pub fn tracking_verifier(&self) -> TrackingVerifier {
        TrackingVerifier::from_pems(&[&self.public_pem], NAME, NAME).expect("a public key")
    }

    /// The 32 bytes of the public key.
    pub fn public_key(&self) -> &[u8] {
        &self.public
    }

    /// A driver's access token.
    pub fn access(&self, driver_id: i64) -> String {
        let own = json!({"role": "driver"});
        self.sign(ACCESS_TYP, driver_id, own)
    }

    /// A token that opens the tracking of one order; verified anew whenever it is shown.
    pub fn tracking(&self, customer_id: i64) -> String {
        let own = json!({"order_id": "0198c7a2-7d4e-7c3a-9f52-3b1f6f0a9d11"});
        self.sign(TRACKING_TYP, customer_id, own)
    }

    fn sign(&self, typ: &str, subject: i64, mut claims: Value) -> String {
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some(typ.to_owned());
        header.kid = Some(self.key_id.clone());
        claims["iss"] = NAME.into();
        claims["aud"] = NAME.into();
        claims["sub"] = subject.to_string().into();
        claims["iat"] = 1_800_000_000_i64.into();
        claims["exp"] = EXPIRES_AT_S.into();
        jsonwebtoken::encode(&header, &claims, &self.key).expect("a key signs")
    }
}
