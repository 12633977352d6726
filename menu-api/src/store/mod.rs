//! What PostgreSQL has: documents as they are sent.

pub mod calendar;
pub mod list;
pub mod menus;
pub mod write;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use contracts::{
    ids::RestaurantId,
    money::{Currency, Money},
};
use serde::Serialize;
use serde_json::value::RawValue;
use sqlx::PgPool;

use crate::{
    document::{Kind, Parts, unpack},
    hours::Hours,
    menu::Menu,
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
    /// The same as zstd, when it was stored so.
    pub packed: Option<Bytes>,
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
                  CASE WHEN $2 AND r.menu_document_version = r.menu_version
                            AND r.menu_document_form = $3
                       THEN r.menu_document END AS menu_document,
                  (SELECT max(u.version) FROM cache_invalidations u
                   WHERE u.restaurant_id = r.restaurant_id) AS unannounced_version,
                  (SELECT bit_or(u.parts) FROM cache_invalidations u
                   WHERE u.restaurant_id = r.restaurant_id) AS unannounced_parts,
                  (SELECT array_agg(u.invalidation_id) FROM cache_invalidations u
                   WHERE u.restaurant_id = r.restaurant_id) AS unannounced_ids
           FROM restaurants r WHERE r.restaurant_id = $1"#,
        restaurant.get(),
        needs_menu,
        menus::FORM,
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
            let (version, body, packed) = row.menu(db).await?;
            FoundBody { version, body, packed, right_until: None }
        }
        Kind::Status => {
            let (status, until) = row.status_now(now)?;
            FoundBody::of(status.version, &status, until)?
        }
        Kind::MenuWithStatus => {
            let (status, until) = row.status_now(now)?;
            let (version, menu, _) = row.menu(db).await?;
            let menu: &RawValue = serde_json::from_slice(&menu).map_err(decode)?;
            let version = version.max(status.version);
            let money = |amount| -> Result<Money, sqlx::Error> {
                Ok(Money { amount, currency: currency(&row.currency)? })
            };
            let both = BothNow {
                restaurant_id: restaurant,
                version,
                delivery_fee: money(row.delivery_fee)?,
                minimum_order: money(row.minimum_order)?,
                tax_basis_points: row.tax_basis_points as u16,
                name: &row.name,
                status,
                menu,
            };
            FoundBody::of(version, &both, until)?
        }
    };
    Ok(Loaded { found: Some(found), unannounced })
}

#[derive(Serialize)]
struct BothNow<'a> {
    restaurant_id: RestaurantId,
    version: i64,
    name: &'a str,
    delivery_fee: Money,
    minimum_order: Money,
    tax_basis_points: u16,
    status: StatusNow,
    menu: &'a RawValue,
}

/// All that an order needs: the menu, what comes on top, and whether it can be ordered from now.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct MenuWithStatus {
    /// Whose.
    #[schema(value_type = i64, minimum = 1)]
    pub restaurant_id: RestaurantId,
    /// The greater of the two versions.
    pub version: i64,
    /// Its name.
    pub name: String,
    /// For each order.
    pub delivery_fee: Money,
    /// Of the items of an order together.
    pub minimum_order: Money,
    /// On the items, in hundredths of a percent.
    pub tax_basis_points: u16,
    /// As `GET …/status` answers.
    pub status: StatusNow,
    /// As `GET …/menu` answers.
    pub menu: Menu,
}

/// Whether a change that lists show waits to be announced.
pub async fn lists_unannounced(db: &PgPool) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM cache_invalidations WHERE parts >= 8) AS "any!""#
    )
    .fetch_one(db)
    .await
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
    menu_document: Option<Vec<u8>>,
    unannounced_version: Option<i64>,
    unannounced_parts: Option<i16>,
    unannounced_ids: Option<Vec<i64>>,
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

    /// The menu and its version: as it was written down, or made of its rows when it was not yet.
    async fn menu(&mut self, db: &PgPool) -> Result<(i64, Bytes, Option<Bytes>), sqlx::Error> {
        if let Some(packed) = self.menu_document.take()
            && let Some(menu) = unpack(&packed)
        {
            return Ok((self.menu_version, menu, Some(packed.into())));
        }
        let made = menus::make(&mut *db.acquire().await?, self.id()?).await?;
        let menu = made.ok_or(sqlx::Error::RowNotFound)?;
        Ok((menu.version, json(&menu)?, None))
    }
}

impl FoundBody {
    fn of(
        version: i64,
        document: &impl Serialize,
        right_until: Option<DateTime<Utc>>,
    ) -> Result<Self, sqlx::Error> {
        Ok(Self { version, body: json(document)?, packed: None, right_until })
    }
}

fn json(document: &impl Serialize) -> Result<Bytes, sqlx::Error> {
    serde_json::to_vec(document).map(Bytes::from).map_err(decode)
}

pub(crate) fn decode(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> sqlx::Error {
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
