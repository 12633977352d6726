//! I10, looked at while it happens: which versions a read may show.
//!
//! What counts is only what has ended. The *floor* of a document is the greatest version that a
//! finished read or an answered write has established; a read that starts then must not show less.
//! And nobody sees what was never written: a restaurant has one counter, which each write raises by
//! one, so no version is beyond the first one plus the writes begun.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use rustc_hash::FxHashMap;

/// The documents of a restaurant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Document {
    Restaurant,
    Menu,
    Status,
    MenuWithStatus,
}

impl Document {
    pub(super) const ALL: [Self; 4] =
        [Self::Restaurant, Self::Menu, Self::Status, Self::MenuWithStatus];

    /// Its path within the API.
    pub(super) fn path(self, restaurant: i64) -> String {
        let part = match self {
            Self::Restaurant => "",
            Self::Menu => "/menu",
            Self::Status => "/status",
            Self::MenuWithStatus => "/menu-with-status",
        };
        format!("/restaurants/{restaurant}{part}")
    }

    fn is_changed_by(self, change: Change) -> bool {
        match change {
            Change::Status { .. } => self != Self::Menu,
            Change::Item => matches!(self, Self::Menu | Self::MenuWithStatus),
        }
    }
}

/// What a write does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Sets the status, with a capacity that no other write sets.
    Status { capacity: i64 },
    /// Sets an item's availability.
    Item,
}

/// The versions of a restaurant's documents, as the database has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Versions {
    pub(super) restaurant: i64,
    pub(super) profile: i64,
    pub(super) menu: i64,
    pub(super) status: i64,
    /// The counter of them all.
    pub(super) all: i64,
}

impl Versions {
    pub(super) fn of(&self, document: Document) -> i64 {
        match document {
            Document::Restaurant => self.profile.max(self.status),
            Document::Menu => self.menu,
            Document::Status => self.status,
            Document::MenuWithStatus => self.menu.max(self.status),
        }
    }
}

/// A read that has started.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opened {
    pub(super) at: Instant,
    floor: i64,
}

/// What it showed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shown {
    pub(super) version: i64,
    pub(super) capacity: Option<i64>,
    /// The answer says that it is an old copy, which promises nothing.
    pub(super) is_stale: bool,
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Violation {
    /// When the read started.
    pub(super) at: Instant,
    /// How long before that something newer was known; `None` for what was never written.
    pub(super) behind: Option<Duration>,
    pub(super) what: String,
}

/// What was seen and written of restaurants that nobody else writes to. Of all others only what was
/// seen counts.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Versions and when each was established, both growing.
    known: FxHashMap<(i64, Document), Vec<(i64, Instant)>>,
    written: FxHashMap<i64, Written>,
}

#[derive(Debug, Default)]
struct Written {
    /// The greatest version that can be.
    ceiling: i64,
    made: BTreeMap<i64, Change>,
}

impl Ledger {
    /// Starts with what the database has now.
    pub(super) fn new(own: &[Versions], now: Instant) -> Self {
        let mut ledger = Self::default();
        for versions in own {
            let id = versions.restaurant;
            for document in Document::ALL {
                ledger.establish(id, document, versions.of(document), now);
            }
            let written = Written { ceiling: versions.all, made: BTreeMap::new() };
            ledger.written.insert(id, written);
        }
        ledger
    }

    /// Before the first byte of a read is sent.
    pub(super) fn open(&self, restaurant: i64, document: Document, at: Instant) -> Opened {
        let floor = self.known.get(&(restaurant, document)).and_then(|known| known.last());
        Opened { at, floor: floor.map_or(0, |(version, _)| *version) }
    }

    /// After the last byte of its answer.
    pub(super) fn close(
        &mut self,
        restaurant: i64,
        document: Document,
        opened: Opened,
        shown: Shown,
        now: Instant,
    ) -> Option<Violation> {
        let violation = |behind, what: String| {
            let what = format!("restaurant {restaurant}, {document:?}: {what}");
            Some(Violation { at: opened.at, behind, what })
        };
        let version = shown.version;
        if let Some(written) = self.written.get(&restaurant) {
            if version > written.ceiling {
                let ceiling = written.ceiling;
                return violation(None, format!("version {version}, and {ceiling} is not reached"));
            }
            if document == Document::Status && !written.made_it(version, shown.capacity) {
                let what = format!("version {version} with capacity {:?}", shown.capacity);
                return violation(None, format!("{what}, and {:?}", written.made.get(&version)));
            }
        }
        if shown.is_stale {
            return None;
        }
        if version < opened.floor {
            let known = &self.known[&(restaurant, document)];
            let newer = known.iter().find(|(known, _)| *known > version);
            let behind = newer.map(|(_, since)| opened.at.saturating_duration_since(*since));
            let floor = opened.floor;
            return violation(behind, format!("version {version} after {floor} was known"));
        }
        self.establish(restaurant, document, version, now);
        None
    }

    /// Before the first byte of a write is sent.
    pub(super) fn begin(&mut self, restaurant: i64) {
        self.written.entry(restaurant).or_default().ceiling += 1;
    }

