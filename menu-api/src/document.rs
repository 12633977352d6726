//! Documents: bodies that are ready to send, in every encoding, with an ETag.

use std::{
    hash::Hasher as _,
    io::Write as _,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use contracts::ids::RestaurantId;
use http::{HeaderMap, HeaderValue, header::ACCEPT_ENCODING};
use rustc_hash::FxHasher;

/// The documents of a restaurant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `GET /restaurants/{id}`
    Restaurant,
    /// `…/menu`
    Menu,
    /// `…/status`
    Status,
    /// `…/menu-with-status`
    MenuWithStatus,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Restaurant, Self::Menu, Self::Status, Self::MenuWithStatus];

    /// In keys and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Restaurant => "restaurant",
            Self::Menu => "menu",
            Self::Status => "status",
            Self::MenuWithStatus => "menu-with-status",
        }
    }

    /// The reverse of [`Self::name`].
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The parts that it is made of.
    pub const fn parts(self) -> Parts {
        match self {
            Self::Restaurant => Parts(Parts::PROFILE.0 | Parts::STATUS.0),
            Self::Menu => Parts::MENU,
            Self::Status => Parts::STATUS,
            Self::MenuWithStatus => Parts(Parts::MENU.0 | Parts::STATUS.0),
        }
    }
}

/// A set of parts of a restaurant that a write changes and a document is made of; also the column
/// `parts` of `cache_invalidations`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts(u8);

impl Parts {
    /// Name, place and so on.
    pub const PROFILE: Self = Self(1);
    /// Categories and items.
    pub const MENU: Self = Self(2);
    /// Status, capacity, opening hours.
    pub const STATUS: Self = Self(4);
    /// What lists show, filter by or search.
    pub const LISTS: Self = Self(8);
    /// Everything.
    pub const ALL: Self = Self(15);

    /// Both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the sets meet.
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// As stored.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// From what was stored; bits that this build does not know count as everything, as a newer
    /// build may mean more by them.
    pub const fn from_bits(bits: i64) -> Self {
        if bits >= 1 && bits <= 15 { Self(bits as u8) } else { Self::ALL }
    }

    /// The documents that these parts are in.
    pub fn kinds(self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(move |kind| kind.parts().meets(self))
    }
}

/// What a cache knows a document by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// A document of a restaurant.
    Document(RestaurantId, Kind),
    /// A page of a list, by its query in one agreed form.
    List(Arc<str>),
}

/// How a body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As it is.
    Identity,
    /// RFC 1952
    Gzip,
    /// RFC 7932
    Brotli,
    /// RFC 8878
    Zstd,
}

/// Enough for ten times smaller menus; more costs a multiple for a few percent (benches).
const GZIP_LEVEL: u32 = 6;
const BROTLI_QUALITY: i32 = 5;
const BROTLI_WINDOW: i32 = 18;
const ZSTD_LEVEL: i32 = 3;
/// Smaller bodies fit a packet either way.
const COMPRESS_FROM_BYTES: usize = 1_000;

impl Encoding {
    /// The best of what the client takes. Its weights only rule encodings out (`q=0`): a client that
    /// takes several takes what is smallest and cheapest to read.
    pub fn accepted(headers: &HeaderMap) -> Self {
        let mut best = Self::Identity;
        let (mut names_gzip, mut takes_any) = (false, false);
        for value in headers.get_all(ACCEPT_ENCODING) {
            let Ok(value) = value.to_str() else { continue };
            for part in value.split(',') {
                let (name, weight) = part.split_once(';').unwrap_or((part, ""));
                let name = name.trim();
                let is_gzip = name.eq_ignore_ascii_case("gzip");
                names_gzip |= is_gzip;
                if refused(weight) {
                    continue;
                }
                takes_any |= name == "*";
                let offered = if name.eq_ignore_ascii_case("zstd") {
                    Self::Zstd
                } else if name.eq_ignore_ascii_case("br") {
                    Self::Brotli
                } else if is_gzip {
                    Self::Gzip
                } else {
                    continue;
                };
                if offered as u8 > best as u8 {
                    best = offered;
                }
            }
        }
        // `*` is any that is not named, and gzip the one that every client means by it.
        if takes_any && !names_gzip && best == Self::Identity { Self::Gzip } else { best }
    }

    /// Its `content-encoding`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        }
    }
}

/// `q=0`, however it is spelt.
fn refused(weight: &str) -> bool {
    let weight = weight.trim();
    weight
        .strip_prefix("q=")
        .or_else(|| weight.strip_prefix("Q="))
        .is_some_and(|q| q.trim().parse::<f32>().is_ok_and(|q| q <= 0.0))
}

