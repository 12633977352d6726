//! Lists: filters, search with mistakes, places, pages, and that they follow changes.

use serde_json::{Value, json};

use crate::world::{World, profile};

/// Names in the order of the list.
fn names(page: &Value) -> Vec<&str> {
    let restaurants = page["restaurants"].as_array().unwrap();
    restaurants.iter().map(|restaurant| restaurant["name"].as_str().unwrap()).collect()
}

async fn add(world: &World, name: &str, changes: Value) -> i64 {
    let mut profile = profile(name);
    for (field, value) in changes.as_object().unwrap() {
        profile[field] = value.clone();
    }
    let made = world.post("/api/v1/restaurants", &profile).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    made.json()["restaurant_id"].as_i64().unwrap()
}

async fn town(world: &World) -> [i64; 4] {
    let bombay = world.restaurant("Bombay Bites").await;
    let luigi = add(
        world,
        "Luigi's Trattoria",
        json!({"cuisines": ["italian"], "city": "Oakland", "latitude": 37.8044, "longitude": -122.2712}),
    )
    .await;
    let sushi = add(
        world,
        "Sushi Zen",
        json!({"cuisines": ["japanese"], "latitude": 37.7850, "longitude": -122.4100,
               "opening_hours": "off"}),
    )
    .await;
    let menu = json!({"categories": [{"name": "Pizza", "items": [
        {"name": "Margherita", "price": 1200}, {"name": "Quattro Formaggi", "price": 1500},
    ]}]});
    world.put(&format!("/api/v1/restaurants/{luigi}/menu"), &menu).await.ok();
    let taco = add(world, "Taco Tempo", json!({"cuisines": ["mexican", "american"]})).await;
    for id in [luigi, sushi] {
        world
            .put(&format!("/api/v1/restaurants/{id}/status"), &json!({"status": "open"}))
            .await
            .ok();
    }
    sqlx::query("UPDATE restaurants SET rating = 4.5, rating_count = 2 WHERE restaurant_id = $1")
        .bind(luigi)
        .execute(&world.db())
        .await
        .unwrap();
    [bombay, luigi, sushi, taco]
}

#[tokio::test]
async fn filters_choose_and_pages_cut() {
    let world = World::start(1).await;
    let [..] = town(&world).await;
    for (query, expected) in [
        ("", vec!["Luigi's Trattoria", "Bombay Bites", "Sushi Zen", "Taco Tempo"]),
        ("cuisine_type=american", vec!["Taco Tempo"]),
        ("status=open", vec!["Luigi's Trattoria", "Bombay Bites", "Sushi Zen"]),
        ("open_now=true", vec!["Luigi's Trattoria", "Bombay Bites"]),
        ("min_rating=4", vec!["Luigi's Trattoria"]),
        ("city=OAKLAND", vec!["Luigi's Trattoria"]),
        ("q=sushi", vec!["Sushi Zen"]),
        ("q=marg", vec!["Luigi's Trattoria"]),
        ("q=masala&status=open", vec!["Bombay Bites"]),
        ("q=pizza%20luigi", vec!["Luigi's Trattoria"]),
        ("near=37.7936,-122.3958&radius=2500", vec!["Bombay Bites", "Taco Tempo", "Sushi Zen"]),
        ("near=37.7936,-122.3958&radius=50000&cuisine_type=italian", vec!["Luigi's Trattoria"]),
        ("page=2&page_size=3", vec!["Taco Tempo"]),
        ("page=9&page_size=3", vec![]),
    ] {
        let page = world.get(&format!("/api/v1/restaurants?{query}")).await.ok();
        assert_eq!(names(&page), expected, "{query}");
        let total = if query.starts_with("page") { 4 } else { expected.len() };
        assert_eq!(page["total"], total, "{query}");
    }
    let near = world.get("/api/v1/restaurants?near=37.7936,-122.3958").await.ok();
    let distances: Vec<f64> = near["restaurants"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["distance"].as_f64().unwrap())
        .collect();
    // From one to the other by the haversine formula: 1,575 m.
    assert_eq!(distances[..2], [0.0, 0.0]);
    assert!((1_500.0..1_650.0).contains(&distances[2]), "{distances:?}");
}

