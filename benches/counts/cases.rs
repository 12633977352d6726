//! The functions whose instructions are counted: those that decide without I/O.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use benches::{
    FIX_FULL, FIX_PLAIN, Fleet, frame,
    menus::{document, menu_json},
    orders,
    tokens::Tokens,
};
use chrono::DateTime;
use contracts::{
    events::OrderEvent,
    money::Money,
    position::Position,
    streams::{SHARDS_DEFAULT, shard_of},
};
use http::StatusCode;
use logistics::{
    fix::{Fix, check_position},
    index::{DriverIndex, Point},
    tracking::{Hub, Latest},
};
use menu_api::document::{Encoding, encode};
use order_api::{
    idempotency::Request,
    menus,
    order::{Command, decide},
    payment::gateway::{Gateway, read},
    price::price,
};
use platform::breaker::{Breaker, Settings};
use secrecy::SecretString;

/// Drivers of the index and of the hub.
const DRIVERS: usize = 10_000;

/// Calls with the same input.
const SAME: usize = 32;

/// A function.
pub(crate) struct Case {
    /// `group/name`, where the criterion benchmark of the same function is called so.
    pub(crate) name: String,
    /// Calls of a run, of which the mean is told.
    pub(crate) calls: usize,
    pub(crate) run: Box<dyn FnMut()>,
}

/// All of them, in the order in which they are told.
#[derive(Default)]
pub(crate) struct Cases(Vec<Case>);

impl Cases {
    /// One input, often enough that now and then the allocator's long way is in it.
    fn add<T>(&mut self, name: &str, mut work: impl FnMut() -> T + 'static) {
        self.add_many(name, SAME, move || {
            for _ in 0..SAME {
                black_box(work());
            }
        });
    }

    fn add_many(&mut self, name: &str, calls: usize, run: impl FnMut() + 'static) {
        self.0.push(Case { name: name.to_owned(), calls, run: Box::new(run) });
    }

    pub(crate) fn all() -> Vec<Case> {
        let mut cases = Self::default();
        cases.fixes();
        cases.wire();
        cases.index();
        cases.tracking();
        cases.menus();
        cases.orders();
        cases.payments();
        cases.platform();
        cases.0
    }

    fn fixes(&mut self) {
        let now = DateTime::parse_from_rfc3339("2026-11-20T10:00:01Z").expect("a date").to_utc();
        let mut position = Fleet::new(1).positions()[0];
        let driver_id = position.driver_id;
        for (name, json) in [("fix_parse/plain", FIX_PLAIN), ("fix_parse/full", FIX_FULL)] {
            self.add(name, move || {
                let fix: Fix = serde_json::from_str(black_box(json)).expect("a fix");
                fix.check(driver_id, now).expect("a fix in range")
            });
        }
        position.recorded_at_us = now.timestamp_micros();
        let bytes = position.encode_entry();
        self.add("fix_parse/binary", move || {
            let position = Position::decode_entry(black_box(&bytes)).expect("just encoded");
            check_position(position, now).expect("a fix in range")
        });
    }

    fn wire(&mut self) {
        let position = Fleet::new(1).positions()[0];
        let entry = position.encode_entry();
        self.add("wire/encode_entry", move || black_box(&position).encode_entry());
        self.add("wire/decode_entry", move || Position::decode_entry(black_box(&entry)));
        self.add("event_id/hashed_event_id", move || black_box(&position).hashed_event_id());
        let bytes = frame(Fleet::new(1_000).positions());
        let mut read = Vec::with_capacity(1_000);
        self.add("frame_of_1000/decode", move || {
            read.clear();
            let (_, positions) = contracts::frame::decode(black_box(&bytes), 0).expect("a frame");
            read.extend(positions.filter_map(Result::ok));
            read.len()
        });
        self.add("shard/shard_of", move || {
            shard_of(black_box(position.driver_id), black_box(SHARDS_DEFAULT))
        });
    }

