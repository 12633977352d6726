//! Restaurants and menus, as operators write them and customers read them.

use bytes::Bytes;
use platform::auth::Role;
use serde_json::{Value, json};

use crate::world::{World, menu, profile};

#[tokio::test]
async fn what_an_operator_writes_is_what_a_customer_reads() {
    let world = World::start(1).await;
    let id = world.restaurant("Bombay Bites").await;
    let restaurant = world.get(&format!("/api/v1/restaurants/{id}")).await.ok();
    assert_eq!(restaurant["name"], "Bombay Bites");
    assert_eq!(restaurant["cuisine_type"], "indian");
    assert_eq!(restaurant["delivery_fee"], json!({"amount": 299, "currency": "USD"}));
    let shown = world.get(&format!("/api/v1/restaurants/{id}/menu")).await.ok();
    let items: Vec<&str> = shown["categories"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|category| category["items"].as_array().unwrap())
        .map(|item| item["name"].as_str().unwrap())
        .collect();
    assert_eq!(items, ["Paneer Butter Masala", "Chana Masala", "Garlic Naan"]);
    let first = &shown["categories"][0]["items"][0];
    assert_eq!(first["price"], json!({"amount": 1450, "currency": "USD"}));
    assert_eq!(first["options"][0]["choices"][1], json!({"name": "Hot", "price": 0}));
    assert_eq!(first["available"], true);
    let status = world.get(&format!("/api/v1/restaurants/{id}/status")).await.ok();
    assert_eq!((&status["status"], &status["is_open"]), (&json!("open"), &json!(true)));
    let both = world.get(&format!("/api/v1/restaurants/{id}/menu-with-status")).await.ok();
    assert_eq!((&both["menu"], &both["status"]), (&shown, &status));
    assert_eq!(both["name"], "Bombay Bites");
    assert_eq!(both["delivery_fee"], json!({"amount": 299, "currency": "USD"}));
    assert_eq!(both["minimum_order"], json!({"amount": 1000, "currency": "USD"}));
    assert_eq!(both["tax_basis_points"], 863);
}

#[tokio::test]
async fn a_body_comes_as_the_client_takes_it_and_not_again_when_it_has_it() {
    let world = World::start(1).await;
    let id = world.restaurant("Bombay Bites").await;
    let path = format!("/api/v1/restaurants/{id}/menu");
    let plain = world.get(&path).await;
    let get = async |headers: &[(&str, &str)]| {
        world.send(0, "GET", &path, "", headers, Bytes::new()).await
    };
    for (accept, encoding) in [("gzip", "gzip"), ("br, gzip", "br"), ("zstd, br", "zstd")] {
        let answer = get(&[("accept-encoding", accept)]).await;
        assert_eq!(answer.header("content-encoding"), encoding);
        assert_eq!(answer.header("vary"), "accept-encoding");
        assert!(answer.body.len() < plain.body.len());
        assert_eq!(answer.header("etag"), plain.header("etag"));
        assert_eq!(answer.header("x-cache"), "hit");
    }
    let etag = plain.header("etag").to_owned();
    let known = get(&[("if-none-match", &etag)]).await;
    assert_eq!((known.status, known.body.len()), (304, 0));
    assert_eq!(known.header("etag"), etag);
    // Several lines are one list, and `*` is any.
    for lines in [vec!["\"other\"", &etag], vec!["*"], vec!["\"other\"", "*"]] {
        let lines: Vec<_> = lines.into_iter().map(|line| ("if-none-match", line)).collect();
        assert_eq!(get(&lines).await.status, 304, "{lines:?}");
    }
    assert_eq!(get(&[("if-none-match", "\"a\""), ("if-none-match", "\"b\"")]).await.status, 200);
    // No condition is looked at by a write, so none is performed under one.
    let empty = json!({"categories": []}).to_string();
    for tag in ["\"nope\"", &etag] {
        let headers = [("if-match", tag)];
        let body = empty.clone().into();
        let answer = world.send(0, "PUT", &path, &world.admin(), &headers, body).await;
        assert_eq!(answer.status, 412);
    }
    assert_eq!(get(&[]).await.body, plain.body);
    let item = world.first_item(id).await;
    let sold_out = json!({"available": true, "in_stock": false});
    let path = format!("/api/v1/restaurants/{id}/menu/items/{item}/availability");
    world.put(&path, &sold_out).await.ok();
    let changed = get(&[("if-none-match", &etag)]).await;
    assert_eq!(changed.status, 200);
    assert_eq!(changed.json()["categories"][0]["items"][0]["in_stock"], false);
}

