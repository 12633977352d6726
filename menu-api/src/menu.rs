//! A menu as operators write it and customers see it.

use contracts::{
    ids::{CategoryId, ItemId, RestaurantId},
    money::{Currency, Money},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    invalid::Invalid,
    restaurant::{amount, line, text, url},
};

/// Categories of a menu.
pub const CATEGORIES_MAX: usize = 100;
/// Items of a menu, in all categories.
pub const ITEMS_MAX: usize = 1_000;
/// Groups of options of an item.
pub const OPTIONS_MAX: usize = 20;
/// Choices of a group.
pub const CHOICES_MAX: usize = 50;
/// Preparation takes a day at most.
pub const PREPARATION_MINUTES_MAX: i32 = 1_440;

/// What an item contains, by the list that EU Regulation 1169/2011, annex II, wants named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Allergen {
    Gluten,
    Crustaceans,
    Eggs,
    Fish,
    Peanuts,
    Soy,
    Milk,
    Nuts,
    Celery,
    Mustard,
    Sesame,
    Sulphites,
    Lupin,
    Molluscs,
}

/// Which diets an item suits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Diet {
    Vegetarian,
    Vegan,
    GlutenFree,
    DairyFree,
    NutFree,
    Halal,
    Kosher,
    Jain,
    Spicy,
}

/// A choice that the customer makes: a size, toppings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// `Size`; unique within the item.
    #[schema(value_type = crate::restaurant::OneLine)]
    pub name: String,
    /// At least so many choices; 0 when absent.
    #[serde(default)]
    #[schema(maximum = 50)]
    pub min: u16,
    /// At most so many; 1 when absent.
    #[serde(default = "one")]
    #[schema(minimum = 1, maximum = 65_535)]
    pub max: u16,
    /// What there is to choose from.
    #[schema(min_items = 1, max_items = 50)]
    pub choices: Vec<Choice>,
}

const fn one() -> u16 {
    1
}

/// One of the things to choose from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// Unique within its options.
    #[schema(value_type = crate::restaurant::OneLine)]
    pub name: String,
    /// What it adds to the price, minor units; 0 when absent.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1_000_000_000_000_i64)]
    pub price: i64,
}

/// A menu as an operator or an import writes it; it takes the place of what was there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewMenu {
    /// In the order in which they are shown.
    #[schema(max_items = 100)]
    pub categories: Vec<NewCategory>,
}

/// A category with its items.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCategory {
    /// The category that this is from now on; a new one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>, minimum = 1)]
    pub category_id: Option<CategoryId>,
    /// 1 to 200 characters.
    #[schema(value_type = crate::restaurant::OneLine)]
    pub name: String,
    /// Up to 2,000 characters.
    #[serde(default)]
    #[schema(max_length = 2_000, pattern = r"^[^\x00]*$")]
    pub description: String,
    /// In the order in which they are shown.
    #[serde(default)]
    pub items: Vec<NewItem>,
}

/// An item as an operator writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewItem {
    /// The item that this is from now on; a new one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>, minimum = 1)]
    pub item_id: Option<ItemId>,
    /// 1 to 200 characters.
    #[schema(value_type = crate::restaurant::OneLine)]
    pub name: String,
    /// Up to 2,000 characters.
    #[serde(default)]
    #[schema(max_length = 2_000, pattern = r"^[^\x00]*$")]
    pub description: String,
    /// Minor units of the restaurant's currency.
    #[schema(minimum = 0, maximum = 1_000_000_000_000_i64)]
    pub price: i64,
    /// `https://` address of a picture.
    #[serde(default)]
    #[schema(value_type = Option<crate::restaurant::Picture>)]
    pub photo: Option<String>,
    /// What the customer may choose.
    #[serde(default)]
    #[schema(max_items = 20)]
    pub options: Vec<Options>,
    /// What it contains.
    #[serde(default)]
    pub allergens: Vec<Allergen>,
    /// Which diets it suits.
    #[serde(default)]
    pub dietary: Vec<Diet>,
    /// Minutes until it is ready; 15 when absent.
    #[serde(default = "fifteen")]
    #[schema(minimum = 0, maximum = 1_440)]
    pub preparation_minutes: i32,
    /// Whether it is offered at present; true when absent.
    #[serde(default = "yes")]
    pub available: bool,
    /// Whether there is any left; true when absent.
    #[serde(default = "yes")]
    pub in_stock: bool,
}

const fn fifteen() -> i32 {
    15
}

const fn yes() -> bool {
    true
}

