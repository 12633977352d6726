//! Orders: taken, read, listed.

use axum::{
    extract::State,
    http::{HeaderMap, Method},
    response::Response,
};
use contracts::{
    ids::{CustomerId, OrderId, RestaurantId},
    money::Money,
    order::OrderStatus,
};
use platform::{
    access::{Row, Who},
    auth::{Auth, Caller, Role},
    extract::{Json, JsonMax, Path, Query},
    postgres,
    problem::Problem,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::{App, idempotent, may_see};
use crate::{
    advance::now,
    idempotency::{Request, Stored},
    place::{NewOrder, Placement},
    price::{self, Line},
    store::{self, Filter},
    view::{Address, OrderDetail, OrderView},
};

/// An order with all its lines.
const ORDER_MAX_BYTES: usize = 32 * 1024;
/// The name under which keys of new orders are kept.
const ROUTE: &str = "POST /orders";
/// The last order that a page number can reach; a cursor goes further.
const OFFSET_MAX: i64 = 10_000;

pub(super) const ACCESS: &[Row] = &[
    (Method::POST, "/orders", Who::Roles(&[Role::Customer])),
    (Method::GET, "/orders", READERS),
    (Method::GET, "/orders/{order_id}", READERS),
];

pub(super) const READERS: Who = Who::Roles(&[Role::Customer, Role::Operator, Role::Admin]);

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(get))
}

/// An order as a customer asks for it.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewOrder)]
struct Create {
    #[schema(value_type = i64, minimum = 1)]
    restaurant_id: RestaurantId,
    #[schema(min_items = 1, max_items = 100)]
    items: Vec<Line>,
    delivery_address: Address,
    /// What the gateway charges: its name of a card, or `credit_card`, `upi`, …
    #[schema(min_length = 1, max_length = 64, pattern = "^[0-9A-Za-z_]+$")]
    payment_method: String,
    /// For the courier, in the restaurant's currency.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tip: Option<Money>,
}

/// What can be said of where to and how to pay.
pub(super) fn check(address: &Address, payment_method: &str) -> Result<(), Problem> {
    address.check().map_err(|(field, message)| Problem::unprocessable().field(field, message))?;
    let is_name = (1..=64).contains(&payment_method.len())
        && payment_method.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if is_name {
        return Ok(());
    }
    Err(Problem::unprocessable()
        .field("payment_method", "must be 1 to 64 letters, digits and underscores"))
}

pub(super) fn customer(caller: &Caller) -> Result<CustomerId, Problem> {
    CustomerId::new(caller.subject).map_err(|_| Problem::forbidden())
}

pub(super) fn json(value: &impl Serialize) -> Result<String, Problem> {
    serde_json::to_string(value).map_err(|error| Problem::internal(&error))
}

/// Order
///
/// Answered when the order is stored; it is paid meanwhile. `GET /orders/{order_id}` and
/// `orders:events` tell how that went. Repeat a request that had no answer with the same
/// `Idempotency-Key`: there will be one order.
#[utoipa::path(
    post, path = "/orders", operation_id = "create_order", tag = "orders", request_body = Create,
    params(
        ("Idempotency-Key" = String, Header, min_length = 1, max_length = 255, pattern = "^[!-~]+$",
            description = "1 to 255 characters, new for each order"),
    ),
    responses(
        (status = 202, description = "Taken", body = OrderView),
        (status = 400, description = "No Idempotency-Key", body = Problem),
        (status = 409, description = "The restaurant is closed, an item cannot be had, a price is \
            not `price_seen` (`price_changes` has both), or a request with this key is being \
            worked on", body = Problem),
        (status = 422, description = "A field is not valid, or the key was used for another order",
            body = Problem),
        (status = 503, description = "Prices or the database cannot be reached", body = Problem),
    ),
)]
async fn create(
    State(app): State<App>,
    Auth(caller): Auth,
    headers: HeaderMap,
    JsonMax(order): JsonMax<Create, ORDER_MAX_BYTES>,
) -> Result<Response, Problem> {
    let key = idempotent::key(&headers)?;
    let request =
        Request::new(&caller, ROUTE, key, &order).map_err(|error| Problem::internal(&error))?;
    let _running = idempotent::begin(&app, &request)?;
    let placement = match price(&app, &caller, &request, order).await {
        Ok(placement) => placement,
        // It may have been taken before the restaurant closed, or the menus went away.
        Err(problem) => {
            return idempotent::before(&app, &request).await?.ok_or(problem);
        }
    };
    let response = placement.response.clone();
    if app.placer.place(placement).await? {
        return Ok(idempotent::answered(Stored { status: 202, response }));
    }
    idempotent::before(&app, &request).await?.ok_or_else(idempotent::still_running)
}

