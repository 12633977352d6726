//! Restaurants in, so many menu-api processes up, then the load.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use platform::postgres::{self, Limits};
use platform::stores::{Launch, Process};
use secrecy::SecretString;

use crate::{
    observe::{self, var},
    service::{Service, auth, processes},
};

/// Settings of `bench-system menu`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Processes; a single one has a core to itself where there are more
    #[arg(long, default_value_t = 1)]
    nodes: usize,
    /// Restaurants; the command is told how many, too
    #[arg(long)]
    restaurants: u32,
    /// Items of each menu
    #[arg(long)]
    items: u32,
    /// The command and its arguments, after `--`; MENU_URL tells it where
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<String>,
}

/// Answers the command's exit code.
pub(crate) async fn run(args: Args) -> anyhow::Result<u8> {
    import(&args).await?;
    let one_core =
        args.nodes == 1 && std::thread::available_parallelism().is_ok_and(|n| n.get() > 1);
    let mut nodes = Vec::new();
    for _ in 0..args.nodes {
        let core = one_core.then_some(0);
        nodes.push(Service::start(&["menu-api", "serve"], "MENU_LISTEN", core).await?);
    }
    for node in &nodes {
        node.ready().await?;
    }
    until_documents_are_written().await?;
    let urls: Vec<String> = nodes.iter().map(Service::url).collect();
    let mut command = args.command;
    command.extend(["--restaurants".to_owned(), args.restaurants.to_string()]);
    let env = vec![("MENU_URL", urls.join(","))];
    let code = observe::run(&command, env, processes(&nodes)?).await?;
    for node in nodes {
        node.stop().await?;
    }
    Ok(code)
}

/// The same restaurants each time; the file stays for the next row that wants them.
async fn import(args: &Args) -> anyhow::Result<()> {
    let folder = std::env::var_os(observe::FILES).map_or_else(std::env::temp_dir, PathBuf::from);
    let (restaurants, items) = (args.restaurants.to_string(), args.items.to_string());
    let file = folder.join(format!("restaurants-{restaurants}-{items}.jsonl"));
    let name = file.display().to_string();
    if !file.exists() {
        // A file of that name is a whole one.
        let unfinished = format!("{name}.new");
        let words = ["generate", "--restaurants", &restaurants, "--items", &items, "--out"];
        menu_api(&[&words[..], &[&unfinished]].concat()).await?;
        std::fs::rename(unfinished, &file)?;
    }
    menu_api(&["import", &name]).await
}

async fn menu_api(args: &[&str]) -> anyhow::Result<()> {
    let launch = Launch::new("menu-api").args(args.iter().copied()).envs(auth());
    let status = Process::spawn(&launch)?.wait().await;
    anyhow::ensure!(status.success(), "menu-api {} failed: {status}", args.join(" "));
    Ok(())
}

/// Menus are written down and hours looked through after an import; before that is done it would
/// be measured, too. A machine that is busy with it may not answer the question in time.
async fn until_documents_are_written() -> anyhow::Result<()> {
    let url = SecretString::from(var("MENU_DATABASE_URL")?);
    let db = postgres::pool(&url, "bench-system", 1, Limits::TOOL)?;
    let deadline = Instant::now() + Duration::from_secs(300);
    loop {
        let left: Result<bool, _> = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM restaurants
             WHERE menu_document_version IS NULL OR hours_due <= now())",
        )
        .fetch_one(&db)
        .await;
        match left {
            Ok(false) => return Ok(()),
            _ if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(500)).await,
            Ok(true) => anyhow::bail!("not all menus were written down in five minutes"),
            Err(error) => return Err(error).context("the restaurants cannot be looked through"),
        }
    }
}
