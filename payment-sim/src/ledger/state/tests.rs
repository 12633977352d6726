use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::params::Params;

#[derive(Clone, Debug)]
enum Step {
    Charge {
        order: u8,
        amount: i64,
        declined: bool,
        key: Option<u8>,
    },
    /// Of the payment with this number among those that were made; all that is left when None.
    Refund {
        payment: usize,
        amount: Option<i64>,
        declined: bool,
        key: Option<u8>,
    },
    /// Everything is read again from what was written.
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = || proptest::option::of(0_u8..6);
    let charge = (0_u8..5, 1_i64..1_000, proptest::bool::weighted(0.2), key());
    let refund = (0_usize..20, proptest::option::of(1_i64..600), any::<bool>(), key());
    let step = prop_oneof![
        4 => charge.prop_map(|(order, amount, declined, key)| {
            Step::Charge { order, amount, declined, key }
        }),
        4 => refund.prop_map(|(payment, amount, declined, key)| {
            Step::Refund { payment, amount, declined, key }
        }),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 0..60)
}

/// A payment as the model knows it.
struct Payment {
    id: Box<str>,
    order: u8,
    captured: i64,
    refunded: i64,
}

#[derive(Default)]
struct World {
    state: State,
    file: Vec<String>,
    payments: Vec<Payment>,
    /// What each key was first used for, and which line it had.
    keys: BTreeMap<u8, (String, Option<usize>)>,
}

impl World {
    /// Claims the key; None when there is nothing more to do. What was asked for is text.
    fn claim(&mut self, key: Option<u8>, asked: &str) -> Option<Origin> {
        let params = Params::parse(asked.as_bytes()).fingerprint("/");
        let origin = Origin { key: None, params, at_ms: 5_000, salt: 7 };
        let Some(key) = key else { return Some(origin) };
        let name = format!("key-{key}");
        match (self.state.claim(&name, params), self.keys.get(&key)) {
            (Ok(Known::New), None) => {
                self.keys.insert(key, (asked.to_owned(), None));
                Some(Origin { key: Some(name.into()), ..origin })
            }
            (Ok(Known::Done(entry)), Some((first, Some(line)))) => {
                assert_eq!(first, asked);
                assert_eq!(serde_json::to_string(&entry).unwrap(), self.file[*line]);
                None
            }
            (Err(Refusal::OtherParameters(_)), Some((first, _))) => {
                assert_ne!(first, asked);
                None
            }
            (_, known) => panic!("key {key} for {asked}, known for {known:?}"),
        }
    }

    fn finish(&mut self, key: Option<u8>, decided: Result<Entry, Refusal>) -> Option<Arc<Entry>> {
        match decided {
            Ok(entry) => {
                if let Some(known) = key.and_then(|key| self.keys.get_mut(&key)) {
                    known.1 = Some(self.file.len());
                }
                self.file.push(serde_json::to_string(&entry).unwrap());
                let entry = Arc::new(entry);
                self.state.publish(Arc::clone(&entry));
                Some(entry)
            }
            Err(_) => {
                if let Some(key) = key {
                    self.state.release(&format!("key-{key}"));
                    self.keys.remove(&key);
                }
                None
            }
        }
    }

    fn charge(&mut self, order: u8, amount: i64, declined: bool, key: Option<u8>) {
        let Some(origin) = self.claim(key, &format!("{order}={amount}")) else { return };
        let params = Params::parse(format!("metadata[order_id]={order}").as_bytes());
        let new = NewIntent {
            amount,
            currency: "inr".into(),
            payment_method: "pm_card_visa".into(),
            metadata: params.metadata().unwrap(),
        };
        let decided = self.state.charge(new, declined.then_some(Decline::LostCard), origin);
        let entry = self.finish(key, decided).unwrap();
        let Effect::Intent(intent) = &entry.effect else { panic!("{entry:?}") };
        let captured = if declined { 0 } else { amount };
        self.payments.push(Payment { id: intent.id.clone(), order, captured, refunded: 0 });
    }

    fn refund(&mut self, payment: usize, amount: Option<i64>, declined: bool, key: Option<u8>) {
        let Some(origin) = self.claim(key, &format!("{payment}={amount:?}")) else { return };
        let known = self.payments.get(payment).map(|p| (p.id.clone(), p.captured - p.refunded));
        let (id, left) = known.unwrap_or(("pi_00000000ff00000007".into(), 0));
        let new =
            NewRefund { payment_intent: id, amount, reason: None, metadata: Default::default() };
        let decided = self.state.refund(new, declined, origin);
        let allowed = left > 0 && amount.is_none_or(|amount| amount <= left);
        assert_eq!(decided.is_ok(), allowed, "{left} left, {amount:?} wanted: {decided:?}");
        self.finish(key, decided);
        if allowed && !declined {
            self.payments[payment].refunded += amount.unwrap_or(left);
        }
    }

