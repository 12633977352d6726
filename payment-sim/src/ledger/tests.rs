use std::fs::OpenOptions;

use super::*;
use crate::params::Params;

/// Whether somebody who charges on this file is told so, and the file's ledger goes on.
async fn charge_on(path: &str) -> (bool, bool, usize) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let failed = CancellationToken::new();
    let (ledger, thread) = Ledger::on(file, State::default(), failed.clone()).unwrap();
    let form = b"amount=1&currency=inr&payment_method=pm&confirm=true";
    let params = Params::parse(form);
    let Ok(Begun::New(claim)) = ledger.begin(Some("k"), params.fingerprint("/")) else {
        panic!("nothing has happened yet");
    };
    let charged = claim.charge(NewIntent::read(&params).unwrap(), None).await;
    ledger.stop().await;
    thread.join().unwrap();
    (charged.is_ok(), failed.is_cancelled(), ledger.look(|state| state.len()))
}

#[tokio::test]
async fn nobody_is_told_of_what_is_not_on_disk() {
    // The first takes no bytes; the second takes them and cannot be synced.
    for path in ["/dev/full", "/dev/null"] {
        assert_eq!(charge_on(path).await, (false, true, 0), "{path}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    assert_eq!(charge_on(file.path().to_str().unwrap()).await, (true, false, 1));
}
