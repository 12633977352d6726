//! Many readers of one cold document at once.

use std::{cell::RefCell, collections::BTreeMap, time::Instant};

use futures_util::future::join_all;
use serde::Serialize;

use super::{
    Document, catalogue,
    judge::Judge,
    request::{Notes, Requests, Source},
    send::Settings,
};
use crate::{
    client::{Caller, Connection},
    report::Percentiles,
    send::histogram,
};

/// What the readers saw.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct BurstReport {
    /// How many asked at once.
    pub readers: usize,
    /// Readers who got it.
    pub ok: u64,
    /// Readers who did not.
    pub failed: u64,
    /// Answers by `x-cache`.
    pub x_cache: BTreeMap<&'static str, u64>,
    /// Reads of the database meanwhile, on all nodes, by their own count.
    pub database_reads: Option<u64>,
    /// From the first request on its way to each answer.
    pub ms: Option<Percentiles>,
}

/// Opens a connection for each reader, drops the restaurant from the caches, and lets all of them
/// ask.
pub(super) async fn run(
    settings: &Settings,
    requests: &[Requests],
    judge: &mut Judge,
    readers: usize,
    restaurant: u32,
    document: Document,
) -> anyhow::Result<BurstReport> {
    let mut connections = Vec::with_capacity(readers);
    for reader in 0..readers {
        connections.push(Connection::open(&settings.nodes[reader % settings.nodes.len()]).await?);
    }
    let id = judge.checker.id(restaurant);
    let mut caller = Caller::new(settings.nodes[0].clone());
    let this = format!(r#"{{"restaurant_id":{id}}}"#);
    catalogue::invalidate(&mut caller, &settings.admin, &this).await?;

    let before = database_reads(settings).await;
    let (judge, started) = (RefCell::new(judge), Instant::now());
    let asking = connections.iter_mut().enumerate().map(|(reader, connection)| {
        let (judge, requests) = (&judge, &requests[reader % requests.len()]);
        async move {
            let (mut request, mut notes) = (Vec::new(), Notes::default());
            let asked = judge.borrow().asks(restaurant, document, false, false);
            requests.document(&mut request, id, document, None);
            let reply = connection
                .exchange_noting(&request, |name, value| notes.take(name, value))
                .await
                .ok()
                .filter(|reply| reply.status == 200)?;
            judge.borrow_mut().answered(&asked, reply.status, &notes, connection.body(), 0);
            Some((notes.source, started.elapsed()))
        }
    });
    let mut report = BurstReport { readers, ..BurstReport::default() };
    let mut took_us = histogram();
    for answer in join_all(asking).await {
        let Some((source, took)) = answer else {
            report.failed += 1;
            continue;
        };
        report.ok += 1;
        *report.x_cache.entry(Source::name(source)).or_default() += 1;
        took_us.saturating_record(took.as_micros() as u64);
    }
    report.ms = Percentiles::of_us(&took_us);
    let after = database_reads(settings).await;
    report.database_reads = after.zip(before).and_then(|(after, before)| after.checked_sub(before));
    Ok(report)
}

/// `None` when a node does not say.
async fn database_reads(settings: &Settings) -> Option<u64> {
    let mut reads = 0;
    for node in &settings.nodes {
        let mut caller = Caller::new(node.clone());
        reads += catalogue::database_reads(&mut caller, &settings.admin).await.ok()?;
    }
    Some(reads)
}
