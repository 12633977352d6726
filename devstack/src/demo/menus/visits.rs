//! One request after another: written, answered, and compared with what is known.
//!
//! The checker must see all starts and ends in one order, so all that is known is behind one lock;
//! it is never held while anybody waits for the network.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use loadtest::{
    client::{Connection, Target},
    menu::{
        Document, Encoding,
        check::{Change, Checker, End, Findings, WriteId},
        choose::{Chooser, Operation},
        judge::{Asked, Judge},
        request::{Notes, Requests},
        write::{Answer, Operator, Operators},
    },
    pace::Clock,
};
use parking_lot::Mutex;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

use super::restaurants::World;
use crate::demo::figures::{Figures, count};

/// Longer than any demo is watched.
pub(super) const TOKEN_FOR: Duration = Duration::from_secs(24 * 3_600);
/// Every such errand is a look at a list, all others are chosen.
pub(super) const LIST_EVERY: u64 = 5;
/// The share of answers whose content is checked, where nobody has just written.
const SAMPLED: f64 = 0.05;
/// A connection that rested longer is replaced before use: the server may be closing it.
const IDLE_MAX: Duration = Duration::from_secs(5);
/// Kept connections.
const IDLE_CONNECTIONS_MAX: usize = 32;

/// What somebody wants.
#[derive(Debug, Clone, Copy)]
pub(super) enum Errand {
    Read {
        restaurant: u32,
        document: Document,
        revalidate: bool,
        thorough: bool,
    },
    /// By the query's index.
    List(usize),
    Write(Operator),
}

/// An errand whose request is on its way.
enum Sent {
    Read(Asked),
    List,
    Write { operator: Operator, id: WriteId, change: Change },
}

/// All customers and operators.
pub(super) struct Town {
    pub(super) figures: Arc<Figures>,
    target: Target,
    requests: Requests,
    queries: Vec<Box<str>>,
    /// Indices of the restaurants by their ids.
    places: HashMap<i64, u32>,
    written: Vec<u32>,
    clock: Clock,
    desk: Mutex<Desk>,
    idle: Mutex<Vec<(Connection, Instant)>>,
}

/// What is known, and what comes next.
struct Desk {
    judge: Judge,
    chooser: Chooser,
    operators: Operators,
    random: SmallRng,
    errands: u64,
}

impl Town {
    pub(super) fn new(target: Target, world: World, seed: u64, figures: Arc<Figures>) -> Self {
        let World { ids, queries, starts, operators, chooser } = world;
        let places = ids.iter().copied().zip(0..).collect();
        let mut checker = Checker::new(ids);
        for (restaurant, start) in &starts {
            checker.watch(*restaurant, start);
        }
        let judge = Judge::new(checker, SAMPLED);
        let random = SmallRng::seed_from_u64(seed);
        Self {
            figures,
            requests: Requests::new(&target, Encoding::Identity),
            target,
            queries,
            places,
            written: starts.into_iter().map(|(restaurant, _)| restaurant).collect(),
            clock: Clock::start(),
            desk: Mutex::new(Desk { judge, chooser, operators, random, errands: 0 }),
            idle: Mutex::default(),
        }
    }

    /// The restaurants that are written to.
    pub(super) fn written(&self) -> impl Iterator<Item = u32> {
        self.written.iter().copied()
    }

    /// Somebody is about to rate a restaurant, which makes a version of it.
    pub(super) fn rated(&self, restaurant_id: i64) {
        if let Some(restaurant) = self.places.get(&restaurant_id) {
            self.desk.lock().judge.checker.rating_begins(*restaurant);
        }
    }

    /// What the check has found by now.
    pub(super) fn findings(&self) -> Findings {
        self.desk.lock().judge.checker.findings().clone()
    }

    /// What somebody wants next; None when it is a write and all operators are busy.
    pub(super) fn next(&self) -> Option<Errand> {
        let desk = &mut *self.desk.lock();
        desk.errands += 1;
        if desk.errands.is_multiple_of(LIST_EVERY) && !self.queries.is_empty() {
            return Some(Errand::List(desk.random.random_range(0..self.queries.len())));
        }
        Some(match desk.chooser.choose().operation {
            Operation::Read { restaurant, document, revalidate } => {
                Errand::Read { restaurant, document, revalidate, thorough: false }
            }
            Operation::List(query) => Errand::List(query as usize),
            Operation::Write => Errand::Write(desk.operators.next(false)?.0),
        })
    }

