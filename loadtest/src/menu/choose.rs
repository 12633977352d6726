//! What is asked next, and of which node.
//!
//! Reads go to restaurants by Zipf popularity, whose ranks are shuffled over the ids. Besides, the
//! next reads that are due are sent where they are most likely to find something wrong: one to the
//! restaurant of each write that has just begun, and one, on another node, to that of each write
//! that has just been answered. So their number and their times stay those of the plan.
//!
//! Cold, everything is asked for once before anything is asked for again, and the caches are to be
//! dropped before each such lap: hence nearly every read is a miss.

use std::collections::VecDeque;

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng, seq::SliceRandom as _};

use super::{Document, What, check::Change, popularity::Zipf};

/// Reads that follow writes and are not sent yet; more are forgotten.
const FOLLOWING_MAX: usize = 256;

/// What readers do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Habits {
    /// What they ask for.
    pub what: What,
    /// The share of writes among all operations.
    pub writes: f64,
    /// The share of reads that send the newest ETag seen.
    pub revalidate: f64,
    /// Everything once, then again.
    pub cold: bool,
    /// Every random choice follows from it.
    pub seed: u64,
}

/// One operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A document of a restaurant.
    Read {
        /// By its index.
        restaurant: u32,
        /// Which of its documents.
        document: Document,
        /// Whether to send the newest ETag seen.
        revalidate: bool,
    },
    /// A list, by its query's index.
    List(u32),
    /// An operator's write.
    Write,
}

/// An operation and where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// What.
    pub operation: Operation,
    /// The node's index.
    pub node: usize,
    /// A lap begins: the caches are to be dropped now.
    pub is_lap: bool,
}

#[derive(Debug, Clone, Copy)]
struct Following {
    restaurant: u32,
    document: Document,
    not_on: Option<usize>,
}

/// Chooses one operation after another.
#[derive(Debug)]
pub struct Chooser {
    habits: Habits,
    random: SmallRng,
    popularity: Zipf,
    /// Restaurants, or queries, by rank.
    ranks: Vec<u32>,
    nodes: usize,
    chosen: u64,
    reads: u64,
    following: VecDeque<Following>,
}

impl Chooser {
    /// Of `count` restaurants (for [`What::List`] queries), at least one, on `nodes` nodes, at
    /// least one.
    pub fn new(habits: Habits, count: u32, nodes: usize) -> Self {
        let mut random = SmallRng::seed_from_u64(habits.seed);
        let mut ranks: Vec<u32> = (0..count.max(1)).collect();
        ranks.shuffle(&mut random);
        Self {
            habits,
            random,
            popularity: Zipf::new(count, 1.0),
            ranks,
            nodes: nodes.max(1),
            chosen: 0,
            reads: 0,
            following: VecDeque::new(),
        }
    }

    /// Restaurants by popularity, the most popular first.
    pub fn ranks(&self) -> &[u32] {
        &self.ranks
    }

    /// The most popular restaurant, and what is asked of it.
    pub fn favourite(&self) -> (u32, Document) {
        let document = self.habits.what.documents().first().copied();
        (self.ranks[0], document.unwrap_or(Document::Menu))
    }

    /// The next operation.
    pub fn choose(&mut self) -> Choice {
        let n = self.chosen;
        self.chosen += 1;
        // Evenly spread: it is a write when the running share passes a whole number.
        let written = |n: u64| (n as f64 * self.habits.writes).floor();
        let node = (n % self.nodes as u64) as usize;
        if written(n + 1) > written(n) {
            return Choice { operation: Operation::Write, node: self.any_node(), is_lap: false };
        }
        let lap_reads = self.ranks.len() as u64;
        let (lap, place) = (self.reads / lap_reads, (self.reads % lap_reads) as usize);
        let is_lap = self.habits.cold && lap > 0 && place == 0;
        self.reads += 1;
        let revalidate =
            self.habits.revalidate > 0.0 && self.random.random_bool(self.habits.revalidate);
        if let Some(Following { restaurant, document, not_on }) = self.following.pop_front() {
            let node = if not_on == Some(node) { (node + 1) % self.nodes } else { node };
            let operation = Operation::Read { restaurant, document, revalidate };
            return Choice { operation, node, is_lap };
        }
        let rank =
            if self.habits.cold { place } else { self.popularity.pick(&mut self.random) as usize };
        let one = self.ranks[rank];
        let documents = self.habits.what.documents();
        let operation = if documents.is_empty() {
            Operation::List(one)
        } else {
            let document = match self.habits.cold {
                // Another document of each restaurant in each lap.
                true => documents[(place + lap as usize) % documents.len()],
                false => documents[self.random.random_range(0..documents.len())],
            };
            Operation::Read { restaurant: one, document, revalidate }
        };
        Choice { operation, node, is_lap }
    }

