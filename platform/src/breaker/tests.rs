use std::sync::Barrier;
use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;

use super::*;

const SETTINGS: Settings = Settings {
    window: Duration::from_millis(1_000),
    failures_min: 4,
    failure_share: 0.5,
    open_for: Duration::from_millis(200),
    open_max: Duration::from_millis(1_500),
};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// One that has just opened, and when.
fn opened(settings: Settings, seed: u64) -> (Breaker, Instant) {
    let now = Instant::now();
    let breaker = Breaker::new(settings, seed, now);
    for _ in 0..settings.failures_min {
        breaker.try_acquire(now).unwrap().failure(now);
    }
    assert_eq!(breaker.state(now), State::Open);
    (breaker, now)
}

fn retry_after(breaker: &Breaker, now: Instant) -> Duration {
    breaker.try_acquire(now).expect_err("refused").retry_after
}

#[test]
fn opens_at_the_least_number_and_at_the_share() {
    let now = Instant::now();
    let breaker = Breaker::new(SETTINGS, 1, now);
    for _ in 0..5 {
        breaker.try_acquire(now).unwrap().success(now);
    }
    for _ in 0..4 {
        breaker.try_acquire(now).unwrap().failure(now);
    }
    assert_eq!(breaker.state(now), State::Closed, "4 of 9 are less than half");
    breaker.try_acquire(now).unwrap().failure(now);
    assert_eq!(breaker.state(now), State::Open, "5 of 10 are half");

    let few = Breaker::new(SETTINGS, 1, now);
    for _ in 0..3 {
        few.try_acquire(now).unwrap().failure(now);
    }
    assert_eq!(few.state(now), State::Closed, "3 of 3 are too few");
}

#[test]
fn what_is_older_than_the_window_does_not_count() {
    let mut now = Instant::now();
    let breaker = Breaker::new(SETTINGS, 1, now);
    for _ in 0..20 {
        breaker.try_acquire(now).unwrap().failure(now);
        // Three failures at most are within one window.
        now += ms(400);
    }
    assert_eq!(breaker.state(now), State::Closed);
}

#[test]
fn each_failed_probe_doubles_the_wait_and_success_forgets_it() {
    let (breaker, mut now) = opened(SETTINGS, 3);
    for full in [200, 400, 800, 1_500, 1_500] {
        let wait = retry_after(&breaker, now);
        assert!(wait <= ms(full) && wait >= ms(full) * 3 / 4, "{wait:?} of {full} ms");
        now += wait;
        let probe = breaker.try_acquire(now).unwrap();
        assert!(probe.is_probe());
        probe.failure(now);
        assert_eq!(breaker.state(now), State::Open);
    }
    now += retry_after(&breaker, now);
    breaker.try_acquire(now).unwrap().success(now);
    assert_eq!(breaker.state(now), State::Closed);
    for _ in 0..3 {
        breaker.try_acquire(now).unwrap().failure(now);
    }
    assert_eq!(breaker.state(now), State::Closed, "the old failures are forgotten");
    breaker.try_acquire(now).unwrap().failure(now);
    assert!(retry_after(&breaker, now) <= ms(200), "it begins anew");
}

#[test]
fn a_dropped_probe_failed_and_any_other_drop_says_nothing() {
    let (breaker, mut now) = opened(SETTINGS, 3);
    now += retry_after(&breaker, now);
    let probe = breaker.try_acquire(now).unwrap();
    now += ms(50);
    assert_eq!(retry_after(&breaker, now), SETTINGS.open_for);
    drop(probe);
    assert_eq!(breaker.state(now), State::Open);
    assert!(retry_after(&breaker, now) > ms(200), "open for longer, from the drop on");

    let untouched = Breaker::new(SETTINGS, 3, now);
    for _ in 0..100 {
        drop(untouched.try_acquire(now).unwrap());
    }
    assert_eq!(untouched.state(now), State::Closed);
}

