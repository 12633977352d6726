//! A lane whose clock is in our hand.

use std::{
    future::poll_fn,
    path::Path,
    task::{Poll, Waker},
};

use futures_util::future::LocalBoxFuture;
use rand::Rng as _;
use rustc_hash::FxHashSet;
use tokio::{sync::Semaphore, task::LocalSet};

use super::*;
use crate::run::{file::Script, flow::User, metrics::Value, state::Signers};

/// What users have begun, and how many iterations may end.
struct Work {
    /// Of each iteration its user's number, and a random number of it.
    begun: RefCell<Vec<(u32, u64)>>,
    may_end: Semaphore,
    /// Of the tasks, by their users' numbers.
    wakers: RefCell<Vec<(u32, Waker)>>,
}

impl Work {
    fn begun(&self) -> usize {
        self.begun.borrow().len()
    }
}

struct Workers(Rc<Work>);

impl Flow for Workers {
    fn user(&self, agent: Agent) -> Box<dyn User> {
        Box::new(Worker { agent, work: Rc::clone(&self.0) })
    }
}

struct Worker {
    agent: Agent,
    work: Rc<Work>,
}

impl User for Worker {
    fn agent(&mut self) -> &mut Agent {
        &mut self.agent
    }

    fn iterate(&mut self, _turn: Turn) -> LocalBoxFuture<'_, ()> {
        Box::pin(async move {
            let number = self.agent.vu;
            self.work.begun.borrow_mut().push((number, self.agent.random.random()));
            let waker = poll_fn(|context| Poll::Ready(context.waker().clone())).await;
            self.work.wakers.borrow_mut().push((number, waker));
            self.work.may_end.acquire().await.unwrap().forget();
        })
    }
}

/// The lane of a scenario of this executor, whose first tick was at 0.
async fn lane(executor: &str) -> (Lane, Rc<Run>, Rc<Work>) {
    let text = format!(
        "[target]\nauth = 'none'\n[scenarios.one]\nflow = 'requests'\n{executor}\n\
         [[scenarios.one.settings.steps]]\nurl = 'http://127.0.0.1:1/'\n"
    );
    let script = Script::parse("test", &text, Path::new("")).unwrap();
    let run = Rc::new(Run::new(script, Signers::default()));
    let work = Rc::new(Work {
        begun: RefCell::default(),
        may_end: Semaphore::new(0),
        wakers: RefCell::default(),
    });
    let lane = Lane::new(&run, 0, Box::new(Workers(Rc::clone(&work))), 0);
    at(&lane, 0).await;
    (lane, run, work)
}

/// Lets the lane do what is due so many milliseconds after its start, and its users what they can.
async fn at(lane: &Lane, ms: u64) {
    lane.tick(ms * 1_000);
    settle().await;
}

async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

fn count(run: &Run, metric: Metric) -> u64 {
    match run.metrics.borrow().sum(metric, |_| true) {
        Value::Count(count) => count,
        other => unreachable!("{other:?}"),
    }
}

const DIP: &str = "executor = 'ramping-vus'\nstart_vus = 4\ngraceful_ramp_down = '200ms'\n\
                   graceful_stop = '100ms'\n\
                   stages = [{ duration = '1s', target = 4 }, { duration = '0s', target = 2 },\n\
                   { duration = '1s', target = 2 }, { duration = '0s', target = 4 },\n\
                   { duration = '1s', target = 4 }]";

#[tokio::test]
async fn who_was_told_to_leave_is_taken_back_when_needed_again() {
    let test = async {
        let (lane, run, work) = lane(DIP).await;
        at(&lane, 1_900).await;
        assert_eq!((lane.vus(), work.begun()), (4, 4), "two were told, and are busy");
        at(&lane, 2_050).await;
        assert_eq!((lane.vus(), work.begun()), (4, 4), "nobody had to come");
        at(&lane, 2_900).await;
        work.may_end.add_permits(4);
        settle().await;
        assert_eq!((lane.vus(), work.begun()), (4, 8), "all of them go on");
        assert_eq!(count(&run, Metric::InterruptedIterations), 0);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn who_takes_too_long_is_cut_off_and_others_come() {
    let test = async {
        let (lane, run, work) = lane(DIP).await;
        at(&lane, 1_100).await;
        at(&lane, 1_250).await;
        assert_eq!(lane.vus(), 4, "they have their time");
        at(&lane, 1_350).await;
        assert_eq!((lane.vus(), count(&run, Metric::InterruptedIterations)), (2, 2));
        at(&lane, 2_100).await;
        assert_eq!((lane.vus(), work.begun()), (4, 6), "two others begin");
        let begun = work.begun.borrow().clone();
        let choices: FxHashSet<u64> = begun.iter().map(|(_, random)| *random).collect();
        assert!(begun[4..].iter().all(|(number, _)| *number < 4), "with the numbers that are free");
        assert_eq!(choices.len(), 6, "and with choices of their own: {begun:?}");
        at(&lane, 3_000).await;
        assert_eq!((lane.vus(), work.begun()), (4, 6), "they may finish");
        at(&lane, 3_150).await;
        at(&lane, 3_151).await;
        assert!(lane.is_over());
        assert_eq!(count(&run, Metric::InterruptedIterations), 6);
        assert_eq!(count(&run, Metric::Iterations), 0);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn who_leaves_when_told_is_not_missed() {
    let test = async {
        let (lane, run, work) = lane(DIP).await;
        at(&lane, 1_100).await;
        work.may_end.add_permits(4);
        settle().await;
        assert_eq!((lane.vus(), work.begun()), (2, 6), "two have gone, two go on");
        at(&lane, 2_100).await;
        assert_eq!((lane.vus(), work.begun()), (4, 8));
        assert_eq!(count(&run, Metric::InterruptedIterations), 0);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn what_waits_is_bounded_and_the_rest_is_dropped() {
    let test = async {
        let executor = "executor = 'constant-arrival-rate'\nrate = 1000000\nduration = '1h'\n\
                        pre_allocated_vus = 1\nmax_wait = '1h'";
        let (lane, run, work) = lane(executor).await;
        at(&lane, 1_500).await;
        assert_eq!(lane.0.queue.borrow().len(), QUEUE_MAX);
        let waiting = QUEUE_MAX as u64 + work.begun() as u64;
        assert_eq!(count(&run, Metric::DroppedIterations), lane.0.arrivals.get() - waiting);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn one_user_is_not_promised_two_arrivals() {
    let test = async {
        let executor = "executor = 'constant-arrival-rate'\nrate = 10\nduration = '1h'\n\
                        pre_allocated_vus = 1\nmax_wait = '150ms'";
        let (lane, run, work) = lane(executor).await;
        work.may_end.add_permits(1);
        settle().await;
        assert_eq!((work.begun(), lane.0.idle.borrow().len()), (1, 1), "it waits for its turn");
        // Whoever polls a task need not have a reason.
        let waker = work.wakers.borrow()[0].1.clone();
        for _ in 0..3 {
            waker.wake_by_ref();
            settle().await;
        }
        // The second and the third arrival come at once, and there is one user.
        at(&lane, 210).await;
        assert_eq!(work.begun(), 2);
        assert_eq!(count(&run, Metric::DroppedIterations), 0);
        at(&lane, 360).await;
        assert_eq!(count(&run, Metric::DroppedIterations), 1, "the third has waited in vain");
    };
    LocalSet::new().run_until(test).await;
}
