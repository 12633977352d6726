use serde_json::json;

use super::*;

const PAYMENT: Uuid = Uuid::from_u128(0x018f_4e5c_0000_7000_8000_0000_0000_0001);
const ORDER: Uuid = Uuid::from_u128(0x018f_4e5c_0000_7000_8000_0000_0000_0002);

fn job(kind: Kind) -> Job {
    let (payment_id, charge) = match kind {
        Kind::Charge => (ORDER, None),
        Kind::Refund => (PAYMENT, Some("pi_1".to_owned())),
    };
    Job {
        payment_id,
        order_id: contracts::ids::OrderId(ORDER),
        kind,
        money: Money { amount: 3_308, currency: Currency::parse("USD").unwrap() },
        payment_method: "pm_card & more".to_owned(),
        charge_gateway_id: charge,
        gateway_id: None,
        created_at: chrono::Utc::now(),
        attempt: 2,
        is_last: false,
        lease: Uuid::nil(),
    }
}

/// Stripe's payment intent for `job(Kind::Charge)`, or its refund.
fn object(kind: Kind, status: &str) -> Value {
    match kind {
        Kind::Charge => json!({
            "id": "pi_1", "object": "payment_intent", "amount": 3308, "amount_received": 3308,
            "currency": "usd", "status": status, "livemode": false,
            "metadata": {"order_id": ORDER, "payment_id": ORDER},
        }),
        Kind::Refund => json!({
            "id": "re_1", "object": "refund", "amount": 3308, "currency": "usd", "status": status,
            "payment_intent": "pi_1", "metadata": {"order_id": ORDER, "payment_id": PAYMENT},
        }),
    }
}

fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    *object.pointer_mut(pointer).unwrap() = value;
    object
}

fn answer(kind: Kind, status: u16, body: &Value) -> Outcome {
    read(&job(kind), StatusCode::from_u16(status).unwrap(), body.to_string().as_bytes(), None)
}

fn declined(code: &str) -> Outcome {
    Outcome::Declined(code.to_owned())
}

fn succeeded(id: &str) -> Outcome {
    Outcome::Succeeded(id.to_owned())
}

#[test]
fn an_answer_of_success_must_be_about_this_payment() {
    use Kind::{Charge, Refund};
    let other = json!(Uuid::from_u128(9));
    assert_eq!(answer(Charge, 200, &object(Charge, "succeeded")), succeeded("pi_1"));
    assert_eq!(answer(Refund, 200, &object(Refund, "succeeded")), succeeded("re_1"));
    let charge = |pointer, value| (Charge, with(object(Charge, "succeeded"), pointer, value));
    let refund = |pointer, value| (Refund, with(object(Refund, "succeeded"), pointer, value));
    for (kind, body) in [
        charge("/metadata/payment_id", other.clone()),
        charge("/metadata/payment_id", json!(7)),
        charge("/metadata/payment_id", json!("not an id")),
        charge("/metadata", json!({})),
        charge("/metadata", json!(null)),
        charge("/amount", json!(3_309)),
        charge("/amount", json!("3308")),
        charge("/amount", json!(3308.5)),
        charge("/amount_received", json!(3_307)),
        charge("/amount_received", json!(0)),
        charge("/amount_received", json!(null)),
        charge("/currency", json!("eur")),
        charge("/currency", json!("dollars")),
        charge("/id", json!(null)),
        charge("/status", json!("Succeeded")),
        charge("/status", json!(null)),
        refund("/metadata/payment_id", other),
        refund("/payment_intent", json!("pi_2")),
        refund("/payment_intent", json!(null)),
        refund("/amount", json!(1)),
    ] {
        let outcome = answer(kind, 200, &body);
        assert!(
            matches!(&outcome, Outcome::Unknown { gateway_id: None, .. }),
            "{body} is {outcome:?}"
        );
    }
}

#[test]
fn what_needs_somebody_who_is_not_there_is_declined() {
    for status in ["requires_action", "requires_payment_method", "canceled"] {
        assert_eq!(answer(Kind::Charge, 200, &object(Kind::Charge, status)), declined(status));
    }
    for status in ["failed", "canceled"] {
        assert_eq!(answer(Kind::Refund, 200, &object(Kind::Refund, status)), declined(status));
    }
}

