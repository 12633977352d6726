//! The demo as its viewer starts it.

use std::process::{Command, Output};

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
    let output = demo(&["--seed", "1", "--rate", "100"]);
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
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    // Two of this seed's orders reach their doors within three and a half seconds.
    assert!(!text.contains("  0 delivered"), "nobody was served\n{text}");
    // A hundred a second for six seconds, all of them stored; the town is the same every time.
    assert!(text.contains("600 accepted, 600 stored"), "{text}");
}

#[test]
fn settings_that_do_not_fit_are_refused_before_anything_starts() {
    let output = demo(&["--rate", "100000"]);
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("too many for 120 drivers"), "{said}");
    assert!(text(&output).is_empty());
}
