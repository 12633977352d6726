//! Rows that operators change. Each function works inside the transaction of a write, whose
//! restaurant has its new version already; `publish` opens it.

use contracts::{
    events::RatingSum,
    ids::{CategoryId, ItemId, RestaurantId},
};
use h3o::LatLng;
use platform::{
    auth::{Caller, Role},
    permits::Busy,
};
use sqlx::{PgConnection, types::Json};

use super::{decode, list::CELL_RESOLUTION};
use crate::{
    document::Parts,
    hours::Hours,
    invalid::Invalid,
    menu::{CATEGORIES_MAX, ITEMS_MAX, NewCategory, NewItem, NewMenu},
    restaurant::{Profile, Status},
};

/// Characters of item names that a search looks at.
const MENU_WORDS_MAX: usize = 8_000;

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// There is no such thing, or it is somebody else's.
    #[error("there is no such thing")]
    NotFound,
    /// A field that only the database can judge.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// It is taken, or changed meanwhile.
    #[error("{0}")]
    Conflict(&'static str),
    /// Too many writes are under way.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The database.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Takes the restaurant's next version for these parts, if the caller runs it; answers the version.
/// The row stays locked, so writes of one restaurant come one after the other.
pub async fn touch(
    db: &mut PgConnection,
    caller: &Caller,
    restaurant: RestaurantId,
    parts: Parts,
) -> Result<i64, WriteError> {
    let version = sqlx::query_scalar!(
        "UPDATE restaurants SET
             version = version + 1,
             profile_version = CASE WHEN $2 THEN version + 1 ELSE profile_version END,
             menu_version = CASE WHEN $3 THEN version + 1 ELSE menu_version END,
             status_version = CASE WHEN $4 THEN version + 1 ELSE status_version END,
             updated_at = now()
         WHERE restaurant_id = $1 AND ($5 OR restaurant_id = ANY($6) OR operator_id = $7)
         RETURNING version",
        restaurant.get(),
        parts.meets(Parts::PROFILE),
        parts.meets(Parts::MENU),
        parts.meets(Parts::STATUS),
        caller.role == Role::Admin,
        &caller.restaurants[..],
        (caller.role == Role::Operator).then_some(caller.subject),
    )
    .fetch_optional(db)
    .await?;
    version.ok_or(WriteError::NotFound)
}

/// Notes what all nodes must be told; answers the row's id.
pub async fn note(
    db: &mut PgConnection,
    restaurant: RestaurantId,
    version: i64,
    parts: Parts,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        "INSERT INTO cache_invalidations (restaurant_id, version, parts) VALUES ($1, $2, $3)
         RETURNING invalidation_id",
        restaurant.get(),
        version,
        i16::from(parts.bits()),
    )
    .fetch_one(db)
    .await
}

/// A profile's values as the table has them.
struct Values<'a> {
    profile: &'a Profile,
    cuisines: Vec<String>,
    cell: i64,
    open: Option<(chrono::DateTime<chrono::Utc>, chrono::DateTime<chrono::Utc>)>,
}

impl<'a> Values<'a> {
    fn of(profile: &'a Profile, hours: &Hours) -> Result<Self, WriteError> {
        let place = LatLng::new(profile.latitude, profile.longitude)
            .map_err(|_| Invalid::new("latitude", "must be between -90 and 90"))?;
        Ok(Self {
            cuisines: profile.cuisines.iter().map(|c| c.as_str().to_owned()).collect(),
            cell: u64::from(place.to_cell(CELL_RESOLUTION)).cast_signed(),
            open: hours.interval(chrono::Utc::now()),
            profile,
        })
    }
}

/// A new restaurant, closed and without a menu, run by `operator` if that is who creates it.
pub async fn create(
    db: &mut PgConnection,
    profile: &Profile,
    hours: &Hours,
    operator: Option<i64>,
) -> Result<RestaurantId, WriteError> {
    let Values { profile: p, cuisines, cell, open } = Values::of(profile, hours)?;
    let id = sqlx::query_scalar!(
        "INSERT INTO restaurants (
             external_id, operator_id, name, description, cuisines, price_level, address, city,
             postal_code, country, latitude, longitude, h3_cell, time_zone, opening_hours, phone,
             photos, currency, delivery_fee, minimum_order, tax_basis_points, opens_at, closes_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
                 $19, $20, $21, $22, $23)
         RETURNING restaurant_id",
        p.external_id,
        operator,
        p.name,
        p.description,
        &cuisines,
        i16::from(p.price_level),
        p.address,
        p.city,
        p.postal_code,
        p.country,
        p.latitude,
        p.longitude,
        cell,
        p.time_zone,
        p.opening_hours,
        p.phone,
        &p.photos,
        p.currency.as_str(),
        p.delivery_fee,
        p.minimum_order,
        i32::from(p.tax_basis_points),
        open.map(|(opens, _)| opens),
        open.map(|(_, closes)| closes),
    )
    .fetch_one(db)
    .await
    .map_err(external_id_taken)?;
    Ok(RestaurantId::new(id).map_err(decode)?)
}

