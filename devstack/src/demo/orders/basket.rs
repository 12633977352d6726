//! What a customer chooses from a menu: a decision without I/O.

use contracts::{ids::ItemId, money::Money};
use rand::{Rng, seq::IndexedRandom as _};
use serde::{Deserialize, Serialize};

/// Different items of one order.
const LINES_MAX: usize = 3;
/// More of one item than this nobody eats, however high a restaurant's minimum is.
const QUANTITY_MAX: i64 = 20;

/// A restaurant's menu with its status, as far as a customer looks at it.
#[derive(Debug, Deserialize)]
pub(super) struct Page {
    minimum_order: Money,
    status: Status,
    menu: Menu,
}

#[derive(Debug, Deserialize)]
struct Status {
    is_open: bool,
}

#[derive(Debug, Deserialize)]
struct Menu {
    categories: Vec<Category>,
}

#[derive(Debug, Deserialize)]
struct Category {
    items: Vec<Item>,
}

#[derive(Debug, Deserialize)]
struct Item {
    item_id: ItemId,
    price: Money,
    options: Vec<Options>,
    available: bool,
    in_stock: bool,
}

#[derive(Debug, Deserialize)]
struct Options {
    name: String,
    min: usize,
    max: usize,
    choices: Vec<Extra>,
}

#[derive(Debug, Deserialize)]
struct Extra {
    name: String,
    price: i64,
}

/// A line of an order.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Line {
    item_id: ItemId,
    quantity: i64,
    choices: Vec<Choice>,
    /// Nobody wants to pay more than the menu said.
    price_seen: Money,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Choice {
    option: String,
    choice: String,
}

/// One to three items, as many of the first as the restaurant's minimum needs; None when the
/// restaurant is closed or has nothing.
pub(super) fn choose(page: &Page, random: &mut impl Rng) -> Option<Vec<Line>> {
    if !page.status.is_open {
        return None;
    }
    let items = page.menu.categories.iter().flat_map(|category| &category.items);
    let offered: Vec<&Item> = items.filter(|item| item.available && item.in_stock).collect();
    let count = random.random_range(1..=LINES_MAX);
    let chosen: Vec<&Item> = offered.choose_multiple(random, count).copied().collect();
    let mut lines: Vec<Line> = chosen.into_iter().map(|item| line(item, random)).collect();
    let cost: i64 = lines.iter().map(|line| line.price_seen.amount).sum();
    let first = lines.first_mut()?;
    let (missing, price) = (page.minimum_order.amount - cost, first.price_seen.amount.max(1));
    // Rounded up.
    first.quantity += (missing.max(0) + price - 1) / price;
    (first.quantity <= QUANTITY_MAX).then_some(lines)
}

fn line(item: &Item, random: &mut impl Rng) -> Line {
    let mut price_seen = item.price;
    let mut choices = Vec::new();
    for options in &item.options {
        let wanted = random.random_range(options.min..=options.max.max(options.min));
        for extra in options.choices.choose_multiple(random, wanted) {
            price_seen.amount += extra.price;
            choices.push(Choice { option: options.name.clone(), choice: extra.name.clone() });
        }
    }
    Line { item_id: item.item_id, quantity: 1, choices, price_seen }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::SmallRng};
    use serde_json::json;

    use super::*;

    fn page(minimum: i64, is_open: bool) -> Page {
        let item = |id: i64, available: bool, in_stock: bool| {
            json!({
                "item_id": id, "price": {"amount": 500, "currency": "INR"},
                "available": available, "in_stock": in_stock,
                "options": [{"name": "Size", "min": 1, "max": 1, "choices": [
                    {"name": "Small", "price": 0}, {"name": "Large", "price": 200}]}],
            })
        };
        let page = json!({
            "minimum_order": {"amount": minimum, "currency": "INR"},
            "status": {"is_open": is_open},
            "menu": {"categories": [
                {"items": [item(1, true, true), item(2, false, true)]},
                {"items": [item(3, true, false), item(4, true, true), item(5, true, true)]},
            ]},
        });
        serde_json::from_value(page).unwrap()
    }

    #[test]
    fn only_what_is_offered_is_chosen_and_it_is_enough() {
        let page = page(3_000, true);
        let mut sizes = [false; LINES_MAX];
        for seed in 0..100 {
            let lines = choose(&page, &mut SmallRng::seed_from_u64(seed)).unwrap();
            sizes[lines.len() - 1] = true;
            let mut cost = 0;
            for line in &lines {
                assert!([1, 4, 5].contains(&line.item_id.get()), "{line:?}");
                assert_eq!(line.choices.len(), 1, "{line:?}");
                let is_large = line.choices[0].choice == "Large";
                assert_eq!(line.price_seen.amount, if is_large { 700 } else { 500 });
                cost += line.price_seen.amount * line.quantity;
            }
            assert!((3_000..3_700).contains(&cost), "{lines:?}");
        }
        assert_eq!(sizes, [true; LINES_MAX]);
    }

    #[test]
    fn nothing_is_chosen_where_nothing_can_be_had() {
        let random = &mut SmallRng::seed_from_u64(1);
        assert_eq!(choose(&page(0, false), random), None);
        assert_eq!(choose(&page(1_000_000, true), random), None);
        let mut empty = page(0, true);
        empty.menu.categories.clear();
        assert_eq!(choose(&empty, random), None);
    }
}
