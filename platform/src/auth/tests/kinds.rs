//! Two kinds of token with keys of their own: rotation, files, and that neither key or token passes
//! for the other.

use super::*;

fn args(files: &[&PathBuf]) -> AuthArgs {
    AuthArgs {
        issuer: "swift-eats".to_owned(),
        audience: "swift-eats".to_owned(),
        verify_key_files: files.iter().map(|&file| file.clone()).collect(),
    }
}

#[test]
fn the_key_of_one_kind_signs_nothing_of_the_other() {
    let (access, access_pem, access_public) = Signer::generate();
    let (tracking, tracking_pem, tracking_public) = Signer::generate();
    let verifier = access.verifier();
    let tracker = tracking.tracking_verifier();
    let order_id = uuid::Uuid::now_v7();

    // As the services make them.
    for &role in Role::ALL {
        let forged = tracking.access(role, 1, &[], HOUR);
        assert_eq!(verifier.access(&forged), Err(AuthError::UnknownKey), "{role}");
    }
    let forged = access.tracking(order_id, 9, HOUR);
    assert_eq!(tracker.tracking(&forged), Err(AuthError::UnknownKey));

    // As somebody makes them who took a key and writes the header by hand.
    let access_kid = access.key_id();
    let tracking_kid = tracking.key_id();
    let key = |pem: &str| EncodingKey::from_ed_pem(pem.as_bytes()).unwrap();
    let header = |typ: &str, kid: &str| json!({"alg": "EdDSA", "typ": typ, "kid": kid}).to_string();
    let admin = changed(claims(), json!({"role": "admin"}));
    let grant = changed(claims(), json!({"order_id": order_id}));
    let sign = |typ: &str, kid: &str, claims: &str, pem: &str| {
        seal(&header(typ, kid), claims, &key(pem), Algorithm::EdDSA)
    };
    for (kid, expected) in
        [(tracking_kid, AuthError::UnknownKey), (access_kid, AuthError::BadSignature)]
    {
        let forged = sign(ACCESS_TYP, kid, &admin, &tracking_pem);
        assert_eq!(verifier.access_at(&forged, NOW_S), Err(expected));
        let forged = sign(TRACKING_TYP, kid, &admin, &tracking_pem);
        assert_eq!(verifier.access_at(&forged, NOW_S), Err(AuthError::WrongType));
    }
    for (kid, expected) in
        [(access_kid, AuthError::UnknownKey), (tracking_kid, AuthError::BadSignature)]
    {
        let forged = sign(TRACKING_TYP, kid, &grant, &access_pem);
        assert_eq!(tracker.tracking_at(&forged, NOW_S), Err(expected));
        let forged = sign(ACCESS_TYP, kid, &grant, &access_pem);
        assert_eq!(tracker.tracking_at(&forged, NOW_S), Err(AuthError::WrongType));
    }
    assert!(
        tracker
            .tracking_at(&sign(TRACKING_TYP, tracking_kid, &grant, &tracking_pem), NOW_S)
            .is_ok()
    );
    assert!(verifier.access_at(&sign(ACCESS_TYP, access_kid, &admin, &access_pem), NOW_S).is_ok());

    // A key that is given for both kinds would undo all of that.
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let access_file = write("access.pem", &access_public);
    let tracking_file = write("tracking.pem", &tracking_public);
    let load = |files: &[&PathBuf]| {
        let tracking_verify_key_files = files.iter().map(|&file| file.clone()).collect();
        let auth = args(&[&access_file]);
        TrackingVerifier::load(&TrackingArgs { tracking_verify_key_files }, &auth, &verifier)
    };
    load(&[&tracking_file]).unwrap().tracking(&tracking.tracking(order_id, 9, HOUR)).unwrap();
    assert!(load(&[&tracking_file, &access_file]).is_err());
    assert!(load(&[]).is_err());
    assert!(verifier.trusts(&access) && !verifier.trusts(&tracking));
}

#[test]
fn signed_tokens_pass_and_kinds_do_not_mix() {
    let (signer, private_pem, public_pem) = Signer::generate();
    let verifier = Verifier::from_pems(&[&public_pem], "swift-eats", "swift-eats").unwrap();
    let tracker = signer.tracking_verifier();
    let order_id = uuid::Uuid::now_v7();
    let reloaded = Signer::from_pem(&private_pem, "swift-eats", "swift-eats").unwrap();
    for signer in [signer, reloaded] {
        for &role in Role::ALL {
            let access = signer.access(role, i64::MAX, &[], HOUR);
            assert_eq!(tracker.tracking(&access), Err(AuthError::WrongType));
            let caller = verifier.access(&access).unwrap();
            assert_eq!((caller.role, caller.subject), (role, i64::MAX));
        }
        let tracking = signer.tracking(order_id, 9, Duration::from_secs(60));
        assert_eq!(verifier.access(&tracking), Err(AuthError::WrongType));
        let grant = tracker.tracking(&tracking).unwrap();
        assert_eq!((grant.order_id, grant.customer_id), (order_id, 9));
    }
}