#[test]
fn results_of_before_do_not_count() {
    let now = Instant::now();
    let breaker = Breaker::new(SETTINGS, 3, now);
    let slow: Vec<Permit<&Breaker>> = (0..20).map(|_| breaker.try_acquire(now).unwrap()).collect();
    let mut slow = slow.into_iter();
    for _ in 0..4 {
        breaker.try_acquire(now).unwrap().failure(now);
    }
    let later = now + retry_after(&breaker, now);
    slow.next().unwrap().success(later);
    assert_eq!(breaker.state(now), State::Open, "an old success closes nothing");
    let probe = breaker.try_acquire(later).unwrap();
    slow.next().unwrap().success(later);
    slow.next().unwrap().failure(later);
    assert_eq!(breaker.state(later), State::HalfOpen, "only the probe decides");
    probe.success(later);
    for permit in slow {
        permit.failure(later);
    }
    assert_eq!(breaker.state(later), State::Closed, "an old failure opens nothing");
}

#[test]
fn seeds_spread_the_probes() {
    let waits = |seed| {
        let (breaker, now) = opened(SETTINGS, seed);
        retry_after(&breaker, now)
    };
    let all: std::collections::BTreeSet<Duration> = (0..100).map(waits).collect();
    assert!(all.len() > 90);
    assert!(all.first().unwrap() < &ms(160) && all.last().unwrap() > &ms(190));
    assert_eq!(waits(5), waits(5), "a seed replays");
}

#[test]
fn one_of_200_threads_probes() {
    let (breaker, mut now) = opened(SETTINGS, 9);
    for round in 0..10 {
        now += SETTINGS.open_max;
        let (start, probes) = (Barrier::new(200), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..200 {
                scope.spawn(|| {
                    start.wait();
                    let permit = breaker.try_acquire(now);
                    probes.fetch_add(usize::from(permit.is_ok()), Ordering::Relaxed);
                    // Nobody ends the probe before everybody has asked.
                    start.wait();
                    if let Ok(probe) = permit {
                        assert!(probe.is_probe());
                        match round % 2 {
                            0 => probe.failure(now),
                            _ => drop(probe),
                        }
                    }
                });
            }
        });
        assert_eq!(probes.into_inner(), 1, "round {round}");
        assert_eq!(breaker.state(now), State::Open);
    }
}

#[test]
fn every_result_of_many_threads_counts() {
    let now = Instant::now();
    let failures_min = 8_000;
    let breaker = Breaker::new(Settings { failures_min, ..SETTINGS }, 9, now);
    let fail = |times: u32| {
        for _ in 0..times {
            breaker.try_acquire(now).unwrap().failure(now);
        }
    };
    std::thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(|| fail(999)))));
    fail(7);
    assert_eq!(breaker.state(now), State::Closed, "7,999 failed");
    fail(1);
    assert_eq!(breaker.state(now), State::Open, "8,000 failed");
}

/// The same promises, said as simply as possible: a list of results and of who began when.
struct Model {
    now_ms: u64,
    closed_at_ms: u64,
    state: ModelState,
    results: Vec<(u64, bool)>,
    openings: u32,
    /// The calls under way: which closed period or probe they belong to.
    calls: Vec<u32>,
    period: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum ModelState {
    Closed,
    Open { until: Duration },
    Probing,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Wait(u64),
    Begin,
    Succeed(prop::sample::Index),
    Fail(prop::sample::Index),
    Drop(prop::sample::Index),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Success,
    Failure,
    Dropped,
}

impl Model {
    fn new() -> Self {
        Self {
            now_ms: 0,
            closed_at_ms: 0,
            state: ModelState::Closed,
            results: Vec::new(),
            openings: 0,
            calls: Vec::new(),
            period: 0,
        }
    }

    fn visible(&self) -> State {
        match self.state {
            ModelState::Closed => State::Closed,
            ModelState::Open { until } if ms(self.now_ms) < until => State::Open,
            ModelState::Open { .. } | ModelState::Probing => State::HalfOpen,
        }
    }

