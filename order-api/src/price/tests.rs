use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::menus;

fn money(amount: i64) -> Money {
    Money { amount, currency: Currency::parse("USD").unwrap() }
}

fn item(id: i64) -> ItemId {
    ItemId::new(id).unwrap()
}

fn plain(price: i64) -> Item {
    Item { name: "Naan".to_owned(), price, is_offered: true, options: Vec::new() }
}

fn options(name: &str, min: u16, max: u16, choices: &[(&str, i64)]) -> menus::Options {
    let choices = choices
        .iter()
        .map(|(name, price)| menus::Choice { name: (*name).to_owned(), price: *price })
        .collect();
    menus::Options { name: name.to_owned(), min, max, choices }
}

fn choice(option: &str, choice: &str) -> Choice {
    Choice { option: option.to_owned(), choice: choice.to_owned() }
}

fn line(id: i64, quantity: u32) -> Line {
    Line { item_id: item(id), quantity, choices: Vec::new(), price_seen: None }
}

/// 1 costs 10.00 and more with choices, 2 costs 0.01, 3 is off; no tax, no fee, no minimum.
fn offer() -> Offer {
    let curry = Item {
        name: "Curry".to_owned(),
        options: vec![
            options("Heat", 1, 1, &[("Mild", 0), ("Hot", 50)]),
            options("Extras", 0, 2, &[("Nuts", 120), ("Raisins", 80), ("Ghee", -30)]),
        ],
        ..plain(1_000)
    };
    let off = Item { is_offered: false, ..plain(500) };
    Offer {
        restaurant_id: RestaurantId::new(1).unwrap(),
        name: "Bombay Bites".to_owned(),
        version: 3,
        is_open: true,
        currency: Currency::parse("USD").unwrap(),
        delivery_fee: 0,
        minimum_order: 0,
        tax_basis_points: 0,
        items: [(item(1), curry), (item(2), plain(1)), (item(3), off)].into_iter().collect(),
    }
}

fn field_of(error: Unpriced) -> String {
    match error {
        Unpriced::Invalid { field, .. } => field,
        other => panic!("{other:?}"),
    }
}