#[tokio::test]
async fn one_question_tells_which_of_many_copies_are_right() {
    let world = World::start(2).await;
    let ids = [world.restaurant("Bombay Bites").await, world.restaurant("Pasta Palace").await];
    let mut copies = vec!["999999:\"nobody\"".to_owned()];
    for id in ids {
        let copy = world.get(&format!("/api/v1/restaurants/{id}/menu-with-status")).await;
        copies.push(format!("{id}:{}", copy.header("etag")));
    }
    let ask = async |node: usize, copies: &[String]| {
        let copies = copies.join(",").replace('"', "%22");
        world.get_from(node, &format!("/api/v1/menus/unchanged?copies={copies}")).await
    };
    assert_eq!(ask(0, &copies).await.ok(), json!({"unchanged": ids}));
    assert_eq!(ask(0, &copies).await.header("cache-control"), "no-store");
    // A node that has not read them yet is not sure of any.
    assert_eq!(ask(1, &copies).await.ok(), json!({"unchanged": []}));
    let item = world.first_item(ids[0]).await;
    let path = format!("/api/v1/restaurants/{}/menu/items/{item}/availability", ids[0]);
    world.put_to(1, &path, &json!({"available": true, "in_stock": false})).await.ok();
    assert_eq!(ask(0, &copies).await.ok(), json!({"unchanged": [ids[1]]}));
    let many = vec![copies[1].clone(); 201];
    assert_eq!(ask(0, &many).await.status, 422);
    assert_eq!(ask(0, &["nonsense".to_owned()]).await.status, 422);
}

#[tokio::test]
async fn every_version_of_a_menu_can_be_read_again() {
    let world = World::start(1).await;
    let id = world.restaurant("Bombay Bites").await;
    let path = format!("/api/v1/restaurants/{id}/menu");
    let mut seen: Vec<Value> = vec![world.get(&path).await.ok()];
    let ids = |menu: &Value, c: usize| {
        let category = &menu["categories"][c];
        (category["category_id"].as_i64().unwrap(), category["items"][0]["item_id"].as_i64())
    };
    let (curries, paneer) = ids(&seen[0], 0);
    let (breads, _) = ids(&seen[0], 1);
    let paneer = paneer.unwrap();
    let availability = json!({"available": false, "in_stock": true});
    world.put(&format!("{path}/items/{paneer}/availability"), &availability).await.ok();
    seen.push(world.get(&path).await.ok());
    // Dearer, and in another category.
    let dearer = json!({"category_id": breads, "name": "Paneer Butter Masala", "price": 1550});
    world.put(&format!("{path}/items/{paneer}"), &dearer).await.ok();
    seen.push(world.get(&path).await.ok());
    world.put(&format!("{path}/categories/{curries}"), &json!({"name": "From the pot"})).await.ok();
    seen.push(world.get(&path).await.ok());
    world.delete(&format!("{path}/categories/{breads}")).await.ok();
    seen.push(world.get(&path).await.ok());
    let roti = json!({"category_id": curries, "name": "Roti", "price": 200});
    let added = world.post(&format!("{path}/items"), &roti).await;
    assert_eq!(added.status, 201);
    seen.push(world.get(&path).await.ok());
    // A status is no new menu.
    let closed = json!({"status": "closed", "current_capacity": 0});
    world.put(&format!("/api/v1/restaurants/{id}/status"), &closed).await.ok();
    world.put(&path, &menu()).await.ok();
    seen.push(world.get(&path).await.ok());

    let versions: Vec<i64> = seen.iter().map(|menu| menu["version"].as_i64().unwrap()).collect();
    assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
    for (version, menu) in versions.iter().zip(&seen) {
        let again = world.get(&format!("{path}?version={version}")).await.ok();
        assert_eq!(again, *menu, "version {version}");
    }
    let newest = versions.last().unwrap();
    assert_eq!(world.get(&format!("{path}?version={}", newest + 1)).await.status, 404);
    assert_eq!(world.get(&format!("{path}?version=0")).await.status, 404);
    // What is too old is forgotten as a whole, and never shown in part.
    menu_api::store::menus::forget_menus(&world.db(), chrono::Utc::now()).await.unwrap();
    assert_eq!(world.get(&format!("{path}?version={}", versions[0])).await.status, 404);
    assert_eq!(world.get(&format!("{path}?version={newest}")).await.ok(), seen[seen.len() - 1]);
}

