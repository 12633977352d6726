//! The address of the client of a request.
//!
//! The address of a connection's peer counts, unless the peer is a proxy that the settings trust:
//! then the last address in `Forwarded` or `X-Forwarded-For` that is not a trusted proxy counts.
//! Everything to the left of it was sent by the client and may be invented.
//!
//! A proxy sets one of the two headers and passes the other one on as the client sent it. A request
//! with both, which do not agree, therefore counts as the proxy's own: a client can hide behind its
//! proxy, but never choose an address.

use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use http::header::{FORWARDED, HeaderName};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Proxies that a request is followed back through; a longer way is not believed any further.
const HOPS_MAX: usize = 32;

tokio::task_local! {
    /// The peer of the connection that this task serves: once for a connection, nothing for a
    /// request that does not ask.
    pub(super) static PEER: Peer;
}

/// A connection's other end.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) address: IpAddr,
    pub(super) trusted: Arc<TrustedProxies>,
}

/// The address that a request came from; an IPv4 address is never written as IPv6.
///
/// `0.0.0.0` where there is no connection, as in a test that calls a router by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddress(pub IpAddr);

/// The addresses that one customer of a network provider can choose from: an IPv4 address, or the
/// first 64 bits of an IPv6 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network(u128);

impl ClientAddress {
    /// The client of the request with these headers, in the task that serves its connection.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let found = PEER.try_with(|peer| peer.trusted.client(peer.address, headers));
        Self(found.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)))
    }

    /// The key for limits by address.
    #[must_use]
    pub fn network(self) -> Network {
        let bits = bits(self.0);
        Network(if self.0.is_ipv6() { bits >> 64 << 64 } else { bits })
    }
}

impl fmt::Display for ClientAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for ClientAddress {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.headers))
    }
}

/// Networks of proxies whose `Forwarded` and `X-Forwarded-For` are believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<Cidr>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cidr {
    bits: u128,
    /// Of 128: an IPv4 network is one of mapped addresses.
    prefix: u32,
}

impl FromStr for TrustedProxies {
    type Err = String;

    /// Reads networks separated by commas; nothing is no network.
    fn from_str(text: &str) -> Result<Self, String> {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        items.map(cidr).collect::<Result<_, _>>().map(Self)
    }
}

fn cidr(text: &str) -> Result<Cidr, String> {
    let bad = || format!("{text:?} is not a network such as 10.0.0.0/8 or fd00::/8");
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| bad())?;
    let width = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.map_or(Ok(width), str::parse).map_err(|_| bad())?;
    if prefix > width {
        return Err(bad());
    }
    Ok(Cidr { bits: bits(address), prefix: prefix + 128 - width })
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl TrustedProxies {
    fn trusts(&self, address: IpAddr) -> bool {
        let bits = bits(address);
        let differs = |cidr: &Cidr| (bits ^ cidr.bits).checked_shr(128 - cidr.prefix).unwrap_or(0);
        self.0.iter().any(|cidr| differs(cidr) == 0)
    }

    /// The client's address, when a connection of `peer` brought these headers.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let peer = peer.to_canonical();
        if !self.trusts(peer) {
            return peer;
        }
        let follow = |name: HeaderName, hops: fn(&HeaderValue, &mut dyn FnMut(Hop) -> bool)| {
            headers.contains_key(&name).then(|| {
                let mut lines: Vec<_> = headers.get_all(name).iter().take(HOPS_MAX + 1).collect();
                if lines.len() > HOPS_MAX {
                    return peer;
                }
                lines.reverse();
                self.follow(peer, &lines, hops)
            })
        };
        match (follow(FORWARDED, forwarded), follow(X_FORWARDED_FOR, x_forwarded_for)) {
            (Some(one), Some(other)) if one != other => peer,
            (Some(client), _) | (None, Some(client)) => client,
            (None, None) => peer,
        }
    }

    /// Goes back from proxy to proxy until one that is not trusted, or that is not named.
    fn follow(
        &self,
        peer: IpAddr,
        lines: &[&HeaderValue],
        hops: fn(&HeaderValue, &mut dyn FnMut(Hop) -> bool),
    ) -> IpAddr {
        let mut client = peer;
        let mut left = HOPS_MAX;
        let mut goes_on = true;
        for line in lines {
            hops(line, &mut |hop| {
                goes_on = left > 0
                    && hop.is_some_and(|address| {
                        client = address;
                        self.trusts(address)
                    });
                left = left.saturating_sub(1);
                goes_on
            });
            if !goes_on {
                break;
            }
        }
        client
    }
}

/// An address, or what is none: `unknown`, an obfuscated name, nonsense.
type Hop = Option<IpAddr>;

/// Offers the addresses of a line of `X-Forwarded-For`, the last one first, until told to stop.
fn x_forwarded_for(line: &HeaderValue, offer: &mut dyn FnMut(Hop) -> bool) {
    // By bytes: one that is not ASCII makes its own address unreadable and no other.
    for item in line.as_bytes().rsplit(|&byte| byte == b',') {
        if !offer(std::str::from_utf8(item).ok().and_then(node)) {
            return;
        }
    }
}

/// Offers the `for` of a line of `Forwarded` (RFC 7239), the last one first, until told to stop.
///
/// Quotes are paired from the right, so that one the client left open cannot swallow what the
/// proxy added after it.
fn forwarded(line: &HeaderValue, offer: &mut dyn FnMut(Hop) -> bool) {
    let mut rest = line.as_bytes();
    loop {
        let mut is_quoted = false;
        let comma = rest.iter().rposition(|&byte| {
            is_quoted ^= byte == b'"';
            byte == b',' && !is_quoted
        });
        let element = comma.map_or(rest, |at| &rest[at + 1..]);
        if !offer(std::str::from_utf8(element).ok().and_then(for_of)) {
            return;
        }
        match comma {
            Some(at) => rest = &rest[..at],
            None => return,
        }
    }
}

/// The `for` of one element: `for="[2001:db8::1]:443";proto=https`.
fn for_of(element: &str) -> Hop {
    let mut found = None;
    // A quoted `;` is in no address, so an element with one is none that we can use.
    for pair in element.split(';') {
        let (name, value) = pair.split_once('=')?;
        if name.trim().eq_ignore_ascii_case("for") {
            let value = value.trim();
            let value = match value.strip_prefix('"') {
                Some(quoted) => quoted.strip_suffix('"')?,
                None => value,
            };
            // Twice is nonsense.
            if found.replace(node(value)?).is_some() {
                return None;
            }
        }
    }
    found
}

/// Reads `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` and `[2001:db8::1]:80`.
fn node(text: &str) -> Hop {
    let text = text.trim();
    let is_port = |port: &str| {
        (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit())
    };
    let address = if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        if !port.is_empty() && !port.strip_prefix(':').is_some_and(is_port) {
            return None;
        }
        IpAddr::V6(address.parse::<Ipv6Addr>().ok()?)
    } else if let Some((address, _)) = text.split_once(':').filter(|(_, port)| is_port(port)) {
        // `::1` has nothing before its first colon, and no IPv4 address is empty.
        match address.parse::<Ipv4Addr>() {
            Ok(address) => IpAddr::V4(address),
            Err(_) => text.parse().ok()?,
        }
    } else {
        text.parse().ok()?
    };
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests;
