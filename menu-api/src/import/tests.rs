use std::io::Write as _;

use chrono::DateTime;
use serde_json::{Value, json};
use sqlx::Row as _;
use tempfile::TempDir;

use super::*;
use crate::{
    generate::{GenerateArgs, restaurants},
    hours::Hours,
};

fn generated(count: u32, items: u32, seed: u64) -> Vec<Record> {
    let args = GenerateArgs { restaurants: count, items, seed, places: None, out: "-".into() };
    restaurants(&args).unwrap().collect()
}

fn lines(records: &[Record]) -> String {
    records.iter().map(|record| serde_json::to_string(record).unwrap() + "\n").collect()
}

async fn import_with(db: &PgPool, name: &str, bytes: &[u8], dry_run: bool) -> Report {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join(name);
    std::fs::write(&file, bytes).unwrap();
    import(db, &ImportArgs { file, format: None, dry_run }).await.unwrap()
}

async fn import_text(db: &PgPool, name: &str, text: &str) -> Report {
    import_with(db, name, text.as_bytes(), false).await
}

#[track_caller]
fn assert_counts(report: &Report, created: u64, updated: u64, unchanged: u64, failed: u64) {
    let Report { created: c, updated: u, unchanged: n, failed: f, .. } = *report;
    assert_eq!((c, u, n, f), (created, updated, unchanged, failed), "{report}");
    assert_eq!(report.exit_code() == ExitCode::SUCCESS, failed == 0);
}

/// Everything that is stored but for ids and times.
async fn contents(db: &PgPool) -> Vec<Value> {
    sqlx::query_scalar(
        "SELECT to_jsonb(r) - ARRAY['restaurant_id', 'created_at', 'updated_at', 'opens_at',
                'closes_at', 'hours_due']
             || jsonb_build_object('categories', (
                 SELECT coalesce(jsonb_agg(to_jsonb(c) - ARRAY['restaurant_id', 'category_id']
                     || jsonb_build_object('items', (
                         SELECT coalesce(jsonb_agg(to_jsonb(i)
                             - ARRAY['restaurant_id', 'category_id', 'item_id']
                             ORDER BY i.position), '[]')
                         FROM menu_items i WHERE i.category_id = c.category_id))
                     ORDER BY c.position), '[]')
                 FROM menu_categories c WHERE c.restaurant_id = r.restaurant_id))
         FROM restaurants r ORDER BY external_id",
    )
    .fetch_all(db)
    .await
    .unwrap()
}

/// `version`, `profile_version`, `menu_version`, `status_version`.
async fn versions(db: &PgPool, external_id: &str) -> [i64; 4] {
    let row = sqlx::query(
        "SELECT version, profile_version, menu_version, status_version FROM restaurants
         WHERE external_id = $1",
    )
    .bind(external_id)
    .fetch_one(db)
    .await
    .unwrap();
    [row.get(0), row.get(1), row.get(2), row.get(3)]
}

/// Versions that caches were told of, in order.
async fn told(db: &PgPool, external_id: &str) -> Vec<(i64, i16)> {
    sqlx::query_as(
        "SELECT c.version, c.parts FROM cache_invalidations c JOIN restaurants USING (restaurant_id)
         WHERE external_id = $1 ORDER BY invalidation_id",
    )
    .bind(external_id)
    .fetch_all(db)
    .await
    .unwrap()
}

