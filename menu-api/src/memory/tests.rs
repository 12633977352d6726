use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::document::Body;

const HOUR: Duration = Duration::from_secs(3_600);

fn restaurant(id: i64) -> RestaurantId {
    RestaurantId::new(id).unwrap()
}

fn menu(id: i64) -> Key {
    Key::Document(restaurant(id), Kind::Menu)
}

fn document(version: i64) -> Option<Arc<Document>> {
    Some(Arc::new(Document::new(version, Body::new("{}".into()), HOUR)))
}

fn leased() -> Memory {
    let memory = Memory::new(1 << 20);
    memory.extend(Instant::now() + HOUR);
    memory
}

fn changed(id: i64, version: i64) -> Change {
    Change { restaurant: restaurant(id), version, parts: Parts::MENU.and(Parts::LISTS) }
}

/// The version that is found; `None` when nothing is.
fn found(memory: &Memory, key: &Key) -> Option<i64> {
    match memory.find(key, Instant::now()) {
        Found::Fresh(document, _) => Some(document.map_or(0, |document| document.version)),
        Found::Nothing => None,
    }
}

fn take_in(memory: &Memory, key: &Key, version: i64, ticket: Ticket) -> bool {
    memory.take_in(key, document(version), HOUR, ticket)
}

#[test]
fn a_slow_reader_cannot_put_an_old_document_back() {
    let memory = leased();
    let ticket = memory.ticket();
    memory.apply(changed(7, 5));
    assert!(!take_in(&memory, &menu(7), 4, ticket), "older than announced");
    assert_eq!(found(&memory, &menu(7)), None);
    assert!(take_in(&memory, &menu(7), 5, ticket), "as announced");
    assert_eq!(found(&memory, &menu(7)), Some(5));
    assert!(!memory.take_in(&menu(7), None, HOUR, ticket), "that there is none is older still");
    // Another document of the same restaurant was not changed.
    let restaurant = Key::Document(restaurant(7), Kind::Restaurant);
    assert!(take_in(&memory, &restaurant, 1, ticket));
}

#[test]
fn without_a_lease_nothing_is_found() {
    let memory = leased();
    assert!(take_in(&memory, &menu(7), 1, memory.ticket()));
    memory.lapse();
    assert_eq!(found(&memory, &menu(7)), None);
    let without = memory.ticket();
    assert!(!without.is_trusted());
    assert!(take_in(&memory, &menu(8), 1, without));
    memory.extend(Instant::now() + HOUR);
    assert_eq!(found(&memory, &menu(7)), Some(1), "the same lease went on");
    assert_eq!(found(&memory, &menu(8)), None, "changes of it were not waited for");
}

#[test]
fn a_new_session_makes_all_of_the_last_one_old() {
    let memory = leased();
    let before = memory.ticket();
    assert!(take_in(&memory, &menu(7), 1, before));
    memory.new_session();
    assert_eq!(found(&memory, &menu(7)), None);
    take_in(&memory, &menu(7), 1, before);
    assert_eq!(found(&memory, &menu(7)), None, "read before the new session");
    assert!(take_in(&memory, &menu(7), 1, memory.ticket()));
    assert_eq!(found(&memory, &menu(7)), Some(1));
}

#[test]
fn a_flight_is_joined_until_something_newer_is_announced() {
    let memory = leased();
    let Boarding::Start(old) = memory.board(&menu(7)) else { panic!("nobody flies yet") };
    let Boarding::Join(joined) = memory.board(&menu(7)) else { panic!("somebody flies") };
    memory.apply(changed(7, 5));
    let Boarding::Start(new) = memory.board(&menu(7)) else { panic!("what they read is old") };
    memory.land(old, Ok((document(4), Source::Database)));
    let fetched = joined.borrow().clone().unwrap().unwrap();
    assert_eq!(fetched.0.unwrap().version, 4, "those who asked before may have it");
    // The landing of the old flight has not ended the new one.
    assert!(matches!(memory.board(&menu(7)), Boarding::Join(_)));
    memory.land(new, Ok((document(5), Source::Database)));
    assert!(matches!(memory.board(&menu(7)), Boarding::Start(_)));
}

