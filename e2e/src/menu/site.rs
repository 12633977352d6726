//! Stores with restaurants in them, and two nodes, each behind a link of its own to Redis.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use loadtest::{client::Caller, menu::catalogue};
use platform::{
    auth::Role,
    postgres::{self, Limits},
    stores::{
        Launch, Process,
        proxy::{Mode, Proxy, Upstream},
    },
};
use sqlx::PgPool;

use super::{
    client::Client,
    ledger::{Document, Versions},
    load::{self, Load},
    witness::{Own, Targets},
};
use crate::{
    link::{redis_through, to_postgres},
    load::Running,
    service::Service,
    world::{Programs, World, tail},
};

/// Making or importing restaurants takes no longer.
const IMPORT_MAX: Duration = Duration::from_secs(120);
/// Restaurants that the witness writes, and those that it reads again and again.
const OWN: usize = 16;
const HOT: usize = 4;

/// The world of `chaos menu`.
pub(super) struct Site {
    pub(super) world: World,
    pub(super) db: PgPool,
    /// From each node to Redis.
    pub(super) links: [Proxy; 2],
    /// To PostgreSQL, for the node whose link is to fall silent.
    pub(super) database: Proxy,
    /// What nodes run.
    node: PathBuf,
    restaurants: usize,
}

