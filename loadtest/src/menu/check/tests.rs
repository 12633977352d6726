use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

use super::*;
use crate::menu::body::{Availability, Name, Status};

const ON: Availability = Availability { available: true, in_stock: true };
const OFF: Availability = Availability { available: false, in_stock: true };
const OUT: Availability = Availability { available: true, in_stock: false };

fn status(capacity: i32) -> Status {
    Status { name: Name::Open, capacity: Some(capacity) }
}

/// Restaurant 0 is written to and starts at 10 with the items 1 and 2; nobody writes to 1.
fn checker() -> Checker {
    let mut checker = Checker::new(vec![70, 71]);
    checker.watch(
        0,
        &Start {
            restaurant: 10,
            menu: 8,
            status: 9,
            menu_with_status: 9,
            items: vec![(1, ON), (2, ON)],
            now: Some(status(0)),
        },
    );
    checker
}

fn answer(version: i64) -> Answer {
    Answer { version, hash: None, is_stale: false }
}

fn read(checker: &mut Checker, restaurant: u32, document: Document, version: i64) {
    let begun = checker.read_begins(restaurant, document);
    checker.read_ends(restaurant, document, begun, answer(version));
}

fn items(values: &[(usize, Availability)]) -> Change {
    Change::Items(values.to_vec())
}

fn write(checker: &mut Checker, change: Change, version: i64) {
    let id = checker.write_begins(0, change, 0);
    checker.write_ends(id, End::Made(version), 0);
}

fn body(values: &[(i64, Availability)], status: Status) -> String {
    let items: Vec<_> = values
        .iter()
        .map(|(id, Availability { available, in_stock })| {
            format!(
                r#"{{"item_id":{id},"name":"x","available":{available},"in_stock":{in_stock}}}"#
            )
        })
        .collect();
    format!(
        r#"{{"status":"{}","current_capacity":{},"items":[{}]}}"#,
        status.name.as_str(),
        status.capacity.unwrap_or_default(),
        items.join(",")
    )
}

/// Exactly this many violations, all of one kind.
#[track_caller]
fn found(checker: &Checker, kind: impl Fn(&Findings) -> u64, count: u64) {
    let findings = checker.findings();
    assert_eq!((kind(findings), findings.violations), (count, count), "{findings:?}");
    assert_eq!(findings.examples.is_empty(), count == 0, "{findings:?}");
}

#[test]
fn a_read_must_not_be_older_than_a_completed_read() {
    let mut checker = checker();
    let early = checker.read_begins(0, Document::Menu);
    let id = checker.write_begins(0, items(&[(0, OFF)]), 0);
    // The write is seen before it is answered, by another reader.
    read(&mut checker, 0, Document::Menu, 11);
    // A read that began before may still answer the older one.
    checker.read_ends(0, Document::Menu, early, answer(8));
    found(&checker, |f| f.older, 0);
    read(&mut checker, 0, Document::Menu, 8);
    found(&checker, |f| f.older, 1);
    assert!(checker.findings().examples[0].contains("restaurant 70: menu at 8"));
    checker.write_ends(id, End::Made(11), 0);
    read(&mut checker, 0, Document::Menu, 11);
    found(&checker, |f| f.older, 1);
}

#[test]
fn a_read_must_not_be_older_than_a_completed_write_of_its_document() {
    let mut checker = checker();
    write(&mut checker, items(&[(0, OFF)]), 11);
    // Availability is in menus only.
    read(&mut checker, 0, Document::Restaurant, 10);
    read(&mut checker, 0, Document::Status, 9);
    found(&checker, |f| f.older, 0);
    read(&mut checker, 0, Document::Menu, 8);
    read(&mut checker, 0, Document::MenuWithStatus, 9);
    found(&checker, |f| f.older, 2);
    write(&mut checker, Change::Status(status(1)), 12);
    read(&mut checker, 0, Document::Menu, 11);
    found(&checker, |f| f.older, 2);
    for document in [Document::Restaurant, Document::Status, Document::MenuWithStatus] {
        read(&mut checker, 0, document, checker_start(document));
    }
    found(&checker, |f| f.older, 5);
}

