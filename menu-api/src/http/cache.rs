//! For operators who look after the cache: drop, look, and see who dropped what.

use std::{collections::BTreeMap, time::Duration};

use axum::{extract::State, http::Method};
use chrono::{DateTime, Utc};
use contracts::ids::RestaurantId;
use futures_util::future::join_all;
use platform::{
    access::Row,
    auth::{Auth, Caller, Role},
    extract::{Json, Query},
    postgres,
    problem::Problem,
    redis::Connection,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{App, OPERATORS};
use crate::{
    coherence::{Names, Order, Outcome},
    document::{Kind, Parts},
    memory::Change,
    stats::NodeStats,
};

/// Keys in one call.
const KEYS_MAX: usize = 100;
/// How long other nodes' statistics are waited for.
const PEERS_MAX: Duration = Duration::from_millis(250);
const AUDIT_PAGE: i64 = 100;

pub(super) const ACCESS: &[Row] = &[
    (Method::POST, "/operator/cache/invalidate", OPERATORS),
    (Method::GET, "/operator/cache/stats", OPERATORS),
    (Method::GET, "/operator/cache/audit", OPERATORS),
];

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(invalidate)).routes(routes!(stats)).routes(routes!(audit))
}

/// What other nodes say about themselves, in the shared cache.
#[derive(Clone)]
pub struct Peers {
    redis: Connection,
    names: Names,
}

impl Peers {
    /// Reads through this connection.
    pub fn new(redis: Connection, names: Names) -> Self {
        Self { redis, names }
    }

    async fn stats(&self) -> Option<BTreeMap<String, NodeStats>> {
        let mut redis = self.redis.clone();
        let mut read = redis::cmd("HGETALL");
        read.arg(self.names.stats());
        let all = read.query_async::<BTreeMap<String, String>>(&mut redis);
        let all = tokio::time::timeout(PEERS_MAX, all).await.ok()?.ok()?;
        let read = |(node, text): (String, String)| Some((node, serde_json::from_str(&text).ok()?));
        Some(all.into_iter().filter_map(read).collect())
    }
}

/// What to drop; exactly one of the three.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Invalidate {
    /// Everything of one restaurant.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<i64>, minimum = 1)]
    restaurant_id: Option<RestaurantId>,
    /// `restaurant:7`, `menu:7`, `status:7`, `menu-with-status:7` or `lists`; up to 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_items = 1, max_items = 100, example = json!(["menu:7", "lists"]))]
    keys: Option<Vec<String>>,
    /// Everything there is; for administrators.
    #[serde(skip_serializing_if = "Option::is_none")]
    all: Option<bool>,
}

/// Who has dropped what.
#[derive(Serialize, ToSchema)]
struct Invalidated {
    success: bool,
    message: &'static str,
    /// By node: documents dropped from its memory; null for a node that did not answer, and cannot
    /// answer readers from memory either.
    nodes: BTreeMap<String, Option<u64>>,
}

/// Drop documents from every cache
///
/// They are read from the database again. Nobody needs this after a change: that drops what it
/// makes old by itself.
#[utoipa::path(
    post, path = "/operator/cache/invalidate", operation_id = "invalidate_cache",
    tag = "operator", request_body = Invalidate,
    responses(
        (status = 200, description = "Dropped on all nodes", body = Invalidated),
        (status = 404, description = "A restaurant that is not yours", body = Problem),
        (status = 403, description = "Only an administrator drops everything", body = Problem),
        (status = 422, description = "Not exactly one of the three, or no such key", body = Problem),
        (status = 503, description = "The cache is away", body = Problem),
    ),
)]
async fn invalidate(
    State(app): State<App>,
    Auth(caller): Auth,
    Json(asked): Json<Invalidate>,
) -> Result<Json<Invalidated>, Problem> {
    let orders = orders(&caller, &asked)?;
    for restaurant in orders.iter().filter_map(restaurant_of) {
        if !runs(&app, &caller, restaurant).await? {
            return Err(Problem::not_found());
        }
    }
    let outcomes = join_all(orders.into_iter().map(|order| app.announcer.announce(order))).await;
    let mut nodes: BTreeMap<String, Option<u64>> = BTreeMap::new();
    for outcome in outcomes {
        let Outcome::Everywhere(reports) = outcome else {
            return Err(Problem::unavailable("The cache is away.", Duration::from_secs(1)));
        };
        // Orders that went out together report together, so the counts are of all of them.
        for report in reports.iter() {
            let all = nodes.entry(report.node.clone()).or_insert(report.dropped);
            *all = (*all).max(report.dropped);
        }
    }
    let request_id = platform::serve::current_request_id().map(|id| id.to_string());
    sqlx::query!(
        "INSERT INTO cache_audit (role, subject, request_id, target, nodes)
         VALUES ($1, $2, $3, $4, $5)",
        caller.role.to_string(),
        caller.subject,
        request_id,
        json!(asked),
        json!(nodes),
    )
    .execute(&app.db)
    .await
    .map_err(|error| postgres::problem(&error))?;
    let message = "Dropped from the shared cache and on every node.";
    Ok(Json(Invalidated { success: true, message, nodes }))
}

