//! A process of this build on the schema of the build after.

use crate::world::World;
use order_api::Role;

#[tokio::test]
async fn a_migration_of_the_build_after_is_no_reason_not_to_start() {
    let mut world = World::start().await;
    sqlx::query(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'later', true, '', 0)",
    )
    .execute(&world.db())
    .await
    .unwrap();
    world.add_node(Role::All).await;
}
