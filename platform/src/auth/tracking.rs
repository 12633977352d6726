//! Tracking tokens: each opens the tracking of one order, and is signed by a key of its own kind.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::keys::Keys;
use super::{AuthArgs, AuthError, TRACKING_TYP, Verifier, check_times, now_s, subject};

/// Which tracking tokens to trust.
#[derive(clap::Args, Clone, Debug)]
pub struct TrackingArgs {
    /// Ed25519 public keys of tracking tokens (PEM files, separated by commas): one, or two while
    /// keys are rotated. None of them may be a key of access tokens
    #[arg(
        long = "auth-tracking-verify-key-files",
        env = "AUTH_TRACKING_VERIFY_KEY_FILES",
        value_delimiter = ',',
        required = true
    )]
    pub tracking_verify_key_files: Vec<PathBuf>,
}

/// The claim of a tracking token: it allows to follow one order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackingGrant {
    /// That order.
    pub order_id: Uuid,
    /// Whose order it is.
    pub customer_id: i64,
    /// Until when it may be used to subscribe, Unix seconds.
    pub expires_at: i64,
}

#[derive(Serialize, Deserialize)]
pub(super) struct TrackingClaims {
    pub(super) iss: String,
    pub(super) aud: String,
    pub(super) sub: String,
    pub(super) order_id: Uuid,
    pub(super) exp: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) nbf: Option<i64>,
    pub(super) iat: i64,
}

/// Checks tracking tokens. Cheap to clone: every clone shares the keys.
#[derive(Clone)]
pub struct TrackingVerifier(Arc<Keys>);

impl TrackingVerifier {
    /// Reads the public keys.
    ///
    /// # Errors
    /// When there is none, more than two, one that is not an Ed25519 public key, or one that
    /// `access` trusts too.
    pub fn load(args: &TrackingArgs, auth: &AuthArgs, access: &Verifier) -> anyhow::Result<Self> {
        let keys = Keys::load(TRACKING_TYP, &args.tracking_verify_key_files, auth)?;
        anyhow::ensure!(
            !keys.overlap(&access.0.keys),
            "a key of tracking tokens is also a key of access tokens: whoever signs the one could \
             sign the other"
        );
        Ok(Self(Arc::new(keys)))
    }

    /// The same from PEM texts.
    ///
    /// # Errors
    /// When there is none, more than two, or one that is not an Ed25519 public key.
    pub fn from_pems(pems: &[&str], issuer: &str, audience: &str) -> anyhow::Result<Self> {
        Ok(Self(Arc::new(Keys::from_pems(TRACKING_TYP, pems, issuer, audience)?)))
    }

    /// The grant of a tracking token.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn tracking(&self, token: &str) -> Result<TrackingGrant, AuthError> {
        self.tracking_at(token, now_s())
    }

    pub(super) fn tracking_at(&self, token: &str, now_s: i64) -> Result<TrackingGrant, AuthError> {
        let claims: TrackingClaims = self.0.claims(token)?;
        check_times(claims.exp, claims.nbf, now_s)?;
        Ok(TrackingGrant {
            order_id: claims.order_id,
            customer_id: subject(&claims.sub)?,
            expires_at: claims.exp,
        })
    }
}

impl fmt::Debug for TrackingVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrackingVerifier").field("keys", &self.0).finish()
    }
}
