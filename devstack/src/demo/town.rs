//! The town as a process of its own, so that the service's CPU time is measured without it.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use contracts::{
    ids::{DriverId, EventId},
    position::{Position, to_e7},
};
use loadtest::{
    check::{self, Ledger, Scope, Stores},
    client::Target,
    cpu::Processes,
    pace::{Clock, wall_us},
};
use platform::auth::Signer;
use secrecy::SecretString;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    TownArgs,
    customers::{Customers, Ordered, Targets},
    devices::Devices,
    feed::Feed,
    figures::{Figures, Observer, count, read},
    menus::Menus,
    orders::books,
    scrape::Pages,
    show::{self, Stage},
    signals,
    summary::Summary,
    view::{self, View},
};
use crate::city::{
    City, Event, Settings, What,
    phone::{Fix, PhoneSettings, Why},
};

/// The simulation is this far ahead, so that every fix is sent at the instant it was taken.
const AHEAD_US: i64 = 100_000;
/// The map moves this often.
const MARKERS_EVERY: Duration = Duration::from_millis(200);
/// Mean time between two losses of a phone's network.
const SILENT_EVERY_S: f64 = 900.0;
/// The part of the fixes that phones send twice.
const RESENT: f64 = 0.004;
/// What is not acknowledged so long after the end stays unknown.
const SEND_GRACE: Duration = Duration::from_secs(20);
/// What is not in history so long after the end is a broken promise (I2).
const DRAIN_WITHIN: Duration = Duration::from_secs(60);
/// The exit code of a run that was cut short, as for a process ended by SIGINT.
const CUT_SHORT: u8 = 130;

/// Runs the town against a service; started by `devstack demo`, which sets all of this.
#[derive(clap::Args, Clone, Debug)]
pub struct CityArgs {
    #[command(flatten)]
    town: TownArgs,
    /// When the demo was started, microseconds since 1970.
    #[arg(long)]
    started_us: Option<i64>,
    /// The service.
    #[arg(long, env = "LOGISTICS_URL")]
    url: String,
    /// The service of restaurants and menus.
    #[arg(long, env = "MENU_URL")]
    menu_url: String,
    /// The service of orders.
    #[arg(long, env = "ORDER_URL")]
    order_url: String,
    /// The payment gateway's double, for the checks at the end.
    #[arg(long, env = "PAYMENT_GATEWAY_URL")]
    payment_url: String,
    /// The key that tokens are signed with.
    #[arg(long, env = "AUTH_SIGNING_KEY_FILE")]
    signing_key_file: PathBuf,
    /// The service's database, for the checks at the end.
    #[arg(long, env = "LOGISTICS_DATABASE_URL", hide_env_values = true)]
    database_url: SecretString,
    /// The database of restaurants and menus, for the import at the start.
    #[arg(long, env = "MENU_DATABASE_URL", hide_env_values = true)]
    menu_database_url: SecretString,
    /// The `queue` Redis, for the checks at the end.
    #[arg(long, env = "REDIS_QUEUE_URL", hide_env_values = true)]
    redis_queue_url: SecretString,
    /// The `live` Redis, for the checks at the end.
    #[arg(long, env = "REDIS_LIVE_URL", hide_env_values = true)]
    redis_live_url: SecretString,
    /// Whose CPU time is shown.
    #[arg(long, env = "DEVSTACK_PROCESSES")]
    processes: Option<String>,
}

/// Runs to the end of the time, the trace, or the viewer's patience, and checks what was promised;
/// answers the exit code.
///
/// # Errors
/// The settings do not fit each other, the trace cannot be read, or the stores cannot be checked.
pub async fn run(args: CityArgs) -> anyhow::Result<u8> {
    let targets = Targets {
        orders: Target::parse(&args.order_url)?,
        menus: Target::parse(&args.menu_url)?,
        logistics: Target::parse(&args.url)?,
        payments: Target::parse(&args.payment_url)?,
    };
    let signer = Signer::load(&args.signing_key_file, "swift-eats", "swift-eats")?;
    let processes = match &args.processes {
        Some(text) => Some(Processes::parse(text).context("the list of processes is not one")?),
        None => None,
    };
    let stores = Stores::new(
        &args.database_url,
        &args.redis_queue_url,
        &args.redis_live_url,
        contracts::streams::SHARDS_DEFAULT,
    )?;
    let running_us = args.started_us.map_or(0, |started_us| wall_us() - started_us);
    let running_for = Duration::from_micros(u64::try_from(running_us).unwrap_or(0));
    let started = Instant::now().checked_sub(running_for).unwrap_or_else(Instant::now);
    let settings = args.town.clone();
    // Routes for every driver take a while when there are many.
    let feed = tokio::task::spawn_blocking(move || feed(&settings)).await??;

    let figures = Arc::new(Figures::new());
    let signer = Arc::new(signer);
    let ground = feed.ground();
    let target = targets.logistics.clone();
    let (kitchens, opened) = watch::channel(None);
    let town = Town {
        menus: Menus {
            target: targets.menus.clone(),
            database_url: args.menu_database_url,
            signer: Arc::clone(&signer),
            figures: Arc::clone(&figures),
            rate: args.town.menu_rate,
            seed: args.town.seed,
            spots: ground.restaurants.clone(),
            kitchens,
        },
        devices: Devices::new(target.clone(), Arc::clone(&signer), Arc::clone(&figures)),
        customers: Customers::new(&targets, signer, Arc::clone(&figures), opened),
        targets,
        stage: Stage {
            title: feed.title(),
            ground,
            markers: parking_lot::Mutex::new(feed.markers()),
            phase: parking_lot::Mutex::new("running"),
            snapshot: parking_lot::Mutex::default(),
            figures: Arc::clone(&figures),
            started,
            ends: args.town.time.map(|time| Instant::now() + time),
        },
        clock: Clock::start(),
    };
    let observer = Observer::new(Pages::new(target), processes);
    // Boxed: with everybody in it this future is large.
    Box::pin(town.run(feed, &args.town, observer, &stores)).await
}

