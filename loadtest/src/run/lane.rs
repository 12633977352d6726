//! One scenario while it runs: its virtual users, and the iterations that wait for one.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    time::Duration,
};

use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::{
    agent::Agent,
    executor::Load,
    flow::{Flow, Turn},
    leave::Leave,
    metrics::{Labels, Metric},
    state::Run,
};

mod user;

use user::{Alive, Seat};

/// Arrivals that wait for a user, at most: some 16 MB. It is more than the generator could send
/// within `max_wait`, unless that is long.
const QUEUE_MAX: usize = 1_000_000;

/// A scenario on its way.
pub(super) struct Lane(Rc<Shared>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    /// No iteration begins any more; when that was, µs.
    Ending(u64),
    Over,
}

struct Shared {
    run: Rc<Run>,
    index: u16,
    flow: Box<dyn Flow>,
    start_us: u64,
    state: Cell<State>,
    /// The load is over.
    ending: CancellationToken,
    users: RefCell<Vec<Handle>>,
    /// Of these, how many were not told to end: counting 50,000 at every tick would be felt.
    staying: Cell<u32>,
    /// Virtual users whose tasks live.
    alive: Cell<u32>,
    /// The number of the next virtual user; numbers of those that have gone are used again.
    free_numbers: RefCell<Vec<u32>>,
    /// Virtual users so far.
    started: Cell<u32>,
    /// Of an open model: arrivals so far, those that wait, and users without one.
    arrivals: Cell<u64>,
    queue: RefCell<VecDeque<Turn>>,
    idle: RefCell<Vec<Rc<Seat>>>,
    /// Waiting arrivals whose user was woken and has not come yet.
    promised: Cell<usize>,
}

/// A virtual user's task.
struct Handle {
    ending: Leave,
    abort: AbortHandle,
    stay: Stay,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stay {
    Wanted,
    /// It was told to leave when its iteration is over; when that was, µs.
    Told(u64),
    /// It had its time, and its task ends.
    Cut,
}

impl Lane {
    /// Of a scenario that begins so long after the start of the run's clock.
    pub(super) fn new(run: &Rc<Run>, index: u16, flow: Box<dyn Flow>, begin_us: u64) -> Self {
        let start = run.script.scenarios[usize::from(index)].start;
        Self(Rc::new(Shared {
            run: Rc::clone(run),
            index,
            flow,
            start_us: begin_us + start.as_micros() as u64,
            state: Cell::new(State::Waiting),
            ending: CancellationToken::new(),
            users: RefCell::default(),
            staying: Cell::new(0),
            alive: Cell::new(0),
            free_numbers: RefCell::default(),
            started: Cell::new(0),
            arrivals: Cell::new(0),
            queue: RefCell::default(),
            idle: RefCell::default(),
            promised: Cell::new(0),
        }))
    }

    pub(super) fn is_over(&self) -> bool {
        self.0.state.get() == State::Over
    }

    /// Whether it only goes on for the others.
    pub(super) fn is_background(&self) -> bool {
        self.0.run.script.scenarios[usize::from(self.0.index)].background
    }

    /// Virtual users.
    pub(super) fn vus(&self) -> u32 {
        self.0.alive.get()
    }

    /// Begins no more iterations; those that have begun may end.
    pub(super) fn end(&self, now_us: u64) {
        let lane = &self.0;
        match lane.state.get() {
            State::Waiting => lane.state.set(State::Over),
            State::Running => {
                lane.state.set(State::Ending(now_us));
                lane.ending.cancel();
                // Who has no iteration sees that there will be none.
                lane.idle.borrow_mut().drain(..).for_each(|seat| seat.call());
            }
            State::Ending(_) | State::Over => {}
        }
    }

    /// Does what is due.
    pub(super) fn tick(&self, now_us: u64) {
        let lane = &self.0;
        let scenario = &lane.run.script.scenarios[usize::from(lane.index)];
        if lane.state.get() == State::Waiting && now_us >= lane.start_us {
            lane.state.set(State::Running);
            if let Load::Arrivals { pre_allocated, .. } = scenario.load {
                (0..pre_allocated).for_each(|_| lane.add_user());
            }
        }
        match lane.state.get() {
            State::Waiting | State::Over => return,
            State::Running => {
                let time = Duration::from_micros(now_us - lane.start_us);
                let is_over = time >= scenario.load.duration();
                match &scenario.load {
                    // The ramp is 0 then, but who is left has `graceful_stop` to finish.
                    Load::Users { .. } if is_over => {}
                    Load::Users { vus, .. } => lane.adjust(vus.at(time).round() as u32, now_us),
                    Load::Arrivals { rate, max_vus, .. } => {
                        lane.arrive(now_us, *max_vus, |n| rate.due_us(n));
                    }
                }
                if is_over {
                    self.end(now_us);
                }
            }
            State::Ending(since_us) => {
                let grace = scenario.graceful_stop.as_micros() as u64;
                // Those that are cut off are gone when their tasks have been dropped.
                if lane.alive.get() == 0 && lane.queue.borrow().is_empty() {
                    lane.state.set(State::Over);
                } else if now_us.saturating_sub(since_us) > grace {
                    lane.users.borrow().iter().for_each(|user| user.abort.abort());
                    let waiting = lane.queue.borrow().len();
                    lane.drop_waiting(waiting);
                }
            }
        }
        match &scenario.load {
            Load::Arrivals { max_wait, .. } => lane.expire(now_us, *max_wait),
            Load::Users { graceful_ramp_down, .. } => lane.cut(now_us, *graceful_ramp_down),
        }
        lane.forget_finished();
    }
}

impl Shared {
    fn labels(&self) -> Labels {
        Labels { scenario: self.index, ..Labels::default() }
    }