    /// A write to this restaurant has begun, or was answered by the node `answered`: a read is to
    /// follow it.
    pub fn follow(&mut self, restaurant: u32, change: &Change, answered: Option<usize>) {
        let documents = self.habits.what.documents();
        let changed = documents.iter().filter(|document| change.changes(**document)).count();
        if changed == 0 || self.following.len() >= FOLLOWING_MAX {
            return;
        }
        let nth = self.random.random_range(0..changed);
        let document = documents.iter().filter(|document| change.changes(**document)).nth(nth);
        self.following.extend(document.map(|document| Following {
            restaurant,
            document: *document,
            not_on: answered,
        }));
    }

    /// Any node, at random: an even turn of reads and writes would send all writes to one.
    pub fn any_node(&mut self) -> usize {
        self.random.random_range(0..self.nodes)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::menu::body::{Name, Status};

    const HABITS: Habits =
        Habits { what: What::Mix, writes: 0.0, revalidate: 0.0, cold: false, seed: 1 };

    fn read(choice: Choice) -> (u32, Document) {
        match choice.operation {
            Operation::Read { restaurant, document, .. } => (restaurant, document),
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn choices_follow_from_the_seed() {
        let choices = |seed| {
            let mut chooser = Chooser::new(Habits { seed, writes: 0.1, ..HABITS }, 100, 2);
            (0..500).map(|_| chooser.choose()).collect::<Vec<_>>()
        };
        assert_eq!(choices(1), choices(1));
        assert_ne!(choices(1), choices(2));
    }

    #[test]
    fn writes_have_their_share_and_nodes_take_turns() {
        let mut chooser = Chooser::new(Habits { writes: 0.01, ..HABITS }, 100, 3);
        let choices: Vec<_> = (0..30_000).map(|_| chooser.choose()).collect();
        let (writes, reads): (Vec<_>, Vec<_>) =
            choices.iter().partition(|choice| choice.operation == Operation::Write);
        assert_eq!(writes.len(), 300);
        for node in 0..3 {
            let of = |choices: &[&Choice]| choices.iter().filter(|c| c.node == node).count();
            assert!(of(&reads) >= 9_800 && of(&writes) >= 60, "node {node}");
        }
        assert!(choices.iter().all(|choice| !choice.is_lap));
    }

    #[test]
    fn popularity_goes_by_rank_and_ranks_are_shuffled() {
        let mut chooser = Chooser::new(HABITS, 1_000, 1);
        let mut asked = HashMap::<u32, u32>::new();
        for _ in 0..50_000 {
            *asked.entry(read(chooser.choose()).0).or_default() += 1;
        }
        // Of 1,000 the first has 13 % and the tenth 1.3 %.
        let share = |rank: usize| f64::from(asked[&chooser.ranks()[rank]]) / 50_000.0;
        assert!((share(0) - 0.134).abs() < 0.01, "{}", share(0));
        assert!((share(9) - 0.0134).abs() < 0.003, "{}", share(9));
        assert!(chooser.ranks().iter().take(10).any(|restaurant| *restaurant > 100));
    }

    #[test]
    fn cold_reads_ask_for_everything_before_anything_again() {
        let mut chooser = Chooser::new(Habits { cold: true, ..HABITS }, 50, 1);
        for lap in 0..3 {
            let choices: Vec<_> = (0..50).map(|_| chooser.choose()).collect();
            let mut asked: Vec<_> = choices.iter().map(|choice| read(*choice).0).collect();
            asked.sort_unstable();
            assert!(asked.into_iter().eq(0..50));
            let laps: Vec<_> = choices.iter().map(|choice| choice.is_lap).collect();
            assert_eq!(laps[0], lap > 0);
            assert!(!laps[1..].contains(&true));
        }
    }

    #[test]
    fn reads_follow_writes_on_another_node() {
        let mut chooser = Chooser::new(HABITS, 1_000, 2);
        let items = Change::Items(Vec::new());
        for _ in 0..50 {
            chooser.follow(7, &items, Some(0));
            let choice = chooser.choose();
            let (restaurant, document) = read(choice);
            assert_eq!((restaurant, choice.node), (7, 1));
            assert!(document.has_items());
        }
        let mut chooser = Chooser::new(Habits { what: What::Status, ..HABITS }, 1_000, 2);
        chooser.follow(7, &items, None);
        assert!(chooser.following.is_empty(), "a status has no items");
        chooser.follow(7, &Change::Status(Status { name: Name::Open, capacity: None }), None);
        assert_eq!(read(chooser.choose()), (7, Document::Status));
        let mut chooser = Chooser::new(Habits { what: What::List, ..HABITS }, 10, 1);
        chooser.follow(7, &items, None);
        assert!(matches!(chooser.choose().operation, Operation::List(0..10)));
    }

    #[test]
    fn some_reads_revalidate() {
        let mut chooser = Chooser::new(Habits { revalidate: 0.3, ..HABITS }, 10, 1);
        let count = (0..1_000)
            .filter(|_| {
                matches!(chooser.choose().operation, Operation::Read { revalidate: true, .. })
            })
            .count();
        assert!((230..370).contains(&count), "{count}");
    }
}
