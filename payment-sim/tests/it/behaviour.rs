//! Settings, chance, being down, and what the simulator tells of itself.

use futures_util::future::join_all;
use serde_json::json;

use crate::world::{Sim, payment, until};

#[tokio::test]
async fn a_seed_gives_the_same_modes_again() {
    let run = async |seed: &str| {
        let flags = ["--seed", seed, "--decline-rate", "0.2", "--modes", "500_after=0.2,429=0.2"];
        let sim = Sim::start(&flags).await;
        let mut statuses = Vec::new();
        for n in 0..200 {
            statuses.push(sim.charge(&n.to_string(), &n.to_string()).await.status);
        }
        let by_mode = sim.stats().await["by_mode"].clone();
        let count = |status| statuses.iter().filter(|s| **s == status).count();
        assert_eq!(by_mode["429"], count(429));
        assert_eq!(by_mode["decline"], count(402));
        assert_eq!(by_mode["500_after"], count(500));
        assert!([200, 402, 429, 500].map(count).iter().all(|count| *count > 10), "{by_mode}");
        statuses
    };
    let (first, same, other) = tokio::join!(run("7"), run("7"), run("8"));
    assert_eq!(first, same);
    assert_ne!(first, other);
}

#[tokio::test]
async fn settings_are_read_and_changed() {
    let sim = Sim::start(&["--latency", "0ms-1ms", "--slow", "2s"]).await;
    let settings = sim.get("/admin/settings").await.ok();
    let expected = json!({
        "modes": {}, "decline_rate": 0.0, "latency_ms": [0, 1], "hang_ms": 100, "slow_ms": 2000,
        "refund_decline": false, "down": false,
    });
    assert_eq!(settings, expected);
    let changed = sim.set(json!({"modes": {"500_before": 1.0}, "latency_ms": [0, 0]})).await;
    assert_eq!(changed["modes"], json!({"500_before": 1.0}));
    assert_eq!(sim.charge("a", "k").await.status, 500);
    sim.set(json!({"modes": {}, "decline_rate": 1.0})).await;
    assert_eq!(sim.charge("a", "k").await.status, 402);
    for bad in [json!({"modes": {"what": 1}}), json!({"decline_rate": 2}), json!({"x": 1})] {
        let headers = [("content-type", "application/json")];
        let answer = sim.send("PUT", "/admin/settings", &headers, &bad.to_string()).await.unwrap();
        assert_eq!(answer.status, 422, "{bad}");
    }
    assert_eq!(sim.get("/admin/settings").await.ok()["decline_rate"], 1.0);
}

#[tokio::test]
async fn down_is_down_for_everybody_but_the_admin() {
    let sim = Sim::start(&["--hang", "1h"]).await;
    sim.charge("a", "a").await.ok();
    let hanging = sim.charge_in("hang_after", "b", "b");
    let going_down = async {
        until("it hangs", async || sim.summary().await["captured"] == 2).await;
        sim.set(json!({"down": true})).await;
    };
    let (hung, ()) = tokio::join!(hanging, going_down);
    assert!(hung.is_err());
    assert!(sim.charge_in("ok", "c", "c").await.is_err());
    let (read, was_reset) = sim.raw("ok", "c", "c").await;
    assert!(read.is_empty() && was_reset);
    assert_eq!(sim.get("/readyz").await.status, 200);
    sim.set(json!({"down": false})).await;
    assert!(!sim.charge("c", "c").await.is_replay());
    assert!(sim.charge("b", "b").await.is_replay());
    assert_eq!(sim.summary().await["captured"], 3);
}

#[tokio::test]
async fn it_tells_what_it_did() {
    let sim = Sim::start(&[]).await;
    sim.charge("a", "k1").await.ok();
    sim.charge("a", "k1").await.ok();
    let _ = sim.charge_in("500_before", "b", "k2").await;
    sim.get("/v1/payment_intents").await.ok();
    let log = sim.get("/admin/log").await.ok();
    let told: Vec<_> = log["requests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| {
            json!([
                r["n"],
                r["method"],
                r["idempotency_key"],
                r["order_id"],
                r["mode"],
                r["executed"]
            ])
        })
        .collect();
    let expected = [
        json!([1, "POST", "k1", "a", "ok", true]),
        json!([2, "POST", "k1", "a", "ok", false]),
        json!([3, "POST", "k2", "b", "500_before", false]),
        json!([4, "GET", null, null, "ok", false]),
    ];
    assert_eq!(told, expected);
    let rest = sim.get("/admin/log?since=3").await.ok();
    assert_eq!((rest["requests"].as_array().unwrap().len(), &rest["next"]), (1, &4.into()));

    let stats = sim.stats().await;
    assert_eq!((&stats["requests"], &stats["in_flight"]), (&4.into(), &0.into()));
    assert!(stats["max_calls_in_any_second"].as_u64().unwrap() >= 1);
    let calls = stats["calls_per_second"].as_array().unwrap();
    assert_eq!(calls.iter().map(|n| n.as_u64().unwrap()).sum::<u64>(), 4);
    for path in ["/livez", "/readyz", "/health", "/metrics"] {
        assert_eq!(sim.get(path).await.status, 200, "{path}");
    }
    assert_eq!(sim.get("/what").await.status, 404);
}

#[tokio::test]
async fn without_admin_there_is_none() {
    let sim = Sim::start(&["--admin=false"]).await;
    assert_eq!(sim.get("/admin/settings").await.status, 404);
    sim.charge("a", "k").await.ok();
}

#[tokio::test]
async fn many_at_once_are_all_kept() {
    let sim = Sim::start(&["--latency", "0ms-20ms"]).await;
    let all = join_all((0..500).map(async |n: usize| {
        let key = format!("k{n}");
        sim.post("/v1/payment_intents", &key, &payment(&format!("o{n}"))).await
    }))
    .await;
    assert!(all.iter().all(|answer| answer.status == 200));
    let summary = sim.summary().await;
    assert_eq!((&summary["captured"], &summary["orders_charged_twice"]), (&500.into(), &json!([])));
    assert_eq!(summary["captured_amount_by_currency"]["inr"], 500 * 1250);
}