/// A file with one restaurant that has everything.
fn full() -> Value {
    json!({
        "restaurant": {
            "external_id": "sf-17", "name": "Golden Wok", "description": "Dim sum, \"all\" day\n",
            "cuisines": ["chinese", "thai"], "price_level": 3, "address": "1 Clement Street",
            "city": "San Francisco", "postal_code": "94118", "country": "US",
            "latitude": 37.7826, "longitude": -122.4611, "time_zone": "America/Los_Angeles",
            "opening_hours": "Tu-Su 11:00-22:00; PH off", "phone": "+14155550100",
            "photos": ["https://photos.example/1.jpg", "https://photos.example/2.jpg"],
            "currency": "USD", "delivery_fee": 299, "minimum_order": 1500, "tax_basis_points": 863
        },
        "status": "busy",
        "menu": {"categories": [
            {"name": "Soups", "description": "Hot", "items": [
                {"name": "Hot and Sour Soup", "description": "Spicy", "price": 650,
                 "photo": "https://photos.example/s.jpg", "allergens": ["soy", "eggs"],
                 "dietary": ["spicy"], "preparation_minutes": 20, "available": true,
                 "in_stock": false},
                {"name": "Wonton Soup", "price": 900}]},
            {"name": "Tea", "items": []}]}
    })
}

