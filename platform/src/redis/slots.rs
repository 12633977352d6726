//! Which hash slot a command is of. redis-rs knows it too, but tells it to nobody.

use redis::{
    Arg, Cmd, Pipeline,
    cluster_routing::{Route, SingleNodeRoutingInfo, Slot, SlotAddr},
};

/// The commands of a pipeline that are of one slot, in their order.
pub(super) struct Part {
    pub(super) slot: Slot,
    /// The place of each in the whole pipeline.
    pub(super) places: Vec<usize>,
    pub(super) pipeline: Pipeline,
}

/// To a slot's master.
pub(super) fn route(slot: Slot) -> SingleNodeRoutingInfo {
    SingleNodeRoutingInfo::SpecificNode(Route::with_slot(slot, SlotAddr::Master))
}

/// Takes a pipeline apart.
pub(super) fn split(pipeline: &Pipeline) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for (place, command) in pipeline.cmd_iter().enumerate() {
        let slot = slot(command);
        // There are no more parts than shards: looking through them is quick.
        let at = parts.iter().position(|part| part.slot == slot).unwrap_or_else(|| {
            parts.push(Part { slot, places: Vec::new(), pipeline: redis::pipe() });
            parts.len() - 1
        });
        parts[at].places.push(place);
        parts[at].pipeline.add_command(command.clone());
    }
    parts
}

/// Whether all keys are of one slot.
pub(super) fn are_one(keys: &[String]) -> bool {
    keys.windows(2).all(|pair| Slot::for_key(&pair[0]) == Slot::for_key(&pair[1]))
}

/// The slot of a command's first key.
fn slot(command: &Cmd) -> Slot {
    let argument = |place: usize| match command.args_iter().nth(place) {
        Some(Arg::Simple(bytes)) => bytes,
        _ => &[],
    };
    let place = match argument(0) {
        b"XGROUP" | b"XINFO" | b"MEMORY" => 2,
        b"EVAL" | b"EVALSHA" => 3,
        b"XREADGROUP" => {
            let is_last_word = |arg: Arg<&[u8]>| matches!(arg, Arg::Simple(b"STREAMS"));
            command.args_iter().position(is_last_word).map_or(1, |place| place + 1)
        }
        _ => 1,
    };
    Slot::for_key(argument(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_found_in_every_command_that_is_sent() {
        let mut commands = [
            redis::cmd("XADD").arg("gps:{3}").arg("*").arg("p").arg("x").take(),
            redis::cmd("XACK").arg("gps:{3}").arg("history").arg("1-1").take(),
            redis::cmd("XINFO").arg("GROUPS").arg("gps:{3}").take(),
            redis::cmd("MEMORY").arg("USAGE").arg("gps:{3}").take(),
            redis::cmd("XREADGROUP").arg("GROUP").arg("g").arg("c").arg("COUNT").arg(8).take(),
            redis::cmd("EVALSHA").arg("0123").arg(2).arg("pos:{3}").arg("epoch:{3}").take(),
        ];
        commands[4].arg("STREAMS").arg("gps:{3}").arg(">");
        for command in commands {
            assert_eq!(slot(&command), Slot::for_key("{3}"), "{command:?}");
        }
    }

    #[test]
    fn a_pipeline_is_split_by_slot_and_keeps_its_order() {
        let mut pipeline = redis::pipe();
        for key in ["a:{1}", "a:{2}", "b:{1}", "a:{1}"] {
            pipeline.cmd("XLEN").arg(key);
        }
        let parts = split(&pipeline);
        let places: Vec<_> = parts.iter().map(|part| part.places.clone()).collect();
        assert_eq!(places, [vec![0, 2, 3], vec![1]]);
        assert_eq!(parts[0].pipeline.len(), 3);
        assert!(are_one(&["a:{1}".to_owned(), "b:{1}".to_owned()]));
        assert!(!are_one(&["a:{1}".to_owned(), "a:{2}".to_owned()]));
    }
}
