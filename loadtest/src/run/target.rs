//! What is measured: base addresses, headers, and whose tokens.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::template::{Known, Template};
use crate::client::Target;

/// The services of the public API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    Order,
    Menu,
    Logistics,
}

impl Service {
    pub(super) const ALL: [Self; 3] = [Self::Order, Self::Menu, Self::Logistics];

    /// In `[target]`, and as `${…}` at the begin of a URL.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Menu => "menu",
            Self::Logistics => "logistics",
        }
    }

    /// Where the address is taken from when the file has none.
    pub(super) const fn variable(self) -> &'static str {
        match self {
            Self::Order => "ORDER_URL",
            Self::Menu => "MENU_URL",
            Self::Logistics => "LOGISTICS_URL",
        }
    }
}

/// Who makes tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Auth {
    /// We do, with the key that the services trust.
    #[default]
    Signed,
    /// Nobody.
    None,
}

/// `[target]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Raw {
    order: Option<String>,
    menu: Option<String>,
    logistics: Option<String>,
    auth: Auth,
    headers: BTreeMap<String, String>,
}

/// Addresses that are sent to, and what every request carries.
#[derive(Debug, Clone, Default)]
pub(super) struct Targets {
    pub(super) bases: Vec<Target>,
    services: [Option<usize>; 3],
    pub(super) auth: Auth,
    /// Names and values.
    pub(super) headers: Vec<(String, Template)>,
    /// The file has an `authorization` of its own.
    pub(super) has_authorization: bool,
}

impl Targets {
    /// Takes the addresses, from the environment where there are none.
    ///
    /// # Errors
    /// One is not an address.
    pub(super) fn take(&mut self, raw: &Raw) -> Result<(), String> {
        self.auth = raw.auth;
        for (service, url) in Service::ALL.into_iter().zip([&raw.order, &raw.menu, &raw.logistics])
        {
            // Services with several nodes are a list there; this load goes to the first.
            let from_env = || std::env::var(service.variable()).ok();
            let Some(url) = url.clone().or_else(from_env) else { continue };
            let first = url.split(',').next().unwrap_or_default();
            let target = Target::parse(first)
                .map_err(|error| format!("target.{}: {error}", service.name()))?;
            self.services[service as usize] = Some(self.base(target));
        }
        Ok(())
    }

    /// Takes the headers.
    ///
    /// # Errors
    /// One is not a header, or has an unknown variable.
    pub(super) fn headers(&mut self, raw: &Raw, known: Known<'_>) -> Result<(), String> {
        for (name, value) in &raw.headers {
            header_name(name)?;
            self.has_authorization |= name.eq_ignore_ascii_case("authorization");
            self.headers.push((name.to_ascii_lowercase(), Template::parse(value, known)?));
        }
        Ok(())
    }

    /// The index of an address.
    pub(super) fn base(&mut self, target: Target) -> usize {
        match self.bases.iter().position(|base| *base == target) {
            Some(at) => at,
            None => {
                self.bases.push(target);
                self.bases.len() - 1
            }
        }
    }

    /// The index of a service's address.
    pub(super) fn service(&self, service: Service) -> Option<usize> {
        self.services[service as usize]
    }

    /// Splits a URL with variables into the index of its address and the rest: it begins with
    /// `${order}`, `${menu}`, `${logistics}` or a plain `http://host:port`.
    ///
    /// # Errors
    /// It begins with something else, or the service has no address.
    pub(super) fn split<'a>(&mut self, url: &'a str) -> Result<(usize, &'a str), String> {
        for service in Service::ALL {
            let name = service.name();
            let rest = url.strip_prefix("${").and_then(|rest| rest.strip_prefix(name));
            if let Some(path) = rest.and_then(|rest| rest.strip_prefix('}')) {
                let variable = service.variable();
                let missing =
                    || format!("{url:?} needs target.{name}, or {variable} in the environment");
                return Ok((self.service(service).ok_or_else(missing)?, slashed(path)?));
            }
        }
        let expected = || {
            format!("{url:?} does not begin with http://, ${{order}}, ${{menu}} or ${{logistics}}")
        };
        let rest = url.strip_prefix("http://").ok_or_else(expected)?;
        let end = rest.find('/').unwrap_or(rest.len());
        let (host, path) = rest.split_at(end);
        let target = Target::parse(&format!("http://{host}")).map_err(|error| error.to_string())?;
        Ok((self.base(target), slashed(path)?))
    }
}

fn slashed(path: &str) -> Result<&str, String> {
    match path {
        "" => Ok("/"),
        path if path.starts_with('/') => Ok(path),
        path => Err(format!("the path {path:?} does not begin with /")),
    }
}

/// Headers that a request has anyway.
const OWN: [&str; 4] = ["host", "content-length", "transfer-encoding", "connection"];

/// Whether this can be the name of a header that a file sets.
///
/// # Errors
/// What is wrong with it.
pub(super) fn header_name(name: &str) -> Result<(), String> {
    let is_token = http::HeaderName::from_bytes(name.as_bytes()).is_ok();
    if is_token && !OWN.iter().any(|own| name.eq_ignore_ascii_case(own)) {
        Ok(())
    } else {
        Err(format!("{name:?} is not a header that can be set"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets() -> Targets {
        let mut targets = Targets::default();
        let at = targets.base(Target::parse("http://menu.test:1/m").unwrap());
        targets.services[Service::Menu as usize] = Some(at);
        targets
    }

    #[test]
    fn urls_are_split_into_address_and_path() {
        let mut targets = targets();
        assert_eq!(targets.split("${menu}/api/${x}?y"), Ok((0, "/api/${x}?y")));
        assert_eq!(targets.split("${menu}"), Ok((0, "/")));
        assert_eq!(targets.split("http://a:1/x/${y}"), Ok((1, "/x/${y}")));
        assert_eq!(targets.split("http://a:1"), Ok((1, "/")), "the same address");
        assert_eq!(targets.bases.len(), 2);
        for bad in ["${menu}x", "${order}/x", "https://a/x", "/x", "http://${host}/x", ""] {
            assert!(targets.split(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn headers_are_names() {
        assert!(header_name("X-Tenant").is_ok());
        for bad in ["", "a b", "Host", "content-length", "x:y"] {
            assert!(header_name(bad).is_err(), "{bad:?}");
        }
    }
}
