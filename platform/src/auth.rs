//! Who calls: JSON Web Tokens signed with Ed25519, and nothing else.
//!
//! - One algorithm (`EdDSA`), chosen by us and never by the token; `kid` picks one of the one or
//!   two public keys we were started with, so that a key can be rotated without a gap.
//! - `typ` tells an access token (`at+jwt`) from a tracking grant (`track+jwt`): neither passes for
//!   the other. A header that carries anything besides `alg`, `typ` and `kid` is refused.
//! - Each kind has keys of its own ([`Verifier`], [`TrackingVerifier`]): who holds the key that
//!   signs tracking tokens cannot make access tokens.
//! - `iss`, `aud` and `exp` are required; clocks may differ by [`LEEWAY_S`].
//! - A verified access token is remembered in full (never by a hash alone), because a signature
//!   check costs some 50 µs and a driver sends the same token with every fix. Its expiry is
//!   checked again at each use. Refused tokens are not remembered.

mod cache;
mod keys;
mod signer;
mod tracking;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::FromRequestParts;
use http::request::Parts;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::problem::Problem;
use cache::TokenCache;
use keys::Keys;
pub use signer::Signer;
pub use tracking::{TrackingArgs, TrackingGrant, TrackingVerifier};

/// How far the issuer's clock may be from ours.
pub const LEEWAY_S: i64 = 5;

/// `typ` of an access token (RFC 9068).
pub const ACCESS_TYP: &str = "at+jwt";

/// `typ` of a token that only opens the tracking of one order.
pub const TRACKING_TYP: &str = "track+jwt";

/// Tokens that the cache keeps at most.
const CACHED_TOKENS_MAX: usize = 100_000;

/// What a caller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Orders food.
    Customer,
    /// Delivers it.
    Driver,
    /// Runs the restaurants that the token names.
    Operator,
    /// May do everything.
    Admin,
    /// Another service, such as one that gives orders to drivers.
    Service,
    /// A fleet's gateway: sends positions of its drivers, and nothing else.
    Fleet,
}

impl Role {
    /// Every role.
    pub const ALL: &'static [Self] =
        &[Self::Customer, Self::Driver, Self::Operator, Self::Admin, Self::Service, Self::Fleet];

    /// The name in a token.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Driver => "driver",
            Self::Operator => "operator",
            Self::Admin => "admin",
            Self::Service => "service",
            Self::Fleet => "fleet",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Role {
    type Err = UnknownRole;

    fn from_str(name: &str) -> Result<Self, UnknownRole> {
        Self::ALL.iter().copied().find(|role| role.as_str() == name).ok_or(UnknownRole)
    }
}

/// A role that does not exist.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a role is one of customer, driver, operator, admin, service, fleet")]
pub struct UnknownRole;

/// A caller whose access token is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// What the caller is.
    pub role: Role,
    /// Which one: the customer's, driver's or other id, always positive.
    pub subject: i64,
    /// The restaurants of an operator.
    pub restaurants: Box<[i64]>,
    /// End of the token, Unix seconds.
    pub expires_at: i64,
}

impl Caller {
    /// Role and id, such as `customer:7`: who did it, in a history or the scope of a key.
    #[must_use]
    pub fn actor(&self) -> String {
        format!("{}:{}", self.role, self.subject)
    }
}

/// The caller, for handlers; [`AccessTable::protect`](crate::access::AccessTable::protect) puts it
/// there. On a route for anyone there is no caller, and asking for one answers 401.
#[derive(Clone, Debug)]
pub struct Auth(pub Arc<Caller>);

impl<S: Send + Sync> FromRequestParts<S> for Auth {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        match parts.extensions.get::<Arc<Caller>>() {
            Some(caller) => Ok(Self(caller.clone())),
            None => Err(AuthError::Missing.into()),
        }
    }
}

/// Why a token was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// There is none.
    #[error("no access token was sent")]
    Missing,
    /// Not three base64url parts of JSON, too long, or a header with more than we know.
    #[error("the token is malformed")]
    Malformed,
    /// Another algorithm than EdDSA.
    #[error("the token is signed in a way we do not take")]
    WrongAlgorithm,
    /// An access token where a tracking token is wanted, or the other way round.
    #[error("the token is of another kind")]
    WrongType,
    /// No `kid`, or one that is not ours.
    #[error("the token is signed with a key we do not know")]
    UnknownKey,
    /// Changed, or signed by somebody else.
    #[error("the token's signature is wrong")]
    BadSignature,
    /// `iss` or `aud` is not ours.
    #[error("the token was made for somebody else")]
    WrongAudience,
    /// A claim is missing, twice there, or not what it has to be.
    #[error("the token's claims are not valid")]
    BadClaims,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `nbf` is still to come.
    #[error("the token is not valid yet")]
    NotYetValid,
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        // Enough to fix an honest mistake. Nothing of it helps a forger: keys are public, and what
        // a token says of itself its holder can read.
        Problem::unauthorized(match error {
            AuthError::Missing => "Send `Authorization: Bearer <token>`.",
            AuthError::Expired => "The token has expired.",
            AuthError::NotYetValid => "The token is not valid yet.",
            AuthError::UnknownKey => "The token is signed by an unknown key.",
            AuthError::WrongAudience => "The token has another issuer or audience.",
            AuthError::WrongType => "The token is not an access token.",
            _ => "The token is not valid.",
        })
    }
}