fn checker_start(document: Document) -> i64 {
    match document {
        Document::Restaurant => 10,
        Document::Menu => 8,
        _ => 9,
    }
}

#[test]
fn documents_and_restaurants_have_floors_of_their_own() {
    let mut checker = checker();
    write(&mut checker, items(&[(0, OFF)]), 11);
    read(&mut checker, 1, Document::Menu, 3);
    read(&mut checker, 1, Document::Status, 2);
    read(&mut checker, 1, Document::Menu, 3);
    found(&checker, |f| f.older, 0);
    read(&mut checker, 1, Document::Menu, 2);
    found(&checker, |f| f.older, 1);
}

#[test]
fn a_stale_answer_is_counted_and_establishes_nothing() {
    let mut checker = checker();
    write(&mut checker, items(&[(0, OFF)]), 11);
    let stale = Answer { is_stale: true, ..answer(8) };
    let begun = checker.read_begins(0, Document::Menu);
    checker.read_ends(0, Document::Menu, begun, stale);
    found(&checker, |f| f.older, 0);
    assert_eq!(checker.findings().stale, 1);
    // Of a restaurant that was not known yet, an old copy says nothing about now.
    let begun = checker.read_begins(1, Document::Menu);
    checker.read_ends(1, Document::Menu, begun, stale);
    read(&mut checker, 1, Document::Menu, 9);
    read(&mut checker, 1, Document::Menu, 9);
    found(&checker, |f| f.never_written, 0);
    // Not even an old copy can come from the future.
    let begun = checker.read_begins(0, Document::Menu);
    checker.read_ends(0, Document::Menu, begun, Answer { is_stale: true, ..answer(12) });
    found(&checker, |f| f.never_written, 1);
}

#[test]
fn a_version_beyond_all_writes_was_never_written() {
    let mut checker = checker();
    read(&mut checker, 0, Document::Menu, 11);
    found(&checker, |f| f.never_written, 1);
    // It did not become the measure of what follows.
    read(&mut checker, 0, Document::Menu, 8);
    let refused = checker.write_begins(0, items(&[(0, OFF)]), 0);
    checker.write_ends(refused, End::Refused, 0);
    read(&mut checker, 0, Document::Menu, 11);
    found(&checker, |f| f.never_written, 2);
    let unknown = checker.write_begins(0, items(&[(0, OFF)]), 0);
    checker.write_ends(unknown, End::Unknown, 0);
    read(&mut checker, 0, Document::Menu, 11);
    found(&checker, |f| f.never_written, 2);
    write(&mut checker, items(&[(0, OUT)]), 13);
    found(&checker, |f| f.never_written, 3);
    // What it has set is there nevertheless, at whatever version.
    checker.content(0, Document::Menu, 11, body(&[(1, OUT), (2, ON)], status(0)).as_bytes());
    write(&mut checker, items(&[(0, ON)]), 13);
    found(&checker, |f| f.never_written, 3);
}

#[test]
fn what_nobody_writes_to_keeps_its_version() {
    let mut checker = checker();
    read(&mut checker, 1, Document::Menu, 3);
    read(&mut checker, 1, Document::Menu, 4);
    read(&mut checker, 1, Document::Menu, 4);
    found(&checker, |f| f.never_written, 1);
}

#[test]
fn a_version_belongs_to_the_documents_that_its_write_changes() {
    let mut checker = checker();
    write(&mut checker, Change::Status(status(1)), 11);
    write(&mut checker, items(&[(1, OFF)]), 12);
    read(&mut checker, 0, Document::MenuWithStatus, 12);
    read(&mut checker, 0, Document::Menu, 12);
    read(&mut checker, 0, Document::Status, 11);
    found(&checker, |f| f.never_written, 0);
    read(&mut checker, 0, Document::Status, 12);
    found(&checker, |f| f.never_written, 1);
}

