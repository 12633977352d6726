//! Writes a batch of restaurants in one transaction.
//!
//! The order matters: a restaurant's row has its new version before rows of its menu are touched,
//! because the menu's history is kept by that version, and what caches must be told is written with
//! it. Rows go to the database as one JSON text per table, which it takes apart by the table's own
//! row type.

use chrono::{DateTime, Utc};
use rustc_hash::FxHashMap;
use serde::Serialize;
use sqlx::{Acquire as _, PgConnection, PgPool, types::Json};

use super::{
    diff::{MenuChange, Place},
    read::Described,
    stored::{self, Stored},
};
use crate::{
    menu::{NewCategory, NewItem, NewMenu},
    restaurant::{Profile, Status},
};

/// The longest text of `menu_words`, in characters.
const WORDS_MAX: usize = 8_000;
/// Profile, menu, status and lists: see `cache_invalidations`.
const ALL_PARTS: i16 = 15;

/// What became of a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) created: u64,
    pub(super) updated: u64,
    pub(super) unchanged: u64,
}

/// Makes the restaurants of `batch` what they are described to be: all or none. `now` decides which
/// opening is the next.
pub(super) async fn write(
    db: &PgPool,
    now: DateTime<Utc>,
    dry_run: bool,
    batch: &[Described],
) -> Result<Counts, sqlx::Error> {
    let mut db = db.acquire().await?;
    let mut transaction = db.begin().await?;
    let stored = stored::load(&mut transaction, batch).await?;
    let mut counts = Counts::default();
    let mut changes = Vec::new();
    for described in batch {
        let change = Change::new(described, stored.get(&described.external_id));
        match change.stored {
            None => counts.created += 1,
            Some(_) if change.is_empty() => {
                counts.unchanged += 1;
                continue;
            }
            Some(_) => counts.updated += 1,
        }
        changes.push(change);
    }
    if dry_run || changes.is_empty() {
        transaction.rollback().await?;
        return Ok(counts);
    }
    let (new, changed): (Vec<_>, Vec<_>) =
        changes.iter().partition(|change| change.stored.is_none());
    let mut ids = FxHashMap::default();
    insert_restaurants(&mut transaction, now, &new, &mut ids).await?;
    update_restaurants(&mut transaction, now, &changed).await?;
    write_menus(&mut transaction, &changes, &ids).await?;
    let (restaurants, versions): (Vec<i64>, Vec<i64>) =
        changes.iter().map(|change| (change.restaurant_id(&ids), change.version())).unzip();
    sqlx::query(
        "INSERT INTO cache_invalidations (restaurant_id, version, parts)
         SELECT restaurant_id, version, $3
         FROM unnest($1::bigint[], $2::bigint[]) AS new (restaurant_id, version)",
    )
    .bind(restaurants)
    .bind(versions)
    .bind(ALL_PARTS)
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(counts)
}

/// What is new about a restaurant.
struct Change<'a> {
    described: &'a Described,
    stored: Option<&'a Stored>,
    profile: bool,
    menu: Option<MenuChange<'a>>,
    status: bool,
}

impl<'a> Change<'a> {
    fn new(described: &'a Described, stored: Option<&'a Stored>) -> Self {
        let categories = stored.map(|stored| &*stored.categories).unwrap_or_default();
        let menu = described.menu.as_ref().map(|menu| MenuChange::between(categories, menu));
        let status = described.status;
        Self {
            described,
            stored,
            profile: stored.is_none_or(|stored| !stored.row.is(&described.profile)),
            menu: menu.filter(|menu| !menu.is_empty()),
            status: status.is_some() && stored.and_then(|stored| stored.row.status()) != status,
        }
    }

    fn is_empty(&self) -> bool {
        !self.profile && self.menu.is_none() && !self.status
    }

    fn restaurant_id(&self, new: &FxHashMap<String, i64>) -> i64 {
        match self.stored {
            Some(stored) => stored.row.restaurant_id,
            // The database answers an id for each row that it inserts.
            None => new.get(&self.described.external_id).copied().unwrap_or_default(),
        }
    }

    /// The version that this change makes.
    fn version(&self) -> i64 {
        self.stored.map_or(1, |stored| stored.row.version + 1)
    }

    fn row(&self, now: DateTime<Utc>) -> RestaurantRow<'a> {
        let Described { profile, hours, cell, status, menu, .. } = self.described;
        let version = self.version();
        let row = self.stored.map(|stored| &stored.row);
        let stamp = |is_changed: bool, before: Option<i64>| match before {
            Some(before) if !is_changed => before,
            _ => version,
        };
        // The documents' contents, not only their own columns: a menu shows the currency, and
        // whether it is open follows from the hours.
        let menu_changed =
            self.menu.is_some() || row.is_some_and(|row| !row.has_currency_of(profile));
        let status_changed = self.status || row.is_some_and(|row| !row.has_hours_of(profile));
        let interval = hours.interval(now);
        RestaurantRow {
            restaurant_id: row.map(|row| row.restaurant_id),
            profile,
            h3_cell: *cell,
            status: status.or(row.and_then(|row| row.status())).unwrap_or(Status::Closed),
            version,
            profile_version: stamp(self.profile, row.map(|row| row.profile_version)),
            menu_version: stamp(menu_changed, row.map(|row| row.menu_version)),
            status_version: stamp(status_changed, row.map(|row| row.status_version)),
            opens_at: interval.map(|(opens_at, _)| opens_at),
            closes_at: interval.map(|(_, closes_at)| closes_at),
            menu_words: menu.as_ref().map(menu_words),
        }
    }
}

