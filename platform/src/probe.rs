//! Asks a process whether it is ready, as a container's health check does.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use anyhow::{Context as _, ensure};

/// One answer takes less, or the process is as good as away.
const LIMIT: Duration = Duration::from_secs(3);

/// Asks the process that listens on `listen` (`0.0.0.0:8000`), on this machine, for `/readyz`.
///
/// # Errors
/// There is no answer in time, or another one than 200.
pub fn is_ready(listen: &str) -> anyhow::Result<()> {
    let address = listen.to_socket_addrs().ok().and_then(|mut all| all.next());
    let address = reachable(address.with_context(|| format!("{listen} is no address"))?);
    let no_answer = || format!("{address} does not answer");
    let mut stream = TcpStream::connect_timeout(&address, LIMIT).with_context(no_answer)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let request = format!("GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).with_context(no_answer)?;
    // `HTTP/1.1 200`.
    let mut head = [0; 12];
    stream.read_exact(&mut head).with_context(no_answer)?;
    let status = String::from_utf8_lossy(&head[9..]);
    ensure!(status == "200", "{address} is not ready: {status}");
    Ok(())
}

/// Returns an address at which a process that listens on all addresses can be reached.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        });
    }
    address
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn only_200_is_ready() {
        for (answer, ready) in [
            (&b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"[..], true),
            (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", false),
            (b"HTTP", false),
        ] {
            let listener = TcpListener::bind("0.0.0.0:0").unwrap();
            let listen = listener.local_addr().unwrap().to_string();
            let serving = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 1_024];
                let length = stream.read(&mut request).unwrap();
                stream.write_all(answer).unwrap();
                request[..length].to_vec()
            });
            assert_eq!(is_ready(&listen).is_ok(), ready, "{answer:?}");
            assert!(
                serving.join().unwrap().starts_with(b"GET /readyz HTTP/1.1\r\nhost: 127.0.0.1:")
            );
        }
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(is_ready(&closed.to_string()).is_err());
        assert!(is_ready("nowhere").is_err());
    }
}
