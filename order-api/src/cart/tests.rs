use std::sync::Arc;

use contracts::money::{Currency, Money};
use proptest::{collection::vec, prelude::*};

use super::{
    checkout::{CheckoutError, Objection, Reason, Tip, TotalSeen, Wanted, chosen, price},
    view::{CartView, LineProblem, Offers, view},
    *,
};
use crate::menus::{self, Item, MenuError, Offer, Options};

fn restaurant(id: i64) -> RestaurantId {
    RestaurantId::new(id).unwrap()
}

fn item(id: i64) -> ItemId {
    ItemId::new(id).unwrap()
}

fn choice(option: &str, choice: &str) -> Choice {
    Choice { option: option.to_owned(), choice: choice.to_owned() }
}

fn new(at: i64, what: i64, quantity: u32) -> NewLine {
    NewLine { restaurant_id: restaurant(at), item_id: item(what), quantity, choices: Vec::new() }
}

fn cart(lines: &[(i64, i64, u32)]) -> Cart {
    let mut cart = Cart::default();
    for (at, what, quantity) in lines {
        cart.add(new(*at, *what, *quantity)).unwrap();
    }
    cart
}

#[test]
fn the_same_item_with_the_same_choices_is_one_line() {
    let mut cart = Cart::default();
    let hot = choice("Heat", "Hot");
    let nuts = choice("Extra", "Nuts");
    let with = |choices: &[&Choice]| NewLine {
        choices: choices.iter().map(|choice| (*choice).clone()).collect(),
        ..new(1, 1, 2)
    };
    assert_eq!(cart.add(with(&[&hot, &nuts])), Ok(true));
    assert_eq!(cart.add(with(&[&nuts, &hot])), Ok(false), "in another order");
    assert_eq!(cart.add(with(&[&hot])), Ok(true));
    assert_eq!(cart.add(new(2, 1, 2)), Ok(true), "of another restaurant");
    let quantities: Vec<u32> = cart.lines.iter().map(|line| line.quantity).collect();
    assert_eq!(quantities, [4, 2, 2]);
}

#[test]
fn no_line_gets_the_id_of_one_that_was_there() {
    let mut cart = cart(&[(1, 1, 1), (1, 2, 1)]);
    cart.remove(2).unwrap();
    cart.add(new(1, 2, 1)).unwrap();
    cart.clear();
    cart.add(new(1, 3, 1)).unwrap();
    assert_eq!(cart.lines[0].line_id, 4);
    assert_eq!(cart.set_quantity(2, 5), Err(CartError::NoSuchLine));
}

#[test]
fn a_cart_has_limits_and_stays_as_it_was_beyond_them() {
    let mut full = Cart::default();
    for what in 1..=100 {
        full.add(new(1 + what % 10, what, 99)).unwrap();
    }
    let before = full.clone();
    let long = "x".repeat(40_000);
    let choices = |option: &str, n| vec![choice(option, "a"); n];
    for (line, error) in [
        (new(1, 101, 1), CartError::TooManyLines),
        (new(1, 10, 1), CartError::TooManyOfOne),
        (new(1, 10, 0), CartError::Quantity),
        (new(1, 10, 100), CartError::Quantity),
        (NewLine { choices: choices("a", 51), ..new(1, 10, 1) }, CartError::TooManyChoices),
        (NewLine { choices: choices("\0", 1), ..new(1, 10, 1) }, CartError::ChoiceNames),
    ] {
        assert_eq!(full.add(line), Err(error));
    }
    assert_eq!(full.merge(vec![new(1, 10, 99), new(1, 101, 1)]), Err(CartError::TooManyLines));
    assert_eq!(full.set_quantity(1, 100), Err(CartError::Quantity));
    assert_eq!(full.set_quantity(1, 0), Err(CartError::Quantity));
    full.remove(1).unwrap();
    assert_eq!(full.add(new(11, 1, 1)), Err(CartError::TooManyRestaurants));
    let wordy = NewLine { choices: choices(&long, 2), ..new(1, 101, 1) };
    assert_eq!(full.add(wordy), Err(CartError::TooManyChoices));
    assert_eq!(full.lines, before.lines[1..]);
}

