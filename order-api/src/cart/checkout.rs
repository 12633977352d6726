//! Making orders of a cart: all of them or none.
//!
//! Everything is priced by the menus of this moment. When that is not what the customer has seen,
//! or something cannot be had, the customer is told all of it at once and nothing is placed. The
//! orders and the cart without their lines are one transaction, on condition that the cart is the
//! one that was priced.

use contracts::{
    ids::{CustomerId, OrderId, RestaurantId},
    money::Money,
};
use rustc_hash::FxHashSet;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    Cart,
    store::{self, Carts},
    view::{self, LineProblem, Offers, RestaurantView},
};
use crate::{
    advance::now,
    idempotency::Request,
    menus::{MenuError, Menus},
    place::{NewOrder, Placement, Placer},
    price::{self, Line, Priced, Unpriced},
    view::OrderView,
};

/// A tip for the courier of one restaurant's order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Tip {
    #[schema(value_type = i64, minimum = 1)]
    pub restaurant_id: RestaurantId,
    pub tip: Money,
}

/// What the customer saw that one restaurant's order costs, without the tip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct TotalSeen {
    #[schema(value_type = i64, minimum = 1)]
    pub restaurant_id: RestaurantId,
    pub total: Money,
}

/// What is to be ordered of the cart.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Only these restaurants; all without it.
    pub restaurants: Option<Vec<RestaurantId>>,
    /// At most one for each of them.
    pub tips: Vec<Tip>,
    /// At most one for each of them.
    pub totals_seen: Vec<TotalSeen>,
    /// Only if the cart has this version.
    pub version: Option<i64>,
}

/// For whom, where to and how it is paid.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Whose cart.
    pub customer: CustomerId,
    /// Where to, as JSON.
    pub delivery_address: String,
    /// What the gateway charges.
    pub payment_method: String,
}

/// Why one restaurant's order cannot be placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It is no more, or takes no orders now.
    Closed,
    /// `lines` says which cannot be had.
    ItemsUnavailable,
    /// It does not deliver so little.
    BelowMinimum,
    /// `total` is not what was seen.
    TotalChanged,
    /// There is nothing to pay, or more than can be paid.
    Total,
}

/// All that keeps one restaurant's order from being placed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct Objection {
    #[schema(value_type = i64, minimum = 1)]
    pub restaurant_id: RestaurantId,
    pub restaurant_name: Option<String>,
    pub reasons: Vec<Reason>,
    /// Those that cannot be had.
    pub lines: Vec<LineObjection>,
    /// What those that can be had cost now, without a tip.
    pub total: Option<Money>,
    pub minimum_order: Option<Money>,
}

/// A line that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[allow(missing_docs)]
pub struct LineObjection {
    pub line_id: i64,
    #[schema(value_type = i64, minimum = 1)]
    pub item_id: contracts::ids::ItemId,
    pub problem: LineProblem,
}