fn feed(args: &TownArgs) -> anyhow::Result<Feed> {
    let (drivers, rate) = args.load()?;
    if let Some(trace) = &args.trace {
        return Feed::trace(trace, rate);
    }
    Ok(Feed::City(Box::new(City::new(&Settings {
        seed: args.seed,
        drivers,
        customers: args.customers,
        phones: PhoneSettings {
            interval_s: drivers as f64 / rate,
            silent_every_s: SILENT_EVERY_S,
            resent: RESENT,
        },
    }))))
}

struct Town {
    devices: Devices,
    customers: Customers,
    targets: Targets,
    menus: Menus,
    stage: Stage,
    clock: Clock,
}

impl Town {
    async fn run(
        self,
        mut feed: Feed,
        args: &TownArgs,
        observer: Observer,
        stores: &Stores,
    ) -> anyhow::Result<u8> {
        let [stop, abandon, shown] = std::array::from_fn(|_| CancellationToken::new());
        signals::obey(stop.clone(), abandon.clone())?;
        let view = if io::stdout().is_terminal() && !args.plain {
            let view = View::open().context("the terminal cannot be used")?;
            view::read_keys(stop.clone(), abandon.clone(), shown.clone())?;
            Some(view)
        } else {
            None
        };
        let Self { devices, customers, targets, menus, stage, clock } = self;
        let has_orders = !feed.vehicles().is_empty() && args.customers > 0;
        let show = async {
            let result = match view {
                Some(view) => show::pictures(&stage, view, &shown).await,
                None => show::lines(&stage, &shown).await,
            };
            if result.is_err() {
                // Nobody can see it any more.
                stop.cancel();
            }
            result
        };
        let observe = observer.run(&stage.figures, &stage.snapshot, stage.started, &shown);
        let register = customers_until(customers.register(feed.vehicles()), &stop);
        let town = async {
            let _shown = shown.clone().drop_guard();
            let ending = async {
                drive(&mut feed, &devices, &customers, &stage, &clock, args.time, &stop).await;
                let ran_for = stage.started.elapsed();
                let under_way = read(&stage.figures.deliveries);
                stop.cancel();
                *stage.phase.lock() = "ending: waiting for the last fixes to be stored";
                let ledger = devices.finish(SEND_GRACE).await;
                let checked = check(stores, ledger, &clock).await;
                customers.close().await;
                let orders = if has_orders {
                    *stage.phase.lock() = "ending: waiting for the last payments";
                    customers.check(&targets.payments).await
                } else {
                    books::Outcome::Off
                };
                checked.map(|checked| (ran_for, under_way, checked, orders))
            };
            abandon.run_until_cancelled(ending).await
        };
        let menus = menus.run(stop.clone(), &abandon);
        let (shown, observer, (), menus, town) = tokio::join!(show, observe, register, menus, town);
        let Some(ended) = town else { return Ok(CUT_SHORT) };
        let (ran_for, under_way, (backlog, findings), orders) = ended?;
        let (lag, cpu) = observer.whole_run();
        let summary = Summary {
            title: &stage.title,
            ran_for,
            under_way,
            snapshot: &stage.snapshot.lock(),
            figures: &stage.figures,
            lag,
            cpu,
            backlog,
            findings: &findings,
            menus: &menus,
            orders: &orders,
        };
        // A reader that has gone is no reason to forget the verdict.
        let _ = io::stdout().write_all(summary.text().as_bytes()).and(shown);
        Ok(u8::from(!summary.is_good()))
    }
}

