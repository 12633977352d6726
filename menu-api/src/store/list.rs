//! Lists of restaurants: filters, search, places.

use std::fmt::Write as _;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use contracts::{ids::RestaurantId, money::Money};
use h3o::{LatLng, Resolution};
use serde::Serialize;
use sqlx::{PgPool, Postgres, QueryBuilder, Row as _, postgres::PgRow};
use utoipa::ToSchema;

use super::{cuisines, currency, decode, json, status};
use crate::{
    invalid::Invalid,
    restaurant::{Cuisine, Status, Summary},
};

/// The resolution of the column `h3_cell`.
pub const CELL_RESOLUTION: Resolution = Resolution::Seven;
/// Rings of cells are at least so far apart: the smallest hexagons of resolution 7 have an area of
/// 2.96 km², so an edge of 1.07 km, and rings are 1.5 edges apart (h3geo.org, "Cell statistics").
const RING_METRES: f64 = 1_500.0;
/// Beyond this radius cells are too many; a box is looked through.
const CELLS_RADIUS_MAX: f64 = 10_000.0;
/// Mean radius of the earth, IUGG.
const EARTH_RADIUS_M: f64 = 6_371_008.8;

/// The greatest radius around a place, metres.
pub const RADIUS_MAX: f64 = 50_000.0;
/// The radius when none was named, metres.
pub const RADIUS_DEFAULT: f64 = 5_000.0;
/// Entries of a page at most.
pub const PAGE_SIZE_MAX: u32 = 100;
/// Entries of a page when nobody says.
pub const PAGE_SIZE_DEFAULT: u32 = 20;
/// The last page that can be asked for.
pub const PAGE_MAX: u32 = 10_000;
/// Words of a search that count.
const WORDS_MAX: usize = 8;
const WORD_CHARS_MAX: usize = 40;
/// Corrections of a word that are tried, and how many are looked at to find them.
const CORRECTIONS: usize = 3;
const CANDIDATES: i32 = 50;

/// Which restaurants, and which page of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    /// Only those that cook this.
    pub cuisine: Option<Cuisine>,
    /// Only those whose operator says so.
    pub status: Option<Status>,
    /// Only those with at least this rating.
    pub min_rating: Option<f32>,
    /// Only those of this town, in any case of letters.
    pub city: Option<String>,
    /// Words of names, cuisines, items and descriptions.
    pub words: Vec<String>,
    /// Only those around a place.
    pub near: Option<Near>,
    /// Only those that take orders now.
    pub open_now: bool,
    /// From 1.
    pub page: u32,
    /// 1 to [`PAGE_SIZE_MAX`].
    pub page_size: u32,
}

/// A circle.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Near {
    /// Its middle.
    pub place: LatLng,
    /// Metres.
    pub radius: f64,
}

impl Near {
    /// Reads `lat,lng` and a radius in metres.
    ///
    /// # Errors
    /// Names the parameter.
    pub fn parse(place: &str, radius: Option<f64>) -> Result<Self, Invalid> {
        let bad = || Invalid::new("near", "must be lat,lng in degrees, such as 37.77,-122.42");
        let (lat, lng) = place.split_once(',').ok_or_else(bad)?;
        let (Ok(lat), Ok(lng)) = (lat.trim().parse::<f64>(), lng.trim().parse::<f64>()) else {
            return Err(bad());
        };
        if !(-90.0..=90.0).contains(&lat) || !(-180.0..=180.0).contains(&lng) {
            return Err(bad());
        }
        let radius = radius.unwrap_or(RADIUS_DEFAULT);
        if !(1.0..=RADIUS_MAX).contains(&radius) {
            return Err(Invalid::new("radius", "must be between 1 and 50000 metres"));
        }
        Ok(Self { place: LatLng::new(lat, lng).map_err(|_| bad())?, radius })
    }

