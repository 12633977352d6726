//! Databases that belong to one role, which can open no other.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};

use super::PostgresServer;

/// Also run by docker-compose.yml.
const OWN: &str = include_str!("own.sql");

impl PostgresServer {
    /// Creates a database and a role of the same name that owns it, unless they are there; `extensions`
    /// are those that the role could not make itself.
    ///
    /// # Errors
    /// As [`create_database`](Self::create_database), or an extension is not installed.
    pub async fn create_owned_database(
        &self,
        name: &str,
        extensions: &[&str],
    ) -> anyhow::Result<()> {
        self.create_database(name).await?;
        let mut connection = PgConnection::connect(&self.url(name)).await?;
        let exists = sqlx::query("SELECT FROM pg_roles WHERE rolname = $1")
            .bind(name)
            .fetch_optional(&mut connection)
            .await?;
        if exists.is_none() {
            // `create_database` has refused what is no plain identifier.
            let create = format!("CREATE ROLE {name} LOGIN");
            connection.execute(AssertSqlSafe(create)).await?;
        }
        for extension in extensions {
            let create = format!("CREATE EXTENSION IF NOT EXISTS {extension}");
            connection.execute(AssertSqlSafe(create)).await?;
            // TimescaleDB may end the session that has made it.
            connection = PgConnection::connect(&self.url(name)).await?;
        }
        sqlx::query("SELECT set_config('swift.owner', $1, false)")
            .bind(name)
            .execute(&mut connection)
            .await?;
        connection.execute(OWN).await?;
        connection.close().await?;
        Ok(())
    }

    /// The URL of a database as the role that owns it, over the unix socket.
    pub fn owner_url(&self, name: &str) -> String {
        self.url_of(name, name)
    }
}
