//! Counts the instructions of the functions that decide without I/O, by valgrind's callgrind, and
//! compares them with `counts.txt`: a regression shows on a busy machine too.
//!
//! Started without arguments it starts itself under valgrind, where [`measured`] is what is
//! counted, and reads what callgrind wrote. Counts depend on the compiler and on what the CPU can
//! do; when those are not the ones of `counts.txt`, the table is told and nothing fails.

mod baseline;
mod callgrind;
mod cases;

use std::process::ExitCode;

use clap::Parser;

use crate::{baseline::Baseline, cases::Cases};

/// Runs before the counted one: what is allocated or looked up once is there by then.
const WARM_UP: usize = 3;

/// Counts instructions and compares them with the baseline
#[derive(Parser)]
struct Args {
    /// Writes the baseline
    #[arg(long)]
    bless: bool,
    /// Percent above the baseline that are no regression
    #[arg(long, default_value_t = 3.0)]
    tolerance: f64,
    /// Runs the functions and counts nothing; what valgrind starts
    #[arg(long, hide = true)]
    run: bool,
    /// What cargo adds
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    if args.run {
        run();
        return Ok(ExitCode::SUCCESS);
    }
    let Some(counted) = callgrind::count()? else { return Ok(ExitCode::FAILURE) };
    let now = Baseline::of(&counted)?;
    if args.bless {
        now.write()?;
        eprintln!("counts: written to {}", baseline::path().display());
        return Ok(ExitCode::SUCCESS);
    }
    let passed = Baseline::read()?.compare(&now, args.tolerance)?;
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs every function, first uncounted, and says which and on what CPU.
fn run() {
    let mut cases = Cases::all();
    for case in &mut cases {
        for _ in 0..WARM_UP {
            (case.run)();
        }
        measured(&mut *case.run);
    }
    eprintln!("{}{}", callgrind::CPU, cpu());
    for case in &cases {
        eprintln!("{}{} {}", callgrind::CASE, case.calls, case.name);
    }
}

/// What valgrind counts: everything between its begin and its end.
#[inline(never)]
fn measured(run: &mut dyn FnMut()) {
    run();
}

/// What decides between implementations in libraries, as it looks under valgrind.
fn cpu() -> String {
    #[cfg(target_arch = "x86_64")]
    let has = [
        ("ssse3", is_x86_feature_detected!("ssse3")),
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("bmi2", is_x86_feature_detected!("bmi2")),
        ("adx", is_x86_feature_detected!("adx")),
        ("sha", is_x86_feature_detected!("sha")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let has: [(&str, bool); 0] = [];
    let names: Vec<&str> = has.into_iter().filter_map(|(name, has)| has.then_some(name)).collect();
    names.join(" ")
}
