//! Settings of the HTTP server.

use std::convert::Infallible;
use std::path::PathBuf;
use std::time::Duration;

use super::client::TrustedProxies;
use super::origins::Origins;
use crate::run;

/// Settings of the HTTP server
#[derive(clap::Args, Clone, Debug)]
pub struct HttpArgs {
    /// A request that has no answer after this is answered with 504, or 408 when its body has not
    /// come
    #[arg(
        long = "http-request-timeout",
        env = "HTTP_REQUEST_TIMEOUT",
        default_value = "10s",
        value_parser = run::parse_duration
    )]
    pub request_timeout: Duration,
    /// A connection that sends no complete request header for this long is closed; so this is
    /// also how long it may be idle between two requests, and take for its TLS handshake
    #[arg(
        long = "http-header-timeout",
        env = "HTTP_HEADER_TIMEOUT",
        default_value = "30s",
        value_parser = run::parse_duration
    )]
    pub header_timeout: Duration,
    /// A connection whose client has read nothing of what waits for it for this long is closed
    #[arg(
        long = "http-write-timeout",
        env = "HTTP_WRITE_TIMEOUT",
        default_value = "20s",
        value_parser = run::parse_duration
    )]
    pub write_timeout: Duration,
    /// Connections at a time, sockets included. For one more the longest idle one gives way; when
    /// all are at work it is answered with 503. Lowered at start to what the limit of descriptors
    /// has room for
    #[arg(long = "http-max-connections", env = "HTTP_MAX_CONNECTIONS", default_value_t = 50_000)]
    pub max_connections: usize,
    /// Largest request body in bytes, whatever a route allows by itself
    #[arg(long = "http-max-body-bytes", env = "HTTP_MAX_BODY_BYTES", default_value_t = 1 << 20)]
    pub max_body_bytes: usize,
    /// How long running requests may take to finish after SIGTERM
    #[arg(
        long = "http-shutdown-grace",
        env = "HTTP_SHUTDOWN_GRACE",
        default_value = "10s",
        value_parser = run::parse_duration
    )]
    pub shutdown_grace: Duration,
    /// Origins whose pages may call the API (`https://app.example`), separated by commas, or * for
    /// all
    #[arg(long = "http-cors-origins", env = "HTTP_CORS_ORIGINS", default_value = "")]
    pub cors_origins: Origins,
    /// Networks of proxies (`10.0.0.0/8,fd00::/8`) whose Forwarded or X-Forwarded-For names the
    /// client; from others the header is not looked at
    #[arg(long = "http-trusted-proxies", env = "HTTP_TRUSTED_PROXIES", default_value = "")]
    pub trusted_proxies: TrustedProxies,
    /// Certificate chain in PEM, to serve HTTPS instead of HTTP; read again when it changes
    #[arg(long = "http-tls-cert-file", env = "HTTP_TLS_CERT_FILE", value_parser = path)]
    pub tls_cert_file: Option<PathBuf>,
    /// Private key of that certificate, in PEM
    #[arg(long = "http-tls-key-file", env = "HTTP_TLS_KEY_FILE", value_parser = path)]
    pub tls_key_file: Option<PathBuf>,
}

/// A path that may be empty, as compose passes on what is not set; clap's own refuses that.
fn path(text: &str) -> Result<PathBuf, Infallible> {
    Ok(PathBuf::from(text))
}

impl Default for HttpArgs {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(20),
            max_connections: 50_000,
            max_body_bytes: 1 << 20,
            shutdown_grace: Duration::from_secs(10),
            cors_origins: Origins::default(),
            trusted_proxies: TrustedProxies::default(),
            tls_cert_file: None,
            tls_key_file: None,
        }
    }
}

impl HttpArgs {
    /// The files of certificate and key, when both are named.
    ///
    /// # Errors
    /// When only one is. An empty name is none.
    pub(super) fn tls_files(&self) -> anyhow::Result<Option<(PathBuf, PathBuf)>> {
        let named =
            |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
        match (named(&self.tls_cert_file), named(&self.tls_key_file)) {
            (None, None) => Ok(None),
            (Some(cert), Some(key)) => Ok(Some((cert, key))),
            _ => anyhow::bail!("HTTP_TLS_CERT_FILE and HTTP_TLS_KEY_FILE are given together"),
        }
    }

    /// Refuses settings that cannot work.
    pub(super) fn validate(&self) -> anyhow::Result<()> {
        for (name, value) in [
            ("HTTP_REQUEST_TIMEOUT", self.request_timeout),
            ("HTTP_HEADER_TIMEOUT", self.header_timeout),
            ("HTTP_WRITE_TIMEOUT", self.write_timeout),
        ] {
            anyhow::ensure!(!value.is_zero(), "{name} must be positive");
        }
        anyhow::ensure!(self.max_connections > 0, "HTTP_MAX_CONNECTIONS must be positive");
        self.tls_files().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let valid = |change: fn(&mut HttpArgs)| {
            let mut args = HttpArgs::default();
            change(&mut args);
            args.validate().is_ok()
        };
        assert!(valid(|_| {}));
        assert!(valid(|args| args.tls_cert_file = Some(PathBuf::new())));
        assert!(!valid(|args| args.tls_cert_file = Some("cert.pem".into())));
        assert!(!valid(|args| args.tls_key_file = Some("key.pem".into())));
        assert!(!valid(|args| args.write_timeout = Duration::ZERO));
        assert!(!valid(|args| args.max_connections = 0));
    }
}
