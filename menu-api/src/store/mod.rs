//! What PostgreSQL has: documents as they are sent.

pub mod calendar;
pub mod list;
pub mod write;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use contracts::{
    ids::{CategoryId, ItemId, RestaurantId},
    money::{Currency, Money},
};
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, types::Json};

use crate::{
    document::{Kind, Parts},
    hours::Hours,
    menu::{Allergen, Category, Diet, Item, Menu, Options},
    restaurant::{Cuisine, Restaurant, Status, StatusNow},
};

/// What was found of one document.
pub struct Loaded {
    /// `None`: there is no such restaurant.
    pub found: Option<FoundBody>,
    /// Changes of the restaurant that nobody may have announced yet.
    pub unannounced: Option<Unannounced>,
}

/// A document's body.
pub struct FoundBody {
    /// Grows with each change.
    pub version: i64,
    /// JSON.
    pub body: Bytes,
    /// When the clock makes it wrong.
    pub right_until: Option<DateTime<Utc>>,
}

/// See [`Loaded::unannounced`].
pub struct Unannounced {
    /// The newest of them.
    pub version: i64,
    /// All that they change.
    pub parts: Parts,
    /// Rows of `cache_invalidations`.
    pub ids: Vec<i64>,
}

/// Reads a document, and in the same snapshot what of it was not announced.
pub async fn document(
    db: &PgPool,
    restaurant: RestaurantId,
    kind: Kind,
    now: DateTime<Utc>,
) -> Result<Loaded, sqlx::Error> {
    let needs_menu = matches!(kind, Kind::Menu | Kind::MenuWithStatus);
    let row = sqlx::query_as!(
        Row,
        r#"SELECT r.restaurant_id, r.name, r.description, r.cuisines, r.price_level, r.address,
                  r.city, r.postal_code, r.country, r.latitude, r.longitude, r.time_zone,
                  r.opening_hours, r.phone, r.photos, r.currency, r.delivery_fee, r.minimum_order,
                  r.tax_basis_points, r.status, r.current_capacity, r.rating, r.rating_count,
                  r.profile_version, r.menu_version, r.status_version,
                  CASE WHEN $2 THEN (
                      SELECT coalesce(json_agg(c ORDER BY c.position, c.category_id), '[]')
                      FROM menu_categories c WHERE c.restaurant_id = r.restaurant_id
                  ) END AS "categories: Json<Vec<CategoryRow>>",
                  CASE WHEN $2 THEN (
                      SELECT coalesce(json_agg(i ORDER BY i.position, i.item_id), '[]')
                      FROM menu_items i WHERE i.restaurant_id = r.restaurant_id
                  ) END AS "items: Json<Vec<ItemRow>>",
                  (SELECT max(u.version) FROM cache_invalidations u
                   WHERE u.restaurant_id = r.restaurant_id) AS unannounced_version,
                  (SELECT bit_or(u.parts) FROM cache_invalidations u
                   WHERE u.restaurant_id = r.restaurant_id) AS unannounced_parts,
                  (SELECT array_agg(u.invalidation_id) FROM cache_invalidations u
                   WHERE u.restaurant_id = r.restaurant_id) AS unannounced_ids
           FROM restaurants r WHERE r.restaurant_id = $1"#,
        restaurant.get(),
        needs_menu,
    )
    .fetch_optional(db)
    .await?;
    let Some(mut row) = row else { return Ok(Loaded { found: None, unannounced: None }) };
    let unannounced = row.unannounced();
    let found = match kind {
        Kind::Restaurant => {
            let restaurant = row.restaurant()?;
            FoundBody::of(restaurant.version, &restaurant, None)?
        }
        Kind::Menu => {
            let menu = row.menu()?;
            FoundBody::of(menu.version, &menu, None)?
        }
        Kind::Status => {
            let (status, until) = row.status_now(now)?;
            FoundBody::of(status.version, &status, until)?
        }
        Kind::MenuWithStatus => {
            let (status, until) = row.status_now(now)?;
            let menu = row.menu()?;
            let both = MenuWithStatus {
                restaurant_id: restaurant,
                version: menu.version.max(status.version),
                status,
                menu,
            };
            FoundBody::of(both.version, &both, until)?
        }
    };
    Ok(Loaded { found: Some(found), unannounced })
}

/// A menu and whether it can be ordered from now.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct MenuWithStatus {
    /// Whose.
    #[schema(value_type = i64)]
    pub restaurant_id: RestaurantId,
    /// The greater of the two versions.
    pub version: i64,
    /// As `GET …/status` answers.
    pub status: StatusNow,
    /// As `GET …/menu` answers.
    pub menu: Menu,
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