    /// Starts a virtual user.
    fn add_user(self: &Rc<Self>) {
        let number = self.free_numbers.borrow_mut().pop().unwrap_or_else(|| self.alive.get());
        self.alive.set(self.alive.get() + 1);
        let ending = Leave::with(&self.ending);
        let alive = Alive { lane: Rc::clone(self), number };
        // A number is used again, and with it the same choices would be made again.
        let random = self.run.random(self.index, self.started.get());
        self.started.set(self.started.get().wrapping_add(1));
        let agent = Agent::new(&self.run, self.index, number, random, ending.clone());
        let user = self.flow.user(agent);
        let is_open = self.run.script.scenarios[usize::from(self.index)].load.is_open();
        let work =
            async move { if is_open { alive.serve(user).await } else { alive.repeat(user).await } };
        let abort = tokio::task::spawn_local(work).abort_handle();
        self.users.borrow_mut().push(Handle { ending, abort, stay: Stay::Wanted });
        self.staying.set(self.staying.get() + 1);
    }

    fn forget_finished(&self) {
        let mut users = self.users.borrow_mut();
        if users.len() != self.alive.get() as usize {
            users.retain(|user| !user.abort.is_finished());
            let staying = users.iter().filter(|user| user.stay == Stay::Wanted);
            self.staying.set(staying.count() as u32);
        }
    }

    /// Has so many virtual users of a closed model, and tells those that are too many.
    fn adjust(self: &Rc<Self>, target: u32, now_us: u64) {
        self.take_back(target.saturating_sub(self.staying.get()) as usize);
        // Who is cut off has its number until its task is gone, and a number can be somebody: so there
        // are never more of them than users that are wanted.
        (self.alive.get()..target).for_each(|_| self.add_user());
        let too_many = self.staying.get().saturating_sub(target);
        if too_many == 0 {
            return;
        }
        let mut users = self.users.borrow_mut();
        let staying = users.iter_mut().rev().filter(|user| user.stay == Stay::Wanted);
        for user in staying.take(too_many as usize) {
            user.stay = Stay::Told(now_us);
            user.ending.say();
        }
        self.staying.set(target);
    }

    /// Keeps up to `count` of those that were told to leave and are still here, the last told first:
    /// with new ones in their place there would be more users than the ramp says.
    fn take_back(&self, count: usize) {
        let mut users = self.users.borrow_mut();
        if count == 0 || users.len() == self.staying.get() as usize {
            return;
        }
        let is_here =
            |user: &&mut Handle| matches!(user.stay, Stay::Told(_)) && !user.abort.is_finished();
        for user in users.iter_mut().filter(is_here).take(count) {
            user.stay = Stay::Wanted;
            user.ending.take_back(&self.ending);
            self.staying.set(self.staying.get() + 1);
        }
    }

    /// Cuts off the iterations of users that were told to end.
    fn cut(&self, now_us: u64, grace: Duration) {
        let mut users = self.users.borrow_mut();
        if users.len() == self.staying.get() as usize {
            return;
        }
        for user in users.iter_mut() {
            if let Stay::Told(told_us) = user.stay
                && now_us.saturating_sub(told_us) > grace.as_micros() as u64
            {
                user.stay = Stay::Cut;
                user.abort.abort();
            }
        }
    }

    /// Hands out the arrivals that are due.
    fn arrive(self: &Rc<Self>, now_us: u64, max_vus: u32, due_us: impl Fn(u64) -> Option<u64>) {
        while let Some(due_us) = due_us(self.arrivals.get()).map(|us| us + self.start_us)
            && due_us <= now_us
        {
            self.arrivals.set(self.arrivals.get() + 1);
            let n = self.run.next_iteration(self.index);
            if self.queue.borrow().len() >= QUEUE_MAX {
                self.dropped(1);
                continue;
            }
            self.queue.borrow_mut().push_back(Turn { n, due_us });
            if let Some(seat) = self.idle.borrow_mut().pop() {
                self.promised.set(self.promised.get() + 1);
                seat.call();
            } else if self.alive.get() < max_vus {
                self.promised.set(self.promised.get() + 1);
                self.add_user();
            }
        }
    }

    /// Drops arrivals that nobody could begin for too long.
    fn expire(&self, now_us: u64, max_wait: Duration) {
        let max_us = max_wait.as_micros() as u64;
        let expired = {
            let queue = self.queue.borrow();
            let waiting = queue.iter().take(queue.len().saturating_sub(self.promised.get()));
            waiting.take_while(|turn| now_us.saturating_sub(turn.due_us) >= max_us).count()
        };
        self.drop_waiting(expired);
    }

    fn drop_waiting(&self, count: usize) {
        if count > 0 {
            self.queue.borrow_mut().drain(..count);
            self.dropped(count);
        }
    }

    fn dropped(&self, count: usize) {
        let more = count as u64;
        self.run.metrics.borrow_mut().add(Metric::DroppedIterations, self.labels(), more);
        self.run.seconds.borrow_mut().iterations(self.index, 0, count as u32);
    }
}

#[cfg(test)]
mod tests;
