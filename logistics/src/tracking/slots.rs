//! A map of newest values that exists only as far as somebody watches.

use std::{
    hash::Hash,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use tokio::sync::watch;

/// One `watch` channel per watched key.
#[derive(Debug)]
pub(super) struct Slots<K, V> {
    slots: RwLock<FxHashMap<K, Slot<V>>>,
    /// The map's size, so that nobody takes a lock to find it empty.
    len: AtomicUsize,
}

#[derive(Debug)]
struct Slot<V> {
    sender: watch::Sender<V>,
    /// Counted here rather than by the channel, under the map's lock: of two watchers that leave
    /// at once, the second must see that it is the last.
    watchers: usize,
}

impl<K: Copy + Eq + Hash, V: Default> Slots<K, V> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { slots: RwLock::default(), len: AtomicUsize::new(0) })
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    pub(super) fn keys(&self) -> Vec<K> {
        self.slots.read().keys().copied().collect()
    }

    /// Shows each item to `offer` with the channel of its key, if somebody watches it. The lock is
    /// taken once for all items, and not at all when nothing is watched.
    pub(super) fn offer_all<T>(
        &self,
        items: impl IntoIterator<Item = T>,
        key: impl Fn(&T) -> K,
        offer: impl Fn(T, &watch::Sender<V>),
    ) {
        if self.len() == 0 {
            return;
        }
        let slots = self.slots.read();
        for item in items {
            if let Some(slot) = slots.get(&key(&item)) {
                offer(item, &slot.sender);
            }
        }
    }

    /// Watches a key; what is offered from now on arrives.
    pub(super) fn subscribe(self: &Arc<Self>, key: K) -> Subscription<K, V> {
        let mut slots = self.slots.write();
        let slot = slots
            .entry(key)
            .or_insert_with(|| Slot { sender: watch::Sender::new(V::default()), watchers: 0 });
        slot.watchers += 1;
        let receiver = slot.sender.subscribe();
        self.len.store(slots.len(), Ordering::Relaxed);
        Subscription { slots: Arc::clone(self), key, receiver }
    }

    fn leave(&self, key: K) {
        let mut slots = self.slots.write();
        if let Some(slot) = slots.get_mut(&key) {
            slot.watchers -= 1;
            if slot.watchers == 0 {
                slots.remove(&key);
            }
        }
        // A rush of watchers must not keep its memory for ever.
        if slots.capacity() > 1_024 && slots.len() < slots.capacity() / 8 {
            slots.shrink_to_fit();
        }
        self.len.store(slots.len(), Ordering::Relaxed);
    }
}

/// A watcher of one key; the last one to be dropped takes the key out of the map.
#[derive(Debug)]
pub(super) struct Subscription<K: Copy + Eq + Hash, V: Default> {
    slots: Arc<Slots<K, V>>,
    key: K,
    receiver: watch::Receiver<V>,
}

impl<K: Copy + Eq + Hash, V: Default> Subscription<K, V> {
    /// Waits for an offer that was not yet seen.
    pub(super) async fn changed(&mut self) {
        // The sender lives in the map for as long as this subscription counts as a watcher.
        let _ = self.receiver.changed().await;
    }

    /// The newest value, which counts as seen from now on.
    pub(super) fn see(&mut self) -> watch::Ref<'_, V> {
        self.receiver.borrow_and_update()
    }
}

impl<K: Copy + Eq + Hash, V: Default> Drop for Subscription<K, V> {
    fn drop(&mut self) {
        self.slots.leave(self.key);
    }
}
