//! What an answer says, read from its bytes without parsing all of them.
//!
//! A menu has some twenty thousand bytes, and the generator shares its machine with the service.
//! So a version is read from the first bytes or from the ETag, and the few values that a check
//! needs are found by their names. [`catalogue`](super::catalogue) compares this with a full parse
//! before it is relied upon.

use std::io::Read as _;

use flate2::bufread::GzDecoder;

/// An ETag of a document: its version and a hash of its body in any encoding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tag {
    /// The version.
    pub version: i64,
    /// The hash.
    pub hash: u64,
}

impl Tag {
    /// Reads `W/"12-0123456789abcdef"`.
    pub fn parse(etag: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(etag).ok()?;
        let (version, hash) = text.strip_prefix("W/\"")?.strip_suffix('"')?.split_once('-')?;
        let hash = (hash.len() == 16).then(|| u64::from_str_radix(hash, 16).ok())??;
        Some(Self { version: version.parse().ok()?, hash })
    }
}

impl std::fmt::Display for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "W/\"{}-{:016x}\"", self.version, self.hash)
    }
}

/// What every document begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// Whose.
    pub restaurant_id: i64,
    /// Which version.
    pub version: i64,
}

/// Both stand near the front.
const PREFIX_BYTES: usize = 160;

/// Reads the first `restaurant_id` and `version` of a document.
pub fn prefix(body: &[u8]) -> Option<Prefix> {
    let front = &body[..body.len().min(PREFIX_BYTES)];
    let number = |name: &[u8]| integer(&front[find(front, name)? + name.len()..]);
    Some(Prefix {
        restaurant_id: number(b"\"restaurant_id\":")?,
        version: number(b"\"version\":")?,
    })
}

/// Whether an item can be ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Availability {
    /// The operator sells it.
    pub available: bool,
    /// There is some left.
    pub in_stock: bool,
}

/// How far an item's place moves when other values get longer or shorter.
const DRIFT_BYTES: usize = 64;

/// Finds an item in a menu. `place` is where it was last time; it is looked for there first.
pub fn availability(body: &[u8], item_id: i64, place: &mut usize) -> Option<Availability> {
    let mut needle = [0_u8; 40];
    let needle = {
        use std::io::Write as _;
        let mut rest = &mut needle[..];
        // Ten characters and at most twenty digits fit.
        write!(rest, "\"item_id\":{item_id},").ok()?;
        let left = rest.len();
        &needle[..40 - left]
    };
    let from = place.saturating_sub(DRIFT_BYTES).min(body.len());
    let to = (*place + needle.len() + DRIFT_BYTES).min(body.len());
    *place = match find(&body[from..to], needle) {
        Some(at) => from + at,
        None => find(body, needle)?,
    };
    let item = &body[*place + needle.len()..];
    let flag = |name: &[u8]| boolean(&item[find(item, name)? + name.len()..]);
    Some(Availability { available: flag(b"\"available\":")?, in_stock: flag(b"\"in_stock\":")? })
}

/// What the operator says of the kitchen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// Takes orders.
    Open,
    /// Takes none.
    Closed,
    /// Takes orders, and is slow.
    Busy,
    /// Takes none.
    Maintenance,
}

impl Name {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Open, Self::Closed, Self::Busy, Self::Maintenance];

    /// In bodies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Busy => "busy",
            Self::Maintenance => "maintenance",
        }
    }
}

/// A status as it is written and read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// The status itself.
    pub name: Name,
    /// `current_capacity`.
    pub capacity: Option<i32>,
}

/// Finds the status in any document that has one.
pub fn status(body: &[u8]) -> Option<Status> {
    let name = b"\"status\":\"";
    let rest = &body[find(body, name)? + name.len()..];
    let name = Name::ALL.into_iter().find(|name| {
        rest.strip_prefix(name.as_str().as_bytes()).is_some_and(|rest| rest.starts_with(b"\""))
    })?;
    let capacity = b"\"current_capacity\":";
    let rest = &rest[find(rest, capacity)? + capacity.len()..];
    let capacity =
        if rest.starts_with(b"null") { None } else { Some(i32::try_from(integer(rest)?).ok()?) };
    Some(Status { name, capacity })
}

