//! A restaurant as operators describe it and customers see it.

use chrono::{DateTime, Utc};
use contracts::{
    ids::RestaurantId,
    money::{Currency, Money},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{hours::Hours, invalid::Invalid};

/// The longest name, address line, city and so on, in characters.
pub const LINE_MAX: usize = 200;
/// The longest description, in characters.
pub const TEXT_MAX: usize = 2_000;
/// Photos of a restaurant.
pub const PHOTOS_MAX: usize = 20;
/// The longest URL of a photo, in bytes.
pub const URL_MAX: usize = 500;
/// The greatest price or fee: far above any meal, far below an overflow of a whole order.
pub const AMOUNT_MAX: i64 = 1_000_000_000_000;

/// What is cooked.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Cuisine {
    Italian,
    Chinese,
    Indian,
    Mexican,
    Japanese,
    American,
    Thai,
    Mediterranean,
    Other,
}

impl Cuisine {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Italian,
        Self::Chinese,
        Self::Indian,
        Self::Mexican,
        Self::Japanese,
        Self::American,
        Self::Thai,
        Self::Mediterranean,
        Self::Other,
    ];

    /// As in the API and the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Italian => "italian",
            Self::Chinese => "chinese",
            Self::Indian => "indian",
            Self::Mexican => "mexican",
            Self::Japanese => "japanese",
            Self::American => "american",
            Self::Thai => "thai",
            Self::Mediterranean => "mediterranean",
            Self::Other => "other",
        }
    }

    /// The reverse of [`Self::as_str`].
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cuisine| cuisine.as_str() == name)
    }
}

/// What the operator says of the kitchen, whatever the opening hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Takes orders within its hours.
    Open,
    /// Takes none.
    Closed,
    /// Takes orders within its hours, and is slow.
    Busy,
    /// Takes none; its menu is being worked on.
    Maintenance,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Open, Self::Closed, Self::Busy, Self::Maintenance];

    /// As in the API and the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Busy => "busy",
            Self::Maintenance => "maintenance",
        }
    }

    /// The reverse of [`Self::as_str`].
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }

    /// Whether orders are taken within the opening hours.
    pub const fn takes_orders(self) -> bool {
        matches!(self, Self::Open | Self::Busy)
    }
}

/// The address of a picture.
#[derive(ToSchema)]
#[schema(
    value_type = String,
    max_length = 500,
    pattern = r"^https://[!#-.0-;=?-\[\]_a-z~][!#-;=?-\[\]_a-z~]*$"
)]
#[allow(dead_code, reason = "describes such texts in the document")]
pub(crate) struct Picture(String);

/// A line of text that is not blank.
#[derive(ToSchema)]
#[schema(
    value_type = String,
    min_length = 1,
    max_length = 200,
    pattern = r"^[^\x00-\x1f\x7f-\x9f]*[^\s\x00-\x1f\x7f-\x9f][^\x00-\x1f\x7f-\x9f]*$"
)]
#[allow(dead_code, reason = "describes such texts in the document")]
pub(crate) struct OneLine(String);

/// A restaurant as an operator or an import describes it; all of it at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Its name in the system that it comes from, unique; an import finds it again by this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<OneLine>)]
    pub external_id: Option<String>,
    /// 1 to 200 characters.
    #[schema(value_type = OneLine)]
    pub name: String,
    /// Up to 2,000 characters.
    #[serde(default)]
    #[schema(max_length = 2_000, pattern = r"^[^\x00]*$")]
    pub description: String,
    /// One to nine; the first is the one that it is known for.
    #[schema(min_items = 1, max_items = 9)]
    pub cuisines: Vec<Cuisine>,
    /// 1 cheap to 4 dear; 2 when absent.
    #[serde(default = "two")]
    #[schema(minimum = 1, maximum = 4)]
    pub price_level: u8,
    /// Street and number.
    #[schema(value_type = OneLine)]
    pub address: String,
    /// Town.
    #[schema(value_type = OneLine)]
    pub city: String,
    /// Postal code, empty where there is none.
    #[serde(default)]
    #[schema(max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    pub postal_code: String,
    /// ISO 3166-1 code of two letters; decides which days are public holidays.
    #[schema(example = "US", min_length = 2, max_length = 2, pattern = "^[A-Za-z]{2}$")]
    pub country: String,
    /// Degrees, WGS 84.
    #[schema(minimum = -90, maximum = 90)]
    pub latitude: f64,
    /// Degrees, WGS 84.
    #[schema(minimum = -180, maximum = 180)]
    pub longitude: f64,
    /// IANA name.
    #[schema(example = "America/Los_Angeles")]
    pub time_zone: String,
    /// Opening hours as in OpenStreetMap.
    #[schema(example = "Mo-Fr 11:00-14:00,17:00-22:00; Sa-Su 17:00-02:00; PH off")]
    pub opening_hours: String,
    /// As it is to be dialled.
    #[serde(default)]
    #[schema(value_type = Option<OneLine>)]
    pub phone: Option<String>,
    /// `https://` addresses of pictures.
    #[serde(default)]
    #[schema(value_type = Vec<Picture>, max_items = 20)]
    pub photos: Vec<String>,
    /// ISO 4217 code of all of its prices.
    #[schema(example = "USD")]
    pub currency: Currency,
    /// What a delivery costs, minor units; 0 when absent.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1_000_000_000_000_i64)]
    pub delivery_fee: i64,
    /// The least that is delivered, minor units; 0 when absent.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1_000_000_000_000_i64)]
    pub minimum_order: i64,
    /// Sales tax on items in hundredths of a percent: 863 is 8.63 %; 0 when absent.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 10_000)]
    pub tax_basis_points: u16,
}

const fn two() -> u8 {
    2
}