async fn price(
    app: &App,
    caller: &Caller,
    request: &Request,
    order: Create,
) -> Result<Placement, Problem> {
    check(&order.delivery_address, &order.payment_method)?;
    let offer = app.menus.offer(order.restaurant_id).await?;
    let priced = price::price(&offer, &order.items, order.tip)?;
    let new = NewOrder {
        order_id: OrderId::generate(),
        customer_id: customer(caller)?,
        group_id: None,
        priced,
        delivery_address: json(&order.delivery_address)?,
        payment_method: order.payment_method,
        at: now(),
    };
    let view = OrderView::of_new(&new).map_err(|error| Problem::internal(&error))?;
    Ok(Placement {
        request: request.clone(),
        effect_id: new.order_id.0,
        response: json(&view)?,
        orders: vec![new],
    })
}

/// Read an order, with what has happened to it
#[utoipa::path(
    get, path = "/orders/{order_id}", operation_id = "get_order", tag = "orders",
    params(("order_id" = Uuid, Path)),
    responses(
        (status = 200, description = "The order", body = OrderDetail),
        (status = 404, description = "There is none, or it is somebody else's", body = Problem),
    ),
)]
async fn get(
    State(app): State<App>,
    Auth(caller): Auth,
    Path(order_id): Path<OrderId>,
) -> Result<Json<OrderDetail>, Problem> {
    let order = one(&app, &caller, order_id).await?;
    let detail = store::detail(&app.db, order).await.map_err(|error| postgres::problem(&error))?;
    Ok(Json(detail))
}

/// An order that the caller may see.
pub(super) async fn one(
    app: &App,
    caller: &Caller,
    order_id: OrderId,
) -> Result<OrderView, Problem> {
    store::get(&app.db, order_id)
        .await
        .map_err(|error| postgres::problem(&error))?
        .filter(|order| may_see(caller, order.customer_id.get(), order.restaurant_id.get()))
        .ok_or_else(Problem::not_found)
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// Orders of this customer; a customer's own without it.
    #[param(value_type = Option<i64>, minimum = 1)]
    customer_id: Option<CustomerId>,
    /// Orders of this restaurant.
    #[param(value_type = Option<i64>, minimum = 1)]
    restaurant_id: Option<RestaurantId>,
    /// One status, or several with commas between.
    #[param(
        pattern = "^(pending|payment_processing|confirmed|accepted|preparing|ready|picked_up|delivered|payment_failed|rejected|cancelled)(,(pending|payment_processing|confirmed|accepted|preparing|ready|picked_up|delivered|payment_failed|rejected|cancelled))*$"
    )]
    status: Option<String>,
    /// From 1.
    #[param(minimum = 1, maximum = 10_000)]
    page: Option<i64>,
    /// 1 to 100; 20 when absent.
    #[param(minimum = 1, maximum = 100)]
    page_size: Option<i64>,
    /// `next_cursor` of the page before; in place of `page`. No total is counted then.
    cursor: Option<Uuid>,
}

