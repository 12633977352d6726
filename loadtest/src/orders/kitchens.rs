//! Makes restaurants to order from, or finds those of an earlier run again.

use std::collections::HashMap;

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::json;

use super::basket::Kitchen;
use crate::{
    client::Caller,
    menu::catalogue::{Paging, get, list, parse},
};

/// Categories of a menu, and items of each.
const CATEGORIES: usize = 4;
const ITEMS: usize = 5;

#[derive(Deserialize)]
struct Written {
    restaurant_id: i64,
}

#[derive(Deserialize)]
struct Menu {
    categories: Vec<Category>,
}

#[derive(Deserialize)]
struct Category {
    items: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    item_id: i64,
}

/// `count` restaurants that are open day and night, each with a menu of its own.
pub async fn open(caller: &mut Caller, admin: &str, count: u32) -> anyhow::Result<Vec<Kitchen>> {
    let known = known(caller, admin).await.context("the restaurants cannot be listed")?;
    let mut kitchens = Vec::new();
    for n in 0..count {
        let id = match known.get(&name(n)) {
            Some(id) => *id,
            None => make(caller, admin, n).await.context("a restaurant cannot be made")?,
        };
        let path = format!("/restaurants/{id}/menu");
        let mut items = items(caller, admin, &path).await?;
        if items.is_empty() {
            put(caller, admin, &path, &menu(n)).await?;
            items = self::items(caller, admin, &path).await?;
        }
        anyhow::ensure!(!items.is_empty(), "restaurant {id} has no menu");
        let status = json!({"status": "open"});
        put(caller, admin, &format!("/restaurants/{id}/status"), &status).await?;
        kitchens.push(Kitchen { id, items });
    }
    Ok(kitchens)
}

/// Lists do not show the `external_id`, so restaurants are found by name, which has it as well.
fn name(n: u32) -> String {
    format!("Loadtest Kitchen {n:05}")
}

/// Ids by name.
async fn known(caller: &mut Caller, admin: &str) -> anyhow::Result<HashMap<String, i64>> {
    let listed = list(caller, admin, Paging::found("loadtest%20kitchen")).await?;
    Ok(listed.into_iter().map(|one| (one.name, one.restaurant_id)).collect())
}

/// Latitude and longitude of restaurant `n`, degrees.
pub fn place(n: u32) -> (f64, f64) {
    (37.77 + f64::from(n % 100) * 0.0005, -122.42 + f64::from(n / 100) * 0.0005)
}

async fn make(caller: &mut Caller, admin: &str, n: u32) -> anyhow::Result<i64> {
    let (latitude, longitude) = place(n);
    let profile = json!({
        "external_id": format!("loadtest-orders-{n:05}"),
        "name": name(n),
        "cuisines": ["other"],
        "address": format!("{} Load Street", n + 1),
        "city": "San Francisco",
        "country": "US",
        "latitude": latitude,
        "longitude": longitude,
        "time_zone": "America/Los_Angeles",
        "opening_hours": "24/7",
        "currency": "USD",
        "delivery_fee": 299,
        "tax_basis_points": 863,
    });
    let body = profile.to_string();
    let (status, answer) = caller.call("POST", "/restaurants", admin, body.as_bytes()).await?;
    // A created restaurant is 201; what else there is is shown in the error.
    let made: Written = parse(if status == 201 { 200 } else { status }, answer)?;
    Ok(made.restaurant_id)
}

fn menu(n: u32) -> serde_json::Value {
    let item = |category: usize, item: usize| {
        let price = 300 + (category * ITEMS + item) as u32 * 90 + n % 50;
        json!({"name": format!("Dish {category}.{item}"), "price": price})
    };
    let category = |category: usize| {
        let items: Vec<_> = (0..ITEMS).map(|n| item(category, n)).collect();
        json!({"name": format!("Course {category}"), "items": items})
    };
    json!({"categories": (0..CATEGORIES).map(category).collect::<Vec<_>>()})
}

async fn items(caller: &mut Caller, admin: &str, path: &str) -> anyhow::Result<Vec<i64>> {
    let menu: Menu = get(caller, admin, path).await?;
    let items = menu.categories.iter().flat_map(|category| &category.items);
    Ok(items.map(|item| item.item_id).collect())
}

async fn put(
    caller: &mut Caller,
    admin: &str,
    path: &str,
    body: &serde_json::Value,
) -> anyhow::Result<()> {
    let body = body.to_string();
    let (status, answer) = caller.call("PUT", path, admin, body.as_bytes()).await?;
    let _version: serde::de::IgnoredAny =
        parse(status, answer).with_context(|| format!("PUT {path}"))?;
    Ok(())
}