/// Puts a profile in the place of what was there.
pub async fn replace_profile(
    db: &mut PgConnection,
    restaurant: RestaurantId,
    profile: &Profile,
    hours: &Hours,
) -> Result<(), WriteError> {
    let Values { profile: p, cuisines, cell, open } = Values::of(profile, hours)?;
    sqlx::query!(
        "UPDATE restaurants SET
             external_id = $2, name = $3, description = $4, cuisines = $5, price_level = $6,
             address = $7, city = $8, postal_code = $9, country = $10, latitude = $11,
             longitude = $12, h3_cell = $13, time_zone = $14, opening_hours = $15, phone = $16,
             photos = $17, currency = $18, delivery_fee = $19, minimum_order = $20,
             tax_basis_points = $21, opens_at = $22, closes_at = $23, hours_due = now()
         WHERE restaurant_id = $1",
        restaurant.get(),
        p.external_id,
        p.name,
        p.description,
        &cuisines,
        i16::from(p.price_level),
        p.address,
        p.city,
        p.postal_code,
        p.country,
        p.latitude,
        p.longitude,
        cell,
        p.time_zone,
        p.opening_hours,
        p.phone,
        &p.photos,
        p.currency.as_str(),
        p.delivery_fee,
        p.minimum_order,
        i32::from(p.tax_basis_points),
        open.map(|(opens, _)| opens),
        open.map(|(_, closes)| closes),
    )
    .execute(db)
    .await
    .map_err(external_id_taken)?;
    Ok(())
}

fn external_id_taken(error: sqlx::Error) -> WriteError {
    if platform::postgres::violates(&error, "restaurants_external_id_key") {
        return WriteError::Conflict("Another restaurant has this external_id.");
    }
    error.into()
}

/// Sets the status, and the capacity when one is named.
pub async fn set_status(
    db: &mut PgConnection,
    restaurant: RestaurantId,
    status: Status,
    capacity: Option<i32>,
) -> Result<Option<i32>, WriteError> {
    let capacity = sqlx::query_scalar!(
        "UPDATE restaurants SET status = $2, current_capacity = coalesce($3, current_capacity)
         WHERE restaurant_id = $1 RETURNING current_capacity",
        restaurant.get(),
        status.as_str(),
        capacity,
    )
    .fetch_one(db)
    .await?;
    Ok(capacity)
}

/// Sets the rating; a conflict when one of as many customers or more is there.
pub async fn set_rating(
    db: &mut PgConnection,
    restaurant: RestaurantId,
    rating: RatingSum,
) -> Result<(), WriteError> {
    let done = sqlx::query!(
        "UPDATE restaurants SET rating = $2, rating_count = $3
         WHERE restaurant_id = $1 AND rating_count < $3",
        restaurant.get(),
        (rating.sum as f64 / rating.count as f64) as f32,
        rating.count,
    )
    .execute(db)
    .await?;
    let is_newer = done.rows_affected() == 1;
    if is_newer { Ok(()) } else { Err(WriteError::Conflict("A newer rating is shown.")) }
}

/// What an item's availability becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Availability {
    /// Which item.
    pub item: ItemId,
    /// Whether it is offered at present.
    pub available: bool,
    /// Whether there is any left.
    pub in_stock: bool,
}

/// Sets the availability of items; all of them or, when one is not the restaurant's, none.
pub async fn set_availability(
    db: &mut PgConnection,
    restaurant: RestaurantId,
    version: i64,
    items: &[Availability],
) -> Result<(), WriteError> {
    let ids: Vec<i64> = items.iter().map(|item| item.item.get()).collect();
    let available: Vec<bool> = items.iter().map(|item| item.available).collect();
    let in_stock: Vec<bool> = items.iter().map(|item| item.in_stock).collect();
    let done = sqlx::query!(
        "UPDATE menu_items i SET available = n.available, in_stock = n.in_stock, since_version = $2
         FROM unnest($3::bigint[], $4::bool[], $5::bool[]) AS n(item_id, available, in_stock)
         WHERE i.item_id = n.item_id AND i.restaurant_id = $1",
        restaurant.get(),
        version,
        &ids,
        &available,
        &in_stock,
    )
    .execute(db)
    .await?;
    if done.rows_affected() == items.len() as u64 { Ok(()) } else { Err(WriteError::NotFound) }
}

