//! The task of a virtual user: one iteration after the other, for as long as there are some.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    rc::Rc,
    task::{Poll, Waker},
};

use super::{Shared, State};
use crate::run::{
    flow::{Turn, User},
    metrics::Metric,
};

/// Where a user of an open model waits for its turn. It is in `idle` at most once, so that each
/// promised arrival has a user of its own.
#[derive(Default)]
pub(super) struct Seat {
    waker: RefCell<Option<Waker>>,
    is_waiting: Cell<bool>,
}

impl Seat {
    /// Lets its user look for a turn; it is out of `idle`.
    pub(super) fn call(&self) {
        self.is_waiting.set(false);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// A virtual user's place in its lane, for as long as its task lives.
pub(super) struct Alive {
    pub(super) lane: Rc<Shared>,
    pub(super) number: u32,
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.lane.alive.set(self.lane.alive.get() - 1);
        self.lane.free_numbers.borrow_mut().push(self.number);
    }
}

impl Alive {
    /// The next iteration as soon as the last is over.
    pub(super) async fn repeat(self, mut user: Box<dyn User>) {
        while !user.agent().ending.is_said() {
            let n = self.lane.run.next_iteration(self.lane.index);
            let due_us = self.lane.run.clock.now_us();
            self.iterate(&mut *user, Turn { n, due_us }).await;
            // One that waits for nothing would keep all others from their turns.
            tokio::task::yield_now().await;
        }
    }

    /// Iterations as they come.
    pub(super) async fn serve(self, mut user: Box<dyn User>) {
        let seat = Rc::default();
        while let Some(turn) = self.next(&seat).await {
            self.iterate(&mut *user, turn).await;
        }
    }

    async fn next(&self, seat: &Rc<Seat>) -> Option<Turn> {
        let lane = &self.lane;
        poll_fn(|context| {
            // A poll that nobody asked for: what waits is promised to others.
            if seat.is_waiting.get() {
                seat.waker.replace(Some(context.waker().clone()));
                return Poll::Pending;
            }
            match lane.queue.borrow_mut().pop_front() {
                Some(turn) => {
                    lane.promised.set(lane.promised.get().saturating_sub(1));
                    Poll::Ready(Some(turn))
                }
                None if lane.state.get() != State::Running => Poll::Ready(None),
                None => {
                    seat.waker.replace(Some(context.waker().clone()));
                    seat.is_waiting.set(true);
                    lane.idle.borrow_mut().push(Rc::clone(seat));
                    Poll::Pending
                }
            }
        })
        .await
    }

    async fn iterate(&self, user: &mut dyn User, turn: Turn) {
        let mut unfinished = Unfinished { lane: &self.lane, is_finished: false };
        user.agent().begin(turn.due_us);
        user.iterate(turn).await;
        unfinished.is_finished = true;
        let us = self.lane.run.clock.now_us().saturating_sub(turn.due_us);
        let mut metrics = self.lane.run.metrics.borrow_mut();
        metrics.add(Metric::Iterations, self.lane.labels(), 1);
        metrics.time(Metric::IterationDuration, self.lane.labels(), us);
        self.lane.run.seconds.borrow_mut().iterations(self.lane.index, 1, 0);
    }
}

/// Counts an iteration that is cut off.
struct Unfinished<'a> {
    lane: &'a Shared,
    is_finished: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.is_finished {
            let mut metrics = self.lane.run.metrics.borrow_mut();
            metrics.add(Metric::InterruptedIterations, self.lane.labels(), 1);
        }
    }
}
