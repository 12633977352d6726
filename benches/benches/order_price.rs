//! What an order costs, in whole minor units with every sum checked, against the same lines in
//! `rust_decimal` without the other checks.

use std::hint::black_box;

use benches::orders::{currency, lines, offer};
use contracts::money::Money;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use order_api::{
    menus::Offer,
    price::{Choice, Line, price},
};
use rust_decimal::{Decimal, RoundingStrategy};

/// A line as it is kept, with amounts in currency units.
#[allow(dead_code, reason = "what is made must be kept until it is dropped")]
struct Priced {
    name: String,
    choices: Vec<Choice>,
    unit_price: Decimal,
    line_total: Decimal,
}

/// Lines and total in currency units; `None` when something is not on the menu.
fn decimal(offer: &Offer, lines: &[Line], tip: Decimal) -> Option<(Vec<Priced>, Decimal)> {
    let mut priced = Vec::with_capacity(lines.len());
    let mut subtotal = Decimal::ZERO;
    for line in lines {
        let item = offer.items.get(&line.item_id)?;
        let mut unit_price = Decimal::new(item.price, 2);
        for choice in &line.choices {
            let options = item.options.iter().find(|options| options.name == choice.option)?;
            let chosen = options.choices.iter().find(|known| known.name == choice.choice)?;
            unit_price += Decimal::new(chosen.price, 2);
        }
        let line_total = unit_price * Decimal::from(line.quantity);
        subtotal += line_total;
        let (name, choices) = (item.name.clone(), line.choices.clone());
        priced.push(Priced { name, choices, unit_price, line_total });
    }
    let tax = subtotal * Decimal::new(offer.tax_basis_points, 4);
    let tax = tax.round_dp_with_strategy(2, RoundingStrategy::MidpointAwayFromZero);
    Some((priced, subtotal + tax + Decimal::new(offer.delivery_fee, 2) + tip))
}

fn order_price(c: &mut Criterion) {
    let offer = offer();
    let tip = Money { amount: 200, currency: currency() };
    let mut group = c.benchmark_group("order_price");
    for count in [3, 20] {
        let lines = lines(count);
        let priced = price(&offer, &lines, Some(tip)).expect("they can be ordered");
        let (_, same) = decimal(&offer, &lines, Decimal::new(tip.amount, 2)).expect("on the menu");
        assert_eq!(same, Decimal::new(priced.total, 2));
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("price", count), |b| {
            b.iter(|| price(&offer, black_box(&lines), Some(tip)));
        });
        group.bench_function(BenchmarkId::new("decimal", count), |b| {
            b.iter(|| decimal(&offer, black_box(&lines), Decimal::new(tip.amount, 2)));
        });
    }
}

criterion_group!(benches, order_price);
criterion_main!(benches);