impl Profile {
    /// Finds the first field that is out of its range, and reads the opening hours.
    ///
    /// # Errors
    /// Names the field.
    pub fn check(&self) -> Result<Hours, Invalid> {
        line("name", &self.name, 1)?;
        line("address", &self.address, 1)?;
        line("city", &self.city, 1)?;
        line("postal_code", &self.postal_code, 0)?;
        if let Some(id) = &self.external_id {
            line("external_id", id, 1)?;
        }
        if let Some(phone) = &self.phone {
            line("phone", phone, 1)?;
        }
        text("description", &self.description)?;
        let distinct =
            (1..self.cuisines.len()).all(|at| !self.cuisines[..at].contains(&self.cuisines[at]));
        if self.cuisines.is_empty() || !distinct {
            return Err(Invalid::new("cuisines", "must name one to nine different cuisines"));
        }
        if !(1..=4).contains(&self.price_level) {
            return Err(Invalid::new("price_level", "must be between 1 and 4"));
        }
        if !(-90.0..=90.0).contains(&self.latitude) {
            return Err(Invalid::new("latitude", "must be between -90 and 90"));
        }
        if !(-180.0..=180.0).contains(&self.longitude) {
            return Err(Invalid::new("longitude", "must be between -180 and 180"));
        }
        if self.photos.len() > PHOTOS_MAX {
            return Err(Invalid::new("photos", "must be at most 20"));
        }
        for (n, photo) in self.photos.iter().enumerate() {
            url(photo).map_err(|message| Invalid::new(format!("photos[{n}]"), message))?;
        }
        amount("delivery_fee", self.delivery_fee)?;
        amount("minimum_order", self.minimum_order)?;
        if self.tax_basis_points > 10_000 {
            return Err(Invalid::new("tax_basis_points", "must be between 0 and 10000"));
        }
        Hours::parse(&self.opening_hours, &self.time_zone, &self.country)
    }
}

/// One line of text: no control characters, `min` to [`LINE_MAX`] characters.
pub(crate) fn line(field: &'static str, value: &str, min: usize) -> Result<(), Invalid> {
    let length = value.chars().count();
    if length > LINE_MAX || length < min || value.chars().any(char::is_control) {
        let message = if min == 0 {
            "must be a line of up to 200 characters"
        } else {
            "must be a line of 1 to 200 characters"
        };
        return Err(Invalid::new(field, message));
    }
    if min > 0 && value.trim().is_empty() {
        return Err(Invalid::new(field, "must not be blank"));
    }
    Ok(())
}

/// Text of up to [`TEXT_MAX`] characters; NUL cannot be stored.
pub(crate) fn text(field: &'static str, value: &str) -> Result<(), Invalid> {
    if value.chars().count() > TEXT_MAX || value.contains('\0') {
        return Err(Invalid::new(field, "must be at most 2000 characters, without NUL"));
    }
    Ok(())
}

/// A picture's address: clients load it, so nothing but `https` is passed on.
pub(crate) fn url(value: &str) -> Result<(), &'static str> {
    let fits = value.len() <= URL_MAX
        && value
            .strip_prefix("https://")
            .is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
        && value.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte));
    if fits { Ok(()) } else { Err("must be an https:// address of at most 500 bytes") }
}

/// A price or fee.
pub(crate) fn amount(field: &'static str, value: i64) -> Result<(), Invalid> {
    if (0..=AMOUNT_MAX).contains(&value) {
        Ok(())
    } else {
        Err(Invalid::new(field, "must be between 0 and 1000000000000 minor units"))
    }
}

/// A restaurant as customers see it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct Restaurant {
    #[schema(value_type = i64, minimum = 1)]
    pub restaurant_id: RestaurantId,
    /// Grows with every change of this document.
    pub version: i64,
    pub name: String,
    pub description: String,
    /// The first of `cuisines`.
    pub cuisine_type: Cuisine,
    pub cuisines: Vec<Cuisine>,
    pub price_level: u8,
    pub address: String,
    pub city: String,
    pub postal_code: String,
    pub country: String,
    pub latitude: f64,
    pub longitude: f64,
    pub time_zone: String,
    pub opening_hours: String,
    pub phone: Option<String>,
    pub photos: Vec<String>,
    pub delivery_fee: Money,
    pub minimum_order: Money,
    pub tax_basis_points: u16,
    /// Mean of the ratings, 1 to 5; null before the first.
    pub rating: Option<f32>,
    pub rating_count: i64,
    pub status: Status,
    pub current_capacity: Option<i32>,
}

/// Whether orders are taken now.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct StatusNow {
    /// Whose.
    #[schema(value_type = i64, minimum = 1)]
    pub restaurant_id: RestaurantId,
    /// Grows with every change that the operator makes.
    pub version: i64,
    /// What the operator says.
    pub status: Status,
    /// Orders that the kitchen can take at present; null when it does not say.
    pub current_capacity: Option<i32>,
    /// Within its opening hours, and its status takes orders.
    pub is_open: bool,
    /// When the opening hours next open or close; null when they never do.
    pub next_change: Option<DateTime<Utc>>,
}

/// A restaurant in a list.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct Summary {
    #[schema(value_type = i64, minimum = 1)]
    pub restaurant_id: RestaurantId,
    pub name: String,
    pub cuisine_type: Cuisine,
    pub cuisines: Vec<Cuisine>,
    pub price_level: u8,
    pub city: String,
    pub latitude: f64,
    pub longitude: f64,
    pub photo: Option<String>,
    pub delivery_fee: Money,
    pub minimum_order: Money,
    pub rating: Option<f32>,
    pub rating_count: i64,
    pub status: Status,
    pub is_open: bool,
    /// Metres from `near`; only there when it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distance: Option<f64>,
}
