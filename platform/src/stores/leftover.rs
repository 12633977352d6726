//! Which processes are ours, also after we were killed and started again.
//!
//! Pid file: `PID START`, where START is the operating system's start time of that process in its
//! own notation. A pid alone proves nothing, since numbers are given out again, so a process is
//! taken for ours only when its start time is the noted one *and* its command line names our
//! folder. Linux is asked through `/proc`, others through `ps`.

use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::process::until;

/// Notes a started server.
pub(super) fn note(file: &Path, pid: u32) -> io::Result<()> {
    let start = start_time(pid).unwrap_or_default();
    std::fs::write(file, format!("{pid} {start}\n"))
}

/// The noted server, when it still runs and its command line contains `marker`.
pub(super) fn noted(file: &Path, marker: &str) -> Option<u32> {
    let text = std::fs::read_to_string(file).ok()?;
    let (pid, start) = text.trim_end().split_once(' ')?;
    let pid = pid.parse().ok()?;
    let ours = start_time(pid)? == start && is_server(pid, marker);
    ours.then_some(pid)
}

/// The pid in the first line of a server's own pid file, when its command line contains `marker`.
/// It covers the moment between a server's start and our own note.
pub(super) fn own_note(file: &Path, marker: &str) -> Option<u32> {
    let text = std::fs::read_to_string(file).ok()?;
    let pid = text.lines().next()?.trim().parse().ok()?;
    is_server(pid, marker).then_some(pid)
}

fn is_server(pid: u32, marker: &str) -> bool {
    command_line(pid).is_some_and(|line| line.contains(marker))
}

/// Signals a process that is not our child; a process that is gone is no error.
pub(super) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Kills processes that are not our children and waits for their end.
pub(super) fn kill(pids: &[u32], limit: Duration) -> bool {
    for &pid in pids {
        signal(pid, Signal::KILL);
    }
    until(limit, || pids.iter().all(|&pid| !is_alive(pid)))
}

/// Whether a process runs. One that ended and was not collected by its parent counts as ended: in a
/// container without an init process it stays in the table for ever.
pub(super) fn is_alive(pid: u32) -> bool {
    match state(pid) {
        Some(state) => !state.starts_with('Z'),
        None => false,
    }
}

#[cfg(target_os = "linux")]
mod system {
    use super::Path;

    /// The fields of `/proc/PID/stat` after the name, which may itself contain blanks and brackets:
    /// 0 state, 1 parent, 19 start time in clock ticks since boot.
    fn stat(pid: u32) -> Option<Vec<String>> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, rest) = text.rsplit_once(')')?;
        Some(rest.split_ascii_whitespace().map(str::to_owned).collect())
    }

    pub(super) fn state(pid: u32) -> Option<String> {
        stat(pid)?.into_iter().next()
    }

    pub(super) fn start_time(pid: u32) -> Option<String> {
        // Boot time is part of it: ticks since boot repeat after a reboot.
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(format!("{}@{}", stat(pid)?.get(19)?, boot.trim()))
    }

    pub(super) fn command_line(pid: u32) -> Option<String> {
        let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        Some(String::from_utf8_lossy(&bytes).replace('\0', " "))
    }

    fn all() -> impl Iterator<Item = u32> {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
    }

    pub(in super::super) fn children(parent: u32) -> Vec<u32> {
        let parent = parent.to_string();
        all()
            .filter(|&pid| stat(pid).is_some_and(|fields| fields.get(1) == Some(&parent)))
            .collect()
    }

    pub(in super::super) fn orphans(name: &str, working_directory: &Path) -> Vec<u32> {
        let at_home = |&pid: &u32| {
            std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == working_directory)
                && command_line(pid).is_some_and(|line| line.contains(name))
        };
        all().filter(at_home).collect()
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::process::Command;

    use super::Path;

    fn ps(args: &[&str]) -> Option<String> {
        let output = Command::new("ps").args(args).env("LC_ALL", "C").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        (!text.is_empty()).then_some(text)
    }

    fn field(pid: u32, name: &str) -> Option<String> {
        ps(&["-o", &format!("{name}="), "-p", &pid.to_string()])
    }

    pub(super) fn state(pid: u32) -> Option<String> {
        field(pid, "state")
    }

    pub(super) fn start_time(pid: u32) -> Option<String> {
        field(pid, "lstart")
    }

    pub(super) fn command_line(pid: u32) -> Option<String> {
        field(pid, "command")
    }

    pub(in super::super) fn children(parent: u32) -> Vec<u32> {
        let table = ps(&["-axo", "pid=,ppid="]).unwrap_or_default();
        let pairs = table.lines().filter_map(|line| line.trim().split_once(' '));
        let ours = pairs.filter(|(_, of)| of.trim().parse() == Ok(parent));
        ours.filter_map(|(pid, _)| pid.parse().ok()).collect()
    }

    /// There is no cheap way to ask for a working directory here; orphaned PostgreSQL backends
    /// notice the end of their postmaster by themselves within moments.
    pub(in super::super) fn orphans(_name: &str, _working_directory: &Path) -> Vec<u32> {
        Vec::new()
    }
}

pub(super) use system::{children, orphans};
use system::{command_line, start_time, state};

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_foreign_process_is_never_taken_for_ours() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("server.pid");
        let me = std::process::id();
        let own_line = command_line(me).expect("our command line");
        let marker = own_line.split(' ').next().expect("a program");

        note(&file, me).expect("a note");
        assert_eq!(noted(&file, marker), Some(me), "ourselves, by our own note");
        assert_eq!(noted(&file, "/somebody/else"), None, "another command line");

        std::fs::write(&file, format!("{me} 12345\n")).expect("a note");
        assert_eq!(noted(&file, marker), None, "the number was given out again");

        std::fs::write(&file, "nonsense").expect("a note");
        assert_eq!(noted(&file, marker), None);
        assert_eq!(own_note(&file, marker), None);
    }

    #[test]
    fn an_ended_child_is_not_alive_before_it_is_collected() {
        let mut child = Command::new("true").spawn().expect("true");
        assert!(until(Duration::from_secs(5), || !is_alive(child.id())));
        child.wait().expect("its end");
    }
}
