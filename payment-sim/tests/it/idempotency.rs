//! One key, one effect.

use std::pin::pin;

use futures_util::future::{join_all, select};

use crate::world::{Sim, payment};

const INTENTS: &str = "/v1/payment_intents";

#[tokio::test]
async fn the_same_request_gets_the_same_answer() {
    let sim = Sim::start(&[]).await;
    let first = sim.charge("a", "k").await;
    let intent = first.ok();
    assert!(intent["id"].as_str().unwrap().starts_with("pi_"));
    assert!(intent["latest_charge"].as_str().unwrap().starts_with("ch_"));
    assert_eq!(intent["object"], "payment_intent");
    assert_eq!(intent["status"], "succeeded");
    assert_eq!((&intent["amount"], &intent["amount_received"]), (&1250.into(), &1250.into()));
    assert_eq!(intent["metadata"]["order_id"], "a");
    assert!(intent["last_payment_error"].is_null() && intent["livemode"] == false);
    assert!(!first.is_replay());

    let second = sim.charge("a", "k").await;
    assert_eq!((second.status, &second.body), (first.status, &first.body));
    assert!(second.is_replay());
    let reordered = "confirm=true&payment_method=pm_card_visa&metadata%5Bpayment_id%5D=7\
                     &off_session=true&metadata[order_id]=a&currency=inr&amount=1250";
    assert_eq!(sim.post(INTENTS, "k", reordered).await.body, first.body);
    assert_eq!(sim.summary().await["intents"], 1);
    let stats = sim.stats().await;
    assert_eq!((&stats["executed"], &stats["replays"]), (&1.into(), &2.into()));
}

#[tokio::test]
async fn a_decline_is_a_result_too() {
    let sim = Sim::start(&[]).await;
    let form = payment("a").replace("pm_card_visa", "pm_card_visa_chargeDeclinedInsufficientFunds");
    let first = sim.post(INTENTS, "k", &form).await;
    let error = first.error(402);
    assert_eq!(error["type"], "card_error");
    assert_eq!(error["code"], "card_declined");
    assert_eq!(error["decline_code"], "insufficient_funds");
    let intent = &error["payment_intent"];
    assert_eq!(intent["status"], "requires_payment_method");
    assert_eq!((&intent["amount"], &intent["amount_received"]), (&1250.into(), &0.into()));
    assert_eq!(intent["last_payment_error"]["decline_code"], "insufficient_funds");
    let second = sim.post(INTENTS, "k", &form).await;
    assert_eq!((second.status, second.is_replay(), &second.body), (402, true, &first.body));
    let summary = sim.summary().await;
    assert_eq!((&summary["captured"], &summary["declined"]), (&0.into(), &1.into()));
}

#[tokio::test]
async fn a_key_is_bound_to_its_parameters_and_its_path() {
    let sim = Sim::start(&[]).await;
    let intent = sim.charge("a", "k").await.ok();
    let error = sim.charge("b", "k").await.error(400);
    assert_eq!(error["type"], "idempotency_error");
    let refund = format!("payment_intent={}", intent["id"].as_str().unwrap());
    assert_eq!(sim.post("/v1/refunds", "k", &refund).await.error(400)["type"], "idempotency_error");
    let summary = sim.summary().await;
    assert_eq!((&summary["intents"], &summary["refunds"]), (&1.into(), &0.into()));
}

