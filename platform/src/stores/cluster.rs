//! A private Redis Cluster: three masters, each with one replica.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use redis::{Client, Cmd, FromRedisValue, aio::MultiplexedConnection};

use super::{RedisRole, RedisServer, free_port};

const MASTERS: usize = 3;
const NODES: usize = 2 * MASTERS;
const SLOTS: usize = 16_384;
/// Nodes find each other and replicas follow their masters within seconds.
const FORM_MAX: Duration = Duration::from_secs(60);
/// Between two looks.
const STEP: Duration = Duration::from_millis(50);
/// An answer takes no longer, also while a node reads its data.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Ports of the cluster's own traffic that somebody else has taken are replaced so often.
const STARTS: usize = 3;

/// Beyond the role's. A silent master is replaced after 2 s; meanwhile the others go on, as streams
/// do not need each other.
const SETTINGS: [(&str, &str); 5] = [
    ("cluster-enabled", "yes"),
    ("cluster-node-timeout", "2000"),
    ("cluster-require-full-coverage", "no"),
    // A replica that comes back follows at once: writes may wait for it.
    ("repl-diskless-sync-delay", "0"),
    ("repl-timeout", "10"),
];

/// A running cluster on loopback. Dropping it kills its servers; `stop` lets them finish.
pub struct RedisCluster {
    nodes: Vec<RedisServer>,
}

/// A node as the cluster sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It has slots.
    Master,
    /// It follows a master that runs.
    Replica,
    /// It does not run, or not as part of the cluster.
    Away,
}

impl RedisCluster {
    /// Starts six servers with the role's settings on what data there is, and makes a cluster of
    /// them. Their folders are named as `dir` with a number.
    ///
    /// # Errors
    /// As [`RedisServer::start`], and when the servers do not find together.
    pub async fn start(role: RedisRole, dir: &Path) -> anyhow::Result<Self> {
        let mut nodes = Vec::with_capacity(NODES);
        for node in 0..NODES {
            let mut name = dir.as_os_str().to_owned();
            name.push(format!("-{node}"));
            nodes.push(start_node(role, Path::new(&name)).await?);
        }
        let cluster = Self { nodes };
        let formed = tokio::time::timeout(FORM_MAX, cluster.form()).await;
        formed.context("the Redis Cluster does not form")??;
        Ok(cluster)
    }

    /// The URL of the cluster, over TCP.
    pub fn url(&self) -> String {
        let addresses = self.nodes.iter().map(RedisServer::tcp_url);
        let hosts: Vec<String> =
            addresses.map(|url| url.trim_start_matches("redis://").to_owned()).collect();
        format!("redis-cluster://{}", hosts.join(","))
    }

    /// Its servers; which of them are masters changes.
    pub fn nodes(&self) -> &[RedisServer] {
        &self.nodes
    }

    /// What a node is now.
    pub async fn standing(&self, node: usize) -> Standing {
        let role = async {
            let mut connection = self.connect(node).await?;
            let role: Vec<redis::Value> = ask(&mut connection, &["ROLE"]).await?;
            let is_master = role.first() == Some(&redis::Value::BulkString(b"master".into()));
            let info: String = ask(&mut connection, &["INFO", "replication"]).await?;
            anyhow::Ok(match is_master {
                true => Standing::Master,
                false if info.contains("master_link_status:up") => Standing::Replica,
                false => Standing::Away,
            })
        };
        match self.nodes[node].pid() {
            0 => Standing::Away,
            _ => role.await.unwrap_or(Standing::Away),
        }
    }

    /// The nodes that are masters now.
    pub async fn masters(&self) -> Vec<usize> {
        let mut masters = Vec::new();
        for node in 0..NODES {
            if self.standing(node).await == Standing::Master {
                masters.push(node);
            }
        }
        masters
    }

    /// Waits until every slot has a master and every master a replica that is up to date.
    ///
    /// # Errors
    /// That takes too long.
    pub async fn until_well(&self) -> anyhow::Result<()> {
        let started = Instant::now();
        while !self.is_well().await.unwrap_or(false) {
            ensure!(started.elapsed() < FORM_MAX, "the Redis Cluster does not become well");
            tokio::time::sleep(STEP).await;
        }
        Ok(())
    }

