//! What was seen, judged by when it happened.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{client::Source, ledger::Violation};

/// Of all requests so many are answered, also while something is broken.
pub(super) const ANSWERED_MIN: f64 = 0.99;
/// 99 % of the reads take no longer once the fault is noticed,
pub(super) const P99_MAX: Duration = Duration::from_millis(200);
/// which it is within this time.
pub(super) const NOTICED_WITHIN: Duration = Duration::from_secs(1);
/// From then on, what is asked for again and again comes from a cache.
pub(super) const BACK_WITHIN: Duration = Duration::from_secs(5);
/// How long that is looked at, and how much of it must.
pub(super) const BACK_FOR: Duration = Duration::from_secs(2);
const BACK_MIN: f64 = 0.9;
/// An operator's call waits at most for the lease of a node that is gone, and then some.
pub(super) const WRITE_MAX: Duration = Duration::from_secs(3);
/// The same for one that meets a lock which nobody gives up; the witness writes 16 restaurants.
const LOCK_MAX: Duration = Duration::from_secs(1);
const ANSWERED_BESIDE_A_LOCK_MIN: f64 = 0.85;
/// With invalidations cut, a read is stale for no longer after healing.
const STALE_AFTER: Duration = Duration::from_secs(2);

/// What was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// A read of one of few documents that nobody changes.
    Hot,
    /// Any other read.
    Read,
    Write,
}

/// A request and how it ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// When it was to be sent: what waits behind a slow answer counts from here.
    pub(super) due: Instant,
    pub(super) took: Duration,
    pub(super) node: usize,
    pub(super) what: What,
    /// `None` without an answer.
    pub(super) status: Option<u16>,
    pub(super) source: Option<Source>,
}

/// A time in which something was broken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) from: Instant,
    /// When it was whole again.
    pub(super) healed: Instant,
    /// A node that cannot be expected to answer.
    pub(super) victim: Option<usize>,
    /// Operators can write all the while. Without the database they cannot, and only what is asked
    /// for often is sure to be in a cache.
    pub(super) writes: bool,
    /// Nodes could not be told of changes.
    pub(super) is_cut: bool,
    /// One of the restaurants that are written may be locked by what broke, until PostgreSQL ends
    /// its transaction.
    pub(super) holds: bool,
}

/// Figures of some requests.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Figures {
    pub(super) count: usize,
    pub(super) answered: usize,
    pub(super) p99: Duration,
    pub(super) slowest: Duration,
}

impl Figures {
    /// Of those that were due in a time.
    pub(super) fn of<'a>(all: impl IntoIterator<Item = &'a Seen>) -> Self {
        let mut took = Vec::new();
        let mut answered = 0;
        for seen in all {
            answered += usize::from(seen.status == Some(200));
            took.push(seen.took);
        }
        took.sort_unstable();
        let count = took.len();
        let p99 = took.get((count * 99).div_ceil(100).saturating_sub(1)).copied();
        let (p99, slowest) = (p99.unwrap_or_default(), took.last().copied().unwrap_or_default());
        Self { count, answered, p99, slowest }
    }

    /// 1 when there were none.
    pub(super) fn share(&self) -> f64 {
        if self.count == 0 { 1.0 } else { self.answered as f64 / self.count as f64 }
    }
}

/// What a round has to say about its spans.
#[derive(Debug, Default)]
pub(super) struct Judgement {
    /// While something was broken: the worst of all spans.
    pub(super) answered: Option<f64>,
    pub(super) p99: Option<Duration>,
    /// How much of what is hot came from a cache once the fault was noticed.
    pub(super) cached: Option<f64>,
    pub(super) back: Option<Duration>,
    pub(super) written: Option<f64>,
    pub(super) write: Option<Duration>,
    /// Reads that were excused, and how far they were behind at most.
    pub(super) excused: usize,
    pub(super) behind: Duration,
    pub(super) failures: Vec<String>,
}

impl Judgement {
    /// Judges a whole round.
    pub(super) fn of(seen: &[Seen], spans: &[Span], violations: &[Violation]) -> Self {
        let mut judgement = Self::default();
        for (number, span) in spans.iter().enumerate() {
            judgement.span(number + 1, seen, span);
        }
        judgement.calm(seen, spans);
        judgement.violations(spans, violations);
        judgement
    }

