//! Orders are taken at the menu's prices, paid, and shown to those whose they are.

use futures_util::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::world::{CUSTOMER, World, basket, id_of};

#[tokio::test]
async fn an_order_is_taken_at_once_and_paid() {
    let world = World::start().await;
    let restaurant = world.restaurant().await;
    let taken = world.order("k1", &basket(&restaurant)).await.is(202);
    assert_eq!(taken["status"], "payment_processing");
    assert_eq!(taken["payment_status"], "processing");
    let usd = |amount: i64| json!({"amount": amount, "currency": "USD"});
    for (name, amount) in
        [("subtotal", 2770), ("tax", 239), ("delivery_fee", 299), ("tip", 0), ("total", 3308)]
    {
        assert_eq!(taken[name], usd(amount), "{name}");
    }
    assert_eq!(taken["items"][0]["name"], "Chana Masala");
    assert_eq!(taken["items"][0]["line_total"], usd(2380));

    let order = id_of(&taken);
    let paid = world.until_payment(order, "paid").await;
    assert_eq!(paid["status"], "confirmed");
    let kinds: Vec<&str> =
        paid["events"].as_array().unwrap().iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["order.created", "order.payment_succeeded", "order.confirmed"]);
    let seqs: Vec<i64> =
        paid["events"].as_array().unwrap().iter().map(|e| e["seq"].as_i64().unwrap()).collect();
    assert_eq!(seqs, [1, 2, 3]);
    assert_eq!(paid["payment_attempts"][0]["outcome"], "succeeded");
    let captures = world.captures(order).await;
    assert_eq!(captures.len(), 1);
    assert_eq!(captures[0]["amount_received"], 3308);
    assert_eq!(captures[0]["currency"], "usd");
}

#[tokio::test]
async fn choices_and_tips_are_paid_for() {
    let world = World::start().await;
    let restaurant = world.restaurant().await;
    let mut body = basket(&restaurant);
    body["items"] = json!([{
        "item_id": restaurant.items[0],
        "quantity": 1,
        "choices": [{"option": "Heat", "choice": "Hot"}],
        "price_seen": {"amount": 1500, "currency": "USD"},
    }]);
    body["tip"] = json!({"amount": 100, "currency": "USD"});
    body["delivery_address"] = json!({"street": "1 Embarcadero", "city": "San Francisco",
        "latitude": 37.79, "longitude": -122.39});
    let taken = world.order("k1", &body).await.is(202);
    // 15.00 + 1.29 + 2.99 + 1.00
    assert_eq!(taken["total"]["amount"], 2028);
    assert_eq!(taken["delivery_address"]["city"], "San Francisco");
}

#[tokio::test]
async fn a_changed_price_is_told_and_nothing_is_ordered() {
    let world = World::start().await;
    let restaurant = world.restaurant().await;
    let mut body = basket(&restaurant);
    body["items"][0]["price_seen"] = json!({"amount": 990, "currency": "USD"});
    let refused = world.order("k1", &body).await;
    assert_eq!((refused.status, refused.kind().as_str()), (409, "price-changed"));
    assert_eq!(
        refused.json()["price_changes"],
        json!([{
            "line": 0,
            "item_id": restaurant.items[1],
            "seen": {"amount": 990, "currency": "USD"},
            "now": {"amount": 1190, "currency": "USD"},
        }])
    );
    assert_eq!(world.count("orders").await, 0);
    assert_eq!(world.count("idempotency_keys").await, 0);
}

#[tokio::test]
async fn what_cannot_be_had_cannot_be_ordered() {
    let world = World::start().await;
    let restaurant = world.restaurant().await;
    let body = basket(&restaurant);
    let (id, naan) = (restaurant.id, restaurant.items[2]);
    let path = format!("/restaurants/{id}/menu/items/{naan}/availability");
    world.menu("PUT", &path, &json!({"available": true, "in_stock": false})).await.is(200);
    // The very next order knows: the operator's call has answered.
    let refused = world.order("k1", &body).await;
    assert_eq!((refused.status, refused.kind().as_str()), (409, "items-unavailable"));
    world.menu("PUT", &path, &json!({"available": true, "in_stock": true})).await.is(200);
    world.open(id, "closed").await;
    let refused = world.order("k1", &body).await;
    assert_eq!((refused.status, refused.kind().as_str()), (409, "restaurant-closed"));
    world.open(id, "open").await;
    let mut little = body.clone();
    little["items"] = json!([{"item_id": naan, "quantity": 1}]);
    let refused = world.order("k1", &little).await;
    assert_eq!((refused.status, refused.kind().as_str()), (409, "below-minimum"));
    assert_eq!(world.count("orders").await, 0);
    // A key whose requests had no effect can still be used.
    world.order("k1", &body).await.is(202);
}

