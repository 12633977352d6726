//! An answer as it comes over the wire.

use std::{io, time::Duration};

/// More than any answer to a fix or a page of a route.
const RESPONSE_MAX: usize = 16 << 20;
const HEADERS_MAX: usize = 64;

/// What came back, apart from the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// Seconds of a Retry-After header.
    pub retry_after: Option<Duration>,
    /// The server closes the connection after this answer.
    pub close: bool,
}

/// How long a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    Bytes(usize),
    Chunks,
    UntilTheEnd,
}

pub(super) fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

pub(super) fn within_limit(length: usize) -> io::Result<()> {
    if length > RESPONSE_MAX { Err(invalid("an answer beyond the limit")) } else { Ok(()) }
}

/// The reply, the head's length and the body's length, once the head is complete.
pub(super) fn parse(
    bytes: &[u8],
    mut note: impl FnMut(&str, &[u8]),
) -> io::Result<Option<(Reply, usize, Length)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(bytes).map_err(|_| invalid("not an HTTP/1.1 answer"))? {
        httparse::Status::Complete(head) => head,
        httparse::Status::Partial => return Ok(None),
    };
    let status = response.code.unwrap_or_default();
    let mut reply = Reply { status, retry_after: None, close: response.version == Some(0) };
    let (mut length, mut is_chunked) = (None, false);
    for header in response.headers.iter() {
        note(header.name, header.value);
        let text = std::str::from_utf8(header.value).unwrap_or_default();
        if header.name.eq_ignore_ascii_case("content-length") {
            length = Some(text.parse::<usize>().map_err(|_| invalid("not a content length"))?);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            is_chunked = text.to_ascii_lowercase().ends_with("chunked");
        } else if header.name.eq_ignore_ascii_case("retry-after") {
            reply.retry_after = text.parse().ok().map(Duration::from_secs);
        } else if header.name.eq_ignore_ascii_case("connection") {
            reply.close |= text.eq_ignore_ascii_case("close");
        }
    }
    let length = match (length, status) {
        (_, 204 | 304) => Length::Bytes(0),
        _ if is_chunked => Length::Chunks,
        (Some(length), _) => Length::Bytes(length),
        (None, _) => Length::UntilTheEnd,
    };
    if let Length::Bytes(length) = length {
        within_limit(length)?;
    }
    Ok(Some((reply, head, length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete_at_any_cut() {
        let whole = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 2\r\nConnection: close\r\n\
                      Content-Length: 4\r\n\r\nbusy";
        let head = whole.len() - 4;
        let mut noted = Vec::new();
        let mut note = |name: &str, value: &[u8]| noted.push((name.to_owned(), value.to_vec()));
        for cut in 0..head {
            assert!(matches!(parse(&whole[..cut], &mut note), Ok(None)), "cut at {cut}");
        }
        let reply = Reply { status: 503, retry_after: Some(Duration::from_secs(2)), close: true };
        assert_eq!(parse(whole, note).unwrap(), Some((reply, head, Length::Bytes(4))));
        assert_eq!(noted.len(), 3, "each header once, when all are there: {noted:?}");
        assert_eq!(noted[0], ("Retry-After".to_owned(), b"2".to_vec()));
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for answer in [
            "SSH-2.0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: five\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n",
        ] {
            assert!(parse(answer.as_bytes(), |_, _| {}).is_err(), "{answer:?}");
        }
    }
}
