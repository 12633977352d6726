use super::*;
use proptest::prelude::*;

fn trusted() -> TrustedProxies {
    "10.0.0.0/8, 192.0.2.7,fd00::/8".parse().unwrap()
}

/// The client that is found when `peer` sends these header lines.
fn client(peer: &str, lines: &[(&'static str, &str)]) -> String {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    trusted().client(peer.parse().unwrap(), &headers).to_string()
}

#[test]
fn only_trusted_proxies_are_believed() {
    let claim = [("x-forwarded-for", "198.51.100.1")];
    assert_eq!(client("203.0.113.9", &claim), "203.0.113.9");
    assert_eq!(client("10.1.2.3", &claim), "198.51.100.1");
    assert_eq!(client("::ffff:10.1.2.3", &claim), "198.51.100.1");
    assert_eq!(client("fd12::1", &claim), "198.51.100.1");
    assert_eq!(client("192.0.2.7", &claim), "198.51.100.1");
    assert_eq!(client("192.0.2.8", &claim), "192.0.2.8");
    assert_eq!(client("::ffff:203.0.113.9", &[]), "203.0.113.9");
    assert_eq!(client("10.1.2.3", &[]), "10.1.2.3");
    let nobody = TrustedProxies::default();
    let mut headers = HeaderMap::new();
    headers.insert("x-forwarded-for", HeaderValue::from_static("198.51.100.1"));
    let peer = "127.0.0.1".parse().unwrap();
    assert_eq!(nobody.client(peer, &headers), peer);
}

#[test]
fn the_last_address_that_is_no_proxy_counts() {
    for (lines, expected) in [
        // What stands left of it was sent by the client.
        (vec!["1.1.1.1, 198.51.100.1"], "198.51.100.1"),
        (vec!["1.1.1.1, 198.51.100.1, 10.0.0.9"], "198.51.100.1"),
        (vec!["1.1.1.1", "198.51.100.1", "10.0.0.9"], "198.51.100.1"),
        // Proxies all the way: the first of them.
        (vec!["10.0.0.8, 10.0.0.9"], "10.0.0.8"),
        // Nonsense ends the way at the proxy that passed it on.
        (vec!["198.51.100.1, garbage"], "10.1.2.3"),
        (vec!["198.51.100.1, garbage, 10.0.0.9"], "10.0.0.9"),
        (vec!["198.51.100.1,, 10.0.0.9"], "10.0.0.9"),
        (vec!["198.51.100.1, é"], "10.1.2.3"),
        (vec!["é, 198.51.100.1"], "198.51.100.1"),
        (vec![""], "10.1.2.3"),
        (vec![",,,"], "10.1.2.3"),
        (vec!["unknown"], "10.1.2.3"),
        // Forms of one address.
        (vec!["198.51.100.1:4711"], "198.51.100.1"),
        (vec!["::ffff:198.51.100.1"], "198.51.100.1"),
        (vec!["[::ffff:198.51.100.1]:80"], "198.51.100.1"),
        (vec!["2001:DB8::1"], "2001:db8::1"),
        (vec!["[2001:db8::1]"], "2001:db8::1"),
        (vec!["[2001:db8::1]:443"], "2001:db8::1"),
        (vec!["2001:db8::1:443"], "2001:db8::1:443"),
        // What looks like one and is none.
        (vec!["198.51.100.1:"], "10.1.2.3"),
        (vec!["198.51.100.1:999999"], "10.1.2.3"),
        (vec!["198.51.100.256"], "10.1.2.3"),
        (vec!["198.051.100.001"], "10.1.2.3"),
        (vec!["0x7f.1"], "10.1.2.3"),
        (vec!["fe80::1%eth0"], "10.1.2.3"),
        (vec!["[2001:db8::1"], "10.1.2.3"),
        (vec!["[2001:db8::1]x"], "10.1.2.3"),
        (vec!["[198.51.100.1]"], "10.1.2.3"),
        (vec!["198.51.100.1 198.51.100.2"], "10.1.2.3"),
    ] {
        let named: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", *line)).collect();
        assert_eq!(client("10.1.2.3", &named), expected, "{lines:?}");
    }
}

#[test]
fn forwarded_is_read_with_its_quotes() {
    for (lines, expected) in [
        (vec!["for=198.51.100.1"], "198.51.100.1"),
        (vec!["For=198.51.100.1;proto=https;by=10.0.0.1"], "198.51.100.1"),
        (vec!["proto=https ; for=\"198.51.100.1:80\""], "198.51.100.1"),
        (vec!["for=\"[2001:db8:cafe::17]:4711\""], "2001:db8:cafe::17"),
        (vec!["for=1.1.1.1, for=198.51.100.1"], "198.51.100.1"),
        (vec!["for=1.1.1.1", "for=198.51.100.1, for=10.0.0.9"], "198.51.100.1"),
        (vec!["for=198.51.100.1;by=\"a,b\""], "198.51.100.1"),
        // Hidden clients: the proxy that hides them is what is known.
        (vec!["for=unknown"], "10.1.2.3"),
        (vec!["for=_secret"], "10.1.2.3"),
        (vec!["for=\"_SEVKISEK:80\", for=10.0.0.9"], "10.0.0.9"),
        (vec!["by=10.0.0.9;proto=https"], "10.1.2.3"),
        // A quote that the client left open swallows nothing.
        (vec!["for=\"1.1.1.1, for=198.51.100.1"], "198.51.100.1"),
        (vec!["for=\"1.1.1.1, for=\"[2001:db8::1]:80\""], "2001:db8::1"),
        (vec!["for=\"1.1.1.1", "for=198.51.100.1"], "198.51.100.1"),
        (vec!["x\\\", for=198.51.100.1"], "198.51.100.1"),
        // Nonsense.
        (vec!["198.51.100.1"], "10.1.2.3"),
        (vec!["for=198.51.100.1;for=1.1.1.1"], "10.1.2.3"),
        (vec!["for=198.51.100.1\""], "10.1.2.3"),
        (vec!["for"], "10.1.2.3"),
        (vec![""], "10.1.2.3"),
        (vec!["for="], "10.1.2.3"),
        (vec!["for=\"\""], "10.1.2.3"),
    ] {
        let named: Vec<_> = lines.iter().map(|line| ("forwarded", *line)).collect();
        assert_eq!(client("10.1.2.3", &named), expected, "{lines:?}");
    }
}

#[test]
fn a_client_that_sends_the_other_header_chooses_nothing() {
    let invented = [("forwarded", "for=1.1.1.1"), ("x-forwarded-for", "198.51.100.1")];
    assert_eq!(client("10.1.2.3", &invented), "10.1.2.3");
    let agreed = [("forwarded", "for=198.51.100.1"), ("x-forwarded-for", "198.51.100.1")];
    assert_eq!(client("10.1.2.3", &agreed), "198.51.100.1");
}

#[test]
fn a_long_way_is_not_followed_for_ever() {
    let hops = ", 10.0.0.9".repeat(5_000);
    assert_eq!(client("10.1.2.3", &[("x-forwarded-for", &format!("1.1.1.1{hops}"))]), "10.0.0.9");
    let lines = vec![("x-forwarded-for", "10.0.0.9"); 1_000];
    assert_eq!(client("10.1.2.3", &lines), "10.1.2.3");
}

#[test]
fn networks_that_cannot_be_are_refused() {
    for bad in ["10.0.0.0/33", "fd00::/129", "10.0.0/8", "x", "10.0.0.0/", "10.0.0.0/-1", "/8"] {
        assert!(bad.parse::<TrustedProxies>().is_err(), "{bad}");
    }
    assert_eq!("".parse(), Ok(TrustedProxies::default()));
    let everyone: TrustedProxies = "0.0.0.0/0,::/0".parse().unwrap();
    assert!(everyone.trusts("8.8.8.8".parse().unwrap()));
    let all_of_v4: TrustedProxies = "0.0.0.0/0".parse().unwrap();
    assert!(!all_of_v4.trusts("2001:db8::1".parse().unwrap()));
}

#[test]
fn limits_by_address_are_by_what_one_customer_has() {
    let network = |text: &str| ClientAddress(text.parse().unwrap()).network();
    assert_eq!(network("2001:db8:1:2::1"), network("2001:db8:1:2:ffff::9"));
    assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
    assert_ne!(network("198.51.100.1"), network("198.51.100.2"));
}

proptest! {
    /// Whatever a client sends, the proxy appends the client's true address, and that one counts.
    #[test]
    fn nothing_that_a_client_sends_moves_its_address(
        sent in "[ -~\u{80}-\u{ff}]{0,60}",
        prefix in prop::sample::select(vec!["", "for=", "for=\"", "10.0.0.1, "]),
        v6 in any::<bool>(),
    ) {
        let (plain, quoted) = if v6 {
            ("2001:db8::7", "for=\"[2001:db8::7]:99\"")
        } else {
            ("198.51.100.7", "for=198.51.100.7;proto=https")
        };
        let x = format!("{prefix}{sent}, {plain}");
        prop_assert_eq!(client("10.1.2.3", &[("x-forwarded-for", &x)]), plain);
        let f = format!("{prefix}{sent}, {quoted}");
        prop_assert_eq!(client("10.1.2.3", &[("forwarded", &f)]), plain);
    }
}
