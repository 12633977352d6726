//! What this node has done, for operators and for `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering};

use platform::telemetry::Metric;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::memory::Memory;

macro_rules! counts {
    ($(#[doc = $help:literal] $name:ident $metric:literal,)*) => {
        /// The counters of a node; each exists from the start.
        pub const METRICS: &[Metric] = &[$(Metric::counter($metric, $help.trim_ascii()),)*];

        /// Counters since the process started.
        #[derive(Default)]
        pub struct Stats {
            $(#[doc = $help] pub $name: Count,)*
        }

        /// Counters of one node, and what it keeps.
        #[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
        #[serde(default)]
        pub struct NodeStats {
            $(#[doc = $help] pub $name: u64,)*
            /// Bytes that its memory holds.
            pub bytes: u64,
            /// Documents that its memory holds.
            pub documents: u64,
            /// Whether it may answer from memory now.
            pub leased: bool,
        }

        impl Stats {
            /// The counters now.
            pub fn read(&self, memory: &Memory) -> NodeStats {
                let (bytes, documents) = memory.size();
                $(metrics::counter!($metric).absolute(self.$name.get());)*
                metrics::gauge!("menu_cache_bytes").set(bytes as f64);
                metrics::gauge!("menu_cache_documents").set(documents as f64);
                NodeStats {
                    $($name: self.$name.get(),)*
                    bytes,
                    documents,
                    leased: memory.is_valid(std::time::Instant::now()),
                }
            }
        }
    };
}

counts! {
    /// Answered from memory.
    hits "menu_hits_total",
    /// Answered from the shared cache.
    shared_hits "menu_shared_hits_total",
    /// Read from PostgreSQL.
    misses "menu_misses_total",
    /// Stored in the shared cache.
    fills "menu_fills_total",
    /// Not stored in the shared cache, as it was old by then or another was first.
    refused_fills "menu_refused_fills_total",
    /// Not taken into memory, as something newer was announced meanwhile.
    refused_by_memory "menu_refused_by_memory_total",
    /// Waited for another request that fetched the same.
    single_flight_waits "menu_single_flight_waits_total",
    /// Fetched again ahead of their end.
    early_refreshes "menu_early_refreshes_total",
    /// Answered with an old copy, as no store could be asked.
    stale "menu_stale_total",
    /// Answered with 503.
    unavailable "menu_unavailable_total",
    /// Calls of the shared cache that failed or took too long.
    shared_failures "menu_shared_failures_total",
    /// Changes that a reader found unannounced, and announced before it showed them.
    helped "menu_helped_total",
}

/// A counter.
#[derive(Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Stats {
    /// What other nodes are told; also brings `/metrics` up to date.
    pub(crate) fn to_json(&self, memory: &Memory) -> String {
        // Numbers and a flag: nothing that JSON could refuse.
        serde_json::to_string(&self.read(memory)).unwrap_or_default()
    }
}
