//! Bodies that nobody should send: a clear 4xx or a correct write, never a 5xx.

use bytes::Bytes;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::{Value, json};

use crate::world::{World, menu, profile};

const BODIES: usize = 3_000;

/// Something that JSON can hold and a program may stumble over.
fn odd(rng: &mut StdRng) -> Value {
    let all = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(1e300),
        json!(""),
        json!("\u{0}"),
        json!("\u{202e}\u{fffd}"),
        json!("x".repeat(5_000)),
        json!("'; DROP TABLE restaurants; --"),
        json!("24/7 \"comment"),
        json!("Mo-Su 00:00-48:00; week 1-53/2 easter -5 days"),
        json!([]),
        json!([[[]]]),
        json!({}),
        json!({"amount": 1}),
    ];
    all.choose(rng).unwrap().clone()
}

/// Changes one place somewhere in the value.
fn mutate(value: &mut Value, rng: &mut StdRng) {
    match value {
        Value::Object(fields) if !fields.is_empty() && rng.random_bool(0.9) => {
            let name = fields.keys().nth(rng.random_range(0..fields.len())).unwrap().clone();
            match rng.random_range(0..10) {
                0 => {
                    fields.remove(&name);
                }
                1 => {
                    fields.insert("surprise".to_owned(), odd(rng));
                }
                _ => mutate(&mut fields[&name], rng),
            }
        }
        Value::Array(values) if !values.is_empty() && rng.random_bool(0.9) => {
            let at = rng.random_range(0..values.len());
            if rng.random_bool(0.1) {
                let again = values[at].clone();
                values.push(again);
            } else {
                mutate(&mut values[at], rng);
            }
        }
        other => *other = odd(rng),
    }
}

#[tokio::test]
async fn no_body_makes_a_server_error() {
    let world = World::start(1).await;
    let id = world.restaurant("Bombay Bites").await;
    let item = world.first_item(id).await;
    let at = |path: &str| format!("/api/v1/restaurants/{id}{path}");
    let shown = world.get(&at("/menu")).await.ok();
    let category = shown["categories"][0]["category_id"].clone();
    let new_item = json!({"category_id": category, "name": "Roti", "price": 200});
    let availability = json!({"available": true, "in_stock": false});
    let one = |body: &Value| {
        let mut body = body.clone();
        body["item_id"] = json!(item);
        json!({"items": [body]})
    };
    let calls = [
        ("POST", "/api/v1/restaurants".to_owned(), profile("New Place")),
        ("PUT", at(""), profile("Bombay Bites")),
        ("PUT", at("/status"), json!({"status": "busy", "current_capacity": 4})),
        ("PUT", at("/menu"), menu()),
        ("POST", at("/menu/categories"), menu()["categories"][0].clone()),
        ("PUT", at(&format!("/menu/categories/{category}")), json!({"name": "Curry"})),
        ("POST", at("/menu/items"), new_item.clone()),
        ("PUT", at(&format!("/menu/items/{item}")), new_item),
        ("PUT", at("/menu/items/availability"), one(&availability)),
        ("PUT", at(&format!("/menu/items/{item}/availability")), availability),
        ("POST", "/api/v1/operator/cache/invalidate".to_owned(), json!({"keys": ["lists"]})),
    ];
    let seed: u64 = rand::random();
    eprintln!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let (admin, mut refused) = (world.admin(), 0);
    for _ in 0..BODIES {
        let (method, path, body) = calls.choose(&mut rng).unwrap();
        let mut body = body.clone();
        mutate(&mut body, &mut rng);
        let mut bytes = body.to_string().into_bytes();
        if rng.random_bool(0.1) {
            let cut = rng.random_range(0..bytes.len());
            bytes.truncate(cut);
        }
        let sent = Bytes::from(bytes);
        let answer = world.send(0, method, path, &admin, &[], sent.clone()).await;
        assert!(
            answer.status < 500,
            "{method} {path} {sent:?}: {} {:?}",
            answer.status,
            answer.body
        );
        if answer.status >= 400 {
            refused += 1;
            assert_eq!(answer.header("content-type"), "application/problem+json", "{sent:?}");
        }
    }
    assert!(refused > BODIES / 2, "{refused} of {BODIES} were refused: these bodies are no harm");
    // Whatever was taken can be shown.
    for path in ["", "/menu", "/status", "/menu-with-status"] {
        world.get(&at(path)).await.ok();
    }
    world.get("/api/v1/restaurants?page_size=100").await.ok();
}
