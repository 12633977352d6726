//! What each arrival orders: a function of its number, so that a repetition is the same request.

use std::io::Write as _;

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use uuid::Uuid;

/// What stands before the key in an order's address; by it the key is found again.
const STREET: &str = "1 Load Street, ";
/// Of one line.
const QUANTITY_MAX: u32 = 3;
/// The bits of a key that hold the arrival's number: what version and variant leave of one half.
const NUMBER_BITS: u32 = 62;

/// A restaurant that is ordered from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kitchen {
    /// Its id.
    pub id: i64,
    /// Of its menu; at least one.
    pub items: Vec<i64>,
}

/// Customers with ids one after the other. No other run has the same, so whatever they have
/// ordered belongs to this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Customers {
    /// The lowest id.
    pub first: i64,
    /// How many.
    pub count: u32,
}

impl Customers {
    /// The id of one.
    pub fn id(self, index: u32) -> i64 {
        self.first + i64::from(index)
    }

    /// Whether it is the id of one of them.
    pub fn has(self, id: i64) -> bool {
        (self.first..self.first + i64::from(self.count)).contains(&id)
    }
}

/// The `Idempotency-Key`s of a run: random, and the number of the arrival can be read from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys(u64);

impl Keys {
    /// Keys that no other run has.
    pub fn new() -> Self {
        Self(rand::random())
    }

    /// The key of arrival `n`.
    pub fn key(self, n: u64) -> Uuid {
        let bytes = (u128::from(self.0) << 64 | u128::from(n)).to_be_bytes();
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    /// The arrival of a key; `None` when it is not of this run.
    pub fn number(self, key: Uuid) -> Option<u64> {
        let n = key.as_u64_pair().1 & ((1 << NUMBER_BITS) - 1);
        (self.key(n) == key).then_some(n)
    }
}

impl Default for Keys {
    fn default() -> Self {
        Self::new()
    }
}

/// Who orders where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Basket {
    /// Index of the customer.
    pub customer: u32,
    /// Index of the restaurant.
    pub kitchen: usize,
}

/// All that is ordered.
#[derive(Debug, Clone)]
pub struct Baskets {
    /// At least one.
    pub kitchens: Vec<Kitchen>,
    /// At least one.
    pub customers: Customers,
    /// Of each order.
    pub lines: usize,
    /// Every choice follows from it.
    pub seed: u64,
    /// See [`Keys`].
    pub keys: Keys,
}

impl Baskets {
    /// Who orders where at arrival `n`.
    pub fn basket(&self, n: u64) -> Basket {
        self.choose(n).0
    }

    fn choose(&self, n: u64) -> (Basket, SmallRng) {
        let mut random = SmallRng::seed_from_u64(self.seed.rotate_left(32) ^ n);
        let customer = random.random_range(0..self.customers.count);
        let kitchen = random.random_range(0..self.kitchens.len());
        (Basket { customer, kitchen }, random)
    }

    /// Appends the body of arrival `n`.
    pub fn write(&self, n: u64, out: &mut Vec<u8>) -> Basket {
        let (basket, mut random) = self.choose(n);
        let Kitchen { id, items } = &self.kitchens[basket.kitchen];
        let first = random.random_range(0..items.len());
        let _infallible = write!(out, r#"{{"restaurant_id":{id},"items":["#);
        for line in 0..self.lines {
            let item = items[(first + line) % items.len()];
            let quantity = random.random_range(1..=QUANTITY_MAX);
            let comma = if line == 0 { "" } else { "," };
            let _infallible = write!(out, r#"{comma}{{"item_id":{item},"quantity":{quantity}}}"#);
        }
        let key = self.keys.key(n);
        let _infallible =
            write!(out, r#"],"delivery_address":"{STREET}{key}","payment_method":"credit_card"}}"#);
        basket
    }

    /// The arrival that an order's address names.
    pub fn number(&self, address: &str) -> Option<u64> {
        self.keys.number(address.strip_prefix(STREET)?.parse().ok()?)
    }
}

#[cfg(test)]
pub(super) fn baskets(keys: Keys) -> Baskets {
    let kitchen = |id| Kitchen { id, items: (id * 100..id * 100 + 20).collect() };
    Baskets {
        kitchens: (1..=5).map(kitchen).collect(),
        customers: Customers { first: 1_000, count: 10 },
        lines: 3,
        seed: 7,
        keys,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_its_arrival_and_its_run() {
        let (keys, others) = (Keys::new(), Keys::new());
        for n in [0, 1, 77, 1 << 40] {
            assert_eq!(keys.number(keys.key(n)), Some(n));
            assert_eq!(others.number(keys.key(n)), None);
            assert_eq!(keys.key(n).get_version_num(), 4);
        }
        assert_eq!(keys.number(Uuid::nil()), None);
    }

    #[test]
    fn a_repetition_is_the_same_request() {
        let baskets = baskets(Keys::new());
        let body = |n| {
            let mut out = Vec::new();
            assert_eq!(baskets.write(n, &mut out), baskets.basket(n));
            out
        };
        assert_eq!(body(3), body(3));
        assert_ne!(body(3), body(4));
        let json: serde_json::Value = serde_json::from_slice(&body(9)).unwrap();
        assert_eq!(json["items"].as_array().unwrap().len(), 3);
        assert_eq!(baskets.number(json["delivery_address"].as_str().unwrap()), Some(9));
        let kitchen = &baskets.kitchens[baskets.basket(9).kitchen];
        assert_eq!(json["restaurant_id"], kitchen.id);
        assert_eq!(baskets.number("1 Market Street"), None);
    }

    #[test]
    fn everybody_orders_and_every_restaurant_cooks() {
        let baskets = baskets(Keys::new());
        let (mut customers, mut kitchens) = ([0; 10], [0; 5]);
        for n in 0..1_000 {
            let Basket { customer, kitchen } = baskets.basket(n);
            customers[customer as usize] += 1;
            kitchens[kitchen] += 1;
        }
        assert!(customers.iter().all(|n| (60..140).contains(n)), "{customers:?}");
        assert!(kitchens.iter().all(|n| (150..250).contains(n)), "{kitchens:?}");
    }
}
