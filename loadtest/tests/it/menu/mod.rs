//! `loadtest menu` against a service in memory: a good one passes, and each broken promise is found.

mod service;

use std::time::Duration;

use clap::Parser as _;
use loadtest::{
    menu::report::Summary,
    scenario::{BadUsage, menu},
};
use platform::auth::Signer;
use tokio_util::sync::CancellationToken;

use crate::cli::Cli;
use service::{RESTAURANTS, Sabotage, Seen, Service};

async fn try_run(urls: &[String], flags: &str) -> anyhow::Result<Summary> {
    run_until(urls, flags, CancellationToken::new()).await
}

async fn run_until(
    urls: &[String],
    flags: &str,
    stop: CancellationToken,
) -> anyhow::Result<Summary> {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key.pem");
    let (_, private_pem, _) = Signer::generate();
    std::fs::write(&key, private_pem).unwrap();
    let json = folder.path().join("out.json");
    let mut words = vec!["loadtest", "--signing-key-file", key.to_str().unwrap()];
    words.extend(["--summary", json.to_str().unwrap(), "--processes", ""]);
    words.extend(urls.iter().flat_map(|url| ["--url", url]));
    words.extend(flags.split_whitespace());
    let args = Cli::<menu::Args>::try_parse_from(words).unwrap().args;
    let summary = menu::start(&args, stop).await?;
    let written: serde_json::Value = serde_json::from_slice(&std::fs::read(json)?)?;
    assert_eq!(written["violations"], summary.violations);
    assert_eq!(written["scenario"], "menu");
    Ok(summary)
}

/// Runs against a service that does this wrong; `--restaurants` is every one that there is.
async fn run(sabotage: Sabotage, flags: &str) -> (Summary, Seen) {
    let (service, urls) = Service::start(sabotage).await;
    let flags = format!("--restaurants {RESTAURANTS} {flags}");
    let summary = try_run(&urls, &flags).await.unwrap();
    let seen = std::mem::take(&mut *service.seen.lock().unwrap());
    (summary, seen)
}

