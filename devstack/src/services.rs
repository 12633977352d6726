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

/// Running services. Dropping this asks them to end and does not wait; `stop` does.
pub struct Services {
    logistics: SocketAddr,
    task: JoinHandle<anyhow::Result<()>>,
    shutdown: CancellationToken,
}

impl Services {
    /// Starts every service on 127.0.0.1, and returns when they are ready. Port 0 is any free one.
    ///
    /// # Errors
    /// The port is taken, or a service ends or is not ready in time.
    pub async fn start(stack: &Stack, logistics_port: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", logistics_port))
            .await
            .with_context(|| format!("logistics cannot listen on 127.0.0.1:{logistics_port}"))?;
        let logistics = listener.local_addr()?;
        let shutdown = CancellationToken::new();
        let service = logistics::run(
            logistics_config(stack)?,
            logistics::Role::All,
            listener,
            shutdown.clone(),
        );
        let task = tokio::spawn(Box::pin(service));
        let mut services = Self { logistics, task, shutdown };
        services.wait_until_ready().await?;
        Ok(services)
    }

    /// Where logistics answers: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn logistics_url(&self) -> String {
        format!("http://{}", self.logistics)
    }

    /// The addresses as environment variables.
    #[must_use]
    pub fn env(&self) -> Vec<(&'static str, String)> {
        vec![("LOGISTICS_URL", self.logistics_url())]
    }

    /// Waits for a service to end by itself, which it should not; says why it did.
    pub async fn failed(&mut self) -> anyhow::Error {
        match (&mut self.task).await {
            Ok(Ok(())) => anyhow::anyhow!("logistics ended without being asked to"),
            Ok(Err(error)) => error.context("logistics failed"),
            Err(error) => anyhow::Error::new(error).context("logistics failed"),
        }
    }

    /// Asks the services to finish what they do, and waits for it.
    ///
    /// # Errors
    /// A service had failed, or does not end.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(STOP_LIMIT, &mut self.task).await;
        ended.context("logistics does not end")?.context("logistics failed")?
    }

    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let address = self.logistics;
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
            bail!("logistics is not ready after {} s", READY_LIMIT.as_secs());
        }
        Ok(())
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        self.shutdown.cancel();
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

/// One `GET /readyz`.
async fn is_ready(address: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut status = [0; 12];
    stream.read_exact(&mut status).await?;
    Ok(&status[9..] == b"200")
}
