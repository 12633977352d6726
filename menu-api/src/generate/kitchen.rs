//! Names, menus and prices by cuisine, of the tables in `dishes.txt`.

use std::sync::LazyLock;

use rand::{
    Rng,
    seq::{IndexedRandom as _, SliceRandom as _},
};

use crate::{
    menu::{Allergen, Choice, Diet, NewCategory, NewItem, NewMenu, Options},
    restaurant::Cuisine,
};

const TABLES: &str = include_str!("dishes.txt");

/// All kitchens, in the order of [`Cuisine::ALL`].
static KITCHENS: LazyLock<Vec<Kitchen>> = LazyLock::new(|| {
    Cuisine::ALL.into_iter().map(|cuisine| Kitchen::read(cuisine.as_str())).collect()
});

/// When all dishes of a course are on the menu, they come in these sizes too; prices in percent.
const SIZES: [(&str, i64); 8] = [
    ("", 100),
    ("Small ", 70),
    ("Large ", 140),
    ("Half ", 60),
    ("Double ", 190),
    ("Mini ", 50),
    ("Family ", 260),
    ("Party ", 500),
];

/// What a cuisine cooks.
#[derive(Debug, Default)]
pub(super) struct Kitchen {
    names: [Vec<&'static str>; 2],
    garnishes: Vec<&'static str>,
    descriptions: Vec<&'static str>,
    courses: Vec<Course>,
}

#[derive(Debug)]
struct Course {
    name: &'static str,
    extra: &'static str,
    minutes: (i32, i32),
    /// Every base in every variant.
    dishes: Vec<Dish>,
}

#[derive(Debug, Clone)]
struct Dish {
    name: String,
    /// Cents in a place that is neither cheap nor dear.
    price: i64,
    /// What it contains, as in the tables.
    marks: String,
}

impl Kitchen {
    /// The kitchen of a cuisine.
    pub(super) fn of(cuisine: Cuisine) -> &'static Self {
        static NONE: LazyLock<Kitchen> = LazyLock::new(Kitchen::default);
        let at = Cuisine::ALL.iter().position(|known| *known == cuisine);
        at.and_then(|at| KITCHENS.get(at)).unwrap_or(&NONE)
    }

    fn read(cuisine: &str) -> Self {
        let mut lines = section(cuisine);
        let mut words = || lines.next().unwrap_or_default().split("; ").collect::<Vec<_>>();
        let names = [words(), words()];
        let (garnishes, descriptions) = (words(), words());
        let mut courses = courses(lines);
        courses.extend(self::courses(section("shared")));
        Self { names, garnishes, descriptions, courses }
    }

    /// Two kitchens can have the same name; every third says where it is.
    pub(super) fn name(&self, rng: &mut impl Rng, street: &str) -> String {
        let [first, second] = &self.names;
        let name = format!("{} {}", any(first, rng), any(second, rng));
        if rng.random_range(0..3) == 0 { format!("{name} on {street}") } else { name }
    }

    pub(super) fn description(&self, rng: &mut impl Rng) -> String {
        format!("{}.", any(&self.descriptions, rng))
    }

    /// A menu of so many items; `price_level` as in a restaurant.
    pub(super) fn menu(&self, rng: &mut impl Rng, items: usize, price_level: u8) -> NewMenu {
        let percent = [80, 100, 135, 210][usize::from(price_level.clamp(1, 4)) - 1];
        // A kitchen is as dear as its level, more or less.
        let percent = percent + rng.random_range(-8..=8);
        let courses = self.courses.len();
        let categories = self.courses.iter().enumerate().map(|(n, course)| {
            let count = items / courses.max(1) + usize::from(n < items % courses.max(1));
            NewCategory {
                category_id: None,
                name: course.name.into(),
                description: String::new(),
                items: self.items(rng, course, count, percent),
            }
        });
        NewMenu { categories: categories.filter(|category| !category.items.is_empty()).collect() }
    }