#[test]
fn a_write_makes_a_version_greater_than_all_known_before() {
    let mut checker = checker();
    write(&mut checker, items(&[(0, OFF)]), 10);
    found(&checker, |f| f.writes_not_newer, 1);
    let (one, other) = (
        checker.write_begins(0, items(&[(0, ON)]), 0),
        checker.write_begins(0, items(&[(1, OFF)]), 0),
    );
    // Together they may be answered in any order, but not with one version for both.
    checker.write_ends(one, End::Made(12), 0);
    checker.write_ends(other, End::Made(11), 0);
    found(&checker, |f| f.writes_not_newer, 1);
    let (one, other) = (
        checker.write_begins(0, items(&[(0, ON)]), 0),
        checker.write_begins(0, items(&[(1, OFF)]), 0),
    );
    checker.write_ends(one, End::Made(13), 0);
    checker.write_ends(other, End::Made(13), 0);
    found(&checker, |f| f.writes_not_newer, 2);
    // What a read has shown is known as well.
    let seen = checker.write_begins(0, items(&[(0, OFF)]), 0);
    read(&mut checker, 0, Document::Menu, 15);
    write(&mut checker, items(&[(1, ON)]), 14);
    found(&checker, |f| f.writes_not_newer, 3);
    checker.write_ends(seen, End::Made(15), 0);
    found(&checker, |f| f.writes_not_newer, 3);
}

#[test]
fn a_document_shows_the_newest_write_up_to_its_version() {
    let mut checker = checker();
    write(&mut checker, items(&[(0, OFF)]), 11);
    write(&mut checker, items(&[(0, OUT), (1, OUT)]), 12);
    write(&mut checker, Change::Status(status(1)), 13);
    let shows = |checker: &mut Checker, document, version, one, two, capacity| {
        let body = body(&[(1, one), (2, two)], status(capacity));
        checker.content(0, document, version, body.as_bytes());
    };
    for (version, one, two, capacity) in
        [(9, ON, ON, 0), (11, OFF, ON, 0), (12, OUT, OUT, 0), (13, OUT, OUT, 1), (99, OUT, OUT, 1)]
    {
        shows(&mut checker, Document::MenuWithStatus, version, one, two, capacity);
    }
    // The menu does not have the status.
    shows(&mut checker, Document::Menu, 12, OUT, OUT, 7);
    found(&checker, |f| f.wrong_content, 0);
    assert_eq!(checker.findings().contents, 6);
    shows(&mut checker, Document::Menu, 12, OFF, OUT, 0);
    found(&checker, |f| f.wrong_content, 1);
    shows(&mut checker, Document::Menu, 11, OUT, ON, 0);
    found(&checker, |f| f.wrong_content, 2);
    shows(&mut checker, Document::Restaurant, 13, OUT, OUT, 0);
    found(&checker, |f| f.wrong_content, 3);
    shows(&mut checker, Document::MenuWithStatus, 12, OUT, OFF, 1);
    found(&checker, |f| f.wrong_content, 5);
    checker.content(0, Document::Menu, 12, body(&[(1, OUT)], status(0)).as_bytes());
    found(&checker, |f| f.wrong_content, 6);
    assert!(checker.findings().examples.iter().any(|text| text.contains("item 2")));
}

#[test]
fn the_value_of_a_write_without_an_answer_is_allowed_and_no_other() {
    let mut checker = checker();
    let lost = checker.write_begins(0, items(&[(0, OFF)]), 0);
    checker.write_ends(lost, End::Unknown, 0);
    let under_way = checker.write_begins(0, Change::Status(status(5)), 0);
    write(&mut checker, items(&[(0, OUT)]), 13);
    for one in [OUT, OFF] {
        for capacity in [0, 5] {
            let body = body(&[(1, one), (2, ON)], status(capacity));
            checker.content(0, Document::MenuWithStatus, 13, body.as_bytes());
        }
    }
    found(&checker, |f| f.wrong_content, 0);
    let wrong = body(&[(1, ON), (2, OFF)], status(6));
    checker.content(0, Document::MenuWithStatus, 13, wrong.as_bytes());
    found(&checker, |f| f.wrong_content, 3);
    checker.write_ends(under_way, End::Made(12), 0);
    let body = body(&[(1, OUT), (2, ON)], status(0));
    checker.content(0, Document::Status, 12, body.as_bytes());
    found(&checker, |f| f.wrong_content, 4);
}

