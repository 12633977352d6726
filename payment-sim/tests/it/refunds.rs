//! Money goes back, and never more than came.

use futures_util::future::join_all;
use serde_json::Value;

use crate::world::{Sim, payment};

const REFUNDS: &str = "/v1/refunds";

async fn charged(sim: &Sim) -> String {
    sim.charge("a", "").await.ok()["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_part_then_the_rest() {
    let sim = Sim::start(&[]).await;
    let intent = charged(&sim).await;
    let form = format!("payment_intent={intent}&amount=250&reason=duplicate&metadata[x]=y");
    let part = sim.post(REFUNDS, "k1", &form).await;
    let refund = part.ok();
    assert!(refund["id"].as_str().unwrap().starts_with("re_"));
    assert_eq!((&refund["object"], &refund["status"]), (&"refund".into(), &"succeeded".into()));
    assert_eq!((&refund["amount"], &refund["currency"]), (&250.into(), &"inr".into()));
    assert_eq!(
        (&refund["payment_intent"], &refund["metadata"]["x"]),
        (&intent.clone().into(), &"y".into())
    );
    let again = sim.post(REFUNDS, "k1", &form).await;
    assert!(again.is_replay() && again.body == part.body);

    let more = sim.post(REFUNDS, "", &format!("payment_intent={intent}&amount=1001")).await;
    let error = more.error(400);
    assert_eq!(
        (&error["type"], &error["param"]),
        (&"invalid_request_error".into(), &"amount".into())
    );
    assert!(error["message"].as_str().unwrap().contains("greater than unrefunded amount"));
    let rest = sim.post(REFUNDS, "", &format!("payment_intent={intent}")).await.ok();
    assert_eq!(rest["amount"], 1000);
    let nothing = sim.post(REFUNDS, "", &format!("payment_intent={intent}")).await;
    assert_eq!(nothing.error(400)["code"], "charge_already_refunded");

    let found = sim.get(&format!("{REFUNDS}/{}", refund["id"].as_str().unwrap())).await.ok();
    assert_eq!(found, refund);
    let summary = sim.summary().await;
    assert_eq!(summary["captured_amount_by_currency"], summary["refunded_amount_by_currency"]);
    let effects = sim.get("/admin/ledger?order_id=a").await.ok();
    assert_eq!(effects["effects"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn what_cannot_go_back() {
    let sim = Sim::start(&[]).await;
    let unknown = sim.post(REFUNDS, "", "payment_intent=pi_00000000000000abcd").await;
    assert_eq!(unknown.error(404)["code"], "resource_missing");
    let form = payment("a").replace("pm_card_visa", "decline");
    let declined = sim.post("/v1/payment_intents", "", &form).await.error(402);
    let id = declined["payment_intent"]["id"].as_str().unwrap();
    assert_eq!(sim.post(REFUNDS, "", &format!("payment_intent={id}")).await.status, 400);
    let intent = charged(&sim).await;
    for form in ["", "amount=5", "payment_intent=", &format!("payment_intent={intent}&reason=x")] {
        assert_eq!(sim.post(REFUNDS, "", form).await.status, 400, "{form}");
    }
    let unknown = sim.post(REFUNDS, "", &format!("payment_intent={intent}&charge=x")).await;
    assert_eq!(unknown.error(400)["code"], "parameter_unknown");
    assert_eq!(sim.summary().await["refunds"], 0);
}

#[tokio::test]
async fn fifty_refunds_at_once_give_back_no_more_than_was_captured() {
    let sim = Sim::start(&["--latency", "0ms-5ms"]).await;
    let intent = charged(&sim).await;
    let refund = async |n: usize| {
        let form = format!("payment_intent={intent}&amount=100");
        sim.post(REFUNDS, &format!("k{n}"), &form).await
    };
    let all = join_all((0..50).map(refund)).await;
    assert_eq!(all.iter().filter(|answer| answer.status == 200).count(), 12);
    assert!(all.iter().all(|answer| matches!(answer.status, 200 | 400)));
    assert_eq!(sim.summary().await["refunded_amount_by_currency"]["inr"], 1200);
}

#[tokio::test]
async fn the_bank_refuses_only_when_it_is_told_to() {
    let sim = Sim::start(&["--decline-rate", "1"]).await;
    let intent = sim.charge_in("ok", "a", "k").await.unwrap().ok();
    let form = format!("payment_intent={}&amount=100", intent["id"].as_str().unwrap());
    sim.post(REFUNDS, "k1", &form).await.ok();
    sim.set(serde_json::json!({"refund_decline": true})).await;
    let declined = sim.post(REFUNDS, "k2", &form).await;
    assert_eq!(declined.error(400)["code"], "charge_disputed");
    sim.set(serde_json::json!({"refund_decline": false})).await;
    let again = sim.post(REFUNDS, "k2", &form).await;
    assert!(again.is_replay() && again.body == declined.body);
    let listed = sim.get(REFUNDS).await.ok();
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(1));
    let summary = sim.summary().await;
    let sums = ["refunds", "refunds_declined"].map(|name| summary[name].clone());
    assert_eq!(sums, [Value::from(1), Value::from(1)]);
}
