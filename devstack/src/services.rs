//! All services of the system in this process, on the stores of one [`Stack`].

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::future::{join_all, select_all, try_join_all};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::stack::Stack;

const READY_LIMIT: Duration = Duration::from_secs(60);

/// A service ends within 15 s of the request to end; this is a little more.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// The key of the payment gateway's double.
const GATEWAY_KEY: &str = "sk_test_sim";

/// Where services listen on 127.0.0.1; 0 is any free port.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct Ports {
    /// The port of order-api on 127.0.0.1.
    #[arg(long = "order-port", default_value_t = 8000, value_name = "PORT")]
    pub order: u16,
    /// The port of menu-api on 127.0.0.1.
    #[arg(long = "menu-port", default_value_t = 8001, value_name = "PORT")]
    pub menu: u16,
    /// The port of logistics on 127.0.0.1.
    #[arg(long = "logistics-port", default_value_t = 8002, value_name = "PORT")]
    pub logistics: u16,
    /// The port of payment-sim, the payment gateway's double, on 127.0.0.1.
    #[arg(long = "payment-port", default_value_t = 8010, value_name = "PORT")]
    pub payment: u16,
}

/// How many of them.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct Nodes {
    /// Start so many of each service; those after the first listen on free ports
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(1..=8))]
    pub nodes: u8,
}

/// Running services. Dropping this asks them to end and does not wait; `stop` does.
pub struct Services {
    order: Vec<Service>,
    menu: Vec<Service>,
    logistics: Vec<Service>,
    payment: Service,
    shutdown: CancellationToken,
}