#[test]
fn one_version_has_one_body() {
    let mut checker = checker();
    let mut read = |document, version, hash| {
        let begun = checker.read_begins(0, document);
        let answer = Answer { version, hash: Some(hash), is_stale: false };
        checker.read_ends(0, document, begun, answer);
        checker.findings().altered
    };
    assert_eq!(read(Document::Menu, 8, 1), 0);
    assert_eq!(read(Document::Menu, 8, 1), 0);
    // A restaurant opens and closes with the clock.
    assert_eq!(read(Document::Status, 9, 1), 0);
    assert_eq!(read(Document::Status, 9, 2), 0);
    assert_eq!(read(Document::Menu, 8, 2), 1);
    assert_eq!(checker.tag(0, Document::Menu), Some(Tag { version: 8, hash: 2 }));
    assert_eq!(checker.tag(0, Document::Restaurant), None);
}

#[test]
fn an_answer_without_a_version_is_found() {
    let mut checker = checker();
    checker.unreadable(1, "menu", "no version");
    found(&checker, |f| f.unreadable, 1);
}

#[test]
fn content_is_of_interest_after_a_write() {
    let mut checker = checker();
    assert_eq!(checker.interest(1, 0), Interest::Never);
    assert_eq!(checker.interest(0, 0), Interest::Sometimes);
    let id = checker.write_begins(0, items(&[(0, OFF)]), 5_000_000);
    assert_eq!(checker.interest(0, 6_999_999), Interest::Always);
    assert_eq!(checker.interest(0, 7_000_000), Interest::Sometimes);
    checker.write_ends(id, End::Made(11), 6_000_000);
    assert_eq!(checker.interest(0, 7_000_000), Interest::Always);
}

/// How a simulated store goes wrong, now and then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sabotage {
    None,
    /// A read answers what was there a few writes ago.
    OldRead,
    /// A read answers the newest version with the content of the one before.
    OldContent,
    /// A write answers before it has an effect.
    EarlyAnswer,
    /// A write makes no version of its own.
    SharedVersion,
    /// A version goes beyond the counter.
    FutureVersion,
}

