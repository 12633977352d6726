//! Every way in which an answer goes wrong, and what is true afterwards.

use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::world::{Sim, content_length, raw_charge, read_answer, until};

/// How a raw answer is taken apart: header and body.
fn split(answer: &[u8]) -> (&str, &[u8]) {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    (std::str::from_utf8(&answer[..end]).unwrap(), &answer[end..])
}

/// Whether an order was charged, and the true answer to a resend of its request.
async fn truth(sim: &Sim, order_id: &str, key: &str, had_effect: bool) -> Value {
    let effects = sim.get(&format!("/admin/ledger?order_id={order_id}")).await.ok();
    let count = effects["effects"].as_array().unwrap().len();
    assert_eq!(count, usize::from(had_effect), "effects of {order_id}");
    let again = sim.charge_in("ok", order_id, key).await.unwrap();
    assert_eq!(again.is_replay(), had_effect, "{order_id}");
    let intent = again.ok();
    assert_eq!(intent["status"], "succeeded");
    intent
}

#[tokio::test]
async fn errors_before_and_after() {
    let sim = Sim::start(&[]).await;
    for (mode, status, kind, had_effect) in [
        ("500_before", 500, "api_error", false),
        ("500_after", 500, "api_error", true),
        ("429", 429, "invalid_request_error", false),
        ("in_progress", 409, "idempotency_error", true),
    ] {
        let answer = sim.charge_in(mode, mode, mode).await.unwrap();
        let error = answer.error(status);
        assert_eq!(error["type"], kind, "{mode}");
        assert!(!answer.is_replay());
        match mode {
            "429" => {
                assert_eq!(answer.headers["retry-after"], "1");
                assert_eq!(error["code"], "rate_limit");
            }
            "in_progress" => assert_eq!(error["code"], "idempotency_key_in_use"),
            _ => {}
        }
        truth(&sim, mode, mode, had_effect).await;
    }
}

#[tokio::test]
async fn a_hang_ends_with_silence() {
    let sim = Sim::start(&[]).await;
    for (mode, had_effect) in [("hang_before", false), ("hang_after", true)] {
        let (read, _) = sim.raw(mode, mode, mode).await;
        assert!(read.is_empty(), "{read:?}");
        truth(&sim, mode, mode, had_effect).await;
    }
}

#[tokio::test]
async fn who_hangs_up_is_charged_nevertheless() {
    let sim = Sim::start(&["--hang", "1h", "--latency", "100ms"]).await;
    for (order, mode) in [("a", "hang_after"), ("b", "ok")] {
        let mut stream = TcpStream::connect(sim.address).await.unwrap();
        stream.write_all(raw_charge(mode, order, order, "keep-alive").as_bytes()).await.unwrap();
        until("it has come", async || sim.stats().await["in_flight"] == 1).await;
        drop(stream);
        until("it is over", async || {
            let path = format!("/admin/ledger?order_id={order}");
            let effects = sim.get(&path).await.ok();
            !effects["effects"].as_array().unwrap().is_empty()
                && sim.stats().await["in_flight"] == 0
        })
        .await;
    }
    sim.stop().await;
}

#[tokio::test]
async fn a_slow_answer_is_right_and_late() {
    let sim = Sim::start(&["--slow", "1h"]).await;
    let waiting = sim.charge_in("slow", "a", "k");
    let executed = until("it is done and not answered", async || {
        let stats = sim.stats().await;
        stats["executed"] == 1 && stats["in_flight"] == 1
    });
    tokio::select! {
        _ = waiting => panic!("it takes an hour"),
        () = executed => {}
    }
    truth(&sim, "a", "k", true).await;
    sim.set(serde_json::json!({"slow_ms": 1})).await;
    let answer = sim.charge_in("slow", "b", "k2").await.unwrap();
    assert_eq!(answer.ok(), truth(&sim, "b", "k2", true).await);
}

#[tokio::test]
async fn a_reset_leaves_half_of_the_body() {
    let sim = Sim::start(&[]).await;
    let (read, was_reset) = sim.raw("reset_mid_body", "a", "k").await;
    let (header, body) = split(&read);
    assert!(header.starts_with("HTTP/1.1 200"));
    assert_eq!(body.len(), content_length(header) / 2);
    assert!(was_reset);
    assert!(sim.charge_in("reset_mid_body", "a", "k").await.is_err());
    truth(&sim, "a", "k", true).await;
}