/// Puts a menu in the place of what was there. Categories and items that are named by id are
/// changed, those that are not are new, and what is named by nobody goes.
pub async fn replace_menu(
    db: &mut PgConnection,
    restaurant: RestaurantId,
    version: i64,
    menu: &NewMenu,
) -> Result<(), WriteError> {
    let all_items = || menu.categories.iter().flat_map(|category| &category.items);
    let kept_items: Vec<i64> = all_items().filter_map(|i| i.item_id).map(ItemId::get).collect();
    sqlx::query!(
        "DELETE FROM menu_items WHERE restaurant_id = $1 AND item_id <> ALL($2)",
        restaurant.get(),
        &kept_items,
    )
    .execute(&mut *db)
    .await?;
    let mut written = Vec::with_capacity(menu.categories.len());
    for (position, category) in (0..).zip(&menu.categories) {
        let place = format!("categories[{position}]");
        let id = put_category(db, restaurant, version, category, position)
            .await
            .map_err(|error| missing(error, || format!("{place}.category_id")))?;
        for (n, item) in (0..).zip(&category.items) {
            put_item(db, restaurant, version, id, item, n)
                .await
                .map_err(|error| missing(error, || format!("{place}.items[{n}].item_id")))?;
        }
        written.push(id.get());
    }
    sqlx::query!(
        "DELETE FROM menu_categories WHERE restaurant_id = $1 AND category_id <> ALL($2)",
        restaurant.get(),
        &written,
    )
    .execute(&mut *db)
    .await?;
    note_words(db, restaurant).await
}

/// In a whole menu, an id that is not there is a mistake in the body.
fn missing(error: WriteError, field: impl Fn() -> String) -> WriteError {
    match error {
        WriteError::NotFound => Invalid::new(field(), "there is none with this id").into(),
        other => other,
    }
}

/// Adds a category, or changes the one that is named; answers its id.
pub async fn put_category(
    db: &mut PgConnection,
    restaurant: RestaurantId,
    version: i64,
    category: &NewCategory,
    position: i32,
) -> Result<CategoryId, WriteError> {
    let id = match category.category_id {
        Some(id) => sqlx::query_scalar!(
            "UPDATE menu_categories
             SET name = $3, description = $4, position = $5, since_version = $6
             WHERE restaurant_id = $1 AND category_id = $2 RETURNING category_id",
            restaurant.get(),
            id.get(),
            category.name,
            category.description,
            position,
            version,
        )
        .fetch_optional(db)
        .await?
        .ok_or(WriteError::NotFound)?,
        None => {
            sqlx::query_scalar!(
                "INSERT INTO menu_categories
                     (restaurant_id, name, description, position, since_version)
                 VALUES ($1, $2, $3, $4, $5) RETURNING category_id",
                restaurant.get(),
                category.name,
                category.description,
                position,
                version,
            )
            .fetch_one(db)
            .await?
        }
    };
    Ok(CategoryId::new(id).map_err(decode)?)
}

/// Adds an item to a category, or changes and moves the one that is named; answers its id.
pub async fn put_item(
    db: &mut PgConnection,
    restaurant: RestaurantId,
    version: i64,
    category: CategoryId,
    item: &NewItem,
    position: i32,
) -> Result<ItemId, WriteError> {
    let allergens: Vec<String> = names(&item.allergens)?;
    let dietary: Vec<String> = names(&item.dietary)?;
    let id = match item.item_id {
        Some(id) => sqlx::query_scalar!(
            "UPDATE menu_items SET
                 category_id = $3, name = $4, description = $5, price = $6, photo = $7,
                 options = $8, allergens = $9, dietary = $10, preparation_minutes = $11,
                 available = $12, in_stock = $13, position = $14, since_version = $15
             WHERE restaurant_id = $1 AND item_id = $2 RETURNING item_id",
            restaurant.get(),
            id.get(),
            category.get(),
            item.name,
            item.description,
            item.price,
            item.photo,
            Json(&item.options) as _,
            &allergens,
            &dietary,
            item.preparation_minutes,
            item.available,
            item.in_stock,
            position,
            version,
        )
        .fetch_optional(db)
        .await
        .map_err(no_category)?
        .ok_or(WriteError::NotFound)?,
        None => sqlx::query_scalar!(
            "INSERT INTO menu_items (
                 restaurant_id, category_id, name, description, price, photo, options, allergens,
                 dietary, preparation_minutes, available, in_stock, position, since_version)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
             RETURNING item_id",
            restaurant.get(),
            category.get(),
            item.name,
            item.description,
            item.price,
            item.photo,
            Json(&item.options) as _,
            &allergens,
            &dietary,
            item.preparation_minutes,
            item.available,
            item.in_stock,
            position,
            version,
        )
        .fetch_one(db)
        .await
        .map_err(no_category)?,
    };
    Ok(ItemId::new(id).map_err(decode)?)
}