    fn span(&mut self, number: usize, seen: &[Seen], span: &Span) {
        let fails = &mut self.failures;
        let end = span.healed + BACK_WITHIN;
        let between = |from: Instant, to: Instant| {
            seen.iter().filter(move |s| {
                s.due >= from && s.due < to && (Some(s.node) != span.victim || s.due >= end)
            })
        };
        let is_write = |s: &&Seen| s.what == What::Write;
        let is_read = |s: &&Seen| s.what == What::Hot || (s.what == What::Read && span.writes);

        let reads = Figures::of(between(span.from, end).filter(is_read));
        if reads.share() < ANSWERED_MIN || reads.count == 0 {
            let (answered, count) = (reads.answered, reads.count);
            fails.push(format!("fault {number}: {answered} of {count} reads were answered"));
        }
        lower(&mut self.answered, reads.share());

        // A fault that is over at once is looked at for as long as it is allowed to show.
        let noticed = span.from + NOTICED_WITHIN;
        let until = span.healed.max(noticed + BACK_WITHIN);
        let quick = Figures::of(between(noticed, until).filter(is_read));
        if quick.p99 > P99_MAX {
            let slow = slow(between(noticed, until).filter(is_read), span.from);
            let p99 = quick.p99;
            fails.push(format!("fault {number}: p99 of reads is {p99:.0?} once noticed: {slow}"));
        }
        raise(&mut self.p99, quick.p99);
        let cached = |s: &&Seen| matches!(s.source, Some(Source::Hit | Source::Shared));
        let hot = || between(noticed, span.healed).filter(|s| s.what == What::Hot);
        if hot().count() > 0 {
            lower(&mut self.cached, hot().filter(cached).count() as f64 / hot().count() as f64);
        }

        if span.writes {
            let writes = Figures::of(between(span.from, end).filter(is_write));
            let (least, most) = match span.holds {
                true => (ANSWERED_BESIDE_A_LOCK_MIN, WRITE_MAX + LOCK_MAX),
                false => (ANSWERED_MIN, WRITE_MAX),
            };
            if writes.share() < least || writes.count == 0 || writes.slowest > most {
                let Figures { count, answered, slowest, .. } = writes;
                let took = format!("the slowest took {slowest:.2?}");
                fails.push(format!("fault {number}: {answered} of {count} writes done, {took}"));
            }
            lower(&mut self.written, writes.share());
            raise(&mut self.write, writes.slowest);
        }

        // Every node is back: its first answer from a cache, and most of them later.
        for node in 0..2 {
            let hot = |from: Instant, to: Instant| {
                seen.iter().filter(move |s| {
                    s.what == What::Hot && s.node == node && s.due >= from && s.due < to
                })
            };
            let first = hot(span.healed, end).filter(cached).map(|s| s.due + s.took).min();
            let Some(first) = first else {
                fails
                    .push(format!("fault {number}: node {node} is not back after {BACK_WITHIN:?}"));
                continue;
            };
            raise(&mut self.back, first - span.healed);
            let (all, back) = (hot(end, end + BACK_FOR), hot(end, end + BACK_FOR).filter(cached));
            let (all, back) = (all.count(), back.count());
            if (back as f64) < BACK_MIN * all as f64 || all == 0 {
                fails.push(format!(
                    "fault {number}: then {back} of {all} of node {node} are cached"
                ));
            }
        }
    }

    /// Outside of all spans everything is answered, and nothing may be answered by 5xx other than
    /// 503 and 504 at any time (I13).
    fn calm(&mut self, seen: &[Seen], spans: &[Span]) {
        let is_calm = |s: &&Seen| {
            let inside =
                |span: &Span| s.due + s.took >= span.from && s.due < span.healed + BACK_WITHIN;
            !spans.iter().any(inside)
        };
        let failed = |s: &&Seen| is_calm(s) && s.status != Some(200);
        if let Some(first) = seen.iter().find(failed) {
            let (count, all) =
                (seen.iter().filter(failed).count(), seen.iter().filter(is_calm).count());
            let since = spans.iter().map(|span| span.healed).filter(|healed| *healed <= first.due);
            let after = since.max().map(|healed| first.due - healed);
            let Seen { what, node, status, took, .. } = first;
            self.failures.push(format!(
                "{count} of {all} failed without a fault, first a {what:?} of node {node} {after:.1?} \
                 after healing: {status:?} after {took:.2?}"
            ));
        }
        let wrong = |s: &&Seen| s.status.is_some_and(|s| !matches!(s, 200 | 503 | 504));
        if let Some(first) = seen.iter().find(wrong) {
            let (count, status) = (seen.iter().filter(wrong).count(), first.status);
            self.failures.push(format!("{count} answers such as {status:?}"));
        }
    }

    fn violations(&mut self, spans: &[Span], violations: &[Violation]) {
        let is_excused = |violation: &&Violation| {
            let within = |span: &Span| {
                let end = span.healed + STALE_AFTER;
                span.is_cut && (span.from..end).contains(&violation.at)
            };
            violation.behind.is_some() && spans.iter().any(within)
        };
        let (excused, broken): (Vec<_>, Vec<_>) = violations.iter().partition(is_excused);
        self.excused = excused.len();
        self.behind =
            excused.iter().filter_map(|violation| violation.behind).max().unwrap_or_default();
        if let Some(first) = broken.first() {
            let since = spans.iter().map(|span| span.from).filter(|from| *from <= first.at).max();
            let after = since.map(|since| first.at - since);
            self.failures.push(format!(
                "I10 was broken {} times, first {after:.1?} after a fault: {}, known for {:.2?}",
                broken.len(),
                first.what,
                first.behind.unwrap_or_default()
            ));
        }
    }
}

/// Where the slow ones came from, and when they were due.
fn slow<'a>(seen: impl Iterator<Item = &'a Seen>, from: Instant) -> String {
    let mut by_source = BTreeMap::<String, (usize, Duration, Duration)>::new();
    for seen in seen.filter(|seen| seen.took > P99_MAX) {
        let source = seen.source.map_or_else(|| format!("{:?}", seen.status), |s| format!("{s:?}"));
        let due = seen.due - from;
        let (count, first, last) =
            by_source.entry(format!("node {} {source}", seen.node)).or_insert((0, due, due));
        *count += 1;
        (*first, *last) = ((*first).min(due), (*last).max(due));
    }
    let each = by_source.iter().map(|(source, (count, first, last))| {
        format!("{count} by {source} from {first:.1?} to {last:.1?}")
    });
    each.collect::<Vec<_>>().join(", ")
}

fn raise(worst: &mut Option<Duration>, by: Duration) {
    *worst = Some(worst.map_or(by, |worst| worst.max(by)));
}

fn lower(worst: &mut Option<f64>, by: f64) {
    *worst = Some(worst.map_or(by, |worst| worst.min(by)));
}

#[cfg(test)]
mod tests;