#[tokio::test]
async fn a_whole_menu_keeps_what_it_names() {
    let world = World::start(1).await;
    let id = world.restaurant("Bombay Bites").await;
    let path = format!("/api/v1/restaurants/{id}/menu");
    let before = world.get(&path).await.ok();
    let breads = before["categories"][1]["category_id"].clone();
    let naan = before["categories"][1]["items"][0]["item_id"].clone();
    let paneer = before["categories"][0]["items"][0]["item_id"].clone();
    let rewritten = json!({"categories": [
        {"category_id": breads, "name": "Bread", "items": [
            {"name": "Roti", "price": 200},
            {"item_id": naan, "name": "Naan", "price": 350},
            {"item_id": paneer, "name": "Paneer Roll", "price": 800},
        ]},
    ]});
    world.put(&path, &rewritten).await.ok();
    let after = world.get(&path).await.ok();
    assert_eq!(after["categories"].as_array().unwrap().len(), 1);
    let items = after["categories"][0]["items"].as_array().unwrap();
    let names: Vec<_> = items.iter().map(|item| item["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["Roti", "Naan", "Paneer Roll"]);
    assert_eq!((&items[1]["item_id"], &items[2]["item_id"]), (&naan, &paneer));
    // An id of another restaurant is a mistake in the body, and nothing of it is written.
    let other = world.restaurant("Somewhere Else").await;
    let foreign = world.first_item(other).await;
    let mixed = json!({"categories": [
        {"name": "New", "items": [{"item_id": foreign, "name": "Stolen", "price": 1}]},
    ]});
    let refused = world.put(&path, &mixed).await;
    assert_eq!(refused.status, 422, "{:?}", refused.body);
    assert_eq!(refused.json()["errors"][0]["field"], "categories[0].items[0].item_id");
    assert_eq!(world.get(&path).await.ok(), after);
}

#[tokio::test]
async fn bad_input_is_named_and_writes_nothing() {
    let world = World::start(1).await;
    let id = world.restaurant("Bombay Bites").await;
    let at = |path: &str| format!("/api/v1/restaurants/{id}{path}");
    let item = world.first_item(id).await;
    let before = world.get(&at("/menu-with-status")).await.ok();
    let with = |field: &str, value: Value| {
        let mut profile = profile("Bombay Bites");
        profile[field] = value;
        profile
    };
    let many =
        json!({"items": vec![json!({"item_id": item, "available": true, "in_stock": true}); 2]});
    for (path, body, field) in [
        (at(""), with("latitude", json!(91)), "latitude"),
        (at(""), with("cuisines", json!([])), "cuisines"),
        (at(""), with("cuisines", json!(["klingon"])), "cuisines[0]"),
        (at(""), with("opening_hours", json!("whenever")), "opening_hours"),
        (at(""), with("time_zone", json!("Mars/Olympus")), "time_zone"),
        (at(""), with("name", json!(" ")), "name"),
        (at(""), with("name", json!("a\u{0}b")), "name"),
        (at(""), with("photos", json!(["http://plain.example/a.jpg"])), "photos[0]"),
        (at(""), with("delivery_fee", json!(-1)), "delivery_fee"),
        (at(""), with("delivery_fee", json!(2.5)), "delivery_fee"),
        (at(""), with("surprise", json!(1)), "surprise"),
        (at("/status"), json!({"status": "sleepy"}), "status"),
        (at("/status"), json!({"status": "open", "current_capacity": -1}), "current_capacity"),
        (at(&format!("/menu/items/{item}/availability")), json!({"available": 1}), "available"),
        (at("/menu/items/availability"), many, "items"),
        (at("/menu/items/availability"), json!({"items": []}), "items"),
        (at("/menu"), json!({"categories": [{"name": ""}]}), "categories[0].name"),
    ] {
        let answer = world.put(&path, &body).await;
        assert_eq!(answer.status, 422, "{path} {body}: {:?}", answer.body);
        assert_eq!(answer.json()["errors"][0]["field"], field, "{path} {body}");
    }
    for path in ["0", "-1", "x", "99999999999999999999", "%00", "1/menu?version=x", "1/menu?v=1"] {
        let answer = world.get(&format!("/api/v1/restaurants/{path}")).await;
        assert!([404, 422].contains(&answer.status), "{path}: {}", answer.status);
    }
    assert_eq!(world.get("/api/v1/restaurants/4711").await.status, 404);
    assert_eq!(world.get("/api/v1/restaurants/4711/menu").await.status, 404);
    assert_eq!(world.get(&at("/menu-with-status")).await.ok(), before);
}

#[tokio::test]
async fn an_operator_changes_own_restaurants_and_sees_no_others() {
    let world = World::start(1).await;
    let id = world.restaurant("Bombay Bites").await;
    let item = world.first_item(id).await;
    let path = format!("/api/v1/restaurants/{id}/menu/items/{item}/availability");
    let body = json!({"available": false, "in_stock": false});
    let put = async |token: &str| {
        world.send(0, "PUT", &path, token, &[], body.to_string().into()).await.status
    };
    assert_eq!(put(&world.operator(&[id + 1, id + 2])).await, 404);
    assert_eq!(put(&world.operator(&[])).await, 404);
    assert_eq!(put(&world.operator(&[id])).await, 200);
    // Who adds a restaurant runs it.
    let adder = world.token(Role::Operator, 77, &[]);
    let body = profile("Own Place").to_string();
    let made = world.send(0, "POST", "/api/v1/restaurants", &adder, &[], body.into()).await;
    assert_eq!(made.status, 201);
    let own = made.json()["restaurant_id"].as_i64().unwrap();
    let path = format!("/api/v1/restaurants/{own}/status");
    let body = Bytes::from_static(br#"{"status":"open"}"#);
    assert_eq!(world.send(0, "PUT", &path, &adder, &[], body.clone()).await.status, 200);
    let other = world.token(Role::Operator, 78, &[]);
    assert_eq!(world.send(0, "PUT", &path, &other, &[], body).await.status, 404);
    // An administrator's or a service's number is nobody's restaurant.
    let service = world.token(Role::Service, 77, &[]);
    let refused = world.send(0, "PUT", &path, &service, &[], Bytes::from_static(b"{}")).await;
    assert_eq!(refused.status, 403);
}