/// Compresses; cannot fail, as it writes to memory.
pub fn encode(body: &[u8], encoding: Encoding) -> Bytes {
    let encoded = match encoding {
        Encoding::Identity => Ok(body.to_vec()),
        Encoding::Gzip => {
            let level = flate2::Compression::new(GZIP_LEVEL);
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(body).and_then(|()| encoder.finish())
        }
        Encoding::Brotli => {
            let params = brotli::enc::BrotliEncoderParams {
                quality: BROTLI_QUALITY,
                lgwin: BROTLI_WINDOW,
                size_hint: body.len(),
                ..Default::default()
            };
            let mut encoded = Vec::new();
            brotli::BrotliCompress(&mut &body[..], &mut encoded, &params).map(|_| encoded)
        }
        Encoding::Zstd => zstd::bulk::compress(body, ZSTD_LEVEL),
    };
    // What cannot be compressed is never sent as if it were: see `Body::get`.
    encoded.map(Bytes::from).unwrap_or_default()
}

/// More than any body: a full menu with the longest texts.
const BODY_MAX: u64 = 64 << 20;

/// The reverse of [`encode`] as zstd; `None` for what that did not make.
pub fn unpack(packed: &[u8]) -> Option<Bytes> {
    let size = zstd::zstd_safe::get_frame_content_size(packed).ok()??;
    let size = usize::try_from(size.min(BODY_MAX)).ok()?;
    zstd::bulk::decompress(packed, size).ok().map(Bytes::from)
}

/// A body, and what it is in other encodings once somebody has asked for that.
#[derive(Debug)]
pub struct Body {
    identity: Bytes,
    gzip: OnceLock<Bytes>,
    brotli: OnceLock<Bytes>,
    zstd: OnceLock<Bytes>,
}

impl Body {
    /// A body that is not compressed yet.
    pub fn new(identity: Bytes) -> Self {
        Self { identity, gzip: OnceLock::new(), brotli: OnceLock::new(), zstd: OnceLock::new() }
    }

    /// One that came compressed.
    pub fn with_zstd(identity: Bytes, zstd: Bytes) -> Self {
        let body = Self::new(identity);
        let _first = body.zstd.set(zstd);
        body
    }

    /// The body as it is.
    pub fn identity(&self) -> &Bytes {
        &self.identity
    }

    /// The body in the encoding that was asked for, or as it is when that would not be smaller.
    pub fn get(&self, encoding: Encoding) -> (&Bytes, Encoding) {
        let cell = match encoding {
            Encoding::Identity => return (&self.identity, encoding),
            _ if self.identity.len() < COMPRESS_FROM_BYTES => {
                return (&self.identity, Encoding::Identity);
            }
            Encoding::Gzip => &self.gzip,
            Encoding::Brotli => &self.brotli,
            Encoding::Zstd => &self.zstd,
        };
        let encoded = cell.get_or_init(|| encode(&self.identity, encoding));
        if encoded.is_empty() || encoded.len() >= self.identity.len() {
            return (&self.identity, Encoding::Identity);
        }
        (encoded, encoding)
    }

    /// Bytes that it takes, or may take once all encodings were asked for: each of the three is
    /// less than a third of a menu.
    fn weight(&self) -> usize {
        self.identity.len() * 2
    }
}

/// A document in a cache.
#[derive(Debug)]
pub struct Document {
    /// Grows with each change; 0 for lists, which have none.
    pub version: i64,
    /// What is sent.
    pub body: Body,
    /// Of the body in any encoding, and therefore weak.
    pub etag: HeaderValue,
    /// Right for so long after it was made, if nobody changes it: a status ends when the
    /// restaurant opens or closes.
    pub fresh_until: Instant,
    /// Made, or read from the shared cache, at this moment.
    pub since: Instant,
}

/// What a document takes beside its body.
const OVERHEAD_BYTES: usize = 400;

impl Document {
    /// A document that is fresh for `ttl` from now.
    pub fn new(version: i64, body: Body, ttl: Duration) -> Self {
        let mut hasher = FxHasher::default();
        hasher.write(body.identity());
        let etag = format!("W/\"{version}-{:016x}\"", hasher.finish());
        let since = Instant::now();
        Self {
            version,
            body,
            // Digits and quotes are always a header.
            etag: HeaderValue::try_from(etag).unwrap_or(HeaderValue::from_static("W/\"\"")),
            fresh_until: since + ttl,
            since,
        }
    }

    /// Bytes that it takes in a cache.
    pub fn weight(&self) -> u32 {
        u32::try_from(self.body.weight() + OVERHEAD_BYTES).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests;
