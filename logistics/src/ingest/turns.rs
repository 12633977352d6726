//! Whose turn it is to take an entry.

use parking_lot::Mutex;

/// The streams in their order, and which of them have no turns just now.
pub(super) struct Turns {
    names: Vec<String>,
    state: Mutex<State>,
}

struct State {
    next: usize,
    rests: Vec<bool>,
}

impl Turns {
    pub(super) fn new(names: Vec<String>) -> Self {
        let rests = vec![false; names.len()];
        Self { names, state: Mutex::new(State { next: 0, rests }) }
    }

    pub(super) fn name(&self, stream: usize) -> &str {
        &self.names[stream]
    }

    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// The next `count` turns. Streams that rest are passed over, unless all do.
    pub(super) fn take(&self, count: usize) -> Vec<usize> {
        let mut state = self.state.lock();
        let State { next, rests } = &mut *state;
        let all_rest = rests.iter().all(|rests| *rests);
        let mut turn = || loop {
            let stream = *next;
            *next = (stream + 1) % rests.len();
            if all_rest || !rests[stream] {
                return stream;
            }
        };
        (0..count).map(|_| turn()).collect()
    }

    /// Passes these over from now on; whether others are left.
    pub(super) fn rest(&self, streams: impl Iterator<Item = usize>) -> bool {
        let rests = &mut self.state.lock().rests;
        streams.for_each(|stream| rests[stream] = true);
        rests.iter().any(|rests| !rests)
    }

    /// Those that are passed over.
    pub(super) fn resting(&self) -> Vec<usize> {
        let rests = &self.state.lock().rests;
        (0..rests.len()).filter(|stream| rests[*stream]).collect()
    }

    /// Gives it its turns again.
    pub(super) fn wake(&self, stream: usize) {
        self.state.lock().rests[stream] = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_take_turns_and_those_that_rest_are_passed_over() {
        let turns = Turns::new(["a", "b", "c"].map(str::to_owned).into());
        assert_eq!(turns.take(4), [0, 1, 2, 0]);
        assert!(turns.rest([1].into_iter()));
        assert_eq!(turns.take(3), [2, 0, 2]);
        assert!(!turns.rest([0, 2].into_iter()));
        assert_eq!(turns.take(2), [0, 1], "with nobody left, all are tried");
        assert_eq!(turns.resting(), [0, 1, 2]);
        turns.wake(0);
        assert_eq!(turns.take(2), [0, 0]);
    }
}