/// Why nothing was placed.
#[derive(Debug, thiserror::Error)]
pub enum CheckoutError {
    /// There is nothing in the cart.
    #[error("the cart is empty")]
    Empty,
    /// It is not the cart that the customer saw, or that was priced; holds its version.
    #[error("the cart has version {0} by now")]
    Outdated(i64),
    /// A field is wrong, whatever menus say.
    #[error("{field}: {message}")]
    Invalid {
        /// Its path.
        field: String,
        /// What is expected.
        message: String,
    },
    /// Something cannot be had, or not at that price.
    #[error("some orders cannot be placed")]
    Refused(Vec<Objection>),
    /// A menu cannot be read.
    #[error(transparent)]
    Menus(MenuError),
    /// PostgreSQL failed.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// An order cannot be written as JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

fn invalid(field: impl Into<String>, message: impl Into<String>) -> CheckoutError {
    CheckoutError::Invalid { field: field.into(), message: message.into() }
}

/// The answer to a checkout.
#[derive(Debug, Serialize, ToSchema)]
pub struct Placed {
    /// All these orders have it.
    pub group_id: Uuid,
    /// One for each restaurant.
    pub orders: Vec<OrderView>,
}

/// Places what is wanted; what is answered, or `None` when the key is taken.
///
/// # Errors
/// See [`CheckoutError`]; nothing is placed, and the cart is as it was.
pub async fn check_out(
    carts: &Carts,
    menus: &Menus,
    placer: &Placer,
    request: &Request,
    terms: &Terms,
    wanted: &Wanted,
) -> Result<Option<String>, CheckoutError> {
    let customer = terms.customer;
    let cart = carts.truth(customer).await?;
    let restaurants = chosen(&cart, wanted)?;
    let offers = view::offers(menus, &restaurants).await;
    let priced = price(&cart, &restaurants, &offers, wanted)?;
    let group_id = Uuid::now_v7();
    let at = now();
    let order = |priced| NewOrder {
        order_id: OrderId::generate(),
        customer_id: customer,
        group_id: Some(group_id),
        priced,
        delivery_address: terms.delivery_address.clone(),
        payment_method: terms.payment_method.clone(),
        at,
    };
    let orders: Vec<NewOrder> = priced.into_iter().map(order).collect();
    let views = orders.iter().map(OrderView::of_new).collect::<Result<_, _>>()?;
    let response = serde_json::to_string(&Placed { group_id, orders: views })?;
    let placement = Placement { request: request.clone(), effect_id: group_id, response, orders };

    let mut next = cart.clone();
    next.remove_restaurants(&restaurants);
    next.version += 1;
    carts.forget_copy(customer).await;
    if !write(placer, &placement, customer, cart.version, &next).await? {
        return Ok(None);
    }
    placer.wake_relay();
    metrics::counter!("orders_accepted_total").increment(placement.orders.len() as u64);
    carts.keep_copy(customer, &next).await;
    Ok(Some(placement.response))
}

/// `false` when the key is taken.
async fn write(
    placer: &Placer,
    placement: &Placement,
    customer: CustomerId,
    seen: i64,
    next: &Cart,
) -> Result<bool, CheckoutError> {
    let db: &PgPool = placer.db();
    let mut tx = db.begin().await?;
    if !placer.place_within(&mut *tx, placement).await? {
        return Ok(false);
    }
    if !store::write(&mut *tx, customer, seen, next).await? {
        let now = store::read(&mut *tx, customer).await?;
        return Err(CheckoutError::Outdated(now.version));
    }
    tx.commit().await?;
    Ok(true)
}

/// The restaurants to order of, in the order of the cart.
///
/// # Errors
/// The cart has nothing of them, or a tip or a total is for another.
pub fn chosen(cart: &Cart, wanted: &Wanted) -> Result<Vec<RestaurantId>, CheckoutError> {
    if wanted.version.is_some_and(|version| version != cart.version) {
        return Err(CheckoutError::Outdated(cart.version));
    }
    let mut restaurants = cart.restaurants();
    if restaurants.is_empty() {
        return Err(CheckoutError::Empty);
    }
    if let Some(only) = &wanted.restaurants {
        if only.is_empty() {
            return Err(invalid("restaurants", "must name at least one"));
        }
        if let Some(at) = only.iter().position(|id| !restaurants.contains(id)) {
            return Err(invalid(format!("restaurants[{at}]"), "is not in the cart"));
        }
        restaurants.retain(|id| only.contains(id));
    }
    let tips = wanted.tips.iter().map(|tip| tip.restaurant_id);
    let totals = wanted.totals_seen.iter().map(|seen| seen.restaurant_id);
    each_once("tips", tips, &restaurants)?;
    each_once("totals_seen", totals, &restaurants)?;
    Ok(restaurants)
}

fn each_once(
    field: &str,
    ids: impl Iterator<Item = RestaurantId>,
    restaurants: &[RestaurantId],
) -> Result<(), CheckoutError> {
    let mut seen = FxHashSet::default();
    for (at, id) in ids.enumerate() {
        let field = || format!("{field}[{at}].restaurant_id");
        if !restaurants.contains(&id) {
            return Err(invalid(field(), "is not ordered of"));
        }
        if !seen.insert(id) {
            return Err(invalid(field(), "is there twice"));
        }
    }
    Ok(())
}

/// What each of `restaurants` is to get, by the menus of now.
///
/// # Errors
/// A menu could not be read, a tip is wrong, or something cannot be had.
pub fn price(
    cart: &Cart,
    restaurants: &[RestaurantId],
    offers: &Offers,
    wanted: &Wanted,
) -> Result<Vec<Priced>, CheckoutError> {
    let shown = view::view(cart, offers);
    let shown: Vec<&RestaurantView> = shown
        .restaurants
        .iter()
        .filter(|shown| restaurants.contains(&shown.restaurant_id))
        .collect();
    if shown.iter().any(|shown| shown.unavailable) {
        return Err(CheckoutError::Menus(MenuError::Unavailable));
    }
    let objections: Vec<Objection> =
        shown.iter().filter_map(|shown| objection(shown, wanted)).collect();
    let mut priced = Vec::with_capacity(shown.len());
    let mut left = Vec::new();
    for shown in shown {
        let Some(Ok(offer)) = offers.get(&shown.restaurant_id) else { continue };
        let lines: Vec<Line> = cart.of(shown.restaurant_id).map(super::CartLine::line).collect();
        let tip = wanted.tips.iter().position(|tip| tip.restaurant_id == shown.restaurant_id);
        match price::price(offer, &lines, tip.map(|at| wanted.tips[at].tip)) {
            Ok(order) => priced.push(order),
            Err(Unpriced::Invalid { field, message }) if field.starts_with("tip") => {
                return Err(invalid(format!("tips[{}].{field}", tip.unwrap_or_default()), message));
            }
            Err(_) => left.push(with(shown, vec![Reason::Total])),
        }
    }
    // What is wrong has its reasons above; the rest is what only prices with tips can tell.
    let is_told = |id| objections.iter().any(|told: &Objection| told.restaurant_id == id);
    left.retain(|left| !is_told(left.restaurant_id));
    let refused: Vec<Objection> = objections.into_iter().chain(left).collect();
    if refused.is_empty() { Ok(priced) } else { Err(CheckoutError::Refused(refused)) }
}

fn objection(shown: &RestaurantView, wanted: &Wanted) -> Option<Objection> {
    let mut reasons = Vec::new();
    if !shown.is_open {
        reasons.push(Reason::Closed);
    }
    if shown.lines.iter().any(|line| line.problem.is_some()) {
        reasons.push(Reason::ItemsUnavailable);
    }
    let below =
        shown.subtotal.zip(shown.minimum_order).is_some_and(|(sum, min)| sum.amount < min.amount);
    if below {
        reasons.push(Reason::BelowMinimum);
    }
    let seen = wanted.totals_seen.iter().find(|seen| seen.restaurant_id == shown.restaurant_id);
    if seen.is_some_and(|seen| Some(seen.total) != shown.total) {
        reasons.push(Reason::TotalChanged);
    }
    (!reasons.is_empty()).then(|| with(shown, reasons))
}

fn with(shown: &RestaurantView, reasons: Vec<Reason>) -> Objection {
    let lines = shown.lines.iter().filter_map(|line| {
        let problem = line.problem?;
        Some(LineObjection { line_id: line.line_id, item_id: line.item_id, problem })
    });
    Objection {
        restaurant_id: shown.restaurant_id,
        restaurant_name: shown.restaurant_name.clone(),
        reasons,
        lines: lines.collect(),
        total: shown.total,
        minimum_order: shown.minimum_order,
    }
}
