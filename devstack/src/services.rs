//! All services of the system in this process, on the stores of one [`Stack`].

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
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

/// Running services. Dropping this asks them to end and does not wait; `stop` does.
pub struct Services {
    order: Service,
    menu: Service,
    logistics: Service,
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
        let shutdown = CancellationToken::new();
        let stop = || shutdown.clone();
        // All addresses are known before anybody who needs them starts.
        let payment_at = Listening::new("payment-sim", ports.payment).await?;
        let menu_at = Listening::new("menu-api", ports.menu).await?;
        let logistics_at = Listening::new("logistics", ports.logistics).await?;
        let order_at = Listening::new("order-api", ports.order).await?;
        let order_config =
            order_config(stack, &menu_at.url(), &payment_at.url(), logistics_at.address)?;

        let config = payment_config(stack)?;
        let payment = payment_at.serve(|listener| payment_sim::run(config, listener, stop()));
        let config = menu_config(stack)?;
        let menu = menu_at.serve(|listener| menu_api::run(config, listener, stop()));
        let config = logistics_config(stack)?;
        let logistics = logistics_at
            .serve(|listener| logistics::run(config, logistics::Role::All, listener, stop()));
        let order = order_at
            .serve(|listener| order_api::run(order_config, order_api::Role::All, listener, stop()));
        let mut services = Self { order, menu, logistics, payment, shutdown };
        let Self { order, menu, logistics, payment, .. } = &mut services;
        tokio::try_join!(
            order.wait_until_ready(),
            menu.wait_until_ready(),
            logistics.wait_until_ready(),
            payment.wait_until_ready(),
        )?;
        Ok(services)
    }

    /// Where order-api answers: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn order_url(&self) -> String {
        self.order.url()
    }

    /// Where logistics answers.
    #[must_use]
    pub fn logistics_url(&self) -> String {
        self.logistics.url()
    }

    /// Where menu-api answers.
    #[must_use]
    pub fn menu_url(&self) -> String {
        self.menu.url()
    }

    /// Where the payment gateway's double answers.
    #[must_use]
    pub fn payment_url(&self) -> String {
        self.payment.url()
    }

    /// The addresses as environment variables.
    #[must_use]
    pub fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("ORDER_URL", self.order_url()),
            ("MENU_URL", self.menu_url()),
            ("LOGISTICS_URL", self.logistics_url()),
            ("PAYMENT_GATEWAY_URL", self.payment_url()),
            ("PAYMENT_GATEWAY_KEY", GATEWAY_KEY.to_owned()),
        ]
    }

    /// Waits for a service to end by itself, which it should not; says why it did.
    pub async fn failed(&mut self) -> anyhow::Error {
        tokio::select! {
            error = self.order.failed() => error,
            error = self.menu.failed() => error,
            error = self.logistics.failed() => error,
            error = self.payment.failed() => error,
        }
    }

    /// Asks the services to finish what they do, and waits for it.
    ///
    /// # Errors
    /// A service had failed, or does not end.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        let (order, menu, logistics, payment) = tokio::join!(
            self.order.ended(),
            self.menu.ended(),
            self.logistics.ended(),
            self.payment.ended(),
        );
        order.and(menu).and(logistics).and(payment)
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
    let verify = stack.keys().verify.display().to_string();
    let flags = [
        "--database-url",
        &stack.logistics_database_url(),
        "--redis-queue-url",
        &stack.queue.url(),
        "--redis-live-url",
        &stack.live.url(),
    ];
    logistics::Config::from_flags(&[&flags, &auth_flags(&verify)[..]].concat())
}

/// The settings of menu-api on this stack; what is not named here comes from the environment.
fn menu_config(stack: &Stack) -> anyhow::Result<menu_api::Config> {
    let verify = stack.keys().verify.display().to_string();
    let flags = [
        "--database-url",
        &stack.menu_database_url(),
        "--redis-cache-url",
        &stack.cache.url(),
        "--redis-queue-url",
        &stack.queue.url(),
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
    let verify = stack.keys().verify.display().to_string();
    let signing = stack.keys().signing.display().to_string();
    let tracking = format!("ws://{logistics}/api/v1/drivers/orders/{{order_id}}/driver-location");
    let flags = [
        "--database-url",
        &stack.order_database_url(),
        "--redis-queue-url",
        &stack.queue.url(),
        "--redis-cache-url",
        &stack.cache.url(),
        "--menu-url",
        menu_url,
        "--gateway-url",
        payment_url,
        "--gateway-key",
        GATEWAY_KEY,
        "--signing-key-file",
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