#[test]
fn what_is_under_way_is_unknown_and_has_a_name() {
    for (kind, status, id) in
        [(Kind::Charge, "processing", "pi_1"), (Kind::Refund, "pending", "re_1")]
    {
        let Outcome::Unknown { gateway_id, .. } = answer(kind, 200, &object(kind, status)) else {
            panic!("{status}");
        };
        assert_eq!(gateway_id.as_deref(), Some(id));
    }
    for (kind, status) in [
        (Kind::Charge, "requires_confirmation"),
        (Kind::Charge, "requires_capture"),
        (Kind::Charge, "failed"),
        (Kind::Refund, "requires_action"),
        (Kind::Charge, ""),
    ] {
        let outcome = answer(kind, 200, &object(kind, status));
        assert!(matches!(outcome, Outcome::Unknown { .. }), "{kind} {status} is {outcome:?}");
    }
}

/// Only an error that says that nothing was done ends a payment.
#[test]
fn errors_are_a_no_only_when_they_say_so() {
    let error = |kind: &str, code: &str| json!({"error": {"type": kind, "code": code}});
    let card = json!({"error": {"type": "card_error", "code": "card_declined",
        "decline_code": "insufficient_funds"}});
    assert_eq!(answer(Kind::Charge, 402, &card), declined("insufficient_funds"));
    let expired = error("card_error", "expired_card");
    assert_eq!(answer(Kind::Charge, 402, &expired), declined("expired_card"));
    let bare = json!({"error": {"type": "card_error"}});
    assert_eq!(answer(Kind::Charge, 402, &bare), declined("card_error"));
    for status in [400, 404] {
        let refused = error("invalid_request_error", "resource_missing");
        assert_eq!(answer(Kind::Refund, status, &refused), declined("resource_missing"));
    }
    for (status, body) in [
        (400, error("idempotency_error", "")),
        (400, error("api_error", "")),
        (400, json!("nonsense")),
        (401, error("invalid_request_error", "api_key_expired")),
        (402, error("api_error", "")),
        (402, json!({})),
        (403, error("invalid_request_error", "")),
        (404, json!({"message": "no route"})),
        (404, Value::Null),
        (409, error("idempotency_error", "idempotency_key_in_use")),
        (424, error("api_error", "")),
        (429, error("invalid_request_error", "rate_limit")),
        (500, error("api_error", "")),
        (500, error("card_error", "card_declined")),
        (502, json!("bad gateway")),
        (503, json!(null)),
        (201, object(Kind::Charge, "succeeded")),
        (202, object(Kind::Charge, "succeeded")),
        (204, json!(null)),
        (302, json!(null)),
    ] {
        let outcome = answer(Kind::Charge, status, &body);
        assert!(matches!(outcome, Outcome::Unknown { .. }), "{status} {body} is {outcome:?}");
    }
}

#[test]
fn nonsense_is_unknown() {
    let whole = object(Kind::Charge, "succeeded").to_string();
    let job = job(Kind::Charge);
    for end in 0..whole.len() {
        let outcome = read(&job, StatusCode::OK, &whole.as_bytes()[..end], None);
        assert!(matches!(outcome, Outcome::Unknown { .. }), "the first {end} bytes: {outcome:?}");
    }
    for body in ["<html>", "[]", "\"succeeded\"", "{}", "\u{0}", "{\"status\":\"succeeded\"}"] {
        for status in [200, 400, 402, 404, 500] {
            let status = StatusCode::from_u16(status).unwrap();
            let outcome = read(&job, status, body.as_bytes(), None);
            assert!(matches!(outcome, Outcome::Unknown { .. }), "{status} {body}: {outcome:?}");
        }
    }
    // Words of any length and kind are cut between characters.
    let long = json!({"error": {"type": "card_error", "code": "é".repeat(1_000)}});
    let Outcome::Declined(code) = answer(Kind::Charge, 402, &long) else { panic!() };
    assert_eq!(code.len(), DETAIL_MAX_BYTES);
}

