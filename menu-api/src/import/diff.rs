//! What has to be written so that a stored menu becomes another.

use rustc_hash::FxHashMap;

use super::stored::StoredCategory;
use crate::menu::{NewCategory, NewItem, NewMenu};

/// Rows to write; those that are right already are not among them.
#[derive(Default)]
pub(super) struct MenuChange<'a> {
    /// With their positions.
    pub(super) new_categories: Vec<(i32, &'a NewCategory)>,
    /// With their ids and positions.
    pub(super) changed_categories: Vec<(i64, i32, &'a NewCategory)>,
    pub(super) gone_categories: Vec<i64>,
    /// With their categories and positions.
    pub(super) new_items: Vec<(Place, i32, &'a NewItem)>,
    /// With their ids and positions.
    pub(super) changed_items: Vec<(i64, i32, &'a NewItem)>,
    pub(super) gone_items: Vec<i64>,
}

/// Where a new item goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Into this category.
    Stored(i64),
    /// Into the new category at this position.
    New(i32),
}

impl<'a> MenuChange<'a> {
    /// Finds categories again by their names, and items by their names within a category; the
    /// second of a name is the second of that name.
    pub(super) fn between(stored: &[StoredCategory], menu: &'a NewMenu) -> Self {
        let mut change = Self::default();
        let mut known = by_name(stored, |category| &category.name);
        let names = menu.categories.iter().map(|category| &*category.name);
        for (position, (name, category)) in (0..).zip(numbered(names).zip(&menu.categories)) {
            let Some(before) = known.remove(&name) else {
                change.new_categories.push((position, category));
                let place = Place::New(position);
                change.new_items.extend((0..).zip(&category.items).map(|(n, i)| (place, n, i)));
                continue;
            };
            if before.position != position || before.description != category.description {
                change.changed_categories.push((before.id, position, category));
            }
            change.items(before, category);
        }
        change.gone_categories = known.values().map(|category| category.id).collect();
        // By themselves, so that what refers to a category is gone before it is.
        let left = known.values().flat_map(|category| &category.items);
        change.gone_items.extend(left.map(|item| item.id));
        change
    }

    fn items(&mut self, before: &StoredCategory, category: &'a NewCategory) {
        let mut known = by_name(&before.items, |stored| &stored.item.name);
        let names = category.items.iter().map(|item| &*item.name);
        for (position, (name, item)) in (0..).zip(numbered(names).zip(&category.items)) {
            match known.remove(&name) {
                None => self.new_items.push((Place::Stored(before.id), position, item)),
                Some(stored) if stored.position != position || stored.item != *item => {
                    self.changed_items.push((stored.id, position, item));
                }
                Some(_) => {}
            }
        }
        self.gone_items.extend(known.values().map(|stored| stored.id));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.new_categories.is_empty()
            && self.changed_categories.is_empty()
            && self.gone_categories.is_empty()
            && self.new_items.is_empty()
            && self.changed_items.is_empty()
            && self.gone_items.is_empty()
    }
}

/// A name, and how many of the same were before it.
type Numbered<'n> = (&'n str, usize);

fn numbered<'n>(names: impl Iterator<Item = &'n str>) -> impl Iterator<Item = Numbered<'n>> {
    let mut seen: FxHashMap<&str, usize> = FxHashMap::default();
    names.map(move |name| {
        let count = seen.entry(name).or_default();
        *count += 1;
        (name, *count - 1)
    })
}

fn by_name<T>(all: &[T], name: impl Fn(&T) -> &String) -> FxHashMap<Numbered<'_>, &T> {
    let names: Vec<&str> = all.iter().map(|one| name(one).as_str()).collect();
    numbered(names.into_iter()).zip(all).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(name: &str, price: i64) -> NewItem {
        serde_json::from_value(serde_json::json!({"name": name, "price": price})).unwrap()
    }

    fn menu(categories: &[(&str, &[(&str, i64)])]) -> NewMenu {
        let categories = categories.iter().map(|(name, items)| NewCategory {
            category_id: None,
            name: (*name).into(),
            description: String::new(),
            items: items.iter().map(|(name, price)| item(name, *price)).collect(),
        });
        NewMenu { categories: categories.collect() }
    }

    /// Categories get the ids 1, 2 and so on, their items 10, 11; 20, 21.
    fn stored(menu: &NewMenu) -> Vec<StoredCategory> {
        let categories = (1..).zip(&menu.categories).map(|(id, category)| StoredCategory {
            id,
            name: category.name.clone(),
            description: category.description.clone(),
            position: i32::try_from(id).unwrap() - 1,
            items: (0..)
                .zip(&category.items)
                .map(|(n, item)| StoredItem {
                    id: id * 10 + i64::from(n),
                    position: n,
                    item: item.clone(),
                })
                .collect(),
        });
        categories.collect()
    }

    use super::super::stored::StoredItem;

    #[test]
    fn the_same_menu_is_no_change() {
        let menu =
            menu(&[("Soups", &[("Miso", 300), ("Miso", 400)]), ("Soups", &[]), ("Tea", &[])]);
        assert!(MenuChange::between(&stored(&menu), &menu).is_empty());
    }

    #[test]
    fn only_what_differs_is_written() {
        let before = menu(&[
            ("Soups", &[("Miso", 300), ("Ramen", 900), ("Udon", 800)]),
            ("Old", &[("Fish", 1)]),
            ("Tea", &[("Green", 200)]),
        ]);
        let after = menu(&[
            ("Soups", &[("Miso", 350), ("Ramen", 900), ("Soba", 700)]),
            ("New", &[("Fish", 1), ("Cake", 2)]),
            ("Tea", &[("Green", 200)]),
            ("Empty", &[]),
        ]);
        let stored = stored(&before);
        let change = MenuChange::between(&stored, &after);
        let names = |categories: &[(i32, &NewCategory)]| {
            categories.iter().map(|(at, one)| (*at, one.name.clone())).collect::<Vec<_>>()
        };
        assert_eq!(names(&change.new_categories), [(1, "New".into()), (3, "Empty".into())]);
        assert!(change.changed_categories.is_empty());
        assert_eq!(change.gone_categories, [2]);
        let new: Vec<_> =
            change.new_items.iter().map(|(place, at, item)| (*place, *at, &*item.name)).collect();
        assert_eq!(
            new,
            [(Place::Stored(1), 2, "Soba"), (Place::New(1), 0, "Fish"), (Place::New(1), 1, "Cake"),]
        );
        let changed: Vec<_> =
            change.changed_items.iter().map(|(id, at, item)| (*id, *at, item.price)).collect();
        assert_eq!(changed, [(10, 0, 350)]);
        assert_eq!(change.gone_items, [12, 20]);
    }

    #[test]
    fn an_order_is_a_change_of_those_that_moved() {
        let before = menu(&[("A", &[("1", 1), ("2", 2), ("3", 3)]), ("B", &[])]);
        let after = menu(&[("B", &[]), ("A", &[("1", 1), ("3", 3), ("2", 2)])]);
        let stored = stored(&before);
        let change = MenuChange::between(&stored, &after);
        let changed: Vec<_> = change.changed_items.iter().map(|(id, at, _)| (*id, *at)).collect();
        assert_eq!(changed, [(12, 1), (11, 2)]);
        let changed: Vec<_> =
            change.changed_categories.iter().map(|(id, at, _)| (*id, *at)).collect();
        assert_eq!(changed, [(2, 0), (1, 1)]);
        assert!(change.new_items.is_empty() && change.gone_items.is_empty());
    }
}
