//! Hands answers to the checker: what it says of its version, and where it pays, its content.

use super::{
    Document,
    body::{self, Decoder, Tag},
    check::{Answer, Begun, Checker, Interest},
    request::{Coding, Notes, Source},
};

/// A read that was sent.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub(super) restaurant: u32,
    pub(super) document: Document,
    pub(super) begun: Begun,
    /// What it said it had.
    pub tag: Option<Tag>,
    /// Check the content in any case.
    pub(super) thorough: bool,
}

/// The checker, and what decides how closely it looks.
#[derive(Debug)]
pub struct Judge {
    /// What it knows of all restaurants.
    pub checker: Checker,
    decoder: Decoder,
    /// The share of content checks where not all are made.
    sampled: f64,
    /// Reaches 1 when the next sample is due.
    due: f64,
}

impl Judge {
    /// Makes `sampled` (0 to 1) of the content checks where not all are made.
    pub fn new(checker: Checker, sampled: f64) -> Self {
        Self { checker, decoder: Decoder::default(), sampled, due: 0.0 }
    }

    /// Call this before the first byte is written.
    pub fn asks(
        &self,
        restaurant: u32,
        document: Document,
        revalidate: bool,
        thorough: bool,
    ) -> Asked {
        let tag = if revalidate { self.checker.tag(restaurant, document) } else { None };
        let begun = self.checker.read_begins(restaurant, document);
        Asked { restaurant, document, begun, tag, thorough }
    }

    /// A 200 or a 304 to a read.
    pub fn answered(
        &mut self,
        asked: &Asked,
        status: u16,
        notes: &Notes,
        body: &[u8],
        now_us: u64,
    ) {
        let Asked { restaurant, document, begun, .. } = *asked;
        let tag = match self.version(asked, status, notes, body) {
            Ok(tag) => tag,
            Err(why) => return self.checker.unreadable(restaurant, document.name(), &why),
        };
        let is_stale = notes.source == Source::Stale;
        let hash = notes.tag.map(|tag| tag.hash);
        self.checker.read_ends(
            restaurant,
            document,
            begun,
            Answer { version: tag, hash, is_stale },
        );
        if status != 200 || !self.is_wanted(asked, notes.coding, now_us) {
            return;
        }
        let plain = match notes.coding {
            Coding::Identity => Some(body),
            Coding::Gzip => self.decoder.gzip(body),
            Coding::Other => return,
        };
        let id = self.checker.id(restaurant);
        let named = plain.and_then(body::prefix);
        match plain.filter(|_| named.is_some_and(|p| (p.restaurant_id, p.version) == (id, tag))) {
            Some(plain) => self.checker.content(restaurant, document, tag, plain),
            None => {
                let why = "the decoded body does not begin with what its ETag says";
                self.checker.unreadable(restaurant, document.name(), why);
            }
        }
    }

    /// The version that an answer names.
    fn version(
        &self,
        asked: &Asked,
        status: u16,
        notes: &Notes,
        body: &[u8],
    ) -> Result<i64, String> {
        if status == 304 {
            let sent = asked.tag.ok_or("a 304 that was not asked for")?;
            return match notes.tag {
                Some(tag) if tag != sent => Err(format!("a 304 to {sent} says {tag}")),
                _ => Ok(sent.version),
            };
        }
        if notes.coding != Coding::Identity {
            return Ok(notes.tag.ok_or("no ETag that names a version")?.version);
        }
        let prefix = body::prefix(body).ok_or("no version near the front of the body")?;
        if prefix.restaurant_id != self.checker.id(asked.restaurant) {
            return Err(format!("it is of restaurant {}", prefix.restaurant_id));
        }
        match notes.tag {
            Some(tag) if tag.version != prefix.version => {
                Err(format!("the body is at {}, the ETag is {tag}", prefix.version))
            }
            _ => Ok(prefix.version),
        }
    }

