//! Metrics in the code, in the services' tables and in docs/OPERATIONS.md are the same.

use std::{collections::BTreeSet, fs, path::Path};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The names in the services' tables.
fn tables() -> BTreeSet<String> {
    let own = [
        platform::telemetry::PLATFORM,
        logistics::METRICS,
        &menu_api::metrics::all(),
        order_api::METRICS,
        payment_sim::METRICS,
    ];
    own.concat().iter().map(|metric| metric.name().to_owned()).collect()
}

/// The names in calls of `counter!` and the like.
fn in_code(directory: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            in_code(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            for call in ["counter!(", "gauge!(", "histogram!("] {
                let calls = text.split(call).skip(1);
                names.extend(calls.filter_map(|after| {
                    let name = after.trim_start().strip_prefix('"')?;
                    Some(name.split('"').next()?.to_owned())
                }));
            }
        }
    }
}

/// The names in the first column of tables whose head begins with `metric`.
fn documented(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut is_table = false;
    for line in text.lines() {
        is_table = line.starts_with("| metric |") || (is_table && line.starts_with('|'));
        if let Some(cell) = line.split('|').nth(1).filter(|_| is_table) {
            let quoted = cell.split('`').skip(1).step_by(2);
            names.extend(quoted.map(|name| name.split('{').next().unwrap().to_owned()));
        }
    }
    names.retain(|name| !name.starts_with("process_"));
    names
}

#[test]
fn every_metric_is_in_a_table() {
    let mut counted = BTreeSet::new();
    for service in ["platform", "logistics", "menu-api", "order-api", "payment-sim"] {
        in_code(&Path::new(ROOT).join(service).join("src"), &mut counted);
    }
    let tables = tables();
    assert!(counted.len() > 40, "the code is not read well: {counted:?}");
    let missing: Vec<_> = counted.difference(&tables).collect();
    assert!(missing.is_empty(), "add these to the metrics.rs of their service: {missing:?}");
}

#[test]
fn the_document_names_every_metric_and_no_other() {
    let text = fs::read_to_string(Path::new(ROOT).join("docs/OPERATIONS.md")).unwrap();
    let (documented, tables) = (documented(&text), tables());
    let missing: Vec<_> = tables.difference(&documented).collect();
    assert!(missing.is_empty(), "docs/OPERATIONS.md lacks {missing:?}");
    let unknown: Vec<_> = documented.difference(&tables).collect();
    assert!(unknown.is_empty(), "there is no such metric: {unknown:?}");
}
