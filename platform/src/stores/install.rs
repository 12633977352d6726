//! Which PostgreSQL this machine has, and what it can do.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

use super::{is_program, program_dirs};

/// The oldest version with everything the services use.
const MAJOR_MIN: u32 = 14;

const ABSENT: &str = "no PostgreSQL server found (looked for initdb in PATH, /usr/lib/postgresql, \
    /usr/pgsql-*, Homebrew): install it with `apt-get install postgresql`, \
    `dnf install postgresql-server` or `brew install postgresql@17`";

/// One installed PostgreSQL.
#[derive(Clone, Debug)]
pub(super) struct Install {
    /// The folder with `initdb` and `postgres`.
    pub(super) bin: PathBuf,
    major: u32,
    /// Whether `shared_preload_libraries = 'timescaledb'` can work.
    pub(super) timescaledb: bool,
    /// Whether `wal_compression = lz4` is known to work.
    pub(super) lz4: bool,
}

/// The installation to use: of the data's version when there is data, with TimescaleDB when that is
/// wanted and any has it, else the first of PATH, the newest of the system, Homebrew.
pub(super) fn find(data_major: Option<u32>, timescaledb: bool) -> anyhow::Result<Install> {
    let mut found: Vec<Install> = Vec::new();
    for dir in program_dirs() {
        if !is_program(&dir.join("initdb")) {
            continue;
        }
        // Debian and Homebrew put links into PATH; libraries are found beside the real program.
        let real = dir.join("initdb").canonicalize()?;
        let bin = real.parent().map_or(dir, Path::to_path_buf);
        if is_program(&bin.join("postgres")) && found.iter().all(|install| install.bin != bin) {
            found.extend(inspect(bin));
        }
    }
    if !timescaledb {
        found.iter_mut().for_each(|install| install.timescaledb = false);
    }
    let Some(first) = found.first().cloned() else { bail!(ABSENT) };
    if let Some(major) = data_major {
        return found.into_iter().find(|install| install.major == major).with_context(|| {
            format!(
                "the data was made by PostgreSQL {major} and this machine has {}; install that version or remove the data folder",
                first.major
            )
        });
    }
    let recent = || found.iter().filter(|install| install.major >= MAJOR_MIN);
    let chosen = recent().find(|install| install.timescaledb).or_else(|| recent().next());
    chosen.cloned().with_context(|| {
        format!("PostgreSQL {MAJOR_MIN} or newer is needed, and this machine has {}", first.major)
    })
}

/// `None` when the program does not run or says nothing we understand.
fn inspect(bin: PathBuf) -> Option<Install> {
    let major = major_version(&said(&bin.join("postgres"), "--version")?)?;
    let libraries = [
        said(&bin.join("pg_config"), "--pkglibdir").map(|dir| PathBuf::from(dir.trim())),
        Some(bin.join("../lib")),
        Some(bin.join("../lib/postgresql")),
        Some(PathBuf::from("/usr/lib64/pgsql")),
    ];
    let has = |dir: &PathBuf| {
        ["so", "dylib"].iter().any(|end| dir.join(format!("timescaledb.{end}")).is_file())
    };
    let timescaledb = libraries.iter().flatten().any(has);
    let configured = said(&bin.join("pg_config"), "--configure").unwrap_or_default();
    let lz4 = major >= 15 && configured.contains("--with-lz4");
    Some(Install { bin, major, timescaledb, lz4 })
}

fn said(program: &Path, flag: &str) -> Option<String> {
    let output = Command::new(program).arg(flag).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The major version in `postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)`.
fn major_version(said: &str) -> Option<u32> {
    let (_, rest) = said.split_once("(PostgreSQL) ")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(major_version("postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)"), Some(15));
        assert_eq!(major_version("postgres (PostgreSQL) 19beta1"), Some(19));
        assert_eq!(major_version("postgres"), None);
    }
}
