//! Sends fixes as requests over a pool of connections.

use std::{cell::RefCell, io, rc::Rc};

use contracts::position::Position;
use serde::Deserialize;

use super::{Engine, Job, Transport, is_for_now};
use crate::{
    client::{Reply, Target, complete},
    fix::FixWriter,
    pool::{Pool, Work},
};

/// Writes the requests and takes the answers.
pub(super) struct Fixes {
    engine: Rc<Engine>,
    heads: Heads,
    writer: RefCell<(FixWriter, Vec<u8>)>,
}

enum Heads {
    Drivers(Vec<Box<[u8]>>),
    Fleet(Box<[u8]>),
}

/// The connections that the settings ask for.
pub(super) fn pool(engine: Rc<Engine>) -> Pool<Fixes> {
    let target = &engine.settings.target;
    let (heads, connections_max) = match &engine.settings.transport {
        Transport::Single { tokens, connections } => {
            let drivers = engine.plan.drivers();
            let head = |(index, token): (usize, &String)| {
                let path = format!("/drivers/{}/location", drivers.id(index as u32));
                target.head("POST", &path, token)
            };
            (Heads::Drivers(tokens.iter().enumerate().map(head).collect()), *connections)
        }
        Transport::Batch { token, connections, .. } => {
            (Heads::Fleet(target.head("POST", "/locations", token)), *connections)
        }
        Transport::Stream { .. } => unreachable!("sockets do not use the pool"),
    };
    Pool::new(Fixes { engine, heads, writer: RefCell::default() }, connections_max)
}

impl Work for Fixes {
    type Job = Job;
    type Sent = ();
    type Notes = ();

    fn target(&self) -> &Target {
        &self.engine.settings.target
    }

    fn opened(&self) {
        self.engine.opened();
    }

    fn begin(&self, job: &Job, request: &mut Vec<u8>) {
        let engine = &*self.engine;
        let position = |n| -> Position { engine.plan.position(n, &engine.clock) };
        let (writer, body) = &mut *self.writer.borrow_mut();
        body.clear();
        match &self.heads {
            Heads::Drivers(heads) => {
                let position = position(job.first);
                writer.write(body, &position, engine.plan.carries(false));
                complete(request, &heads[engine.plan.drivers().index(position.driver_id)], body);
            }
            Heads::Fleet(head) => {
                body.extend_from_slice(b"{\"points\":[");
                for n in job.first..job.first + u64::from(job.count) {
                    if n > job.first {
                        body.push(b',');
                    }
                    writer.write(body, &position(n), engine.plan.carries(true));
                }
                body.extend_from_slice(b"]}");
                complete(request, head, body);
            }
        }
        engine.writing(job);
    }

    fn answered(&self, job: Job, (): (), reply: Reply, (): &(), body: &[u8]) {
        self.settle(job, reply, body);
    }

    fn broken(&self, job: Job, _: Option<()>, error: &io::Error) {
        self.engine.again(job, &format!("{:?}", error.kind()), None);
    }
}

impl Fixes {
    fn settle(&self, job: Job, reply: Reply, body: &[u8]) {
        let (engine, due_us) = (&*self.engine, self.engine.due_us(&job));
        let events = job.first..job.first + u64::from(job.count);
        if reply.status != 202 {
            let status = reply.status.to_string();
            if is_for_now(reply.status) {
                return engine.again(job, &status, reply.retry_after);
            }
            events.for_each(|n| engine.rejected(n, job.attempt == 0, &status));
            return engine.settled();
        }
        if matches!(self.heads, Heads::Drivers(_)) {
            engine.accepted(events, due_us);
            return engine.settled();
        }
        match serde_json::from_slice::<BatchReply<'_>>(body) {
            Ok(batch) if batch.results.len() == job.count as usize => {
                if batch.results.iter().all(PointResult::is_accepted) {
                    engine.accepted(events, due_us);
                } else {
                    for (n, result) in events.zip(&batch.results) {
                        if result.is_accepted() {
                            engine.accepted(n..n + 1, due_us);
                        } else {
                            let why = result.reason.as_deref().unwrap_or("rejected");
                            engine.rejected(n, job.attempt == 0, why);
                        }
                    }
                }
                engine.settled();
            }
            _ => engine.again(job, "unreadable batch answer", None),
        }
    }
}

#[derive(Deserialize)]
struct BatchReply<'a> {
    #[serde(borrow)]
    results: Vec<PointResult<'a>>,
}

#[derive(Deserialize)]
struct PointResult<'a> {
    status: &'a str,
    #[serde(borrow, default)]
    reason: Option<std::borrow::Cow<'a, str>>,
}

impl PointResult<'_> {
    /// A duplicate is an earlier attempt of the same event that is already durable.
    fn is_accepted(&self) -> bool {
        matches!(self.status, "accepted" | "duplicate")
    }
}
