//! Carts are gathered, shown with the prices of now, and ordered: all of it or nothing.

use bytes::Bytes;
use futures_util::future::join_all;
use order_api::Role;
use platform::auth;
use redis::AsyncCommands as _;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::world::{Answer, CUSTOMER, Restaurant, World, id_of};

const CART: &str = "/api/v1/cart";

fn line(restaurant: &Restaurant, item: usize, quantity: u32) -> Value {
    json!({"restaurant_id": restaurant.id, "item_id": restaurant.items[item], "quantity": quantity})
}

fn usd(amount: i64) -> Value {
    json!({"amount": amount, "currency": "USD"})
}

/// How a cart is ordered.
fn terms() -> Value {
    json!({"delivery_address": "1 Embarcadero, San Francisco", "payment_method": "credit_card"})
}

fn with(mut body: Value, name: &str, value: Value) -> Value {
    body[name] = value;
    body
}

impl World {
    async fn cart(&self) -> Value {
        self.get(CART, &self.customer(CUSTOMER)).await.is(200)
    }

    async fn add(&self, line: &Value) -> Answer {
        self.post("/api/v1/cart/items", &self.customer(CUSTOMER), line).await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.send_to(0, "DELETE", path, &self.customer(CUSTOMER), &[], Bytes::new()).await
    }

    async fn check_out(&self, node: usize, key: &str, body: &Value) -> Answer {
        let headers = [("idempotency-key", key)];
        let token = self.customer(CUSTOMER);
        let body = body.to_string().into();
        self.send_to(node, "POST", "/api/v1/cart/checkout", &token, &headers, body).await
    }

