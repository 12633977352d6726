//! What operators change, and how a change is sent.
//!
//! A restaurant has one or two operators, each with at most one write under way. Where there are
//! two they write at the same time, on their own connections and perhaps to different nodes.

use std::fmt::Write as _;

use rand::{Rng as _, rngs::SmallRng};
use serde::Deserialize;

use super::{
    body::{Availability, Name, Status},
    check::Change,
    popularity::Zipf,
};
use crate::client::{Target, complete};

/// Every such restaurant has two operators.
const TWO_EVERY: usize = 3;
/// Items of a bulk change.
const BULK_MAX: usize = 4;
/// Each write of a status has a capacity of its own, so that an answer shows whose it is.
const CAPACITIES: i32 = 1_000;

/// A restaurant that is written to.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its index.
    pub restaurant: u32,
    /// Its id.
    pub id: i64,
    /// Its items by their ids; at least one.
    pub items: Vec<i64>,
    /// Tokens of its two operators.
    pub tokens: [String; 2],
}

/// One of the operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operator {
    place: u32,
    number: u8,
}

/// All operators and what they do.
#[derive(Debug)]
pub struct Operators {
    places: Vec<Place>,
    busy: Vec<[bool; 2]>,
    popularity: Zipf,
    random: SmallRng,
    /// Writes composed so far; decides of which kind the next is.
    composed: u64,
}

impl Operators {
    /// The first places are written to most.
    pub fn new(places: Vec<Place>, random: SmallRng) -> Self {
        Self {
            busy: vec![[false; 2]; places.len()],
            popularity: Zipf::new(places.len() as u32, 1.0),
            places,
            random,
            composed: 0,
        }
    }

    /// Operators for the next write, who are busy from now on: one, or both of a restaurant that
    /// has two, if `both` may be had. None when all are busy.
    pub fn next(&mut self, both: bool) -> Option<(Operator, Option<Operator>)> {
        let count = self.places.len();
        let first = if count == 0 { 0 } else { self.popularity.pick(&mut self.random) as usize };
        let place =
            (0..count).map(|step| (first + step) % count).find(|place| self.free(*place) > 0)?;
        let first = self.take(place)?;
        Some((first, if both { self.take(place) } else { None }))
    }

    fn free(&self, place: usize) -> usize {
        let operators = if place.is_multiple_of(TWO_EVERY) { 2 } else { 1 };
        self.busy[place][..operators].iter().filter(|busy| !**busy).count()
    }

    fn take(&mut self, place: usize) -> Option<Operator> {
        if self.free(place) == 0 {
            return None;
        }
        let number = self.busy[place].iter().position(|busy| !busy)?;
        self.busy[place][number] = true;
        Some(Operator { place: place as u32, number: number as u8 })
    }

    /// This operator's write has ended.
    pub fn done(&mut self, operator: Operator) {
        self.busy[operator.place as usize][usize::from(operator.number)] = false;
    }

    /// The index of an operator's restaurant.
    pub fn restaurant(&self, operator: Operator) -> u32 {
        self.places[operator.place as usize].restaurant
    }