const CSV: &str = "\
external_id,name,description,cuisines,price_level,address,city,postal_code,country,latitude,longitude,time_zone,opening_hours,phone,photos,currency,delivery_fee,minimum_order,tax_basis_points,status,category,category_description,item,item_description,price,photo,allergens,dietary,preparation_minutes,available,in_stock
sf-17,Golden Wok,\"Dim sum, \"\"all\"\" day\n\",chinese | thai,3,1 Clement Street,San Francisco,94118,US,37.7826,-122.4611,America/Los_Angeles,Tu-Su 11:00-22:00; PH off,+14155550100,https://photos.example/1.jpg|https://photos.example/2.jpg,USD,299,1500,863,busy,Soups,Hot,Hot and Sour Soup,Spicy,650,https://photos.example/s.jpg,soy|eggs,spicy,20,true,false
sf-17,,,,,,,,,,,,,,,,,,,,Tea,,,,,,,,,,
sf-17,Golden Wok,,,,,,,,,,,,,,,,,,,Soups,,Wonton Soup,,900,,,,,,
";

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn all_forms_mean_the_same(db: PgPool) {
    let line = full().to_string();
    assert_counts(&import_text(&db, "a.jsonl", &format!("\n{line}\n\n")).await, 1, 0, 0, 0);
    let first = contents(&db).await;
    assert_eq!(first[0]["cuisines"], json!(["chinese", "thai"]));
    assert_eq!(first[0]["categories"][0]["items"][0]["price"], 650);
    assert_eq!(first[0]["menu_words"], "Soups Hot and Sour Soup Wonton Soup Tea");
    let place = h3o::LatLng::new(37.7826, -122.4611).unwrap();
    let cell = u64::from(place.to_cell(h3o::Resolution::Seven));
    assert_eq!(first[0]["h3_cell"], json!(cell));

    let array = format!(" [\r\n{:#}\n,{}]\n ", full(), json!({"restaurant": null}));
    let report = import_text(&db, "a.json", &array).await;
    assert_counts(&report, 0, 0, 1, 1);

    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(b"\xef\xbb\xbf").unwrap();
    packed.write_all(line.as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    assert_counts(&import_with(&db, "a.NDJSON.gz", &packed, false).await, 0, 0, 1, 0);

    // Cells are trimmed.
    let trimmed = line.replace("day\\n", "day");
    assert_counts(&import_text(&db, "a.json", &trimmed).await, 0, 1, 0, 0);
    let report = import_text(&db, "a.csv", CSV).await;
    assert_counts(&report, 0, 0, 1, 0);
    let reversed = CSV.replace('\n', "\r\n").replace("day\r\n", "day");
    assert_counts(&import_text(&db, "a.csv", &format!("\u{feff}{reversed}")).await, 0, 0, 1, 0);
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn again_changes_nothing(db: PgPool) {
    // More than two batches.
    let records = generated(230, 9, 5);
    let text = lines(&records);
    assert_counts(&import_text(&db, "a.jsonl", &text).await, 230, 0, 0, 0);
    let before = contents(&db).await;
    assert_eq!(before.len(), 230);
    assert_eq!(versions(&db, "gen-5-117").await, [1; 4]);
    assert_eq!(told(&db, "gen-5-117").await, [(1, 15)]);

    assert_counts(&import_text(&db, "a.jsonl", &text).await, 0, 0, 230, 0);
    assert_eq!(contents(&db).await, before);
    assert_eq!(told(&db, "gen-5-117").await, [(1, 15)]);
    let history: i64 =
        sqlx::query_scalar("SELECT count(*) FROM menu_history").fetch_one(&db).await.unwrap();
    assert_eq!(history, 0);

    // What is stored is what was described.
    for (stored, record) in before.iter().map(|stored| {
        let id = stored["external_id"].as_str();
        let record = records.iter().find(|record| record.restaurant.external_id.as_deref() == id);
        (stored, record.unwrap())
    }) {
        let described = serde_json::to_value(&record.restaurant).unwrap();
        for (field, value) in described.as_object().unwrap() {
            assert_eq!(&stored[field], value, "{field}");
        }
        assert_eq!(stored["status"], serde_json::to_value(record.status).unwrap());
        let menu = record.menu.as_ref().unwrap();
        for (stored, category) in
            stored["categories"].as_array().unwrap().iter().zip(&menu.categories)
        {
            assert_eq!(stored["items"].as_array().unwrap().len(), category.items.len());
            for (stored, item) in stored["items"].as_array().unwrap().iter().zip(&category.items) {
                let item = serde_json::to_value(item).unwrap();
                for (field, value) in item.as_object().unwrap() {
                    assert_eq!(&stored[field], value, "{field}");
                }
            }
        }
    }
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn only_what_changed_gets_a_version(db: PgPool) {
    let import = async |file: &Value| {
        let report = import_text(&db, "a.json", &file.to_string()).await;
        assert_counts(&report, 0, 1, 0, 0);
    };
    import_text(&db, "a.json", &full().to_string()).await;
    let ids = async || -> Vec<(String, i64, i64)> {
        sqlx::query_as("SELECT name, item_id, since_version FROM menu_items ORDER BY name")
            .fetch_all(&db)
            .await
            .unwrap()
    };
    let before = ids().await;

    // An item's price.
    let mut file = full();
    file["menu"]["categories"][0]["items"][1]["price"] = json!(950);
    import(&file).await;
    assert_eq!(versions(&db, "sf-17").await, [2, 1, 2, 1]);
    let after = ids().await;
    assert_eq!(after[0], before[0]);
    assert_eq!(after[1], ("Wonton Soup".into(), before[1].1, 2));
    let was: Vec<(bool, i64, i64, i64)> = sqlx::query_as(
        "SELECT is_item, since_version, until_version, (was->>'price')::bigint FROM menu_history",
    )
    .fetch_all(&db)
    .await
    .unwrap();
    assert_eq!(was, [(true, 1, 2, 900)]);

    // Its name: another item. The category of tea goes, one of rice comes, with its first item.
    file["menu"]["categories"][0]["items"][1]["name"] = json!("Noodle Soup");
    file["menu"]["categories"][1] =
        json!({"name": "Rice", "items": [{"name": "Fried", "price": 1}]});
    import(&file).await;
    assert_eq!(versions(&db, "sf-17").await, [3, 1, 3, 1]);
    let stored = contents(&db).await.remove(0);
    let menu = &stored["categories"];
    assert_eq!((&menu[0]["name"], &menu[0]["since_version"]), (&json!("Soups"), &json!(1)));
    assert_eq!(menu[0]["items"][1]["name"], "Noodle Soup");
    assert_eq!(menu[0]["items"][1]["since_version"], 3);
    assert_eq!((&menu[1]["name"], &menu[1]["since_version"]), (&json!("Rice"), &json!(3)));
    assert_eq!(menu[1]["items"][0]["name"], "Fried");
    assert!(menu[2].is_null());
    assert_eq!(stored["menu_words"], "Soups Hot and Sour Soup Noodle Soup Rice Fried");

    // Another name, another status, other hours, another currency.
    file["restaurant"]["name"] = json!("Golden Wok II");
    import(&file).await;
    assert_eq!(versions(&db, "sf-17").await, [4, 4, 3, 1]);
    file["status"] = json!("open");
    import(&file).await;
    assert_eq!(versions(&db, "sf-17").await, [5, 4, 3, 5]);
    file["restaurant"]["opening_hours"] = json!("24/7");
    import(&file).await;
    assert_eq!(versions(&db, "sf-17").await, [6, 6, 3, 6]);
    file["restaurant"]["currency"] = json!("EUR");
    import(&file).await;
    assert_eq!(versions(&db, "sf-17").await, [7, 7, 7, 6]);

    // Without a status and a menu these stay.
    let stored = contents(&db).await;
    let only = json!({"restaurant": file["restaurant"]});
    let report = import_text(&db, "a.json", &only.to_string()).await;
    assert_counts(&report, 0, 0, 1, 0);
    assert_eq!(contents(&db).await, stored);
    let told = told(&db, "sf-17").await;
    assert_eq!(told, (1..=7).map(|version| (version, 15)).collect::<Vec<_>>());
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn the_next_opening_is_noted(db: PgPool) {
    let mut never = full();
    never["restaurant"]["external_id"] = json!("never");
    never["restaurant"]["opening_hours"] = json!("off");
    never["menu"] = Value::Null;
    let file = format!("{}\n{never}\n", full());
    let before = Utc::now();
    assert_counts(&import_text(&db, "a.jsonl", &file).await, 2, 0, 0, 0);
    type Noted = (Option<DateTime<Utc>>, Option<DateTime<Utc>>, bool);
    let open: Vec<Noted> = sqlx::query_as(
        "SELECT opens_at, closes_at, hours_due = coalesce(closes_at, created_at) FROM restaurants
         ORDER BY external_id",
    )
    .fetch_all(&db)
    .await
    .unwrap();
    assert_eq!(open[0], (None, None, true));
    let hours = Hours::parse("Tu-Su 11:00-22:00; PH off", "America/Los_Angeles", "US").unwrap();
    let expected = [before, Utc::now()].map(|now| hours.interval(now).unwrap());
    let found = (open[1].0.unwrap(), open[1].1.unwrap());
    assert!(expected.contains(&found) && open[1].2, "{found:?}, not one of {expected:?}");
    assert_eq!(contents(&db).await[0]["menu_words"], "");
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn nothing_is_written_when_dry(db: PgPool) {
    let mut records = generated(3, 4, 1);
    import_text(&db, "a.jsonl", &lines(&records[..2])).await;
    let before = contents(&db).await;
    records[1].restaurant.name = "Other".into();
    let text = lines(&records) + "{}\n";
    let report = import_with(&db, "a.jsonl", text.as_bytes(), true).await;
    assert_counts(&report, 1, 1, 1, 1);
    assert!(report.to_string().ends_with("1 failed; nothing was written"), "{report}");
    assert_eq!(contents(&db).await, before);
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn what_the_database_refuses_fails_alone_and_wholly(db: PgPool) {
    for statement in [
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN RAISE EXCEPTION 'refused'; END $$",
        "CREATE TRIGGER refuse BEFORE INSERT ON menu_items FOR EACH ROW
         WHEN (NEW.name = 'Refused') EXECUTE FUNCTION refuse()",
    ] {
        sqlx::query(statement).execute(&db).await.unwrap();
    }
    let mut records = generated(5, 6, 1);
    import_text(&db, "a.jsonl", &lines(&records[2..3])).await;
    let before = contents(&db).await;
    // One that is new and one that is known.
    for refused in [1, 2] {
        let record = &mut records[refused];
        record.restaurant.name = "Refused".into();
        record.menu.as_mut().unwrap().categories[1].items[0].name = "Refused".into();
    }
    let report = import_text(&db, "a.jsonl", &lines(&records)).await;
    assert_counts(&report, 3, 0, 0, 2);
    assert_eq!(report.failures[0].to_string(), "line 2, gen-1-2: refused");
    assert_eq!(report.failures[1].to_string(), "line 3, gen-1-3: refused");
    let after = contents(&db).await;
    let names: Vec<_> = after.iter().map(|stored| stored["external_id"].clone()).collect();
    assert_eq!(names, ["gen-1-1", "gen-1-3", "gen-1-4", "gen-1-5"]);
    assert_eq!(after[1], before[0]);
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn two_imports_at_once_agree(db: PgPool) {
    let text = lines(&generated(150, 5, 1));
    let (one, other) =
        tokio::join!(import_text(&db, "a.jsonl", &text), import_text(&db, "b.jsonl", &text));
    assert_eq!((one.failed, other.failed), (0, 0), "{one}\n{other}");
    assert_eq!(one.created + other.created, 150);
    assert_eq!(one.unchanged + other.unchanged, 150);
    assert_eq!(contents(&db).await.len(), 150);
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn an_import_waits_for_an_operator_and_sees_what_was_written(db: PgPool) {
    import_text(&db, "a.json", &full().to_string()).await;
    let mut operator = db.begin().await.unwrap();
    sqlx::query("UPDATE restaurants SET version = 2, status_version = 2, status = 'closed'")
        .execute(&mut *operator)
        .await
        .unwrap();
    let text = full().to_string();
    let import = import_text(&db, "a.json", &text);
    let commit = async {
        let waiting = "SELECT count(*) FROM pg_stat_activity
                       WHERE wait_event_type = 'Lock' AND datname = current_database()";
        while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&db).await.unwrap() == 0 {
            tokio::task::yield_now().await;
        }
        operator.commit().await.unwrap();
    };
    let (report, ()) = tokio::join!(import, commit);
    assert_counts(&report, 0, 1, 0, 0);
    assert_eq!(versions(&db, "sf-17").await, [3, 1, 1, 3]);
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn what_is_wrong_in_json_is_said_with_its_line(db: PgPool) {
    let with = |pointer: &str, value: Value| {
        let mut file = full();
        *file.pointer_mut(pointer).unwrap() = value;
        file["restaurant"]["external_id"] = json!("bad");
        file.to_string()
    };
    let cases = [
        ("{".into(), "line 2: is not JSON: EOF while parsing an object (line 2, column 1)"),
        ("nonsense".into(), "line 2: is not JSON: expected ident (line 2, column 2)"),
        ("{}".into(), "line 2: missing field `restaurant`"),
        (
            with("/restaurant/cuisines/1", json!("martian")),
            "line 2, bad: restaurant.cuisines[1]: unknown variant `martian`, expected one of",
        ),
        (
            with("/restaurant/price_level", json!(9)),
            "line 2, bad: restaurant.price_level: must be between 1 and 4",
        ),
        (
            with("/restaurant/opening_hours", json!("9am-5pm")),
            "line 2, bad: restaurant.opening_hours: is not understood from \"9am-5pm\" on",
        ),
        (
            with("/menu/categories/0/items/1/price", json!(-1)),
            "line 2, bad: menu.categories[0].items[1].price: must be between 0 and",
        ),
        (
            with("/menu/categories/0/items/1/price", json!("9")),
            "line 2, bad: menu.categories[0].items[1].price: invalid type: string",
        ),
        (
            with("/menu/categories/0/items/1", json!({"name": "a", "price": 1, "cost": 2})),
            "line 2, bad: menu.categories[0].items[1].cost: unknown field `cost`",
        ),
        (
            with("/menu/categories/0/items/1", json!({"item_id": 7, "name": "a", "price": 1})),
            "line 2, bad: menu.categories[0].items[1].item_id: cannot be given",
        ),
        (
            with("/menu/categories/1", json!({"category_id": 7, "name": "a"})),
            "line 2, bad: menu.categories[1].category_id: cannot be given",
        ),
        (with("/status", json!("shut")), "line 2, bad: status: unknown variant `shut`"),
        (
            with("/restaurant", json!({"external_id": null})),
            "line 2, bad: restaurant: missing field `name`",
        ),
        (
            with("/restaurant/name", json!("Twice")).replace("\"bad\"", "\"good\""),
            "line 2, good: external_id: is on line 1 already",
        ),
        (
            with("/restaurant/name", json!("x")).replace("\"external_id\":\"bad\",", ""),
            "line 2: restaurant.external_id: is needed",
        ),
        ("\u{1}".into(), "line 2: is not JSON"),
    ];
    let good = full().to_string().replace("sf-17", "good");
    for (bad, message) in cases {
        let text = format!("{good}\n{bad}\n{}\n", good.replace("good", "last"));
        let report = import_with(&db, "a.jsonl", text.as_bytes(), true).await;
        assert_eq!((report.created, report.failures.len()), (2, 1), "{report}");
        assert!(report.failures[0].to_string().starts_with(message), "{report}");
    }

    // An array ends where it cannot be read; lines are those of the elements.
    let bad = with("/restaurant/price_level", json!(9));
    let cases = [
        (format!("[\n{good},\n\n{bad}\n]"), 1, "line 4, bad: restaurant.price_level: must be"),
        (format!("[{good}\n\n"), 1, "line 3: ends within the array"),
        (format!("[{good}\n{good}]"), 1, "line 2: must have a comma between restaurants"),
        (format!("[{good},\n]"), 1, "line 2: must have a restaurant here"),
        (format!("[{good},\n\"a\"]"), 1, "line 2: must have a restaurant here"),
        (format!("[{good}]\n,"), 1, "line 2: must have nothing after"),
        (format!("[{good},\n{{\"a\":[\n"), 1, "line 2: has no end"),
        (
            format!("[{good},\n{{\n\n\"status\" 1}}]"),
            1,
            "line 2: is not JSON: expected `:` (line 4, column 10)",
        ),
        ("[\n]".into(), 0, ""),
        (String::new(), 0, ""),
    ];
    for (text, created, message) in cases {
        let report = import_with(&db, "a.json", text.as_bytes(), true).await;
        assert_eq!(report.created, created, "{text}: {report}");
        assert_eq!(report.failures.len(), usize::from(!message.is_empty()), "{report}");
        for failure in &report.failures {
            assert!(failure.to_string().starts_with(message), "{failure}");
        }
    }
    assert!(contents(&db).await.is_empty());
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn what_is_wrong_in_csv_is_said_with_its_line(db: PgPool) {
    let header = CSV.lines().next().unwrap();
    let column = |name: &str| header.split(',').position(|one| one == name).unwrap();
    let row = |id: &str, changes: &[(&str, &str)]| {
        let mut cells: Vec<String> = vec![
            id, "Name", "", "thai", "", "Street", "Town", "", "US", "1", "2", "UTC", "24/7", "",
            "", "USD", "", "", "", "", "Soups", "", "Soup", "", "5", "", "", "", "", "", "",
        ]
        .into_iter()
        .map(Into::into)
        .collect();
        for (name, value) in changes {
            cells[column(name)] = (*value).into();
        }
        cells.join(",")
    };
    let cases: [(&[(&str, &str)], &str); 15] = [
        (&[("price", "5.50")], "price: must be a whole number of minor units, not \"5.50\""),
        (&[("price", "-5")], "price: must be between 0 and"),
        (&[("price", "")], "price: must be a whole number"),
        (&[("latitude", "north")], "latitude: must be a number of degrees, not \"north\""),
        (&[("longitude", "NaN")], "longitude: must be between -180 and 180"),
        (&[("cuisines", "thai|martian")], "cuisines: unknown variant `martian`"),
        (&[("cuisines", "")], "cuisines: must name one to nine"),
        (&[("allergens", "air")], "allergens: unknown variant `air`"),
        (&[("available", "maybe")], "available: must be true or false, not \"maybe\""),
        (&[("currency", "usd")], "currency: must be an ISO 4217 code"),
        (&[("category", "")], "category: must be named where there is an item"),
        (&[("item", "")], "item: must be named where the row describes one"),
        (&[("photo", "http://a")], "photo: must be an https:// address"),
        (&[("opening_hours", "x")], "opening_hours: is not understood"),
        (&[("status", "shut")], "status: unknown variant `shut`"),
    ];
    for (changes, message) in cases {
        let good = (row("first", &[]), row("last", &[]));
        let text = format!("{header}\n{}\n{}\n{}\n", good.0, row("bad", changes), good.1);
        let report = import_with(&db, "a.csv", text.as_bytes(), true).await;
        assert_eq!((report.created, report.failures.len()), (2, 1), "{report}");
        let message = format!("line 3, bad: {message}");
        assert!(report.failures[0].to_string().starts_with(&message), "{report}");
    }

    // Several rows of one restaurant: all that is wrong, and nothing is imported of it.
    let text = [
        header.into(),
        row("a", &[]),
        row("a", &[("item", "Two"), ("price", "x")]),
        row("a", &[("item", "Three"), ("name", "Other")]),
        "a,b".into(),
        row("", &[("item", "Four")]),
        row("b", &[]),
        row("a", &[("item", "Five")]),
    ];
    let report = import_text(&db, "a.csv", &text.join("\n")).await;
    assert_counts(&report, 1, 0, 0, 2);
    let found: Vec<_> = report.failures.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "line 3, a: price: must be a whole number of minor units, not \"x\"",
            "line 4, a: name: must be empty or the same as on line 2",
            "line 5, a: must have 31 cells like the first line, not 2",
            "line 6, a: external_id: must be on every row",
            "line 8, a: external_id: is on line 3 already; all of it must be in one place",
        ]
    );
    let names: Vec<String> =
        sqlx::query_scalar("SELECT external_id FROM restaurants").fetch_all(&db).await.unwrap();
    assert_eq!(names, ["b"]);

    // Files that are no such table.
    for (text, message) in [
        (String::new(), "line 1: has no line of column names"),
        (header.replace("name,", "names,"), "line 1: has a column \"names\""),
        (header.replace("phone", "city"), "line 1: has the column city twice"),
        (header.replace("latitude,", ""), "line 1: has no column latitude"),
        (format!("{header}\n\"a"), "line 2, a: must have 31 cells"),
    ] {
        let report = import_with(&db, "a.csv", text.as_bytes(), true).await;
        assert_eq!(report.failures.len(), 1, "{report}");
        assert!(report.failures[0].to_string().starts_with(message), "{report}");
    }
    let latin = format!("{header}\n{}", row("c", &[("name", "Cafe\u{1}")]));
    let latin: Vec<u8> = latin.bytes().map(|byte| if byte == 1 { 0xe9 } else { byte }).collect();
    let report = import_with(&db, "a.csv", &latin, true).await;
    assert_eq!(report.failures[0].to_string(), "line 2, c: name: must be UTF-8");
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn a_file_that_cannot_be_read_is_an_error(db: PgPool) {
    let args = |file: &str| ImportArgs { file: file.into(), format: None, dry_run: false };
    let error = import(&db, &args("/nowhere/a.json")).await.unwrap_err();
    assert!(error.to_string().contains("/nowhere/a.json cannot be opened"), "{error}");
    let error = import(&db, &args("/nowhere/a.txt")).await.unwrap_err();
    assert!(error.to_string().contains("say --format csv or json"), "{error}");

    // Packed data that is cut off: what came before is imported.
    let text = lines(&generated(40, 20, 1));
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(text.as_bytes()).unwrap();
    let packed = packed.finish().unwrap();
    let report = import_with(&db, "a.jsonl.gz", &packed[..packed.len() / 2], false).await;
    assert!(report.created > 5 && report.created < 35, "{report}");
    assert!(report.failures[0].message.starts_with("cannot be read: "), "{report}");
    assert_eq!(report.failed, 1);
}
