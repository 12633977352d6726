//! Requests that are hostile anywhere, at every route of every service.
//!
//! The routes and their parameters are those of the services' own documents. Demanded is that a
//! request is answered, and not by 5xx but for 503 and 504, that nothing panics, and that the
//! process lives. Tracking sockets, which anybody may open, get bad first messages besides.

use std::time::Instant;

use anyhow::Context as _;
use futures_util::future::try_join_all;
use loadtest::client::Connection;
use platform::auth::Role;
use rand::{SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use rustc_hash::FxHashMap;
use serde_json::json;

use super::{
    FAILED_MAX, Found, Tally,
    requests::{self, SUBJECT, make},
    surface::{self, Operation},
    tracking,
};
use crate::{
    service::{Service, get},
    world::World,
};

/// Connections to each service.
const CONNECTIONS: u64 = 3;
/// Of so many requests one more is the first message of a tracking socket.
const SOCKETS_SHARE: u64 = 100;
/// A request with a larger head may be cut off before its answer can be read.
const HEAD_MAX: usize = 16 * 1_024;

/// A service under test.
struct Door {
    service: Service,
    operations: Vec<Operation>,
}

/// The number of answers with each status that a lane got.
type Statuses = FxHashMap<u16, u64>;

/// Sends `requests` in all, and adds what was found.
pub(super) async fn run(
    world: &World,
    seed: u64,
    requests: u64,
    found: &mut Found,
) -> anyhow::Result<()> {
    // The gateway of payments is not asked anything itself.
    let (doors, _gateway) = open(world).await?;
    // Every role is tried, and half of the time one that may do most.
    let roles = Role::ALL.iter().chain([&Role::Admin; 4]);
    let tokens: Vec<String> = roles.map(|role| world.token(*role, SUBJECT)).collect();
    let (tally, started) = (Tally::default(), Instant::now());
    let mut lanes = Vec::new();
    for (number, door) in (1..).zip(&doors) {
        for lane in 0..CONNECTIONS {
            let numbers = (lane..requests / doors.len() as u64).step_by(CONNECTIONS as usize);
            let seed = seed ^ number << 56;
            lanes.push(follow(door, &tokens, &tally, seed, numbers));
        }
    }
    let sockets = doors[0].service.target();
    let numbers = (0..requests / SOCKETS_SHARE).map(|number| number | 1 << 48);
    let mut statuses = Statuses::default();
    let (lanes, ()) =
        tokio::try_join!(try_join_all(lanes), tracking::run(&sockets, &tally, seed, numbers),)?;
    for lane in lanes {
        for (status, count) in lane {
            *statuses.entry(status).or_default() += count;
        }
    }
    let took = started.elapsed().as_secs_f64();
    let failed = tally.failed.into_inner();
    if failed > 0 {
        let examples = tally.examples.into_inner().unwrap_or_default();
        found.failures.push(format!("{failed} requests: {}", examples.join("; ")));
    }
    for door in &doors {
        let (status, _) = get(door.service.port, "/livez").await.context("/livez")?;
        if status != 200 || !door.service.runs() {
            found.failures.push(format!("/livez says {status}"));
        }
        found.failures.extend(door.service.bad_log_lines());
    }
    let mut statuses: Vec<(u16, u64)> = statuses.into_iter().collect();
    statuses.sort_unstable();
    let operations: usize = doors.iter().map(|door| door.operations.len()).sum();
    let sent = tally.bodies.into_inner();
    found.notes.push(format!(
        "{sent} requests to {operations} operations in {took:.1} s, {:.0} requests/s; answers {statuses:?}",
        sent as f64 / took,
    ));
    Ok(())
}

/// Starts the three services and reads what they say of themselves.
async fn open(world: &World) -> anyhow::Result<(Vec<Door>, Service)> {
    let programs = &world.programs;
    let logistics =
        Service::start_program(world, &programs.logistics, "logistics", "all", &[]).await?;
    let menu = Service::start_program(world, &programs.menu_api, "menu-api", "serve", &[]).await?;
    let ledger = [("PAYMENT_SIM_LEDGER", world.dir().join("payments.jsonl").display().to_string())];
    let sim = Service::start_program(world, &programs.payment_sim, "payment-sim", "serve", &ledger)
        .await?;
    let settings = [
        ("MENU_URL", format!("http://127.0.0.1:{}", menu.port)),
        ("PAYMENT_GATEWAY_URL", format!("http://127.0.0.1:{}", sim.port)),
        ("PAYMENT_GATEWAY_KEY", "sk_test_sim".to_owned()),
    ];
    let order =
        Service::start_program(world, &programs.order_api, "order-api", "all", &settings).await?;
    fill(world, &logistics, &menu).await?;
    let mut doors = Vec::new();
    for service in [logistics, menu, order] {
        let (status, document) = get(service.port, "/openapi.json").await?;
        anyhow::ensure!(status == 200, "/openapi.json says {status}");
        let operations = surface::operations(&serde_json::from_slice(&document)?)?;
        doors.push(Door { service, operations });
    }
    Ok((doors, sim))
}

/// Something to be asked for: a driver, and a restaurant.
async fn fill(world: &World, logistics: &Service, menu: &Service) -> anyhow::Result<()> {
    let admin = world.token(Role::Admin, 1);
    let profile = json!({
        "name": "Bombay Bites", "cuisines": ["indian"], "address": "1 Market Street",
        "city": "San Francisco", "country": "US", "latitude": 37.7936, "longitude": -122.3958,
        "time_zone": "America/Los_Angeles", "opening_hours": "24/7", "currency": "USD",
        "delivery_fee": 299, "minimum_order": 100, "tax_basis_points": 863,
    });
    let driver = json!({"driver_id": SUBJECT, "vehicle": "bicycle"});
    let asked = [(logistics, "/drivers", vec![driver]), (menu, "/restaurants", vec![profile; 10])];
    for (service, path, bodies) in asked {
        let target = service.target();
        let head = target.head("POST", path, &admin);
        let mut connection = Connection::open(&target).await?;
        for body in bodies {
            let mut request = Vec::new();
            loadtest::client::complete(&mut request, &head, body.to_string().as_bytes());
            let reply = connection.exchange(&request).await?;
            let words = String::from_utf8_lossy(connection.body()).into_owned();
            anyhow::ensure!(reply.status == 201, "POST {path}: {} {words}", reply.status);
        }
    }
    Ok(())
}

/// One connection's requests, opened again whenever it ends.
async fn follow(
    door: &Door,
    tokens: &[String],
    tally: &Tally,
    seed: u64,
    numbers: impl Iterator<Item = u64>,
) -> anyhow::Result<Statuses> {
    use std::sync::atomic::Ordering::Relaxed;

    let target = door.service.target();
    let mut connection = None::<Connection>;
    let mut statuses = Statuses::default();
    for number in numbers {
        if tally.failed.load(Relaxed) > FAILED_MAX {
            break;
        }
        tally.bodies.fetch_add(1, Relaxed);
        let rng = &mut StdRng::seed_from_u64(seed ^ number);
        let operation = door.operations.choose(rng).context("an operation")?;
        let requests::Made { bytes, is_upgrade } = make(rng, operation, tokens);
        let said = |what: String| {
            let head = bytes.split(|byte| *byte == b'\r').next().unwrap_or_default();
            let head = String::from_utf8_lossy(&head[..head.len().min(300)]).into_owned();
            tally.failure(|| format!("{number}: {what} for {head:?}"));
        };
        if connection.as_ref().is_some_and(Connection::is_closed) {
            connection = None;
        }
        let open = match &mut connection {
            Some(open) => open,
            None => connection.insert(Connection::open(&target).await.context("connecting")?),
        };
        match open.exchange(&bytes).await {
            Ok(reply) => {
                *statuses.entry(reply.status).or_default() += 1;
                if reply.status >= 500 && !matches!(reply.status, 503 | 504) {
                    said(format!("{}", reply.status));
                }
                if reply.close || reply.status < 200 {
                    connection = None;
                }
            }
            Err(error) => {
                connection = None;
                // A socket's begin has no length and no end.
                if !is_upgrade && bytes.len() <= HEAD_MAX {
                    said(format!("no answer ({error})"));
                }
            }
        }
    }
    Ok(statuses)
}
