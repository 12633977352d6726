//! A virtual user's hands: its connections, its random numbers, and the measuring of what it does.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use platform::auth::Role;
use rand::rngs::SmallRng;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    leave::Leave,
    metrics::{Labels, Metric, Name},
    state::{OUTSIDE, Run},
};
use crate::client::{Connection, Target};

mod line;

use line::{Broken, Line};

/// How much of an answer is shown when it is not what was expected.
const SHOWN_BYTES: usize = 200;

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) role: Role,
    pub(super) subject: i64,
    /// Of an operator.
    pub(super) restaurant: Option<i64>,
}

impl Identity {
    pub(super) fn new(role: Role, subject: i64) -> Self {
        Self { role, subject, restaurant: None }
    }

    /// The operator of one restaurant.
    pub(super) fn operator(restaurant: i64) -> Self {
        Self { role: Role::Operator, subject: restaurant, restaurant: Some(restaurant) }
    }
}

/// One kind of request; [`Run::endpoint`] gives it out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Endpoint {
    pub(super) target: usize,
    pub(super) method: &'static str,
    pub(super) method_name: Name,
    pub(super) name: Name,
}

/// A request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) endpoint: Endpoint,
    /// With `/api/v1`, without the address's own path.
    pub(super) path: &'a str,
    pub(super) who: Option<Identity>,
    pub(super) headers: &'a [(&'a str, &'a str)],
    /// JSON, unless a header says otherwise.
    pub(super) body: Option<&'a [u8]>,
    /// Statuses that are no failure; 200 to 399 when there are none.
    pub(super) expected: &'a [u16],
}

impl<'a> Call<'a> {
    pub(super) fn new(endpoint: Endpoint, path: &'a str) -> Self {
        Self { endpoint, path, who: None, headers: &[], body: None, expected: &[] }
    }

    pub(super) fn by(self, who: Identity) -> Self {
        Self { who: Some(who), ..self }
    }

    pub(super) fn with(self, body: &'a [u8]) -> Self {
        Self { body: Some(body), ..self }
    }

    pub(super) fn expecting(self, expected: &'a [u16]) -> Self {
        Self { expected, ..self }
    }
}

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    /// 0 without an answer.
    pub(super) status: u16,
    pub(super) failed: bool,
    pub(super) retry_after: Option<Duration>,
}

/// One virtual user at work.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) run: Rc<Run>,
    /// Index of its scenario.
    pub(super) scenario: u16,
    /// Its number, from 0.
    pub(super) vu: u32,
    pub(super) random: SmallRng,
    /// The load is over, or this user is one too many: what only waits should end.
    pub(super) ending: Leave,
    /// The due time of the iteration, until its first request has taken it.
    due_us: Option<u64>,
    lines: Vec<Option<Line>>,
    last: usize,
    request: Vec<u8>,
}

impl Agent {
    pub(super) fn new(
        run: &Rc<Run>,
        scenario: u16,
        vu: u32,
        random: SmallRng,
        ending: Leave,
    ) -> Self {
        Self {
            run: Rc::clone(run),
            scenario,
            vu,
            random,
            ending,
            due_us: None,
            lines: Vec::new(),
            last: 0,
            request: Vec::new(),
        }
    }

    /// An iteration begins that was due then, µs after the start.
    pub(super) fn begin(&mut self, due_us: u64) {
        self.due_us = Some(due_us);
    }

    /// When what comes next was wanted, µs after the start: the due time of the iteration if this
    /// is the first thing in it, else now.
    pub(super) fn wanted_us(&mut self) -> u64 {
        self.due_us.take().unwrap_or_else(|| self.run.clock.now_us())
    }

    pub(super) fn labels(&self) -> Labels {
        Labels { scenario: self.scenario, ..Labels::default() }
    }

    /// Whether this is no load, but set-up or teardown, which counts nowhere.
    pub(super) fn is_outside(&self) -> bool {
        self.scenario == OUTSIDE
    }

    pub(super) fn count(&self, metric: Metric, more: u64) {
        if self.is_outside() {
            return;
        }
        self.run.metrics.borrow_mut().add(metric, self.labels(), more);
    }

    pub(super) fn time(&self, metric: Metric, us: u64) {
        if self.is_outside() {
            return;
        }
        self.run.metrics.borrow_mut().time(metric, self.labels(), us);
    }

    pub(super) fn check(&self, name: Name, holds: bool) {
        if self.is_outside() {
            return;
        }
        let labels = Labels { name, ..self.labels() };
        self.run.metrics.borrow_mut().share(Metric::Checks, labels, holds);
    }

    /// Waits, unless the load ends meanwhile; answers whether it goes on.
    pub(super) async fn pause(&self, time: Duration) -> bool {
        self.ending.or(tokio::time::sleep(time)).await.is_some()
    }

    /// Makes a request over this user's connection to the target, and measures it.
    pub(super) async fn send(&mut self, call: &Call<'_>, note: impl FnMut(&str, &[u8])) -> Answer {
        let wanted_us = self.wanted_us();
        let at = call.endpoint.target;
        let target = self.run.script.targets.bases[at].clone();
        self.write(&target, call);
        let answer = self.exchange(&target, call, note).await;
        let (status, retry_after) = match answer {
            Ok((status, retry_after)) => (status, retry_after),
            Err(error) => {
                self.lines[at] = None;
                let mut metrics = self.run.metrics.borrow_mut();
                let why = error.kind().to_string();
                *metrics.errors.entry((self.scenario, why)).or_default() += 1;
                (0, None)
            }
        };
        let failed = match call.expected {
            [] => !(200..400).contains(&status),
            expected => !expected.contains(&status),
        };
        self.measured(call, wanted_us, status, failed);
        Answer { status, failed, retry_after }
    }

