//! Holds the transactions of one process at a known place, so that it can be frozen just there.
//!
//! The process connects as a database role of its own. A trigger of the test's database makes a
//! statement of that role wait for an advisory lock which the trap holds; nobody else is held. Once
//! the process waits, it is frozen and the lock released: the server finishes the statement, and
//! the transaction stays open at that place for as long as the process is frozen.
//!
//! A trigger waits for every transaction that writes its table, so traps are set before anything is
//! frozen; arming one takes no lock.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use devstack::stack::Stack;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

/// Any number that no other advisory lock uses; a trap's number is added to it.
const LOCK: i64 = 0x6368_616f_7300_0000;
/// A process under load comes by within this time.
const CAUGHT_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks: a lock's own time limit must not be reached before somebody looks.
const STEP: Duration = Duration::from_millis(20);

/// The place at which a transaction is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// Before its first row of the table is written.
    FirstRow,
    /// When the statement has written its rows, before its answer and the COMMIT.
    BeforeCommit,
}

/// The event that a trap waits for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// INSERT, UPDATE or DELETE.
    pub(crate) event: &'a str,
    pub(crate) table: &'a str,
    /// A condition on `NEW` or `OLD`; empty for every row.
    pub(crate) only: &'a str,
    pub(crate) at: At,
}

/// A trap that is set. What it added to the database is taken out again by [`Trap::remove`].
pub(crate) struct Trap {
    holder: PgConnection,
    number: i32,
    role: String,
    lock: i64,
    drop: String,
}

/// The name of the role of a trap.
fn role(number: u8) -> String {
    format!("chaos_frozen_{number}")
}

/// Makes the role of the trap `number` in a database, and answers with the URL by which it connects:
/// over the socket, without a password.
pub(crate) async fn connect_as(stack: &Stack, number: u8, url: &str) -> anyhow::Result<String> {
    let role = role(number);
    let make = format!(
        "DO $$ BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}') THEN
                CREATE ROLE {role} LOGIN SUPERUSER;
            END IF;
        END $$"
    );
    let url = as_superuser(stack, url)?;
    let mut superuser = PgConnection::connect(&url).await?;
    sqlx::raw_sql(AssertSqlSafe(make)).execute(&mut superuser).await?;
    let (scheme, rest) = url.split_once("://").context("a URL")?;
    let (_, server) = rest.split_once('@').context("a URL with a user")?;
    Ok(format!("{scheme}://{role}@{server}"))
}

/// The URL of the same database over the socket, as who may do everything.
fn as_superuser(stack: &Stack, url: &str) -> anyhow::Result<String> {
    let (_, rest) = url.split_once('@').context("a URL with a user")?;
    let (_, database) = rest.split_once('/').context("a URL with a database")?;
    Ok(stack.postgres.url(database.split('?').next().unwrap_or(database)))
}

impl Trap {
    /// Sets the trap `number`, in the database of this URL, for the process that connects as
    /// [`connect_as`] says. It holds nobody before it is armed.
    pub(crate) async fn set(
        stack: &Stack,
        url: &str,
        number: u8,
        place: Place<'_>,
    ) -> anyhow::Result<Self> {
        let Place { event, table, only, at } = place;
        let (role, lock, name) =
            (role(number), LOCK + i64::from(number), format!("chaos_{number}"));
        let time = match at {
            At::FirstRow => "BEFORE",
            At::BeforeCommit => "AFTER",
        };
        let only = if only.is_empty() { String::new() } else { format!("WHEN ({only})") };
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS chaos_armed (number integer PRIMARY KEY);
            DELETE FROM chaos_armed WHERE number = {number};
            CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                -- Others may not even read the table.
                IF session_user = '{role}' THEN
                    IF EXISTS (SELECT FROM chaos_armed WHERE number = {number})
                    THEN PERFORM pg_advisory_xact_lock_shared({lock});
                    END IF;
                END IF;
                IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
                RETURN NEW;
            END $$;
            CREATE TRIGGER {name} {time} {event} ON {table} FOR EACH ROW {only}
                EXECUTE FUNCTION {name}();"
        );
        let mut holder = PgConnection::connect(&as_superuser(stack, url)?).await?;
        sqlx::query("SELECT pg_advisory_lock($1)").bind(lock).execute(&mut holder).await?;
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut holder).await.context("setting a trap")?;
        let drop =
            format!("DROP TRIGGER IF EXISTS {name} ON {table}; DROP FUNCTION IF EXISTS {name}()");
        Ok(Self { holder, number: number.into(), role, lock, drop })
    }

    /// Holds the next transaction that comes by.
    pub(crate) async fn arm(&mut self) -> anyhow::Result<()> {
        sqlx::query("INSERT INTO chaos_armed VALUES ($1)")
            .bind(self.number)
            .execute(&mut self.holder)
            .await?;
        Ok(())
    }

    /// Waits until the process is held; answers with the process id of its server process.
    pub(crate) async fn caught(&mut self) -> anyhow::Result<i32> {
        let since = Instant::now();
        loop {
            let held: Option<i32> = sqlx::query_scalar(
                "SELECT pid FROM pg_stat_activity
                 WHERE usename = $1 AND wait_event_type = 'Lock' AND wait_event = 'advisory'",
            )
            .bind(&self.role)
            .fetch_optional(&mut self.holder)
            .await?;
            if let Some(pid) = held {
                return Ok(pid);
            }
            ensure!(since.elapsed() < CAUGHT_WITHIN, "{} is not caught", self.role);
            tokio::time::sleep(STEP).await;
        }
    }

    /// Lets the server go on with what it held, and answers when it has no more to do without the
    /// process: how its transaction stands, `idle in transaction` or `active` (in the data of a
    /// COPY that the process has not sent).
    pub(crate) async fn release(&mut self, pid: i32) -> anyhow::Result<String> {
        sqlx::query("DELETE FROM chaos_armed WHERE number = $1")
            .bind(self.number)
            .execute(&mut self.holder)
            .await?;
        sqlx::query("SELECT pg_advisory_unlock($1)")
            .bind(self.lock)
            .execute(&mut self.holder)
            .await?;
        let since = Instant::now();
        loop {
            let state: Option<String> = sqlx::query_scalar(
                "SELECT state FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'ClientRead'
                 AND xact_start IS NOT NULL",
            )
            .bind(pid)
            .fetch_optional(&mut self.holder)
            .await?;
            if let Some(state) = state {
                return Ok(state);
            }
            ensure!(since.elapsed() < CAUGHT_WITHIN, "{} has no open transaction", self.role);
            tokio::time::sleep(STEP).await;
        }
    }

    /// Takes the trigger out of the database, whose writers go on: a deadlock with them is tried
    /// again.
    pub(crate) async fn remove(mut self) -> anyhow::Result<()> {
        let since = Instant::now();
        loop {
            let dropped = sqlx::raw_sql(AssertSqlSafe(self.drop.clone())).execute(&mut self.holder);
            match dropped.await {
                Ok(_) => return Ok(()),
                Err(error) if since.elapsed() > CAUGHT_WITHIN => return Err(error.into()),
                Err(_) => tokio::time::sleep(STEP).await,
            }
        }
    }
}