    fn is_wanted(&mut self, asked: &Asked, coding: Coding, now_us: u64) -> bool {
        if asked.thorough {
            return true;
        }
        match self.checker.interest(asked.restaurant, now_us) {
            Interest::Never => false,
            // To decode all of them would cost more than all else.
            Interest::Always if coding == Coding::Identity => true,
            Interest::Always | Interest::Sometimes => {
                self.due += self.sampled;
                let is_due = self.due >= 1.0;
                self.due -= f64::from(u8::from(is_due));
                is_due
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::menu::{
        body::Availability,
        check::{Change, Start},
    };

    const BODY: &[u8] = br#"{"restaurant_id":70,"version":8,"categories":[{"items":[{"item_id":1,"available":true,"in_stock":true}]}]}"#;

    fn judge(sampled: f64) -> Judge {
        let mut checker = Checker::new(vec![70]);
        let items = vec![(1, Availability { available: true, in_stock: true })];
        checker.watch(0, &Start { menu: 8, items, ..Start::default() });
        Judge::new(checker, sampled)
    }

    fn tag(version: i64) -> Option<Tag> {
        Some(Tag { version, hash: 5 })
    }

    fn gzip(body: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn an_answer_names_its_version_in_one_way_only() {
        let plain = Notes { tag: tag(8), ..Notes::default() };
        let coded = Notes { coding: Coding::Gzip, ..plain };
        let other = br#"{"restaurant_id":71,"version":8}"#;
        let cases: [(u16, bool, Notes, &[u8], u64); 10] = [
            (200, false, plain, BODY, 0),
            (200, false, Notes { tag: None, ..plain }, BODY, 0),
            (200, false, Notes { tag: tag(9), ..plain }, BODY, 1),
            (200, false, plain, b"{}", 1),
            (200, false, plain, other, 1),
            (200, false, coded, &gzip(BODY), 0),
            (200, false, coded, &gzip(other), 1),
            (200, false, Notes { tag: None, ..coded }, BODY, 1),
            (304, true, plain, b"", 0),
            (304, false, plain, b"", 1),
        ];
        for (n, (status, revalidates, notes, body, unreadable)) in cases.into_iter().enumerate() {
            // What is not compressed is read without a look at its content.
            let mut judge = judge(f64::from(u8::from(notes.coding == Coding::Gzip)));
            let first = judge.asks(0, Document::Menu, false, false);
            judge.answered(&first, 200, &plain, BODY, 0);
            let asked = judge.asks(0, Document::Menu, revalidates, false);
            judge.answered(&asked, status, &notes, body, 0);
            let findings = judge.checker.findings();
            assert_eq!(
                (findings.unreadable, findings.violations),
                (unreadable, unreadable),
                "case {n}: {findings:?}"
            );
        }
    }

    #[test]
    fn a_304_is_of_what_was_sent() {
        let mut judge = judge(1.0);
        let first = judge.asks(0, Document::Menu, true, false);
        assert_eq!(first.tag, None, "no ETag is known yet");
        judge.answered(&first, 200, &Notes { tag: tag(8), ..Notes::default() }, BODY, 0);
        let asked = judge.asks(0, Document::Menu, true, false);
        assert_eq!(asked.tag, tag(8));
        let write = judge.checker.write_begins(0, Change::Items(Vec::new()), 0);
        judge.checker.write_ends(write, crate::menu::check::End::Made(9), 0);
        judge.answered(&asked, 304, &Notes::default(), b"", 0);
        assert_eq!(judge.checker.findings().violations, 0);
        let late = judge.asks(0, Document::Menu, true, false);
        judge.answered(&late, 304, &Notes::default(), b"", 0);
        assert_eq!(judge.checker.findings().older, 1, "{:?}", judge.checker.findings());
        judge.answered(&late, 304, &Notes { tag: tag(9), ..Notes::default() }, b"", 0);
        assert_eq!(judge.checker.findings().unreadable, 1);
    }

    #[test]
    fn content_is_read_when_it_is_sampled_recent_or_asked_for() {
        let contents = |sampled, coding, is_recent, thorough| {
            let mut judge = judge(sampled);
            if is_recent {
                judge.checker.write_begins(0, Change::Items(Vec::new()), 1);
            }
            let body = if coding == Coding::Gzip { gzip(BODY) } else { BODY.to_vec() };
            let notes = Notes { tag: tag(8), coding, ..Notes::default() };
            for _ in 0..100 {
                let asked = judge.asks(0, Document::Menu, false, thorough);
                judge.answered(&asked, 200, &notes, &body, 2);
            }
            assert_eq!(judge.checker.findings().violations, 0);
            judge.checker.findings().contents
        };
        assert_eq!(contents(0.25, Coding::Identity, false, false), 25);
        assert_eq!(contents(0.0, Coding::Identity, false, false), 0);
        assert_eq!(contents(0.0, Coding::Identity, true, false), 100);
        assert_eq!(contents(0.25, Coding::Gzip, true, false), 25);
        assert_eq!(contents(0.0, Coding::Gzip, false, true), 100);
        assert_eq!(contents(1.0, Coding::Other, true, true), 0);
    }
}