    /// Sends the request over the kept connection, unless it was closed, or over a new one.
    async fn exchange(
        &mut self,
        target: &Target,
        call: &Call<'_>,
        mut note: impl FnMut(&str, &[u8]),
    ) -> std::io::Result<(u16, Option<Duration>)> {
        let at = call.endpoint.target;
        // Without an answer there is no body either, least of all another server's.
        self.last = at;
        if self.lines.len() <= at {
            self.lines.resize_with(at + 1, || None);
        }
        if let Some(kept) = self.lines[at].take().filter(Line::is_fit) {
            match self.over(kept, &mut note).await {
                Err(broken) if broken.is_repeatable(call.endpoint.method) => {}
                done => return done.map_err(|broken| broken.error),
            }
        }
        let opening = Instant::now();
        let connection = Connection::open(target).await?;
        self.time(Metric::HttpReqConnecting, opening.elapsed().as_micros() as u64);
        let line = Line { connection, used: opening, is_closed: false };
        self.over(line, note).await.map_err(|broken| broken.error)
    }

    /// Sends the request over this connection, and keeps it.
    async fn over(
        &mut self,
        mut line: Line,
        note: impl FnMut(&str, &[u8]),
    ) -> Result<(u16, Option<Duration>), Broken> {
        let begun = Instant::now();
        let reply = line.connection.exchange_noting(&self.request, note).await;
        let (sent_bytes, first_byte) = (line.connection.sent_bytes(), line.connection.first_byte());
        self.count(Metric::DataSent, sent_bytes as u64);
        let is_answered = first_byte.is_some();
        let reply = reply.map_err(|error| Broken { error, sent_bytes, is_answered })?;
        if let Some(first) = first_byte {
            let waited = first.saturating_duration_since(begun);
            self.time(Metric::HttpReqWaiting, waited.as_micros() as u64);
        }
        line.used = Instant::now();
        line.is_closed = reply.close;
        self.count(Metric::DataReceived, line.connection.received_bytes() as u64);
        let at = self.last;
        self.lines[at] = Some(line);
        Ok((reply.status, reply.retry_after))
    }

    fn measured(&self, call: &Call<'_>, wanted_us: u64, status: u16, failed: bool) {
        if self.is_outside() {
            return;
        }
        let now_us = self.run.clock.now_us();
        let us = now_us.saturating_sub(wanted_us);
        let labels = Labels {
            scenario: self.scenario,
            name: call.endpoint.name,
            method: call.endpoint.method_name,
            status,
            expected: !failed,
        };
        let mut metrics = self.run.metrics.borrow_mut();
        metrics.add(Metric::HttpReqs, labels, 1);
        metrics.share(Metric::HttpReqFailed, labels, failed);
        metrics.time(Metric::HttpReqDuration, labels, us);
        self.run.seconds.borrow_mut().request(self.scenario, us, failed);
    }

    /// Counts a request that could not be made as a failed one.
    pub(super) fn unsent(&self, endpoint: Endpoint) {
        if self.is_outside() {
            return;
        }
        let Endpoint { name, method_name: method, .. } = endpoint;
        let labels = Labels { name, method, ..self.labels() };
        let mut metrics = self.run.metrics.borrow_mut();
        metrics.share(Metric::HttpReqFailed, labels, true);
        *metrics.errors.entry((self.scenario, "not sent".to_owned())).or_default() += 1;
    }

    /// Writes the request; nothing that a template made can end a line.
    fn write(&mut self, target: &Target, call: &Call<'_>) {
        use std::io::Write as _;
        let out = &mut self.request;
        out.clear();
        let line = |out: &mut Vec<u8>, name: &str, value: &str| {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend(value.bytes().filter(|byte| *byte >= b' ' || *byte == b'\t'));
            out.extend_from_slice(b"\r\n");
        };
        let _infallible = write!(out, "{} {}", call.endpoint.method, target.prefix);
        for byte in call.path.bytes() {
            if byte.is_ascii_graphic() {
                out.push(byte);
            } else {
                let _infallible = write!(out, "%{byte:02X}");
            }
        }
        out.extend_from_slice(b" HTTP/1.1\r\n");
        line(out, "host", &target.authority);
        for (name, value) in self.run.common_headers(call.who, &mut self.random) {
            if !call.headers.iter().any(|(own, _)| *own == name) {
                line(out, &name, &value);
            }
        }
        for (name, value) in call.headers {
            line(out, name, value);
        }
        if let Some(body) = call.body {
            if !call.headers.iter().any(|(name, _)| *name == "content-type") {
                line(out, "content-type", "application/json");
            }
            let _infallible = write!(out, "content-length: {}\r\n\r\n", body.len());
            out.extend_from_slice(body);
        } else {
            let has_no_body = matches!(call.endpoint.method, "GET" | "OPTIONS");
            let length: &[u8] = if has_no_body { b"\r\n" } else { b"content-length: 0\r\n\r\n" };
            out.extend_from_slice(length);
        }
    }

    /// The body of the last answer; empty when there was none.
    pub(super) fn body(&self) -> &[u8] {
        let line = self.lines.get(self.last).and_then(Option::as_ref);
        line.map_or(&[], |line| line.connection.body())
    }

    /// The same as JSON; null when it is none.
    pub(super) fn body_json(&self) -> Value {
        serde_json::from_slice(self.body()).unwrap_or_default()
    }

    /// The same in a form that is known.
    pub(super) fn body_as<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(self.body()).ok()
    }

    /// The begin of the same, for people.
    pub(super) fn body_start(&self) -> String {
        let body = self.body();
        String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES)]).into_owned()
    }
}
