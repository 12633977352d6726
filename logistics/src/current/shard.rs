//! What has come of one shard's frames, and whether its positions have to be loaded.
//!
//! **Structures.** The number of the last frame that came, and up to which number the next one may
//! go because a load has brought what is between.
//!
//! **Promise.** Whatever frame is lost, in whatever order frames and loads come: once a frame has
//! come after the loss and the loads that were asked for are done, nothing is missing. At most one
//! load of a shard is under way. After a failover that forgets writes the same numbers come again;
//! that is noticed by the first frame that comes after it, not when that is lost, too.

use contracts::frame::FrameId;

/// Of one shard, for the life of a subscription.
#[derive(Debug)]
pub(super) struct Shard {
    /// Up to here nothing is missing; `None` while the shard is empty.
    seen: Option<FrameId>,
    /// The number of the last frame that came, which is less where a load has brought more.
    came: u64,
    load: Load,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    Done,
    UnderWay,
    /// Under way, and something that is missing may have come too late for it.
    Late,
}

impl Shard {
    /// At the begin of a subscription, with its first load under way.
    pub(super) fn unloaded() -> Self {
        Self { seen: None, came: 0, load: Load::UnderWay }
    }

    /// A frame came and its positions were taken in; whether it follows what came before.
    pub(super) fn frame(&mut self, id: FrameId, is_heartbeat: bool) -> bool {
        let step = u64::from(!is_heartbeat);
        match &mut self.seen {
            Some(seen)
                if id.epoch == seen.epoch
                    // A master that knows less than the one before counts again from there.
                    && id.number >= self.came + step
                    // Up to what was seen it is part of a load, which came after it was sent.
                    && id.number <= seen.number + step =>
            {
                // From here on they follow each other, those that were loaded, too.
                (*seen, self.came) = (id, id.number);
                true
            }
            _ => {
                // The load that is due now brings what was before it.
                (self.seen, self.came) = (Some(id), id.number);
                false
            }
        }
    }

    /// Something is missing; whether a load is to begin now.
    pub(super) fn miss(&mut self) -> bool {
        let begins = self.load == Load::Done;
        self.load = if begins { Load::UnderWay } else { Load::Late };
        begins
    }

    /// A load has brought everything up to this frame; whether it is to be repeated.
    pub(super) fn loaded(&mut self, upto: Option<FrameId>) -> bool {
        if self.load == Load::Late {
            self.load = Load::UnderWay;
            return true;
        }
        self.load = Load::Done;
        match (&mut self.seen, upto) {
            (Some(seen), Some(upto)) if seen.epoch == upto.epoch => {
                seen.number = seen.number.max(upto.number);
            }
            _ => (self.seen, self.came) = (upto, 0),
        }
        false
    }

    /// A load has failed and begins again.
    pub(super) fn load_failed(&mut self) {
        self.load = Load::UnderWay;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// What happens to a shard.
    #[derive(Debug, Clone, Copy)]
    enum Event {
        /// A position is stored and sent in a frame, or only stored: the frame gets lost.
        Moved {
            is_lost: bool,
        },
        Heartbeat,
        /// The live Redis loses its data, or a failover the last so many writes, after which the
        /// new master is heard.
        Flushed,
        FailedOver(u64),
        /// The next frame arrives.
        Arrives,
        /// The load under way is answered by the server, its answer arrives, or it fails.
        Answered,
        Loaded,
        LoadFails,
        /// A look at a shard that has been silent.
        Silent,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            6 => any::<bool>().prop_map(|is_lost| Event::Moved { is_lost }),
            2 => Just(Event::Heartbeat),
            1 => Just(Event::Flushed),
            1 => (1..4_u64).prop_map(Event::FailedOver),
            6 => Just(Event::Arrives),
            3 => Just(Event::Answered),
            3 => Just(Event::Loaded),
            1 => Just(Event::LoadFails),
            1 => Just(Event::Silent),
        ]
    }

    /// The server, the two ways from it, and the reader. A position is a number that only grows,
    /// as if all were of different drivers: the reader must have each that the server has.
    struct World {
        epoch: u64,
        /// Whether anybody has written since the data was lost.
        has_epoch: bool,
        stored: Vec<u64>,
        position: u64,
        frames: VecDeque<(FrameId, Option<u64>)>,
        shard: Shard,
        known: std::collections::BTreeSet<u64>,
        is_loading: bool,
        answer: Option<(Option<FrameId>, Vec<u64>)>,
        loads: u32,
    }

