//! What is stored of the restaurants of a batch.

use rustc_hash::FxHashMap;
use sqlx::{FromRow, PgConnection, types::Json};

use super::read::Described;
use crate::{
    menu::{NewItem, Options},
    restaurant::{Profile, Status},
};

/// A restaurant with its menu, locked against other writers until the transaction ends.
pub(super) struct Stored {
    pub(super) row: RestaurantRow,
    /// In their order.
    pub(super) categories: Vec<StoredCategory>,
}

pub(super) struct StoredCategory {
    pub(super) id: i64,
    pub(super) name: String,
    pub(super) description: String,
    pub(super) position: i32,
    pub(super) items: Vec<StoredItem>,
}

pub(super) struct StoredItem {
    pub(super) id: i64,
    pub(super) position: i32,
    /// Without its id.
    pub(super) item: NewItem,
}

#[derive(FromRow)]
pub(super) struct RestaurantRow {
    pub(super) restaurant_id: i64,
    pub(super) external_id: String,
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
    pub(super) version: i64,
    pub(super) profile_version: i64,
    pub(super) menu_version: i64,
    pub(super) status_version: i64,
}

impl RestaurantRow {
    pub(super) fn is(&self, profile: &Profile) -> bool {
        let cuisines = profile.cuisines.iter().map(|cuisine| cuisine.as_str());
        Some(&self.external_id) == profile.external_id.as_ref()
            && self.name == profile.name
            && self.description == profile.description
            && cuisines.eq(self.cuisines.iter().map(String::as_str))
            && self.price_level == i16::from(profile.price_level)
            && self.address == profile.address
            && self.city == profile.city
            && self.postal_code == profile.postal_code
            && self.latitude == profile.latitude
            && self.longitude == profile.longitude
            && self.has_hours_of(profile)
            && self.phone == profile.phone
            && self.photos == profile.photos
            && self.has_currency_of(profile)
            && self.delivery_fee == profile.delivery_fee
            && self.minimum_order == profile.minimum_order
            && self.tax_basis_points == i32::from(profile.tax_basis_points)
    }

    pub(super) fn has_hours_of(&self, profile: &Profile) -> bool {
        self.opening_hours == profile.opening_hours
            && self.time_zone == profile.time_zone
            && self.country == profile.country
    }

    pub(super) fn has_currency_of(&self, profile: &Profile) -> bool {
        self.currency == profile.currency.as_str()
    }

    pub(super) fn status(&self) -> Option<Status> {
        Status::parse(&self.status)
    }
}

#[derive(FromRow)]
struct CategoryRow {
    restaurant_id: i64,
    category_id: i64,
    name: String,
    description: String,
    position: i32,
}

#[derive(FromRow)]
struct ItemRow {
    category_id: i64,
    item_id: i64,
    name: String,
    description: String,
    price: i64,
    photo: Option<String>,
    options: Json<Vec<Options>>,
    allergens: Json<Vec<crate::menu::Allergen>>,
    dietary: Json<Vec<crate::menu::Diet>>,
    preparation_minutes: i32,
    available: bool,
    in_stock: bool,
    position: i32,
}

/// Locks the restaurants of `batch` that there are, and reads them and their menus.
pub(super) async fn load(
    db: &mut PgConnection,
    batch: &[Described],
) -> Result<FxHashMap<String, Stored>, sqlx::Error> {
    let names: Vec<&str> = batch.iter().map(|described| &*described.external_id).collect();
    // In one order, so that two imports wait for each other instead of dying of each other.
    let rows: Vec<RestaurantRow> = sqlx::query_as(
        "SELECT restaurant_id, external_id, name, description, cuisines, price_level, address,
                city, postal_code, country, latitude, longitude, time_zone, opening_hours, phone,
                photos, currency, delivery_fee, minimum_order, tax_basis_points, status, version,
                profile_version, menu_version, status_version
         FROM restaurants WHERE external_id = ANY($1)
         ORDER BY restaurant_id FOR NO KEY UPDATE",
    )
    .bind(names)
    .fetch_all(&mut *db)
    .await?;
    if rows.is_empty() {
        return Ok(FxHashMap::default());
    }
    let ids: Vec<i64> = rows.iter().map(|row| row.restaurant_id).collect();
    let categories: Vec<CategoryRow> = sqlx::query_as(
        "SELECT restaurant_id, category_id, name, description, position
         FROM menu_categories WHERE restaurant_id = ANY($1)
         ORDER BY restaurant_id, position, category_id",
    )
    .bind(&ids)
    .fetch_all(&mut *db)
    .await?;
    let items: Vec<ItemRow> = sqlx::query_as(
        "SELECT category_id, item_id, name, description, price, photo, options,
                to_jsonb(allergens) AS allergens, to_jsonb(dietary) AS dietary,
                preparation_minutes, available, in_stock, position
         FROM menu_items WHERE restaurant_id = ANY($1)
         ORDER BY category_id, position, item_id",
    )
    .bind(&ids)
    .fetch_all(&mut *db)
    .await?;
    Ok(assemble(rows, categories, items))
}

fn assemble(
    rows: Vec<RestaurantRow>,
    categories: Vec<CategoryRow>,
    items: Vec<ItemRow>,
) -> FxHashMap<String, Stored> {
    let mut items_of: FxHashMap<i64, Vec<StoredItem>> = FxHashMap::default();
    for row in items {
        let item = NewItem {
            item_id: None,
            name: row.name,
            description: row.description,
            price: row.price,
            photo: row.photo,
            options: row.options.0,
            allergens: row.allergens.0,
            dietary: row.dietary.0,
            preparation_minutes: row.preparation_minutes,
            available: row.available,
            in_stock: row.in_stock,
        };
        let stored = StoredItem { id: row.item_id, position: row.position, item };
        items_of.entry(row.category_id).or_default().push(stored);
    }
    let mut categories_of: FxHashMap<i64, Vec<StoredCategory>> = FxHashMap::default();
    for row in categories {
        categories_of.entry(row.restaurant_id).or_default().push(StoredCategory {
            id: row.category_id,
            name: row.name,
            description: row.description,
            position: row.position,
            items: items_of.remove(&row.category_id).unwrap_or_default(),
        });
    }
    rows.into_iter()
        .map(|row| {
            let categories = categories_of.remove(&row.restaurant_id).unwrap_or_default();
            (row.external_id.clone(), Stored { row, categories })
        })
        .collect()
}
