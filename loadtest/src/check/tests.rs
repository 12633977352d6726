use contracts::position::Position;

use super::*;

const SCOPE: Scope = Scope { first_driver: 1, last_driver: 9, from_us: 0, to_us: 1_000 };

fn position(driver: i64, at_us: i64, event: u64) -> Position {
    Position {
        driver_id: DriverId::new(driver).unwrap(),
        recorded_at_us: at_us,
        seq: 0,
        event_id: EventId(event),
        lat_e7: 1,
        lon_e7: 2,
        speed_mps: None,
        heading_deg: None,
        accuracy_m: None,
        order_id: None,
    }
}

fn row(driver_id: i64, recorded_at_us: i64, event_id: u64) -> rows::Row {
    rows::Row { driver_id, recorded_at_us, event_id, seq: 0, lat_e7: 1, lon_e7: 2 }
}

fn compare(rows: &[rows::Row], dead: &[Position]) -> Findings {
    let mut ledger = Ledger::default();
    ledger.accepted(&position(1, 10, 100));
    ledger.accepted(&position(2, 20, 200));
    ledger.unsure(&position(3, 30, 300));
    let mut comparison = Comparison::new(ledger, SCOPE);
    rows.iter().for_each(|row| comparison.history_row(row));
    dead.iter().for_each(|position| comparison.dead_letter(position));
    comparison.finish().0
}

#[test]
fn everything_once_is_good_with_or_without_the_unsure() {
    let both = [row(2, 20, 200), row(1, 10, 100)];
    let findings = compare(&both, &[]);
    assert!(findings.is_good(), "{findings:?}");
    assert_eq!((findings.stored, findings.distinct), (2, 2));
    let findings = compare(&[both[0], both[1], row(3, 30, 300)], &[]);
    assert!(findings.is_good(), "{findings:?}");
    assert_eq!((findings.stored, findings.stored_unacknowledged), (3, 1));
}

#[test]
fn a_lost_event_is_named() {
    let findings = compare(&[row(1, 10, 100)], &[]);
    assert_eq!((findings.lost, findings.is_good()), (1, false));
    assert!(findings.examples[0].contains("driver 2 at 1970-01-01T00:00:00.000020Z"));
}

#[test]
fn a_dead_letter_is_not_lost_but_a_second_copy_is_a_duplicate() {
    let dead = [position(2, 20, 200)];
    assert!(compare(&[row(1, 10, 100)], &dead).is_good());
    assert_eq!(compare(&[row(1, 10, 100), row(2, 20, 200)], &dead).duplicated, 1);
}

#[test]
fn twice_foreign_and_altered_are_told_apart() {
    let (a, b) = (row(1, 10, 100), row(2, 20, 200));
    assert_eq!(compare(&[a, b, b], &[]).duplicated, 1);
    // The same event at another time is not the event that was sent.
    assert_eq!(compare(&[a, b, row(2, 21, 200)], &[]).foreign, 1);
    // Beyond the run's time lies what others send.
    assert!(compare(&[a, b, row(2, 5_000, 1)], &[]).is_good());
    let findings = compare(&[a, rows::Row { lat_e7: 7, ..b }], &[]);
    assert_eq!((findings.altered, findings.lost), (1, 0));
}

#[test]
fn repeats_in_the_input_are_one_event() {
    let mut ledger = Ledger::default();
    for _ in 0..3 {
        ledger.accepted(&position(1, 10, 100));
    }
    ledger.unsure(&position(1, 10, 100));
    let mut comparison = Comparison::new(ledger, SCOPE);
    comparison.history_row(&row(1, 10, 100));
    let findings = comparison.finish().0;
    assert!(findings.is_good());
    assert_eq!((findings.distinct, findings.repeats, findings.stored), (1, 2, 1));
}

#[test]
fn the_current_position_must_be_the_newest_of_the_history() {
    let newest = FxHashMap::from_iter([(1, ((10, 0, 5), (1, 2)))]);
    assert!(differences(SCOPE, &newest, &newest).is_empty());
    let behind = FxHashMap::from_iter([(1, ((9, 0, 5), (1, 2)))]);
    assert_eq!(differences(SCOPE, &newest, &behind).len(), 1);
    assert_eq!(differences(SCOPE, &newest, &FxHashMap::default()).len(), 1);
    // A greater event id wins among equals, as unsigned numbers.
    let mut comparison = Comparison::new(Ledger::default(), SCOPE);
    for event in [1, u64::MAX, 2] {
        comparison.history_row(&row(1, 10, event));
    }
    assert_eq!(comparison.newest[&1].0.2, u64::MAX);
    // Published but never stored.
    let extra = FxHashMap::from_iter([(1, ((10, 0, 5), (1, 2))), (2, ((11, 0, 6), (1, 2)))]);
    assert_eq!(differences(SCOPE, &newest, &extra).len(), 1);
}
