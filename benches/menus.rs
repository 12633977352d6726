//! A menu of sixty items as it is sent, the same at every run.

use std::{sync::Arc, time::Duration};

use contracts::ids::RestaurantId;
use menu_api::{
    document::{Body, Document, Key, Kind},
    generate::{self, GenerateArgs},
};

/// JSON of about the size that a menu of sixty items has.
///
/// # Panics
/// When the generator makes nothing.
pub fn menu_json() -> Vec<u8> {
    let args = GenerateArgs { restaurants: 1, items: 60, seed: 1, places: None, out: "-".into() };
    let record = generate::restaurants(&args).expect("no file is read").next();
    serde_json::to_vec(&record.expect("one restaurant").menu).expect("a menu is JSON")
}

/// A document that is fresh for an hour.
pub fn document(version: i64, body: Vec<u8>) -> Arc<Document> {
    Arc::new(Document::new(version, Body::new(body.into()), Duration::from_secs(3_600)))
}

/// The key of a restaurant's menu.
///
/// # Panics
/// When the id is not positive.
pub fn key(id: i64) -> Key {
    Key::Document(RestaurantId::new(id).expect("a positive id"), Kind::Menu)
}
