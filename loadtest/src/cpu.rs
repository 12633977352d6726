//! CPU time and memory of the processes under test, read from `/proc`.
//!
//! `DEVSTACK_PROCESSES` names them: `service=PID;redis=PID,PID,PID;postgres=PID`. A service is
//! its process alone (the load generator may be its child). A store is its process, every live
//! descendant, and every one that has ended and was reaped, so a PostgreSQL backend that closed
//! during the run still counts. Where `/proc` does not exist nothing is measured.

use std::{collections::HashMap, fs, time::Duration};

/// Linux reports CPU time to user space in 1/100 s on every architecture that we run on.
const TICK_US: u64 = 10_000;

/// Whose CPU time is read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Processes {
    service: Vec<u32>,
    redis: Vec<u32>,
    postgres: Vec<u32>,
}

/// CPU time used since each process started, microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Our services.
    pub service_us: u64,
    /// Every Redis.
    pub redis_us: u64,
    /// The PostgreSQL server and all of its processes.
    pub postgres_us: u64,
}

impl Usage {
    /// What was used between `before` and this reading; `None` when a counter went back, which
    /// means that a process was replaced in between.
    pub fn since(self, before: Self) -> Option<Self> {
        Some(Self {
            service_us: self.service_us.checked_sub(before.service_us)?,
            redis_us: self.redis_us.checked_sub(before.redis_us)?,
            postgres_us: self.postgres_us.checked_sub(before.postgres_us)?,
        })
    }
}

impl Processes {
    /// Reads the form above; `None` when a part is not understood.
    pub fn parse(text: &str) -> Option<Self> {
        let mut all = Self::default();
        for part in text.split(';').filter(|part| !part.is_empty()) {
            let (name, pids) = part.split_once('=')?;
            let pids = pids.split(',').map(|pid| pid.trim().parse().ok()).collect::<Option<_>>()?;
            match name.trim() {
                "service" => all.service = pids,
                "redis" => all.redis = pids,
                "postgres" => all.postgres = pids,
                _ => return None,
            }
        }
        Some(all)
    }

    /// The total so far; `None` when a named process is gone or there is no `/proc`.
    ///
    /// The descendants in `leave_out` are not counted: the generator's own database sessions.
    pub fn usage(&self, leave_out: &[u32]) -> Option<Usage> {
        let table = table();
        let one = |pid: &u32| table.get(pid).map(|process| process.own_us);
        let tree = |pid: &u32| {
            table.get(pid)?;
            Some(tree_us(&table, *pid, leave_out))
        };
        Some(Usage {
            service_us: self.service.iter().map(one).sum::<Option<u64>>()?,
            redis_us: self.redis.iter().map(tree).sum::<Option<u64>>()?,
            postgres_us: self.postgres.iter().map(tree).sum::<Option<u64>>()?,
        })
    }
}

/// Resident memory of the services together, bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Now.
    pub resident: u64,
    /// The most that there ever was.
    pub peak: u64,
}

impl Processes {
    /// The process ids of the services.
    pub fn services(&self) -> &[u32] {
        &self.service
    }

    /// The services' memory, without the stores'; `None` when one is gone or there is no `/proc`.
    pub fn service_memory(&self) -> Option<Memory> {
        self.service.iter().try_fold(Memory::default(), |all, pid| {
            let one = parse_status(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)?;
            Some(Memory { resident: all.resident + one.resident, peak: all.peak + one.peak })
        })
    }
}

/// proc(5): lines such as `VmRSS:     1234 kB`.
fn parse_status(status: &str) -> Option<Memory> {
    let bytes = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    };
    Some(Memory { resident: bytes("VmRSS:")?, peak: bytes("VmHWM:")? })
}

/// CPU time that this process has used.
pub fn own() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    Some(Duration::from_micros(parse_stat(&stat)?.own_us))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    parent: u32,
    own_us: u64,
    reaped_us: u64,
}

/// Every process of the machine that may be read.
fn table() -> HashMap<u32, Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return HashMap::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, parse_stat(&stat)?))
        })
        .collect()
}

/// proc(5): `pid (name) state ppid … utime stime cutime cstime` are fields 1, 2, 3, 4, 14 to 17;
/// the name may hold spaces and parentheses.
fn parse_stat(stat: &str) -> Option<Process> {
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Process {
        parent: fields.get(1)?.parse().ok()?,
        own_us: (ticks(14)? + ticks(15)?) * TICK_US,
        reaped_us: (ticks(16)? + ticks(17)?) * TICK_US,
    })
}

fn tree_us(table: &HashMap<u32, Process>, root: u32, leave_out: &[u32]) -> u64 {
    let own = table.get(&root).map_or(0, |process| process.own_us + process.reaped_us);
    let children = table.iter().filter(|(pid, process)| {
        process.parent == root && **pid != root && !leave_out.contains(pid)
    });
    own + children.map(|(pid, _)| tree_us(table, *pid, leave_out)).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_read_from_the_environment() {
        let all = Processes::parse("service=1;redis=2,3,4;postgres=5").unwrap();
        assert_eq!(all, Processes { service: vec![1], redis: vec![2, 3, 4], postgres: vec![5] });
        assert_eq!(Processes::parse("service=x"), None);
        assert_eq!(Processes::parse("other=1"), None);
    }

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "42 (a) b (c) S 7 42 42 0 -1 0 0 0 0 0 11 22 33 44 20 0 1 0";
        assert_eq!(
            parse_stat(stat),
            Some(Process { parent: 7, own_us: 330_000, reaped_us: 770_000 })
        );
    }

    #[test]
    fn a_tree_counts_children_and_reaped_ones_but_not_those_left_out() {
        let process = |parent, own_us, reaped_us| Process { parent, own_us, reaped_us };
        let table = HashMap::from([
            (1, process(0, 10, 5)),
            (2, process(1, 100, 0)),
            (3, process(2, 1_000, 0)),
            (4, process(1, 10_000, 0)),
            (9, process(0, 77, 77)),
        ]);
        assert_eq!(tree_us(&table, 1, &[4]), 1_115);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nThreads:\t3\n";
        let memory = Memory { resident: 1 << 20, peak: 2 << 20 };
        assert_eq!(parse_status(status), Some(memory));
        assert_eq!(parse_status("Name:\tkthreadd\n"), None);
    }

    #[test]
    fn a_replaced_process_is_noticed() {
        let before = Usage { service_us: 10, redis_us: 10, postgres_us: 10 };
        assert_eq!(Usage { redis_us: 3, ..before }.since(before), None);
        assert_eq!(before.since(before), Some(Usage::default()));
    }
}