struct Service {
    name: &'static str,
    address: SocketAddr,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Services {
    /// Starts every service, and returns when they are ready.
    ///
    /// # Errors
    /// A port is taken, or a service ends or is not ready in time.
    pub async fn start(stack: &Stack, ports: Ports) -> anyhow::Result<Self> {
        Self::start_nodes(stack, ports, Nodes { nodes: 1 }).await
    }

    /// The same with several nodes of each service but the payment gateway's double.
    ///
    /// # Errors
    /// As `start`.
    pub async fn start_nodes(stack: &Stack, ports: Ports, nodes: Nodes) -> anyhow::Result<Self> {
        let shutdown = CancellationToken::new();
        let stop = || shutdown.clone();
        // All addresses are known before anybody who needs them starts.
        let payment_at = Listening::new("payment-sim", ports.payment).await?;
        let menu_at = listening("menu-api", ports.menu, nodes).await?;
        let logistics_at = listening("logistics", ports.logistics, nodes).await?;
        let order_at = listening("order-api", ports.order, nodes).await?;

        let config = payment_config(stack)?;
        let payment = payment_at.serve(|listener| payment_sim::run(config, listener, stop()));
        let (mut menu, mut logistics, mut order) = (Vec::new(), Vec::new(), Vec::new());
        // Each node asks its own neighbours, as behind balancers that spread evenly.
        for ((menu_at, logistics_at), order_at) in
            menu_at.into_iter().zip(logistics_at).zip(order_at)
        {
            let config = order_config(stack, &menu_at.url(), &payment.url(), logistics_at.address)?;
            order.push(
                order_at.serve(|listener| {
                    order_api::run(config, order_api::Role::All, listener, stop())
                }),
            );
            let config = menu_config(stack)?;
            menu.push(menu_at.serve(|listener| menu_api::run(config, listener, stop())));
            let config = logistics_config(stack)?;
            logistics.push(
                logistics_at.serve(|listener| {
                    logistics::run(config, logistics::Role::All, listener, stop())
                }),
            );
        }
        let mut services = Self { order, menu, logistics, payment, shutdown };
        try_join_all(services.all().map(Service::wait_until_ready)).await?;
        Ok(services)
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Service> {
        let Self { order, menu, logistics, payment, .. } = self;
        let nodes = order.iter_mut().chain(menu).chain(logistics);
        nodes.chain(std::iter::once(payment))
    }

    /// Where order-api answers, its first node: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn order_url(&self) -> String {
        self.order[0].url()
    }

    /// Where logistics answers, its first node.
    #[must_use]
    pub fn logistics_url(&self) -> String {
        self.logistics[0].url()
    }

    /// Where menu-api answers, its first node.
    #[must_use]
    pub fn menu_url(&self) -> String {
        self.menu[0].url()
    }

    /// Where each node of order-api answers.
    #[must_use]
    pub fn order_urls(&self) -> Vec<String> {
        self.order.iter().map(Service::url).collect()
    }

    /// Where each node of logistics answers.
    #[must_use]
    pub fn logistics_urls(&self) -> Vec<String> {
        self.logistics.iter().map(Service::url).collect()
    }

    /// Where each node of menu-api answers.
    #[must_use]
    pub fn menu_urls(&self) -> Vec<String> {
        self.menu.iter().map(Service::url).collect()
    }

    /// Where the payment gateway's double answers.
    #[must_use]
    pub fn payment_url(&self) -> String {
        self.payment.url()
    }

    /// The addresses as environment variables: of the first nodes, and lists of all.
    #[must_use]
    pub fn env(&self) -> Vec<(&'static str, String)> {
        let (order, menu, logistics) = (self.order_urls(), self.menu_urls(), self.logistics_urls());
        vec![
            ("ORDER_URL", self.order_url()),
            ("MENU_URL", self.menu_url()),
            ("LOGISTICS_URL", self.logistics_url()),
            ("ORDER_URLS", order.join(",")),
            ("MENU_URLS", menu.join(",")),
            ("LOGISTICS_URLS", logistics.join(",")),
            ("PAYMENT_GATEWAY_URL", self.payment_url()),
            ("PAYMENT_GATEWAY_KEY", GATEWAY_KEY.to_owned()),
        ]
    }

    /// Waits for a service to end by itself, which it should not; says why it did.
    pub async fn failed(&mut self) -> anyhow::Error {
        let all = self.all().map(|service| Box::pin(service.failed()));
        select_all(all).await.0
    }

    /// Asks the services to finish what they do, and waits for it.
    ///
    /// # Errors
    /// A service had failed, or does not end.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        join_all(self.all().map(Service::ended)).await.into_iter().collect()
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// An address that is taken, and not served yet.
struct Listening {
    name: &'static str,
    listener: TcpListener,
    address: SocketAddr,
}

/// One address for each node; only the first has a port of somebody's choice.
async fn listening(name: &'static str, port: u16, nodes: Nodes) -> anyhow::Result<Vec<Listening>> {
    let mut all = vec![Listening::new(name, port).await?];
    for _ in 1..nodes.nodes {
        all.push(Listening::new(name, 0).await?);
    }
    Ok(all)
}

impl Listening {
    async fn new(name: &'static str, port: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port))
            .await
            .with_context(|| format!("{name} cannot listen on 127.0.0.1:{port}"))?;
        let address = listener.local_addr()?;
        Ok(Self { name, listener, address })
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn serve<F>(self, run: impl FnOnce(TcpListener) -> F) -> Service
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let Self { name, listener, address } = self;
        Service { name, address, task: tokio::spawn(Box::pin(run(listener))) }
    }
}

impl Service {
    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    async fn failed(&mut self) -> anyhow::Error {
        let name = self.name;
        match (&mut self.task).await {
            Ok(Ok(())) => anyhow::anyhow!("{name} ended without being asked to"),
            Ok(Err(error)) => error.context(format!("{name} failed")),
            Err(error) => anyhow::Error::new(error).context(format!("{name} failed")),
        }
    }

    async fn ended(&mut self) -> anyhow::Result<()> {
        let name = self.name;
        let ended = tokio::time::timeout(STOP_LIMIT, &mut self.task).await;
        ended
            .with_context(|| format!("{name} does not end"))?
            .with_context(|| format!("{name} failed"))?
    }

    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let (name, address) = (self.name, self.address);
        let ready = async {
            while !is_ready(address).await.unwrap_or(false) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::select! {
            waited = tokio::time::timeout(READY_LIMIT, ready) => waited,
            error = self.failed() => return Err(error),
        };
        if waited.is_err() {
            bail!("{name} is not ready after {} s", READY_LIMIT.as_secs());
        }
        Ok(())
    }
}

/// Whose tokens every service trusts.
fn auth_flags(verify: &str) -> [&str; 6] {
    [
        "--auth-issuer",
        crate::keys::NAME,
        "--auth-audience",
        crate::keys::NAME,
        "--auth-verify-key-files",
        verify,
    ]
}

/// The settings of logistics on this stack; what is not named here comes from the environment.
fn logistics_config(stack: &Stack) -> anyhow::Result<logistics::Config> {
    let verify = stack.keys().access.verify.display().to_string();
    let flags = [
        "--database-url",
        &stack.logistics_database_url(),
        "--redis-queue-url",
        &stack.queue_url(),
        "--redis-live-url",
        &stack.live_url(),
        "--auth-tracking-verify-key-files",
        &stack.keys().tracking.verify.display().to_string(),
    ];
    logistics::Config::from_flags(&[&flags, &auth_flags(&verify)[..]].concat())
}

/// The settings of menu-api on this stack; what is not named here comes from the environment.
fn menu_config(stack: &Stack) -> anyhow::Result<menu_api::Config> {
    let verify = stack.keys().access.verify.display().to_string();
    let flags = [
        "--database-url",
        &stack.menu_database_url(),
        "--redis-cache-url",
        &stack.cache.url(),
        "--redis-queue-url",
        &stack.queue_url(),
    ];
    menu_api::Config::from_flags(&[&flags, &auth_flags(&verify)[..]].concat())
}

/// The settings of order-api on this stack; what is not named here comes from the environment.
fn order_config(
    stack: &Stack,
    menu_url: &str,
    payment_url: &str,
    logistics: SocketAddr,
) -> anyhow::Result<order_api::Config> {
    let verify = stack.keys().access.verify.display().to_string();
    let signing = stack.keys().tracking.signing.display().to_string();
    let tracking = format!("ws://{logistics}/api/v1/drivers/orders/{{order_id}}/driver-location");
    let flags = [
        "--database-url",
        &stack.order_database_url(),
        "--redis-queue-url",
        &stack.queue_url(),
        "--redis-cache-url",
        &stack.cache.url(),
        "--menu-url",
        menu_url,
        "--gateway-url",
        payment_url,
        "--gateway-key",
        GATEWAY_KEY,
        "--tracking-signing-key-file",
        &signing,
        "--tracking-url",
        &tracking,
    ];
    order_api::Config::from_flags(&[&flags, &auth_flags(&verify)[..]].concat())
}

/// The settings of the payment gateway's double; its books are kept with the stack's data.
fn payment_config(stack: &Stack) -> anyhow::Result<payment_sim::Config> {
    let ledger = stack.dir().join("payments.jsonl").display().to_string();
    payment_sim::Config::from_flags(&["--ledger", &ledger, "--api-key", GATEWAY_KEY])
}

/// One `GET /readyz`.
async fn is_ready(address: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut status = [0; 12];
    stream.read_exact(&mut status).await?;
    Ok(&status[9..] == b"200")
}
