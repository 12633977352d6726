//! What is wrong with the input, in the caller's words.

use std::borrow::Cow;

/// A field that cannot be taken as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Invalid {
    /// Path of the field: `categories[2].items[0].price`.
    pub field: Cow<'static, str>,
    /// What was expected instead.
    pub message: Cow<'static, str>,
}

impl Invalid {
    /// A field and what was expected.
    pub fn new(field: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self { field: field.into(), message: message.into() }
    }

    /// The same, seen from outside: the field stands inside `place`.
    #[must_use]
    pub fn inside(self, place: &str) -> Self {
        Self { field: format!("{place}.{}", self.field).into(), message: self.message }
    }
}
