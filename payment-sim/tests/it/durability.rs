//! What was answered is there after a kill.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::Value;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::world::{Sim, raw_charge, read_answer, until};

const BINARY: &str = env!("CARGO_BIN_EXE_payment-sim");

/// A simulator of its own process, killed at the end.
struct Process(Child, SocketAddr);

impl Process {
    fn start(ledger: &Path) -> Self {
        let child = Command::new(BINARY)
            .args(["--log-format", "json", "serve", "--listen", "127.0.0.1:0"])
            .args(["--latency", "0ms", "--decline-rate", "0", "--ledger"])
            .arg(ledger)
            .env_remove("RUST_LOG")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut process = Self(child, ([127, 0, 0, 1], 0).into());
        for line in BufReader::new(process.0.stderr.take().unwrap()).lines() {
            let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
            if line["message"] == "ready" {
                process.1 = line["address"].as_str().unwrap().parse().unwrap();
                return process;
            }
        }
        panic!("it ended before it was ready");
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn audit(ledger: &Path) -> (Output, Value) {
    let output = Command::new(BINARY).arg("audit").arg(ledger).output().unwrap();
    let summary = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output, summary)
}

/// Charges orders until the connection ends; returns those that were answered.
async fn charge_on(address: SocketAddr, worker: usize, total: Arc<AtomicUsize>) -> Vec<String> {
    let mut answered = Vec::new();
    let Ok(mut stream) = TcpStream::connect(address).await else { return answered };
    let mut read = Vec::new();
    for n in 0.. {
        let order = format!("{worker}-{n}");
        let request = raw_charge("ok", &order, &order, "keep-alive");
        if stream.write_all(request.as_bytes()).await.is_err() {
            break;
        }
        let Some((header, _)) = read_answer(&mut stream, &mut read).await else { break };
        if header.starts_with("HTTP/1.1 200") {
            total.fetch_add(1, Ordering::Relaxed);
            answered.push(order);
        }
    }
    answered
}

#[tokio::test]
async fn a_kill_loses_nothing_that_was_answered() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = dir.path().join("ledger.jsonl");
    let mut answered = Vec::new();
    for round in 0..3 {
        let process = Process::start(&ledger);
        let total = Arc::new(AtomicUsize::new(0));
        let workers: Vec<_> = (0..16)
            .map(|n| tokio::spawn(charge_on(process.1, round * 16 + n, Arc::clone(&total))))
            .collect();
        until("much is under way", async || total.load(Ordering::Relaxed) > 300).await;
        process.kill();
        for worker in workers {
            answered.extend(worker.await.unwrap());
        }
    }
    let sim = Sim::open(ledger.clone(), &[]).await;
    let summary = sim.summary().await;
    let captured = summary["captured"].as_u64().unwrap() as usize;
    // What was under way at a kill may be there or not: at most one of each worker.
    assert!((answered.len()..=answered.len() + 48).contains(&captured), "{captured}");
    assert!(summary["orders_charged_twice"].as_array().unwrap().is_empty());
    for order in &answered {
        let again = sim.charge(order, order).await;
        assert!(again.is_replay(), "{order} was answered and is gone");
    }
    sim.stop().await;
    let (output, audited) = audit(&ledger);
    assert!(output.status.success());
    assert_eq!(audited["captured"].as_u64(), Some(captured as u64));
}

#[tokio::test]
async fn a_torn_line_is_cut_off_and_what_came_before_it_stays() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = dir.path().join("ledger.jsonl");
    let sim = Sim::open(ledger.clone(), &[]).await;
    let first = sim.charge("a", "a").await;
    let intent = first.ok()["id"].as_str().unwrap().to_owned();
    sim.post("/v1/refunds", "r", &format!("payment_intent={intent}&amount=250")).await.ok();
    sim.charge("b", "b").await.ok();
    sim.stop().await;

    let whole = fs::read(&ledger).unwrap();
    let lines: Vec<_> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    let [_, _, last] = &*lines else { panic!("{} lines", lines.len()) };
    for torn in [1, last.len() / 2, last.len() - 1] {
        let kept = whole.len() - last.len();
        fs::write(&ledger, &whole[..kept + torn]).unwrap();
        let (output, audited) = audit(&ledger);
        assert!(output.status.success());
        assert_eq!(audited["torn_bytes"], torn);
        let sim = Sim::open(ledger.clone(), &[]).await;
        let replay = sim.charge("a", "a").await;
        assert!(replay.is_replay() && replay.body == first.body);
        let left =
            sim.post("/v1/refunds", "", &format!("payment_intent={intent}&amount=1001")).await;
        assert_eq!(left.status, 400);
        assert!(!sim.charge("b", "b").await.is_replay());
        assert_eq!(sim.summary().await["captured"], 2);
        sim.stop().await;
    }
}

#[tokio::test]
async fn an_audit_fails_when_an_order_was_charged_twice() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = dir.path().join("ledger.jsonl");
    let sim = Sim::open(ledger.clone(), &[]).await;
    sim.charge("a", "a1").await.ok();
    // The ledger of a simulator that runs can be read, but not be opened by another.
    assert!(audit(&ledger).0.status.success());
    let second = Sim::open(ledger.clone(), &[]).await;
    until("the second has ended", async || second.has_ended()).await;
    sim.charge("a", "a2").await.ok();
    let (output, audited) = audit(&ledger);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(audited["orders_charged_twice"], serde_json::json!(["a"]));
    sim.stop().await;

    let mut damaged = fs::read(&ledger).unwrap();
    damaged[5] = b'!';
    fs::write(&ledger, damaged).unwrap();
    assert_eq!(audit(&ledger).0.status.code(), Some(2));
    assert_eq!(audit(&dir.path().join("none")).0.status.code(), Some(2));
}
