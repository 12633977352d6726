//! What an order costs: pure, in whole minor units, and checked against overflow.
//!
//! Prices come from the menu and never from the client. A client may say which price it saw; when
//! that is not the price any more, it is told both.

use contracts::{
    ids::{ItemId, RestaurantId},
    money::{Currency, Money},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::menus::{Item, Offer};

/// Lines of an order.
pub const LINES_MAX: usize = 100;
/// Of one line.
pub const QUANTITY_MAX: u32 = 99;
/// Choices of one line.
pub const CHOICES_MAX: usize = 50;
/// No order costs more: far below what the sums could overflow at.
pub const TOTAL_MAX: i64 = 1_000_000_000_000;
/// All basis points.
const WHOLE: i64 = 10_000;

/// A line as the customer asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Of the restaurant's menu.
    #[schema(value_type = i64, minimum = 1)]
    pub item_id: ItemId,
    /// 1 to 99.
    #[schema(minimum = 1, maximum = 99)]
    pub quantity: u32,
    /// What was chosen of the item's options.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 50)]
    pub choices: Vec<Choice>,
    /// The price of one, choices included, that the customer saw: when it is another by now, the
    /// order is refused with both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_seen: Option<Money>,
}

/// One choice of one of an item's options.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// Name of the options, `Size`.
    pub option: String,
    /// Name of the choice, `Large`.
    pub choice: String,
}

/// A line as it was ordered, with what it was called and what it cost then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[allow(missing_docs)]
pub struct PricedLine {
    #[schema(value_type = i64, minimum = 1)]
    pub item_id: ItemId,
    pub name: String,
    pub quantity: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<Choice>,
    /// Of one, choices included.
    pub unit_price: i64,
    /// Of all of the line.
    pub line_total: i64,
}

/// What an order costs, in minor units of `currency`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Priced {
    pub restaurant_id: RestaurantId,
    pub restaurant_name: String,
    pub menu_version: i64,
    pub currency: Currency,
    pub lines: Vec<PricedLine>,
    pub subtotal: i64,
    pub tax: i64,
    pub delivery_fee: i64,
    pub tip: i64,
    pub total: i64,
}

/// A price that is not what the customer saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct PriceChange {
    /// Which line, from 0.
    pub line: usize,
    /// Its item.
    #[schema(value_type = i64, minimum = 1)]
    pub item_id: ItemId,
    /// What the customer saw.
    pub seen: Money,
    /// What it is.
    pub now: Money,
}

/// Why there is no price.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unpriced {
    /// A field is wrong, whatever the menu says.
    #[error("{field}: {message}")]
    Invalid {
        /// Its path.
        field: String,
        /// What is expected.
        message: String,
    },
    /// The restaurant takes no orders now.
    #[error("the restaurant is closed")]
    Closed,
    /// These lines' items cannot be had now.
    #[error("some items cannot be had now")]
    Off(Vec<(usize, ItemId)>),
    /// These are not the prices that the customer saw.
    #[error("some prices have changed")]
    Changed(Vec<PriceChange>),
    /// The restaurant delivers from so much on.
    #[error("the order is below the restaurant's minimum of {0}")]
    BelowMinimum(i64),
}

fn invalid(field: String, message: impl Into<String>) -> Unpriced {
    Unpriced::Invalid { field, message: message.into() }
}