    async fn cache(&self) -> redis::aio::MultiplexedConnection {
        let client = platform::redis::client(&self.cache.url().into()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    /// 2 × 11.90 of the first and 2 × 11.90 + 3.90 of the second.
    async fn filled(&self) -> (Restaurant, Restaurant) {
        let (first, second) = (self.restaurant().await, self.restaurant().await);
        for line in [line(&first, 1, 2), line(&second, 1, 2), line(&second, 2, 1)] {
            self.add(&line).await.is(201);
        }
        (first, second)
    }
}

/// How many of each line.
fn quantities(cart: &Value) -> Vec<u64> {
    let restaurants = cart["restaurants"].as_array().unwrap();
    let lines = restaurants.iter().flat_map(|of| of["lines"].as_array().unwrap());
    lines.map(|line| line["quantity"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn a_cart_is_gathered_and_changed() {
    let world = World::start().await;
    assert_eq!(world.cart().await, json!({"version": 0, "restaurants": [], "problems": 0}));
    let restaurant = world.restaurant().await;
    let naan = line(&restaurant, 2, 2);
    let cart = world.add(&naan).await.is(201);
    assert_eq!(cart["restaurants"][0]["can_order"], false, "7.80 is below the minimum");
    let cart = world.add(&naan).await.is(200);
    let shown = &cart["restaurants"][0];
    assert_eq!(shown["lines"][0]["quantity"], 4);
    // 15.60, 8.63 %, 2.99
    for (name, amount) in [("subtotal", 1560), ("tax", 135), ("delivery_fee", 299), ("total", 1994)]
    {
        assert_eq!(shown[name], usd(amount), "{name}");
    }
    assert_eq!(shown["restaurant_name"], "Bombay Bites");
    assert_eq!(shown["lines"][0]["unit_price"], usd(390));
    assert_eq!(shown["can_order"], true);
    let hot =
        with(line(&restaurant, 0, 1), "choices", json!([{"option": "Heat", "choice": "Hot"}]));
    world.add(&hot).await.is(201);

    let customer = world.customer(CUSTOMER);
    let set = async |id: i64, quantity: i64| {
        let path = format!("/api/v1/cart/items/{id}");
        world.put(&path, &customer, &json!({"quantity": quantity})).await
    };
    let version = set(1, 7).await.is(200)["version"].clone();
    assert_eq!(set(1, 7).await.is(200)["version"], version, "the same again is no change");
    for (id, quantity, status) in [(1, 0, 422), (1, 100, 422), (9, 1, 404), (0, 1, 404)] {
        assert_eq!(set(id, quantity).await.status, status);
    }
    assert_eq!(quantities(&world.cart().await), [7, 1]);
    world.delete("/api/v1/cart/items/1").await.is(200);
    assert_eq!(world.delete("/api/v1/cart/items/1").await.status, 404);
    assert_eq!(quantities(&world.cart().await), [1]);

    let other = world.get(CART, &world.customer(8)).await.is(200);
    assert_eq!(other["restaurants"], json!([]), "somebody else has a cart of their own");
    for token in
        [world.operator(&[restaurant.id]), world.admin(), world.token(auth::Role::Driver, 7, &[])]
    {
        assert_eq!(world.get(CART, &token).await.status, 403);
    }
    assert_eq!(world.delete(CART).await.status, 204);
    assert_eq!(world.cart().await["restaurants"], json!([]));
    assert_eq!(world.delete(CART).await.status, 204);
}

#[tokio::test]
async fn what_is_not_on_a_menu_does_not_get_into_the_cart() {
    let world = World::start().await;
    let restaurant = world.restaurant().await;
    let good = line(&restaurant, 1, 1);
    let choices = json!([{"option": "Size", "choice": "XL"}]);
    for (bad, field) in [
        (with(good.clone(), "restaurant_id", json!(424_242)), "restaurant_id"),
        (with(good.clone(), "item_id", json!(424_242)), "item_id"),
        (with(good.clone(), "choices", choices), "choices"),
        (line(&restaurant, 0, 1), "choices"),
        (with(good.clone(), "quantity", json!(0)), "quantity"),
        (with(good.clone(), "quantity", json!(100)), "quantity"),
        (with(good.clone(), "price", json!(1)), "price"),
    ] {
        let refused = world.add(&bad).await.is(422);
        let named = refused["errors"][0]["field"].as_str().unwrap_or_default();
        assert!(named.ends_with(field), "{bad}: {refused}");
    }
    world.add(&with(good.clone(), "quantity", json!(99))).await.is(201);
    assert_eq!(world.add(&good).await.is(422)["errors"][0]["field"], "quantity");
    // One may gather while the restaurant is closed.
    world.open(restaurant.id, "closed").await;
    let cart = world.add(&line(&restaurant, 2, 1)).await.is(201);
    assert_eq!(cart["restaurants"][0]["is_open"], false);
    assert_eq!(cart["restaurants"][0]["can_order"], false);
}

#[tokio::test]
async fn what_went_off_is_told() {
    let world = World::start().await;
    let (first, second) = world.filled().await;
    let path = format!("/restaurants/{}/menu/items/{}", second.id, second.items[1]);
    let availability = json!({"available": true, "in_stock": false});
    world.menu("PUT", &format!("{path}/availability"), &availability).await.is(200);
    let cart = world.cart().await;
    assert_eq!(cart["problems"], 1);
    let shown = &cart["restaurants"][1];
    assert_eq!(shown["lines"][0]["problem"], "unavailable");
    assert_eq!(shown["lines"][0]["unit_price"], Value::Null);
    assert_eq!(shown["lines"][0]["name"], "Chana Masala");
    assert_eq!(shown["subtotal"], usd(390));
    assert_eq!(cart["restaurants"][0]["can_order"], true);

    let refused = world.check_out(0, "k1", &terms()).await;
    assert_eq!((refused.status, &*refused.kind()), (409, "cart-not-orderable"));
    let told = &refused.json()["restaurants"];
    assert_eq!(told[0]["restaurant_id"], second.id);
    assert_eq!(told[0]["reasons"], json!(["items_unavailable", "below_minimum"]));
    assert_eq!(told[0]["lines"][0]["problem"], "unavailable");
    assert_eq!(world.count("orders").await, 0);
    assert_eq!(world.cart().await, cart);
    // What can be had can be ordered, under the same key: nothing was done with it.
    let some = with(terms(), "restaurants", json!([first.id]));
    let placed = world.check_out(0, "k1", &some).await.is(202);
    assert_eq!(placed["orders"].as_array().unwrap().len(), 1);
    assert_eq!(quantities(&world.cart().await), [2, 1]);
}

#[tokio::test]
async fn a_checkout_places_one_order_for_each_restaurant() {
    let world = World::start().await;
    let (first, second) = world.filled().await;
    let cart = world.cart().await;
    let total = |n: usize| cart["restaurants"][n]["total"].clone();
    let mut body = terms();
    body["version"] = cart["version"].clone();
    body["tips"] = json!([{"restaurant_id": second.id, "tip": usd(100)}]);
    body["totals_seen"] = json!([
        {"restaurant_id": first.id, "total": total(0)},
        {"restaurant_id": second.id, "total": total(1)},
    ]);
    let taken = world.check_out(0, "k1", &body).await;
    let placed = taken.is(202);
    let orders = placed["orders"].as_array().unwrap();
    assert_eq!(orders.len(), 2);
    for (order, restaurant) in orders.iter().zip([&first, &second]) {
        assert_eq!(order["restaurant_id"], restaurant.id);
        assert_eq!(order["group_id"], placed["group_id"]);
    }
    assert_eq!(orders[0]["total"], total(0));
    assert_eq!(orders[1]["total"], usd(3_308 + 100));
    assert_eq!(orders[1]["tip"], usd(100));
    assert_eq!(world.cart().await["restaurants"], json!([]));
    for order in orders {
        let paid = world.until_payment(id_of(order), "paid").await;
        assert_eq!(world.captures(id_of(order)).await.len(), 1);
        assert_eq!(paid["group_id"], placed["group_id"]);
    }

    // The answer is the same for ever, whatever is in the cart by now.
    for fill in [false, true] {
        if fill {
            world.add(&line(&first, 1, 1)).await.is(201);
        }
        let again = world.check_out(0, "k1", &body).await;
        assert_eq!((again.status, &again.body), (202, &taken.body));
        assert_eq!(again.header("idempotent-replayed"), "true");
    }
    assert_eq!(world.check_out(0, "k1", &terms()).await.status, 422, "another under this key");
    assert_eq!(world.count("orders").await, 2);
    assert_eq!(quantities(&world.cart().await), [1]);
}

#[tokio::test]
async fn what_is_not_as_it_was_seen_is_not_ordered() {
    let world = World::start().await;
    assert_eq!(world.check_out(0, "k0", &terms()).await.kind(), "cart-empty");
    let (first, second) = world.filled().await;
    let cart = world.cart().await;
    let seen = |amount: i64| json!([{"restaurant_id": first.id, "total": usd(amount)}]);
    let told = world.check_out(0, "k1", &with(terms(), "totals_seen", seen(1))).await.is(409);
    assert_eq!(told["restaurants"][0]["reasons"], json!(["total_changed"]));
    assert_eq!(told["restaurants"][0]["total"], cart["restaurants"][0]["total"]);
    let old = world.check_out(0, "k2", &with(terms(), "version", json!(1))).await;
    assert_eq!((old.status, &*old.kind()), (409, "cart-changed"));
    world.open(second.id, "closed").await;
    let told = world.check_out(0, "k3", &terms()).await.is(409);
    assert_eq!(told["restaurants"][0]["reasons"], json!(["closed"]));
    assert_eq!(told["restaurants"].as_array().unwrap().len(), 1);
    for (name, value, field) in [
        ("restaurants", json!([424_242]), "restaurants[0]"),
        ("restaurants", json!([]), "restaurants"),
        ("tips", json!([{"restaurant_id": 424_242, "tip": usd(1)}]), "tips[0].restaurant_id"),
        ("tips", json!([{"restaurant_id": first.id, "tip": usd(-1)}]), "tips[0].tip"),
        ("payment_method", json!("my card"), "payment_method"),
        ("delivery_address", json!(" "), "delivery_address"),
        ("items", json!([]), "items"),
    ] {
        let refused = world.check_out(0, "k4", &with(terms(), name, value)).await.is(422);
        let named = refused["errors"][0]["field"].as_str().unwrap_or_default();
        assert!(named.ends_with(field), "{field}: {refused}");
    }
    let token = world.customer(CUSTOMER);
    assert_eq!(world.post("/api/v1/cart/checkout", &token, &terms()).await.status, 400, "no key");
    for table in ["orders", "payments", "idempotency_keys", "outbox"] {
        assert_eq!(world.count(table).await, 0, "{table}");
    }
    assert_eq!(quantities(&world.cart().await), quantities(&cart));
}

#[tokio::test]
async fn one_of_many_checkouts_at_once_orders() {
    let world = World::with(&[Role::All, Role::Api], &[]).await;
    world.filled().await;
    let keys: Vec<String> = (0..8).map(|n| format!("k{}", n / 2)).collect();
    let body = terms();
    let answers =
        join_all(keys.iter().enumerate().map(|(n, key)| world.check_out(n % 2, key, &body))).await;
    let taken: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 202).collect();
    assert!(!taken.is_empty());
    assert!(taken.iter().all(|answer| answer.body == taken[0].body), "one checkout, repeated");
    assert!(answers.iter().all(|answer| [202, 409].contains(&answer.status)), "{answers:?}");
    assert_eq!(world.count("orders").await, 2);
    assert_eq!(world.cart().await["restaurants"], json!([]));
}

#[tokio::test]
async fn changes_at_once_are_all_kept() {
    let world = World::with(&[Role::All, Role::Api], &[]).await;
    let restaurant = world.restaurant().await;
    let token = world.customer(CUSTOMER);
    let body = Bytes::from(line(&restaurant, 1, 1).to_string());
    let add = async |node: usize| {
        loop {
            let path = "/api/v1/cart/items";
            let answer = world.send_to(node, "POST", path, &token, &[], body.clone()).await;
            match answer.status {
                // Too many at once: it is said, and one tries again.
                409 => assert!(!answer.header("retry-after").is_empty()),
                status => return status,
            }
        }
    };
    let statuses = join_all((0..30).map(|n| add(n % 2))).await;
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1);
    assert!(statuses.iter().all(|status| [200, 201].contains(status)), "{statuses:?}");
    for node in [0, 1] {
        let cart = world.send_to(node, "GET", CART, &token, &[], Bytes::new()).await.is(200);
        assert_eq!(quantities(&cart), [30]);
        assert_eq!(cart["version"], 30);
    }
}

#[tokio::test]
async fn what_a_phone_gathered_is_merged_once() {
    let mut world = World::start().await;
    let restaurant = world.restaurant().await;
    world.add(&line(&restaurant, 1, 3)).await.is(201);
    let gone = json!({"restaurant_id": 424_242, "item_id": 1, "quantity": 1});
    let items = json!({"items": [line(&restaurant, 1, 2), line(&restaurant, 2, 4), gone]});
    let token = world.customer(CUSTOMER);
    let merge =
        async |world: &World, items: &Value| world.post("/api/v1/cart/merge", &token, items).await;
    let cart = merge(&world, &items).await.is(200);
    assert_eq!(quantities(&cart), [3, 4, 1], "the greater, not the sum");
    assert_eq!(cart["restaurants"][1]["lines"][0]["problem"], "not_on_menu");
    assert_eq!(merge(&world, &items).await.is(200), cart);
    let many: Vec<Value> = (1..=101).map(|_| line(&restaurant, 1, 1)).collect();
    assert_eq!(merge(&world, &json!({"items": many})).await.status, 422);
    let far: Vec<Value> = (1..=11)
        .map(|n| json!({"restaurant_id": 1_000 + n, "item_id": 1, "quantity": 1}))
        .collect();
    assert_eq!(merge(&world, &json!({"items": far})).await.status, 422);
    assert_eq!(world.cart().await, cart);

    // Without menus carts are still there: prices that nobody has asked for before are missing.
    let unknown = world.restaurant().await;
    world.stop_menu().await;
    let cart = merge(&world, &json!({"items": [line(&unknown, 1, 1)]})).await.is(200);
    assert_eq!(cart["restaurants"][2]["unavailable"], true);
    assert_eq!(cart["restaurants"][2]["total"], Value::Null);
    assert_eq!(cart["restaurants"][0]["unavailable"], false, "this menu is known");
    let refused = world.check_out(0, "k1", &terms()).await;
    assert_eq!(refused.status, 503);
    assert_eq!(world.add(&line(&unknown, 1, 1)).await.status, 503);
    assert_eq!(world.count("orders").await, 0);
}

#[tokio::test]
async fn redis_has_copies_and_no_say() {
    let world = World::with(&[Role::All, Role::Api], &[]).await;
    let (first, _) = world.filled().await;
    let token = world.customer(CUSTOMER);
    let key = format!("cart:{{{CUSTOMER}}}");
    let mut cache = world.cache().await;
    let read = async |node: usize| {
        world.send_to(node, "GET", CART, &token, &[], Bytes::new()).await.is(200)
    };
    for quantity in 1..20 {
        let body = json!({"quantity": quantity});
        world.put("/api/v1/cart/items/1", &token, &body).await.is(200);
        let seen = read(1).await;
        assert_eq!(quantities(&seen)[0], quantity, "another node shows what was answered");
        let version: i64 = cache.hget(&key, "version").await.unwrap();
        assert_eq!(seen["version"], version);
    }
    let ttl_s: i64 = cache.ttl(&key).await.unwrap();
    assert!((1..=600).contains(&ttl_s), "{ttl_s}");

    // A copy that is wrong is shown, and neither changed nor ordered.
    let wrong = json!({"version": 1_000_000, "next_line_id": 9, "lines": [
        {"line_id": 1, "restaurant_id": first.id, "item_id": first.items[1], "quantity": 99}]});
    let mut mislead = async || {
        let fields = [("version", "1000000".to_owned()), ("cart", wrong.to_string())];
        let () = cache.hset_multiple(&key, &fields).await.unwrap();
        assert_eq!(quantities(&read(0).await), [99]);
    };
    mislead().await;
    world.put("/api/v1/cart/items/1", &token, &json!({"quantity": 18})).await.is(200);
    assert_eq!(quantities(&read(1).await), [18, 2, 1], "a write deletes any copy");
    mislead().await;
    let placed = world.check_out(0, "k1", &terms()).await.is(202);
    assert_eq!(placed["orders"][0]["items"][0]["quantity"], 18);
    assert_eq!(read(0).await["restaurants"], json!([]), "and so does a checkout");
    // One that cannot be read is as good as none.
    let () = cache.hset(&key, "cart", "not json").await.unwrap();
    assert_eq!(read(0).await["restaurants"], json!([]));

    for away in ["killed", "hanging"] {
        if away == "killed" {
            world.cache.kill();
        } else {
            world.cache.restart().await.unwrap();
            world.cache.suspend();
        }
        let cart = world.add(&line(&first, 1, 2)).await.is(201);
        assert_eq!(quantities(&read(1).await), [2]);
        let key = Uuid::new_v4().to_string();
        let body = with(terms(), "version", cart["version"].clone());
        world.check_out(1, &key, &body).await.is(202);
        assert_eq!(read(0).await["restaurants"], json!([]));
    }
    world.cache.resume();
    assert_eq!(read(0).await["restaurants"], json!([]));
}

#[tokio::test]
async fn a_slow_reader_brings_no_old_cart_back() {
    use contracts::ids::CustomerId;
    use order_api::cart::{Cart, copies::Copies};
    let world = World::start().await;
    let client = platform::redis::client(&world.cache.url().into()).unwrap();
    let copies = Copies::new(&client, std::time::Duration::from_secs(60));
    let customer = CustomerId::new(1).unwrap();
    let cart = |version| Cart { version, ..Cart::default() };
    // The first calls wait for a connection, and may be late for it.
    crate::world::until("a copy is kept", async || {
        copies.keep(customer, &cart(5)).await;
        copies.get(customer).await.is_some()
    })
    .await;
    for (version, kept) in [(4, 5), (5, 5), (6, 6), (0, 6), (1 << 40, 1 << 40), (7, 1 << 40)] {
        copies.keep(customer, &cart(version)).await;
        assert_eq!(copies.get(customer).await.unwrap().version, kept);
    }
    copies.forget(customer).await;
    assert_eq!(copies.get(customer).await, None);
}
