//! A cart with the prices of this moment: what its customer is shown, and what a checkout goes by.

use std::sync::Arc;

use contracts::{
    ids::{ItemId, RestaurantId},
    money::{Currency, Money},
};
use rustc_hash::FxHashMap;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Cart, CartLine};
use crate::{
    menus::{MenuError, Menus, Offer},
    price::{Choice, TOTAL_MAX, tax, unit_price},
};

/// What restaurants offer, as far as it could be read.
pub type Offers = FxHashMap<RestaurantId, Result<Arc<Offer>, MenuError>>;

/// A cart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct CartView {
    /// Grows with each change.
    pub version: i64,
    /// In the order in which they came into the cart.
    pub restaurants: Vec<RestaurantView>,
    /// Lines that cannot be ordered.
    pub problems: usize,
}

/// What is wanted of one restaurant: one order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct RestaurantView {
    #[schema(value_type = i64, minimum = 1)]
    pub restaurant_id: RestaurantId,
    /// Its menu cannot be read just now: there are no prices.
    pub unavailable: bool,
    /// Null when it cannot be read, or is no more.
    pub restaurant_name: Option<String>,
    /// It takes orders now.
    pub is_open: bool,
    pub currency: Option<Currency>,
    pub lines: Vec<CartLineView>,
    /// Of the lines that can be had, as all that follows.
    pub subtotal: Option<Money>,
    pub tax: Option<Money>,
    pub delivery_fee: Option<Money>,
    /// Without a tip.
    pub total: Option<Money>,
    /// Below this subtotal it does not deliver.
    pub minimum_order: Option<Money>,
    /// As it stands here, it would be taken.
    pub can_order: bool,
}

/// A line of a cart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct CartLineView {
    pub line_id: i64,
    #[schema(value_type = i64, minimum = 1)]
    pub item_id: ItemId,
    /// Null when it is not known.
    pub name: Option<String>,
    pub quantity: u32,
    pub choices: Vec<Choice>,
    /// Of one, choices included; null when it cannot be had.
    pub unit_price: Option<Money>,
    pub line_total: Option<Money>,
    /// Why it cannot be had.
    pub problem: Option<LineProblem>,
}

/// Why a line cannot be ordered as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LineProblem {
    /// The item or the restaurant is no more.
    NotOnMenu,
    /// It cannot be had now.
    Unavailable,
    /// What was chosen is not what can be chosen now.
    OptionsChanged,
}

/// Asks for the offers of `restaurants`, all at once.
pub async fn offers(menus: &Menus, restaurants: &[RestaurantId]) -> Offers {
    let asked = restaurants
        .iter()
        .map(|restaurant| async { (*restaurant, menus.offer(*restaurant).await) });
    futures_util::future::join_all(asked).await.into_iter().collect()
}

/// Prices a cart; a restaurant that `offers` does not name is as one that cannot be read.
pub fn view(cart: &Cart, offers: &Offers) -> CartView {
    let restaurants: Vec<RestaurantView> = cart
        .restaurants()
        .into_iter()
        .map(|restaurant| {
            let offer = offers.get(&restaurant).cloned();
            let lines = cart.of(restaurant);
            match offer.unwrap_or(Err(MenuError::Unavailable)) {
                Ok(offer) => priced(restaurant, lines, &offer),
                Err(error) => unpriced(restaurant, lines, error),
            }
        })
        .collect();
    let lines = restaurants.iter().flat_map(|restaurant| &restaurant.lines);
    let problems = lines.filter(|line| line.problem.is_some()).count();
    CartView { version: cart.version, restaurants, problems }
}

fn unpriced<'a>(
    restaurant_id: RestaurantId,
    lines: impl Iterator<Item = &'a CartLine>,
    error: MenuError,
) -> RestaurantView {
    let unavailable = error == MenuError::Unavailable;
    let problem = (!unavailable).then_some(LineProblem::NotOnMenu);
    RestaurantView {
        restaurant_id,
        unavailable,
        restaurant_name: None,
        is_open: false,
        currency: None,
        lines: lines.map(|line| line_view(line, None, None, problem)).collect(),
        subtotal: None,
        tax: None,
        delivery_fee: None,
        total: None,
        minimum_order: None,
        can_order: false,
    }
}

fn priced<'a>(
    restaurant_id: RestaurantId,
    lines: impl Iterator<Item = &'a CartLine>,
    offer: &Offer,
) -> RestaurantView {
    let currency = offer.currency;
    let money = |amount| Money { amount, currency };
    let lines: Vec<CartLineView> = lines.map(|line| priced_line(line, offer)).collect();
    let had = lines.iter().filter(|line| line.problem.is_none());
    // A line whose total is more money than there is counts as too much.
    let subtotal =
        had.clone().try_fold(0_i64, |sum, line| sum.checked_add(line.line_total?.amount));
    let tax = subtotal.and_then(|subtotal| tax(subtotal, offer.tax_basis_points));
    let total = [tax, Some(offer.delivery_fee)]
        .into_iter()
        .try_fold(subtotal, |sum, part| Some(sum?.checked_add(part?)))
        .flatten()
        .filter(|total| *total <= TOTAL_MAX)
        // For nothing at all nobody comes.
        .map(|total| if had.clone().next().is_some() { total } else { 0 });
    let can_order = offer.is_open
        && lines.iter().all(|line| line.problem.is_none())
        && subtotal.is_some_and(|subtotal| subtotal >= offer.minimum_order)
        && total.is_some_and(|total| total > 0);
    RestaurantView {
        restaurant_id,
        unavailable: false,
        restaurant_name: Some(offer.name.clone()),
        is_open: offer.is_open,
        currency: Some(currency),
        subtotal: subtotal.map(money),
        tax: tax.map(money),
        delivery_fee: Some(money(offer.delivery_fee)),
        total: total.map(money),
        minimum_order: Some(money(offer.minimum_order)),
        can_order,
        lines,
    }
}

fn priced_line(line: &CartLine, offer: &Offer) -> CartLineView {
    let Some(item) = offer.items.get(&line.item_id) else {
        return line_view(line, None, None, Some(LineProblem::NotOnMenu));
    };
    let name = Some(item.name.clone());
    if !item.is_offered {
        return line_view(line, name, None, Some(LineProblem::Unavailable));
    }
    match unit_price(item, &line.line(), 0) {
        Ok(amount) => line_view(line, name, Some(Money { amount, currency: offer.currency }), None),
        Err(_) => line_view(line, name, None, Some(LineProblem::OptionsChanged)),
    }
}

fn line_view(
    line: &CartLine,
    name: Option<String>,
    unit_price: Option<Money>,
    problem: Option<LineProblem>,
) -> CartLineView {
    let total = |price: Money| price.amount.checked_mul(i64::from(line.quantity));
    let line_total = unit_price
        .and_then(|price| Some(Money { amount: total(price)?, currency: price.currency }));
    CartLineView {
        line_id: line.line_id,
        item_id: line.item_id,
        name,
        quantity: line.quantity,
        choices: line.choices.clone(),
        unit_price,
        line_total,
        problem,
    }
}