/// A page of orders, newest first.
#[derive(Serialize, ToSchema)]
struct Orders {
    orders: Vec<OrderView>,
    /// Absent with a cursor.
    #[serde(skip_serializing_if = "Option::is_none")]
    total: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<i64>,
    page_size: i64,
    /// For the next page; null when there is none.
    next_cursor: Option<Uuid>,
}

/// List orders, newest first
///
/// A customer's own, an operator's restaurants', or all for an administrator.
#[utoipa::path(
    get, path = "/orders", operation_id = "list_orders", tag = "orders", params(ListQuery),
    responses(
        (status = 200, description = "A page", body = Orders),
        (status = 422, description = "A parameter is not valid", body = Problem),
        (status = 429, description = "Too many lists of the caller at a time", body = Problem),
        (status = 503, description = "Too many lists at a time, or the database is away",
            body = Problem),
    ),
)]
async fn list(
    State(app): State<App>,
    Auth(caller): Auth,
    Query(query): Query<ListQuery>,
) -> Result<Json<Orders>, Problem> {
    let wrong = |field, message| Err(Problem::unprocessable().field(field, message));
    let page_size = query.page_size.unwrap_or(20);
    if !(1..=100).contains(&page_size) {
        return wrong("page_size", "must be between 1 and 100");
    }
    if query.page.is_some() && query.cursor.is_some() {
        return wrong("cursor", "takes the place of page");
    }
    let page = query.page.unwrap_or(1);
    if page < 1 || page.saturating_mul(page_size) > OFFSET_MAX {
        return wrong("page", "must be at least 1 and not beyond the 10000th order: use cursor");
    }
    let mut statuses = Vec::new();
    for name in query.status.iter().flat_map(|names| names.split(',')) {
        match OrderStatus::parse(name) {
            Some(status) => statuses.push(status),
            None => return wrong("status", "must be statuses of orders with commas between"),
        }
    }
    let filter = Filter { statuses, before: query.cursor, ..whose(&caller, &query) };
    let offset = if query.cursor.is_some() { 0 } else { (page - 1) * page_size };
    // A customer has few orders; the others' lists may look at all there are.
    let (db, _permit) = if caller.role == Role::Customer {
        (&app.db, None)
    } else {
        let (db, permit) = app.reports.begin(&caller).await?;
        (db, Some(permit))
    };
    // One more than is shown tells whether there is more.
    let mut orders = store::list(db, &filter, page_size + 1, offset)
        .await
        .map_err(|error| postgres::problem(&error))?;
    let has_more = orders.len() as i64 > page_size;
    orders.truncate(page_size as usize);
    let total = match query.cursor {
        Some(_) => None,
        None => Some(store::count(db, &filter).await.map_err(|error| postgres::problem(&error))?),
    };
    let next_cursor = orders.last().map(|order| order.order_id.0).filter(|_| has_more);
    let page = query.cursor.is_none().then_some(page);
    Ok(Json(Orders { orders, total, page, page_size, next_cursor }))
}

/// The orders that a caller may see and asks for; somebody else's are as if there were none.
fn whose(caller: &Caller, query: &ListQuery) -> Filter {
    let restaurant = query.restaurant_id.map(RestaurantId::get);
    match caller.role {
        Role::Customer => {
            let own = CustomerId::new(caller.subject).ok();
            let is_own = query.customer_id.is_none() || query.customer_id == own;
            // Restaurants are positive: this one has no orders.
            let restaurants = if is_own { restaurant.map(|id| vec![id]) } else { Some(vec![0]) };
            Filter { customer: own, restaurants, ..Filter::default() }
        }
        Role::Admin => Filter {
            customer: query.customer_id,
            restaurants: restaurant.map(|id| vec![id]),
            ..Filter::default()
        },
        Role::Operator | Role::Driver | Role::Service | Role::Fleet => {
            let own = caller.restaurants.iter().copied();
            let asked = own.filter(|id| restaurant.is_none_or(|asked| asked == *id));
            let restaurants = Some(asked.collect());
            Filter { customer: query.customer_id, restaurants, ..Filter::default() }
        }
    }
}
