//! Good tokens pass; each of a corpus of bad ones is refused, and for the expected reason.

mod kinds;

use super::*;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use serde_json::{Value, json};
use std::time::Duration;

const NOW_S: i64 = 1_800_000_000;
const HOUR: Duration = Duration::from_secs(3600);

/// Our key, and somebody else's.
struct Forge {
    kid: String,
    key: EncodingKey,
    public_pem: String,
    stranger: EncodingKey,
    stranger_kid: String,
    verifier: Verifier,
    /// Of tracking tokens that this very key signs.
    tracking_verifier: TrackingVerifier,
}

impl Forge {
    fn new() -> Self {
        let (signer, private_pem, public_pem) = Signer::generate();
        let (stranger, stranger_pem, _) = Signer::generate();
        Self {
            kid: signer.key_id().to_owned(),
            key: EncodingKey::from_ed_pem(private_pem.as_bytes()).unwrap(),
            public_pem,
            stranger: EncodingKey::from_ed_pem(stranger_pem.as_bytes()).unwrap(),
            stranger_kid: stranger.key_id().to_owned(),
            verifier: signer.verifier(),
            tracking_verifier: signer.tracking_verifier(),
        }
    }

    fn header(&self) -> Value {
        json!({"alg": "EdDSA", "typ": "at+jwt", "kid": self.kid})
    }

    fn sign(&self, header: &str, claims: &str) -> String {
        seal(header, claims, &self.key, Algorithm::EdDSA)
    }

    /// A good access token but for `change`; null takes a claim away.
    fn with_claims(&self, change: Value) -> String {
        self.sign(&self.header().to_string(), &changed(claims(), change))
    }

    fn with_header(&self, change: Value) -> String {
        self.sign(&changed(self.header(), change), &claims().to_string())
    }
}

fn claims() -> Value {
    json!({
        "iss": "swift-eats", "aud": "swift-eats", "sub": "7", "role": "driver",
        "exp": NOW_S + 60, "iat": NOW_S - 60,
    })
}