/// Whether a change that lists show waits to be announced.
pub async fn lists_unannounced(db: &PgPool) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM cache_invalidations WHERE parts >= 8) AS "any!""#
    )
    .fetch_one(db)
    .await
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

struct Row {
    restaurant_id: i64,
    name: String,
    description: String,
    cuisines: Vec<String>,
    price_level: i16,
    address: String,
    city: String,
    postal_code: String,
    country: String,
    latitude: f64,
    longitude: f64,
    time_zone: String,
    opening_hours: String,
    phone: Option<String>,
    photos: Vec<String>,
    currency: String,
    delivery_fee: i64,
    minimum_order: i64,
    tax_basis_points: i32,
    status: String,
    current_capacity: Option<i32>,
    rating: Option<f32>,
    rating_count: i64,
    profile_version: i64,
    menu_version: i64,
    status_version: i64,
    categories: Option<Json<Vec<CategoryRow>>>,
    items: Option<Json<Vec<ItemRow>>>,
    unannounced_version: Option<i64>,
    unannounced_parts: Option<i16>,
    unannounced_ids: Option<Vec<i64>>,
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

impl Row {
    fn id(&self) -> Result<RestaurantId, sqlx::Error> {
        RestaurantId::new(self.restaurant_id).map_err(decode)
    }

    fn unannounced(&mut self) -> Option<Unannounced> {
        Some(Unannounced {
            version: self.unannounced_version?,
            parts: Parts::from_bits(i64::from(self.unannounced_parts?)),
            ids: self.unannounced_ids.take()?,
        })
    }

    fn restaurant(self) -> Result<Restaurant, sqlx::Error> {
        let currency = currency(&self.currency)?;
        let cuisines = cuisines(&self.cuisines)?;
        Ok(Restaurant {
            restaurant_id: self.id()?,
            version: self.profile_version.max(self.status_version),
            cuisine_type: *cuisines.first().ok_or_else(|| decode("no cuisine"))?,
            cuisines,
            status: status(&self.status)?,
            delivery_fee: Money { amount: self.delivery_fee, currency },
            minimum_order: Money { amount: self.minimum_order, currency },
            price_level: self.price_level as u8,
            tax_basis_points: self.tax_basis_points as u16,
            name: self.name,
            description: self.description,
            address: self.address,
            city: self.city,
            postal_code: self.postal_code,
            country: self.country,
            latitude: self.latitude,
            longitude: self.longitude,
            time_zone: self.time_zone,
            opening_hours: self.opening_hours,
            phone: self.phone,
            photos: self.photos,
            rating: self.rating,
            rating_count: self.rating_count,
            current_capacity: self.current_capacity,
        })
    }

    fn status_now(
        &self,
        now: DateTime<Utc>,
    ) -> Result<(StatusNow, Option<DateTime<Utc>>), sqlx::Error> {
        let hours = Hours::parse(&self.opening_hours, &self.time_zone, &self.country)
            .map_err(|error| decode(error.to_string()))?;
        let status = status(&self.status)?;
        let next_change = hours.next_change(now);
        let now = StatusNow {
            restaurant_id: self.id()?,
            version: self.status_version,
            status,
            current_capacity: self.current_capacity,
            is_open: status.takes_orders() && hours.is_open(now),
            next_change,
        };
        Ok((now, next_change))
    }

    fn menu(&mut self) -> Result<Menu, sqlx::Error> {
        let categories = self.categories.take().map(|rows| rows.0).unwrap_or_default();
        let items = self.items.take().map(|rows| rows.0).unwrap_or_default();
        let currency = currency(&self.currency)?;
        Ok(menu(self.id()?, self.menu_version, currency, categories, items))
    }
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

impl FoundBody {
    fn of(
        version: i64,
        document: &impl Serialize,
        right_until: Option<DateTime<Utc>>,
    ) -> Result<Self, sqlx::Error> {
        Ok(Self { version, body: json(document)?, right_until })
    }
}

fn json(document: &impl Serialize) -> Result<Bytes, sqlx::Error> {
    serde_json::to_vec(document).map(Bytes::from).map_err(decode)
}

pub(crate) fn decode(
    error: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> sqlx::Error {
    sqlx::Error::Decode(error.into())
}

pub(crate) fn currency(code: &str) -> Result<Currency, sqlx::Error> {
    Currency::parse(code).map_err(decode)
}

pub(crate) fn cuisines(names: &[String]) -> Result<Vec<Cuisine>, sqlx::Error> {
    names.iter().map(|name| Cuisine::parse(name).ok_or_else(|| decode("not a cuisine"))).collect()
}

pub(crate) fn status(name: &str) -> Result<Status, sqlx::Error> {
    Status::parse(name).ok_or_else(|| decode("not a status"))
}
