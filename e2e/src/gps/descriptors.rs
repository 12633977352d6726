//! Few descriptors, and clients that only take them: those who have something to ask still get in.

use std::{
    os::unix::fs::PermissionsExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use contracts::ids::OrderId;
use futures_util::{SinkExt as _, StreamExt as _};
use loadtest::client::Caller;
use platform::auth::Role;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::{interval, sleep, timeout},
};
use tokio_tungstenite::{client_async, tungstenite::Message};

use super::{Plan, stop};
use crate::{
    report::Round,
    service::{Service, get},
};

/// The number of descriptors that the service may have.
const DESCRIPTORS: u64 = 1_024;
/// Connections that say nothing, opened again when they are closed.
const IDLE: usize = 1_100;
/// Handshakes of sockets that never say who they are, in a second.
const HANDSHAKES_PER_S: u64 = 2_000;
/// Such a socket is held on to for so long, unless the server closes it.
const HELD: Duration = Duration::from_secs(5);
/// The number held or being opened at a time: more than the server has room for.
const HELD_MAX: u64 = 3_000;
/// Customers who come in a second, and for how many seconds.
const CUSTOMERS_PER_S: u64 = 20;
const SECONDS: u64 = 15;
/// A customer who has no socket by then has none.
const SOCKET_MAX: Duration = Duration::from_secs(5);
/// Of the customers, so many in a hundred have to get a socket.
const SHARE_MIN: u64 = 99;

pub(super) async fn run(plan: &Plan, round: &mut Round) -> anyhow::Result<()> {
    platform::serve::raise_descriptors();
    let program = limited(plan)?;
    let world = &plan.world;
    let service = Service::start_program(world, &program, &round.name, "all", &[]).await?;
    let port = service.port;
    let orders = orders(plan, &service).await?;
    let fixed = service.metric("process_max_fds").await?;
    ensure!(fixed == DESCRIPTORS as f64, "the service has {fixed} descriptors");

    let crowd = Arc::new(Crowd::default());
    let mut tasks = JoinSet::new();
    for _ in 0..IDLE {
        tasks.spawn(idle(port, Arc::clone(&crowd)));
    }
    tasks.spawn(handshakes(port, orders[0], Arc::clone(&crowd)));
    sleep(Duration::from_secs(2)).await;

    round.faults = 1;
    let (mut came, mut late) = (JoinSet::new(), Vec::new());
    let started = Instant::now();
    let mut tick = interval(Duration::from_millis(1_000 / CUSTOMERS_PER_S));
    let mut alive = 0_u64;
    for n in 0..CUSTOMERS_PER_S * SECONDS {
        tick.tick().await;
        let (customer, order) =
            (customer(n % orders.len() as u64), orders[n as usize % orders.len()]);
        came.spawn(timeout(SOCKET_MAX, watch(port, order, world.tracking(order, customer))));
        if n % (CUSTOMERS_PER_S / 4) == 0 {
            let asked = Instant::now();
            match get(port, "/livez").await {
                Ok((200, _)) => alive += 1,
                Ok((status, _)) => late.push(format!("/livez answered {status}")),
                Err(error) => late.push(format!("/livez after {:.1?}: {error:#}", asked.elapsed())),
            }
        }
    }
    let took = started.elapsed();
    let (mut inside, mut why) = (0, None);
    while let Some(joined) = came.join_next().await {
        match joined? {
            Ok(Ok(())) => inside += 1,
            Ok(Err(error)) => why = Some(format!("{error:#}")),
            Err(_) => why = Some(format!("nothing in {SOCKET_MAX:?}")),
        }
    }
    let shook = crowd.shook.load(Relaxed);
    crowd.is_over.store(true, Relaxed);
    tasks.abort_all();
    while tasks.join_next().await.is_some() {}

    let asked = CUSTOMERS_PER_S * SECONDS;
    round.notes.push(format!(
        "{inside} of {asked} customers got a socket and /livez answered {alive} times in {:.0} s, \
         beside {IDLE} idle connections and {shook} handshakes without a token",
        took.as_secs_f64()
    ));
    if inside * 100 < asked * SHARE_MIN {
        let why = why.unwrap_or_default();
        round.failures.push(format!("{inside} of {asked} customers got a socket; {why}"));
    }
    round.failures.extend(late);
    // With the crowd gone everything is as before, and nothing ran out of descriptors meanwhile.
    let open = service.metric("process_open_fds").await?;
    ensure!(open < DESCRIPTORS as f64, "{open} descriptors are open");
    stop(round, &service).await?;
    Ok(())
}