    /// Sends the request, at most once, and judges what comes back.
    pub(super) async fn run(&self, errand: Errand) {
        let clicked = Instant::now();
        let mut connection = match self.connection().await {
            Ok(connection) => connection,
            Err(error) => {
                if let Errand::Write(operator) = errand {
                    self.desk.lock().operators.done(operator);
                }
                return self.failed(&format!("no connection: {error}"));
            }
        };
        let mut request = Vec::new();
        let sent = self.begin(errand, &mut request);
        let mut notes = Notes::default();
        match connection.exchange_noting(&request, |name, value| notes.take(name, value)).await {
            Ok(reply) => {
                let took = clicked.elapsed();
                self.answered(sent, reply.status, &notes, connection.body(), took);
                if !reply.close {
                    self.keep(connection);
                }
            }
            Err(error) => {
                if let Sent::Write { operator, id, .. } = sent {
                    let desk = &mut *self.desk.lock();
                    desk.judge.checker.write_ends(id, End::Unknown, self.clock.now_us());
                    desk.operators.done(operator);
                }
                self.failed(&format!("no answer: {error}"));
            }
        }
    }

    async fn connection(&self) -> std::io::Result<Connection> {
        {
            // The one that was used last is used next, so those below it rest the longest.
            let mut idle = self.idle.lock();
            if let Some((connection, used)) = idle.pop() {
                if used.elapsed() <= IDLE_MAX {
                    return Ok(connection);
                }
                idle.clear();
            }
        }
        Connection::open(&self.target).await
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_CONNECTIONS_MAX {
            idle.push((connection, Instant::now()));
        }
    }

    /// Writes the request; from here on it counts as started.
    fn begin(&self, errand: Errand, request: &mut Vec<u8>) -> Sent {
        let Desk { judge, chooser, operators, .. } = &mut *self.desk.lock();
        match errand {
            Errand::Read { restaurant, document, revalidate, thorough } => {
                let asked = judge.asks(restaurant, document, revalidate, thorough);
                let id = judge.checker.id(restaurant);
                self.requests.document(request, id, document, asked.tag);
                Sent::Read(asked)
            }
            Errand::List(query) => {
                self.requests.list(request, &self.queries[query]);
                Sent::List
            }
            Errand::Write(operator) => {
                let change = operators.compose(operator, &self.target, request);
                let restaurant = operators.restaurant(operator);
                chooser.follow(restaurant, &change, None);
                let now_us = self.clock.now_us();
                let id = judge.checker.write_begins(restaurant, change.clone(), now_us);
                Sent::Write { operator, id, change }
            }
        }
    }

    fn answered(&self, sent: Sent, status: u16, notes: &Notes, body: &[u8], took: Duration) {
        let figures = &self.figures.menus;
        let is_good = match sent {
            Sent::Read(asked) => {
                let is_good = matches!(status, 200 | 304);
                if is_good {
                    let judge = &mut self.desk.lock().judge;
                    judge.answered(&asked, status, notes, body, self.clock.now_us());
                    figures.read(notes.source, took);
                }
                is_good
            }
            Sent::List => {
                if status == 200 {
                    figures.listed(took);
                }
                status == 200
            }
            Sent::Write { operator, id, change } => {
                let Desk { judge, chooser, operators, .. } = &mut *self.desk.lock();
                let restaurant = operators.restaurant(operator);
                let end = end_of_write(status, body, judge.checker.id(restaurant));
                let end = end.unwrap_or_else(|why| {
                    judge.checker.unreadable(restaurant, "the answer to a write", &why);
                    End::Unknown
                });
                judge.checker.write_ends(id, end, self.clock.now_us());
                operators.done(operator);
                let is_good = matches!(end, End::Made(_));
                if is_good {
                    chooser.follow(restaurant, &change, Some(0));
                    count(&figures.writes, 1);
                }
                is_good
            }
        };
        if !is_good {
            let text = String::from_utf8_lossy(&body[..body.len().min(200)]);
            self.failed(&format!("{status} {text}"));
        }
        self.tell_violations();
    }

    /// Moves what was found to the figures, and says what is new.
    fn tell_violations(&self) {
        let news = {
            let desk = self.desk.lock();
            let findings = desk.judge.checker.findings();
            let told = &self.figures.menus.violations;
            let before = told.swap(findings.violations, std::sync::atomic::Ordering::Relaxed);
            (findings.violations > before).then(|| findings.examples.last().cloned()).flatten()
        };
        if let Some(news) = news {
            self.figures.note(format!("menus: {news}"));
        }
    }

    fn failed(&self, why: &str) {
        count(&self.figures.menus.failed, 1);
        self.figures.note(format!("menus: {why}"));
    }
}

/// What the answer to a write means; an error when it is a success that says nothing.
fn end_of_write(status: u16, body: &[u8], restaurant_id: i64) -> Result<End, String> {
    match status {
        200 => {}
        // The service may have gone on after it said so.
        408 => return Ok(End::Unknown),
        400..500 => return Ok(End::Refused),
        _ => return Ok(End::Unknown),
    }
    let answer: Answer = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    if answer.restaurant_id != restaurant_id {
        return Err(format!("it is of restaurant {}", answer.restaurant_id));
    }
    if answer.success { Ok(End::Made(answer.version)) } else { Err("without success".into()) }
}

#[cfg(test)]
mod tests;
