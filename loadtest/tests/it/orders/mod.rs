//! `loadtest orders` against a service and a gateway in memory: good ones pass, and each broken
//! promise is found.

mod service;

use std::time::Duration;

use clap::Parser as _;
use loadtest::{orders::report::Summary, scenario::orders};
use platform::auth::{Signer, Verifier};
use tokio_util::sync::CancellationToken;

use crate::cli::Cli;
use service::{Sabotage, Seen, Service};

/// Runs against a service that does this wrong.
async fn run(sabotage: Sabotage, flags: &str) -> (Summary, Seen) {
    run_until(sabotage, flags, u64::MAX).await
}

/// The same, and ends the load when so many orders were sent.
async fn run_until(sabotage: Sabotage, flags: &str, posts: u64) -> (Summary, Seen) {
    let (_, private_pem, public_pem) = Signer::generate();
    let verifier = Verifier::from_pems(&[&public_pem], "swift-eats", "swift-eats").unwrap();
    let (service, url) = Service::start(sabotage, verifier).await;
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key.pem");
    std::fs::write(&key, private_pem).unwrap();
    let json = folder.path().join("out.json");
    let mut words = vec!["loadtest", "--signing-key-file", key.to_str().unwrap()];
    words.extend(["--summary", json.to_str().unwrap(), "--processes", ""]);
    for name in ["--url", "--menu-url", "--gateway-url"] {
        words.extend([name, &url]);
    }
    words.extend(["--gateway-key", "sk_test_sim", "--customers", "50", "--restaurants", "4"]);
    words.extend(flags.split_whitespace());
    let args = Cli::<orders::Args>::try_parse_from(words).unwrap().args;
    let stop = CancellationToken::new();
    let ending = async {
        while service.seen.lock().unwrap().posts < posts {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.cancel();
        std::future::pending::<()>().await;
    };
    let summary = tokio::select! {
        summary = orders::start(&args, stop.clone()) => summary.unwrap(),
        () = ending => unreachable!("it has no end"),
    };
    let written: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!(written["scenario"], "orders");
    assert_eq!(written["accepted"], summary.accepted);
    let seen = std::mem::take(&mut *service.seen.lock().unwrap());
    (summary, seen)
}

const LOAD: &str = "--rate 300 --duration 1s --replays 10%";

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_keeps_its_promises_passes() {
    let (summary, seen) = run(Sabotage::Nothing, LOAD).await;
    assert!(summary.passed, "{}", summary.to_text());
    assert_eq!((summary.accepted, summary.failed, summary.dropped), (300, 0, 0));
    assert_eq!((summary.paid, summary.payment_failed, summary.unsettled), (285, 15, 0));
    assert_eq!(summary.double_charges, Some(0));
    assert_eq!((summary.replays, summary.mismatches), (30, 0));
    assert_eq!(summary.latency_ms.unwrap().count, 300);
    assert_eq!(summary.paid_ms.unwrap().count, 300);
    assert_eq!(summary.settled_by_asking, 300, "there are no events");
    assert_eq!(seen.posts, 330);
    assert_eq!(seen.keys.len(), 300);
    assert_eq!((seen.made, seen.opened), (4, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_answer_is_repeated_under_its_key() {
    for sabotage in [Sabotage::HangsUpAfter, Sabotage::Unavailable, Sabotage::InProgress] {
        let (summary, seen) = run(sabotage, LOAD).await;
        assert!(summary.passed, "{sabotage:?}: {}", summary.to_text());
        assert_eq!((summary.accepted, seen.keys.len()), (300, 300), "{sabotage:?}");
        let repeated: u64 = summary.repeated.values().sum();
        assert!(repeated >= 20, "{sabotage:?}: {:?}", summary.repeated);
        assert!(summary.replays > 30, "what was repeated is asked for again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_repetitions_what_has_no_answer_may_be_there() {
    let (summary, _) = run(Sabotage::HangsUpAfter, &format!("{LOAD} --retry=false")).await;
    assert!(!summary.passed, "arrivals have failed");
    assert!(summary.unanswered >= 20, "{}", summary.to_text());
    assert_eq!((summary.failed, summary.accepted), (summary.unanswered, 300 - summary.unanswered));
    assert_eq!(summary.check.unanswered_made, summary.unanswered);
    assert_eq!(summary.phantoms, 0, "{}", summary.to_text());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_broken_promise_is_found() {
    type Count = fn(&Summary) -> u64;
    let kinds: [(Sabotage, Count); 8] = [
        (Sabotage::ChargesTwice, |summary| summary.double_charges.unwrap()),
        (Sabotage::ChargesMore, |summary| summary.check.amounts),
        (Sabotage::ForgetsCharges, |summary| summary.check.uncharged),
        (Sabotage::Loses, |summary| summary.check.lost),
        (Sabotage::OrdersByItself, |summary| summary.phantoms),
        (Sabotage::ForgetsKeys, |summary| summary.check.twice),
        (Sabotage::OtherBytes, |summary| summary.mismatches),
        (Sabotage::Refuses, |summary| summary.rejected["409 restaurant-closed"]),
    ];
    for (sabotage, kind) in kinds {
        let (summary, _) = run(sabotage, &format!("{LOAD} --payment-wait 1s")).await;
        assert!(kind(&summary) > 0, "{sabotage:?}: {}", summary.to_text());
        assert!(!summary.passed, "{sabotage:?}");
        assert!(summary.to_text().contains("FAILED"), "{sabotage:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn payments_without_an_end_fail_the_run() {
    let (summary, _) = run(Sabotage::NeverPays, &format!("{LOAD} --payment-wait 200ms")).await;
    assert!(!summary.passed);
    assert_eq!((summary.unsettled, summary.paid), (300, 0), "{}", summary.to_text());
    assert!(summary.check.is_good(), "{:?}", summary.check);
    assert_eq!(summary.paid_ms, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_ended_early_is_checked_to_its_end() {
    let (summary, seen) = run_until(Sabotage::Nothing, "--rate 500 --duration 1h", 20).await;
    let text = summary.to_text();
    assert!(summary.passed && summary.accepted >= 20, "{text}");
    assert!(summary.measured_s < 60.0, "{text}");
    assert_eq!(summary.accepted, seen.keys.len() as u64);
}