    /// Cells that cover the circle; `None` when they would be too many.
    fn cells(&self) -> Option<Vec<i64>> {
        if self.radius > CELLS_RADIUS_MAX {
            return None;
        }
        let rings = (self.radius / RING_METRES).ceil() as u32 + 1;
        let cells = self.place.to_cell(CELL_RESOLUTION).grid_disk::<Vec<_>>(rings);
        Some(cells.into_iter().map(|cell| u64::from(cell).cast_signed()).collect())
    }

    /// The place on the unit sphere, as `listings` has it.
    fn unit(&self) -> [f64; 3] {
        let (lat, lng) = (self.place.lat().to_radians(), self.place.lng().to_radians());
        [lat.cos() * lng.cos(), lat.cos() * lng.sin(), lat.sin()]
    }

    /// The square of the chord to a row's place in SQL, on the unit sphere: grows with the distance.
    fn chord_squared(&self, query: &mut QueryBuilder<Postgres>) {
        let [x, y, z] = self.unit();
        query.push("((x - ").push_bind(x).push(") * (x - ").push_bind(x);
        query.push(") + (y - ").push_bind(y).push(") * (y - ").push_bind(y);
        query.push(") + (z - ").push_bind(z).push(") * (z - ").push_bind(z).push("))");
    }

    /// The chord of the radius, squared.
    fn radius_squared(&self) -> f64 {
        let half = (self.radius / (2.0 * EARTH_RADIUS_M)).sin();
        4.0 * half * half
    }
}

/// Metres along the sphere under a chord.
fn metres(chord_squared: f64) -> f64 {
    2.0 * EARTH_RADIUS_M * (chord_squared.max(0.0).sqrt() / 2.0).min(1.0).asin()
}

/// The words of a search, in lower case and without anything but letters and digits.
pub fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .take(WORDS_MAX)
        .map(|word| word.chars().take(WORD_CHARS_MAX).collect::<String>().to_lowercase())
        .collect()
}

impl Filter {
    /// The same text for the same list, for caches.
    pub fn key(&self) -> String {
        let mut key = format!("{}:{}", self.page, self.page_size);
        let mut add = |name: char, value: &dyn std::fmt::Display| {
            let _infallible = write!(key, ":{name}{value}");
        };
        if let Some(cuisine) = self.cuisine {
            add('c', &cuisine.as_str());
        }
        if let Some(status) = self.status {
            add('s', &status.as_str());
        }
        if let Some(rating) = self.min_rating {
            add('r', &rating);
        }
        if let Some(near) = &self.near {
            add('n', &near.place.lat());
            add(',', &near.place.lng());
            add('d', &near.radius);
        }
        if self.open_now {
            add('o', &1);
        }
        // A town's name may hold anything, so it comes last and after its length.
        if !self.words.is_empty() {
            add('q', &self.words.join(" "));
        }
        if let Some(city) = &self.city {
            let city = city.to_lowercase();
            add('t', &city.len());
            add('=', &city);
        }
        key
    }

    /// What the words ask for; letters and digits only, so nothing in it is an operator.
    fn ts_query(&self, corrections: &[Vec<String>]) -> Option<String> {
        let alternatives = self.words.iter().enumerate().map(|(n, word)| {
            let corrected = corrections.get(n).into_iter().flatten();
            let all = corrected.fold(format!("{word}:*"), |all, other| format!("{all} | {other}"));
            format!("({all})")
        });
        let query: Vec<String> = alternatives.collect();
        (!query.is_empty()).then(|| query.join(" & "))
    }
}

/// A page of a list.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Page {
    /// Nearest first with `near`, best match first with `q`, else best rating first.
    pub restaurants: Vec<Summary>,
    /// How many there are on all pages.
    pub total: i64,
    /// From 1.
    pub page: u32,
    /// As asked for.
    pub page_size: u32,
    /// What was searched for instead, when nothing has the words that were sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrected_query: Option<String>,
}