#[test]
fn choices_must_be_what_the_options_allow() {
    type Chosen<'a> = &'a [(&'a str, &'a str)];
    let curry = &offer().items[&item(1)];
    let (mild, hot) = (("Heat", "Mild"), ("Heat", "Hot"));
    let (nuts, raisins, ghee) = (("Extras", "Nuts"), ("Extras", "Raisins"), ("Extras", "Ghee"));
    let cases: [(Chosen<'_>, Option<i64>); 12] = [
        (&[mild], Some(1_000)),
        (&[hot], Some(1_050)),
        (&[nuts, hot], Some(1_170)),
        (&[raisins, mild, nuts], Some(1_200)),
        (&[ghee, mild], Some(970)),
        (&[], None),
        (&[nuts], None),
        (&[mild, hot], None),
        (&[mild, nuts, raisins, ghee], None),
        (&[mild, nuts, nuts], None),
        (&[mild, ("Extras", "Gold")], None),
        (&[mild, ("Size", "Large")], None),
    ];
    for (chosen, expected) in cases {
        let choices = chosen.iter().map(|(option, name)| choice(option, name)).collect();
        let priced = unit_price(curry, &Line { choices, ..line(1, 1) }, 4);
        match expected {
            Some(expected) => assert_eq!(priced, Ok(expected), "{chosen:?}"),
            None => assert_eq!(field_of(priced.unwrap_err()), "items[4].choices", "{chosen:?}"),
        }
    }
}

#[test]
fn what_is_not_an_order_is_refused_by_its_field() {
    let many = |n: usize| vec![line(2, 1); n];
    let too_many_choices = Line { choices: vec![choice("a", "b"); CHOICES_MAX + 1], ..line(2, 1) };
    let eur = Money { amount: 1, currency: Currency::parse("EUR").unwrap() };
    let cases = [
        (many(0), None, "items"),
        (many(LINES_MAX + 1), None, "items"),
        (vec![line(2, 0)], None, "items[0].quantity"),
        (vec![line(2, 1), line(2, QUANTITY_MAX + 1)], None, "items[1].quantity"),
        (vec![line(2, 1_000)], None, "items[0].quantity"),
        (vec![line(2, u32::MAX)], None, "items[0].quantity"),
        (vec![too_many_choices], None, "items[0].choices"),
        (vec![line(9, 1)], None, "items[0].item_id"),
        (vec![line(2, 1)], Some(eur), "tip.currency"),
        (vec![line(2, 1)], Some(money(-1)), "tip"),
        (vec![line(2, 1)], Some(money(TOTAL_MAX + 1)), "tip"),
        (vec![line(2, 1)], Some(money(TOTAL_MAX)), "items"),
    ];
    for (lines, tip, field) in cases {
        let refused = price(&offer(), &lines, tip).unwrap_err();
        assert_eq!(field_of(refused), field, "{} lines, {tip:?}", lines.len());
    }
    let full = price(&offer(), &many(LINES_MAX), None).unwrap();
    assert_eq!(full.total, 100);
    assert_eq!(price(&offer(), &[line(2, QUANTITY_MAX)], None).unwrap().total, 99);
    assert_eq!(
        price(&offer(), &[line(2, 1)], Some(money(TOTAL_MAX - 1))).unwrap().tip,
        TOTAL_MAX - 1
    );
}

#[test]
fn an_order_for_nothing_is_refused() {
    let mut free = offer();
    free.items.insert(item(2), plain(0));
    assert_eq!(field_of(price(&free, &[line(2, 1)], None).unwrap_err()), "items");
    free.delivery_fee = 1;
    assert_eq!(price(&free, &[line(2, 1)], None).unwrap().total, 1);
}

#[test]
fn what_cannot_be_had_is_told_all_at_once() {
    let lines = [line(3, 1), line(2, 1), line(3, 2)];
    let off = Unpriced::Off(vec![(0, item(3)), (2, item(3))]);
    assert_eq!(price(&offer(), &lines, None), Err(off));
    let closed = Offer { is_open: false, ..offer() };
    assert_eq!(price(&closed, &lines, None), Err(Unpriced::Closed));
    let dear = Offer { minimum_order: 100, ..offer() };
    assert_eq!(price(&dear, &[line(2, 99)], None), Err(Unpriced::BelowMinimum(100)));
    assert!(price(&dear, &[line(2, 99), line(2, 1)], Some(money(0))).is_ok());
    assert_eq!(
        price(&dear, &[line(2, 99)], Some(money(100))),
        Err(Unpriced::BelowMinimum(100)),
        "a tip is no food"
    );
}

#[test]
fn a_price_that_was_seen_otherwise_is_told_with_both() {
    let seen = |seen: Money| Line { price_seen: Some(seen), ..line(2, 7) };
    assert!(price(&offer(), &[seen(money(1))], None).is_ok());
    let lines = [seen(money(1)), seen(money(2)), line(2, 1), seen(money(7))];
    let changed = |line, seen| PriceChange { line, item_id: item(2), seen, now: money(1) };
    assert_eq!(
        price(&offer(), &lines, None),
        Err(Unpriced::Changed(vec![changed(1, money(2)), changed(3, money(7))]))
    );
    let eur = Money { amount: 1, currency: Currency::parse("EUR").unwrap() };
    assert_eq!(price(&offer(), &[seen(eur)], None), Err(Unpriced::Changed(vec![changed(0, eur)])));
    let with_choice =
        Line { choices: vec![choice("Heat", "Hot")], price_seen: Some(money(1_050)), ..line(1, 2) };
    assert_eq!(price(&offer(), &[with_choice], None).unwrap().subtotal, 2_100);
}

#[test]
fn half_a_minor_unit_of_tax_is_rounded_up() {
    for (amount, basis_points, expected) in [
        (0, 863, 0),
        (1, 4_999, 0),
        (1, 5_000, 1),
        (100, 49, 0),
        (100, 50, 1),
        (2_770, 863, 239),
        (1_000, 1_825, 183),
        (999, 10_000, 999),
        (TOTAL_MAX, 10_000, TOTAL_MAX),
    ] {
        assert_eq!(tax(amount, basis_points), Some(expected), "{amount} at {basis_points}");
    }
    assert_eq!(tax(i64::MAX, 2), None);
}

/// What somebody orders of an item that has one kind of options.
#[derive(Debug, Clone)]
struct Ordered {
    price: i64,
    quantity: u32,
    /// Prices of what there is to choose, and whether it is chosen.
    choices: Vec<(i64, bool)>,
    seen: Option<i64>,
    is_offered: bool,
}

fn amount() -> impl Strategy<Value = i64> {
    prop_oneof![
        8 => 0..100_000_i64,
        1 => 0..=TOTAL_MAX,
        1 => prop_oneof![Just(i64::MAX), Just(i64::MAX / 99), Just(i64::MIN), Just(-1), any::<i64>()],
    ]
}

fn ordered() -> impl Strategy<Value = Ordered> {
    let quantity = prop_oneof![30 => 1..=99_u32, 1 => Just(0_u32), 1 => Just(1_000_u32)];
    let choices = vec((prop_oneof![9 => 0..500_i64, 1 => amount()], any::<bool>()), 0..4);
    let seen = option::weighted(0.05, 0..3_i64);
    let is_offered = prop::bool::weighted(0.98);
    (amount(), quantity, choices, seen, is_offered).prop_map(
        |(price, quantity, choices, seen, is_offered)| Ordered {
            price,
            quantity,
            choices,
            seen,
            is_offered,
        },
    )
}

/// The same sums with numbers that cannot overflow; `None` when it must be refused.
fn reference(
    all: &[Ordered],
    fees: (i64, i64, i64),
    tip: Option<i64>,
) -> Option<(i128, i128, i128)> {
    let (delivery_fee, minimum, basis_points) = fees;
    let tip = i128::from(tip.unwrap_or(0));
    let fits = |n: i128| i64::try_from(n).is_ok();
    let mut subtotal = 0_i128;
    for one in all {
        let mut unit = i128::from(one.price);
        for (price, is_chosen) in &one.choices {
            unit += if *is_chosen { i128::from(*price) } else { 0 };
            if !fits(unit) {
                return None;
            }
        }
        let is_seen = one.seen.is_none_or(|seen| i128::from(seen) == unit);
        subtotal += unit * i128::from(one.quantity);
        let fits = fits(unit * i128::from(one.quantity)) && fits(subtotal);
        if !(1..=99).contains(&one.quantity) || !one.is_offered || !is_seen || !fits {
            return None;
        }
    }
    let tax = (subtotal * i128::from(basis_points) + 5_000) / 10_000;
    if !fits(subtotal * i128::from(basis_points) + 5_000) {
        return None;
    }
    let total = subtotal + tax + i128::from(delivery_fee) + tip;
    let parts_fit = fits(subtotal + tax) && fits(subtotal + tax + i128::from(delivery_fee));
    let is_order = (1..=100).contains(&all.len())
        && subtotal >= i128::from(minimum)
        && (0..=i128::from(TOTAL_MAX)).contains(&tip)
        && total > 0
        && total <= i128::from(TOTAL_MAX);
    (is_order && parts_fit).then_some((subtotal, tax, total))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Prices of menus are positive; here they are anything, and nothing may panic.
    #[test]
    fn totals_are_those_of_exact_arithmetic(
        all in prop_oneof![9 => vec(ordered(), 1..8), 1 => vec(ordered(), 0..103)],
        delivery_fee in prop_oneof![9 => 0..1_000_i64, 1 => amount()],
        minimum in prop_oneof![Just(0_i64), 0..200_000_i64],
        basis_points in 0..=10_000_i64,
        tip in option::of(amount()),
    ) {
        let items = all.iter().enumerate().map(|(n, one)| {
            let choices: Vec<menus::Choice> = one.choices.iter().enumerate()
                .map(|(n, (price, _))| menus::Choice { name: n.to_string(), price: *price })
                .collect();
            let options =
                vec![menus::Options { name: "Of".to_owned(), min: 0, max: 9, choices }];
            (item(n as i64 + 1), Item { options, is_offered: one.is_offered, ..plain(one.price) })
        });
        let offer = Offer {
            items: items.collect(),
            delivery_fee,
            minimum_order: minimum,
            tax_basis_points: basis_points,
            ..offer()
        };
        let lines: Vec<Line> = all.iter().enumerate().map(|(n, one)| Line {
            choices: one.choices.iter().enumerate()
                .filter(|(_, (_, is_chosen))| *is_chosen)
                .map(|(n, _)| choice("Of", &n.to_string()))
                .collect(),
            price_seen: one.seen.map(money),
            ..line(n as i64 + 1, one.quantity)
        }).collect();
        let priced = price(&offer, &lines, tip.map(money));
        let expected = reference(&all, (delivery_fee, minimum, basis_points), tip);
        match expected {
            None => prop_assert!(priced.is_err(), "{:?}", priced),
            Some((subtotal, tax, total)) => {
                let priced = priced.unwrap();
                prop_assert_eq!(i128::from(priced.subtotal), subtotal);
                prop_assert_eq!(i128::from(priced.tax), tax);
                prop_assert_eq!(i128::from(priced.total), total);
                prop_assert_eq!(priced.lines.len(), all.len());
                let of_lines: i64 = priced.lines.iter().map(|line| line.line_total).sum();
                prop_assert_eq!(of_lines, priced.subtotal);
            }
        }
    }
}
