//! Bodies in requests: over keep-alive connections, and in requests that are odd themselves.

use std::time::Duration;

use anyhow::Context as _;
use loadtest::client::{Connection, complete};
use platform::auth::Role;
use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::{
    Lane, Route,
    bodies::{self, Expect},
};

/// An answer, or the end of an odd connection, takes no longer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Longest batch, as documented.
const BATCH_BYTES_MAX: usize = 64 * 1024;
/// A request that looks whole is answered within this time, or is not whole.
const COMPLETE_MAX: Duration = Duration::from_secs(2);

#[derive(Deserialize)]
struct BatchAnswer {
    results: Vec<PointAnswer>,
}

#[derive(Deserialize)]
struct PointAnswer {
    status: String,
}

/// Well-formed requests with any body.
pub(super) async fn run(mut lane: Lane<'_>) -> anyhow::Result<()> {
    let target = lane.service.target();
    let driver_token = lane.world.token(Role::Driver, lane.driver);
    let head = match lane.route {
        Route::DriverBatch => {
            target.head("POST", &format!("/drivers/{}/locations", lane.driver), &driver_token)
        }
        Route::Fleet => target.head("POST", "/locations", &lane.world.token(Role::Fleet, 1)),
        _ => target.head("POST", &format!("/drivers/{}/location", lane.driver), &driver_token),
    };
    let own = [lane.driver];
    let fleet: Vec<i64> = (1_000..1_100).collect();
    let mut connection = None::<Connection>;
    let mut request = Vec::new();
    while let Some((number, mut rng)) = lane.next() {
        let (body, expect, points) = match lane.route {
            Route::Single => {
                let (body, expect) = bodies::fix(&mut rng, lane.driver);
                (body, expect, None)
            }
            Route::DriverBatch => {
                let (body, points) = bodies::batch(&mut rng, &own);
                (body, Expect::Any, points)
            }
            _ => {
                let (body, points) = bodies::batch(&mut rng, &fleet);
                (body, Expect::Any, points)
            }
        };
        request.clear();
        complete(&mut request, &head, &body);
        let open = match &mut connection {
            Some(open) => open,
            None => connection.insert(Connection::open(&target).await.context("connecting")?),
        };
        let reply = match open.exchange(&request).await {
            Ok(reply) => reply,
            Err(error) => {
                // A body over the limit may be answered and cut off before it is sent.
                if body.len() <= BATCH_BYTES_MAX {
                    lane.tally.failure(|| {
                        format!("{:?} {number} of {} bytes: {error}", lane.route, body.len())
                    });
                }
                connection = None;
                lane.tally.refused();
                continue;
            }
        };
        let wrong = judge(&lane, reply.status, open.body(), expect, points.as_deref());
        if let Some(wrong) = wrong {
            let sent = String::from_utf8_lossy(&body[..body.len().min(600)]).into_owned();
            lane.tally.failure(|| format!("{:?} {number}: {wrong}, body {sent:?}", lane.route));
        }
        if reply.close {
            connection = None;
        }
    }
    Ok(())
}

/// Counts an answer; what is wrong with it.
fn judge(
    lane: &Lane<'_>,
    status: u16,
    answer: &[u8],
    expect: Expect,
    points: Option<&[Expect]>,
) -> Option<String> {
    if status != 202 {
        lane.tally.refused();
        let text = String::from_utf8_lossy(&answer[..answer.len().min(300)]).into_owned();
        let fine = (400..500).contains(&status)
            && serde_json::from_slice::<serde_json::Value>(answer).is_ok();
        return (!fine || expect == Expect::Accept || points.is_some())
            .then(|| format!("{status} {text}"));
    }
    if lane.route == Route::Single {
        lane.tally.accepted(1);
        return (expect == Expect::Refuse).then(|| "accepted".to_owned());
    }
    let Ok(answer) = serde_json::from_slice::<BatchAnswer>(answer) else {
        return Some("a batch's answer that cannot be read".to_owned());
    };
    let accepted = |point: &PointAnswer| point.status == "accepted";
    lane.tally.accepted(answer.results.iter().filter(|point| accepted(point)).count() as u64);
    let points = points?;
    let wrong = |(point, expect): (&PointAnswer, &Expect)| match expect {
        Expect::Accept => !accepted(point),
        Expect::Refuse => point.status != "rejected",
        Expect::Any => false,
    };
    let wrong =
        points.len() != answer.results.len() || answer.results.iter().zip(points).any(wrong);
    wrong.then(|| {
        let said: Vec<&str> = answer.results.iter().map(|point| point.status.as_str()).collect();
        format!("{said:?} instead of {points:?}")
    })
}

