//! Services as processes of their own.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use loadtest::client::{Caller, Target};
use platform::{
    auth::{Role, Signer},
    stores::{Launch, Process, Signal},
};

use crate::observe::{self, var};

/// Issuer and audience of the tokens of `devstack exec`.
const NAME: &str = "swift-eats";
/// Where logistics is told to listen.
const LISTEN: &str = "LOGISTICS_LISTEN";
const READY_LIMIT: Duration = Duration::from_secs(60);
/// A service ends within 15 s of the request to end.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// How exactly the time of a start is known.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A running service; dropped, it is asked to end.
pub(crate) struct Service {
    process: Process,
    pub(crate) target: Target,
}

impl Service {
    /// Starts it on a free port, on the stores of `devstack exec`; it is not ready yet.
    ///
    /// `listen` is its variable for the address. With `core` it has only that one.
    pub(crate) async fn start(
        command: &[&str],
        listen: &'static str,
        core: Option<usize>,
    ) -> anyhow::Result<Self> {
        let address = tokio::net::TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
        let core = core.map(|core| core.to_string());
        let words: Vec<&str> = match &core {
            Some(core) => [&["taskset", "-c", core][..], command].concat(),
            None => command.to_vec(),
        };
        let (program, args) = words.split_first().context("no service")?;
        let launch = Launch::new(*program)
            .args(args.iter().copied())
            .death_signal("TERM")
            .envs([(listen, address.to_string())].into_iter().chain(auth()));
        let target = Target::parse(&format!("http://{address}"))?;
        Ok(Self { process: Process::spawn(&launch)?, target })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.target.authority)
    }

    /// Waits until `/readyz` answers 200.
    pub(crate) async fn ready(&self) -> anyhow::Result<()> {
        let mut caller = Caller::new(self.target.clone());
        let asking = async {
            loop {
                let status = caller.call_at("GET", "/readyz", "", b"").await.map(|answer| answer.0);
                if matches!(status, Ok(200)) {
                    return Ok(());
                }
                if let Some(status) = self.process.exited() {
                    anyhow::bail!("the service ended: {status}");
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(READY_LIMIT, asking).await.context("the service is not ready")?
    }

    /// Asks it to end, and waits for that.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.process.signal(Signal::TERM);
        anyhow::ensure!(self.process.wait_for(STOP_LIMIT).await, "the service does not end");
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.process.signal(Signal::TERM);
    }
}

/// What a service has to be told about the tokens of `devstack exec`.
pub(crate) fn auth() -> [(&'static str, String); 2] {
    [("AUTH_ISSUER", NAME.to_owned()), ("AUTH_AUDIENCE", NAME.to_owned())]
}

/// A token that may see everything.
pub(crate) fn admin() -> anyhow::Result<String> {
    let key = PathBuf::from(var("AUTH_SIGNING_KEY_FILE")?);
    let signer = Signer::load(&key, NAME, NAME)?;
    Ok(signer.access(Role::Admin, 1, &[], Duration::from_secs(3_600)))
}

/// Starts logistics with all that it does.
pub(crate) async fn start_logistics() -> anyhow::Result<Service> {
    Service::start(&["logistics", "all"], LISTEN, None).await
}

/// The processes of `devstack exec` and these services.
pub(crate) fn processes(services: &[Service]) -> anyhow::Result<String> {
    let pids: Vec<String> = services.iter().map(|service| service.pid().to_string()).collect();
    Ok(format!("service={};{}", pids.join(","), var(observe::PROCESSES)?))
}

/// Settings of `bench-system logistics`.
#[derive(clap::Args)]
pub(crate) struct LogisticsArgs {
    /// Start this program and its arguments in place of logistics, to compare another server
    #[arg(long, value_name = "WORDS")]
    instead: Option<String>,
    /// The command and its arguments, after `--`; LOGISTICS_URL tells it where
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Runs a command with one logistics process; answers the command's exit code.
pub(crate) async fn logistics(args: LogisticsArgs) -> anyhow::Result<u8> {
    let service = [match &args.instead {
        Some(words) => {
            let words: Vec<&str> = words.split_whitespace().collect();
            Service::start(&words, LISTEN, None).await?
        }
        None => start_logistics().await?,
    }];
    service[0].ready().await?;
    let env = vec![("LOGISTICS_URL", service[0].url())];
    let code = observe::run(&args.command, env, processes(&service)?).await?;
    let [service] = service;
    service.stop().await?;
    Ok(code)
}
