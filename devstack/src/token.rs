//! `devstack token`: tokens for trying things out.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;
use platform::auth::{Role, Signer};
use uuid::Uuid;

use crate::keys::{Keys, NAME};
use crate::stack::DEFAULT_FOLDER;

/// Prints an access token, or with --order a token to track that order.
///
///   curl -H "Authorization: Bearer $(devstack token --role driver --subject 7)" ...
#[derive(clap::Args, Clone, Debug)]
#[command(verbatim_doc_comment)]
pub struct TokenArgs {
    /// customer, driver, operator, admin or service.
    #[arg(long, required_unless_present = "order")]
    role: Option<Role>,
    /// The id of that customer, driver and so on; with --order the customer's.
    #[arg(long, default_value_t = 1)]
    subject: i64,
    /// How long it is valid, like 90s, 15m or 1h [default: 1h, with --order 60s]
    #[arg(long, value_parser = duration)]
    ttl: Option<Duration>,
    /// The restaurants of an operator.
    #[arg(long, value_delimiter = ',', value_name = "ID,ID")]
    restaurants: Vec<i64>,
    /// Make a tracking token of this order: the first message of a tracking socket.
    #[arg(long, value_name = "UUID", conflicts_with_all = ["role", "restaurants"])]
    order: Option<Uuid>,
    /// The folder of `devstack up` whose key signs [default: that of --key, else .devstack]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The file of the key that signs, when --data is not given.
    #[arg(long, env = "AUTH_SIGNING_KEY_FILE", value_name = "FILE")]
    key: Option<PathBuf>,
}

/// Makes the token.
///
/// # Errors
/// There is no usable key, or the subject is not a positive number.
pub fn token(args: &TokenArgs) -> anyhow::Result<String> {
    ensure!(args.subject > 0, "a subject is a positive number");
    // The variable is set for everything inside `devstack exec`, so a folder that is named wins.
    let signer = match (&args.data, &args.key) {
        (Some(dir), _) => Keys::in_folder(dir)?.signer()?,
        (None, Some(file)) => Signer::load(file, NAME, NAME)?,
        (None, None) => Keys::in_folder(Path::new(DEFAULT_FOLDER))?.signer()?,
    };
    if let Some(order) = args.order {
        let ttl = args.ttl.unwrap_or(Duration::from_secs(60));
        return Ok(signer.tracking(order, args.subject, ttl));
    }
    let ttl = args.ttl.unwrap_or(Duration::from_secs(3600));
    let role = args.role.ok_or_else(|| anyhow::anyhow!("--role is needed"))?;
    Ok(signer.access(role, args.subject, &args.restaurants, ttl))
}

/// `90s`, `15m`, `1h` or `7d`.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed = || {
        let unit = text.chars().last()?;
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return None,
        };
        let number: u64 = text[..text.len() - 1].parse().ok()?;
        number.checked_mul(seconds).filter(|&s| s > 0 && s <= 3650 * 86_400)
    };
    parsed().map(Duration::from_secs).ok_or_else(|| "must be like 90s, 15m, 1h or 7d".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        token: TokenArgs,
    }

    fn made(dir: &std::path::Path, flags: &[&str]) -> anyhow::Result<String> {
        let fixed = ["token", "--data", dir.to_str().expect("UTF-8")];
        token(&Cli::try_parse_from([&fixed, flags].concat())?.token)
    }

    #[test]
    fn tokens_say_what_was_asked_for() {
        let dir = tempfile::tempdir().expect("a folder");
        let verifier = || Keys::in_folder(dir.path()).expect("keys").signer().expect("a signer");
        let access = made(
            dir.path(),
            &["--role", "operator", "--subject", "7", "--restaurants", "1,2", "--ttl", "1h"],
        );
        let caller =
            verifier().verifier().access(&access.expect("a token")).expect("a valid token");
        assert_eq!((caller.role, caller.subject), (Role::Operator, 7));
        assert_eq!(*caller.restaurants, [1, 2]);

        let order = "0198c0de-0000-7000-8000-000000000001";
        let tracking = made(dir.path(), &["--order", order, "--subject", "9"]).expect("a token");
        let grant = verifier().verifier().tracking(&tracking).expect("a valid token");
        assert_eq!((grant.order_id.to_string().as_str(), grant.customer_id), (order, 9));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        for flags in [
            &["--subject", "7"][..],
            &["--role", "cook"],
            &["--role", "driver", "--subject", "0"],
            &["--role", "driver", "--ttl", "1"],
            &["--role", "driver", "--ttl", "0s"],
            &["--role", "driver", "--ttl", "ä"],
            &["--order", "17"],
        ] {
            assert!(made(dir.path(), flags).is_err(), "{flags:?}");
        }
    }
}