/// A quote inside a JSON string has a backslash before it, so a name with its quotes is never text.
fn find(within: &[u8], needle: &[u8]) -> Option<usize> {
    within.windows(needle.len()).position(|window| window == needle)
}

fn integer(text: &[u8]) -> Option<i64> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit() || **byte == b'-').count();
    std::str::from_utf8(&text[..digits]).ok()?.parse().ok()
}

fn boolean(text: &[u8]) -> Option<bool> {
    if text.starts_with(b"true") {
        Some(true)
    } else if text.starts_with(b"false") {
        Some(false)
    } else {
        None
    }
}

/// More than any menu.
const DECODED_MAX: u64 = 16 << 20;

/// Undoes gzip, into one buffer for all.
#[derive(Debug, Default)]
pub struct Decoder(Vec<u8>);

impl Decoder {
    /// The body as it was; `None` when it is no gzip.
    pub fn gzip(&mut self, body: &[u8]) -> Option<&[u8]> {
        self.0.clear();
        GzDecoder::new(body).take(DECODED_MAX).read_to_end(&mut self.0).ok()?;
        Some(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const MENU: &[u8] = br#"{"restaurant_id":7,"version":12,"currency":"USD","categories":[{"category_id":1,"name":"x \"item_id\":2,","description":"","items":[{"item_id":21,"name":"\"available\":true","options":[],"available":false,"in_stock":true},{"item_id":2,"name":"b","available":true,"in_stock":false}]}]}"#;

    #[test]
    fn an_etag_is_read_and_written_or_refused() {
        let tag = Tag { version: 12, hash: 0x00ab_cdef_0123_4567 };
        assert_eq!(Tag::parse(b"W/\"12-00abcdef01234567\""), Some(tag));
        assert_eq!(tag.to_string(), "W/\"12-00abcdef01234567\"");
        for bad in
            ["", "W/\"\"", "\"12-00abcdef01234567\"", "W/\"12-abc\"", "W/\"x-00abcdef01234567\""]
        {
            assert_eq!(Tag::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn the_front_of_a_document_names_it() {
        assert_eq!(prefix(MENU), Some(Prefix { restaurant_id: 7, version: 12 }));
        assert_eq!(prefix(b"{\"restaurant_id\":7}"), None);
        assert_eq!(prefix(b""), None);
        let late =
            format!("{{\"restaurant_id\":7,\"name\":\"{}\",\"version\":1}}", "x".repeat(200));
        assert_eq!(prefix(late.as_bytes()), None);
    }

    #[test]
    fn an_item_is_found_wherever_it_was_last_time() {
        let expected = |available, in_stock| Some(Availability { available, in_stock });
        for place in [0, 180, MENU.len(), usize::MAX / 2] {
            let mut place = place;
            assert_eq!(availability(MENU, 21, &mut place), expected(false, true));
            assert!(MENU[place..].starts_with(b"\"item_id\":21,"));
            assert_eq!(availability(MENU, 2, &mut place), expected(true, false));
        }
        let mut place = 0;
        assert_eq!(availability(MENU, 3, &mut place), None);
        assert_eq!(availability(&MENU[..MENU.len() - 40], 2, &mut place), None, "cut short");
    }

    #[test]
    fn a_status_is_found_in_each_document() {
        let of = |body: &str| status(body.as_bytes());
        let open = |capacity| Some(Status { name: Name::Open, capacity });
        assert_eq!(of(r#"{"status":"open","current_capacity":null}"#), open(None));
        assert_eq!(
            of(r#"{"status":{"version":1,"status":"open","current_capacity":40}}"#),
            open(Some(40))
        );
        assert_eq!(of(r#"{"status":"opening","current_capacity":null}"#), None);
        assert_eq!(of(r#"{"status":"open"}"#), None);
        for name in Name::ALL {
            let body = format!(r#"{{"status":"{}","current_capacity":1}}"#, name.as_str());
            assert_eq!(of(&body), Some(Status { name, capacity: Some(1) }));
        }
    }

    #[test]
    fn gzip_is_undone() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(MENU).unwrap();
        let mut decoder = Decoder::default();
        assert_eq!(decoder.gzip(&encoder.finish().unwrap()), Some(MENU));
        assert_eq!(decoder.gzip(b"plain"), None);
    }
}