#[tokio::test]
async fn json_that_is_none() {
    let sim = Sim::start(&[]).await;
    let answer = sim.charge_in("bad_json", "a", "k").await.unwrap();
    assert_eq!(answer.status, 200);
    assert!(serde_json::from_slice::<Value>(&answer.body).is_err());
    truth(&sim, "a", "k", true).await;
}

#[tokio::test]
async fn a_status_that_nobody_knows() {
    let sim = Sim::start(&[]).await;
    let intent = sim.charge_in("unknown_status", "a", "k").await.unwrap().ok();
    assert_eq!(intent["status"], "perhaps");
    let true_intent = truth(&sim, "a", "k", true).await;
    assert_eq!(true_intent["id"], intent["id"]);
}

#[tokio::test]
async fn a_reply_that_comes_twice() {
    let sim = Sim::start(&[]).await;
    let (read, was_reset) = sim.raw("duplicate_reply", "a", "a").await;
    assert!(!was_reset);
    let (first, second) = read.split_at(read.len() / 2);
    assert_eq!(first, second);
    assert!(serde_json::from_slice::<Value>(split(first).1).is_ok());
    truth(&sim, "a", "a", true).await;

    // The connection goes on: who takes the second for the next answer is wrong.
    let mut stream = TcpStream::connect(sim.address).await.unwrap();
    stream
        .write_all(raw_charge("duplicate_reply", "b", "b", "keep-alive").as_bytes())
        .await
        .unwrap();
    let mut read = Vec::new();
    let first = read_answer(&mut stream, &mut read).await.unwrap();
    assert_eq!(read_answer(&mut stream, &mut read).await.unwrap(), first);
    stream.write_all(raw_charge("ok", "c", "c", "keep-alive").as_bytes()).await.unwrap();
    let next = read_answer(&mut stream, &mut read).await.unwrap();
    let order = |body: &[u8]| -> Value {
        serde_json::from_slice::<Value>(body).unwrap()["metadata"]["order_id"].clone()
    };
    assert_eq!((order(&first.1), order(&next.1)), ("b".into(), "c".into()));
    assert!(read.is_empty());
}

#[tokio::test]
async fn a_decline_by_name_and_by_metadata() {
    let sim = Sim::start(&[]).await;
    let answer = sim.charge_in("decline", "a", "k").await.unwrap();
    assert_eq!(answer.error(402)["decline_code"], "generic_decline");
    let form = format!("{}&metadata[sim_mode]=500_after", crate::world::payment("b"));
    assert_eq!(sim.post("/v1/payment_intents", "b", &form).await.status, 500);
    // The header comes first.
    let headers = [("x-sim-mode", "ok"), ("idempotency-key", "b")];
    let again = sim.send("POST", "/v1/payment_intents", &headers, &form).await.unwrap();
    assert!(again.is_replay() && again.status == 200);
    assert_eq!(sim.charge_in("what", "a", "k2").await.unwrap().status, 400);
}

#[tokio::test]
async fn refunds_and_reads_go_wrong_too() {
    let sim = Sim::start(&[]).await;
    let intent = sim.charge("a", "").await.ok();
    let id = intent["id"].as_str().unwrap();
    let form = format!("payment_intent={id}&amount=100");
    let refund = async |mode: &str, key: &str| {
        let headers = [("x-sim-mode", mode), ("idempotency-key", key)];
        sim.send("POST", "/v1/refunds", &headers, &form).await
    };
    assert_eq!(refund("500_after", "k1").await.unwrap().status, 500);
    assert!(refund("reset_mid_body", "k1").await.is_err());
    assert_eq!(refund("unknown_status", "k1").await.unwrap().ok()["status"], "perhaps");
    assert_eq!(refund("decline", "k2").await.unwrap().error(400)["code"], "charge_disputed");
    assert!(refund("ok", "k1").await.unwrap().is_replay());
    assert_eq!(sim.summary().await["refunds"], 1);
    let path = format!("/v1/payment_intents/{id}");
    let read = async |mode: &str| sim.send("GET", &path, &[("x-sim-mode", mode)], "").await;
    assert_eq!(read("500_before").await.unwrap().status, 500);
    assert_eq!(read("ok").await.unwrap().ok(), intent);
    assert!(read("hang_before").await.is_err());
}