    fn index(&mut self) {
        let city = || {
            let fleet = Fleet::new(DRIVERS);
            let mut index = DriverIndex::new();
            for position in fleet.positions() {
                index.update(*position, 0);
            }
            (fleet, index)
        };
        let (mut fleet, mut index) = city();
        self.add_many("index_update/walk", 1_000, move || {
            for _ in 0..1_000 {
                black_box(index.update(fleet.next_fix(), 0));
            }
        });
        let (fleet, mut index) = city();
        self.add_many("index_update/stale", 1_000, move || {
            for position in &fleet.positions()[..1_000] {
                black_box(index.update(*position, 0));
            }
        });
        let (mut fleet, index) = city();
        let places: Vec<Point> = (0..100).map(|_| fleet.place()).collect();
        self.add_many("index_nearest/nearest", places.len(), move || {
            for at in &places {
                black_box(index.nearest(black_box(*at), 10, 0, |_| true));
            }
        });
        let (mut fleet, index) = city();
        let places: Vec<Point> = (0..100).map(|_| fleet.place()).collect();
        self.add_many("index_nearest/within_1km_50", places.len(), move || {
            for at in &places {
                black_box(index.within(black_box(*at), 1_000.0, 50, 0, |_| true));
            }
        });
    }

    fn tracking(&mut self) {
        let position = Fleet::new(1).positions()[0];
        self.add("location_json/latest", move || Latest::of(black_box(&position)));
        let hub = Hub::new();
        let mut fleet = Fleet::new(1);
        let mut watch = hub.watch(position.driver_id);
        self.add("fanout/publish_to_one", move || {
            hub.publish(&fleet.next_fix());
            watch.take()
        });
    }

    fn menus(&mut self) {
        let body = menu_json();
        let copy = body.clone();
        self.add("menu_encode/document", move || document(1, black_box(&body).clone()));
        self.add("menu_encode/gzip", move || encode(black_box(&copy), Encoding::Gzip));
    }

    fn orders(&mut self) {
        let offer = orders::offer();
        let tip = Some(Money { amount: 200, currency: orders::currency() });
        for count in [3, 20] {
            let (offer, lines) = (offer.clone(), orders::lines(count));
            self.add(&format!("order_price/price/{count}"), move || {
                price(&offer, black_box(&lines), tip)
            });
        }
        let state = orders::state();
        self.add("order_decide/captured", move || {
            decide(black_box(&state), &Command::Captured, orders::ORDER_ID.0)
        });
        let (caller, body) = (orders::caller(), orders::body());
        self.add("request_hash/request", move || {
            Request::new(&caller, "POST /orders", "key-1".to_owned(), black_box(&body))
        });
        let json = orders::menu_with_status_json();
        self.add("order_menu/offer", move || menus::read(black_box(&json)));
        let event = orders::event();
        let json = serde_json::to_vec(&event).expect("an event is JSON");
        self.add("event_json/write", move || serde_json::to_string(black_box(&event)));
        self.add("event_json/read", move || serde_json::from_slice::<OrderEvent>(black_box(&json)));
    }

    fn payments(&mut self) {
        let key = SecretString::from("sk_test_bench");
        let gateway = Gateway::new("http://127.0.0.1:1", &key, Duration::from_secs(1));
        let gateway = gateway.expect("a client");
        let (job, answer) = (orders::job(), orders::gateway_answer());
        let same = job.clone();
        self.add("payment_call/request", move || {
            gateway.order(black_box(&same)).build().expect("a request")
        });
        self.add("payment_call/answer", move || {
            read(&job, StatusCode::OK, black_box(&answer), None)
        });
    }

    fn platform(&mut self) {
        let tokens = Tokens::new();
        let verifier = tokens.verifier();
        let (known, anew) = (tokens.access(7), tokens.tracking(7));
        verifier.access(&known).expect("our own token");
        let same = verifier.clone();
        let tracker = tokens.tracking_verifier();
        self.add("token/known", move || same.access(black_box(&known)));
        self.add("token/verify", move || tracker.tracking(black_box(&anew)));
        let now = Instant::now();
        let breaker = Breaker::new(Settings::default(), 7, now);
        self.add("breaker/success_without_clock", move || {
            if let Ok(permit) = breaker.try_acquire(black_box(now)) {
                permit.success(now);
            }
        });
    }
}
