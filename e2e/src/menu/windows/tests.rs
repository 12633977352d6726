use super::*;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A minute in which both nodes are asked every 10 ms and written to every 100 ms, with a fault
/// from 10 s to 20 s; `change` makes of each request what it was.
fn minute(change: impl Fn(u64, &mut Seen)) -> (Vec<Seen>, Span) {
    let start = Instant::now();
    let mut all = Vec::new();
    for at_ms in (0..60_000).step_by(10) {
        for node in 0..2 {
            let what = match at_ms {
                at if at % 100 == 0 => What::Write,
                at if at % 50 == 0 => What::Hot,
                _ => What::Read,
            };
            let mut seen = Seen {
                due: start + ms(at_ms),
                took: ms(2),
                node,
                what,
                status: Some(200),
                source: (what != What::Write).then_some(Source::Hit),
            };
            change(at_ms, &mut seen);
            all.push(seen);
        }
    }
    let (from, healed) = (start + ms(10_000), start + ms(20_000));
    (all, Span { from, healed, victim: None, writes: true, is_cut: false, holds: false })
}

fn judge(change: impl Fn(u64, &mut Seen)) -> Judgement {
    let (seen, span) = minute(change);
    Judgement::of(&seen, &[span], &[])
}

fn is_read(seen: &Seen) -> bool {
    seen.what != What::Write
}

#[test]
fn what_goes_on_holds() {
    let judgement = judge(|_, _| {});
    assert!(judgement.failures.is_empty(), "{:?}", judgement.failures);
    assert_eq!((judgement.answered, judgement.p99), (Some(1.0), Some(ms(2))));
    assert!(judgement.back.unwrap() < ms(60));
}

#[test]
fn one_in_a_hundred_may_fail_and_no_more() {
    let failing = |from: u64, to: u64| {
        judge(move |at, seen| {
            if (from..to).contains(&at) && is_read(seen) {
                (seen.status, seen.source) = (Some(503), None);
            }
        })
    };
    assert!(failing(10_000, 10_130).failures.is_empty());
    let failures = failing(10_000, 10_300).failures;
    assert!(failures.len() == 1 && failures[0].contains("reads were answered"), "{failures:?}");
    let failures = failing(50_000, 50_020).failures;
    assert!(failures.len() == 1 && failures[0].contains("without a fault"), "{failures:?}");
}

#[test]
fn slow_reads_are_allowed_until_the_fault_is_noticed() {
    let slow = |from: u64, to: u64| {
        judge(move |at, seen| {
            if (from..to).contains(&at) {
                seen.took = ms(400);
            }
        })
    };
    assert!(slow(10_000, 11_000).failures.is_empty());
    let failures = slow(10_000, 12_000).failures;
    assert!(failures.len() == 1 && failures[0].contains("p99"), "{failures:?}");
    assert_eq!(slow(10_000, 12_000).write, Some(ms(400)));
}

#[test]
fn every_node_must_come_back_to_its_cache() {
    let away = |until: u64, node: usize| {
        judge(move |at, seen| {
            if (10_000..until).contains(&at) && seen.node == node && is_read(seen) {
                seen.source = Some(Source::Miss);
            }
        })
    };
    let late = away(23_000, 1);
    assert!(late.failures.is_empty(), "{:?}", late.failures);
    assert!((ms(3_000)..ms(3_100)).contains(&late.back.unwrap()));
    assert_eq!((late.cached, away(10_000, 1).cached), (Some(0.5), Some(1.0)));
    assert!(away(25_100, 1).failures[0].contains("node 1 is not back"));
    let shaky = judge(|at, seen| {
        if (25_000..27_000).contains(&at) && at % 150 == 0 && is_read(seen) {
            seen.source = Some(Source::Miss);
        }
    });
    assert!(shaky.failures[0].contains("are cached"), "{:?}", shaky.failures);
}

#[test]
fn writes_go_on_unless_they_cannot() {
    let refused = |at: u64, seen: &mut Seen| {
        if (10_000..20_000).contains(&at) && seen.what == What::Write {
            seen.status = Some(503);
        }
    };
    assert!(judge(refused).failures[0].contains("writes done"));
    let (seen, mut span) = minute(refused);
    span.writes = false;
    assert!(Judgement::of(&seen, &[span], &[]).failures.is_empty());
    // Only what is asked for often is sure to be answered then.
    let (seen, span) = minute(|at, seen| {
        if (10_000..20_000).contains(&at) && seen.what != What::Hot {
            (seen.status, seen.source) = (Some(503), None);
        }
    });
    let span = Span { writes: false, ..span };
    assert!(Judgement::of(&seen, &[span], &[]).failures.is_empty());
    let (seen, _) = minute(|at, seen| {
        if (10_000..20_000).contains(&at) && seen.what == What::Hot {
            (seen.status, seen.source) = (Some(503), None);
        }
    });
    assert!(!Judgement::of(&seen, &[span], &[]).failures.is_empty());
    let slow = judge(|at, seen| {
        if at == 12_000 && seen.what == What::Write {
            seen.took = ms(3_500);
        }
    });
    assert!(slow.failures[0].contains("slowest"), "{:?}", slow.failures);
}

#[test]
fn a_victim_is_spared_until_it_should_be_back() {
    let dead = |at: u64, seen: &mut Seen| {
        if (10_000..20_500).contains(&at) && seen.node == 0 {
            (seen.status, seen.source) = (None, None);
        }
    };
    assert!(!judge(dead).failures.is_empty());
    let (seen, mut span) = minute(dead);
    span.victim = Some(0);
    let judgement = Judgement::of(&seen, &[span], &[]);
    assert!(judgement.failures.is_empty(), "{:?}", judgement.failures);
    span.victim = Some(1);
    assert!(!Judgement::of(&seen, &[span], &[]).failures.is_empty());
}

#[test]
fn only_a_node_that_could_not_be_told_may_be_behind() {
    let (seen, mut span) = minute(|_, _| {});
    let behind = |at: Instant| Violation { at, behind: Some(ms(700)), what: String::new() };
    let judge = |span: Span, violation: Violation| Judgement::of(&seen, &[span], &[violation]);
    let during = span.from + ms(500);
    assert!(!judge(span, behind(during)).failures.is_empty());
    span.is_cut = true;
    let judgement = judge(span, behind(during));
    assert!(judgement.failures.is_empty());
    assert_eq!((judgement.excused, judgement.behind), (1, ms(700)));
    assert!(judge(span, behind(span.healed + ms(1_900))).failures.is_empty());
    assert!(!judge(span, behind(span.healed + ms(2_000))).failures.is_empty());
    assert!(!judge(span, behind(span.from - ms(1))).failures.is_empty());
    // Nothing excuses what was never written.
    let made_up = Violation { behind: None, ..behind(during) };
    assert!(!judge(span, made_up).failures.is_empty());
}

#[test]
fn statuses_that_are_never_right_are_told() {
    let judgement = judge(|at, seen| {
        if at == 10_000 {
            seen.status = Some(500);
        }
    });
    assert!(judgement.failures.iter().any(|failure| failure.contains("500")));
}

#[test]
fn a_99th_percentile_is_the_value_that_99_in_100_reach() {
    let (mut seen, _) = minute(|_, _| {});
    seen.truncate(100);
    seen[3].took = ms(900);
    assert_eq!(Figures::of(&seen).p99, ms(2));
    seen[5].took = ms(800);
    assert_eq!(Figures::of(&seen).p99, ms(800));
    assert_eq!(Figures::of(&seen).slowest, ms(900));
    assert_eq!(Figures::of([]).share(), 1.0);
}
