//! What is sent for a read, and what is noted of its answer's headers.

use std::io::Write as _;

use super::{Document, Encoding, body::Tag};
use crate::client::Target;

/// The parts of each read's request that are the same for all of a node.
#[derive(Debug)]
pub struct Requests {
    front: Vec<u8>,
    back: Vec<u8>,
}

impl Requests {
    /// For readers that accept `encoding`.
    pub fn new(target: &Target, encoding: Encoding) -> Self {
        let (prefix, host, encoding) = (&target.prefix, &target.authority, encoding.name());
        Self {
            front: format!("GET {prefix}/api/v1/restaurants").into(),
            back: format!(" HTTP/1.1\r\nhost: {host}\r\naccept-encoding: {encoding}\r\n").into(),
        }
    }

    /// Appends a request for a document, on condition that it is not `tag` any more.
    pub fn document(&self, out: &mut Vec<u8>, id: i64, document: Document, tag: Option<Tag>) {
        out.extend_from_slice(&self.front);
        let _infallible = write!(out, "/{id}");
        out.extend_from_slice(document.suffix().as_bytes());
        out.extend_from_slice(&self.back);
        if let Some(tag) = tag {
            let _infallible = write!(out, "if-none-match: {tag}\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Appends a request for a list.
    pub fn list(&self, out: &mut Vec<u8>, query: &str) {
        out.extend_from_slice(&self.front);
        out.extend_from_slice(query.as_bytes());
        out.extend_from_slice(&self.back);
        out.extend_from_slice(b"\r\n");
    }
}

/// Where an answer came from, as the service says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Source {
    /// The header is absent or unknown.
    #[default]
    Unnamed,
    /// The node's own cache.
    Hit,
    /// The cache that all nodes share.
    Shared,
    /// The database.
    Miss,
    /// An old copy.
    Stale,
}

impl Source {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Hit, Self::Shared, Self::Miss, Self::Stale, Self::Unnamed];

    /// As in `x-cache`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unnamed => "none",
            Self::Hit => "hit",
            Self::Shared => "shared",
            Self::Miss => "miss",
            Self::Stale => "stale",
        }
    }
}

/// How a body came.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Coding {
    /// As it is.
    #[default]
    Identity,
    /// RFC 1952.
    Gzip,
    /// One that is not undone here.
    Other,
}

/// What is kept of an answer's headers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Notes {
    /// The ETag, when there is one that can be read.
    pub tag: Option<Tag>,
    /// Who answered.
    pub source: Source,
    /// How the body came.
    pub coding: Coding,
}

impl Notes {
    /// Takes what is of interest.
    pub fn take(&mut self, name: &str, value: &[u8]) {
        // Most headers are told apart by their length alone.
        match name.len() {
            4 if name.eq_ignore_ascii_case("etag") => self.tag = Tag::parse(value),
            7 if name.eq_ignore_ascii_case("x-cache") => {
                let named = Source::ALL.into_iter().find(|one| one.name().as_bytes() == value);
                self.source = named.unwrap_or_default();
            }
            16 if name.eq_ignore_ascii_case("content-encoding") => {
                self.coding = match value {
                    b"identity" => Coding::Identity,
                    b"gzip" => Coding::Gzip,
                    _ => Coding::Other,
                };
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_complete() {
        let target = Target::parse("http://menu.test:8001/x").unwrap();
        let requests = Requests::new(&target, Encoding::Gzip);
        let mut out = Vec::new();
        requests.document(&mut out, 7, Document::MenuWithStatus, None);
        assert_eq!(
            String::from_utf8(std::mem::take(&mut out)).unwrap(),
            "GET /x/api/v1/restaurants/7/menu-with-status HTTP/1.1\r\nhost: menu.test:8001\r\n\
             accept-encoding: gzip\r\n\r\n"
        );
        requests.document(&mut out, 7, Document::Restaurant, Some(Tag { version: 3, hash: 255 }));
        let text = String::from_utf8(std::mem::take(&mut out)).unwrap();
        assert!(text.starts_with("GET /x/api/v1/restaurants/7 HTTP/1.1\r\n"), "{text}");
        assert!(text.ends_with("\r\nif-none-match: W/\"3-00000000000000ff\"\r\n\r\n"), "{text}");
        requests.list(&mut out, "?q=thai");
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("GET /x/api/v1/restaurants?q=thai HTTP/1.1\r\n"), "{text}");
    }

    #[test]
    fn headers_are_noted_whatever_their_case() {
        let mut notes = Notes::default();
        for (name, value) in [
            ("ETag", "W/\"3-00000000000000ff\""),
            ("x-cache", "shared"),
            ("Content-Encoding", "gzip"),
            ("content-length", "1"),
        ] {
            notes.take(name, value.as_bytes());
        }
        let tag = Some(Tag { version: 3, hash: 255 });
        assert_eq!(notes, Notes { tag, source: Source::Shared, coding: Coding::Gzip });
        notes.take("x-cache", b"HIT from elsewhere");
        notes.take("content-encoding", b"zstd");
        assert_eq!((notes.source, notes.coding), (Source::Unnamed, Coding::Other));
    }
}
