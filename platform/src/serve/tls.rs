//! TLS of the service itself, by a certificate and a key in files.
//!
//! Both files are read again every few seconds, so that a renewed certificate needs no restart. What
//! cannot be read or does not belong together is logged, and the certificate before it stays.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;

/// The files are looked at this often.
const RELOAD_EVERY: Duration = Duration::from_secs(5);

/// The present certificate; a handshake takes it as it is at that moment.
pub(super) struct Tls {
    files: Files,
    current: ArcSwap<ServerConfig>,
}

#[derive(Clone)]
struct Files {
    cert: PathBuf,
    key: PathBuf,
}

/// The contents of both files.
#[derive(PartialEq)]
struct Pem {
    cert: Vec<u8>,
    key: Vec<u8>,
}

impl Tls {
    /// Reads both files, and reads them again until `shutdown`.
    ///
    /// # Errors
    /// When a file cannot be read, or the key is not that of the certificate.
    pub(super) fn load(
        cert: PathBuf,
        key: PathBuf,
        shutdown: CancellationToken,
    ) -> anyhow::Result<Arc<Self>> {
        let files = Files { cert, key };
        let pem = files.read()?;
        let current = ArcSwap::from_pointee(files.config(&pem)?);
        let tls = Arc::new(Self { files, current });
        tokio::spawn({
            let tls = Arc::clone(&tls);
            async move {
                let _ = shutdown.run_until_cancelled(tls.reload(pem)).await;
            }
        });
        Ok(tls)
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }

    async fn reload(&self, mut pem: Pem) {
        loop {
            tokio::time::sleep(RELOAD_EVERY).await;
            let files = self.files.clone();
            let Ok(read) = tokio::task::spawn_blocking(move || files.read()).await else { return };
            let renewed = match read {
                Ok(now) if now == pem => continue,
                Ok(now) => self.files.config(&now).map(|config| (now, config)),
                Err(error) => Err(error),
            };
            match renewed {
                Ok((now, config)) => {
                    self.current.store(Arc::new(config));
                    pem = now;
                    tracing::info!(cert = %self.files.cert.display(), "a renewed certificate");
                }
                // A moment between the writing of the two files looks the same.
                Err(error) => tracing::warn!(
                    error = format!("{error:#}"),
                    "the renewed certificate cannot be used, the one before stays"
                ),
            }
        }
    }
}

impl Files {
    fn read(&self) -> anyhow::Result<Pem> {
        let read = |path: &PathBuf| {
            std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))
        };
        Ok(Pem { cert: read(&self.cert)?, key: read(&self.key)? })
    }

    fn config(&self, pem: &Pem) -> anyhow::Result<ServerConfig> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem.cert)
            .collect::<Result<_, _>>()
            .with_context(|| format!("{} is not PEM", self.cert.display()))?;
        anyhow::ensure!(!chain.is_empty(), "{} has no certificate", self.cert.display());
        // The cause could quote the file.
        let key = PrivateKeyDer::from_pem_slice(&pem.key)
            .map_err(|_| anyhow::anyhow!("{} has no private key in PEM", self.key.display()))?;
        let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .with_context(|| {
                format!("{} and {} do not work together", self.cert.display(), self.key.display())
            })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}
