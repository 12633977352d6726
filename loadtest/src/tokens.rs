//! Tokens in a file, for generators that cannot sign: the scripts in `loadtest/k6`.

use std::{
    fs::{OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use platform::auth::{Role, Signer};
use serde::Serialize;

use crate::{pace::parse_duration, scenario::System};

/// Settings of `loadtest tokens`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The file that is written
    #[arg(long, default_value = "tokens.json")]
    out: PathBuf,
    /// How many customers
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    customers: u32,
    /// The lowest customer id
    #[arg(long, default_value_t = 8_000_000_000, value_parser = clap::value_parser!(i64).range(1..=i64::MAX / 2))]
    first_customer: i64,
    /// How many drivers
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    drivers: u32,
    /// The lowest driver id
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(i64).range(1..=i64::MAX / 2))]
    first_driver: i64,
    /// How long they are valid
    #[arg(long, default_value = "24h", value_parser = parse_duration)]
    ttl: Duration,
    #[command(flatten)]
    system: System,
}

#[derive(Debug, Serialize)]
struct Tokens {
    admin: String,
    fleet: String,
    customers: Vec<Somebody>,
    drivers: Vec<Somebody>,
}

#[derive(Debug, Serialize)]
struct Somebody {
    id: i64,
    token: String,
}

impl Tokens {
    fn sign(args: &Args, signer: &Signer) -> Self {
        let token = |role, id| signer.access(role, id, &[], args.ttl);
        let all = |role, first: i64, count: u32| {
            let somebody = |n| Somebody { id: first + n, token: token(role, first + n) };
            (0..i64::from(count)).map(somebody).collect()
        };
        Self {
            admin: token(Role::Admin, 1),
            fleet: token(Role::Fleet, 1),
            customers: all(Role::Customer, args.first_customer, args.customers),
            drivers: all(Role::Driver, args.first_driver, args.drivers),
        }
    }
}

/// Whoever reads it is an administrator: it is its owner's alone, also where it was there before.
fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(text.as_bytes())
}

/// Writes the file; answers what it wrote, in words.
///
/// # Errors
/// There is no key, or the file cannot be written.
pub fn start(args: &Args) -> anyhow::Result<String> {
    let tokens = Tokens::sign(args, &args.system.signer()?);
    let json = serde_json::to_string(&tokens)?;
    write_private(&args.out, &(json + "\n"))
        .with_context(|| format!("cannot write {}", args.out.display()))?;
    let (customers, drivers) = (tokens.customers.len(), tokens.drivers.len());
    Ok(format!("{}: {customers} customers and {drivers} drivers\n", args.out.display()))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use platform::auth::Signer;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn the_file_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.json");
        std::fs::write(&path, "older and longer").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        write_private(&path, "{}").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{}");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn tokens_are_of_whom_they_say() {
        let (signer, ..) = Signer::generate();
        let words = ["loadtest", "--customers", "2", "--first-customer", "7", "--drivers", "3"];
        let tokens = Tokens::sign(&Cli::<Args>::parse_from(words).args, &signer);
        let verifier = signer.verifier();
        let read = |token: &str| verifier.access(token).unwrap().actor();
        assert_eq!(read(&tokens.admin), "admin:1");
        assert_eq!(read(&tokens.fleet), "fleet:1");
        let actors = |all: &[Somebody]| all.iter().map(|one| read(&one.token)).collect::<Vec<_>>();
        assert_eq!(actors(&tokens.customers), ["customer:7", "customer:8"]);
        assert_eq!(actors(&tokens.drivers), ["driver:1", "driver:2", "driver:3"]);
        assert_eq!(tokens.customers[1].id, 8);
    }
}
