//! Which answers I10 allows: a history of versions, checked while it is made.
//!
//! A restaurant has one counter. Each write takes its next value and stamps with it the documents
//! that it changes. Of what has ended, the checker keeps
//!
//! - per document a *floor*: the greatest version that any completed read, or completed write of
//!   that document, has established. A read that starts when the floor is `F` must not answer less;
//! - per restaurant the greatest version *known*: a write that starts then must make a greater one,
//!   and no two writes make the same;
//! - per restaurant a *ceiling*: the version at the start and one more for each write begun since.
//!   What is beyond it was never written, and neither was a version of a document that is known to
//!   have been made by a write to another;
//! - what answered writes have set, by version: a document at version `V` shows the value of the
//!   newest write up to `V`. A write whose answer is missing may have a version up to `V` too, so
//!   its value is allowed as well.
//!
//! Two answers with the same version of a [fixed](Document::is_fixed) document must have the same
//! hash. Nobody else may write to these restaurants meanwhile, but for ratings that
//! are announced. An answer marked as stale, which
//! the service gives only when its stores are away, is exempt from the floor and establishes
//! nothing.
//!
//! Starting is what the caller reports before the request's first byte is written, ending what it
//! reports after the answer's last byte: so whatever one order calls "before" really was.

use super::{
    Document,
    body::{self, Tag},
};

mod findings;
mod history;

pub use findings::{Findings, Violation};
pub use history::{Change, Start};
use history::{Write, Written};

/// How long after a write all answers about its restaurant have their content checked, µs.
const RECENT_US: u64 = 2_000_000;

/// A read that has started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    floor: i64,
}

/// A write that has started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteId {
    written: u32,
    serial: u64,
}

/// What an answer says of its document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Version and, where it came with one, hash.
    pub version: i64,
    /// Of the body.
    pub hash: Option<u64>,
    /// Marked as an old copy.
    pub is_stale: bool,
}

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It made this version, and every reader sees it.
    Made(i64),
    /// It made this version; the service says that some readers may see it later.
    MadeForLater(i64),
    /// It was refused for what it is (4xx) and has changed nothing.
    Refused,
    /// Nobody knows whether it has changed anything.
    Unknown,
}

/// Whose content is worth reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Nothing is known of it.
    Never,
    /// Somebody writes to this restaurant now and then.
    Sometimes,
    /// Somebody has just written to it.
    Always,
}

/// What has been seen of a document.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    floor: i64,
    tag: Tag,
}

/// The history and what was found. Restaurants go by their index.
#[derive(Debug)]
pub struct Checker {
    ids: Vec<i64>,
    seen: Vec<[Seen; 4]>,
    /// Where in `written` a restaurant is; `NOT_WRITTEN` for most.
    written_at: Vec<u32>,
    written: Vec<Written>,
    /// Which restaurants are rated meanwhile.
    rated: Vec<bool>,
    findings: Findings,
    writes: u64,
}

const NOT_WRITTEN: u32 = u32::MAX;

impl Checker {
    /// Of restaurants that nobody writes to, by their ids.
    pub fn new(ids: Vec<i64>) -> Self {
        Self {
            seen: vec![[Seen::default(); 4]; ids.len()],
            written_at: vec![NOT_WRITTEN; ids.len()],
            rated: vec![false; ids.len()],
            written: Vec::new(),
            findings: Findings::default(),
            writes: 0,
            ids,
        }
    }

    /// This restaurant will be written to; `start` is what it is now.
    pub fn watch(&mut self, restaurant: u32, start: &Start) {
        for document in Document::ALL {
            self.seen(restaurant, document).floor = start.of(document);
        }
        self.written_at[restaurant as usize] = self.written.len() as u32;
        self.written.push(Written::new(restaurant, start));
    }

    /// Call this before somebody rates the restaurant: one more version of it may be made, at any
    /// time from now on, and several ratings may share one.
    pub fn rating_begins(&mut self, restaurant: u32) {
        self.rated[restaurant as usize] = true;
        if let Some(written) = self.written(restaurant) {
            written.begun += 1;
        }
    }

    /// The restaurant's id.
    pub fn id(&self, restaurant: u32) -> i64 {
        self.ids[restaurant as usize]
    }

    /// What was found so far.
    pub fn findings(&self) -> &Findings {
        &self.findings
    }

    /// The newest ETag seen of a document.
    pub fn tag(&self, restaurant: u32, document: Document) -> Option<Tag> {
        Some(self.seen[restaurant as usize][document as usize].tag).filter(|tag| tag.version > 0)
    }

    /// Call this before the first byte of a read is written.
    pub fn read_begins(&self, restaurant: u32, document: Document) -> Begun {
        Begun { floor: self.seen[restaurant as usize][document as usize].floor }
    }

    /// Call this after the last byte of its answer was read.
    pub fn read_ends(&mut self, restaurant: u32, document: Document, begun: Begun, answer: Answer) {
        self.findings.reads += 1;
        let version = answer.version;
        if answer.is_stale {
            self.findings.stale += 1;
        } else if version < begun.floor {
            let floor = begun.floor;
            self.violation(Violation::Older, restaurant, || {
                format!(
                    "{} at {version} by a read that started after {floor} was known",
                    document.name()
                )
            });
        }
        self.compare_hashes(restaurant, document, answer);
        let is_possible = self.is_possible(restaurant, document, version);
        if answer.is_stale {
            return;
        }
        let is_written = self.written_at[restaurant as usize] != NOT_WRITTEN;
        // A restaurant of which nothing is known has the version that it has. A made-up version of
        // one that is written to must not become the measure of all others.
        if is_possible || !is_written {
            let seen = self.seen(restaurant, document);
            seen.floor = seen.floor.max(version);
            if let Some(written) = self.written(restaurant) {
                written.known = written.known.max(version);
            }
        }
    }

