//! File descriptors: raised to what the system allows, and shared out before any is taken.
//!
//! A process that has none left cannot accept, and cannot even reconnect to its stores. So the
//! limit for connections is what remains after everything else that the settings can need.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::refuse::REFUSALS_MAX;

/// Kept for Redis (a cluster takes some for each node), calls to other services, files, look-ups of
/// names, and connections that are being replaced.
const HEADROOM: usize = 128;
/// Fewer connections than these are no service.
const CONNECTIONS_MIN: usize = 16;

/// Raises the soft limit to the hard one; answers how many descriptors this process may have, or
/// `None` when there is no limit.
pub fn raise_descriptors() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return limit.current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of descriptors could not be raised");
            limit.current
        }
    }
}

/// The limit for connections, `wanted` or what fits beside the connections to databases.
///
/// # Errors
/// A sentence when hardly any fit.
pub(super) fn connections_that_fit(
    wanted: usize,
    databases: usize,
    limit: Option<u64>,
) -> anyhow::Result<usize> {
    let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else {
        return Ok(wanted);
    };
    let reserved = databases + REFUSALS_MAX + HEADROOM;
    let room = limit.saturating_sub(reserved);
    anyhow::ensure!(
        room >= wanted.min(CONNECTIONS_MIN),
        "{limit} descriptors are too few: {reserved} are needed beside the connections of clients; \
        raise the limit (ulimit -n, LimitNOFILE, ulimits)"
    );
    if room < wanted {
        tracing::info!(
            descriptors_max = limit,
            reserved,
            connections_max = room,
            wanted,
            "fewer connections than HTTP_MAX_CONNECTIONS fit into the limit of descriptors"
        );
    }
    Ok(wanted.min(room))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_take_what_the_rest_does_not_need() {
        assert_eq!(connections_that_fit(50_000, 30, None).unwrap(), 50_000);
        assert_eq!(connections_that_fit(50_000, 30, Some(1 << 20)).unwrap(), 50_000);
        let room = connections_that_fit(50_000, 30, Some(1_024)).unwrap();
        assert_eq!(room, 1_024 - 30 - REFUSALS_MAX - HEADROOM);
        assert_eq!(connections_that_fit(100, 30, Some(1_024)).unwrap(), 100);
        assert_eq!(connections_that_fit(2, 0, Some(1_024)).unwrap(), 2);
        assert!(connections_that_fit(50_000, 30, Some(100)).is_err());
    }

    #[test]
    fn the_soft_limit_is_raised() {
        let raised = raise_descriptors();
        let limit = getrlimit(Resource::Nofile);
        assert_eq!((raised, limit.current), (limit.maximum, limit.maximum));
    }
}