/// Reads a page as JSON.
pub async fn page(db: &PgPool, filter: &Filter) -> Result<Bytes, sqlx::Error> {
    let (mut restaurants, mut total) = find(db, filter, &[]).await?;
    let mut corrected_query = None;
    if total == 0 && !filter.words.is_empty() {
        let corrections = corrections(db, &filter.words).await?;
        if corrections.iter().any(|words| !words.is_empty()) {
            (restaurants, total) = find(db, filter, &corrections).await?;
        }
        if total > 0 {
            let best = filter.words.iter().zip(&corrections);
            let best: Vec<&str> =
                best.map(|(word, others)| others.first().unwrap_or(word).as_str()).collect();
            corrected_query = Some(best.join(" "));
        }
    }
    let Filter { page, page_size, .. } = *filter;
    json(&Page { restaurants, total, page, page_size, corrected_query })
}

/// For each word those that are spelt most alike, by the fewest edits.
async fn corrections(db: &PgPool, words: &[String]) -> Result<Vec<Vec<String>>, sqlx::Error> {
    let mut all = Vec::with_capacity(words.len());
    for word in words {
        let candidates = sqlx::query_scalar!(
            r#"SELECT word AS "word!" FROM similar_words($1, $2)"#,
            word,
            CANDIDATES,
        )
        .fetch_all(db)
        .await?;
        let edits_max = if word.chars().count() < 5 { 1 } else { 2 };
        let mut alike: Vec<(usize, String)> = candidates
            .into_iter()
            // A word of a hyphenated name is no single word for a query.
            .filter(|candidate| candidate.chars().all(char::is_alphanumeric))
            // Insert, delete, replace, and swap of neighbours: "optimal string alignment".
            .map(|candidate| (strsim::osa_distance(word, &candidate), candidate))
            .filter(|(edits, _)| *edits <= edits_max)
            .collect();
        // Stable: among equals the more similar one stays first.
        alike.sort_by_key(|(edits, _)| *edits);
        all.push(alike.into_iter().map(|(_, word)| word).take(CORRECTIONS).collect());
    }
    Ok(all)
}