/// Requests that are odd themselves, each on a connection of its own that is read to its end.
pub(super) async fn run_raw(mut lane: Lane<'_>) -> anyhow::Result<()> {
    let target = lane.service.target();
    let token = lane.world.token(Role::Driver, lane.driver);
    while let Some((number, mut rng)) = lane.next() {
        let (request, complete) = odd(&mut rng, lane.driver, &token);
        let mut stream = target.connect().await.context("connecting")?;
        let exchange = async {
            let mut answer = Vec::new();
            // The server may close before it has read everything.
            let _ = stream.write_all(&request).await;
            // A server that sees the end behind a whole request may take its client for gone, and
            // whether such a fix is stored nobody knows.
            if complete {
                let _ = timeout(COMPLETE_MAX, stream.read_to_end(&mut answer)).await;
            }
            let _ = stream.shutdown().await;
            let _ = stream.read_to_end(&mut answer).await;
            answer
        };
        let Ok(answer) = timeout(ANSWER_MAX, exchange).await else {
            lane.tally.failure(|| {
                let sent = String::from_utf8_lossy(&request[..request.len().min(300)]).into_owned();
                format!("Raw {number}: the connection stays open after {sent:?}")
            });
            continue;
        };
        let statuses = statuses(&answer);
        let accepted = statuses.iter().filter(|status| **status == 202).count() as u64;
        lane.tally.accepted(accepted);
        if accepted == 0 {
            lane.tally.refused();
        }
        if statuses.iter().any(|status| *status >= 500) {
            lane.tally.failure(|| {
                let sent = String::from_utf8_lossy(&request[..request.len().min(300)]).into_owned();
                format!("Raw {number}: {statuses:?} for {sent:?}")
            });
        }
    }
    Ok(())
}

/// The statuses of all answers on a connection.
fn statuses(answer: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(answer);
    let after = text.split("HTTP/1.1 ").skip(1).chain(text.split("HTTP/1.0 ").skip(1));
    after.filter_map(|rest| rest.get(..3)?.parse().ok()).collect()
}

/// A request, and whether it is whole, so that an answer comes by itself.
fn odd(rng: &mut StdRng, driver: i64, token: &str) -> (Vec<u8>, bool) {
    let (body, _) = bodies::fix(rng, driver);
    let path = format!("/api/v1/drivers/{driver}/location");
    let start = |path: &str| format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n");
    let auth = format!("authorization: Bearer {token}\r\n");
    let json = "content-type: application/json\r\n";
    let length = |length: &str| format!("content-length: {length}\r\n\r\n");
    let whole = length(&body.len().to_string());
    let chunked = |size: &str| format!("transfer-encoding: chunked\r\n\r\n{size}\r\n");
    let mut complete = true;
    let mut end = "";
    let head = match rng.random_range(0..17) {
        0 => start(&path) + json + &whole,
        1 => start(&path) + "authorization: Bearer a.b.c\r\n" + json + &whole,
        2 => start(&path) + "authorization: \u{1}\r\n" + json + &whole,
        3 => start(&path) + &auth + "content-type: text/plain\r\n" + &whole,
        4 => start(&path) + &auth + &whole,
        5 => start(&path) + &auth + json + &length("-1"),
        6 => start(&path) + &auth + json + &length("99999999999999999999"),
        7 => {
            complete = false;
            start(&path) + &auth + json + &length(&(body.len() + 50).to_string())
        }
        8 => start(&path) + &auth + json + "content-encoding: gzip\r\n" + &whole,
        9 => {
            let paths = [
                "/api/v1/drivers/0/location",
                "/api/v1/drivers/-1/location",
                "/api/v1/drivers/99999999999999999999/location",
                "/api/v1/drivers/%00/location",
                "/api/v1/drivers/1%2f2/location",
                "/api/v1/drivers/%ff/location",
                "//api/v1/../drivers/1/location",
                "*",
                "",
            ];
            start(paths.choose(rng).copied().unwrap_or("*")) + &auth + json + &whole
        }
        10 => start(&path) + &auth + json + &chunked("zz"),
        11 => {
            end = "\r\n0\r\n\r\n";
            start(&path) + &auth + json + &chunked(&format!("{:x}", body.len()))
        }
        12 => {
            complete = false;
            start(&path) + &auth + json + &chunked(&format!("{:x}", body.len() + 5))
        }
        13 => {
            let method = rng.random_range(0..99);
            format!(
                "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{auth}{json}{whole}"
            )
        }
        14 => {
            let long = "x".repeat(rng.random_range(1..100_000));
            start(&path) + &auth + json + &format!("x-long: {long}\r\n{whole}")
        }
        15 => start(&path) + &auth + json + "expect: 100-continue\r\n" + &whole,
        _ => {
            complete = false;
            let preface =
                ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\u{16}\u{3}\u{1}", "GET", "\r\n\r\n"];
            preface.choose(rng).copied().unwrap_or("GET").to_owned()
        }
    };
    let mut request = head.into_bytes();
    request.extend_from_slice(&body);
    request.extend_from_slice(end.as_bytes());
    (request, complete)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_of_a_connection_is_seen() {
        let answer =
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(statuses(answer), [100, 202]);
        assert!(statuses(b"").is_empty());
    }
}