#[test]
fn a_flight_that_was_lost_is_flown_again() {
    let memory = leased();
    let Boarding::Start(lost) = memory.board(&menu(7)) else { panic!("nobody flies yet") };
    drop(lost);
    assert!(matches!(memory.board(&menu(7)), Boarding::Start(_)));
}

#[test]
fn lists_end_with_any_change_that_they_show() {
    let memory = leased();
    let list = Key::List("1:20".into());
    let before = memory.ticket();
    assert!(take_in(&memory, &list, 0, before));
    assert_eq!(found(&memory, &list), Some(0));
    memory.apply(changed(7, 5));
    assert_eq!(found(&memory, &list), None);
    take_in(&memory, &list, 0, before);
    assert_eq!(found(&memory, &list), None, "read before the change");
    take_in(&memory, &list, 0, memory.ticket());
    assert_eq!(found(&memory, &list), Some(0));
}

#[test]
fn an_old_copy_is_shown_for_a_while_after_it_was_right() {
    let memory = Memory::new(1 << 20);
    let now = Instant::now();
    let stale_max = Duration::from_secs(30);
    memory.extend(now + Duration::from_secs(5));
    assert!(take_in(&memory, &menu(7), 1, memory.ticket()));
    // Right while announcers waited, 5 s long.
    for (after_s, shown) in [(6, true), (34, true), (36, false)] {
        let copy = memory.old_copy(&menu(7), now + Duration::from_secs(after_s), stale_max);
        assert_eq!(copy.is_some(), shown, "after {after_s} s");
    }
    // What an announcement made old is no copy at all.
    memory.apply(changed(7, 2));
    assert!(memory.old_copy(&menu(7), now, stale_max).is_none());
}

#[test]
fn what_this_node_has_heard_others_may_not_have() {
    let memory = leased();
    memory.apply(changed(7, 5));
    assert!(!memory.is_told_everywhere(restaurant(7), Kind::Menu, 5));
    memory.told_everywhere(changed(7, 5));
    assert!(memory.is_told_everywhere(restaurant(7), Kind::Menu, 5));
    assert!(memory.is_told_everywhere(restaurant(7), Kind::MenuWithStatus, 4));
    assert!(!memory.is_told_everywhere(restaurant(7), Kind::Menu, 6));
    assert!(!memory.is_told_everywhere(restaurant(7), Kind::Status, 5));
    assert!(!memory.is_told_everywhere(restaurant(8), Kind::Menu, 5));
}

#[derive(Debug, Clone)]
enum Step {
    /// A reader begins: reads what is stored now.
    Begin,
    /// The oldest reader that has not ended stores what it read.
    End,
    /// A write is stored.
    Write,
    /// What is stored is announced.
    Announce,
    NewSession,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Begin),
        4 => Just(Step::End),
        2 => Just(Step::Write),
        2 => Just(Step::Announce),
        1 => Just(Step::NewSession),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever readers, writers and announcements do to each other: once a version is announced
    /// nothing older is found.
    #[test]
    fn nothing_older_than_announced_is_ever_found(steps in steps()) {
        let memory = leased();
        let (mut stored, mut announced) = (1, 0);
        let mut readers = BTreeMap::new();
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Begin => {
                    readers.insert(n, (memory.ticket(), stored));
                }
                Step::End => {
                    if let Some((_, (ticket, version))) = readers.pop_first() {
                        take_in(&memory, &menu(7), version, ticket);
                    }
                }
                Step::Write => stored += 1,
                Step::Announce => {
                    memory.apply(changed(7, stored));
                    announced = stored;
                }
                // What is missed with it is announced as far as this node is concerned: it has
                // forgotten everything, and reads that begin now see what is stored.
                Step::NewSession => {
                    memory.new_session();
                    announced = announced.max(stored);
                }
            }
            if let Some(version) = found(&memory, &menu(7)) {
                prop_assert!(version >= announced, "{version} was found after {announced}");
            }
        }
    }
}
