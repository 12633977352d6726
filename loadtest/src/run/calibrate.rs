//! Measures the generator itself: how much it can send on this machine to a server that does
//! nothing, so that nobody takes its limit for the limit of what is measured.

use std::{convert::Infallible, io::Write as _, process::Stdio, time::Duration};

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio_util::sync::CancellationToken;

use super::{
    engine,
    file::Script,
    metrics::{Metric, Value},
    state::Signers,
};
use crate::cpu;

/// Virtual users that send as fast as they can.
const VUS: u32 = 32;
const TIME: Duration = Duration::from_secs(2);
/// The child says where it listens within this time.
const START_WITHIN: Duration = Duration::from_secs(10);
const ANSWER: &[u8] = br#"{"status":"accepted"}"#;

/// What the generator can do at most.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Calibration {
    /// Requests a second to a server that does nothing.
    pub requests_per_s: f64,
    /// CPU time of the generator for each of them.
    pub cpu_us_per_request: f64,
    /// Median of their durations.
    pub med_ms: f64,
}

/// Starts this program once more as a server that does nothing, and sends all that goes.
///
/// # Errors
/// The server cannot be started, or does not answer.
pub(super) async fn measure(stop: &CancellationToken) -> anyhow::Result<Calibration> {
    let program = std::env::current_exe().context("this program has no path")?;
    let mut child = tokio::process::Command::new(program)
        .arg("no-op-server")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("a server to compare with cannot be started")?;
    let output = child.stdout.take().context("the server has no output")?;
    let mut address = String::new();
    let mut output = BufReader::new(output);
    tokio::time::timeout(START_WITHIN, output.read_line(&mut address))
        .await
        .context("the server to compare with says nothing")??;
    let url = format!("http://{}", address.trim());
    let text = format!(
        "[target]\nauth = 'none'\n[scenarios.most]\nflow = 'requests'\nexecutor = 'constant-vus'\n\
         vus = {VUS}\nduration = '{}s'\ngraceful_stop = '1s'\n[[scenarios.most.settings.steps]]\n\
         method = 'POST'\nurl = '{url}/'\nbody = '{{}}'\n",
        TIME.as_secs()
    );
    let script = Script::parse("calibration", &text, std::path::Path::new(""));
    let script = script.map_err(|error| anyhow::anyhow!("{error}"))?;
    let before = cpu::own();
    let (begun, _nobody_waits) = tokio::sync::oneshot::channel();
    let outcome =
        engine::run(script, Signers::default(), std::sync::Arc::default(), begun, stop.clone())
            .await?;
    let used = cpu::own();
    child.kill().await.context("the server to compare with does not end")?;
    anyhow::ensure!(outcome.aborted.is_none(), "stopped before the load began");
    let sent = outcome.metrics.sum(Metric::HttpReqDuration, |_| true);
    let failed = outcome.metrics.sum(Metric::HttpReqFailed, |_| true);
    let Value::Times(times) = &sent else { anyhow::bail!("nothing was sent") };
    anyhow::ensure!(
        !times.is_empty() && matches!(failed, Value::Share { yes: 0, .. }),
        "the server to compare with does not answer"
    );
    let cpu_us = used.zip(before).map_or(0, |(used, before)| (used - before).as_micros());
    Ok(Calibration {
        // Of the load alone: to start and end a run takes its time, too.
        requests_per_s: times.len() as f64 / outcome.duration.as_secs_f64().max(1e-3),
        cpu_us_per_request: cpu_us as f64 / times.len() as f64,
        med_ms: times.value_at_quantile(0.5) as f64 / 1_000.0,
    })
}

/// Answers everything at once until nobody holds its input any more; says where on stdout.
///
/// # Errors
/// No port can be had.
pub async fn serve() -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    writeln!(std::io::stdout(), "{}", listener.local_addr()?)?;
    std::io::stdout().flush()?;
    // A thread of its own: reading standard input cannot be given up.
    std::thread::spawn(|| {
        let _ended = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    loop {
        let (stream, _) = listener.accept().await?;
        // One that has gone already is no reason to leave the others.
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let answer = service_fn(|request: Request<Incoming>| async {
            let _read = request.into_body().collect().await;
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(ANSWER))))
        });
        let serving = hyper::server::conn::http1::Builder::new();
        tokio::spawn(serving.serve_connection(TokioIo::new(stream), answer));
    }
}
