//! TLS to PostgreSQL: what cannot work, and what is not encrypted though it might be.

use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::{
    PgConnection,
    postgres::{PgConnectOptions, PgSslMode},
};

/// Returns true when this error says that the server and our settings do not agree on TLS: waiting
/// does not change that. rustls refuses a certificate by an error of input or output.
pub(super) fn is_misconfigured(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Tls(_) | sqlx::Error::Configuration(_) => true,
        sqlx::Error::Io(error) => error.kind() == std::io::ErrorKind::InvalidData,
        _ => false,
    }
}

/// Returns true when connections go over a network, and may do so in clear text where the server
/// has no TLS.
pub(super) fn may_be_clear(options: &PgConnectOptions) -> bool {
    matches!(options.get_ssl_mode(), PgSslMode::Prefer)
        && options.get_socket().is_none()
        && !options.get_host().starts_with('/')
}

/// Says once in this process that connections are not encrypted although nobody asked for that.
pub(super) async fn show_clear_text(
    connection: &mut PgConnection,
    may_be_clear: bool,
) -> Result<(), sqlx::Error> {
    static IS_SHOWN: AtomicBool = AtomicBool::new(false);
    if !may_be_clear || IS_SHOWN.load(Ordering::Relaxed) {
        return Ok(());
    }
    let is_encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let is_encrypted: Option<bool> =
        sqlx::query_scalar(is_encrypted).fetch_optional(connection).await?;
    if is_encrypted == Some(false) && !IS_SHOWN.swap(true, Ordering::Relaxed) {
        tracing::warn!("PostgreSQL is spoken to in clear text: it has no TLS, and sslmode=prefer");
    }
    Ok(())
}