/// Which tokens to trust.
#[derive(clap::Args, Clone, Debug)]
pub struct AuthArgs {
    /// Issuer that a token must name in `iss`
    #[arg(long = "auth-issuer", env = "AUTH_ISSUER", default_value = "swift-eats")]
    pub issuer: String,
    /// Audience that a token must name in `aud`
    #[arg(long = "auth-audience", env = "AUTH_AUDIENCE", default_value = "swift-eats")]
    pub audience: String,
    /// Ed25519 public keys of access tokens (PEM files, separated by commas): one, or two while
    /// keys are rotated
    #[arg(
        long = "auth-verify-key-files",
        env = "AUTH_VERIFY_KEY_FILES",
        value_delimiter = ',',
        required = true
    )]
    pub verify_key_files: Vec<PathBuf>,
}

/// Checks access tokens. Cheap to clone: every clone shares keys and cache.
#[derive(Clone)]
pub struct Verifier(Arc<Inner>);

struct Inner {
    keys: Keys,
    cache: TokenCache,
}

/// The claims. Unknown ones are ignored, as RFC 7519 wants; a claim that is there twice is refused
/// by the derived code.
#[derive(Serialize, Deserialize)]
struct AccessClaims {
    iss: String,
    aud: String,
    sub: String,
    role: Role,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    restaurants: Vec<i64>,
    exp: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<i64>,
    iat: i64,
}

impl Verifier {
    /// Reads the public keys.
    ///
    /// # Errors
    /// When there is none, more than two, or one that is not an Ed25519 public key.
    pub fn load(args: &AuthArgs) -> anyhow::Result<Self> {
        Ok(Self::of(Keys::load(ACCESS_TYP, &args.verify_key_files, args)?))
    }

    /// The same from PEM texts.
    ///
    /// # Errors
    /// As [`Verifier::load`].
    pub fn from_pems(pems: &[&str], issuer: &str, audience: &str) -> anyhow::Result<Self> {
        Ok(Self::of(Keys::from_pems(ACCESS_TYP, pems, issuer, audience)?))
    }

    fn of(keys: Keys) -> Self {
        Self(Arc::new(Inner { keys, cache: TokenCache::new(CACHED_TOKENS_MAX) }))
    }

    /// The caller behind an access token.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn access(&self, token: &str) -> Result<Arc<Caller>, AuthError> {
        self.access_at(token, now_s())
    }

    /// Returns whether `signer` could make access tokens that this verifier accepts.
    #[must_use]
    pub fn trusts(&self, signer: &Signer) -> bool {
        self.0.keys.has(signer.key_id())
    }

    fn access_at(&self, token: &str, now_s: i64) -> Result<Arc<Caller>, AuthError> {
        if let Some(caller) = self.0.cache.get(token) {
            if is_over(caller.expires_at, now_s) {
                self.0.cache.remove(token);
                return Err(AuthError::Expired);
            }
            return Ok(caller);
        }
        let claims: AccessClaims = self.0.keys.claims(token)?;
        check_times(claims.exp, claims.nbf, now_s)?;
        if claims.restaurants.iter().any(|&id| id < 1) {
            return Err(AuthError::BadClaims);
        }
        let caller = Arc::new(Caller {
            role: claims.role,
            subject: subject(&claims.sub)?,
            restaurants: claims.restaurants.into(),
            expires_at: claims.exp,
        });
        self.0.cache.insert(token, &caller, now_s);
        Ok(caller)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("keys", &self.0.keys).finish_non_exhaustive()
    }
}

/// A positive integer, written in the one way there is.
fn subject(sub: &str) -> Result<i64, AuthError> {
    if !matches!(sub.as_bytes(), [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit)) {
        return Err(AuthError::BadClaims);
    }
    sub.parse().map_err(|_| AuthError::BadClaims)
}

fn check_times(exp: i64, nbf: Option<i64>, now_s: i64) -> Result<(), AuthError> {
    if is_over(exp, now_s) {
        return Err(AuthError::Expired);
    }
    match nbf {
        Some(nbf) if nbf > now_s.saturating_add(LEEWAY_S) => Err(AuthError::NotYetValid),
        _ => Ok(()),
    }
}

/// RFC 7519: not on or after `exp`; we allow the leeway on top.
fn is_over(exp: i64, now_s: i64) -> bool {
    now_s >= exp.saturating_add(LEEWAY_S)
}

fn now_s() -> i64 {
    // A clock before 1970 refuses nothing but lets `nbf` say no; it does not panic.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

#[cfg(test)]
mod tests;