/// A row of `restaurants`.
#[derive(Serialize)]
struct RestaurantRow<'a> {
    restaurant_id: Option<i64>,
    #[serde(flatten)]
    profile: &'a Profile,
    h3_cell: i64,
    status: Status,
    version: i64,
    profile_version: i64,
    menu_version: i64,
    status_version: i64,
    opens_at: Option<DateTime<Utc>>,
    closes_at: Option<DateTime<Utc>>,
    menu_words: Option<String>,
}

/// A row of `menu_categories`.
#[derive(Serialize)]
struct CategoryRow<'a> {
    category_id: Option<i64>,
    restaurant_id: i64,
    name: &'a str,
    description: &'a str,
    position: i32,
    since_version: i64,
}

impl<'a> CategoryRow<'a> {
    fn new(restaurant_id: i64, version: i64, position: i32, category: &'a NewCategory) -> Self {
        Self {
            category_id: None,
            restaurant_id,
            name: &category.name,
            description: &category.description,
            position,
            since_version: version,
        }
    }
}

/// A row of `menu_items`.
#[derive(Serialize)]
struct ItemRow<'a> {
    /// Under another name, because the item has one that is never there.
    #[serde(rename = "item_id")]
    id: Option<i64>,
    restaurant_id: i64,
    category_id: Option<i64>,
    #[serde(flatten)]
    item: &'a NewItem,
    position: i32,
    since_version: i64,
}

/// Answers the ids by external id.
async fn insert_restaurants(
    db: &mut PgConnection,
    now: DateTime<Utc>,
    new: &[&Change<'_>],
    ids: &mut FxHashMap<String, i64>,
) -> Result<(), sqlx::Error> {
    if new.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = new.iter().map(|change| change.row(now)).collect();
    let inserted: Vec<(String, i64)> = sqlx::query_as(
        "INSERT INTO restaurants (external_id, name, description, cuisines, price_level, address,
             city, postal_code, country, latitude, longitude, h3_cell, time_zone, opening_hours,
             phone, photos, currency, delivery_fee, minimum_order, tax_basis_points, status,
             opens_at, closes_at, hours_due, menu_words)
         SELECT external_id, name, description, cuisines, price_level, address,
             city, postal_code, country, latitude, longitude, h3_cell, time_zone, opening_hours,
             phone, photos, currency, delivery_fee, minimum_order, tax_basis_points, status,
             opens_at, closes_at, coalesce(closes_at, now()), coalesce(menu_words, '')
         FROM jsonb_populate_recordset(NULL::restaurants, $1)
         RETURNING external_id, restaurant_id",
    )
    .bind(Json(rows))
    .fetch_all(db)
    .await?;
    ids.extend(inserted);
    Ok(())
}

