//! `/metrics` right after the start.

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn all_metrics_exist_from_the_start_with_help() {
    let world = World::start().await;
    let answer = world.get("/metrics", "").await;
    let text = std::str::from_utf8(&answer.body).unwrap();
    let wrong = platform::telemetry::differences(text, logistics::METRICS);
    assert!(wrong.is_empty(), "{wrong:#?}\n{text}");
}
