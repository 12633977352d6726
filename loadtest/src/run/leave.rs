//! How a virtual user learns that it is one too many, or that the load is over.

use std::{cell::RefCell, rc::Rc};

use tokio_util::sync::CancellationToken;

/// One user's word to leave; clones are the same word. What was said can be taken back for as long
/// as the user has not gone.
#[derive(Debug, Clone, Default)]
pub(super) struct Leave(Rc<RefCell<CancellationToken>>);

impl Leave {
    /// Said at the end of `load`, if not before.
    pub(super) fn with(load: &CancellationToken) -> Self {
        Self(Rc::new(RefCell::new(load.child_token())))
    }

    /// The user should finish what it does.
    pub(super) fn say(&self) {
        self.0.borrow().cancel();
    }

    /// The user is needed after all. What it waited for has ended all the same.
    pub(super) fn take_back(&self, load: &CancellationToken) {
        self.0.replace(load.child_token());
    }

    /// Whether it was said.
    pub(super) fn is_said(&self) -> bool {
        self.0.borrow().is_cancelled()
    }

    /// Does `work` unless it is said meanwhile.
    pub(super) async fn or<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let said = self.0.borrow().clone();
        said.run_until_cancelled(work).await
    }
}