impl NewMenu {
    /// Finds the first field that is out of its range.
    ///
    /// # Errors
    /// Names the field by its path.
    pub fn check(&self) -> Result<(), Invalid> {
        if self.categories.len() > CATEGORIES_MAX {
            return Err(Invalid::new("categories", "must be at most 100"));
        }
        if self.categories.iter().map(|category| category.items.len()).sum::<usize>() > ITEMS_MAX {
            return Err(Invalid::new("categories", "must hold at most 1000 items in all"));
        }
        let mut categories = Vec::new();
        let mut items = Vec::new();
        for (c, category) in self.categories.iter().enumerate() {
            let place = format!("categories[{c}]");
            category.check().map_err(|error| error.inside(&place))?;
            categories
                .extend(category.category_id.map(|id| (id.get(), format!("{place}.category_id"))));
            for (i, item) in category.items.iter().enumerate() {
                let place = format!("{place}.items[{i}]");
                item.check().map_err(|error| error.inside(&place))?;
                items.extend(item.item_id.map(|id| (id.get(), format!("{place}.item_id"))));
            }
        }
        for mut ids in [categories, items] {
            ids.sort_unstable();
            if let Some(pair) = ids.windows(2).find(|pair| pair[0].0 == pair[1].0) {
                return Err(Invalid::new(pair[1].1.clone(), "is there twice"));
            }
        }
        Ok(())
    }
}

impl NewCategory {
    /// Finds the first field of the category itself that is out of its range.
    ///
    /// # Errors
    /// Names the field.
    pub fn check(&self) -> Result<(), Invalid> {
        line("name", &self.name, 1)?;
        text("description", &self.description)
    }
}

impl NewItem {
    /// Finds the first field that is out of its range.
    ///
    /// # Errors
    /// Names the field.
    pub fn check(&self) -> Result<(), Invalid> {
        line("name", &self.name, 1)?;
        text("description", &self.description)?;
        amount("price", self.price)?;
        if let Some(photo) = &self.photo {
            url(photo).map_err(|message| Invalid::new("photo", message))?;
        }
        if self.options.len() > OPTIONS_MAX {
            return Err(Invalid::new("options", "must be at most 20"));
        }
        for (n, options) in self.options.iter().enumerate() {
            let place = format!("options[{n}]");
            options.check().map_err(|error| error.inside(&place))?;
            if self.options[..n].iter().any(|other| other.name == options.name) {
                return Err(Invalid::new(format!("{place}.name"), "is there twice"));
            }
        }
        if twice(&self.allergens) {
            return Err(Invalid::new("allergens", "must not name one twice"));
        }
        if twice(&self.dietary) {
            return Err(Invalid::new("dietary", "must not name one twice"));
        }
        if !(0..=PREPARATION_MINUTES_MAX).contains(&self.preparation_minutes) {
            return Err(Invalid::new("preparation_minutes", "must be between 0 and 1440"));
        }
        Ok(())
    }
}

impl Options {
    fn check(&self) -> Result<(), Invalid> {
        line("name", &self.name, 1)?;
        if !(1..=CHOICES_MAX).contains(&self.choices.len()) {
            return Err(Invalid::new("choices", "must be 1 to 50"));
        }
        if self.max == 0 || self.min > self.max || usize::from(self.min) > self.choices.len() {
            return Err(Invalid::new(
                "max",
                "must be at least 1 and min, and min must be possible",
            ));
        }
        for (n, choice) in self.choices.iter().enumerate() {
            let place = format!("choices[{n}]");
            line("name", &choice.name, 1).map_err(|error| error.inside(&place))?;
            amount("price", choice.price).map_err(|error| error.inside(&place))?;
            if self.choices[..n].iter().any(|other| other.name == choice.name) {
                return Err(Invalid::new(format!("{place}.name"), "is there twice"));
            }
        }
        Ok(())
    }
}

fn twice<T: PartialEq>(values: &[T]) -> bool {
    (1..values.len()).any(|at| values[..at].contains(&values[at]))
}

/// A menu as customers see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Menu {
    /// Whose.
    #[schema(value_type = i64, minimum = 1)]
    pub restaurant_id: RestaurantId,
    /// Grows with every change; an order can name the version that it saw.
    pub version: i64,
    /// Of every price.
    pub currency: Currency,
    /// In the order in which they are shown.
    pub categories: Vec<Category>,
}

/// A category of a menu.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct Category {
    #[schema(value_type = i64, minimum = 1)]
    pub category_id: CategoryId,
    pub name: String,
    pub description: String,
    /// In the order in which they are shown.
    pub items: Vec<Item>,
}

/// An item of a menu.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct Item {
    #[schema(value_type = i64, minimum = 1)]
    pub item_id: ItemId,
    pub name: String,
    pub description: String,
    pub price: Money,
    pub photo: Option<String>,
    /// Prices of choices are minor units of the menu's currency, and come on top.
    pub options: Vec<Options>,
    pub allergens: Vec<Allergen>,
    pub dietary: Vec<Diet>,
    pub preparation_minutes: i32,
    pub available: bool,
    pub in_stock: bool,
}