    fn restart(&mut self) {
        self.state = State::default();
        for line in &self.file {
            self.state.restore(serde_json::from_str(line).unwrap()).unwrap();
        }
    }

    fn check(&self) {
        let summary = self.state.summary();
        let sum = |part: fn(&Payment) -> i64| self.payments.iter().map(part).sum::<i64>();
        let of = |sums: &BTreeMap<Box<str>, i64>| sums.get("inr").copied().unwrap_or(0);
        assert_eq!(of(&summary.captured_amount_by_currency), sum(|p| p.captured));
        assert_eq!(of(&summary.refunded_amount_by_currency), sum(|p| p.refunded));
        assert_eq!(summary.intents, self.payments.len() as u64);
        assert_eq!(summary.captured + summary.declined, summary.intents);
        let mut captures = BTreeMap::<u8, u32>::new();
        for payment in self.payments.iter().filter(|p| p.captured > 0) {
            *captures.entry(payment.order).or_default() += 1;
        }
        let mut twice: Vec<_> =
            summary.orders_charged_twice.iter().map(ToString::to_string).collect();
        twice.sort();
        let expected = captures.iter().filter(|(_, n)| **n > 1).map(|(order, _)| order.to_string());
        assert_eq!(twice, expected.collect::<Vec<_>>());
        let lines: usize = (0..5).map(|order| self.state.order(&order.to_string()).len()).sum();
        assert_eq!(lines, self.file.len(), "every effect belongs to an order");
    }
}

proptest! {
    #[test]
    fn sums_and_keys_are_those_of_a_model(steps in steps()) {
        let mut world = World::default();
        for step in steps {
            match step {
                Step::Charge { order, amount, declined, key } => {
                    world.charge(order, amount, declined, key);
                }
                Step::Refund { payment, amount, declined, key } => {
                    world.refund(payment, amount, declined, key);
                }
                Step::Restart => world.restart(),
            }
            world.check();
        }
    }
}

#[test]
fn what_is_not_on_disk_is_seen_by_nobody_and_yet_reserved() {
    let mut world = World::default();
    world.charge(1, 100, false, None);
    let id = world.payments[0].id.clone();
    let origin = |key: Option<&str>| {
        let params = Params::default().fingerprint("/");
        Origin { key: key.map(Box::from), params, at_ms: 0, salt: 0 }
    };
    let new = |amount| NewRefund {
        payment_intent: id.clone(),
        amount: Some(amount),
        reason: None,
        metadata: Default::default(),
    };
    let params = Params::default().fingerprint("/");
    assert!(matches!(world.state.claim("k", params), Ok(Known::New)));
    let waiting = world.state.refund(new(70), false, origin(Some("k"))).unwrap();
    let Effect::Refund(refund) = &waiting.effect else { panic!("{waiting:?}") };
    let refund_id = refund.id.clone();
    assert!(world.state.get(&refund_id).is_none());
    assert_eq!(world.state.summary().refunds, 0);
    assert!(matches!(world.state.claim("k", params), Err(Refusal::KeyInUse(_))));
    let too_large = world.state.refund(new(40), false, origin(None)).unwrap_err();
    assert!(matches!(too_large, Refusal::RefundTooLarge { left: 30, .. }));
    world.state.publish(Arc::new(waiting));
    assert!(world.state.get(&refund_id).is_some());
    assert!(matches!(world.state.claim("k", params), Ok(Known::Done(_))));
}

#[test]
fn a_file_that_cannot_be_is_refused() {
    let mut world = World::default();
    world.charge(1, 100, false, None);
    world.refund(0, Some(60), false, None);
    let entry = |line: &str| serde_json::from_str::<Entry>(line).unwrap();
    let [charge, refund] = &*world.file else { panic!("{:?}", world.file) };
    let mut state = State::default();
    assert_eq!(state.restore(entry(refund)), Err(Damage::Place));
    state.restore(entry(charge)).unwrap();
    assert_eq!(state.restore(entry(charge)), Err(Damage::Place));
    let elsewhere = refund.replace("pi_0000000000", "pi_0000000009");
    assert_eq!(state.restore(entry(&elsewhere)), Err(Damage::NoIntent));
    let more = refund.replace("\"amount\":60", "\"amount\":101");
    assert_eq!(state.restore(entry(&more)), Err(Damage::TooMuch));
}

#[test]
fn ids_that_are_not_ours_are_nowhere() {
    for id in ["", "pi_", "pi_+000000001", "pi_00000000", "pi_zzzzzzzzzz", "pi_ffffffffff00", "é_é"]
    {
        assert!(State::default().get(id).is_none(), "{id}");
    }
}
