//! `devstack exec` as a user meets it: exit codes, signals, and nothing left behind.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const LIMIT: Duration = Duration::from_secs(60);

/// Every test has its own folder for temporary files, so that none cleans up after another.
fn temp_dir() -> tempfile::TempDir {
    let mode = std::fs::Permissions::from_mode(0o711);
    tempfile::Builder::new().prefix("t").permissions(mode).tempdir().expect("a folder")
}

fn exec(temp: &Path, options: &[&str], command: &[&str]) -> Command {
    let mut devstack = Command::new(env!("CARGO_BIN_EXE_devstack"));
    devstack.arg("exec").args(options).arg("--").args(command).env("TMPDIR", temp);
    devstack
}

fn output(mut command: Command) -> Output {
    command.stdin(Stdio::null()).output().expect("devstack runs")
}

/// `devstack exec` with a command that prints the process ids and then waits.
struct Running {
    devstack: Child,
    stores: Vec<i32>,
    _output: BufReader<ChildStdout>,
}

impl Running {
    fn start(temp: &Path, options: &[&str], waiting: &str) -> Self {
        let script = format!("trap 'exit 5' TERM; echo $DEVSTACK_PROCESSES; {waiting}");
        let mut command = exec(temp, options, &["sh", "-c", &script]);
        let mut devstack = command.stdout(Stdio::piped()).spawn().expect("devstack runs");
        let mut output = BufReader::new(devstack.stdout.take().expect("its output"));
        let mut line = String::new();
        output.read_line(&mut line).expect("the process ids");
        let numbers = line.trim().split(|c: char| !c.is_ascii_digit());
        let stores: Vec<i32> = numbers.filter_map(|number| number.parse().ok()).collect();
        assert_eq!(stores.len(), 4, "three redis and a postgres in {line:?}");
        assert!(stores.iter().all(|&pid| runs(pid)));
        Self { devstack, stores, _output: output }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.devstack), signal).expect("devstack runs");
    }

    fn kill(&mut self) {
        self.devstack.kill().expect("devstack runs");
        self.devstack.wait().expect("its end");
    }
}

/// Whether a process runs. One that ended but was not collected has no command line.
fn runs(pid: i32) -> bool {
    let line = Command::new("ps").args(["-o", "state=", "-p", &pid.to_string()]).output();
    let state = String::from_utf8(line.expect("ps runs").stdout).expect("text");
    !state.trim().is_empty() && !state.starts_with('Z')
}

fn assert_ended(pids: &[i32]) {
    let deadline = Instant::now() + LIMIT;
    while pids.iter().any(|&pid| runs(pid)) {
        assert!(Instant::now() < deadline, "{pids:?} still run");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).expect("a folder").count()
}

const WAITING: &str = "while :; do sleep 0.05; done";

#[test]
fn the_exit_code_is_the_commands() {
    let temp = temp_dir();
    let answer = |script| output(exec(temp.path(), &[], &["sh", "-c", script])).status.code();
    assert_eq!(answer("exit 0"), Some(0));
    assert_eq!(answer("exit 7"), Some(7));
    assert_eq!(answer("kill -9 $$"), Some(137));
    assert_eq!(entries(temp.path()), 0, "temporary data stays");
}

#[test]
fn the_command_gets_addresses_that_work() {
    let temp = temp_dir();
    let names = [
        "DATABASE_URL",
        "LOGISTICS_DATABASE_URL",
        "REDIS_QUEUE_URL",
        "REDIS_LIVE_URL",
        "REDIS_CACHE_URL",
    ];
    // Every address names a socket or a folder of one, so the shell can look for it.
    let script = names.map(|name| {
        format!(
            "u=${name}; u=${{u##*host=}}; test -e \"${{u#redis+unix://}}\" || exit 3; echo {name}"
        )
    });
    let found = output(exec(temp.path(), &[], &["sh", "-c", &script.join("\n")]));
    assert_eq!(found.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&found.stdout).lines().collect::<Vec<_>>(), names);
}

#[test]
fn services_are_ready_before_the_command_runs() {
    let temp = temp_dir();
    let script = "echo $DEVSTACK_PROCESSES; exec 3<>/dev/tcp/${LOGISTICS_URL#http://127.0.0.1:}";
    let script = script.replace("/dev/tcp/", "/dev/tcp/127.0.0.1/");
    let script = format!("{script}; printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' >&3; head -1 <&3");
    let found = output(exec(temp.path(), &["--services"], &["bash", "-c", &script]));
    let said = String::from_utf8_lossy(&found.stdout).into_owned();
    assert_eq!(found.status.code(), Some(0), "{}", String::from_utf8_lossy(&found.stderr));
    assert!(said.starts_with("service="), "{said}");
    assert!(said.contains(" 200 "), "{said}");
    assert_eq!(entries(temp.path()), 0, "temporary data stays");
}