#[tokio::test]
async fn misspelt_words_are_read_as_those_spelt_alike() {
    let world = World::start(1).await;
    town(&world).await;
    for (typed, found, meant) in [
        ("pizzza", "Luigi's Trattoria", "pizza"),
        ("margerita", "Luigi's Trattoria", "margherita"),
        ("suhsi", "Sushi Zen", "sushi"),
        ("bombey bites", "Bombay Bites", "bombay bites"),
    ] {
        let page =
            world.get(&format!("/api/v1/restaurants?q={}", typed.replace(' ', "%20"))).await.ok();
        assert_eq!(names(&page), [found], "{typed}");
        assert_eq!(page["corrected_query"], meant, "{typed}");
    }
    // What a form sends for fields that nobody filled in.
    let all = world.get("/api/v1/restaurants?page=1").await.ok();
    let form = "/api/v1/restaurants?q=&cuisine_type=&city=&min_rating=&page=1";
    assert_eq!(world.get(form).await.ok(), all);
    let page = world.get("/api/v1/restaurants?q=xylophone").await.ok();
    assert_eq!((page["total"].as_i64(), page.get("corrected_query")), (Some(0), None));
}

#[tokio::test]
async fn a_list_is_kept_and_follows_each_change() {
    let world = World::start(2).await;
    let [bombay, ..] = town(&world).await;
    let open = "/api/v1/restaurants?open_now=true&city=san%20francisco";
    assert_eq!(names(&world.get(open).await.ok()), ["Bombay Bites"]);
    assert_eq!(world.get(open).await.header("x-cache"), "hit");
    assert_eq!(world.get_from(1, open).await.header("x-cache"), "shared");
    let path = format!("/api/v1/restaurants/{bombay}/status");
    for (status, expected) in [("closed", vec![]), ("busy", vec!["Bombay Bites"])] {
        world.put(&path, &json!({"status": status})).await.ok();
        for node in [1, 0] {
            assert_eq!(names(&world.get_from(node, open).await.ok()), expected, "{status} {node}");
        }
    }
    // A new dish is found at once.
    let found = "/api/v1/restaurants?q=vindaloo";
    assert_eq!(world.get_from(1, found).await.ok()["total"], 0);
    let item = json!({"name": "Vindaloo", "items": [{"name": "Lamb Vindaloo", "price": 1600}]});
    let path = format!("/api/v1/restaurants/{bombay}/menu/categories");
    assert_eq!(world.post(&path, &item).await.status, 201);
    assert_eq!(names(&world.get_from(1, found).await.ok()), ["Bombay Bites"]);
}

#[tokio::test]
async fn parameters_out_of_range_are_named() {
    let world = World::start(1).await;
    for (query, field) in [
        ("page=0", "page"),
        ("page=10001", "page"),
        ("page_size=101", "page_size"),
        ("min_rating=6", "min_rating"),
        ("min_rating=NaN", "min_rating"),
        ("near=1", "near"),
        ("near=91,0", "near"),
        ("near=NaN,0", "near"),
        ("near=0,0&radius=-1", "radius"),
        ("near=0,0&radius=inf", "radius"),
        ("radius=5", "radius"),
        ("q=%2C%3B", "q"),
        ("cuisine_type=klingon", "cuisine_type"),
        ("open_now=maybe", "open_now"),
        ("surprise=1", "surprise"),
    ] {
        let answer = world.get(&format!("/api/v1/restaurants?{query}")).await;
        assert_eq!(answer.status, 422, "{query}: {:?}", answer.body);
        assert_eq!(answer.json()["errors"][0]["field"], field, "{query}");
    }
    // Words are words, whatever they spell to a database.
    for query in ["q=%27%20OR%201%3D1%20--", "q=a%26%7C%21b", "q=%3A%2A", "city=%27%3B%20DROP"] {
        let answer = world.get(&format!("/api/v1/restaurants?{query}")).await;
        assert!([200, 422].contains(&answer.status), "{query}: {}", answer.status);
    }
}