fn lines() -> impl Strategy<Value = Vec<NewLine>> {
    let line = (1..4_i64, 1..5_i64, 1..=50_u32, vec(0..2_usize, 0..3));
    vec(line, 0..20).prop_map(|lines| {
        let names = ["Mild", "Hot"];
        let line = |(at, what, quantity, chosen): (i64, i64, u32, Vec<usize>)| NewLine {
            choices: chosen.into_iter().map(|n| choice("Heat", names[n])).collect(),
            ..new(at, what, quantity)
        };
        lines.into_iter().map(line).collect()
    })
}

proptest! {
    #[test]
    fn merging_twice_is_merging_once(first: bool, a in lines(), b in lines()) {
        let mut cart = Cart::default();
        if first {
            cart.merge(a).unwrap();
        }
        cart.merge(b.clone()).unwrap();
        let once = cart.clone();
        cart.merge(b.clone()).unwrap();
        prop_assert_eq!(&cart, &once);
        for line in &b {
            let mut sorted = line.choices.clone();
            sorted.sort();
            let kept = once.lines.iter().filter(|kept| {
                kept.restaurant_id == line.restaurant_id && kept.item_id == line.item_id
                    && kept.choices == sorted
            });
            let kept: Vec<&CartLine> = kept.collect();
            prop_assert_eq!(kept.len(), 1);
            prop_assert!(kept[0].quantity >= line.quantity);
        }
    }

    #[test]
    fn adding_counts_everything_and_ids_are_unique(added in lines()) {
        let mut cart = Cart::default();
        let mut sum = 0;
        for line in added {
            let quantity = line.quantity;
            match cart.add(line) {
                Ok(_) => sum += quantity,
                Err(error) => prop_assert_eq!(error, CartError::TooManyOfOne),
            }
        }
        prop_assert_eq!(cart.lines.iter().map(|line| line.quantity).sum::<u32>(), sum);
        let ids: FxHashSet<i64> = cart.lines.iter().map(|line| line.line_id).collect();
        prop_assert_eq!(ids.len(), cart.lines.len());
        let json = serde_json::to_string(&cart).unwrap();
        prop_assert_eq!(serde_json::from_str::<Cart>(&json).unwrap(), cart);
    }
}

fn usd(amount: i64) -> Money {
    Money { amount, currency: Currency::parse("USD").unwrap() }
}

/// 10.00 + 0.50 for Hot; 2.50; 4.00, which is off. Tax 10 %, delivery 3.00, from 5.00 on.
fn offer(id: i64) -> Offer {
    let plain = |name: &str, price, is_offered| Item {
        name: name.to_owned(),
        price,
        is_offered,
        options: Vec::new(),
    };
    let heat = Options {
        name: "Heat".to_owned(),
        min: 0,
        max: 1,
        choices: vec![menus::Choice { name: "Hot".to_owned(), price: 50 }],
    };
    let curry = Item { options: vec![heat], ..plain("Curry", 1_000, true) };
    let items = [
        (item(1), curry),
        (item(2), plain("Naan", 250, true)),
        (item(3), plain("Dal", 400, false)),
    ];
    Offer {
        restaurant_id: restaurant(id),
        name: format!("Restaurant {id}"),
        version: 1,
        is_open: true,
        currency: Currency::parse("USD").unwrap(),
        delivery_fee: 300,
        minimum_order: 500,
        tax_basis_points: 1_000,
        items: items.into_iter().collect(),
    }
}

fn offers(of: Vec<Offer>) -> Offers {
    of.into_iter().map(|offer| (offer.restaurant_id, Ok(Arc::new(offer)))).collect()
}

#[test]
fn a_cart_is_shown_with_the_prices_of_now() {
    let mut cart = cart(&[(1, 1, 1), (2, 2, 1)]);
    cart.add(NewLine { choices: vec![choice("Heat", "Hot")], ..new(1, 1, 2) }).unwrap();
    let CartView { restaurants, problems, .. } = view(&cart, &offers(vec![offer(1), offer(2)]));
    assert_eq!(problems, 0);
    let [first, second] = &restaurants[..] else { panic!("{restaurants:?}") };
    assert_eq!(first.lines[1].unit_price, Some(usd(1_050)));
    assert_eq!(first.lines[1].line_total, Some(usd(2_100)));
    assert_eq!(first.subtotal, Some(usd(3_100)));
    assert_eq!(first.tax, Some(usd(310)));
    assert_eq!(first.total, Some(usd(3_710)));
    assert!(first.can_order);
    assert_eq!(second.total, Some(usd(575)));
    assert!(!second.can_order, "2.50 is below the minimum");
}