    impl World {
        /// As after a subscription: what is missing is being loaded.
        fn new() -> Self {
            Self {
                epoch: 1,
                has_epoch: false,
                stored: Vec::new(),
                position: 0,
                frames: VecDeque::new(),
                shard: Shard::unloaded(),
                known: std::collections::BTreeSet::new(),
                is_loading: true,
                answer: None,
                loads: 1,
            }
        }

        /// The number of the last frame is that of the writes.
        fn id(&self) -> FrameId {
            FrameId { epoch: self.epoch, number: self.stored.len() as u64 }
        }

        fn miss(&mut self) {
            if self.shard.miss() {
                assert!(!self.is_loading, "two loads at once");
                self.is_loading = true;
                self.loads += 1;
            }
        }

        fn happen(&mut self, event: Event) {
            match event {
                Event::Moved { is_lost } => {
                    self.has_epoch = true;
                    self.position += 1;
                    self.stored.push(self.position);
                    if !is_lost {
                        self.frames.push_back((self.id(), Some(self.position)));
                    }
                }
                Event::Heartbeat => {
                    self.has_epoch = true;
                    self.frames.push_back((self.id(), None));
                }
                Event::Flushed => {
                    (self.epoch, self.has_epoch) = (self.epoch + 1, false);
                    self.stored.clear();
                }
                Event::FailedOver(writes) => {
                    let kept = self.stored.len().saturating_sub(writes as usize);
                    self.stored.truncate(kept);
                    // What the master before was asked is not answered any more.
                    self.happen(Event::LoadFails);
                    self.happen(Event::Heartbeat);
                }
                Event::Arrives => {
                    let Some((id, position)) = self.frames.pop_front() else { return };
                    self.known.extend(position);
                    if !self.shard.frame(id, position.is_none()) {
                        self.miss();
                    }
                }
                Event::Answered if self.is_loading && self.answer.is_none() => {
                    let id = self.has_epoch.then(|| self.id());
                    self.answer = Some((id, self.stored.clone()));
                }
                Event::Loaded => {
                    let Some((upto, positions)) = self.answer.take() else { return };
                    self.known.extend(positions);
                    self.is_loading = self.shard.loaded(upto);
                    self.loads += u32::from(self.is_loading);
                }
                Event::LoadFails if self.is_loading => {
                    self.answer = None;
                    self.shard.load_failed();
                }
                Event::Silent => self.miss(),
                Event::Answered | Event::LoadFails => {}
            }
        }

        /// Everything that is on its way arrives.
        fn settle(&mut self) {
            while !self.frames.is_empty() {
                self.happen(Event::Arrives);
            }
            for _ in 0..3 {
                self.happen(Event::Answered);
                self.happen(Event::Loaded);
            }
            assert!(!self.is_loading, "loading does not end");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]

        #[test]
        fn nothing_is_missing_after_the_next_frame(
            events in prop::collection::vec(event(), 0..60),
            position in any::<bool>(),
        ) {
            let mut world = World::new();
            events.into_iter().for_each(|event| world.happen(event));
            world.happen(if position { Event::Moved { is_lost: false } } else { Event::Heartbeat });
            world.settle();
            for position in &world.stored {
                prop_assert!(world.known.contains(position), "{position} of {:?}", world.stored);
            }
            // And no load is made for nothing.
            let loads = world.loads;
            for _ in 0..3 {
                world.happen(Event::Moved { is_lost: false });
                world.happen(Event::Heartbeat);
                world.settle();
            }
            prop_assert_eq!(world.loads, loads);
        }
    }

    #[test]
    fn what_a_load_has_brought_is_no_gap() {
        let id = |number| FrameId { epoch: 1, number };
        let mut shard = Shard::unloaded();
        assert!(!shard.loaded(Some(id(5))));
        for number in 4..=8 {
            assert!(shard.frame(id(number), false));
        }
        // Two are lost.
        assert!(!shard.frame(id(11), false) && shard.miss());
        assert!(shard.frame(id(12), false));
        assert!(!shard.loaded(Some(id(11))), "what came meanwhile followed");
        assert!(shard.frame(id(13), false));
    }
}