    /// After the last byte of its 200, which named the version.
    pub(super) fn written(
        &mut self,
        restaurant: i64,
        change: Change,
        version: i64,
        now: Instant,
    ) -> Option<Violation> {
        let written = self.written.entry(restaurant).or_default();
        let (other, ceiling) = (written.made.insert(version, change), written.ceiling);
        for document in Document::ALL.into_iter().filter(|d| d.is_changed_by(change)) {
            self.establish(restaurant, document, version, now);
        }
        (other.is_some() || version > ceiling).then(|| Violation {
            at: now,
            behind: None,
            what: format!("restaurant {restaurant}: a write made version {version}, up to {ceiling} was possible, and {other:?} had it"),
        })
    }

    fn establish(&mut self, restaurant: i64, document: Document, version: i64, now: Instant) {
        let known = self.known.entry((restaurant, document)).or_default();
        if known.last().is_none_or(|(last, _)| version > *last) {
            known.push((version, now));
        }
    }
}

impl Written {
    /// Whether a status of that version can have that capacity; writes whose answer did not come
    /// may have made any.
    fn made_it(&self, version: i64, capacity: Option<i64>) -> bool {
        match self.made.get(&version) {
            Some(Change::Status { capacity: set }) => capacity == Some(*set),
            Some(Change::Item) => false,
            None => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Versions = Versions { restaurant: 7, profile: 3, menu: 5, status: 4, all: 5 };

    fn read(
        ledger: &mut Ledger,
        document: Document,
        opened: Opened,
        version: i64,
    ) -> Option<Violation> {
        let shown = Shown { version, capacity: None, is_stale: false };
        ledger.close(7, document, opened, shown, Instant::now())
    }

    #[test]
    fn a_read_after_a_write_shows_it_and_one_before_need_not() {
        let now = Instant::now();
        let mut ledger = Ledger::new(&[OWN], now);
        let before = ledger.open(7, Document::Menu, now);
        ledger.begin(7);
        assert_eq!(ledger.written(7, Change::Item, 6, now), None);
        let later = now + Duration::from_millis(300);
        let after = ledger.open(7, Document::Menu, later);
        assert_eq!(read(&mut ledger, Document::Menu, before, 5), None);
        let violation = read(&mut ledger, Document::Menu, after, 5).expect("it is old");
        assert_eq!((violation.at, violation.behind), (later, Some(Duration::from_millis(300))));
        assert_eq!(read(&mut ledger, Document::Menu, after, 6), None);
        // The status was not changed.
        let status = ledger.open(7, Document::Status, now);
        assert_eq!(read(&mut ledger, Document::Status, status, 4), None);
        let both = ledger.open(7, Document::MenuWithStatus, now);
        assert!(read(&mut ledger, Document::MenuWithStatus, both, 5).is_some());
    }

    #[test]
    fn a_reader_never_goes_back() {
        let now = Instant::now();
        let mut ledger = Ledger::default();
        let first = ledger.open(9, Document::Menu, now);
        let seen = |version| Shown { version, capacity: None, is_stale: false };
        assert_eq!(ledger.close(9, Document::Menu, first, seen(8), now), None);
        let second = ledger.open(9, Document::Menu, now);
        assert!(ledger.close(9, Document::Menu, second, seen(7), now).is_some());
        // What says that it is old neither breaks nor establishes anything.
        let stale = Shown { is_stale: true, ..seen(6) };
        assert_eq!(ledger.close(9, Document::Menu, second, stale, now), None);
        // One that ran beside the first.
        assert_eq!(ledger.close(9, Document::Menu, first, seen(7), now), None);
        assert!(ledger.close(9, Document::Menu, second, seen(7), now).is_some());
    }

    #[test]
    fn nobody_sees_what_was_never_written() {
        let now = Instant::now();
        let mut ledger = Ledger::new(&[OWN], now);
        let opened = ledger.open(7, Document::Status, now);
        assert!(read(&mut ledger, Document::Status, opened, 6).is_some(), "5 is the last one");
        ledger.begin(7);
        assert_eq!(read(&mut ledger, Document::Status, opened, 6), None, "perhaps written now");
        ledger.begin(7);
        assert_eq!(ledger.written(7, Change::Status { capacity: 70 }, 7, now), None);
        let mut shown = Shown { version: 7, capacity: Some(70), is_stale: false };
        assert_eq!(ledger.close(7, Document::Status, opened, shown, now), None);
        shown.capacity = Some(60);
        assert!(ledger.close(7, Document::Status, opened, shown, now).is_some());
        assert!(ledger.written(7, Change::Item, 7, now).is_some(), "a version is made once");
        assert!(ledger.written(7, Change::Item, 8, now).is_some(), "beyond all that was begun");
        ledger.begin(7);
        ledger.written(7, Change::Item, 8, now);
        assert!(read(&mut ledger, Document::Status, opened, 8).is_some(), "no status has it");
    }

    #[test]
    fn versions_of_documents_are_those_of_their_parts() {
        let of = Document::ALL.map(|document| OWN.of(document));
        assert_eq!(of, [4, 5, 4, 5]);
    }
}
