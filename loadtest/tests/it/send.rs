//! The sender against a server that refuses, breaks off and stalls on purpose.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Bytes, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use loadtest::{
    client::Target,
    plan::{Circles, Drivers},
    probe,
    send::{self, Fate, Live, Outcome, Settings, Transport},
};
use tokio_util::sync::CancellationToken;

const DRIVERS: Drivers = Drivers { first: 5, count: 10 };
const TOTAL: u64 = 200;
const RATE: f64 = 400.0;

/// What the server does with a request.
enum Does {
    Answers(u16, &'static str),
    /// Takes the request and hangs up without a word.
    HangsUp,
    Stalls(Duration),
}

/// Bodies in the order of their arrival.
type Bodies = Arc<Mutex<Vec<String>>>;

/// Serves with `rule(number of the request, earlier arrivals of the same body, body)`.
async fn serve(
    rule: impl Fn(usize, usize, &str) -> Does + Clone + Send + Sync + 'static,
) -> (Target, Bodies) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let bodies = Bodies::default();
    let seen = Arc::clone(&bodies);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (seen, rule) = (Arc::clone(&seen), rule.clone());
            let service = service_fn(move |request: Request<Incoming>| {
                let (seen, rule) = (Arc::clone(&seen), rule.clone());
                async move {
                    let path = request.uri().path().to_owned();
                    assert!(path.starts_with("/api/v1/"), "{path}");
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let body = format!("{path} {}", String::from_utf8(body.to_vec()).unwrap());
                    let does = {
                        let mut seen = seen.lock().unwrap();
                        let earlier = seen.iter().filter(|other| **other == body).count();
                        let does = rule(seen.len(), earlier, &body);
                        seen.push(body);
                        does
                    };
                    let answer = |status: u16, text: &'static str| {
                        let response =
                            Response::builder().status(status).header("retry-after", "0");
                        Ok(response.body(Full::new(Bytes::from_static(text.as_bytes()))).unwrap())
                    };
                    match does {
                        Does::Answers(status, text) => answer(status, text),
                        Does::HangsUp => Err(io::Error::other("on purpose")),
                        Does::Stalls(wait) => {
                            tokio::time::sleep(wait).await;
                            answer(202, "{}")
                        }
                    }
                }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
        Ok::<_, Infallible>(())
    });
    (target, bodies)
}

fn single(connections: usize) -> Transport {
    let tokens = (0..DRIVERS.count).map(|index| format!("token-{index}")).collect();
    Transport::Single { tokens, connections }
}

async fn send(target: Target, transport: Transport, grace: Duration) -> Outcome {
    let plan = Arc::new(Circles::new(DRIVERS, RATE, TOTAL, 1));
    let settings = Settings { target, transport, grace, warm_up: Duration::ZERO };
    let (started, _clock) = tokio::sync::oneshot::channel();
    let (live, stop) = (Arc::new(Live::default()), CancellationToken::new());
    send::run(plan, settings, live, probe::off(), started, stop).await.unwrap()
}

fn count(outcome: &Outcome, fate: Fate) -> usize {
    outcome.fates.iter().filter(|seen| **seen == fate).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_for_now_or_broken_off_is_sent_again_unchanged() {
    let (target, bodies) = serve(|number, earlier, _| match (number % 5, earlier) {
        (1, 0) => Does::Answers(503, "busy"),
        (2, 0) => Does::HangsUp,
        (3, 0) => Does::Answers(429, "slower"),
        _ => Does::Answers(202, "{}"),
    })
    .await;
    let outcome = send(target, single(8), Duration::from_secs(20)).await;
    assert_eq!(count(&outcome, Fate::Accepted), TOTAL as usize, "{:?}", outcome.repeated);
    assert_eq!(outcome.accept_us.len(), TOTAL);
    for why in ["503", "429"] {
        assert!(outcome.repeated.contains_key(why), "{:?}", outcome.repeated);
    }
    assert!(outcome.repeated.len() > 2, "broken connections count: {:?}", outcome.repeated);
    let mut arrivals = HashMap::<String, usize>::new();
    for body in bodies.lock().unwrap().iter() {
        *arrivals.entry(body.clone()).or_default() += 1;
    }
    // A repetition with any difference would be another body.
    assert_eq!(arrivals.len(), TOTAL as usize);
    assert!(arrivals.values().any(|count| *count > 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_for_good_is_not_repeated() {
    let (target, bodies) = serve(|_, _, body| {
        if body.contains("/drivers/7/") {
            Does::Answers(403, "no")
        } else {
            Does::Answers(202, "{}")
        }
    })
    .await;
    let outcome = send(target, single(8), Duration::from_secs(5)).await;
    assert_eq!(count(&outcome, Fate::Rejected), 20);
    assert_eq!(outcome.rejected.get("403"), Some(&20));
    assert_eq!(bodies.lock().unwrap().len(), TOTAL as usize);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_acknowledged_is_unsure_after_the_grace() {
    let (target, _) = serve(|_, _, _| Does::HangsUp).await;
    let outcome = send(target, single(8), Duration::from_millis(300)).await;
    assert_eq!(count(&outcome, Fate::Unsure), TOTAL as usize);
    assert!(outcome.accept_us.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stall_counts_for_everything_that_was_due_meanwhile() {
    let stall = Duration::from_millis(300);
    let (target, _) =
        serve(
            move |number, _, _| {
                if number == 20 { Does::Stalls(stall) } else { Does::Answers(202, "{}") }
            },
        )
        .await;
    let outcome = send(target, single(1), Duration::from_secs(5)).await;
    assert_eq!(count(&outcome, Fate::Accepted), TOTAL as usize);
    // 400 events/s over one connection: some 120 are due during the stall, of which those of the
    // first 200 ms wait for at least 100 ms. A closed loop would have seen one slow answer.
    let late = outcome.accept_us.len() - outcome.accept_us.count_between(0, 99_000);
    assert!(late >= 70, "only {late} events felt the stall");
    assert!(outcome.accept_us.max() >= 300_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_point_of_a_batch_has_its_own_fate() {
    let (target, bodies) = serve(|_, _, _| {
        Does::Answers(
            202,
            r#"{"results":[{"event_id":"1","status":"accepted"},
                {"event_id":"2","status":"rejected","reason":"too old"},
                {"event_id":"3","status":"duplicate"},{"event_id":"4","status":"accepted"}]}"#,
        )
    })
    .await;
    let batch = Transport::Batch { token: "fleet".into(), size: 4, connections: 2 };
    let outcome = send(target, batch, Duration::from_secs(5)).await;
    assert_eq!(count(&outcome, Fate::Rejected), 50);
    assert_eq!(outcome.fates[..4].iter().position(|fate| *fate == Fate::Rejected), Some(1));
    assert_eq!(outcome.rejected.get("too old"), Some(&50));
    let bodies = bodies.lock().unwrap();
    assert_eq!(bodies.len(), 50);
    assert!(
        bodies[0].starts_with(r#"/api/v1/locations {"points":[{"driver_id":5,"#),
        "{}",
        bodies[0]
    );
}