async fn find(
    db: &PgPool,
    filter: &Filter,
    corrections: &[Vec<String>],
) -> Result<(Vec<Summary>, i64), sqlx::Error> {
    let now = Utc::now();
    let words = filter.ts_query(corrections);
    let offset = i64::from(filter.page - 1) * i64::from(filter.page_size);
    let mut query = QueryBuilder::new("WITH matching AS ");
    // By rating a page comes from an index and ends with it; otherwise all must be looked at, once.
    let sorts = filter.near.is_some() || words.is_some();
    query.push(if sorts { "MATERIALIZED (" } else { "NOT MATERIALIZED (" });
    matching(&mut query, filter, words.as_deref(), now);
    query.push(
        ") SELECT (SELECT count(*) FROM matching) AS total, r.restaurant_id, r.name, r.cuisines,
                  r.price_level, r.city, r.latitude, r.longitude, r.photos[1] AS photo, r.currency,
                  r.delivery_fee, r.minimum_order, r.rating, r.rating_count, r.status,
                  p.is_open, p.chord_squared
           FROM (SELECT * FROM matching ORDER BY ",
    );
    let order = match (&filter.near, &words) {
        (Some(_), _) => "chord_squared, restaurant_id",
        (None, Some(_)) => "named DESC, rating DESC NULLS LAST, restaurant_id",
        (None, None) => "rating DESC NULLS LAST, restaurant_id",
    };
    query.push(order).push(" LIMIT ").push_bind(i64::from(filter.page_size));
    query.push(" OFFSET ").push_bind(offset);
    query.push(") p JOIN restaurants r USING (restaurant_id) ORDER BY ");
    query.push(order.replace("rating", "p.rating").replace("restaurant_id", "p.restaurant_id"));
    let rows = query.build().fetch_all(db).await?;
    let total = match rows.first() {
        Some(row) => row.try_get("total")?,
        None if filter.page == 1 => 0,
        None => {
            let mut query = QueryBuilder::new("SELECT count(*) FROM (");
            matching(&mut query, filter, words.as_deref(), now);
            query.push(") matching");
            query.build_query_scalar::<i64>().fetch_one(db).await?
        }
    };
    let restaurants: Result<Vec<_>, _> = rows.iter().map(summary).collect();
    Ok((restaurants?, total))
}

/// Selects what the filter lets through.
fn matching(
    query: &mut QueryBuilder<Postgres>,
    filter: &Filter,
    words: Option<&str>,
    now: DateTime<Utc>,
) {
    query.push("SELECT restaurant_id, rating, (status IN ('open', 'busy') AND opens_at <= ");
    query.push_bind(now).push(" AND closes_at > ").push_bind(now).push(") IS TRUE AS is_open, ");
    match &filter.near {
        Some(near) => near.chord_squared(query),
        None => {
            query.push("NULL::float8");
        }
    }
    query.push(" AS chord_squared");
    match words {
        Some(words) => {
            query.push(", named @@ to_tsquery('simple', ").push_bind(words.to_owned());
            query.push(") AS named FROM listings JOIN listing_words USING (restaurant_id)");
            query.push(" WHERE words @@ to_tsquery('simple', ").push_bind(words.to_owned());
            query.push(")");
        }
        None => {
            query.push(" FROM listings WHERE true");
        }
    }
    if let Some(cuisine) = filter.cuisine {
        query.push(" AND cuisines @> ARRAY[").push_bind(cuisine.as_str()).push("]");
    }
    if let Some(status) = filter.status {
        query.push(" AND status = ").push_bind(status.as_str());
    }
    if let Some(rating) = filter.min_rating {
        query.push(" AND rating >= ").push_bind(rating);
    }
    if let Some(city) = &filter.city {
        query.push(" AND city = lower(").push_bind(city.clone()).push(")");
    }
    if filter.open_now {
        query.push(" AND status IN ('open', 'busy') AND opens_at <= ").push_bind(now);
        query.push(" AND closes_at > ").push_bind(now);
    }
    if let Some(near) = &filter.near {
        if let Some(cells) = near.cells() {
            query.push(" AND h3_cell = ANY(").push_bind(cells).push(")");
        }
        query.push(" AND ");
        near.chord_squared(query);
        query.push(" <= ").push_bind(near.radius_squared());
    }
}

/// How long lists are right by the clock: until some restaurant next opens or closes.
pub async fn right_for(db: &PgPool, now: DateTime<Utc>) -> Result<Option<TimeDelta>, sqlx::Error> {
    let next = sqlx::query_scalar!(
        "SELECT least((SELECT min(opens_at) FROM listings WHERE opens_at > $1),
                      (SELECT min(closes_at) FROM listings WHERE closes_at > $1)) AS next",
        now,
    )
    .fetch_one(db)
    .await?;
    Ok(next.map(|next| next - now))
}

fn summary(row: &PgRow) -> Result<Summary, sqlx::Error> {
    let currency = currency(row.try_get("currency")?)?;
    let cuisines = cuisines(&row.try_get::<Vec<String>, _>("cuisines")?)?;
    let distance: Option<f64> = row.try_get::<Option<f64>, _>("chord_squared")?.map(metres);
    Ok(Summary {
        restaurant_id: RestaurantId::new(row.try_get("restaurant_id")?).map_err(decode)?,
        name: row.try_get("name")?,
        cuisine_type: *cuisines.first().ok_or_else(|| decode("no cuisine"))?,
        cuisines,
        price_level: row.try_get::<i16, _>("price_level")? as u8,
        city: row.try_get("city")?,
        latitude: row.try_get("latitude")?,
        longitude: row.try_get("longitude")?,
        photo: row.try_get("photo")?,
        delivery_fee: Money { amount: row.try_get("delivery_fee")?, currency },
        minimum_order: Money { amount: row.try_get("minimum_order")?, currency },
        rating: row.try_get("rating")?,
        rating_count: row.try_get("rating_count")?,
        status: status(row.try_get("status")?)?,
        is_open: row.try_get("is_open")?,
        // Decimetres are more than anybody can use.
        distance: distance.map(|metres| (metres * 10.0).round() / 10.0),
    })
}
