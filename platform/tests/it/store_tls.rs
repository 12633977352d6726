//! TLS to stores: real servers, with certificates made here.

use std::{os::unix::fs::MetadataExt as _, path::Path, time::Duration};

use futures_util::StreamExt as _;
use platform::{
    health::Health,
    postgres,
    redis::Redis,
    stores::{PostgresOptions, PostgresServer, RedisRole, RedisServer, Timescaledb, free_port},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::time::timeout;

/// Nothing that a test waits for takes longer, even on a busy machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// An authority that two servers of the same name may have.
fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Writes `ca.pem`, `other.pem` (of an authority that signed nothing here), and a certificate of
/// `localhost` with its key.
fn certificates(dir: &TempDir) {
    let (ours, other, key) = (authority(), authority(), KeyPair::generate().unwrap());
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &ours).unwrap();
    for (name, text) in [
        ("ca.pem", ours.pem()),
        ("other.pem", other.pem()),
        ("server.pem", certificate.pem()),
        ("server.key", key.serialize_pem()),
    ] {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
}

fn file(dir: &TempDir, name: &str) -> String {
    dir.path().join(name).display().to_string()
}

/// A Redis that speaks TLS; its port.
async fn redis_server(dir: &TempDir, more: &[(&str, &str)]) -> (RedisServer, u16) {
    certificates(dir);
    let port = free_port().unwrap();
    let (cert, key, ca) = (file(dir, "server.pem"), file(dir, "server.key"), file(dir, "ca.pem"));
    let text = port.to_string();
    let mut settings = vec![
        ("tls-port", text.as_str()),
        ("tls-cert-file", &cert),
        ("tls-key-file", &key),
        ("tls-ca-cert-file", &ca),
        ("tls-auth-clients", "no"),
    ];
    settings.extend(more);
    let place = dir.path().join("redis");
    (RedisServer::start_with(RedisRole::Cache, &place, &settings).await.unwrap(), port)
}

async fn ping(url: String) -> Result<String, String> {
    let redis = Redis::open(&url.into()).map_err(|error| format!("{error:#}"))?;
    let mut connection = redis.connection().unwrap();
    let mut answer = Err(String::new());
    // A handshake is work, and a machine may be busy.
    for _ in 0..20 {
        let asked = redis::cmd("PING").query_async(&mut connection).await;
        answer = asked.map_err(|error: redis::RedisError| error.to_string());
        if answer.as_ref().is_ok() || answer.as_ref().is_err_and(|e| e.contains("certificate")) {
            break;
        }
    }
    answer
}

#[tokio::test]
async fn redis_is_spoken_to_over_tls() {
    let dir = platform::stores::temp_dir().unwrap();
    let (_server, port) = redis_server(&dir, &[]).await;
    let ca = file(&dir, "ca.pem");
    let url = format!("rediss://localhost:{port}?sslrootcert={ca}");
    assert_eq!(ping(url.clone()).await.unwrap(), "PONG");

    let redis = Redis::open(&url.into()).unwrap();
    let mut subscription = redis.pubsub().await.unwrap();
    subscription.subscribe("c").await.unwrap();
    let mut blocking = redis.blocking(DEADLINE).await.unwrap();
    let heard: u32 =
        redis::cmd("PUBLISH").arg("c").arg("x").query_async(&mut blocking).await.unwrap();
    assert_eq!(heard, 1);
    let message = timeout(DEADLINE, subscription.next()).await.unwrap().unwrap();
    assert_eq!(message.get_payload_bytes(), b"x");

    let refused = |answer: Result<String, String>, why: &str| {
        let error = answer.expect_err(why);
        assert!(error.contains("certificate"), "{why}: {error}");
    };
    let other = file(&dir, "other.pem");
    let url = format!("rediss://localhost:{port}?sslrootcert={other}");
    refused(ping(url).await, "another authority");
    refused(ping(format!("rediss://localhost:{port}")).await, "no authority");
    let url = format!("rediss://127.0.0.1:{port}?sslrootcert={ca}");
    refused(ping(url).await, "another name");

    ping(format!("redis://localhost:{port}")).await.expect_err("clear text");
    let plain = ping(format!("redis://localhost:{port}?sslrootcert={ca}")).await.unwrap_err();
    assert!(plain.contains("rediss"), "{plain}");
    let missing = ping(format!("rediss://localhost:{port}?sslrootcert=/no/file")).await;
    assert!(missing.unwrap_err().contains("/no/file"));
}

#[tokio::test]
async fn a_cluster_is_spoken_to_over_tls() {
    let dir = platform::stores::temp_dir().unwrap();
    let (server, port) = redis_server(
        &dir,
        &[
            ("cluster-enabled", "yes"),
            ("tls-cluster", "yes"),
            ("cluster-announce-hostname", "localhost"),
            ("cluster-preferred-endpoint-type", "hostname"),
        ],
    )
    .await;
    let own = redis::Client::open(server.url()).unwrap();
    let mut own = own.get_multiplexed_async_connection().await.unwrap();
    let () = redis::cmd("CLUSTER")
        .arg(&["ADDSLOTSRANGE", "0", "16383"])
        .query_async(&mut own)
        .await
        .unwrap();
    let url =
        |name: &str| format!("rediss-cluster://localhost:{port}?sslrootcert={}", file(&dir, name));
    let mut connection = Redis::open(&url("ca.pem").into()).unwrap().connection().unwrap();
    let set = async |connection: &mut platform::redis::Connection| {
        redis::cmd("INCR").arg("n").query_async::<i64>(connection).await
    };
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while let Err(error) = set(&mut connection).await {
        assert!(tokio::time::Instant::now() < deadline, "{error}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut other = Redis::open(&url("other.pem").into()).unwrap().connection().unwrap();
    set(&mut other).await.expect_err("another authority");
}

#[tokio::test]
async fn a_handshake_that_is_not_answered_ends() {
    let dir = platform::stores::temp_dir().unwrap();
    certificates(&dir);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let _silent = tokio::spawn(async move {
        let mut taken = Vec::new();
        loop {
            taken.push(listener.accept().await.unwrap());
        }
    });
    let url = format!("rediss://localhost:{port}?sslrootcert={}", file(&dir, "ca.pem"));
    let redis = Redis::open(&url.into()).unwrap();
    let mut connection = redis.connection().unwrap();
    let ping = redis::cmd("PING");
    let asked = ping.query_async::<String>(&mut connection);
    assert!(timeout(DEADLINE, asked).await.unwrap().unwrap_err().is_timeout());
    assert!(timeout(DEADLINE, redis.pubsub()).await.unwrap().is_err());
    assert!(timeout(DEADLINE, redis.blocking(DEADLINE)).await.unwrap().is_err());
}

/// Makes PostgreSQL speak TLS, with a key that only its account can read.
async fn speak_tls(server: &PostgresServer, dir: &TempDir) {
    certificates(dir);
    let data = server.place().join("data");
    let owner = std::fs::metadata(&data).unwrap();
    let take = |name: &str, mode: u32| {
        use std::os::unix::fs::{PermissionsExt as _, chown};
        let place = data.join(name);
        std::fs::copy(Path::new(&file(dir, name)), &place).unwrap();
        std::fs::set_permissions(&place, std::fs::Permissions::from_mode(mode)).unwrap();
        chown(&place, Some(owner.uid()), Some(owner.gid())).unwrap();
    };
    take("server.pem", 0o644);
    take("server.key", 0o600);
    let db = pool(&server.url("postgres")).unwrap();
    for statement in [
        "ALTER SYSTEM SET ssl_cert_file = 'server.pem'",
        "ALTER SYSTEM SET ssl_key_file = 'server.key'",
        "ALTER SYSTEM SET ssl = on",
        "SELECT pg_reload_conf()",
    ] {
        sqlx::query(statement).execute(&db).await.unwrap();
    }
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let is_on: String = sqlx::query_scalar("SHOW ssl").fetch_one(&db).await.unwrap();
        if is_on == "on" {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "PostgreSQL does not turn TLS on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn pool(url: &str) -> anyhow::Result<sqlx::PgPool> {
    postgres::pool(&url.to_owned().into(), "test", 2, postgres::Limits::TOOL)
}

/// As a service opens its database: whether the connection is encrypted, or why there is none. One
/// that is away is waited for, and one that cannot be spoken to must not be.
async fn open(url: &str) -> anyhow::Result<bool> {
    let db = pool(url)?;
    let dependency = Health::new("test").dependency("database");
    let is_encrypted = async || {
        let query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        Ok(sqlx::query_scalar(query).fetch_one(&db).await?)
    };
    timeout(DEADLINE, postgres::open_with_patience(&dependency, is_encrypted))
        .await
        .expect("waited for what cannot come")
}

#[tokio::test]
async fn postgresql_is_spoken_to_over_tls() {
    let dir = platform::stores::temp_dir().unwrap();
    let place = dir.path().join("postgres");
    let options = PostgresOptions { timescaledb: Timescaledb::Off };
    let server = PostgresServer::start(&place, options).await.unwrap();
    let url = server.tcp_url("postgres").unwrap();
    let named = url.replace("127.0.0.1", "localhost");

    // The server has no TLS yet.
    for mode in ["require", "verify-ca", "verify-full"] {
        let error = open(&format!("{url}?sslmode={mode}")).await.unwrap_err();
        assert!(format!("{error:#}").contains("TLS"), "{mode}: {error:#}");
    }
    assert!(!open(&format!("{url}?sslmode=prefer")).await.unwrap());

    speak_tls(&server, &dir).await;
    let (ca, other) = (file(&dir, "ca.pem"), file(&dir, "other.pem"));
    assert!(open(&format!("{named}?sslmode=verify-full&sslrootcert={ca}")).await.unwrap());
    assert!(open(&format!("{url}?sslmode=verify-ca&sslrootcert={ca}")).await.unwrap());
    assert!(open(&format!("{url}?sslmode=prefer")).await.unwrap());
    assert!(!open(&format!("{url}?sslmode=disable")).await.unwrap());
    for (refused, why) in [
        (format!("{url}?sslmode=verify-full&sslrootcert={ca}"), "another name"),
        (format!("{named}?sslmode=verify-full&sslrootcert={other}"), "another authority"),
        (format!("{named}?sslmode=verify-full"), "no authority"),
    ] {
        let error = open(&refused).await.expect_err(why);
        assert!(format!("{error:#}").contains("certificate"), "{why}: {error:#}");
    }
    let missing = open(&format!("{named}?sslmode=verify-full&sslrootcert=/no/file")).await;
    assert!(format!("{:#}", missing.unwrap_err()).contains("/no/file"));
}