fn orders(caller: &Caller, asked: &Invalidate) -> Result<Vec<Order>, Problem> {
    match asked {
        Invalidate { restaurant_id: Some(restaurant), keys: None, all: None } => {
            let parts = Parts::PROFILE.and(Parts::MENU).and(Parts::STATUS);
            Ok(vec![Order::Drop(Change { restaurant: *restaurant, version: 0, parts })])
        }
        Invalidate { restaurant_id: None, keys: Some(keys), all: None } => {
            if !(1..=KEYS_MAX).contains(&keys.len()) {
                return Err(Problem::unprocessable().field("keys", "must be 1 to 100"));
            }
            let order = |(n, key): (usize, &String)| {
                order(key).ok_or_else(|| {
                    Problem::unprocessable().field(
                        format!("keys[{n}]"),
                        "must be lists, or restaurant, menu, status or menu-with-status, a colon \
                         and an id",
                    )
                })
            };
            keys.iter().enumerate().map(order).collect()
        }
        Invalidate { restaurant_id: None, keys: None, all: Some(true) } => {
            if caller.role != Role::Admin {
                return Err(Problem::forbidden());
            }
            Ok(vec![Order::DropAll])
        }
        _ => Err(Problem::unprocessable()
            .field("restaurant_id", "send exactly one of restaurant_id, keys and all: true")),
    }
}

fn order(key: &str) -> Option<Order> {
    if key == "lists" {
        return Some(Order::DropLists);
    }
    let (kind, id) = key.split_once(':')?;
    Some(Order::DropDocument(id.parse().ok()?, Kind::parse(kind)?))
}

fn restaurant_of(order: &Order) -> Option<RestaurantId> {
    match order {
        Order::Changed(change) | Order::Drop(change) => Some(change.restaurant),
        Order::DropDocument(restaurant, _) => Some(*restaurant),
        Order::DropLists | Order::DropAll => None,
    }
}

async fn runs(app: &App, caller: &Caller, restaurant: RestaurantId) -> Result<bool, Problem> {
    if caller.role == Role::Admin || caller.restaurants.contains(&restaurant.get()) {
        return Ok(true);
    }
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM restaurants WHERE restaurant_id = $1 AND operator_id = $2)
           AS "runs!""#,
        restaurant.get(),
        caller.subject,
    )
    .fetch_one(&app.db)
    .await
    .map_err(|error| postgres::problem(&error))
}

/// Counters of all nodes.
#[derive(Serialize, ToSchema)]
struct CacheStats {
    /// The node that answers.
    node: String,
    /// Every node that was heard of during the last minute. Others are up to a quarter of a
    /// second behind.
    nodes: BTreeMap<String, NodeStats>,
    /// Whether other nodes could be asked for.
    complete: bool,
}

/// What the caches of all nodes have done
#[utoipa::path(
    get, path = "/operator/cache/stats", operation_id = "get_cache_stats", tag = "operator",
    responses((status = 200, description = "By node", body = CacheStats)),
)]
async fn stats(State(app): State<App>) -> Json<CacheStats> {
    let peers = app.peers.stats().await;
    let complete = peers.is_some();
    let mut nodes = peers.unwrap_or_default();
    nodes.insert(app.node.clone(), app.stats.read(&app.memory));
    Json(CacheStats { node: app.node.clone(), nodes, complete })
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AuditQuery {
    /// Only entries before this one, for the next page.
    before: Option<i64>,
}

/// Who dropped what, newest first.
#[derive(Serialize, ToSchema)]
struct Audit {
    entries: Vec<AuditEntry>,
}

/// A call of `/operator/cache/invalidate`.
#[derive(Serialize, ToSchema)]
struct AuditEntry {
    audit_id: i64,
    at: DateTime<Utc>,
    role: String,
    subject: i64,
    request_id: Option<String>,
    /// What was asked for.
    target: Value,
    /// What each node dropped.
    nodes: Value,
}

/// Who dropped what
///
/// Administrators see all entries, operators their own; 100 at a time.
#[utoipa::path(
    get, path = "/operator/cache/audit", operation_id = "list_invalidations",
    tag = "operator", params(AuditQuery),
    responses((status = 200, description = "Newest first", body = Audit)),
)]
async fn audit(
    State(app): State<App>,
    Auth(caller): Auth,
    Query(AuditQuery { before }): Query<AuditQuery>,
) -> Result<Json<Audit>, Problem> {
    let entries = sqlx::query_as!(
        AuditEntry,
        "SELECT audit_id, at, role, subject, request_id, target, nodes FROM cache_audit
         WHERE ($1::bigint IS NULL OR audit_id < $1) AND ($2 OR (role = $3 AND subject = $4))
         ORDER BY audit_id DESC LIMIT $5",
        before,
        caller.role == Role::Admin,
        caller.role.to_string(),
        caller.subject,
        AUDIT_PAGE,
    )
    .fetch_all(&app.db)
    .await
    .map_err(|error| postgres::problem(&error))?;
    Ok(Json(Audit { entries }))
}
