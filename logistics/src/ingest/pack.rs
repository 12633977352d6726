//! Fixes that came together share entries.

use std::ops::Range;

use contracts::position::begin_entry;

use super::Request;

/// Positions that share an entry at most: 16 KiB, a moment's work for Redis and for a worker.
pub(super) const ENTRY_POSITIONS_MAX: usize = 256;

/// What goes out, and where each request's positions are in it.
pub(super) struct Packed {
    pub(super) entries: Vec<Vec<u8>>,
    pub(super) places: Vec<Place>,
}

/// One request's positions: they begin at `first` in the first of `entries`.
pub(super) struct Place {
    pub(super) entries: Range<usize>,
    pub(super) first: u32,
}

/// Fills entries one after the other, in the order of the requests.
pub(super) fn pack(batch: &[Request]) -> Packed {
    let mut left: usize = batch.iter().map(|request| request.positions.len()).sum();
    let mut entries: Vec<Vec<u8>> = Vec::with_capacity(left.div_ceil(ENTRY_POSITIONS_MAX));
    let mut places = Vec::with_capacity(batch.len());
    // Positions in the last entry; a full one makes the next position begin another.
    let mut filled = ENTRY_POSITIONS_MAX;
    for request in batch {
        let mut place = None;
        for position in &request.positions {
            if filled == ENTRY_POSITIONS_MAX {
                entries.push(begin_entry(left.min(ENTRY_POSITIONS_MAX)));
                filled = 0;
            }
            place.get_or_insert((entries.len() - 1, filled as u32));
            if let Some(entry) = entries.last_mut() {
                entry.extend_from_slice(&position.encode());
            }
            filled += 1;
            left -= 1;
        }
        let (from, first) = place.unwrap_or((entries.len(), 0));
        places.push(Place { entries: from..entries.len(), first });
    }
    Packed { entries, places }
}