fn no_category(error: sqlx::Error) -> WriteError {
    if platform::postgres::violates(&error, "menu_items_category_fkey") {
        return Invalid::new("category_id", "is no category of this restaurant").into();
    }
    error.into()
}

/// Enums as the texts that serde makes of them.
fn names<T: serde::Serialize>(values: &[T]) -> Result<Vec<String>, sqlx::Error> {
    let text = serde_json::to_value(values).map_err(decode)?;
    serde_json::from_value(text).map_err(decode)
}

/// The place after the last category.
pub async fn end_of_categories(
    db: &mut PgConnection,
    restaurant: RestaurantId,
) -> Result<i32, WriteError> {
    let row = sqlx::query!(
        r#"SELECT count(*) AS "count!", coalesce(max(position), -1) + 1 AS "next!"
           FROM menu_categories WHERE restaurant_id = $1"#,
        restaurant.get(),
    )
    .fetch_one(db)
    .await?;
    if row.count >= CATEGORIES_MAX as i64 {
        return Err(WriteError::Conflict("The menu has 100 categories already."));
    }
    Ok(row.next)
}

/// The place after the last item of a category.
pub async fn end_of_items(
    db: &mut PgConnection,
    restaurant: RestaurantId,
    category: CategoryId,
) -> Result<i32, WriteError> {
    let row = sqlx::query!(
        r#"SELECT count(*) AS "count!",
                  coalesce(max(position) FILTER (WHERE category_id = $2), -1) + 1 AS "next!"
           FROM menu_items WHERE restaurant_id = $1"#,
        restaurant.get(),
        category.get(),
    )
    .fetch_one(db)
    .await?;
    if row.count >= ITEMS_MAX as i64 {
        return Err(WriteError::Conflict("The menu has 1000 items already."));
    }
    Ok(row.next)
}

/// Where a category or an item stands at present.
pub async fn position(
    db: &mut PgConnection,
    restaurant: RestaurantId,
    category: Option<CategoryId>,
    item: Option<ItemId>,
) -> Result<i32, WriteError> {
    let position = sqlx::query_scalar!(
        r#"SELECT position AS "position!" FROM menu_categories
           WHERE restaurant_id = $1 AND category_id = $2
           UNION ALL
           SELECT position FROM menu_items WHERE restaurant_id = $1 AND item_id = $3"#,
        restaurant.get(),
        category.map(CategoryId::get),
        item.map(ItemId::get),
    )
    .fetch_optional(db)
    .await?;
    position.ok_or(WriteError::NotFound)
}

/// Removes a category with its items.
pub async fn delete_category(
    db: &mut PgConnection,
    restaurant: RestaurantId,
    category: CategoryId,
) -> Result<(), WriteError> {
    let done = sqlx::query!(
        "DELETE FROM menu_categories WHERE restaurant_id = $1 AND category_id = $2",
        restaurant.get(),
        category.get(),
    )
    .execute(db)
    .await?;
    if done.rows_affected() == 1 { Ok(()) } else { Err(WriteError::NotFound) }
}

/// Removes an item.
pub async fn delete_item(
    db: &mut PgConnection,
    restaurant: RestaurantId,
    item: ItemId,
) -> Result<(), WriteError> {
    let done = sqlx::query!(
        "DELETE FROM menu_items WHERE restaurant_id = $1 AND item_id = $2",
        restaurant.get(),
        item.get(),
    )
    .execute(db)
    .await?;
    if done.rows_affected() == 1 { Ok(()) } else { Err(WriteError::NotFound) }
}

/// Brings the words that a search finds up to date with the menu.
pub async fn note_words(db: &mut PgConnection, restaurant: RestaurantId) -> Result<(), WriteError> {
    sqlx::query!(
        "UPDATE restaurants SET menu_words = (
             SELECT left(coalesce(string_agg(words.name, ' '), ''), $2) FROM (
                 SELECT name FROM menu_categories WHERE restaurant_id = $1
                 UNION ALL SELECT name FROM menu_items WHERE restaurant_id = $1
             ) words
         ) WHERE restaurant_id = $1",
        restaurant.get(),
        MENU_WORDS_MAX as i32,
    )
    .execute(db)
    .await?;
    Ok(())
}