const MIXED: &str = "--rate 1500 --duration 1s --writes 10%";

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_keeps_its_promises_passes() {
    let (summary, seen) = run(Sabotage::Nothing, &format!("{MIXED} --revalidate 20%")).await;
    assert!(summary.passed, "{}", summary.to_text());
    // On a busy machine a write may find every operator busy.
    assert_eq!(summary.ok + summary.writes.skipped, 1_500);
    assert_eq!((summary.failed, summary.violations), (0, 0));
    assert_eq!(summary.writes.ok + summary.writes.skipped, 150, "{:?}", summary.writes);
    assert_eq!(summary.check.writes, summary.writes.ok);
    assert_eq!(summary.last_look_failed, 0);
    // The last look is at every document of every restaurant on both nodes.
    assert_eq!(summary.check.reads, 1_350 + RESTAURANTS as u64 * 8);
    assert!(summary.check.contents > 800, "{:?}", summary.check);
    assert!(summary.statuses[&304] > 50, "{:?}", summary.statuses);
    assert_eq!(summary.hit_ratio, Some(1.0));
    assert_eq!(summary.latency_ms.unwrap().count, 1_350);
    assert_eq!(seen.writers_max, 2, "some are written by two at once, none by more");
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_answers_are_checked_as_well() {
    let flags = format!("{MIXED} --what menu-with-status --encoding gzip --check-content 50%");
    let (summary, _) = run(Sabotage::Nothing, &flags).await;
    assert!(summary.passed, "{}", summary.to_text());
    assert!(summary.body_bytes.unwrap() < 1_000.0, "{:?}", summary.body_bytes);
    assert!((600..1_400).contains(&summary.check.contents), "{:?}", summary.check);
    let (summary, _) = run(Sabotage::OldContent, &flags).await;
    assert!(summary.check.wrong_content > 0, "{:?}", summary.check);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_broken_promise_is_found() {
    type Count = fn(&Summary) -> u64;
    let kinds: [(Sabotage, Count); 4] = [
        (Sabotage::OldCopies, |summary| summary.check.older),
        (Sabotage::OldContent, |summary| summary.check.wrong_content),
        (Sabotage::SharedVersions, |summary| summary.check.writes_not_newer),
        (Sabotage::FutureVersions, |summary| summary.check.never_written),
    ];
    for (sabotage, kind) in kinds {
        let (summary, _) = run(sabotage, MIXED).await;
        assert!(kind(&summary) > 0, "{sabotage:?}: {:?}", summary.check);
        assert!(!summary.passed, "{sabotage:?}");
        assert_eq!(summary.failed, 0, "{sabotage:?}: a wrong answer is still an answer");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_that_are_marked_as_old_are_counted_apart() {
    let (summary, _) = run(Sabotage::StaleCopies, MIXED).await;
    assert!(summary.passed, "{}", summary.to_text());
    assert!(summary.check.stale > 500, "{:?}", summary.check);
    let ratio = summary.hit_ratio.unwrap();
    assert!((0.4..0.6).contains(&ratio), "{ratio}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_breaks_is_failed_and_not_sent_again() {
    let (summary, seen) = run(Sabotage::HangsUp, MIXED).await;
    assert!(summary.failed > 100, "{}", summary.to_text());
    assert_eq!(summary.ok + summary.failed, 1_500 - summary.writes.skipped);
    assert_eq!(summary.errors.values().sum::<u64>(), summary.failed, "{:?}", summary.errors);
    assert!(summary.last_look_failed > 20, "{}", summary.to_text());
    // What may or may not have been written is no violation.
    assert_eq!(summary.violations, 0, "{:?}", summary.check);
    let of_restaurants: u64 = seen
        .requests
        .iter()
        .filter(|(path, _)| path.starts_with("GET /restaurants/") || path.starts_with("PUT"))
        .map(|(_, count)| count)
        .sum();
    // Set-up reads two documents of each, and may repeat; then the run, then the last look.
    let once = summary.ok + summary.failed + RESTAURANTS as u64 * 8;
    let set_up = RESTAURANTS as u64 * 2;
    assert!((once + set_up..once + set_up * 2).contains(&of_restaurants), "{of_restaurants}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stall_counts_for_everything_that_was_due_meanwhile() {
    let stall = Duration::from_millis(300);
    let flags = "--rate 400 --duration 1s --connections 2 --what menu";
    let (summary, _) = run(Sabotage::Stalls(stall), flags).await;
    let latency = summary.latency_ms.unwrap();
    assert!(latency.max >= 300.0, "{latency:?}");
    // One of two connections stands still for 300 ms, during which some 60 reads become due for it.
    assert!(latency.p95 >= 50.0, "{latency:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cold_runs_ask_in_turn_and_drop_the_caches_at_each_lap() {
    let flags = "--rate 400 --duration 1s --cold --what menu --readers 20";
    let (summary, seen) = run(Sabotage::Nothing, flags).await;
    let laps = 400 / RESTAURANTS as u64;
    assert_eq!((summary.invalidations, summary.invalidations_failed), (laps - 1, 0));
    // One before the run, one for the readers.
    assert_eq!(seen.requests["POST /operator/cache/invalidate"], laps + 1);
    for id in 1..=RESTAURANTS {
        let asked = seen.requests[&format!("GET /restaurants/{id}/menu")];
        assert!(asked == laps || asked == laps + 20, "restaurant {id}: {asked}");
    }
    let burst = summary.burst.unwrap();
    assert_eq!((burst.readers, burst.ok, burst.failed), (20, 20, 0));
    assert_eq!(burst.database_reads, Some(20));
    assert_eq!(burst.x_cache["hit"], 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_asked_for_with_many_queries() {
    let (summary, seen) = run(Sabotage::Nothing, "--rate 400 --duration 1s --what list").await;
    assert_eq!((summary.ok, summary.check.reads), (400, 0));
    assert_eq!(summary.hit_ratio, Some(0.0));
    assert!(seen.queries.len() > 20, "{:?}", seen.queries);
    assert!(seen.queries.keys().any(|query| query.contains("q=Number")), "{:?}", seen.queries);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_restaurants_than_there_are_is_a_wrong_call() {
    let (_, urls) = Service::start(Sabotage::Nothing).await;
    let error = try_run(&urls, "--restaurants 41").await.unwrap_err();
    assert!(error.is::<BadUsage>() && error.to_string().contains("there are 40"), "{error:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_ended_early_is_checked_to_its_end() {
    let (service, urls) = Service::start(Sabotage::Nothing).await;
    let stop = CancellationToken::new();
    let flags = format!("--restaurants {RESTAURANTS} --rate 500 --duration 1h --writes 10%");
    let running = run_until(&urls, &flags, stop.clone());
    let ending = async {
        while service.seen.lock().unwrap().writes < 20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.cancel();
    };
    let summary = tokio::join!(running, ending).0.unwrap();
    assert!(summary.passed, "{}", summary.to_text());
    assert!(summary.measured_s < 60.0 && summary.failed == 0, "{}", summary.to_text());
    let reads = summary.ok - summary.writes.ok;
    assert_eq!(summary.check.reads, reads + RESTAURANTS as u64 * 8);
}