    /// Writes the operator's request, complete, to the end of `request`: one item, several items
    /// and the status in turn.
    pub fn compose(
        &mut self,
        operator: Operator,
        target: &Target,
        request: &mut Vec<u8>,
    ) -> Change {
        let kind = self.composed % 3;
        self.composed += 1;
        let place = &self.places[operator.place as usize];
        let (id, random) = (place.id, &mut self.random);
        let mut value = || Availability { available: random.random(), in_stock: random.random() };
        let (path, body, change) = match kind {
            0 => {
                let value = value();
                let at = random.random_range(0..place.items.len());
                let path = format!("/restaurants/{id}/menu/items/{}/availability", place.items[at]);
                let Availability { available, in_stock } = value;
                let body = format!(r#"{{"available":{available},"in_stock":{in_stock}}}"#);
                (path, body, Change::Items(vec![(at, value)]))
            }
            1 => {
                // Neighbours, so that none comes twice.
                let values: Vec<_> =
                    (0..place.items.len().min(BULK_MAX)).map(|_| value()).collect();
                let first = random.random_range(0..place.items.len());
                let items: Vec<_> = values
                    .into_iter()
                    .enumerate()
                    .map(|(n, value)| ((first + n) % place.items.len(), value))
                    .collect();
                let path = format!("/restaurants/{id}/menu/items/availability");
                (path, bulk(place, &items), Change::Items(items))
            }
            _ => {
                let status = Status {
                    // Mostly open, so that lists of open restaurants stay full.
                    name: Name::ALL[random.random_range(0..8_usize).saturating_sub(4)],
                    capacity: Some((self.composed % CAPACITIES as u64) as i32),
                };
                let path = format!("/restaurants/{id}/status");
                let body = format!(
                    r#"{{"status":"{}","current_capacity":{}}}"#,
                    status.name.as_str(),
                    status.capacity.unwrap_or_default()
                );
                (path, body, Change::Status(status))
            }
        };
        let token = &place.tokens[usize::from(operator.number)];
        complete(request, &target.head("PUT", &path, token), body.as_bytes());
        change
    }
}

fn bulk(place: &Place, items: &[(usize, Availability)]) -> String {
    let mut body = String::from(r#"{"items":["#);
    for (n, (at, Availability { available, in_stock })) in items.iter().enumerate() {
        let comma = if n == 0 { "" } else { "," };
        let id = place.items[*at];
        let _infallible = write!(
            body,
            r#"{comma}{{"item_id":{id},"available":{available},"in_stock":{in_stock}}}"#
        );
    }
    body + "]}"
}

/// What every write answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Answer {
    /// Whether it worked; always true in a 200.
    pub success: bool,
    /// Whose.
    pub restaurant_id: i64,
    /// The version that it made.
    pub version: i64,
    /// Every reader sees it; other services than ours may not say, and then it is so.
    #[serde(default = "yes")]
    pub everywhere: bool,
}

const fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn operators(places: u32) -> Operators {
        let place = |n: u32| Place {
            restaurant: n * 10,
            id: i64::from(n) + 100,
            items: vec![1, 2, 3, 4, 5],
            tokens: [format!("first-{n}"), format!("second-{n}")],
        };
        Operators::new((0..places).map(place).collect(), SmallRng::seed_from_u64(1))
    }

    #[test]
    fn nobody_writes_twice_at_once_and_some_restaurants_are_written_by_two() {
        let mut operators = operators(4);
        let mut taken = Vec::new();
        while let Some((first, second)) = operators.next(true) {
            taken.extend([Some(first), second].into_iter().flatten());
        }
        let mut places: Vec<_> = taken.iter().map(|o| (o.place, o.number)).collect();
        places.sort_unstable();
        assert_eq!(places, [(0, 0), (0, 1), (1, 0), (2, 0), (3, 0), (3, 1)]);
        let free = taken.iter().copied().find(|o| (o.place, o.number) == (3, 1)).unwrap();
        operators.done(free);
        assert_eq!(operators.restaurant(free), 30);
        assert_eq!(operators.next(true), Some((free, None)));
        taken.into_iter().filter(|o| o.place == 0).for_each(|o| operators.done(o));
        assert_eq!(operators.next(false).unwrap().1, None, "one was asked for");
        assert_eq!(operators.next(true).unwrap().1, None, "one is left");
        assert_eq!(operators.next(true), None);
        assert_eq!(Operators::new(Vec::new(), SmallRng::seed_from_u64(1)).next(true), None);
    }

    #[test]
    fn requests_say_what_the_change_is() {
        let (mut operators, target) =
            (operators(1), Target::parse("http://menu.test:8001").unwrap());
        let (first, second) = operators.next(true).unwrap();
        let mut compose = |operator| {
            let mut request = Vec::new();
            let change = operators.compose(operator, &target, &mut request);
            (String::from_utf8(request).unwrap(), change)
        };
        let (request, Change::Items(items)) = compose(first) else { unreachable!() };
        let (at, value) = items[0];
        let path = format!("PUT /api/v1/restaurants/100/menu/items/{}/availability ", at + 1);
        assert!(request.starts_with(&path), "{request}");
        assert!(request.contains("authorization: Bearer first-0\r\n"), "{request}");
        let body = format!(r#"{{"available":{},"in_stock":{}}}"#, value.available, value.in_stock);
        assert!(request.ends_with(&body), "{request}");

        let (request, Change::Items(items)) = compose(second.unwrap()) else { unreachable!() };
        assert!(request.starts_with("PUT /api/v1/restaurants/100/menu/items/availability "));
        assert!(request.contains("authorization: Bearer second-0\r\n"), "{request}");
        let body: serde_json::Value =
            serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert_eq!(items.len(), BULK_MAX);
        for (n, (at, value)) in items.iter().enumerate() {
            let item = serde_json::json!({
                "item_id": at + 1, "available": value.available, "in_stock": value.in_stock
            });
            assert_eq!(body["items"][n], item);
        }

        let (request, Change::Status(status)) = compose(first) else { unreachable!() };
        assert!(request.starts_with("PUT /api/v1/restaurants/100/status "), "{request}");
        assert!(request.ends_with(&format!(
            r#"{{"status":"{}","current_capacity":{}}}"#,
            status.name.as_str(),
            status.capacity.unwrap()
        )));
    }
}