/// Registering many drivers must not hold up the end.
async fn customers_until(register: impl Future<Output = ()>, stop: &CancellationToken) {
    let _ = stop.run_until_cancelled(register).await;
}

/// Lets the town live until it is told to stop or its time is over, then lets the phones send
/// what they still have.
async fn drive(
    feed: &mut Feed,
    devices: &Devices,
    customers: &Customers,
    stage: &Stage,
    clock: &Clock,
    time: Option<Duration>,
    stop: &CancellationToken,
) {
    let mut moved = Instant::now();
    let end_us = time.map_or(i64::MAX, |time| i64::try_from(time.as_micros()).unwrap_or(i64::MAX));
    let mut until_us = 0;
    // To the very end also when this machine is late, so that a seed is always the same run.
    while until_us < end_us && !stop.is_cancelled() && !feed.is_over() {
        until_us = end_us.min(now_us(clock) + AHEAD_US);
        let events = feed.until(until_us);
        if moved.elapsed() > MARKERS_EVERY {
            moved = Instant::now();
            *stage.markers.lock() = feed.markers();
        }
        for event in events {
            wait_until(clock, event.at_us).await;
            happen(event, devices, customers, stage, clock).await;
        }
        wait_until(clock, until_us - AHEAD_US / 2).await;
    }
    for event in feed.hang_up() {
        happen(event, devices, customers, stage, clock).await;
    }
}

async fn happen(
    event: Event,
    devices: &Devices,
    customers: &Customers,
    stage: &Stage,
    clock: &Clock,
) {
    let figures = &stage.figures;
    match event.what {
        What::Fixes { driver, why, fixes } => {
            let positions: Vec<_> = fixes
                .iter()
                .map(|fix| position(driver, fix, clock, |order| customers.id(order)))
                .collect();
            match why {
                Why::Live => {}
                Why::Missed => {
                    count(&figures.batches, 1);
                    count(&figures.batched, positions.len());
                    customers.late(
                        api_id(driver),
                        positions.iter().map(|position| position.recorded_at_us),
                    );
                }
                Why::Again => count(&figures.resent, 1),
            }
            devices.send(positions).await;
        }
        What::Ordered { order, customer, restaurant, driver } => customers.ordered(Ordered {
            order,
            restaurant,
            customer: api_id(customer),
            driver: api_id(driver),
        }),
        What::PickedUp { order } => customers.becomes(order, "picked_up"),
        What::Delivered { order } => customers.becomes(order, "delivered"),
    }
}

/// The town counts from 0, the API from 1.
fn api_id(index: usize) -> i64 {
    index as i64 + 1
}

fn position(
    driver: usize,
    fix: &Fix,
    clock: &Clock,
    order_id: impl FnOnce(u64) -> Option<contracts::ids::OrderId>,
) -> Position {
    let id = api_id(driver);
    Position {
        driver_id: DriverId::new(id).unwrap_or_else(|_| unreachable!("counted from 1")),
        recorded_at_us: clock.wall_us(u64::try_from(fix.at_us).unwrap_or(0)),
        // The name has the number already. A `seq` would become a part of it too, and what is stored
        // would no longer be what was sent.
        seq: 0,
        // One phone never uses a number twice, and a resend keeps it.
        event_id: EventId((id as u64) << 32 | u64::from(fix.seq)),
        lat_e7: to_e7(fix.latitude),
        lon_e7: to_e7(fix.longitude),
        speed_mps: fix.speed_mps,
        heading_deg: fix.heading_deg,
        accuracy_m: fix.accuracy_m,
        order_id: fix.order.and_then(order_id),
    }
}

fn now_us(clock: &Clock) -> i64 {
    i64::try_from(clock.now_us()).unwrap_or(i64::MAX)
}

async fn wait_until(clock: &Clock, at_us: i64) {
    // The timer's resolution is a millisecond: what is nearer goes now.
    if let Ok(wait_us @ 500..) = u64::try_from(at_us - now_us(clock)) {
        tokio::time::sleep(Duration::from_micros(wait_us)).await;
    }
}

/// Waits for the backlog to empty and compares the stores with what was sent.
async fn check(
    stores: &Stores,
    ledger: Ledger,
    clock: &Clock,
) -> anyhow::Result<(check::Backlog, check::Findings)> {
    let backlog = stores.drained(DRAIN_WITHIN).await?;
    let scope = Scope {
        // The stores are the demo's own: whatever is there was sent by this town, or by nobody.
        first_driver: 1,
        last_driver: i64::MAX,
        from_us: clock.wall_us(0) - 1_000_000,
        to_us: wall_us() + 60_000_000,
    };
    let verdict = check::verify(stores, ledger, scope).await?;
    Ok((backlog, verdict.findings))
}