impl Site {
    /// Starts stores and imports restaurants. `settings` are environment variables of the nodes,
    /// which run the program `node`.
    pub(super) async fn start(
        programs: Programs,
        node: PathBuf,
        settings: &[(&'static str, &str)],
        restaurants: usize,
        items: usize,
    ) -> anyhow::Result<Self> {
        ensure!(restaurants > OWN + HOT, "at least {} restaurants are needed", OWN + HOT + 1);
        let world = World::start(programs, contracts::streams::SHARDS_DEFAULT, settings).await?;
        let stack = &world.stack;
        let (unix, tcp) = (stack.cache.url(), stack.cache.tcp_url());
        let unix = unix.strip_prefix("redis+unix://").context("the Redis has a socket")?;
        let tcp = tcp.strip_prefix("redis://").context("the Redis has a port")?;
        let links = [
            Proxy::start(Upstream::Unix(unix.into())).await?,
            Proxy::start(Upstream::Tcp(tcp.to_owned())).await?,
        ];
        let database = Proxy::start(to_postgres(&stack.postgres)?).await?;
        let db = postgres::pool(&stack.menu_database_url().into(), "chaos", 4, Limits::TOOL)?;
        let site = Self { world, db, links, database, node, restaurants };
        let file = site.world.dir().join("restaurants.json");
        let out = file.display().to_string();
        let (count, items) = (restaurants.to_string(), items.to_string());
        site.do_once(&["generate", "--restaurants", &count, "--items", &items, "--out", &out])
            .await?;
        site.do_once(&["import", &out]).await?;
        Ok(site)
    }

    /// Runs a command of the service to its end.
    async fn do_once(&self, args: &[&str]) -> anyhow::Result<()> {
        let (name, log) = (args[0], self.world.log(args[0]));
        let launch = Launch::new(&self.world.programs.menu_api)
            .args(args.iter().copied())
            .envs(self.world.env().iter().cloned())
            .server(log.clone());
        let process = Process::spawn(&launch)?;
        let in_time = process.wait_for(IMPORT_MAX).await;
        let failed = |log: &Path| format!("menu-api {name} failed:\n    {}", tail(log, 10));
        ensure!(in_time && process.wait().await.success(), failed(&log));
        Ok(())
    }

    /// Starts a node; `database` is how it reaches that when not as usual.
    pub(super) async fn node(
        &self,
        name: &str,
        number: usize,
        database: Option<String>,
    ) -> anyhow::Result<Service> {
        let mut settings = vec![("REDIS_CACHE_URL", redis_through(&self.links[number]))];
        settings.extend(database.map(|url| ("MENU_DATABASE_URL", url)));
        let (world, name) = (&self.world, format!("{name}-{number}"));
        Service::start_program(world, &self.node, &name, "serve", &settings).await
    }

    /// Starts the load on these ports. It leaves the witness's restaurants alone.
    pub(super) fn load(&self, name: &str, ports: &[u16], load: Load) -> anyhow::Result<Running> {
        load::start(&self.world, name, ports, self.restaurants - OWN - HOT, load)
    }

    /// An administrator's token.
    pub(super) fn token(&self) -> String {
        self.world.token(Role::Admin, 1)
    }

    /// What the witness reads and writes, as it is now: the last of the list, of which the load
    /// takes the first.
    pub(super) async fn targets(&self, node: &Service) -> anyhow::Result<Targets> {
        let mut caller = Caller::new(node.target());
        let listed = catalogue::restaurants(&mut caller, &self.token(), self.restaurants).await?;
        let ids: Vec<i64> = listed.iter().map(|restaurant| restaurant.restaurant_id).collect();
        let count = ids.len();
        ensure!(count == self.restaurants, "{count} of {} are listed", self.restaurants);
        let (others, ours) = ids.split_at(count - OWN - HOT);
        let (hot, own) = ours.split_at(HOT);
        let items = sqlx::query_as(
            "SELECT restaurant_id, min(item_id) FROM menu_items
             WHERE restaurant_id = ANY($1) GROUP BY restaurant_id",
        );
        let items: Vec<(i64, i64)> = items.bind(own).fetch_all(&self.db).await?;
        let item = |id| items.iter().find(|(of, _)| *of == id).map(|(_, item)| *item);
        let versions = self.versions(own).await?;
        let own = versions.into_iter().map(|versions| {
            let item = item(versions.restaurant).context("a menu without an item")?;
            Ok(Own { versions, item })
        });
        Ok(Targets {
            own: own.collect::<anyhow::Result<_>>()?,
            hot: hot.to_vec(),
            others: others.to_vec(),
        })
    }

    /// Versions in the database.
    async fn versions(&self, ids: &[i64]) -> anyhow::Result<Vec<Versions>> {
        let rows: Vec<(i64, i64, i64, i64, i64)> = sqlx::query_as(
            "SELECT restaurant_id, profile_version, menu_version, status_version, version
             FROM restaurants WHERE restaurant_id = ANY($1)",
        )
        .bind(ids)
        .fetch_all(&self.db)
        .await?;
        let versions = rows.into_iter().map(|(restaurant, profile, menu, status, all)| Versions {
            restaurant,
            profile,
            menu,
            status,
            all,
        });
        Ok(versions.collect())
    }

    /// Asks for every document of every restaurant once, so that both caches have it.
    pub(super) async fn warm(&self, nodes: &[Service], targets: &Targets) -> anyhow::Result<()> {
        let own = targets.own.iter().map(|own| own.versions.restaurant);
        let all: Vec<i64> = own.chain(targets.hot.clone()).chain(targets.others.clone()).collect();
        for node in nodes {
            let mut client = Client::new(node.port);
            for id in &all {
                for document in Document::ALL {
                    let path = document.path(*id);
                    let answer = client.get(&path).await?;
                    ensure!(answer.status == 200, "{path}: {}", answer.status);
                }
            }
        }
        Ok(())
    }

    /// Once things are quiet, every node shows what the database has; what does not, in words.
    pub(super) async fn quiet(
        &self,
        nodes: &[Service],
        targets: &Targets,
    ) -> anyhow::Result<Vec<String>> {
        let ids: Vec<i64> = targets.own.iter().map(|own| own.versions.restaurant).collect();
        let mut failures = Vec::new();
        for (number, node) in nodes.iter().enumerate() {
            let mut client = Client::new(node.port);
            for versions in self.versions(&ids).await? {
                for document in Document::ALL {
                    let path = document.path(versions.restaurant);
                    let answer = client.get(&path).await?;
                    let body: serde_json::Value = serde_json::from_slice(&answer.body)?;
                    let expected = versions.of(document);
                    if body["version"].as_i64() != Some(expected) {
                        let shown = &body["version"];
                        failures.push(format!(
                            "in the end node {number} has {path} at {shown} and not {expected}"
                        ));
                    }
                }
            }
        }
        failures.truncate(3);
        Ok(failures)
    }

    /// Redis forgets everything.
    pub(super) async fn flush(&self) -> anyhow::Result<()> {
        redis::cmd("FLUSHALL").query_async::<()>(&mut self.world.cache().await?).await?;
        Ok(())
    }

    /// Whatever a round left behind must not spoil the next one.
    pub(super) async fn heal(&self) -> anyhow::Result<()> {
        let stack = &self.world.stack;
        stack.cache.resume();
        stack.postgres.resume();
        self.links.iter().chain([&self.database]).for_each(|link| link.set(Mode::Pass));
        if stack.cache.pid() == 0 {
            stack.cache.restart().await?;
        }
        if stack.postgres.pid() == 0 {
            stack.postgres.restart().await?;
        }
        Ok(())
    }
}