    fn begin(&mut self) -> bool {
        let leave = match self.state {
            ModelState::Closed => true,
            ModelState::Open { until } => ms(self.now_ms) >= until,
            ModelState::Probing => false,
        };
        if leave && self.state != ModelState::Closed {
            self.state = ModelState::Probing;
            self.period += 1;
        }
        if leave {
            self.calls.push(self.period);
        }
        leave
    }

    /// Whether it opens now.
    fn end(&mut self, index: usize, end: End) -> bool {
        let period = self.calls.swap_remove(index);
        if period != self.period {
            return false;
        }
        match (self.state, end) {
            (ModelState::Open { .. }, _) | (ModelState::Closed, End::Dropped) => false,
            (ModelState::Probing, End::Success) => {
                self.state = ModelState::Closed;
                self.closed_at_ms = self.now_ms;
                self.results.clear();
                self.openings = 0;
                self.period += 1;
                false
            }
            (ModelState::Probing, End::Failure | End::Dropped) => true,
            (ModelState::Closed, end) => {
                self.results.push((self.now_ms, end == End::Failure));
                let slot = |at_ms: u64| (at_ms - self.closed_at_ms) / 100;
                let within = |&&(at_ms, _): &&(u64, bool)| slot(at_ms) + 10 > slot(self.now_ms);
                let all = self.results.iter().filter(within).count();
                let failed = self.results.iter().filter(within).filter(|result| result.1).count();
                end == End::Failure && failed >= 4 && failed * 2 >= all
            }
        }
    }

    fn open(&mut self, wait: Duration) {
        let full = ms((200 << self.openings.min(10)).min(1_500));
        assert!(wait <= full && wait >= full * 3 / 4, "{wait:?} of {full:?}");
        self.state = ModelState::Open { until: ms(self.now_ms) + wait };
        self.openings += 1;
        self.period += 1;
    }
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        2 => (0_u64..30).prop_map(Step::Wait),
        1 => (30_u64..1_200).prop_map(Step::Wait),
        9 => Just(Step::Begin),
        3 => index().prop_map(Step::Succeed),
        4 => index().prop_map(Step::Fail),
        1 => index().prop_map(Step::Drop),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    /// 400 runs of 200 to 400 steps, at least 80,000.
    #[test]
    fn does_what_the_model_does(
        seed in any::<u64>(),
        steps in prop::collection::vec(step(), 200..400),
    ) {
        let start = Instant::now();
        let breaker = Breaker::new(SETTINGS, seed, start);
        let (mut model, mut permits) = (Model::new(), Vec::new());
        for step in steps {
            let now = start + ms(model.now_ms);
            match step {
                Step::Wait(wait_ms) => {
                    model.now_ms += wait_ms;
                    // A refused caller reads the clock too; drops go by what the breaker knows.
                    if matches!(model.visible(), State::Open) || model.state == ModelState::Probing {
                        prop_assert!(breaker.try_acquire(start + ms(model.now_ms)).is_err());
                    }
                }
                Step::Begin => {
                    let permit = breaker.try_acquire(now);
                    prop_assert_eq!(permit.is_ok(), model.begin());
                    match permit {
                        Ok(permit) => {
                            prop_assert_eq!(permit.is_probe(), model.state == ModelState::Probing);
                            permits.push(permit);
                        }
                        Err(open) => prop_assert!(open.retry_after > Duration::ZERO),
                    }
                }
                Step::Succeed(_) | Step::Fail(_) | Step::Drop(_) if permits.is_empty() => {}
                Step::Succeed(index) | Step::Fail(index) | Step::Drop(index) => {
                    let index = index.index(permits.len());
                    let permit: Permit<&Breaker> = permits.swap_remove(index);
                    let end = match step {
                        Step::Succeed(_) => { permit.success(now); End::Success }
                        Step::Fail(_) => { permit.failure(now); End::Failure }
                        _ => { drop(permit); End::Dropped }
                    };
                    if model.end(index, end) {
                        model.open(retry_after(&breaker, now));
                    }
                }
            }
            prop_assert_eq!(breaker.state(start + ms(model.now_ms)), model.visible());
        }
    }
}