#[test]
fn a_signal_reaches_the_command_and_the_stores_end_after_it() {
    let temp = temp_dir();
    let mut running = Running::start(temp.path(), &[], WAITING);
    running.signal(Signal::TERM);
    let status = running.devstack.wait().expect("its end");
    assert_eq!(status.code(), Some(5), "the command's own answer to SIGTERM");
    assert!(running.stores.iter().all(|&pid| !runs(pid)), "gone before devstack is");
    assert_eq!(entries(temp.path()), 0, "temporary data stays");
}

/// The kernel ends children of a killed parent on Linux only; elsewhere the next start does it.
#[cfg(target_os = "linux")]
#[test]
fn a_killed_devstack_leaves_no_process_and_the_next_start_removes_its_data() {
    let temp = temp_dir();
    let mut running = Running::start(temp.path(), &[], WAITING);
    running.kill();
    assert_ended(&running.stores);
    assert_eq!(entries(temp.path()), 1, "there is something to remove");
    assert_eq!(output(exec(temp.path(), &[], &["true"])).status.code(), Some(0));
    assert_eq!(entries(temp.path()), 0, "the abandoned folder stays");
}

#[test]
fn the_next_start_ends_what_a_killed_devstack_left_running() {
    let temp = temp_dir();
    let data = temp.path().join("data");
    let keep = ["--data", data.to_str().expect("UTF-8")];
    // Frozen, it cannot follow the kernel's request to end; without that request (macOS) it would
    // stay anyway. A kernel may thaw a group whose last parent is gone: then once more.
    let left_running = || {
        let mut running = Running::start(temp.path(), &keep, WAITING);
        let postmaster = running.stores[3];
        kill_process(Pid::from_raw(postmaster).expect("a pid"), Signal::STOP).expect("it runs");
        until_frozen(postmaster);
        running.kill();
        runs(postmaster).then_some(running)
    };
    let running = (0..10).find_map(|_| left_running()).expect("one that outlives devstack");

    let next = output(exec(temp.path(), &keep, &["true"]));
    assert_eq!(next.status.code(), Some(0), "{}", String::from_utf8_lossy(&next.stderr));
    assert_ended(&running.stores);
}

/// A signal to stop is on its way until the process is next scheduled; one that comes after it may be
/// taken first.
fn until_frozen(pid: i32) {
    let since = std::time::Instant::now();
    let is_frozen = || match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" T")),
        // Without /proc there is no kernel that ends it with its parent either.
        Err(_) => true,
    };
    while !is_frozen() {
        assert!(since.elapsed().as_secs() < 10, "{pid} does not stop");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn a_folder_in_use_is_refused_and_its_servers_are_left_alone() {
    let temp = temp_dir();
    let data = temp.path().join("data");
    let keep = ["--data", data.to_str().expect("UTF-8")];
    let mut running = Running::start(temp.path(), &keep, WAITING);
    let second = output(exec(temp.path(), &keep, &["true"]));
    assert_eq!(second.status.code(), Some(1));
    let message = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(message.contains("in use"), "{message}");
    assert!(running.stores.iter().all(|&pid| runs(pid)), "the first one's servers run on");

    running.signal(Signal::TERM);
    running.devstack.wait().expect("its end");
    assert_ended(&running.stores);
}

#[test]
fn without_stores_on_the_machine_the_message_says_what_to_install() {
    let temp = temp_dir();
    let mut command = exec(temp.path(), &[], &["true"]);
    // A redis-server that is too old stands for an absent one: it is found first.
    let old = temp.path().join("bin");
    std::fs::create_dir(&old).expect("a folder");
    let program = old.join("redis-server");
    std::fs::write(&program, "#!/bin/sh\necho 'Redis server v=6.0.16 sha=0'\n").expect("a program");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    let path = std::env::var("PATH").expect("a path");
    command.env("PATH", format!("{}:{path}", old.display()));

    let mut child = command.stderr(Stdio::piped()).spawn().expect("devstack runs");
    let mut message = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut message).expect("text");
    assert_eq!(child.wait().expect("its end").code(), Some(1));
    assert!(message.contains("version 6") && message.contains("7.0 or newer"), "{message}");
}
