//! The counts that are in the tree.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    path::PathBuf,
    process::Command,
};

use anyhow::Context as _;

use crate::callgrind::Counted;

/// Instructions of each function, and where they were counted.
pub(crate) struct Baseline {
    /// Compiler, target and CPU.
    circumstances: [(&'static str, String); 3],
    functions: BTreeMap<String, u64>,
}

const NAMES: [&str; 3] = ["rustc", "target", "cpu"];

/// Where it is.
pub(crate) fn path() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| "benches".into());
    PathBuf::from(package).join("counts.txt")
}

impl Baseline {
    /// What was just counted.
    ///
    /// # Errors
    /// rustc does not say its version.
    pub(crate) fn of(counted: &Counted) -> anyhow::Result<Self> {
        let said = Command::new("rustc").arg("-vV").output().context("rustc does not start")?;
        let said = String::from_utf8(said.stdout)?;
        let line = |start: &str| said.lines().find_map(|line| line.strip_prefix(start));
        let [rustc, target] = [line("release: "), line("host: ")]
            .map(|value| value.context("rustc does not say its version"));
        let values = [rustc?.to_owned(), target?.to_owned(), counted.cpu.clone()];
        let mut values = values.into_iter();
        let circumstances = NAMES.map(|name| (name, values.next().unwrap_or_default()));
        Ok(Self { circumstances, functions: counted.functions.iter().cloned().collect() })
    }

    /// The committed one; empty when there is none yet.
    ///
    /// # Errors
    /// A line that is not one.
    pub(crate) fn read() -> anyhow::Result<Self> {
        let text = fs::read_to_string(path()).unwrap_or_default();
        let of = |name: &str| {
            let start = format!("# {name}: ");
            text.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_default().to_owned()
        };
        let circumstances = NAMES.map(|name| (name, of(name)));
        let mut functions = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, count) = line.split_once(' ').context("a line without a count")?;
            functions.insert(name.to_owned(), count.trim().parse()?);
        }
        Ok(Self { circumstances, functions })
    }

    /// Puts it into the tree.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write(&self) -> anyhow::Result<()> {
        let mut text =
            "# Instructions a call, by callgrind; `make bench-counts ARGS=--bless` writes this.\n"
                .to_owned();
        for (name, value) in &self.circumstances {
            writeln!(text, "# {name}: {value}")?;
        }
        let width = self.functions.keys().map(String::len).max().unwrap_or_default();
        for (name, count) in &self.functions {
            writeln!(text, "{name:width$} {count:>9}")?;
        }
        fs::write(path(), text).with_context(|| format!("{} is not written", path().display()))
    }

    /// Prints `now` beside this; false when a function takes more than `tolerance` percent more,
    /// and both were counted in the same circumstances.
    ///
    /// # Errors
    /// Nobody reads what is printed.
    pub(crate) fn compare(&self, now: &Self, tolerance: f64) -> io::Result<bool> {
        let mut are_more = Vec::new();
        let mut out = io::stdout().lock();
        writeln!(out, "{:32} {:>10} {:>10}", "instructions a call", "baseline", "now")?;
        for (name, count) in &now.functions {
            let Some(known) = self.functions.get(name) else {
                writeln!(out, "{name:32} {:>10} {count:>10}", "new")?;
                continue;
            };
            let percent = 100.0 * (*count as f64 / *known as f64 - 1.0);
            writeln!(out, "{name:32} {known:>10} {count:>10} {percent:>+7.1} %")?;
            if percent > tolerance {
                are_more.push(name.as_str());
            }
        }
        for gone in self.functions.keys().filter(|name| !now.functions.contains_key(*name)) {
            writeln!(out, "{gone:32} {:>10} {:>10}", "", "gone")?;
        }
        let differ = self.circumstances.iter().zip(&now.circumstances).filter(|(a, b)| a != b);
        let differ: Vec<String> = differ
            .map(|((name, then), (_, now))| format!("{name} was {then:?} and is {now:?}"))
            .collect();
        if !differ.is_empty() {
            eprintln!("counts: only told, not judged: {}", differ.join(", "));
            return Ok(true);
        }
        if !are_more.is_empty() {
            eprintln!(
                "counts: more than {tolerance} % above the baseline: {}",
                are_more.join(", ")
            );
        }
        Ok(are_more.is_empty())
    }
}
