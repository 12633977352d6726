//! A customer's cart: what is to be ordered, of one restaurant or several, without prices.
//!
//! Nothing here knows of stores or menus: [`store`] keeps carts, [`copies`] has them at hand in
//! Redis, [`view`] prices them as menus are now, and [`checkout`] makes orders of them.

pub mod checkout;
pub mod copies;
pub mod store;
pub mod view;

use contracts::ids::{ItemId, RestaurantId};
use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::price::{CHOICES_MAX, Choice, LINES_MAX, Line, QUANTITY_MAX};

/// Restaurants of a cart: so many orders are placed at once at most.
pub const RESTAURANTS_MAX: usize = 10;
/// Names of all choices of a cart, in bytes: far more than menus have, far less than would hurt.
const CHOICES_MAX_BYTES: usize = 64 * 1024;

/// What somebody wants to have in the cart.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewLine {
    /// Whose menu it is on.
    #[schema(value_type = i64, minimum = 1)]
    pub restaurant_id: RestaurantId,
    /// Of that menu.
    #[schema(value_type = i64, minimum = 1)]
    pub item_id: ItemId,
    /// 1 to 99.
    #[schema(minimum = 1, maximum = 99)]
    pub quantity: u32,
    /// What was chosen of the item's options.
    #[serde(default)]
    #[schema(max_items = 50)]
    pub choices: Vec<Choice>,
}

/// What is in the cart, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CartLine {
    /// Names the line for as long as the cart exists; never given to another.
    pub line_id: i64,
    /// Whose menu it is on.
    pub restaurant_id: RestaurantId,
    /// Of that menu.
    pub item_id: ItemId,
    /// How many.
    pub quantity: u32,
    /// Sorted, so that the same choices are equal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<Choice>,
}

/// A cart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cart {
    /// Grows with each change; 0 when there never was one.
    pub version: i64,
    /// The id of the next new line.
    pub next_line_id: i64,
    /// In the order in which they came.
    pub lines: Vec<CartLine>,
}

/// Why a cart is not as it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CartError {
    /// Of one line.
    #[error("must be between 1 and {QUANTITY_MAX}")]
    Quantity,
    /// With what is there already.
    #[error("there would be more than {QUANTITY_MAX} of it in the cart")]
    TooManyOfOne,
    /// Of the whole cart.
    #[error("a cart has at most {LINES_MAX} lines")]
    TooManyLines,
    /// Of the whole cart.
    #[error("a cart has at most {RESTAURANTS_MAX} restaurants")]
    TooManyRestaurants,
    /// Of one line, or of all together.
    #[error("there are too many choices")]
    TooManyChoices,
    /// Of one choice.
    #[error("must be names without control characters")]
    ChoiceNames,
    /// No line has this id.
    #[error("there is no such line")]
    NoSuchLine,
}

impl Default for Cart {
    fn default() -> Self {
        Self { version: 0, next_line_id: 1, lines: Vec::new() }
    }
}

impl Cart {
    /// Puts something in; the same item with the same choices makes more of what is there. Whether
    /// it is a line of its own.
    ///
    /// # Errors
    /// It would be too much; the cart is as it was.
    pub fn add(&mut self, new: NewLine) -> Result<bool, CartError> {
        let new = checked(new)?;
        if let Some(line) = self.same(&new) {
            let quantity = line.quantity + new.quantity;
            if quantity > QUANTITY_MAX {
                return Err(CartError::TooManyOfOne);
            }
            line.quantity = quantity;
            return Ok(false);
        }
        let mut next = self.clone();
        next.append(new);
        next.check()?;
        *self = next;
        Ok(true)
    }

    /// Puts in what was gathered elsewhere; of what is there already, the greater quantity holds,
    /// so that merging once more changes nothing.
    ///
    /// # Errors
    /// It would be too much; the cart is as it was.
    pub fn merge(&mut self, gathered: Vec<NewLine>) -> Result<(), CartError> {
        let mut next = self.clone();
        for new in gathered {
            let new = checked(new)?;
            match next.same(&new) {
                Some(line) => line.quantity = line.quantity.max(new.quantity),
                None => next.append(new),
            }
        }
        next.check()?;
        *self = next;
        Ok(())
    }