/// A store of one restaurant with whole snapshots, and operations that overlap at random: each
/// begins, has its effect and ends at moments of their own.
fn simulate(sabotage: Sabotage, seed: u64) -> Findings {
    #[derive(Debug)]
    enum Open {
        Read(Document, Begun, Option<(i64, String)>),
        Write(WriteId, Change, Option<i64>),
    }
    #[derive(Debug, Clone)]
    struct State {
        version: i64,
        of: [i64; 4],
        items: [Availability; 2],
        status: Status,
    }
    let mut random = SmallRng::seed_from_u64(seed);
    let mut checker = checker();
    let first = State { version: 10, of: [10, 8, 9, 9], items: [ON; 2], status: status(0) };
    let (mut states, mut open, mut capacity) = (vec![first], Vec::<Open>::new(), 0);
    for _ in 0..4_000 {
        let strikes = random.random_bool(0.02);
        if open.len() < 6 && random.random_bool(0.4) {
            if random.random_bool(0.3) {
                let value = [ON, OFF, OUT][random.random_range(0..3)];
                capacity += 1;
                let change = match random.random_range(0..3) {
                    0 => items(&[(random.random_range(0..2), value)]),
                    1 => items(&[(0, value), (1, OUT)]),
                    _ => Change::Status(status(capacity)),
                };
                let id = checker.write_begins(0, change.clone(), 0);
                open.push(Open::Write(id, change, None));
            } else {
                let document = Document::ALL[random.random_range(0..4)];
                open.push(Open::Read(document, checker.read_begins(0, document), None));
            }
            continue;
        }
        if open.is_empty() {
            continue;
        }
        let at = random.random_range(0..open.len());
        let newest = states.last().unwrap().clone();
        match &mut open[at] {
            Open::Read(document, _, shown @ None) => {
                let back = if strikes && sabotage == Sabotage::OldRead { 4 } else { 0 };
                let seen = &states[states.len().saturating_sub(1 + back)];
                let content = if strikes && sabotage == Sabotage::OldContent {
                    &states[states.len().saturating_sub(5)]
                } else {
                    seen
                };
                let beyond = if strikes && sabotage == Sabotage::FutureVersion { 100 } else { 0 };
                *shown = Some((
                    seen.of[*document as usize] + beyond,
                    body(&[(1, content.items[0]), (2, content.items[1])], content.status),
                ));
            }
            Open::Write(id, change, made @ None) => {
                let shared = strikes && sabotage == Sabotage::SharedVersion;
                let mut next = newest;
                next.version += i64::from(!shared);
                for document in change.documents() {
                    next.of[*document as usize] = next.version;
                }
                match &*change {
                    Change::Items(items) => {
                        items.iter().for_each(|(place, value)| next.items[*place] = *value);
                    }
                    Change::Status(status) => next.status = *status,
                }
                *made = Some(next.version);
                if strikes && sabotage == Sabotage::EarlyAnswer {
                    checker.write_ends(*id, End::Made(next.version), 0);
                } else {
                    states.push(next);
                }
            }
            Open::Read(..) | Open::Write(..) => match open.swap_remove(at) {
                Open::Read(document, begun, Some((version, body))) => {
                    checker.read_ends(0, document, begun, answer(version));
                    checker.content(0, document, version, body.as_bytes());
                }
                Open::Write(id, _, Some(version)) => {
                    let end = match random.random_range(0..20) {
                        0 => End::Unknown,
                        _ => End::Made(version),
                    };
                    checker.write_ends(id, end, 0);
                }
                _ => unreachable!("the arms above took what has had no effect"),
            },
        }
    }
    checker.findings().clone()
}

#[test]
fn a_history_with_overlapping_operations_passes_only_as_long_as_it_is_right() {
    for seed in 0..50 {
        let findings = simulate(Sabotage::None, seed);
        assert_eq!(findings.violations, 0, "seed {seed}: {findings:#?}");
        assert!(findings.reads > 500 && findings.writes > 200, "{findings:?}");
    }
    type Count = fn(&Findings) -> u64;
    let kinds: [(Sabotage, Count); 5] = [
        (Sabotage::OldRead, |f| f.older),
        (Sabotage::OldContent, |f| f.wrong_content),
        (Sabotage::EarlyAnswer, |f| f.older),
        (Sabotage::SharedVersion, |f| f.writes_not_newer),
        (Sabotage::FutureVersion, |f| f.never_written),
    ];
    for (sabotage, kind) in kinds {
        for seed in 0..10 {
            let findings = simulate(sabotage, seed);
            assert!(kind(&findings) > 0, "{sabotage:?}, seed {seed}: {findings:?}");
        }
    }
}

#[test]
fn a_rating_that_was_announced_makes_one_more_version() {
    for restaurant in [0, 1] {
        let versions = |checker: &mut Checker| {
            read(checker, restaurant, Document::Restaurant, 10);
            read(checker, restaurant, Document::Restaurant, 11);
            checker.findings().violations
        };
        assert_eq!(versions(&mut checker()), 1, "nobody has announced it");
        let mut rated = checker();
        rated.rating_begins(restaurant);
        assert_eq!(versions(&mut rated), 0);
        read(&mut rated, restaurant, Document::Restaurant, 10);
        assert_eq!(rated.findings().violations, 1, "what was shown is not taken back");
    }
}
