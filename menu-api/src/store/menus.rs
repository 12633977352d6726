//! Menus: made of their rows, written down as they are sent, and as they were.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use contracts::{
    ids::{CategoryId, ItemId, RestaurantId},
    money::{Currency, Money},
};
use platform::postgres::within;
use serde::Deserialize;
use sqlx::{PgConnection, PgPool, types::Json};
use tokio_util::sync::CancellationToken;

use super::{currency, decode, json};
use crate::{
    document::{Encoding, encode},
    menu::{Allergen, Category, Diet, Item, Menu, Options},
};

/// The form in which this build sends a menu; to be raised when that changes.
pub const FORM: i16 = 1;
/// Menus are looked for that were not written down, as after an import, this often.
const RENDER_EVERY: Duration = Duration::from_secs(2);
const RENDER_AT_ONCE: i64 = 50;
/// A step that takes longer is lost.
const STEP_MAX: Duration = Duration::from_secs(30);

/// Makes a restaurant's menu of its rows.
pub async fn make(
    db: &mut PgConnection,
    restaurant: RestaurantId,
) -> Result<Option<Menu>, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT r.currency, r.menu_version,
                  (SELECT coalesce(json_agg(c ORDER BY c.position, c.category_id), '[]')
                   FROM menu_categories c WHERE c.restaurant_id = r.restaurant_id)
                  AS "categories!: Json<Vec<CategoryRow>>",
                  (SELECT coalesce(json_agg(i ORDER BY i.position, i.item_id), '[]')
                   FROM menu_items i WHERE i.restaurant_id = r.restaurant_id)
                  AS "items!: Json<Vec<ItemRow>>"
           FROM restaurants r WHERE r.restaurant_id = $1"#,
        restaurant.get(),
    )
    .fetch_optional(db)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let currency = currency(&row.currency)?;
    Ok(Some(menu(restaurant, row.menu_version, currency, row.categories.0, row.items.0)))
}

/// Writes a menu down as it is sent, inside the transaction that has changed its rows.
pub async fn write_down(
    db: &mut PgConnection,
    restaurant: RestaurantId,
) -> Result<(), sqlx::Error> {
    let Some(menu) = make(&mut *db, restaurant).await? else { return Ok(()) };
    let packed = encode(&json(&menu)?, Encoding::Zstd);
    sqlx::query!(
        "UPDATE restaurants SET menu_document = $2, menu_document_version = $3,
                menu_document_form = $4
         WHERE restaurant_id = $1 AND menu_version = $3",
        restaurant.get(),
        &packed[..],
        menu.version,
        FORM,
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Writes down the menus that are not, until `shutdown`: those of an import, and once those that
/// another build wrote in another form. Until then they are made of their rows.
pub async fn keep_written(db: PgPool, shutdown: CancellationToken) {
    let mut tick = tokio::time::interval(RENDER_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut other_forms = true;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = tick.tick() => {}
        }
        let done = loop {
            match within(STEP_MAX, write_some_down(&db, other_forms)).await {
                Ok(RENDER_AT_ONCE) if !shutdown.is_cancelled() => {}
                other => break other,
            }
        };
        match done {
            Ok(_) => other_forms = false,
            Err(error) => tracing::debug!(%error, "menus could not be written down"),
        }
    }
}

async fn write_some_down(db: &PgPool, other_forms: bool) -> Result<i64, sqlx::Error> {
    let mut tx = db.begin().await?;
    let ids = if other_forms {
        sqlx::query_scalar!(
            "SELECT restaurant_id FROM restaurants
             WHERE menu_document_form IS DISTINCT FROM $2
                OR menu_document_version IS DISTINCT FROM menu_version
             LIMIT $1 FOR UPDATE SKIP LOCKED",
            RENDER_AT_ONCE,
            FORM,
        )
        .fetch_all(&mut *tx)
        .await?
    } else {
        sqlx::query_scalar!(
            "SELECT restaurant_id FROM restaurants
             WHERE menu_document_version IS DISTINCT FROM menu_version
             LIMIT $1 FOR UPDATE SKIP LOCKED",
            RENDER_AT_ONCE,
        )
        .fetch_all(&mut *tx)
        .await?
    };
    for id in &ids {
        write_down(&mut tx, RestaurantId::new(*id).map_err(decode)?).await?;
    }
    tx.commit().await?;
    Ok(ids.len() as i64)
}

/// The menu as it was at a version: `None` when there is no such restaurant or version, or it was
/// too long ago.
pub async fn old_menu(
    db: &PgPool,
    restaurant: RestaurantId,
    version: i64,
) -> Result<Option<Bytes>, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT r.currency,
                  (SELECT coalesce(json_agg(e.was), '[]') FROM (
                      SELECT to_jsonb(c) AS was FROM menu_categories c
                      WHERE c.restaurant_id = $1 AND c.since_version <= $2
                      UNION ALL
                      SELECT h.was FROM menu_history h
                      WHERE h.restaurant_id = $1 AND NOT h.is_item
                        AND h.since_version <= $2 AND h.until_version > $2
                  ) e) AS "categories!: Json<Vec<CategoryRow>>",
                  (SELECT coalesce(json_agg(e.was), '[]') FROM (
                      SELECT to_jsonb(i) AS was FROM menu_items i
                      WHERE i.restaurant_id = $1 AND i.since_version <= $2
                      UNION ALL
                      SELECT h.was FROM menu_history h
                      WHERE h.restaurant_id = $1 AND h.is_item
                        AND h.since_version <= $2 AND h.until_version > $2
                  ) e) AS "items!: Json<Vec<ItemRow>>"
           FROM restaurants r
           WHERE r.restaurant_id = $1 AND $2 BETWEEN r.menu_history_since AND r.menu_version"#,
        restaurant.get(),
        version,
    )
    .fetch_optional(db)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let (mut categories, mut items) = (row.categories.0, row.items.0);
    categories.sort_unstable_by_key(|row| (row.position, row.category_id));
    items.sort_unstable_by_key(|row| (row.position, row.item_id));
    let menu = menu(restaurant, version, currency(&row.currency)?, categories, items);
    Ok(Some(json(&menu)?))
}

