//! A connection that can misbehave on request: cut an answer, say it twice, or not at all.
//!
//! HTTP is hyper's business, and hyper does it right; what is wrong happens to the bytes on their
//! way out.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Decides what happens to the answer that comes next. Clones belong to the same connection.
#[derive(Clone, Default)]
pub struct Tap(Arc<Mutex<Plan>>);

#[derive(Default)]
enum Plan {
    #[default]
    AsIs,
    /// Closes without an answer.
    Close,
    /// Resets without an answer.
    Reset,
    /// Resets after a part of the answer.
    Cut(Part),
    /// Keeps a copy of the answer while it is written.
    Copy(Part, Vec<u8>),
    /// Writes the copy before anything else.
    Again(Vec<u8>, usize),
}

impl Tap {
    /// The connection is closed in place of the next answer.
    pub fn close(&self) {
        *self.0.lock() = Plan::Close;
    }

    /// The connection is reset in place of the next answer.
    pub fn reset(&self) {
        *self.0.lock() = Plan::Reset;
    }

    /// The connection is reset after the next answer's header and so many bytes of its body.
    pub fn cut(&self, body_bytes: usize) {
        *self.0.lock() = Plan::Cut(Part::new(body_bytes));
    }

    /// The next answer, whose body has so many bytes, is written twice.
    pub fn repeat(&self, body_bytes: usize) {
        *self.0.lock() = Plan::Copy(Part::new(body_bytes), Vec::new());
    }
}

/// Finds the end of a header and of so many bytes of the body in what is written piece by piece.
#[derive(Clone, Copy, Debug)]
struct Part {
    /// How much of the empty line that ends the header has passed.
    matched: usize,
    body_left: usize,
}

impl Part {
    const END: &[u8] = b"\r\n\r\n";

    fn new(body_bytes: usize) -> Self {
        Self { matched: 0, body_left: body_bytes }
    }

    /// How many of these bytes belong to the part.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        while self.matched < Self::END.len() && taken < bytes.len() {
            // The pattern begins anew with its own first byte at most.
            self.matched = match bytes[taken] {
                byte if byte == Self::END[self.matched] => self.matched + 1,
                b'\r' => 1,
                _ => 0,
            };
            taken += 1;
        }
        let body = self.body_left.min(bytes.len() - taken);
        self.body_left -= body;
        taken + body
    }

    fn is_whole(self) -> bool {
        self.matched == Self::END.len() && self.body_left == 0
    }
}

/// A connection with a tap.
pub struct Wire {
    stream: TcpStream,
    tap: Tap,
}

impl Wire {
    /// Puts a tap on a connection.
    #[must_use]
    pub fn new(stream: TcpStream) -> (Self, Tap) {
        let tap = Tap::default();
        (Self { stream, tap: tap.clone() }, tap)
    }

    /// The connection is about to be dropped: with a reset, and without waiting for anything.
    fn reset(&self) -> io::Error {
        // Without it the connection is closed, which cuts the answer as well.
        let _ = self.stream.set_zero_linger();
        io::ErrorKind::ConnectionReset.into()
    }
}

fn write_again(
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
    plan: &mut Plan,
) -> Poll<io::Result<()>> {
    while let Plan::Again(copy, written) = plan {
        if *written == copy.len() {
            *plan = Plan::AsIs;
            break;
        }
        let bytes = ready!(Pin::new(&mut *stream).poll_write(cx, &copy[*written..]))?;
        if bytes == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        *written += bytes;
    }
    Poll::Ready(Ok(()))
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

// `is_write_vectored` stays false, so that hyper hands over everything in one piece.
impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let mut plan = this.tap.0.lock();
        ready!(write_again(&mut this.stream, cx, &mut plan))?;
        let stream = Pin::new(&mut this.stream);
        match &mut *plan {
            Plan::AsIs | Plan::Again(..) => stream.poll_write(cx, buf),
            Plan::Close => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Plan::Reset => {
                drop(plan);
                Poll::Ready(Err(this.reset()))
            }
            Plan::Cut(part) => {
                let mut ahead = *part;
                let bytes = ahead.take(buf);
                if bytes == 0 {
                    drop(plan);
                    return Poll::Ready(Err(this.reset()));
                }
                let written = ready!(stream.poll_write(cx, &buf[..bytes]))?;
                part.take(&buf[..written]);
                Poll::Ready(Ok(written))
            }
            Plan::Copy(part, copy) => {
                let mut ahead = *part;
                let bytes = ahead.take(buf);
                let written = ready!(stream.poll_write(cx, &buf[..bytes]))?;
                part.take(&buf[..written]);
                copy.extend_from_slice(&buf[..written]);
                if part.is_whole() {
                    *plan = Plan::Again(std::mem::take(copy), 0);
                }
                Poll::Ready(Ok(written))
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut plan = this.tap.0.lock();
        ready!(write_again(&mut this.stream, cx, &mut plan))?;
        // An answer of which everything was wanted is cut nevertheless.
        if matches!(&*plan, Plan::Cut(part) if part.is_whole()) {
            drop(plan);
            return Poll::Ready(Err(this.reset()));
        }
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(write_again(&mut this.stream, cx, &mut this.tap.0.lock()))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_part_ends_in_the_same_place_however_it_is_cut(
            cuts in proptest::collection::vec(1_usize..20, 0..40),
            body_bytes in 0_usize..40,
        ) {
            let answer = b"HTTP/1.1 200 OK\r\n\rx: \r\n\r\r\n\r\n0123456789abcdefghijklmnopqrstuvwxyz";
            let header = answer.windows(4).position(|four| four == Part::END).unwrap() + 4;
            let mut part = Part::new(body_bytes);
            let (mut rest, mut taken) = (&answer[..], 0);
            for cut in cuts.into_iter().chain([answer.len()]) {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                rest = after;
                taken += part.take(piece);
            }
            prop_assert_eq!(taken, answer.len().min(header + body_bytes));
            prop_assert_eq!(part.is_whole(), body_bytes <= answer.len() - header);
        }
    }
}