async fn update_restaurants(
    db: &mut PgConnection,
    now: DateTime<Utc>,
    changed: &[&Change<'_>],
) -> Result<(), sqlx::Error> {
    if changed.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = changed.iter().map(|change| change.row(now)).collect();
    sqlx::query(
        "UPDATE restaurants r
         SET version = new.version, profile_version = new.profile_version,
             menu_version = new.menu_version, status_version = new.status_version,
             name = new.name, description = new.description, cuisines = new.cuisines,
             price_level = new.price_level, address = new.address, city = new.city,
             postal_code = new.postal_code, country = new.country, latitude = new.latitude,
             longitude = new.longitude, h3_cell = new.h3_cell, time_zone = new.time_zone,
             opening_hours = new.opening_hours, phone = new.phone, photos = new.photos,
             currency = new.currency, delivery_fee = new.delivery_fee,
             minimum_order = new.minimum_order, tax_basis_points = new.tax_basis_points,
             status = new.status, opens_at = new.opens_at, closes_at = new.closes_at,
             hours_due = coalesce(new.closes_at, now()),
             menu_words = coalesce(new.menu_words, r.menu_words), updated_at = now()
         FROM jsonb_populate_recordset(NULL::restaurants, $1) new
         WHERE r.restaurant_id = new.restaurant_id",
    )
    .bind(Json(rows))
    .execute(db)
    .await?;
    Ok(())
}

async fn write_menus(
    db: &mut PgConnection,
    changes: &[Change<'_>],
    ids: &FxHashMap<String, i64>,
) -> Result<(), sqlx::Error> {
    let menus: Vec<(i64, i64, &MenuChange<'_>)> = changes
        .iter()
        .filter_map(|change| {
            Some((change.restaurant_id(ids), change.version(), change.menu.as_ref()?))
        })
        .collect();
    let gone = menus.iter().flat_map(|(.., menu)| &menu.gone_items).copied().collect();
    delete(db, "DELETE FROM menu_items WHERE item_id = ANY($1)", gone).await?;
    let gone = menus.iter().flat_map(|(.., menu)| &menu.gone_categories).copied().collect();
    delete(db, "DELETE FROM menu_categories WHERE category_id = ANY($1)", gone).await?;
    let categories = write_categories(db, &menus).await?;
    write_items(db, &menus, &categories).await
}

async fn delete(
    db: &mut PgConnection,
    sql: &'static str,
    ids: Vec<i64>,
) -> Result<(), sqlx::Error> {
    if !ids.is_empty() {
        sqlx::query(sql).bind(ids).execute(db).await?;
    }
    Ok(())
}

/// Answers the ids of the new ones by restaurant and position.
async fn write_categories(
    db: &mut PgConnection,
    menus: &[(i64, i64, &MenuChange<'_>)],
) -> Result<FxHashMap<(i64, i32), i64>, sqlx::Error> {
    let (mut new, mut changed) = (Vec::new(), Vec::new());
    for &(restaurant, version, menu) in menus {
        for &(position, category) in &menu.new_categories {
            new.push(CategoryRow::new(restaurant, version, position, category));
        }
        for &(id, position, category) in &menu.changed_categories {
            let row = CategoryRow::new(restaurant, version, position, category);
            changed.push(CategoryRow { category_id: Some(id), ..row });
        }
    }
    if !changed.is_empty() {
        sqlx::query(
            "UPDATE menu_categories c
             SET description = new.description, position = new.position,
                 since_version = new.since_version
             FROM jsonb_populate_recordset(NULL::menu_categories, $1) new
             WHERE c.category_id = new.category_id",
        )
        .bind(Json(changed))
        .execute(&mut *db)
        .await?;
    }
    if new.is_empty() {
        return Ok(FxHashMap::default());
    }
    let inserted: Vec<(i64, i32, i64)> = sqlx::query_as(
        "INSERT INTO menu_categories (restaurant_id, name, description, position, since_version)
         SELECT restaurant_id, name, description, position, since_version
         FROM jsonb_populate_recordset(NULL::menu_categories, $1)
         RETURNING restaurant_id, position, category_id",
    )
    .bind(Json(new))
    .fetch_all(db)
    .await?;
    Ok(inserted.into_iter().map(|(restaurant, at, id)| ((restaurant, at), id)).collect())
}

async fn write_items(
    db: &mut PgConnection,
    menus: &[(i64, i64, &MenuChange<'_>)],
    categories: &FxHashMap<(i64, i32), i64>,
) -> Result<(), sqlx::Error> {
    let (mut new, mut changed) = (Vec::new(), Vec::new());
    for &(restaurant_id, since_version, menu) in menus {
        for &(place, position, item) in &menu.new_items {
            let category_id = match place {
                Place::Stored(id) => Some(id),
                Place::New(at) => categories.get(&(restaurant_id, at)).copied(),
            };
            let row =
                ItemRow { id: None, restaurant_id, category_id, item, position, since_version };
            new.push(row);
        }
        for &(id, position, item) in &menu.changed_items {
            let (id, category_id) = (Some(id), None);
            changed.push(ItemRow { id, restaurant_id, category_id, item, position, since_version });
        }
    }
    if !changed.is_empty() {
        sqlx::query(
            "UPDATE menu_items i
             SET description = new.description, price = new.price, photo = new.photo,
                 options = new.options, allergens = new.allergens, dietary = new.dietary,
                 preparation_minutes = new.preparation_minutes, available = new.available,
                 in_stock = new.in_stock, position = new.position,
                 since_version = new.since_version
             FROM jsonb_populate_recordset(NULL::menu_items, $1) new
             WHERE i.item_id = new.item_id",
        )
        .bind(Json(changed))
        .execute(&mut *db)
        .await?;
    }
    if !new.is_empty() {
        sqlx::query(
            "INSERT INTO menu_items (restaurant_id, category_id, name, description, price, photo,
                 options, allergens, dietary, preparation_minutes, available, in_stock, position,
                 since_version)
             SELECT restaurant_id, category_id, name, description, price, photo,
                 options, allergens, dietary, preparation_minutes, available, in_stock, position,
                 since_version
             FROM jsonb_populate_recordset(NULL::menu_items, $1)",
        )
        .bind(Json(new))
        .execute(db)
        .await?;
    }
    Ok(())
}

/// Names of categories and items, for search.
fn menu_words(menu: &NewMenu) -> String {
    let names = menu.categories.iter().flat_map(|category| {
        std::iter::once(&category.name).chain(category.items.iter().map(|item| &item.name))
    });
    let mut words = String::new();
    let mut length = 0;
    for name in names {
        length += name.chars().count() + usize::from(!words.is_empty());
        // Whole names only: half a word would be found by nobody.
        if length > WORDS_MAX {
            break;
        }
        if !words.is_empty() {
            words.push(' ');
        }
        words.push_str(name);
    }
    words
}