/// Forgets menus that were replaced before `before`; answers how many rows went.
pub async fn forget_menus(db: &PgPool, before: DateTime<Utc>) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "WITH gone AS (
             DELETE FROM menu_history WHERE replaced_at < $1
             RETURNING restaurant_id, until_version
         ), newest AS (
             SELECT restaurant_id, max(until_version) AS until_version FROM gone
             GROUP BY restaurant_id
         )
         UPDATE restaurants r SET menu_history_since = newest.until_version
         FROM newest
         WHERE r.restaurant_id = newest.restaurant_id
           AND r.menu_history_since < newest.until_version",
        before,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

#[derive(Debug, Deserialize)]
struct CategoryRow {
    category_id: CategoryId,
    name: String,
    description: String,
    position: i32,
}

#[derive(Debug, Deserialize)]
struct ItemRow {
    item_id: ItemId,
    category_id: CategoryId,
    name: String,
    description: String,
    price: i64,
    photo: Option<String>,
    options: Vec<Options>,
    allergens: Vec<Allergen>,
    dietary: Vec<Diet>,
    preparation_minutes: i32,
    available: bool,
    in_stock: bool,
    position: i32,
}

fn menu(
    restaurant_id: RestaurantId,
    version: i64,
    currency: Currency,
    categories: Vec<CategoryRow>,
    items: Vec<ItemRow>,
) -> Menu {
    let mut categories: Vec<Category> = categories
        .into_iter()
        .map(|row| Category {
            category_id: row.category_id,
            name: row.name,
            description: row.description,
            items: Vec::new(),
        })
        .collect();
    let place: rustc_hash::FxHashMap<CategoryId, usize> =
        categories.iter().enumerate().map(|(at, category)| (category.category_id, at)).collect();
    for row in items {
        // A foreign key sees to it that the category is there.
        let Some(category) = place.get(&row.category_id) else { continue };
        categories[*category].items.push(Item {
            item_id: row.item_id,
            name: row.name,
            description: row.description,
            price: Money { amount: row.price, currency },
            photo: row.photo,
            options: row.options,
            allergens: row.allergens,
            dietary: row.dietary,
            preparation_minutes: row.preparation_minutes,
            available: row.available,
            in_stock: row.in_stock,
        });
    }
    Menu { restaurant_id, version, currency, categories }
}