    /// Sets how many of a line there are.
    ///
    /// # Errors
    /// No such line, or no such quantity.
    pub fn set_quantity(&mut self, line_id: i64, quantity: u32) -> Result<(), CartError> {
        if !(1..=QUANTITY_MAX).contains(&quantity) {
            return Err(CartError::Quantity);
        }
        let line = self.lines.iter_mut().find(|line| line.line_id == line_id);
        line.ok_or(CartError::NoSuchLine)?.quantity = quantity;
        Ok(())
    }

    /// Takes a line out.
    ///
    /// # Errors
    /// No such line.
    pub fn remove(&mut self, line_id: i64) -> Result<(), CartError> {
        let at = self.lines.iter().position(|line| line.line_id == line_id);
        self.lines.remove(at.ok_or(CartError::NoSuchLine)?);
        Ok(())
    }

    /// Takes all out.
    pub fn clear(&mut self) {
        self.lines.clear();
    }

    /// Takes out what was ordered.
    pub fn remove_restaurants(&mut self, ordered: &[RestaurantId]) {
        self.lines.retain(|line| !ordered.contains(&line.restaurant_id));
    }

    /// The restaurants, in the order in which they came.
    pub fn restaurants(&self) -> Vec<RestaurantId> {
        let mut seen = FxHashSet::default();
        let ids = self.lines.iter().map(|line| line.restaurant_id);
        ids.filter(|id| seen.insert(*id)).collect()
    }

    /// The lines of one restaurant.
    pub fn of(&self, restaurant: RestaurantId) -> impl Iterator<Item = &CartLine> {
        self.lines.iter().filter(move |line| line.restaurant_id == restaurant)
    }

    fn same(&mut self, new: &NewLine) -> Option<&mut CartLine> {
        self.lines.iter_mut().find(|line| {
            line.restaurant_id == new.restaurant_id
                && line.item_id == new.item_id
                && line.choices == new.choices
        })
    }

    fn append(&mut self, new: NewLine) {
        let NewLine { restaurant_id, item_id, quantity, choices } = new;
        let line_id = self.next_line_id;
        self.lines.push(CartLine { line_id, restaurant_id, item_id, quantity, choices });
        self.next_line_id += 1;
    }

    fn check(&self) -> Result<(), CartError> {
        if self.lines.len() > LINES_MAX {
            return Err(CartError::TooManyLines);
        }
        if self.restaurants().len() > RESTAURANTS_MAX {
            return Err(CartError::TooManyRestaurants);
        }
        let choices = self.lines.iter().flat_map(|line| &line.choices);
        let bytes: usize = choices.map(|choice| choice.option.len() + choice.choice.len()).sum();
        if bytes > CHOICES_MAX_BYTES {
            return Err(CartError::TooManyChoices);
        }
        Ok(())
    }
}

impl CartLine {
    /// As orders are asked for.
    pub fn line(&self) -> Line {
        Line {
            item_id: self.item_id,
            quantity: self.quantity,
            choices: self.choices.clone(),
            price_seen: None,
        }
    }
}

/// What can be said of a line alone; its choices sorted.
fn checked(mut new: NewLine) -> Result<NewLine, CartError> {
    if !(1..=QUANTITY_MAX).contains(&new.quantity) {
        return Err(CartError::Quantity);
    }
    let is_text = |text: &str| !text.chars().any(char::is_control);
    let are_names =
        new.choices.iter().all(|choice| is_text(&choice.option) && is_text(&choice.choice));
    if !are_names {
        return Err(CartError::ChoiceNames);
    }
    if new.choices.len() > CHOICES_MAX {
        return Err(CartError::TooManyChoices);
    }
    new.choices.sort_unstable();
    Ok(new)
}

#[cfg(test)]
mod tests;
