//! What the kernel says of this process. Where there is no /proc, nothing is added.

use std::fmt::Write as _;
use std::fs;

/// Linux counts CPU time for user space in hundredths of a second on every architecture that we
/// build for (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

pub(super) fn render(text: &mut String) {
    let mut add = |name: &str, kind: &str, help: &str, value: Option<f64>| {
        if let Some(value) = value {
            // Writing to a String cannot fail.
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n\n");
        }
    };
    add("process_cpu_seconds_total", "counter", "CPU time used", cpu_seconds());
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = field(&status, "VmRSS:").map(|kib| kib * 1024.0);
    add("process_resident_memory_bytes", "gauge", "Memory in RAM", resident);
    add("process_threads", "gauge", "Threads", field(&status, "Threads:"));
    // The directory is open while it is counted.
    let fds = fs::read_dir("/proc/self/fd").map(|entries| entries.count().saturating_sub(1));
    add("process_open_fds", "gauge", "File descriptors open", fds.ok().map(|count| count as f64));
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.map(|count| count as f64);
    add("process_max_fds", "gauge", "File descriptors that may be open", limit);
}

fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the name in parentheses and may hold anything; state is the third.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

fn field(status: &str, name: &str) -> Option<f64> {
    let rest = status.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn reads_this_process() {
        let mut spin = 0_u64;
        while cpu_seconds().is_none_or(|seconds| seconds < 0.02) {
            spin = spin.wrapping_add(1);
        }
        let mut text = String::new();
        render(&mut text);
        for name in [
            "process_resident_memory_bytes ",
            "process_open_fds ",
            "process_max_fds ",
            "process_threads ",
        ] {
            let value = text.lines().find_map(|line| line.strip_prefix(name)).expect(name);
            assert!(value.parse::<f64>().expect(name) >= 1.0, "{name}{value}");
        }
        assert!(text.contains("# TYPE process_cpu_seconds_total counter\n"), "{text}");
    }
}
