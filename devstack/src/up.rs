//! `devstack up`: everything, until Ctrl-C.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use crate::exec::{Signals, exit_code_of_signal};
use crate::services::{Nodes, Ports, Services};
use crate::stack::{DEFAULT_FOLDER, Place, Stack, StackArgs};

/// Starts stores and services, prints their addresses and runs until Ctrl-C.
#[derive(clap::Args, Clone, Debug)]
pub struct UpArgs {
    #[command(flatten)]
    stack: StackArgs,
    /// The folder that keeps the data.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_FOLDER)]
    data: PathBuf,
    /// Keep the data in a temporary folder that is removed at the end.
    #[arg(long, conflicts_with = "data")]
    ephemeral: bool,
    #[command(flatten)]
    ports: Ports,
    #[command(flatten)]
    nodes: Nodes,
}

/// Runs until a signal or until a service fails; answers the exit code.
///
/// # Errors
/// Something does not start, or a service fails.
pub async fn up(args: UpArgs) -> anyhow::Result<u8> {
    let _telemetry = crate::logs::init("info");
    let mut signals = Signals::listen()?;
    let place = if args.ephemeral { Place::Temporary } else { Place::Folder(args.data) };
    let started = async {
        let stack = Stack::start(&place, &args.stack).await?;
        let services = Services::start_nodes(&stack, args.ports, args.nodes).await?;
        anyhow::Ok((stack, services))
    };
    let (stack, mut services) = tokio::select! {
        started = started => started?,
        signal = signals.next() => return Ok(exit_code_of_signal(signal)),
    };
    std::io::stdout().write_all(summary(&stack, &services).as_bytes())?;

    let failed = tokio::select! {
        _ = signals.next() => None,
        error = services.failed() => Some(error),
    };
    let orderly = async {
        let stopped = if failed.is_some() { Ok(()) } else { services.stop().await };
        stack.stop().await;
        stopped
    };
    let stopped = tokio::select! {
        stopped = orderly => stopped,
        // Asked a second time: what is dropped now is killed, and nothing acknowledged is lost.
        signal = signals.next() => return Ok(exit_code_of_signal(signal)),
    };
    match failed {
        Some(error) => Err(error),
        None => stopped.map(|()| 0),
    }
}

fn summary(stack: &Stack, services: &Services) -> String {
    let kind = if stack.postgres.has_timescaledb() { "TimescaleDB" } else { "native partitions" };
    let payment = services.payment_url();
    let data = stack.dir().display();
    let mut text = format!("\nSwift Eats is up, history in {kind}. Ctrl-C ends it.\n\n");
    for (name, urls) in [
        ("order-api", services.order_urls()),
        ("menu-api", services.menu_urls()),
        ("logistics", services.logistics_urls()),
    ] {
        for url in urls {
            let _ = writeln!(text, "  {name:<12} {url}  (/docs, /readyz, /metrics)");
        }
    }
    let _ = writeln!(text, "  payment-sim  {payment}  (/admin/stats, /admin/settings)");
    let _ = writeln!(text, "  PostgreSQL   {}", stack.order_database_url());
    let _ = writeln!(text, "               {}", stack.menu_database_url());
    let _ = writeln!(text, "               {}", stack.logistics_database_url());
    if stack.cluster.is_some() {
        let _ = writeln!(text, "  Redis queue, live: {}", stack.queue_url());
    }
    let single = [("queue", &stack.queue), ("live", &stack.live)];
    let single = single.into_iter().filter(|_| stack.cluster.is_none());
    for (name, server) in single.chain([("cache", &stack.cache)]) {
        let _ = writeln!(text, "  Redis {name:<6} {}  {}", server.url(), server.tcp_url());
    }
    let _ = writeln!(text, "  data, logs   {data}");
    let _ = writeln!(
        text,
        "\nTokens: {} token --data '{data}' --role driver --subject 7\n",
        std::env::args().next().unwrap_or_else(|| "devstack".to_owned())
    );
    text
}