#[test]
fn tracking_claims_are_checked_like_the_others() {
    let forge = Forge::new();
    let header = changed(forge.header(), json!({"typ": TRACKING_TYP}));
    let base = json!({
        "iss": "swift-eats", "aud": "swift-eats", "sub": "7", "exp": NOW_S + 60, "iat": NOW_S,
        "order_id": uuid::Uuid::now_v7(),
    });
    let verify = |change: Value, now_s: i64| {
        forge
            .tracking_verifier
            .tracking_at(&forge.sign(&header, &changed(base.clone(), change)), now_s)
    };
    verify(json!({}), NOW_S).unwrap();
    verify(json!({}), NOW_S + 60 + LEEWAY_S - 1).unwrap();
    assert_eq!(verify(json!({}), NOW_S + 60 + LEEWAY_S), Err(AuthError::Expired));
    for (change, expected) in [
        (json!({"order_id": null}), AuthError::BadClaims),
        (json!({"order_id": "7"}), AuthError::BadClaims),
        (json!({"sub": "x"}), AuthError::BadClaims),
        (json!({"aud": "menu"}), AuthError::WrongAudience),
        (json!({"nbf": NOW_S + 60}), AuthError::NotYetValid),
    ] {
        assert_eq!(verify(change.clone(), NOW_S), Err(expected), "{change}");
    }
}

#[test]
fn keys_rotate_without_a_gap() {
    let (old, _, old_pem) = Signer::generate();
    let (new, _, new_pem) = Signer::generate();
    let verifier = |pems: &[&str]| Verifier::from_pems(pems, "swift-eats", "swift-eats").unwrap();
    let by_old = old.access(Role::Driver, 1, &[], HOUR);
    let by_new = new.access(Role::Driver, 1, &[], HOUR);

    let before = verifier(&[&old_pem]);
    assert!(before.access(&by_old).is_ok());
    assert_eq!(before.access(&by_new), Err(AuthError::UnknownKey));
    for both in [verifier(&[&old_pem, &new_pem]), verifier(&[&new_pem, &old_pem])] {
        assert!(both.access(&by_old).is_ok());
        assert!(both.access(&by_new).is_ok());
    }
    let after = verifier(&[&new_pem]);
    assert_eq!(after.access(&by_old), Err(AuthError::UnknownKey));
    assert!(after.access(&by_new).is_ok());
}

#[test]
fn keys_are_read_from_files_and_wrong_ones_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (_, private_pem, public_pem) = Signer::generate();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (private, public) = (write("private.pem", &private_pem), write("public.pem", &public_pem));
    let args = |files: &[&PathBuf]| args(files);
    let signer = Signer::load(&private, "swift-eats", "swift-eats").unwrap();
    assert_eq!(signer.public_pem(), public_pem);
    let token = signer.access(Role::Admin, 1, &[], HOUR);
    Verifier::load(&args(&[&public])).unwrap().access(&token).unwrap();

    let other = Signer::load(&private, "swift-eats", "elsewhere").unwrap();
    let token = other.access(Role::Admin, 1, &[], HOUR);
    let verifier = Verifier::load(&args(&[&public])).unwrap();
    assert_eq!(verifier.access(&token), Err(AuthError::WrongAudience));

    let nonsense = write("nonsense.pem", "hello");
    let missing = folder.path().join("missing.pem");
    assert!(Verifier::load(&args(&[])).is_err());
    assert!(Verifier::load(&args(&[&public, &public, &public])).is_err());
    for file in [&private, &nonsense, &missing] {
        assert!(Verifier::load(&args(&[file])).is_err(), "{}", file.display());
    }
    for file in [&public, &nonsense, &missing] {
        assert!(Signer::load(file, "a", "b").is_err(), "{}", file.display());
    }
    // Nothing of the private key may reach a log.
    let secret = private_pem.lines().nth(1).unwrap();
    assert!(!format!("{signer:?} {verifier:?}").contains(&secret[..20]));
}