#[test]
fn a_pause_that_is_asked_for_has_a_limit() {
    let response = |value: Option<&str>| {
        let mut response = http::Response::builder().status(429);
        if let Some(value) = value {
            response = response.header("retry-after", value);
        }
        Response::from(response.body("").unwrap())
    };
    for (value, seconds) in [
        (None, None),
        (Some("0"), Some(0)),
        (Some("7"), Some(7)),
        (Some("86400"), Some(60)),
        (Some("-1"), None),
        (Some("1.5"), None),
        (Some("Wed, 21 Oct 2026 07:28:00 GMT"), None),
    ] {
        let asked = retry_after(&response(value));
        assert_eq!(asked, seconds.map(Duration::from_secs), "{value:?}");
    }
    let pause = Some(Duration::from_secs(7));
    let outcome = read(&job(Kind::Charge), StatusCode::TOO_MANY_REQUESTS, b"{}", pause);
    assert!(matches!(outcome, Outcome::Unknown { retry_after, .. } if retry_after == pause));
}

/// What is sent: method, path, headers and the form.
fn sent(job: &Job) -> (Method, String, header::HeaderMap, Vec<(String, String)>) {
    let url = "https://gateway.example/";
    let gateway = Gateway::new(url, &"sk_test_secret".to_owned().into(), Duration::from_secs(1));
    let request = gateway.unwrap().order(job).build().unwrap();
    let body = request.body().and_then(reqwest::Body::as_bytes).unwrap_or_default();
    let form = std::str::from_utf8(body)
        .unwrap()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    (request.method().clone(), request.url().to_string(), request.headers().clone(), form)
}

#[test]
fn a_charge_is_asked_for_in_stripes_words() {
    let (method, url, headers, form) = sent(&job(Kind::Charge));
    assert_eq!((method, &*url), (Method::POST, "https://gateway.example/v1/payment_intents"));
    assert_eq!(headers["idempotency-key"], format!("charge:{ORDER}"));
    assert_eq!(headers["content-type"], "application/x-www-form-urlencoded");
    assert!(headers["authorization"].is_sensitive());
    let id = ORDER.to_string();
    let expected = [
        ("amount", "3308"),
        ("metadata%5Border_id%5D", &id),
        ("metadata%5Bpayment_id%5D", &id),
        ("currency", "usd"),
        ("payment_method", "pm_card+%26+more"),
        ("confirm", "true"),
        ("off_session", "true"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(form, expected);
}

#[test]
fn a_refund_names_its_charge_and_nothing_of_the_card() {
    let (method, url, headers, form) = sent(&job(Kind::Refund));
    assert_eq!((method, &*url), (Method::POST, "https://gateway.example/v1/refunds"));
    assert_eq!(headers["idempotency-key"], format!("refund:{PAYMENT}"));
    let names: Vec<&str> = form.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        ["amount", "metadata%5Border_id%5D", "metadata%5Bpayment_id%5D", "payment_intent"]
    );
    assert_eq!(form[3].1, "pi_1");
    assert_eq!(form[2].1, PAYMENT.to_string());
}

#[test]
fn all_calls_of_a_payment_have_one_key() {
    for kind in [Kind::Charge, Kind::Refund] {
        let keys: Vec<String> = (1..13)
            .map(|attempt| key(&Job { attempt, lease: Uuid::new_v4(), ..job(kind) }))
            .collect();
        assert!(keys.iter().all(|other| *other == keys[0]), "{keys:?}");
    }
}

#[test]
fn a_payment_that_has_a_name_is_asked_about_and_not_made_again() {
    let known = Job { gateway_id: Some("pi_1".to_owned()), ..job(Kind::Charge) };
    let (method, url, _, form) = sent(&known);
    assert_eq!((method, &*url), (Method::GET, "https://gateway.example/v1/payment_intents/pi_1"));
    assert_eq!(form, []);
}

#[test]
fn lines_of_the_books_are_read() {
    let line = movement(Kind::Charge, object(Kind::Charge, "succeeded")).unwrap();
    let money = Money { amount: 3_308, currency: Currency::parse("USD").unwrap() };
    assert_eq!(
        line,
        Movement {
            gateway_id: "pi_1".to_owned(),
            kind: Kind::Charge,
            payment_id: Some(ORDER),
            money,
            has_succeeded: true,
        }
    );
    let stranger = with(object(Kind::Refund, "pending"), "/metadata", json!({"shop": "other"}));
    let line = movement(Kind::Refund, stranger).unwrap();
    assert_eq!((line.payment_id, line.has_succeeded), (None, false));
    assert_eq!(movement(Kind::Charge, json!({"id": "pi_1"})), None);
}
