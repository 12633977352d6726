use contracts::ids::EventId;
use futures_util::FutureExt as _;

use super::*;

fn at(driver_id: i64, second: i64) -> Position {
    Position {
        driver_id: DriverId::new(driver_id).unwrap(),
        recorded_at_us: 1_800_000_000_000_000 + second * 1_000_000,
        seq: 0,
        event_id: EventId(second as u64),
        lat_e7: 377_749_000,
        lon_e7: -1_224_194_000,
        speed_mps: Some(10.0),
        heading_deg: None,
        accuracy_m: Some(4.5),
        order_id: None,
    }
}

fn watch(hub: &Hub, driver_id: i64) -> Watch {
    hub.watch(DriverId::new(driver_id).unwrap())
}

#[test]
fn a_position_is_written_as_clients_read_it() {
    let hub = Hub::new();
    let mut watch = watch(&hub, 7);
    hub.publish(&at(7, 0));
    assert_eq!(
        watch.take().unwrap().as_str(),
        concat!(
            r#"{"type":"location_update","driver_id":7,"latitude":37.7749,"#,
            r#""longitude":-122.4194,"speed":36.0,"heading":null,"accuracy":4.5,"#,
            r#""timestamp":"2027-01-15T08:00:00.000000Z"}"#
        )
    );
}

#[test]
fn a_watcher_that_reads_slowly_finds_the_newest_position_only() {
    let hub = Hub::new();
    let (mut quick, mut slow) = (watch(&hub, 7), watch(&hub, 7));
    let mut seen = 0;
    for second in 0..1_000 {
        hub.publish_all(&[at(7, second), at(8, second)]);
        seen += usize::from(quick.take().is_some());
    }
    assert_eq!(seen, 1_000);
    let newest = slow.take().unwrap();
    assert!(newest.contains("08:16:39.000000Z"), "{newest}");
    assert_eq!(slow.take(), None);
    assert!(slow.changed().now_or_never().is_none());
}

#[test]
fn an_older_position_is_no_news() {
    let hub = Hub::new();
    let mut watch = watch(&hub, 7);
    watch.skip(&at(7, 5));
    hub.publish(&at(7, 5));
    assert_eq!(watch.take(), None, "told already, as part of a snapshot");
    hub.publish(&at(7, 6));
    assert!(watch.take().is_some());
    hub.publish(&at(7, 4));
    assert_eq!(watch.take(), None);
}

#[test]
fn watchers_share_one_text() {
    let hub = Hub::new();
    let (mut one, mut other) = (watch(&hub, 7), watch(&hub, 7));
    hub.publish(&at(7, 0));
    let (one, other) = (one.take().unwrap(), other.take().unwrap());
    assert_eq!(one.as_str().as_ptr(), other.as_str().as_ptr());
}

#[test]
fn what_nobody_watches_is_forgotten() {
    let hub = Hub::new();
    let watches = [watch(&hub, 7), watch(&hub, 7), watch(&hub, 8)];
    let order = hub.watch_order(OrderId::generate());
    assert_eq!((hub.watched_drivers(), hub.watched_orders().len()), (2, 1));
    drop((watches, order));
    assert_eq!((hub.watched_drivers(), hub.watched_orders().len()), (0, 0));
    hub.publish(&at(7, 0));
    assert_eq!(watch(&hub, 7).take(), None, "a new watch starts with nothing");
}

#[test]
fn watchers_that_come_and_go_at_once_leave_nothing_behind() {
    let hub = Hub::new();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..2_000 {
                    let driver_id = round % 3 + 1;
                    let mut watch = watch(&hub, driver_id);
                    hub.publish(&at(driver_id, round));
                    watch.take();
                }
            });
        }
    });
    assert_eq!(hub.watched_drivers(), 0);
}

#[tokio::test]
async fn an_order_wakes_its_own_watchers_and_never_goes_back() {
    let hub = Hub::new();
    let id = OrderId::generate();
    let (mut own, mut other) = (hub.watch_order(id), hub.watch_order(OrderId::generate()));
    hub.order_changed(id, 3);
    own.changed().await;
    assert_eq!(own.newest(), 3);
    hub.orders_changed([(id, 2), (id, 3)]);
    assert!(own.changed().now_or_never().is_none());
    assert_eq!(own.newest(), 3);
    assert!(other.changed().now_or_never().is_none());
}
