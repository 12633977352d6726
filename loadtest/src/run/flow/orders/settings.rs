//! What can be said of customers who order.

use std::time::Duration;

use serde::Deserialize;

use crate::run::{
    file::{Share, Span},
    target::Service,
};

/// How far an order is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Follow {
    Accepted,
    Paid,
    Delivered,
}

/// Settings of the flow `orders`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::run) struct Settings {
    /// Of each order.
    pub(super) lines: u32,
    /// Read the menu first.
    pub(super) browse: bool,
    /// Until when an order is followed: accepted, paid or delivered.
    pub(super) follow: Follow,
    /// How often its customer asks for it; what is measured is as exact as that.
    pub(super) poll: Span,
    /// How long its customer waits for payment, and again for delivery.
    pub(super) patience: Span,
    /// Paid orders that are called off.
    pub(super) cancel: Share,
    /// Orders that are watched over a socket until they are delivered; the others are asked for.
    pub(super) watch: Share,
    /// Delivered orders that are rated.
    pub(super) rate: Share,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lines: 3,
            browse: false,
            follow: Follow::Paid,
            poll: Span(Duration::from_millis(100)),
            patience: Span(Duration::from_secs(60)),
            cancel: Share(0.0),
            watch: Share(0.0),
            rate: Share(0.0),
        }
    }
}

impl Settings {
    /// Whether they go together.
    ///
    /// # Errors
    /// What does not.
    pub(in crate::run) fn check(&self) -> Result<(), String> {
        if !(1..=20).contains(&self.lines) {
            return Err("an order has 1 to 20 lines".into());
        }
        if self.poll.0 < Duration::from_millis(5) {
            return Err("poll is at least 5ms".into());
        }
        if self.follow != Follow::Delivered && (self.watch.0 > 0.0 || self.rate.0 > 0.0) {
            return Err("who watches or rates follows until delivered".into());
        }
        if self.follow == Follow::Accepted && self.cancel.0 > 0.0 {
            return Err("who calls off follows at least until paid".into());
        }
        Ok(())
    }

    pub(in crate::run) fn needs(&self) -> &'static [Service] {
        match self.watch.0 > 0.0 {
            true => &Service::ALL,
            false => &[Service::Order, Service::Menu],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_go_together_or_not() {
        let check = |text: &str| toml::from_str::<Settings>(text).unwrap().check();
        assert_eq!(check(""), Ok(()));
        assert_eq!(check("follow = 'delivered'\nwatch = '50%'\nrate = '10%'"), Ok(()));
        assert!(check("watch = '50%'").is_err());
        assert!(check("follow = 'accepted'\ncancel = '1%'").is_err());
        assert!(check("lines = 0").is_err());
        assert!(check("poll = '1ms'").is_err());
    }
}