#[tokio::test]
async fn among_many_orders_an_operators_change_counts_at_once() {
    let world = World::start().await;
    let ours = world.restaurant().await;
    let mut others = Vec::new();
    for _ in 0..6 {
        others.push(world.restaurant().await);
    }
    let naan = format!("/restaurants/{}/menu/items/{}/availability", ours.id, ours.items[2]);
    let changes = async {
        for n in 0..20 {
            for in_stock in [false, true] {
                let state = json!({"available": true, "in_stock": in_stock});
                world.menu("PUT", &naan, &state).await.is(200);
                let answer = world.order(&format!("{n} {in_stock}"), &basket(&ours)).await;
                assert_eq!(answer.status, if in_stock { 202 } else { 409 }, "round {n}");
            }
        }
    };
    // Their questions and ours go together.
    let crowd = join_all(others.iter().enumerate().map(async |(n, other)| {
        let mut taken = 0;
        loop {
            world.order(&format!("crowd {n} {taken}"), &basket(other)).await.is(202);
            taken += 1;
        }
    }));
    tokio::select! {
        () = changes => {}
        _ = crowd => unreachable!("it goes on until the changes are done"),
    }
}

#[tokio::test]
async fn an_order_is_seen_by_those_whose_it_is() {
    let world = World::start().await;
    let (ours, theirs) = (world.restaurant().await, world.restaurant().await);
    let order = world.place(&ours).await;
    let path = format!("/api/v1/orders/{order}");
    for (token, status) in [
        (world.customer(CUSTOMER), 200),
        (world.customer(8), 404),
        (world.operator(&[ours.id]), 200),
        (world.operator(&[theirs.id]), 404),
        (world.admin(), 200),
        (world.token(platform::auth::Role::Driver, 1, &[]), 403),
        (String::new(), 401),
    ] {
        assert_eq!(world.get(&path, &token).await.status, status);
    }
    let missing = format!("/api/v1/orders/{}", Uuid::now_v7());
    assert_eq!(world.get(&missing, &world.admin()).await.status, 404);
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let world = World::start().await;
    let (ours, theirs) = (world.restaurant().await, world.restaurant().await);
    let mut orders = Vec::new();
    for n in 0..5 {
        orders.push(world.place(if n % 2 == 0 { &ours } else { &theirs }).await);
    }
    let key = Uuid::new_v4().to_string();
    world.order_at(0, 8, &key, &basket(&ours)).await.is(202);
    orders.reverse();
    let ids = |list: &Value| -> Vec<Uuid> {
        list["orders"].as_array().unwrap().iter().map(id_of).collect()
    };
    let get = async |query: &str, token: &str| {
        world.get(&format!("/api/v1/orders{query}"), token).await.is(200)
    };
    let own = world.customer(CUSTOMER);
    let all = get("", &own).await;
    assert_eq!((ids(&all), all["total"].as_i64()), (orders.clone(), Some(5)));
    let first = get("?page_size=2", &own).await;
    assert_eq!(ids(&first), orders[..2]);
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = get(&format!("?page_size=2&cursor={cursor}"), &own).await;
    assert_eq!(ids(&second), orders[2..4]);
    let page = get("?page_size=2&page=3", &own).await;
    assert_eq!((ids(&page), &page["next_cursor"]), (orders[4..].to_vec(), &Value::Null));
    // Somebody else's are as if there were none.
    assert!(ids(&get("?customer_id=8", &own).await).is_empty());
    let kitchen = get("", &world.operator(&[theirs.id])).await;
    assert_eq!(ids(&kitchen), [orders[1], orders[3]]);
    assert!(
        ids(&get(&format!("?restaurant_id={}", ours.id), &world.operator(&[theirs.id])).await)
            .is_empty()
    );
    assert_eq!(get("", &world.admin()).await["total"], 6);
    for order in &orders {
        world.until_payment(*order, "paid").await;
    }
    assert_eq!(get("?status=confirmed,accepted", &own).await["total"], 5);
    assert_eq!(get("?status=delivered", &own).await["total"], 0);
    for bad in ["?page_size=0", "?page_size=101", "?page=0", "?status=eaten", "?x=1", "?cursor=1"] {
        let answer = world.get(&format!("/api/v1/orders{bad}"), &own).await;
        assert_eq!(answer.status, 422, "{bad}");
    }
}
