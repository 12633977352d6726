//! A connection that is kept from request to request, and what to do when it breaks.

use std::{io, time::Instant};

use crate::client::{Connection, IDLE_MAX};

/// A kept connection.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) connection: Connection,
    pub(super) used: Instant,
    pub(super) is_closed: bool,
}

impl Line {
    /// Whether a request can be sent over it, as far as is known here.
    pub(super) fn is_fit(&self) -> bool {
        !self.is_closed && self.used.elapsed() <= IDLE_MAX && !self.connection.is_closed()
    }
}

/// What is known of a request without an answer.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) error: io::Error,
    pub(super) sent_bytes: usize,
    /// At least in part.
    pub(super) is_answered: bool,
}

impl Broken {
    /// Whether a request over a kept connection is sent once more over a new one: the server has
    /// closed it without a word, as servers do with connections that rest, and cannot have got the
    /// request, or twice is as good as once (RFC 9110, section 9.2.2). A POST that has left is never
    /// repeated: the server may have carried it out.
    pub(super) fn is_repeatable(&self, method: &str) -> bool {
        use io::ErrorKind as K;
        let is_closed = matches!(
            self.error.kind(),
            K::UnexpectedEof | K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe
        );
        let is_idempotent = matches!(method, "GET" | "PUT" | "DELETE" | "OPTIONS");
        is_closed && !self.is_answered && (is_idempotent || self.sent_bytes == 0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;

    #[test]
    fn only_what_does_no_harm_is_sent_again() {
        let broken = |kind: ErrorKind, sent_bytes, is_answered| Broken {
            error: kind.into(),
            sent_bytes,
            is_answered,
        };
        let closed = broken(ErrorKind::UnexpectedEof, 100, false);
        for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
            assert!(closed.is_repeatable(method), "{method}");
        }
        for method in ["POST", "PATCH"] {
            assert!(!closed.is_repeatable(method), "the server may have carried out a {method}");
            assert!(broken(ErrorKind::BrokenPipe, 0, false).is_repeatable(method));
        }
        assert!(!broken(ErrorKind::UnexpectedEof, 100, true).is_repeatable("GET"));
        assert!(!broken(ErrorKind::TimedOut, 100, false).is_repeatable("GET"));
    }
}
