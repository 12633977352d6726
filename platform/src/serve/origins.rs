//! Origins of pages in browsers.

use std::str::FromStr;

/// Origins as browsers write them, or any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins {
    any: bool,
    names: Vec<String>,
}

impl Origins {
    /// True for an origin of the list, compared as it is written.
    #[must_use]
    pub fn contains(&self, origin: &[u8]) -> bool {
        self.any || self.names.iter().any(|name| name.as_bytes() == origin)
    }

    /// True for `*`.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.any
    }

    /// The origins of the list; none for `*`.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

impl FromStr for Origins {
    type Err = String;

    /// Reads origins separated by commas, or a single `*`; nothing is no origin.
    fn from_str(text: &str) -> Result<Self, String> {
        let names: Vec<_> =
            text.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        if names.contains(&"*") {
            return match names.len() {
                1 => Ok(Self { any: true, names: Vec::new() }),
                _ => Err("* is every origin already: name it alone".to_owned()),
            };
        }
        for name in &names {
            check(name).map_err(|wrong| {
                format!("{name:?} is not an origin such as https://app.example: {wrong}")
            })?;
        }
        Ok(Self { any: false, names: names.into_iter().map(str::to_owned).collect() })
    }
}

/// Refuses what no browser ever sends, because it would never match: RFC 6454, 6.2.
fn check(origin: &str) -> Result<(), &'static str> {
    let (scheme, rest) = origin.split_once("://").ok_or("the scheme is missing")?;
    let mut letters = scheme.bytes();
    if !letters.next().is_some_and(|first| first.is_ascii_lowercase())
        || !letters.all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'+' | b'-' | b'.'))
    {
        return Err("the scheme is not one, or not in small letters");
    }
    // The colons of an IPv6 address stand in brackets.
    let after_host = if rest.starts_with('[') { rest.find(']').map_or(0, |at| at + 1) } else { 0 };
    let (host, port) = match rest[after_host..].find(':') {
        Some(at) => (&rest[..after_host + at], Some(&rest[after_host + at + 1..])),
        None => (rest, None),
    };
    if after_host > 0 {
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if address.is_none_or(|address| address.parse::<std::net::Ipv6Addr>().is_err()) {
            return Err("the host is not an IPv6 address");
        }
    } else if host.is_empty()
        || !host.bytes().all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_'))
    {
        return Err("only a host may follow, in small letters, without path or slash");
    }
    let Some(port) = port else { return Ok(()) };
    if port.starts_with('0') || port.parse::<u16>().is_err() || port.starts_with('+') {
        return Err("the port is not a number of 1 to 65535");
    }
    if matches!((scheme, port), ("http", "80") | ("https", "443")) {
        return Err("browsers leave out the port that the scheme has by itself");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_those_that_browsers_send() {
        let list: Origins =
            " https://app.example, http://localhost:3000,,capacitor://localhost,http://[::1]:8080 "
                .parse()
                .unwrap();
        for known in [
            "https://app.example",
            "http://localhost:3000",
            "capacitor://localhost",
            "http://[::1]:8080",
        ] {
            assert!(list.contains(known.as_bytes()), "{known}");
        }
        for unknown in ["https://app.example.evil", "http://app.example", "null", ""] {
            assert!(!list.contains(unknown.as_bytes()), "{unknown}");
        }
        assert_eq!("".parse(), Ok(Origins::default()));
        assert!("*".parse::<Origins>().unwrap().contains(b"https://any.example"));
    }

    #[test]
    fn what_can_never_match_is_refused() {
        for bad in [
            "app.example",
            "https//app.example",
            "https:/app.example",
            "https://app.example/",
            "https://app.example/path",
            "https://App.example",
            "HTTPS://app.example",
            "https://app.example:443",
            "http://app.example:80",
            "https://app.example:",
            "https://app.example:0",
            "https://app.example:65536",
            "https://app.example:+8",
            "https://user@app.example",
            "https://*.app.example",
            "https://",
            "https://[::1",
            "https://[x]",
            "https://a b",
            "null",
            "*,https://app.example",
            "https://app.example\u{e9}",
        ] {
            assert!(bad.parse::<Origins>().is_err(), "{bad}");
        }
    }
}
