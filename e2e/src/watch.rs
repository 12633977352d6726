//! What goes on while something is broken, seen from outside all the time and judged afterwards.
//!
//! A [`Course`] is one thing that a client wants, followed through its stages: a fix that is
//! accepted, shown and stored, an order that is taken and paid. A [`Vigil`] looks at `/readyz` and
//! `/metrics` of processes. Both are judged by when the fault was and what it may stop.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use serde_json::Value;
use tokio::{sync::watch as channel, task::JoinHandle};

use crate::{probe::RECOVERY_MAX, service::get};

/// Work that a fault does not touch goes on within this time.
pub(crate) const GO_ON_WITHIN: Duration = Duration::from_secs(5);
/// A fault shows on `/readyz` and in the metrics within this time.
const SHOWN_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Something new begins so often,
const BEGIN_EVERY: Duration = Duration::from_secs(1);
/// and what has no end so long after the last fault is given up.
const PATIENCE: Duration = Duration::from_secs(60);

/// A time in which something was broken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    pub(crate) from: Instant,
    pub(crate) healed: Instant,
}

/// The latest time at which a stage may be reached.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    /// So long after the beginning.
    Within(Duration),
    /// The same, but for those that the broken process has taken with it, which began about when
    /// it broke: another process takes them over so long after the beginning.
    Claimed(Duration),
    /// Not before the fault is healed, and soon then.
    Healed,
    /// The same for what begins after it is healed; what waits from before has its time.
    Back,
}

/// A broken process may have taken what began so long before or after.
const TAKEN: Duration = Duration::from_secs(2);

/// Something that began, and when it reached each of its stages.
#[derive(Debug, Clone)]
pub(crate) struct Course {
    pub(crate) began: Instant,
    pub(crate) reached: Vec<Option<Instant>>,
}

/// Begins something every second until it is stopped, and waits for the ends of all, not for ever:
/// each is given a sign when it is given up, and answers what it has come to.
pub(crate) async fn follow<T, F: Future<Output = T>>(
    mut stopped: channel::Receiver<bool>,
    mut begin: impl FnMut(channel::Receiver<bool>) -> F,
) -> Vec<T> {
    let (mut under_way, mut ended) = (FuturesUnordered::new(), Vec::new());
    let (give_up, given_up) = channel::channel(false);
    let mut due = tokio::time::interval(BEGIN_EVERY);
    loop {
        tokio::select! {
            _ = due.tick() => under_way.push(begin(given_up.clone())),
            Some(one) = under_way.next() => ended.push(one),
            _ = stopped.wait_for(|stopped| *stopped) => break,
        }
    }
    let late = tokio::time::timeout(PATIENCE, async {
        while let Some(one) = under_way.next().await {
            ended.push(one);
        }
    });
    if late.await.is_err() {
        give_up.send_replace(true);
        ended.extend(under_way.collect::<Vec<_>>().await);
    }
    ended
}

/// Judges courses by a fault, up to those that begin soon after it is healed; the next fault must
/// leave them their time. Their stages have these names and bounds. Answers the worst of each
/// stage, and what failed.
pub(crate) fn judge(
    fault: &Fault,
    courses: &[Course],
    stages: &[(&str, Bound)],
) -> (String, Vec<String>) {
    let concerned = |course: &&Course| {
        course.began + TAKEN > fault.from && course.began < fault.healed + GO_ON_WITHIN
    };
    let mut courses: Vec<&Course> = courses.iter().filter(concerned).collect();
    courses.sort_unstable_by_key(|course| course.began);
    let (mut worst, mut failures) = (Vec::new(), Vec::new());
    if courses.is_empty() {
        failures.push(format!("{}: nothing began meanwhile", fault.name));
    }
    for (stage, (name, bound)) in stages.iter().enumerate() {
        let mut late = Vec::new();
        // From what the bound counts from.
        let mut longest = Duration::ZERO;
        for course in &courses {
            let base = match bound {
                Bound::Back if course.began < fault.healed => continue,
                Bound::Healed | Bound::Back => course.began.max(fault.healed),
                Bound::Within(_) | Bound::Claimed(_) => course.began,
            };
            let limit = match *bound {
                Bound::Healed | Bound::Back => RECOVERY_MAX,
                Bound::Within(limit) => limit,
                Bound::Claimed(limit) if course.began < fault.from + TAKEN => limit,
                Bound::Claimed(_) => GO_ON_WITHIN,
            };
            let took = course.reached.get(stage).copied().flatten();
            let took = took.map(|reached| reached.saturating_duration_since(base));
            longest = longest.max(took.unwrap_or_default());
            if took.is_none_or(|took| took > limit) {
                late.push((course.began.saturating_duration_since(fault.from), took));
            }
        }
        worst.push(format!("{name} {:.1} s", longest.as_secs_f64()));
        if let (Some((first, took)), Some((last, _))) = (late.first(), late.last()) {
            let took = took.map_or("never".to_owned(), |took| format!("after {took:.1?}"));
            failures.push(format!(
                "{}: {} of {} were {name} too late, those begun {first:.1?} to {last:.1?} after \
                 the fault, the first {took}",
                fault.name,
                late.len(),
                courses.len()
            ));
        }
    }
    let from = if stages.iter().any(|(_, bound)| matches!(bound, Bound::Healed)) {
        ", what it stops counted from healing"
    } else {
        ""
    };
    let count = courses.len();
    (format!("{}: of {count} the slowest: {}{from}", fault.name, worst.join(", ")), failures)
}

