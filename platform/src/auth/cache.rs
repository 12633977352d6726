//! Verified access tokens, kept whole.
//!
//! Sharded so that two cores seldom meet on a lock. Only tokens that we verified come in, so
//! nobody can fill a bucket with colliding keys who cannot also sign, and a fast hash is enough.

use std::hash::BuildHasher;
use std::sync::Arc;

use parking_lot::RwLock;
use rustc_hash::{FxBuildHasher, FxHashMap};

use super::{Caller, is_over};

const SHARDS: usize = 16;

pub(super) struct TokenCache {
    shards: [RwLock<FxHashMap<Box<str>, Arc<Caller>>>; SHARDS],
    max_per_shard: usize,
}

impl TokenCache {
    pub(super) fn new(max: usize) -> Self {
        Self { shards: Default::default(), max_per_shard: (max / SHARDS).max(1) }
    }

    fn shard(&self, token: &str) -> &RwLock<FxHashMap<Box<str>, Arc<Caller>>> {
        // A token ends in its signature, so its last bytes are as good as random, and the map's
        // own hash over the whole of it need not be computed twice.
        let tail = token.as_bytes().last_chunk::<8>().copied().unwrap_or_default();
        &self.shards[(FxBuildHasher.hash_one(u64::from_le_bytes(tail)) >> 60) as usize % SHARDS]
    }

    pub(super) fn get(&self, token: &str) -> Option<Arc<Caller>> {
        self.shard(token).read().get(token).cloned()
    }

    pub(super) fn remove(&self, token: &str) {
        self.shard(token).write().remove(token);
    }

    pub(super) fn insert(&self, token: &str, caller: &Arc<Caller>, now_s: i64) {
        let mut shard = self.shard(token).write();
        if shard.len() >= self.max_per_shard {
            shard.retain(|_, caller| !is_over(caller.expires_at, now_s));
        }
        if shard.len() >= self.max_per_shard {
            // More live tokens than we keep: drop an eighth, whichever come first, so that the
            // walk over the shard is paid for by the insertions that follow.
            let mut spare = (self.max_per_shard / 8).max(1);
            shard.retain(|_, _| {
                let keep = spare == 0;
                spare = spare.saturating_sub(1);
                keep
            });
        }
        shard.insert(token.into(), caller.clone());
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().len()).sum()
    }
}
