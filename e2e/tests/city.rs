//! A small town of `loadtest run` on the real services: orders go through kitchens and drivers to
//! their customers, and every check of every flow holds.

use clap::Parser;
use devstack::{
    services::{Ports, Services},
    stack::{Place, Stack, StackArgs},
};
use loadtest::run::command::{self, Done};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    args: command::Args,
}

const TOWN: &str = r#"
seed = 5

[town]
restaurants = 4
customers = 50
drivers = 12

[scenarios.drivers]
flow = "gps"
executor = "constant-vus"
vus = 12
duration = "120s"
background = true
settings = { carrier = "ws", every = "250ms", deliver = true, trip = "1s" }

[scenarios.fleet]
flow = "gps"
executor = "constant-arrival-rate"
rate = 2
duration = "4s"
pre_allocated_vus = 2
settings = { carrier = "batch", batch = 10 }

[scenarios.restaurants]
flow = "operator"
executor = "constant-vus"
vus = 2
duration = "120s"
background = true
settings = { cook = "500ms", change = "20%", think = "50ms" }

[scenarios.browse]
flow = "menu"
executor = "constant-arrival-rate"
rate = 5
duration = "4s"
pre_allocated_vus = 5
max_vus = 20

[scenarios.customers]
flow = "orders"
executor = "constant-arrival-rate"
rate = 3
duration = "4s"
pre_allocated_vus = 12
graceful_stop = "60s"
max_wait = "60s"

[scenarios.customers.settings]
browse = true
follow = "delivered"
watch = "70%"
cancel = "10%"
rate = "100%"

[scenarios.watchers]
flow = "track"
executor = "constant-vus"
vus = 3
duration = "4s"

[thresholds]
checks = ["rate==1"]
http_req_failed = ["rate==0"]
"http_reqs{name:POST /orders}" = ["count>=12"]
"checks{check:order comes to its end}" = ["rate==1"]
"checks{check:rating is taken}" = ["rate==1"]
"checks{check:change shows at once}" = ["rate==1"]
"checks{check:position does not go back}" = ["rate==1"]
"checks{check:events come in turn}" = ["rate==1"]
"checks{name:driver is assigned, or the order was called off}" = ["rate==1"]
"fixes{scenario:drivers}" = ["count>100"]
"fixes{scenario:fleet}" = ["count==80"]
"iterations{scenario:customers}" = ["count==12"]
order_paid_duration = ["count>0"]
push_latency = ["count>0"]
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_of_a_small_town_come_to_their_customers() {
    let stack = Stack::start(&Place::Temporary, &StackArgs::default()).await.unwrap();
    let ports = Ports { order: 0, menu: 0, logistics: 0, payment: 0 };
    let services = Services::start(&stack, ports).await.unwrap();
    let (orders, menus) = (services.order_url(), services.menu_url());
    let target = format!(
        "\n[target]\norder = '{orders}'\nmenu = '{menus}'\nlogistics = '{}'\n",
        services.logistics_url()
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("town.toml");
    std::fs::write(&file, format!("{TOWN}{target}")).unwrap();
    let env = stack.env();
    let key_of = |wanted| &env.iter().find(|(name, _)| *name == wanted).unwrap().1;
    let key = key_of("AUTH_SIGNING_KEY_FILE");
    let tracking_key = key_of("AUTH_TRACKING_SIGNING_KEY_FILE");
    let file = file.to_str().unwrap();
    let words = ["run", file, "--no-calibration", "--signing-key-file", key, "--processes", ""];
    let words = [&words[..], &["--tracking-signing-key-file", tracking_key]].concat();
    let args = Cli::parse_from(words).args;
    let done = command::start(&args, CancellationToken::new()).await.unwrap();
    let Done::Ran(summary) = &done else { unreachable!("it was not asked to check only") };
    assert!(summary.passed, "{}", done.to_text());
    services.stop().await.unwrap();
    stack.stop().await;
}