#[tokio::test]
async fn without_a_key_everybody_is_charged_again() {
    let sim = Sim::start(&[]).await;
    for _ in 0..2 {
        sim.charge("a", "").await.ok();
    }
    sim.charge("b", "").await.ok();
    assert_eq!(sim.summary().await["orders_charged_twice"], serde_json::json!(["a"]));
    let of_order = sim.get("/admin/ledger?order_id=a").await.ok();
    assert_eq!(of_order["effects"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn fifty_equal_requests_at_once_are_one() {
    let sim = Sim::start(&["--latency", "50ms"]).await;
    let all = join_all((0..50).map(|_| sim.charge("a", "k"))).await;
    let done: Vec<_> = all.iter().filter(|answer| answer.status == 200).collect();
    assert_eq!(done.iter().filter(|answer| !answer.is_replay()).count(), 1);
    assert!(done.iter().all(|answer| answer.body == done[0].body));
    for answer in all.iter().filter(|answer| answer.status != 200) {
        let error = answer.error(409);
        assert_eq!(error["type"], "idempotency_error");
        assert_eq!(error["code"], "idempotency_key_in_use");
    }
    assert_eq!(sim.summary().await["intents"], 1);
    assert_eq!(sim.stats().await["executed"], 1);
}

#[tokio::test]
async fn a_key_in_use_is_in_use_for_everybody() {
    let sim = Sim::start(&["--latency", "10m"]).await;
    // Either may be the first; the other is turned away, and the first takes ten minutes.
    let (one, other) = (pin!(sim.charge("a", "k")), pin!(sim.charge("a", "k")));
    let (turned_away, running) = select(one, other).await.factor_first();
    assert_eq!(turned_away.error(409)["code"], "idempotency_key_in_use");
    assert_eq!(sim.charge("b", "k").await.error(400)["type"], "idempotency_error");
    assert_eq!(sim.summary().await["intents"], 0);
    // What shuts down keeps nobody waiting.
    sim.shut_down();
    running.await.ok();
}

#[tokio::test]
async fn what_had_no_effect_keeps_no_key() {
    let sim = Sim::start(&[]).await;
    assert_eq!(sim.post(INTENTS, "k", "amount=-1").await.status, 400);
    for mode in ["500_before", "429"] {
        assert!(sim.charge_in(mode, "a", "k").await.unwrap().status >= 429);
    }
    assert!(sim.charge_in("hang_before", "a", "k").await.is_err());
    let headers = [("authorization", "Bearer sk_other"), ("idempotency-key", "k")];
    let wrong = sim.send("POST", INTENTS, &headers, &payment("a")).await.unwrap();
    assert_eq!(wrong.error(401)["type"], "invalid_request_error");
    // Another request may have it, and its result is true.
    let answer = sim.charge("b", "k").await;
    assert!(answer.status == 200 && !answer.is_replay());
    assert_eq!(sim.summary().await["intents"], 1);
}

#[tokio::test]
async fn parameters_are_checked_as_stripe_does() {
    let sim = Sim::start(&[]).await;
    let good = payment("a");
    for (form, code, param) in [
        (good.replace("amount=1250", "amount=0"), "parameter_invalid_integer", "amount"),
        (good.replace("amount=1250", "amount=12.5"), "parameter_invalid_integer", "amount"),
        (good.replace("amount=1250", "amount=100000000"), "amount_too_large", "amount"),
        (good.replace("amount=1250", ""), "parameter_missing", "amount"),
        (good.replace("currency=inr", ""), "parameter_missing", "currency"),
        (good.replace("payment_method=pm_card_visa", ""), "parameter_missing", "payment_method"),
        (format!("{good}&what=1"), "parameter_unknown", "what"),
    ] {
        let error = sim.post(INTENTS, "", &form).await.error(400);
        assert_eq!(error["type"], "invalid_request_error", "{form}");
        assert_eq!((&error["code"], &error["param"]), (&code.into(), &param.into()), "{form}");
    }
    for form in [good.replace("inr", "INR"), good.replace("confirm=true", "confirm=false")] {
        assert_eq!(sim.post(INTENTS, "", &form).await.status, 400, "{form}");
    }
    assert_eq!(sim.charge("a", &"k".repeat(256)).await.status, 400);
    assert_eq!(sim.charge("a", &"k".repeat(255)).await.status, 200);
    let accepted = format!(
        "{good}&description=x&error_on_requires_action=true&payment_method_types[]=card\
         &automatic_payment_methods[enabled]=true"
    );
    assert_eq!(sim.post(INTENTS, "", &accepted).await.status, 200);
    assert_eq!(sim.get("/v1/charges").await.error(404)["type"], "invalid_request_error");
    assert_eq!(sim.get("/v1/payment_intents/pi_x").await.error(404)["code"], "resource_missing");
}
