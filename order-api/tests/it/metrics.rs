//! `/metrics` right after the start.

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn all_metrics_exist_from_the_start_with_help() {
    let world = World::start().await;
    let answer = world.get("/metrics", "").await;
    let text = std::str::from_utf8(&answer.body).unwrap();
    // menu-api and the gateway's double run in this process too.
    let table = [order_api::METRICS, &menu_api::metrics::all(), payment_sim::METRICS].concat();
    let wrong = platform::telemetry::differences(text, &table);
    assert!(wrong.is_empty(), "{wrong:#?}\n{text}");
}