    /// Shuts all servers down in order.
    pub async fn stop(self) {
        futures_util::future::join_all(self.nodes.iter().map(RedisServer::stop)).await;
    }

    async fn connect(&self, node: usize) -> anyhow::Result<MultiplexedConnection> {
        let client = Client::open(self.nodes[node].url())?;
        Ok(crate::redis::blocking(&client, ANSWER_MAX).await?)
    }

    async fn ask<T: FromRedisValue>(&self, node: usize, words: &[&str]) -> anyhow::Result<T> {
        ask(&mut self.connect(node).await?, words).await
    }

    /// Introduces the nodes to each other and gives out slots and replicas, unless they have them
    /// from an earlier start: of that they know all but today's addresses.
    async fn form(&self) -> anyhow::Result<()> {
        for server in &self.nodes[1..] {
            let (port, bus) = (server.port().to_string(), server.setting("cluster-port"));
            let bus = bus.context("a node has a port for the cluster")?;
            self.ask::<()>(0, &["CLUSTER", "MEET", "127.0.0.1", &port, bus]).await?;
        }
        let is_new = self.ask::<String>(0, &["CLUSTER", "INFO"]).await?.contains("assigned:0\r\n");
        for node in 0..NODES {
            while !self.knows_all(node).await? {
                tokio::time::sleep(STEP).await;
            }
        }
        if is_new {
            for master in 0..MASTERS {
                let (from, to) = (master * SLOTS / MASTERS, (master + 1) * SLOTS / MASTERS - 1);
                let range = ["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()];
                self.ask::<()>(master, &range).await?;
                let id: String = self.ask(master, &["CLUSTER", "MYID"]).await?;
                self.ask::<()>(MASTERS + master, &["CLUSTER", "REPLICATE", &id]).await?;
            }
        }
        while !self.is_well().await? {
            tokio::time::sleep(STEP).await;
        }
        Ok(())
    }

    async fn knows_all(&self, node: usize) -> anyhow::Result<bool> {
        let nodes: String = self.ask(node, &["CLUSTER", "NODES"]).await?;
        let is_there = |line: &&str| !line.contains("handshake") && line.contains(" connected");
        Ok(nodes.lines().filter(is_there).count() == NODES)
    }

    /// Whether all nodes agree that nothing is missing.
    async fn is_well(&self) -> anyhow::Result<bool> {
        let (mut masters, mut replicas) = (0, 0);
        for node in 0..NODES {
            let info: String = self.ask(node, &["CLUSTER", "INFO"]).await?;
            let is_ok = info.contains("cluster_state:ok") && info.contains("slots_ok:16384");
            let nodes: String = self.ask(node, &["CLUSTER", "NODES"]).await?;
            if !is_ok || nodes.contains("fail") {
                return Ok(false);
            }
            let info: String = self.ask(node, &["INFO", "replication"]).await?;
            masters += usize::from(info.contains("role:master") && info.contains("state=online"));
            replicas += usize::from(info.contains("master_link_status:up"));
        }
        Ok((masters, replicas) == (MASTERS, NODES - MASTERS))
    }
}

async fn start_node(role: RedisRole, dir: &Path) -> anyhow::Result<RedisServer> {
    for _ in 0..STARTS {
        // Redis would take its own port plus 10,000, which may be none.
        let bus = free_port()?.to_string();
        let settings = [&SETTINGS[..], &[("cluster-port", bus.as_str())]].concat();
        match RedisServer::start_with(role, dir, &settings).await {
            Err(error) if super::redis::is_port_taken(&error) => {}
            started => return started,
        }
    }
    bail!("no port on 127.0.0.1 stays free long enough to start a Redis Cluster")
}

async fn ask<T: FromRedisValue>(
    connection: &mut MultiplexedConnection,
    words: &[&str],
) -> anyhow::Result<T> {
    let mut command = Cmd::new();
    command.arg(words);
    command.query_async(connection).await.with_context(|| words.join(" "))
}