    /// An answer of success to `what` that names no version, or two, or another restaurant.
    pub fn unreadable(&mut self, restaurant: u32, what: &str, why: &str) {
        self.violation(Violation::Unreadable, restaurant, || format!("{what}: {why}"));
    }

    /// Whether to check the content of an answer as well.
    pub fn interest(&self, restaurant: u32, now_us: u64) -> Interest {
        match self.written_at[restaurant as usize] {
            NOT_WRITTEN => Interest::Never,
            at => match self.written[at as usize].touched_us {
                Some(touched_us) if now_us < touched_us + RECENT_US => Interest::Always,
                _ => Interest::Sometimes,
            },
        }
    }

    /// Compares what a document shows at its version with what was written; after
    /// [`Self::read_ends`], with the body as it is without an encoding.
    pub fn content(&mut self, restaurant: u32, document: Document, version: i64, body: &[u8]) {
        let Some(written) = self.written(restaurant) else { return };
        let mut wrong = Vec::new();
        if document.has_items() {
            written.check_items(document, version, body, |what| wrong.push(what));
        }
        if document.has_status() {
            written.check_status(version, body::status(body), |what| wrong.push(what));
        }
        self.findings.contents += 1;
        for what in wrong {
            self.violation(Violation::Content, restaurant, || {
                format!("{} at {version}: {what}", document.name())
            });
        }
    }

    /// Call this before the first byte of a write is written. Only restaurants that are watched
    /// are written to; a change of an item names it by its place in [`Start::items`].
    pub fn write_begins(&mut self, restaurant: u32, change: Change, now_us: u64) -> WriteId {
        self.writes += 1;
        let serial = self.writes;
        let at = self.written_at[restaurant as usize];
        let written = &mut self.written[at as usize];
        written.begun += 1;
        written.touched_us = Some(now_us);
        written.open.push(Write { serial, known: written.known, change });
        WriteId { written: at, serial }
    }

    /// Call this after the last byte of its answer was read.
    pub fn write_ends(&mut self, id: WriteId, end: End, now_us: u64) {
        let written = &mut self.written[id.written as usize];
        written.touched_us = Some(now_us);
        let restaurant = written.restaurant;
        let Some(at) = written.open.iter().position(|write| write.serial == id.serial) else {
            return;
        };
        self.findings.writes += 1;
        let version = match end {
            // It stays open: its value may be seen at any time from now on.
            End::Unknown => return,
            End::Refused => {
                written.open.swap_remove(at);
                written.begun -= 1;
                return;
            }
            End::Made(version) | End::MadeForLater(version) => version,
        };
        let write = written.open.swap_remove(at);
        let ceiling = written.ceiling();
        let change = write.change.name();
        if version > ceiling {
            // Its effect is still to be expected, at whatever version.
            written.open.push(write);
            self.violation(Violation::NeverWritten, restaurant, || {
                format!("a write of {change} made {version}, when there can be {ceiling} at most")
            });
            return;
        }
        let (known, documents) = (write.known, write.change.documents());
        let twice = written.made(version, &write.change);
        if version <= known {
            self.violation(Violation::WriteNotNewer, restaurant, || {
                format!("a write of {change} made {version} although {known} was known before it")
            });
        } else if let Some(other) = twice {
            self.violation(Violation::WriteNotNewer, restaurant, || {
                format!("writes of {change} and of {other} both made {version}")
            });
        }
        // What is to be seen later is no floor until somebody has seen it.
        for document in documents.iter().filter(|_| matches!(end, End::Made(_))) {
            let seen = self.seen(restaurant, *document);
            seen.floor = seen.floor.max(version);
        }
        if let Some(written) = self.written(restaurant) {
            written.known = written.known.max(version);
        }
    }

    /// Whether some write can have made this version of this document.
    fn is_possible(&mut self, restaurant: u32, document: Document, version: i64) -> bool {
        let floor = self.seen(restaurant, document).floor;
        let is_rated = self.rated[restaurant as usize];
        let why = match self.written(restaurant) {
            None if floor > 0 && version > floor && !is_rated => {
                format!("it was at {floor} and nobody has written to it")
            }
            Some(written) if version > written.ceiling() => {
                format!("there can be {} at most", written.ceiling())
            }
            Some(written) => match written.maker(version) {
                Some(change) if !change.changes(document) => {
                    format!("that was made by a write of {}", change.name())
                }
                _ => return true,
            },
            None => return true,
        };
        self.violation(Violation::NeverWritten, restaurant, || {
            format!("{} at {version}: {why}", document.name())
        });
        false
    }

    fn compare_hashes(&mut self, restaurant: u32, document: Document, answer: Answer) {
        let Answer { version, hash: Some(hash), .. } = answer else { return };
        let tag = &mut self.seen(restaurant, document).tag;
        let differs = document.is_fixed() && tag.version == version && tag.hash != hash;
        if version >= tag.version && !answer.is_stale {
            *tag = Tag { version, hash };
        }
        if differs {
            self.violation(Violation::Altered, restaurant, || {
                format!("{} at {version} came with two different bodies", document.name())
            });
        }
    }

    fn seen(&mut self, restaurant: u32, document: Document) -> &mut Seen {
        &mut self.seen[restaurant as usize][document as usize]
    }

    fn written(&mut self, restaurant: u32) -> Option<&mut Written> {
        self.written.get_mut(self.written_at[restaurant as usize] as usize)
    }

    fn violation(&mut self, kind: Violation, restaurant: u32, what: impl FnOnce() -> String) {
        let id = self.id(restaurant);
        self.findings.add(kind, || format!("restaurant {id}: {}", what()));
    }
}

#[cfg(test)]
mod tests;
