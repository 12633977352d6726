//! Many sockets at once: those that wait, those that are refused, and the stop.

use super::*;

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn sockets_that_only_wait_make_room_for_those_who_subscribe(db: PgPool) {
    let server = Server::start(db, Timing::default()).await;
    let order_id = server.order().await;
    let mut waiting = Vec::new();
    // One address has half of the places.
    for _ in 0..UNSUBSCRIBED / 2 + 3 {
        waiting.push(server.open(order_id).await);
    }
    for crowded in &mut waiting[..3] {
        let (code, reason) = crowded.hear_close().await;
        assert_eq!((code, &reason["reason"]), (1013, &json!("crowded")));
        assert!(reason["retry_ms"].is_u64());
    }
    // The newest can still subscribe, and does not give way any more.
    let mut last = waiting.pop().unwrap();
    last.say(&subscribe(&server.token(order_id), None)).await;
    assert_eq!(last.hear().await["type"], "connected");
    for _ in 0..UNSUBSCRIBED / 2 + 3 {
        waiting.push(server.open(order_id).await);
    }
    server.change(order_id, Change::PickUp).await;
    assert_eq!(last.hear().await["type"], "status_change");
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn refused_sockets_cannot_pile_up(db: PgPool) {
    let server = Server::start(db, Timing::default()).await;
    let order_id = server.order().await;
    let mut refused = Vec::new();
    // None of them answers the close frame, for which each has two seconds.
    for _ in 0..100 {
        let mut client = server.open(order_id).await;
        client.say(&subscribe("no token", None)).await;
        refused.push(client);
    }
    let most = UNSUBSCRIBED / 2;
    until("old ones are gone", || server.hub.watchers() <= most).await;
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn a_stop_spreads_its_goodbyes_and_says_where_to_go_on(db: PgPool) {
    let close_spread = Duration::from_millis(500);
    let server = Server::start(db, Timing { close_spread, ..Timing::default() }).await;
    let order_id = server.order().await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(server.watch(order_id, None).await.0);
    }
    let unsubscribed = server.open(order_id).await;
    server.shutdown.cancel();
    let mut delays = Vec::new();
    for mut client in [unsubscribed].into_iter().chain(clients) {
        let (code, reason) = client.hear_close().await;
        assert_eq!((code, &reason["reason"]), (1012, &json!("restart")));
        delays.push((reason["retry_ms"].as_u64().unwrap(), reason["since"].as_i64()));
    }
    assert_eq!(delays.iter().filter(|(_, since)| *since == Some(2)).count(), 5);
    delays.dedup();
    assert!(delays.len() > 3, "everyone would be back at once: {delays:?}");
    timeout(PATIENCE, server.hub.drain()).await.unwrap();
}

#[test]
fn an_idle_socket_is_small() {
    fn size<A, B, C, D, F>(_: impl FnOnce(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }
    let bytes = size(run);
    assert!(bytes < 3_000, "{bytes}");
}