/// The service with so few descriptors, of which it cannot get more.
fn limited(plan: &Plan) -> anyhow::Result<std::path::PathBuf> {
    let path = plan.world.dir().join("logistics-with-few-descriptors");
    let program = plan.world.programs.logistics.display();
    std::fs::write(
        &path,
        format!("#!/bin/sh\nulimit -n {DESCRIPTORS}\nexec '{program}' \"$@\"\n"),
    )?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700))?;
    Ok(path)
}

/// The doings of the crowd, counted.
#[derive(Default)]
struct Crowd {
    is_over: AtomicBool,
    held: AtomicU64,
    /// Handshakes that were answered.
    shook: AtomicU64,
}

/// Connects, says nothing until it is closed, and again.
async fn idle(port: u16, crowd: Arc<Crowd>) {
    while !crowd.is_over.load(Relaxed) {
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await {
            let _ = stream.read(&mut [0]).await;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

async fn handshakes(port: u16, order: OrderId, crowd: Arc<Crowd>) {
    const TICK: Duration = Duration::from_millis(10);
    let mut tick = interval(TICK);
    let mut tasks = JoinSet::new();
    loop {
        tick.tick().await;
        for _ in 0..HANDSHAKES_PER_S * TICK.as_millis() as u64 / 1_000 {
            if crowd.held.load(Relaxed) < HELD_MAX {
                crowd.held.fetch_add(1, Relaxed);
                let crowd = Arc::clone(&crowd);
                tasks.spawn(async move {
                    // Refused, or closed when its place was needed: the next one comes.
                    let _ = timeout(HELD, handshake(port, order, &crowd)).await;
                    crowd.held.fetch_sub(1, Relaxed);
                });
            }
        }
        while tasks.try_join_next().is_some() {}
    }
}

/// Opens a tracking socket and never says who it is.
async fn handshake(port: u16, order: OrderId, crowd: &Crowd) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let request = format!(
        "GET {} HTTP/1.1\r\nhost: chaos\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        path(order)
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await?;
    if answer.ends_with(b"101") {
        crowd.shook.fetch_add(1, Relaxed);
    }
    while stream.read(&mut [0; 256]).await? > 0 {}
    Ok(())
}

fn path(order: OrderId) -> String {
    format!("/api/v1/drivers/orders/{order}/driver-location")
}

/// Customers by number.
fn customer(n: u64) -> i64 {
    5_000_000 + n as i64
}

/// Deliveries to watch, each of another customer, so that nobody is over an allowance.
async fn orders(plan: &Plan, service: &Service) -> anyhow::Result<Vec<OrderId>> {
    let mut caller = Caller::new(service.target());
    let admin = plan.world.token(Role::Admin, 1);
    let mut orders = Vec::new();
    for n in 0..100 {
        let order = OrderId::generate();
        let new = json!({ "order_id": order, "customer_id": customer(n) }).to_string();
        let (status, _) = caller.call("POST", "/deliveries", &admin, new.as_bytes()).await?;
        ensure!(status == 201, "a delivery could not be made: {status}");
        orders.push(order);
    }
    Ok(orders)
}

/// Opens a tracking socket, subscribes, and hears how the order is.
async fn watch(port: u16, order: OrderId, token: String) -> anyhow::Result<()> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let url = format!("ws://127.0.0.1:{port}{}", path(order));
    let (mut socket, _) = client_async(url, stream).await?;
    let subscribe = json!({ "type": "subscribe", "token": token }).to_string();
    socket.send(Message::text(subscribe)).await?;
    loop {
        match socket.next().await.context("it was closed")?? {
            Message::Text(text) => {
                let message: Value = serde_json::from_str(&text)?;
                ensure!(message["type"] == "connected", "{message} instead of connected");
                return Ok(());
            }
            Message::Close(frame) => anyhow::bail!("closed: {frame:?}"),
            _ => {}
        }
    }
}