/// Prices `lines` by `offer`.
///
/// # Errors
/// The first reason why it cannot be ordered.
pub fn price(offer: &Offer, lines: &[Line], tip: Option<Money>) -> Result<Priced, Unpriced> {
    let tip = check(offer, lines, tip)?;
    if !offer.is_open {
        return Err(Unpriced::Closed);
    }
    let mut off = Vec::new();
    let mut changes = Vec::new();
    let mut priced = Vec::with_capacity(lines.len());
    let mut subtotal = 0_i64;
    let too_much = || invalid("items".to_owned(), format!("cost more than {TOTAL_MAX}"));
    for (n, line) in lines.iter().enumerate() {
        let Some(item) = offer.items.get(&line.item_id) else {
            return Err(invalid(format!("items[{n}].item_id"), "is not on the menu"));
        };
        if !item.is_offered {
            off.push((n, line.item_id));
            continue;
        }
        let unit_price = unit_price(item, line, n)?;
        let now = Money { amount: unit_price, currency: offer.currency };
        if let Some(seen) = line.price_seen.filter(|seen| *seen != now) {
            changes.push(PriceChange { line: n, item_id: line.item_id, seen, now });
        }
        let line_total = unit_price.checked_mul(i64::from(line.quantity)).ok_or_else(too_much)?;
        subtotal = subtotal.checked_add(line_total).ok_or_else(too_much)?;
        priced.push(PricedLine {
            item_id: line.item_id,
            name: item.name.clone(),
            quantity: line.quantity,
            choices: line.choices.clone(),
            unit_price,
            line_total,
        });
    }
    if !off.is_empty() {
        return Err(Unpriced::Off(off));
    }
    if !changes.is_empty() {
        return Err(Unpriced::Changed(changes));
    }
    if subtotal < offer.minimum_order {
        return Err(Unpriced::BelowMinimum(offer.minimum_order));
    }
    let tax = tax(subtotal, offer.tax_basis_points).ok_or_else(too_much)?;
    let total = [tax, offer.delivery_fee, tip]
        .into_iter()
        .try_fold(subtotal, i64::checked_add)
        .filter(|total| *total <= TOTAL_MAX)
        .ok_or_else(too_much)?;
    if total <= 0 {
        return Err(invalid("items".to_owned(), "cost nothing: there is nothing to pay"));
    }
    Ok(Priced {
        restaurant_id: offer.restaurant_id,
        restaurant_name: offer.name.clone(),
        menu_version: offer.version,
        currency: offer.currency,
        lines: priced,
        subtotal,
        tax,
        delivery_fee: offer.delivery_fee,
        tip,
        total,
    })
}

/// What can be said without looking at items; the tip in the restaurant's currency.
fn check(offer: &Offer, lines: &[Line], tip: Option<Money>) -> Result<i64, Unpriced> {
    if !(1..=LINES_MAX).contains(&lines.len()) {
        return Err(invalid("items".to_owned(), format!("must be 1 to {LINES_MAX} lines")));
    }
    let tip = match tip {
        None => 0,
        Some(tip) if tip.currency == offer.currency => tip.amount,
        Some(_) => {
            return Err(invalid("tip.currency".to_owned(), format!("must be {}", offer.currency)));
        }
    };
    if !(0..=TOTAL_MAX).contains(&tip) {
        return Err(invalid("tip".to_owned(), format!("must be between 0 and {TOTAL_MAX}")));
    }
    for (n, line) in lines.iter().enumerate() {
        if !(1..=QUANTITY_MAX).contains(&line.quantity) {
            let message = format!("must be between 1 and {QUANTITY_MAX}");
            return Err(invalid(format!("items[{n}].quantity"), message));
        }
        if line.choices.len() > CHOICES_MAX {
            let message = format!("must be at most {CHOICES_MAX}");
            return Err(invalid(format!("items[{n}].choices"), message));
        }
    }
    Ok(tip)
}

/// The price of one with what was chosen, which must be what the item's options allow.
pub fn unit_price(item: &Item, line: &Line, n: usize) -> Result<i64, Unpriced> {
    let field = || format!("items[{n}].choices");
    let mut price = item.price;
    let mut taken = 0;
    for options in &item.options {
        let chosen: Vec<&Choice> =
            line.choices.iter().filter(|choice| choice.option == options.name).collect();
        taken += chosen.len();
        if !(usize::from(options.min)..=usize::from(options.max)).contains(&chosen.len()) {
            let (name, min, max) = (&options.name, options.min, options.max);
            return Err(invalid(field(), format!("must be {min} to {max} of {name:?}")));
        }
        for (at, choice) in chosen.iter().enumerate() {
            let offered = options.choices.iter().find(|known| known.name == choice.choice);
            let Some(offered) = offered else {
                return Err(invalid(field(), format!("there is no {:?}", choice.choice)));
            };
            if chosen[..at].contains(choice) {
                return Err(invalid(field(), format!("{:?} is there twice", choice.choice)));
            }
            price = price
                .checked_add(offered.price)
                .ok_or_else(|| invalid(field(), "cost more than there is money"))?;
        }
    }
    if taken != line.choices.len() {
        return Err(invalid(field(), "name options that the item does not have"));
    }
    Ok(price)
}

/// The tax on `amount`, half a minor unit rounded up, as most tax offices have it.
pub(crate) fn tax(amount: i64, basis_points: i64) -> Option<i64> {
    #[cfg(feature = "sabotage")]
    if platform::sabotage::is("float-money") {
        return Some((amount as f32 * (basis_points as f32 / WHOLE as f32)) as i64);
    }
    amount.checked_mul(basis_points)?.checked_add(WHOLE / 2).map(|sum| sum / WHOLE)
}

#[cfg(test)]
mod tests;
