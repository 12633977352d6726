//! How all nodes forget what an operator has changed, before the operator's call answers.
//!
//! **Structures**, in the `cache` Redis, all under one prefix (`menu`):
//! - `menu:control`, a hash, so that all of it is lost at once or not at all: `epoch` (random),
//!   `seq` (of the last announcement), `fence` (no announcement is complete before), `era` and
//!   `lists` (parts of the keys of documents and lists: a new one makes all of them unreachable),
//!   and per node `n:<node>`, the end of its lease. Times are Redis's own clock, milliseconds.
//! - channel `menu:changes`: announcements, numbered by `seq` without a gap.
//! - channel `menu:acks:<node>`: what other nodes have done about this node's announcements.
//! - `menu:stats`: a hash, what each node last said about itself.
//!
//! **Promise.** [`Announcer::announce`] returns [`Outcome::Everywhere`] only when no node can
//! answer any more with what was announced to be old, neither from its memory nor from the shared
//! cache. It rests on leases, as in Gray and Cheriton, "Leases: an efficient fault-tolerant
//! mechanism for distributed file cache consistency", SOSP 1989:
//! - A node answers from memory only while its lease runs. It asks for the lease before Redis
//!   grants it, so its own end comes first.
//! - A lease counts only once the node has handled every announcement up to the grant.
//! - The announcer deletes from the shared cache, numbers and publishes in one script, which also
//!   names the leases that run. It waits until each of those nodes has acknowledged, or its lease
//!   has ended. A node that was stopped or cut off delays a write by one lease at most.
//! - A node that sees a gap in the numbers, or another epoch, forgets everything.
//! - When Redis has lost the hash, leases may run that nobody knows of. Whoever makes a new epoch
//!   sets the fence one lease ahead.
//!
//! What cannot be announced, because Redis is away, stays in PostgreSQL in `cache_invalidations`.
//! Every node announces what it finds there before it trusts the shared cache again ([`Sweeper`]).

mod announce;
mod node;
pub(crate) mod scripts;
mod sweep;

use serde::{Deserialize, Serialize};

pub(crate) use self::node::random;
pub use self::{
    announce::{Announcer, NodeReport, Order, Outcome},
    node::Node,
    scripts::Names,
    sweep::{Sweeper, delete as delete_announced},
};
use crate::{
    document::{Kind, Parts},
    memory::{Change, Memory},
};
use contracts::ids::RestaurantId;

/// What is announced: changes, or what an operator wants dropped.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Announcement {
    /// (restaurant, version, parts)
    #[serde(default, rename = "c")]
    changes: Vec<(i64, i64, u8)>,
    /// (restaurant, kind)
    #[serde(default, rename = "d")]
    documents: Vec<(i64, String)>,
    #[serde(default, rename = "l")]
    lists: bool,
    #[serde(default, rename = "a")]
    all: bool,
}

impl Announcement {
    fn add(&mut self, order: &Order) {
        match order {
            Order::Changed(change) | Order::Drop(change) => {
                self.changes.push((change.restaurant.get(), change.version, change.parts.bits()));
                self.lists |= change.parts.meets(Parts::LISTS);
            }
            Order::DropDocument(restaurant, kind) => {
                self.documents.push((restaurant.get(), kind.name().to_owned()));
            }
            Order::DropLists => self.lists = true,
            Order::DropAll => self.all = true,
        }
    }

    /// Does it here; answers how many documents were dropped.
    fn apply(&self, memory: &Memory) -> u64 {
        if self.all {
            let (_, documents) = memory.size();
            memory.new_session();
            return documents;
        }
        let mut dropped = 0;
        for &(restaurant, version, parts) in &self.changes {
            // An id that no build of ours can have written names nothing that is kept.
            let Ok(restaurant) = RestaurantId::new(restaurant) else { continue };
            let parts = Parts::from_bits(i64::from(parts));
            dropped += memory.apply(Change { restaurant, version, parts });
        }
        for (restaurant, kind) in &self.documents {
            let (Ok(restaurant), Some(kind)) = (RestaurantId::new(*restaurant), Kind::parse(kind))
            else {
                continue;
            };
            dropped += memory.drop_document(restaurant, kind, 0);
        }
        if self.lists {
            memory.drop_lists();
        }
        dropped
    }

    /// The documents that the shared cache must lose, as it names them.
    fn suffixes(&self) -> Vec<String> {
        let changed = self.changes.iter().flat_map(|&(restaurant, _, parts)| {
            let kinds = Parts::from_bits(i64::from(parts)).kinds();
            kinds.map(move |kind| scripts::suffix(restaurant, kind.name()))
        });
        let documents =
            self.documents.iter().map(|(restaurant, kind)| scripts::suffix(*restaurant, kind));
        changed.chain(documents).collect()
    }
}