#[allow(clippy::needless_pass_by_value, reason = "callers write json! in place")]
fn changed(mut base: Value, change: Value) -> String {
    for (key, value) in change.as_object().unwrap() {
        if value.is_null() {
            base.as_object_mut().unwrap().remove(key);
        } else {
            base[key] = value.clone();
        }
    }
    base.to_string()
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn seal(header: &str, claims: &str, key: &EncodingKey, algorithm: Algorithm) -> String {
    let message = format!("{}.{}", b64(header), b64(claims));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

fn parts(token: &str) -> [String; 3] {
    let mut parts = token.split('.').map(str::to_owned);
    std::array::from_fn(|_| parts.next().unwrap())
}

fn bad_tokens(f: &Forge) -> Vec<(&'static str, String, AuthError)> {
    use AuthError::{
        BadClaims, BadSignature, Expired, Malformed, NotYetValid, UnknownKey, WrongAlgorithm,
        WrongAudience, WrongType,
    };
    let good = f.with_claims(json!({}));
    let [head, body, signature] = parts(&good);
    let text = f.header().to_string();
    let plain = claims().to_string();
    let hmac = |secret: &[u8], alg: Algorithm, name: &str| {
        let key = EncodingKey::from_secret(secret);
        seal(&changed(f.header(), json!({"alg": name})), &plain, &key, alg)
    };
    let raw_public = DecodingKey::from_ed_pem(f.public_pem.as_bytes()).unwrap();
    let raw_public = raw_public.try_get_as_bytes().unwrap();
    let unsigned = |alg: &str| format!("{}.{body}.", b64(changed(f.header(), json!({"alg": alg}))));
    let mut flipped = URL_SAFE_NO_PAD.decode(&signature).unwrap();
    flipped[10] ^= 1;
    let twice = |name: &str, value: &str| format!("{{\"{name}\":{value},{}", &plain[1..]);
    let tracking = json!({"typ": TRACKING_TYP});

    vec![
        // Not a token at all.
        ("empty", String::new(), Malformed),
        ("one part", head.clone(), Malformed),
        ("two parts", format!("{head}.{body}"), Malformed),
        ("four parts", format!("{good}.{signature}"), Malformed),
        ("only dots", "..".into(), Malformed),
        ("words", "not a token".into(), Malformed),
        ("a blank before it", format!(" {good}"), Malformed),
        ("a line end after it", format!("{good}\n"), Malformed),
        ("padding", format!("{head}=.{body}.{signature}"), Malformed),
        ("standard base64", format!("{}.{body}.{signature}", STANDARD.encode(&text)), Malformed),
        (
            "padded base64url",
            {
                let padded = URL_SAFE.encode(format!("{text} "));
                assert!(padded.ends_with('='), "the case needs padding: {padded}");
                format!("{padded}.{body}.{signature}")
            },
            Malformed,
        ),
        ("header not JSON", f.sign("alg=EdDSA", &plain), Malformed),
        ("header not an object", f.sign("[]", &plain), Malformed),
        ("header without alg", f.with_header(json!({"alg": null})), Malformed),
        ("too long", f.with_claims(json!({"x": "x".repeat(5000)})), Malformed),
        // Other algorithms.
        ("alg none", unsigned("none"), Malformed),
        ("alg None", unsigned("None"), Malformed),
        ("alg nOnE with our signature", f.with_header(json!({"alg": "nOnE"})), Malformed),
        (
            "HS256 with the public PEM",
            hmac(f.public_pem.as_bytes(), Algorithm::HS256, "HS256"),
            WrongAlgorithm,
        ),
        (
            "HS256 with the trimmed PEM",
            hmac(f.public_pem.trim().as_bytes(), Algorithm::HS256, "HS256"),
            WrongAlgorithm,
        ),
        (
            "HS256 with the raw public key",
            hmac(raw_public, Algorithm::HS256, "HS256"),
            WrongAlgorithm,
        ),
        (
            "HS512 with the raw public key",
            hmac(raw_public, Algorithm::HS512, "HS512"),
            WrongAlgorithm,
        ),
        ("HS256 with an empty secret", hmac(b"", Algorithm::HS256, "HS256"), WrongAlgorithm),
        ("HMAC called EdDSA", hmac(raw_public, Algorithm::HS256, "EdDSA"), BadSignature),
        ("RS256 by name", f.with_header(json!({"alg": "RS256"})), WrongAlgorithm),
        ("ES256 by name", f.with_header(json!({"alg": "ES256"})), WrongAlgorithm),
        ("alg in small letters", f.with_header(json!({"alg": "eddsa"})), Malformed),
        ("alg twice", f.sign(&format!("{{\"alg\":\"none\",{}", &text[1..]), &plain), Malformed),
        // Keys.
        ("no kid", f.with_header(json!({"kid": null})), UnknownKey),
        ("empty kid", f.with_header(json!({"kid": ""})), UnknownKey),
        (
            "a stranger's kid and key",
            seal(
                &changed(f.header(), json!({"kid": f.stranger_kid})),
                &plain,
                &f.stranger,
                Algorithm::EdDSA,
            ),
            UnknownKey,
        ),
        (
            "our kid, a stranger's key",
            seal(&text, &plain, &f.stranger, Algorithm::EdDSA),
            BadSignature,
        ),
        (
            "kid with a blank after it",
            f.with_header(json!({"kid": format!("{} ", f.kid)})),
            UnknownKey,
        ),
        ("kid is a path", f.with_header(json!({"kid": "../../../../dev/null"})), UnknownKey),
        ("kid is SQL", f.with_header(json!({"kid": "x' UNION SELECT 'key"})), UnknownKey),
        ("kid with a NUL", f.with_header(json!({"kid": format!("{}\0", f.kid)})), UnknownKey),
        ("kid is a number", f.with_header(json!({"kid": 1})), Malformed),
        ("kid is a list", f.with_header(json!({"kid": [f.kid]})), Malformed),
        ("kid twice", f.sign(&format!("{{\"kid\":\"x\",{}", &text[1..]), &plain), Malformed),
        (
            "brings its own key",
            seal(
                &changed(
                    f.header(),
                    json!({"jwk": {"kty": "OKP", "crv": "Ed25519", "x": b64([1; 32])}}),
                ),
                &plain,
                &f.stranger,
                Algorithm::EdDSA,
            ),
            Malformed,
        ),
        (
            "points to its own keys",
            f.with_header(json!({"jku": "https://keys.example/k"})),
            Malformed,
        ),
        (
            "points to a certificate",
            f.with_header(json!({"x5u": "https://keys.example/c"})),
            Malformed,
        ),
        ("crit", f.with_header(json!({"crit": ["exp"]})), Malformed),
        ("unencoded payload", f.with_header(json!({"b64": false, "crit": ["b64"]})), Malformed),
        ("an unknown header", f.with_header(json!({"hello": 1})), Malformed),
        // Signatures.
        ("no signature", format!("{head}.{body}."), BadSignature),
        ("one bit of it", format!("{head}.{body}.{}", b64(&flipped)), BadSignature),
        ("half of it", format!("{head}.{body}.{}", &signature[..40]), BadSignature),
        ("zeros", format!("{head}.{body}.{}", b64([0; 64])), BadSignature),
        (
            "other claims under it",
            format!("{head}.{}.{signature}", b64(changed(claims(), json!({"role": "admin"})))),
            BadSignature,
        ),
        (
            "another spelling of the claims",
            format!("{head}.{}.{signature}", b64(format!("{plain} "))),
            BadSignature,
        ),
        // Kind.
        ("no typ", f.with_header(json!({"typ": null})), WrongType),
        ("typ JWT", f.with_header(json!({"typ": "JWT"})), WrongType),
        ("typ in capitals", f.with_header(json!({"typ": "AT+JWT"})), WrongType),
        ("a refresh token", f.with_header(json!({"typ": "rt+jwt"})), WrongType),
        ("a tracking header on access claims", f.with_header(tracking), WrongType),
        // Issuer and audience.
        ("no iss", f.with_claims(json!({"iss": null})), BadClaims),
        ("another iss", f.with_claims(json!({"iss": "swift-eats.example"})), WrongAudience),
        ("iss in capitals", f.with_claims(json!({"iss": "Swift-Eats"})), WrongAudience),
        ("a list of iss", f.with_claims(json!({"iss": ["swift-eats"]})), BadClaims),
        ("no aud", f.with_claims(json!({"aud": null})), BadClaims),
        ("another aud", f.with_claims(json!({"aud": "accounts"})), WrongAudience),
        ("a list of aud", f.with_claims(json!({"aud": ["x", "swift-eats"]})), BadClaims),
        ("aud twice", f.sign(&text, &twice("aud", "\"accounts\"")), BadClaims),
        // Times.
        ("no exp", f.with_claims(json!({"exp": null})), BadClaims),
        ("expired at the edge", f.with_claims(json!({"exp": NOW_S - LEEWAY_S})), Expired),
        ("expired long ago", f.with_claims(json!({"exp": 1})), Expired),
        ("exp zero", f.with_claims(json!({"exp": 0})), Expired),
        ("exp negative", f.with_claims(json!({"exp": -1})), BadClaims),
        ("exp the least number", f.with_claims(json!({"exp": i64::MIN})), BadClaims),
        ("exp over 64 bits", f.with_claims(json!({"exp": u64::MAX})), BadClaims),
        ("exp as text", f.with_claims(json!({"exp": (NOW_S + 60).to_string()})), BadClaims),
        ("exp with a fraction", f.with_claims(json!({"exp": NOW_S as f64 + 60.5})), BadClaims),
        ("exp twice, late first", f.sign(&text, &twice("exp", "9999999999")), BadClaims),
        ("not yet", f.with_claims(json!({"nbf": NOW_S + LEEWAY_S + 1})), NotYetValid),
        ("nbf as text", f.with_claims(json!({"nbf": "0"})), BadClaims),
        // Whose.
        ("no sub", f.with_claims(json!({"sub": null})), BadClaims),
        ("sub as number", f.with_claims(json!({"sub": 7})), BadClaims),
        ("sub zero", f.with_claims(json!({"sub": "0"})), BadClaims),
        ("sub negative", f.with_claims(json!({"sub": "-7"})), BadClaims),
        ("sub with a plus", f.with_claims(json!({"sub": "+7"})), BadClaims),
        ("sub with a zero before it", f.with_claims(json!({"sub": "07"})), BadClaims),
        ("sub with a blank", f.with_claims(json!({"sub": "7 "})), BadClaims),
        ("sub over 63 bits", f.with_claims(json!({"sub": "9223372036854775808"})), BadClaims),
        ("sub in other digits", f.with_claims(json!({"sub": "٧"})), BadClaims),
        ("sub twice", f.sign(&text, &twice("sub", "\"8\"")), BadClaims),
        ("no role", f.with_claims(json!({"role": null})), BadClaims),
        ("an unknown role", f.with_claims(json!({"role": "root"})), BadClaims),
        ("role in capitals", f.with_claims(json!({"role": "Admin"})), BadClaims),
        ("a list of roles", f.with_claims(json!({"role": ["driver", "admin"]})), BadClaims),
        ("role twice", f.sign(&text, &twice("role", "\"admin\"")), BadClaims),
        ("a restaurant zero", f.with_claims(json!({"restaurants": [0]})), BadClaims),
        ("claims not JSON", f.sign(&text, "sub=7"), BadClaims),
        ("claims a list", f.sign(&text, "[]"), BadClaims),
        ("no claims", f.sign(&text, ""), BadClaims),
        (
            "claims not UTF-8",
            {
                let message = format!("{head}.{}", b64(b"{\"sub\":\"\xff\"}"));
                let signed =
                    jsonwebtoken::crypto::sign(message.as_bytes(), &f.key, Algorithm::EdDSA);
                format!("{message}.{}", signed.unwrap())
            },
            BadClaims,
        ),
    ]
}

#[test]
fn the_corpus_is_refused() {
    let forge = Forge::new();
    let corpus = bad_tokens(&forge);
    assert!(corpus.len() >= 40, "{}", corpus.len());
    let mut wrong = Vec::new();
    for (name, token, expected) in corpus {
        // Twice: what was refused must not have been remembered as good.
        for _ in 0..2 {
            let got = forge.verifier.access_at(&token, NOW_S);
            if got != Err(expected) {
                wrong.push(format!("{name}: {got:?}, not {expected:?}"));
            }
        }
        let tracking = forge.tracking_verifier.tracking_at(&token, NOW_S);
        assert!(tracking.is_err(), "{name} as tracking token");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(forge.verifier.0.cache.len(), 0);
}

#[test]
fn a_good_token_passes() {
    let forge = Forge::new();
    let token = forge.with_claims(json!({
        "role": "operator", "restaurants": [3, 5], "nbf": NOW_S + LEEWAY_S, "jti": "unknown to us",
    }));
    let caller = forge.verifier.access_at(&token, NOW_S).unwrap();
    let expected = Caller {
        role: Role::Operator,
        subject: 7,
        restaurants: [3, 5].into(),
        expires_at: NOW_S + 60,
    };
    assert_eq!(*caller, expected);
    let again = forge.verifier.access_at(&token, NOW_S).unwrap();
    assert!(Arc::ptr_eq(&caller, &again), "the second time it comes from the cache");
}

#[test]
fn the_cache_honours_expiry() {
    let forge = Forge::new();
    let token = forge.with_claims(json!({}));
    let last_s = NOW_S + 60 + LEEWAY_S - 1;
    for now_s in [NOW_S, NOW_S + 60, last_s] {
        forge.verifier.access_at(&token, now_s).unwrap();
        assert_eq!(forge.verifier.0.cache.len(), 1);
    }
    assert_eq!(forge.verifier.access_at(&token, last_s + 1), Err(AuthError::Expired));
    assert_eq!(forge.verifier.0.cache.len(), 0);
}

#[test]
fn the_cache_is_bounded_and_lets_the_expired_go_first() {
    let cache = TokenCache::new(160);
    let caller = |expires_at| {
        Arc::new(Caller { role: Role::Driver, subject: 1, restaurants: [].into(), expires_at })
    };
    // Tokens differ in their ends, as signatures do.
    let token = |i: u64| format!("token.{:016x}", i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    for i in 0..100 {
        cache.insert(&token(i), &caller(NOW_S + 1000), NOW_S);
    }
    for i in 1000..3000 {
        cache.insert(&token(i), &caller(NOW_S - 1000), NOW_S);
        assert!(cache.len() <= 160);
    }
    let kept = (0..100).filter(|&i| cache.get(&token(i)).is_some()).count();
    // A shard of ten that many live ones fell into lets some of them go.
    assert!(kept >= 80, "{kept} of 100 live tokens kept while 2,000 expired ones came in");
    for i in 5000..9000 {
        cache.insert(&token(i), &caller(NOW_S + 1000), NOW_S);
        assert!(cache.get(&token(i)).is_some(), "the newest is always kept");
        assert!(cache.len() <= 160);
    }
    assert!(cache.len() > 100, "{} of 160 after an overflow of live tokens", cache.len());
}

#[test]
#[ignore = "a measurement: cargo test --release -p platform -- --ignored --nocapture cache_hit"]
#[allow(clippy::print_stdout)]
fn cache_hit_cost() {
    let (signer, _, _) = Signer::generate();
    let verifier = signer.verifier();
    let tokens: Vec<String> =
        (1..=10_000).map(|id| signer.access(Role::Driver, id, &[], HOUR)).collect();
    let timed = |name: &str, rounds: usize| {
        let start = std::time::Instant::now();
        for _ in 0..rounds {
            for token in &tokens {
                std::hint::black_box(verifier.access(token).unwrap());
            }
        }
        let each = start.elapsed().as_nanos() as f64 / (rounds * tokens.len()) as f64;
        println!("{name}: {each:.0} ns");
    };
    timed("first use", 1);
    timed("cache hit, 10,000 tokens", 100);
}
