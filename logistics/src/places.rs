//! Places for sockets, so many for each holder and in all. For one more the oldest gives way.
//!
//! Whoever comes now is more likely to be at the other end than whoever came long ago: a device that
//! lost its connection opens another one, and the server does not know yet. And nobody can keep
//! others out by holding all places.

use std::{collections::BTreeMap, hash::Hash, sync::Arc};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use tokio_util::sync::CancellationToken;

/// Places that are given out; clones share them.
#[derive(Debug)]
pub struct Places<K>(Arc<Shared<K>>);

#[derive(Debug)]
struct Shared<K> {
    per_holder: usize,
    total: usize,
    held: Mutex<Held<K>>,
}

#[derive(Debug)]
struct Held<K> {
    next: u64,
    /// By number, which grows: the first is the oldest.
    places: BTreeMap<u64, (K, CancellationToken)>,
    /// The numbers of each holder, the oldest first.
    holders: FxHashMap<K, SmallVec<[u64; 2]>>,
}

impl<K: Copy + Eq + Hash> Places<K> {
    /// Places for `per_holder` of each and `total` in all, both at least 1.
    pub fn new(per_holder: usize, total: usize) -> Self {
        Self(Arc::new(Shared {
            per_holder: per_holder.max(1),
            total: total.max(1),
            held: Mutex::new(Held {
                next: 0,
                places: BTreeMap::new(),
                holders: FxHashMap::default(),
            }),
        }))
    }

    /// Takes a place, and if need be cancels the token of the holder's oldest, or of the oldest of
    /// all. `gives_way` is cancelled when this one has to go.
    pub fn take(&self, holder: K, gives_way: CancellationToken) -> Place<K> {
        let mut held = self.0.held.lock();
        let oldest_of_holder = held
            .holders
            .get(&holder)
            .filter(|numbers| numbers.len() >= self.0.per_holder)
            .and_then(|numbers| numbers.first().copied());
        let oldest = || held.places.first_key_value().map(|(number, _)| *number);
        let is_full = held.places.len() >= self.0.total;
        let gone = oldest_of_holder.or_else(|| if is_full { oldest() } else { None });
        if let Some(token) = gone.and_then(|number| held.remove(number)) {
            token.cancel();
        }
        held.next += 1;
        let number = held.next;
        held.places.insert(number, (holder, gives_way));
        held.holders.entry(holder).or_default().push(number);
        Place { shared: Arc::clone(&self.0), number }
    }

    /// How many are held.
    pub fn len(&self) -> usize {
        self.0.held.lock().places.len()
    }

    /// True when none is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Copy + Eq + Hash> Held<K> {
    fn remove(&mut self, number: u64) -> Option<CancellationToken> {
        let (holder, token) = self.places.remove(&number)?;
        if let Some(numbers) = self.holders.get_mut(&holder) {
            numbers.retain(|held| *held != number);
            if numbers.is_empty() {
                self.holders.remove(&holder);
            }
        }
        Some(token)
    }
}

/// A place, free again when it is dropped.
#[derive(Debug)]
pub struct Place<K: Copy + Eq + Hash> {
    shared: Arc<Shared<K>>,
    number: u64,
}

impl<K: Copy + Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        self.shared.held.lock().remove(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(places: &Places<u8>, holder: u8) -> (Place<u8>, CancellationToken) {
        let token = CancellationToken::new();
        (places.take(holder, token.clone()), token)
    }

    #[test]
    fn the_oldest_of_a_holder_gives_way() {
        let places = Places::new(2, 100);
        let held: Vec<_> = (0..4).map(|_| take(&places, 7)).collect();
        let other = take(&places, 8);
        let gone: Vec<_> = held.iter().map(|(_, token)| token.is_cancelled()).collect();
        assert_eq!(gone, [true, true, false, false]);
        assert!(!other.1.is_cancelled());
        assert_eq!(places.len(), 3);
        // One that gave way takes nobody's place along when it ends.
        drop(held);
        assert_eq!(places.len(), 1);
        drop(other);
        assert!(places.is_empty() && places.0.held.lock().holders.is_empty());
    }

    #[test]
    fn the_oldest_of_all_gives_way_when_there_is_no_place_for_another_holder() {
        let places = Places::new(2, 3);
        let held: Vec<_> = [1, 2, 3, 4, 4, 4].map(|holder| take(&places, holder)).into();
        let gone: Vec<_> = held.iter().map(|(_, token)| token.is_cancelled()).collect();
        assert_eq!(gone, [true, true, false, true, false, false]);
        assert_eq!(places.len(), 3);
    }
}