#[test]
fn what_cannot_be_had_says_why_and_is_not_counted() {
    let mut cart = cart(&[(1, 1, 1), (1, 3, 1), (1, 9, 1), (2, 1, 1), (3, 1, 1)]);
    cart.add(NewLine { choices: vec![choice("Heat", "Cold")], ..new(1, 1, 1) }).unwrap();
    let mut offers = offers(vec![offer(1)]);
    offers.insert(restaurant(2), Err(MenuError::NotFound));
    offers.insert(restaurant(3), Err(MenuError::Unavailable));
    let CartView { restaurants, problems, .. } = view(&cart, &offers);
    let found: Vec<Option<LineProblem>> =
        restaurants.iter().flat_map(|of| &of.lines).map(|line| line.problem).collect();
    assert_eq!(
        found,
        [
            None,
            Some(LineProblem::Unavailable),
            Some(LineProblem::NotOnMenu),
            Some(LineProblem::OptionsChanged),
            Some(LineProblem::NotOnMenu),
            None,
        ]
    );
    assert_eq!(problems, 4);
    assert_eq!(restaurants[0].total, Some(usd(1_400)));
    assert_eq!(restaurants[0].lines[1].name.as_deref(), Some("Dal"));
    assert!(restaurants.iter().all(|of| !of.can_order));
    assert!(restaurants[2].unavailable && restaurants[2].total.is_none());
}

#[test]
fn prices_that_overflow_are_no_prices() {
    let dear = |price| {
        let mut dear = offer(1);
        dear.items.get_mut(&item(1)).unwrap().price = price;
        offers(vec![dear])
    };
    let cart = cart(&[(1, 1, 99)]);
    for price in [i64::MAX, i64::MAX / 99, crate::price::TOTAL_MAX] {
        let shown = view(&cart, &dear(price));
        assert_eq!(shown.restaurants[0].total, None);
        assert!(!shown.restaurants[0].can_order);
        let refused =
            super::checkout::price(&cart, &[restaurant(1)], &dear(price), &Wanted::default());
        let Err(CheckoutError::Refused(objections)) = refused else { panic!("{refused:?}") };
        assert_eq!(objections[0].reasons, [Reason::Total]);
    }
}

