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

/// Where services listen on 127.0.0.1; 0 is any free port.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct Ports {
    /// The port of menu-api on 127.0.0.1.
    #[arg(long = "menu-port", default_value_t = 8001, value_name = "PORT")]
    pub menu: u16,
    /// The port of logistics on 127.0.0.1.
    #[arg(long = "logistics-port", default_value_t = 8002, value_name = "PORT")]
    pub logistics: u16,
}

/// Running services. Dropping this asks them to end and does not wait; `stop` does.
pub struct Services {
    menu: Service,
    logistics: Service,
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
        let (listener, address) = listen("menu-api", ports.menu).await?;
        let task = menu_api::run(menu_config(stack)?, listener, shutdown.clone());
        let menu = Service { name: "menu-api", address, task: tokio::spawn(Box::pin(task)) };
        let (listener, address) = listen("logistics", ports.logistics).await?;
        let role = logistics::Role::All;
        let task = logistics::run(logistics_config(stack)?, role, listener, shutdown.clone());
        let logistics = Service { name: "logistics", address, task: tokio::spawn(Box::pin(task)) };
        let mut services = Self { menu, logistics, shutdown };
        let Self { menu, logistics, .. } = &mut services;
        tokio::try_join!(menu.wait_until_ready(), logistics.wait_until_ready())?;
        Ok(services)
    }

    /// Where logistics answers: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn logistics_url(&self) -> String {
        self.logistics.url()
    }

    /// Where menu-api answers.
    #[must_use]
    pub fn menu_url(&self) -> String {
        self.menu.url()
    }

    /// The addresses as environment variables.
    #[must_use]
    pub fn env(&self) -> Vec<(&'static str, String)> {
        vec![("MENU_URL", self.menu_url()), ("LOGISTICS_URL", self.logistics_url())]
    }

    /// Waits for a service to end by itself, which it should not; says why it did.
    pub async fn failed(&mut self) -> anyhow::Error {
        tokio::select! {
            error = self.menu.failed() => error,
            error = self.logistics.failed() => error,
        }
    }

    /// Asks the services to finish what they do, and waits for it.
    ///
    /// # Errors
    /// A service had failed, or does not end.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        let (menu, logistics) = tokio::join!(self.menu.ended(), self.logistics.ended());
        menu.and(logistics)
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

async fn listen(name: &str, port: u16) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(("127.0.0.1", port))
        .await
        .with_context(|| format!("{name} cannot listen on 127.0.0.1:{port}"))?;
    let address = listener.local_addr()?;
    Ok((listener, address))
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

/// The settings of logistics on this stack; what is not named here comes from the environment.
fn logistics_config(stack: &Stack) -> anyhow::Result<logistics::Config> {
    let verify = stack.keys().verify.display().to_string();
    logistics::Config::from_flags(&[
        "--database-url",
        &stack.logistics_database_url(),
        "--redis-queue-url",
        &stack.queue.url(),
        "--redis-live-url",
        &stack.live.url(),
        "--auth-issuer",
        crate::keys::NAME,
        "--auth-audience",
        crate::keys::NAME,
        "--auth-verify-key-files",
        &verify,
    ])
}

/// The settings of menu-api on this stack; what is not named here comes from the environment.
fn menu_config(stack: &Stack) -> anyhow::Result<menu_api::Config> {
    let verify = stack.keys().verify.display().to_string();
    menu_api::Config::from_flags(&[
        "--database-url",
        &stack.menu_database_url(),
        "--redis-cache-url",
        &stack.cache.url(),
        "--auth-issuer",
        crate::keys::NAME,
        "--auth-audience",
        crate::keys::NAME,
        "--auth-verify-key-files",
        &verify,
    ])
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