/// The dependencies that one way of looking shows to be down.
type Shown = fn(&Look) -> &[String];

/// One look at a process.
#[derive(Debug, Clone)]
struct Look {
    at: Instant,
    port: u16,
    /// `None` without an answer.
    status: Option<u16>,
    /// Dependencies that are down, by `/readyz` and by the metrics.
    down: Vec<String>,
    down_in_metrics: Vec<String>,
    body: String,
}

/// Looks at processes until it is dropped.
pub(crate) struct Vigil {
    looks: Arc<Mutex<Vec<Look>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Vigil {
    /// Starts to look at the processes on these ports.
    pub(crate) fn start(ports: &[u16]) -> Self {
        let looks = Arc::new(Mutex::new(Vec::new()));
        let watch = |port: &u16| tokio::spawn(watch(*port, Arc::clone(&looks)));
        Self { tasks: ports.iter().map(watch).collect(), looks }
    }

    /// Judges what was seen while this was broken of processes that were not: they are ready all
    /// the time, and one of `dependencies` is shown to be down, unless there are none.
    pub(crate) fn judge(&self, fault: &Fault, ports: &[u16], dependencies: &[&str]) -> Vec<String> {
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut failures = Vec::new();
        let during = |look: &&Look| look.at >= fault.from && look.at < fault.healed + RECOVERY_MAX;
        for port in ports {
            let looks: Vec<&Look> =
                looks.iter().filter(|look| look.port == *port).filter(during).collect();
            let unready = |look: &&&Look| look.status != Some(200);
            if let Some(first) = looks.iter().find(unready) {
                let (count, after) = (looks.iter().filter(unready).count(), first.at - fault.from);
                let (name, all, Look { status, body, .. }) = (fault.name, looks.len(), first);
                failures.push(format!(
                    "{name}: {count} of {all} looks at /readyz were not 200, first after \
                     {after:.1?}: {status:?} {body}"
                ));
            }
            if dependencies.is_empty() {
                continue;
            }
            let is_down =
                |down: &[String]| dependencies.iter().any(|name| down.iter().any(|d| d == name));
            let shows = |by: Shown| {
                let noticed = fault.from + SHOWN_WITHIN;
                looks.iter().any(|look| look.at < noticed && is_down(by(look)))
            };
            let places: [(&str, Shown); 2] =
                [("/readyz", |look| &look.down), ("dependency_up", |look| &look.down_in_metrics)];
            for (place, by) in places {
                if !shows(by) {
                    failures.push(format!(
                        "{}: {place} does not show {dependencies:?} down within {SHOWN_WITHIN:?}",
                        fault.name
                    ));
                }
            }
            let end = looks.iter().rev().find(|look| look.at >= fault.healed);
            if let Some(still) = end.filter(|look| is_down(&look.down)) {
                failures.push(format!(
                    "{}: {:?} still down {:.1?} after healing",
                    fault.name,
                    still.down,
                    still.at - fault.healed
                ));
            }
        }
        failures
    }
}

impl Drop for Vigil {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn watch(port: u16, looks: Arc<Mutex<Vec<Look>>>) {
    let mut due = tokio::time::interval(LOOK_EVERY);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        let at = Instant::now();
        let (ready, metrics) = tokio::join!(get(port, "/readyz"), get(port, "/metrics"));
        let (status, body) =
            ready.map_or((None, Vec::new()), |(status, body)| (Some(status), body));
        let json: Value = serde_json::from_slice(&body).unwrap_or_default();
        let down = json["dependencies"].as_object().into_iter().flatten();
        let down = down.filter(|(_, of)| of["status"] == "down").map(|(name, _)| name.clone());
        let metrics = metrics.map(|(_, body)| String::from_utf8_lossy(&body).into_owned());
        let look = Look {
            at,
            port,
            status,
            down: down.collect(),
            down_in_metrics: metrics.map(|text| down_by_metrics(&text)).unwrap_or_default(),
            body: String::from_utf8_lossy(&body).trim_end().to_owned(),
        };
        looks.lock().unwrap_or_else(PoisonError::into_inner).push(look);
    }
}

/// The dependencies whose gauge is 0.
fn down_by_metrics(text: &str) -> Vec<String> {
    let gauges = text.lines().filter_map(|line| line.strip_prefix("dependency_up{dependency=\""));
    let down = gauges.filter_map(|line| line.split_once("\"} ")).filter(|(_, value)| *value == "0");
    down.map(|(name, _)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn fault() -> Fault {
        let from = Instant::now();
        Fault { name: "broken", from, healed: from + S * 60 }
    }

    fn course(fault: &Fault, began: u32, took: Option<u32>) -> Course {
        let began = fault.from + S * began;
        Course { began, reached: vec![took.map(|took| began + S * took)] }
    }

    #[test]
    fn what_goes_on_is_judged_from_its_beginning() {
        let fault = fault();
        let judged =
            |took, bound| judge(&fault, &[course(&fault, 30, took)], &[("stored", bound)]).1;
        assert!(judged(Some(5), Bound::Within(GO_ON_WITHIN)).is_empty());
        assert_eq!(judged(Some(6), Bound::Within(GO_ON_WITHIN)).len(), 1);
        assert_eq!(judged(None, Bound::Within(GO_ON_WITHIN)).len(), 1);
        // 30 s in, the process that is broken has taken nothing.
        assert_eq!(judged(Some(6), Bound::Claimed(S * 20)).len(), 1);
        assert!(judged(Some(40), Bound::Healed).is_empty(), "10 s after healing");
        assert_eq!(judged(Some(41), Bound::Healed).len(), 1);
        assert_eq!(judged(None, Bound::Healed).len(), 1);
        assert!(judged(None, Bound::Back).is_empty(), "begun before healing");
        let after = [course(&fault, 61, Some(11))];
        assert_eq!(judge(&fault, &after, &[("paid", Bound::Back)]).1.len(), 1);
    }

    #[test]
    fn what_the_broken_process_took_is_claimed() {
        let fault = fault();
        let judged = |took| {
            let courses = [course(&fault, 1, Some(took))];
            judge(&fault, &courses, &[("stored", Bound::Claimed(S * 20))]).1
        };
        assert!(judged(20).is_empty());
        assert_eq!(judged(21).len(), 1);
        assert_eq!(judge(&fault, &[], &[]).1.len(), 1, "nothing was watched");
    }

    #[test]
    fn gauges_that_are_0_are_down() {
        let text = "# HELP dependency_up x\ndependency_up{dependency=\"live\"} 0\n\
                    dependency_up{dependency=\"queue\"} 1\nother 0\n";
        assert_eq!(down_by_metrics(text), ["live"]);
    }

    #[test]
    fn a_vigil_wants_200_and_the_dependency_down_in_time_and_up_again() {
        let fault = fault();
        let look = |at: u32, status, down: &[&str]| Look {
            at: fault.from + S * at,
            port: 1,
            status: Some(status),
            down: down.iter().map(ToString::to_string).collect(),
            down_in_metrics: down.iter().map(ToString::to_string).collect(),
            body: String::new(),
        };
        let judged = |looks: Vec<Look>| {
            let vigil = Vigil { looks: Arc::new(Mutex::new(looks)), tasks: Vec::new() };
            vigil.judge(&fault, &[1], &["live"])
        };
        let up = || look(69, 200, &[]);
        assert_eq!(judged(vec![look(4, 200, &["live"]), up()]), Vec::<String>::new());
        assert_eq!(judged(vec![look(4, 503, &["live"]), up()]).len(), 1, "not ready");
        assert_eq!(judged(vec![look(6, 200, &["live"]), up()]).len(), 2, "shown too late");
        assert_eq!(judged(vec![look(4, 200, &["live"]), look(69, 200, &["live"])]).len(), 1);
    }
}
