//! menu-api's answer to an offer: sixty items, a third of them with options, 20 KB. It is read
//! when a menu has changed, and otherwise kept.
//!
//! `offer` is order-api's; the others read the same bytes into the fields that it takes, without
//! the map by item that it then makes.

use std::hint::black_box;

use benches::orders::{menu_with_status_json, offer};
use contracts::{
    ids::{ItemId, RestaurantId},
    money::Money,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use order_api::menus::{self, Options};
use serde::Deserialize;

#[derive(Deserialize)]
#[allow(dead_code, reason = "what is read must be kept until it is dropped")]
struct Document {
    restaurant_id: RestaurantId,
    name: String,
    delivery_fee: Money,
    minimum_order: Money,
    tax_basis_points: u16,
    menu: Menu,
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
#[allow(dead_code, reason = "what is read must be kept until it is dropped")]
struct Item {
    item_id: ItemId,
    name: String,
    price: Money,
    options: Vec<Options>,
    available: bool,
    in_stock: bool,
}

fn items(document: &Document) -> usize {
    document.menu.categories.iter().map(|category| category.items.len()).sum()
}

fn order_menu(c: &mut Criterion) {
    let json = menu_with_status_json();
    let read: Document = serde_json::from_slice(&json).expect("a menu");
    assert_eq!(items(&read), offer().items.len());
    let mut group = c.benchmark_group("order_menu");
    group.throughput(Throughput::Bytes(json.len() as u64));
    group.bench_function("offer", |b| b.iter(|| menus::read(black_box(&json)).expect("a menu")));
    group.bench_function("serde_json", |b| {
        b.iter(|| serde_json::from_slice::<Document>(black_box(&json)).expect("a menu"));
    });
    group.bench_function("sonic", |b| {
        b.iter(|| sonic_rs::from_slice::<Document>(black_box(&json)).expect("a menu"));
    });
    let mut copy = Vec::with_capacity(json.len());
    let mut buffers = simd_json::Buffers::new(json.len());
    group.bench_function("simd", |b| {
        b.iter(|| {
            copy.clear();
            copy.extend_from_slice(black_box(&json));
            let document: Document =
                simd_json::serde::from_slice_with_buffers(&mut copy, &mut buffers).expect("a menu");
            document
        });
    });
}

criterion_group!(benches, order_menu);
criterion_main!(benches);