fn refused(cart: &Cart, offers: &Offers, wanted: &Wanted) -> Vec<Objection> {
    let restaurants = chosen(cart, wanted).unwrap();
    match price(cart, &restaurants, offers, wanted) {
        Err(CheckoutError::Refused(objections)) => objections,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_checkout_names_all_that_is_wrong() {
    let cart = cart(&[(1, 1, 1), (1, 3, 1), (2, 2, 1), (3, 1, 1), (4, 1, 1)]);
    let closed = Offer { is_open: false, ..offer(3) };
    let mut offers = offers(vec![offer(1), offer(2), closed, offer(4)]);
    let seen = |id, amount| TotalSeen { restaurant_id: restaurant(id), total: usd(amount) };
    let wanted = Wanted { totals_seen: vec![seen(4, 1_399)], ..Wanted::default() };
    let told = refused(&cart, &offers, &wanted);
    let reasons: Vec<(i64, &[Reason])> =
        told.iter().map(|told| (told.restaurant_id.get(), &told.reasons[..])).collect();
    assert_eq!(
        reasons,
        [
            (1, &[Reason::ItemsUnavailable][..]),
            (2, &[Reason::BelowMinimum]),
            (3, &[Reason::Closed]),
            (4, &[Reason::TotalChanged]),
        ]
    );
    assert_eq!(told[0].lines[0].problem, LineProblem::Unavailable);
    assert_eq!(told[3].total, Some(usd(1_400)));
    offers.insert(restaurant(4), Err(MenuError::NotFound));
    let told = refused(&cart, &offers, &Wanted::default());
    assert_eq!(told[3].reasons, [Reason::Closed, Reason::ItemsUnavailable]);
    offers.insert(restaurant(4), Err(MenuError::Unavailable));
    let all = cart.restaurants();
    let away = price(&cart, &all, &offers, &Wanted::default());
    assert!(matches!(away, Err(CheckoutError::Menus(MenuError::Unavailable))), "{away:?}");
}

#[test]
fn a_checkout_of_some_restaurants_leaves_the_others_alone() {
    let mut cart = cart(&[(1, 1, 1), (2, 2, 1), (3, 1, 2)]);
    let offers = offers(vec![offer(1), offer(3)]);
    let tip = Tip { restaurant_id: restaurant(3), tip: usd(70) };
    let wanted = Wanted {
        restaurants: Some(vec![restaurant(3), restaurant(1)]),
        tips: vec![tip],
        ..Wanted::default()
    };
    let restaurants = chosen(&cart, &wanted).unwrap();
    let priced = price(&cart, &restaurants, &offers, &wanted).unwrap();
    let totals: Vec<i64> = priced.iter().map(|priced| priced.total).collect();
    assert_eq!(totals, [1_400, 2_570]);
    let shown = view(&cart, &offers);
    let shown = shown.restaurants.iter().find(|shown| shown.restaurant_id.get() == 3).unwrap();
    assert_eq!(shown.total, Some(usd(2_500)), "the same without the tip");
    cart.remove_restaurants(&restaurants);
    assert_eq!(cart.restaurants(), [restaurant(2)]);
}

#[test]
fn what_a_checkout_asks_for_must_make_sense() {
    let cart = cart(&[(1, 1, 1), (2, 1, 1)]);
    let tip = |id, tip| Tip { restaurant_id: restaurant(id), tip };
    let eur = Money { amount: 1, currency: Currency::parse("EUR").unwrap() };
    let only = |ids: &[i64]| Some(ids.iter().map(|id| restaurant(*id)).collect());
    let good = Wanted::default;
    let offers = offers(vec![offer(1), offer(2)]);
    let ask = |cart: &Cart, wanted: &Wanted| {
        chosen(cart, wanted).and_then(|restaurants| price(cart, &restaurants, &offers, wanted))
    };
    assert!(ask(&cart, &good()).is_ok());
    for (field, wanted) in [
        ("restaurants[0]", Wanted { restaurants: only(&[3]), ..good() }),
        ("restaurants", Wanted { restaurants: only(&[]), ..good() }),
        ("tips[0].restaurant_id", Wanted { tips: vec![tip(3, usd(1))], ..good() }),
        ("tips[1].restaurant_id", Wanted { tips: vec![tip(2, usd(1)), tip(2, usd(2))], ..good() }),
        (
            "tips[0].restaurant_id",
            Wanted { restaurants: only(&[1]), tips: vec![tip(2, usd(1))], ..good() },
        ),
        ("tips[1].tip.currency", Wanted { tips: vec![tip(1, usd(1)), tip(2, eur)], ..good() }),
        ("tips[0].tip", Wanted { tips: vec![tip(1, usd(-1))], ..good() }),
    ] {
        match ask(&cart, &wanted) {
            Err(CheckoutError::Invalid { field: named, .. }) => assert_eq!(named, field),
            other => panic!("{field}: {other:?}"),
        }
    }
    let old = ask(&cart, &Wanted { version: Some(7), ..good() });
    assert!(matches!(old, Err(CheckoutError::Outdated(0))), "{old:?}");
    assert!(matches!(ask(&Cart::default(), &good()), Err(CheckoutError::Empty)));
}

fn shown_agrees(cart: &Cart, offers: &Offers) -> Result<(), TestCaseError> {
    for shown in view(cart, offers).restaurants {
        let of = [shown.restaurant_id];
        let placed = price(cart, &of, offers, &Wanted::default());
        prop_assert_eq!(shown.can_order, placed.is_ok());
        if let Ok(placed) = placed {
            prop_assert_eq!(shown.total.map(|total| total.amount), Some(placed[0].total));
        }
    }
    Ok(())
}

proptest! {
    /// What the cart says and what a checkout does are the same.
    #[test]
    fn what_is_shown_is_what_is_placed(
        added in lines(),
        open in vec(any::<bool>(), 4),
        price_of_one in prop_oneof![0..2_000_i64, Just(i64::MAX), Just(1_000_000_000_000)],
        minimum in 0..5_000_i64,
        delivery_fee in 0..2_i64,
    ) {
        let mut cart = Cart::default();
        cart.merge(added).unwrap();
        let of = (1..4).map(|id| {
            let mut offer = offer(id);
            offer.is_open = open[id as usize];
            offer.items.get_mut(&item(1)).unwrap().price = price_of_one;
            offer.items.get_mut(&item(2)).unwrap().price = 0;
            offer.minimum_order = minimum / 2_500 * minimum;
            offer.delivery_fee = delivery_fee;
            offer
        });
        shown_agrees(&cart, &offers(of.collect()))?;
    }
}