    fn items(
        &self,
        rng: &mut impl Rng,
        course: &Course,
        count: usize,
        percent: i64,
    ) -> Vec<NewItem> {
        let mut items = Vec::with_capacity(count);
        for (size, size_percent) in SIZES {
            let mut dishes: Vec<&Dish> = course.dishes.iter().collect();
            let (chosen, _) = dishes.partial_shuffle(rng, count - items.len());
            for dish in chosen {
                let price = dish.price * percent * size_percent / 10_000;
                items.push(self.item(rng, course, dish, format!("{size}{}", dish.name), price));
            }
        }
        items
    }

    fn item(
        &self,
        rng: &mut impl Rng,
        course: &Course,
        dish: &Dish,
        name: String,
        price: i64,
    ) -> NewItem {
        let (from, to) = course.minutes;
        let is_described = rng.random_range(0..10) < 3;
        let has_photo = rng.random_range(0..20) == 0;
        let photo = rng.random_range(1..=400);
        let has_extra = rng.random_range(0..10) < 2;
        NewItem {
            item_id: None,
            name,
            description: if is_described { self.garnish(rng) } else { String::new() },
            // Ends with 45 or 95 cents, as menus like it.
            price: (price / 50).max(1) * 50 + 45,
            photo: has_photo.then(|| format!("https://photos.example/dishes/{photo}.jpg")),
            options: if has_extra { extra(course.extra) } else { Vec::new() },
            allergens: dish.marks.chars().filter_map(allergen).collect(),
            dietary: diets(&dish.marks),
            preparation_minutes: rng.random_range(from..=to),
            available: rng.random_range(0..100) > 0,
            in_stock: rng.random_range(0..100) > 2,
        }
    }

    fn garnish(&self, rng: &mut impl Rng) -> String {
        let chosen: Vec<&str> = self.garnishes.choose_multiple(rng, 2).copied().collect();
        format!("With {}.", chosen.join(" and "))
    }
}

fn any<'a>(words: &[&'a str], rng: &mut impl Rng) -> &'a str {
    words.choose(rng).copied().unwrap_or_default()
}

/// The lines under a heading.
fn section(heading: &str) -> impl Iterator<Item = &'static str> {
    TABLES
        .lines()
        .skip_while(move |line| {
            line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) != Some(heading)
        })
        .skip(1)
        .take_while(|line| !line.is_empty())
}

fn courses(mut lines: impl Iterator<Item = &'static str>) -> Vec<Course> {
    let course = move || {
        let mut head = lines.next()?.split("; ");
        let (name, extra) = (head.next()?, head.next()?);
        let (from, to) = head.next()?.split_once('-')?;
        let (pattern, bases, variants) = (head.next()?, parts(lines.next()?), parts(lines.next()?));
        let dish = |base: &Dish, variant: &Dish| Dish {
            name: pattern.replace("{b}", &base.name).replace("{v}", &variant.name).trim().into(),
            price: base.price + variant.price,
            marks: union(&base.marks, &variant.marks),
        };
        let dishes = bases.iter().flat_map(|base| variants.iter().map(move |one| dish(base, one)));
        let minutes = (from.parse().ok()?, to.parse().ok()?);
        Some(Course { name, extra, minutes, dishes: dishes.collect() })
    };
    std::iter::from_fn(course).collect()
}

fn union(marks: &str, more: &str) -> String {
    marks.chars().chain(more.chars().filter(|mark| !marks.contains(*mark))).collect()
}

/// `Bruschetta=850G; Crostini=900G`
fn parts(line: &str) -> Vec<Dish> {
    let part = |part: &str| {
        let (name, rest) = part.split_once('=')?;
        let end = rest.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let (price, marks) = rest.split_at(end);
        Some(Dish { name: name.into(), price: price.parse().ok()?, marks: marks.into() })
    };
    line.split("; ").filter_map(part).collect()
}

