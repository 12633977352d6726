//! The demo as its viewer starts it.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

/// Runs a demo of 120 drivers for a few seconds.
fn demo(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_devstack"))
        .args(["demo", "--for", "6s", "--drivers", "120", "--customers", "100"])
        .args(args)
        .output()
        .expect("devstack can be started")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_town_ends_with_every_promise_kept() {
    let output = demo(&["--seed", "1", "--rate", "100", "--menu-rate", "0"]);
    let text = text(&output);
    assert!(output.status.success(), "{}\n{text}", output.status);
    for part in [
        "first event stored",
        "ok   I1 accepted = stored",
        "ok   I1 none twice",
        "ok   I2 nothing left",
        "ok   I3 current = newest",
        "ok   every fix taken  ",
        "ok   statuses seen",
        "ok   I4 ended or under way",
        "ok   I5 charged once",
        "ok   I6 refunds agree",
        "orders included",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert!(!text.contains("menus"), "they are switched off\n{text}");
    // A hundred a second for six seconds, all of them stored; the town is the same every time.
    assert!(text.contains("600 accepted, 600 stored"), "{text}");
}

#[test]
fn food_is_ordered_paid_and_brought_until_it_is_told_to_end() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_devstack"))
        .args(["demo", "--for", "5m", "--drivers", "120", "--customers", "100"])
        .args(["--menu-rate", "100"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("devstack can be started");
    let mut output = BufReader::new(demo.stdout.take().expect("its output"));
    let mut text = String::new();
    loop {
        let before = text.len();
        assert!(output.read_line(&mut text).expect("a line") > 0, "nobody wrote\n{text}");
        let line = &text[before..];
        // Two of this seed's drivers are at the door within seconds, and the seventh customer calls
        // a paid order off.
        let is_alive = line.contains("| writes ") && line.contains("| orders ");
        let nothing_yet = ["| writes 0.0/s", ", 0 done", ", 0 refunds"];
        if is_alive && !nothing_yet.iter().any(|none| line.contains(none)) {
            break;
        }
    }
    kill_process(Pid::from_child(&demo), Signal::TERM).expect("it runs");
    output.read_to_string(&mut text).expect("its summary");
    let status = demo.wait().expect("its end");
    assert!(status.success(), "{status}\n{text}");
    let kept = text.lines().find(|line| line.contains("ok   I10 menus")).unwrap_or_default();
    assert!(kept.contains("0 shown older than a write that was answered"), "{text}");
    assert!(!kept.contains(" 0 reads") && !kept.contains(" 0 writes"), "{text}");
    assert!(text.contains("300 restaurants, "), "{text}");
    for (promise, none) in [
        ("ok   I4 ended or under way", " 0 delivered"),
        ("ok   I5 charged once", " 0 orders paid"),
        ("ok   I6 refunds agree", " 0 orders given back"),
    ] {
        let kept = text.lines().find(|line| line.contains(promise)).unwrap_or_default();
        assert!(!kept.is_empty() && !kept.contains(none), "{promise}\n{text}");
    }
    assert!(text.contains("orders and menus included"), "{text}");
}

#[test]
fn settings_that_do_not_fit_are_refused_before_anything_starts() {
    let output = demo(&["--rate", "100000"]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("too many for 120 drivers"), "{said}");
    assert!(text(&output).is_empty());
}