fn allergen(mark: char) -> Option<Allergen> {
    Some(match mark {
        'G' => Allergen::Gluten,
        'C' => Allergen::Crustaceans,
        'E' => Allergen::Eggs,
        'F' => Allergen::Fish,
        'P' => Allergen::Peanuts,
        'S' => Allergen::Soy,
        'M' => Allergen::Milk,
        'N' => Allergen::Nuts,
        'L' => Allergen::Celery,
        'U' => Allergen::Mustard,
        'T' => Allergen::Sesame,
        'O' => Allergen::Sulphites,
        'K' => Allergen::Molluscs,
        _ => return None,
    })
}

/// Which diets a dish suits follows from what it contains.
fn diets(marks: &str) -> Vec<Diet> {
    let has = |any: &str| marks.contains(|mark| any.contains(mark));
    let mut diets = Vec::new();
    if !has("aFCK") {
        diets.push(if has("MEy") { Diet::Vegetarian } else { Diet::Vegan });
    }
    if !has("G") {
        diets.push(Diet::GlutenFree);
    }
    if has("h") {
        diets.push(Diet::Spicy);
    }
    diets
}

/// What can be chosen with a dish.
fn extra(kind: &str) -> Vec<Options> {
    let (name, min, max, choices): (_, _, _, &[(&str, i64)]) = match kind {
        "size" => ("Size", 1, 1, &[("Regular", 0), ("Large", 150)]),
        "spice" => ("Spice level", 1, 1, &[("Mild", 0), ("Medium", 0), ("Hot", 0)]),
        "toppings" => (
            "Extras",
            0,
            3,
            &[("Cheese", 150), ("Avocado", 250), ("Mushrooms", 150), ("Chili", 50)],
        ),
        "protein" => ("Add", 0, 1, &[("Chicken", 450), ("Prawns", 600), ("Tofu", 300)]),
        "milk" => ("Milk", 1, 1, &[("Whole", 0), ("Oat", 75), ("Almond", 75)]),
        _ => return Vec::new(),
    };
    let choices =
        choices.iter().map(|&(name, price)| Choice { name: name.into(), price }).collect();
    vec![Options { name: name.into(), min, max, choices }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::menu::ITEMS_MAX;

    #[test]
    fn the_tables_are_read_whole() {
        let marks = "GCEFPSMNLUTOKIayh";
        for cuisine in Cuisine::ALL {
            let kitchen = Kitchen::of(cuisine);
            assert_eq!(kitchen.courses.len(), 7, "{cuisine:?}");
            for words in [&kitchen.names[0], &kitchen.names[1], &kitchen.garnishes] {
                assert!(words.len() >= 7, "{cuisine:?}: {words:?}");
            }
            assert!(kitchen.descriptions.len() >= 4);
            for Course { name, extra, minutes, dishes } in &kitchen.courses {
                assert!(*extra == "none" || !self::extra(extra).is_empty(), "{name}: {extra}");
                assert!(15 <= minutes.0 && minutes.0 <= minutes.1 && minutes.1 <= 40, "{name}");
                // 1000 items in eight sizes need so many of each of seven courses.
                assert!(dishes.len() * 8 * 7 >= ITEMS_MAX, "{cuisine:?}, {name}: {}", dishes.len());
                for dish in dishes {
                    assert!(dish.price > 100 && !dish.name.contains(['=', '{', ';']), "{dish:?}");
                    assert!(dish.marks.chars().all(|mark| marks.contains(mark)), "{dish:?}");
                }
            }
        }
        let lines = TABLES.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        // A heading, four lines of words and five courses of three; two shared courses.
        assert_eq!(lines.count(), 9 * (1 + 4 + 5 * 3) + 1 + 2 * 3);
    }

    #[test]
    fn diets_follow_from_what_is_in_it() {
        assert_eq!(diets(""), [Diet::Vegan, Diet::GlutenFree]);
        assert_eq!(diets("GMh"), [Diet::Vegetarian, Diet::Spicy]);
        assert_eq!(diets("Ga"), []);
        assert_eq!(diets("F"), [Diet::GlutenFree]);
    }
}
