//! How far an order is and how far its payment is, as every service and client names it.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
        )]
        #[serde(rename_all = "snake_case")]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// Every one of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The name on the wire and in databases.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }

            /// Reads such a name.
            pub fn parse(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.as_str() == name)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

names! {
    /// How far an order is.
    OrderStatus {
        /// Not yet taken; no stored order is seen like this.
        Pending = "pending",
        /// Taken; the customer's money is being asked for.
        PaymentProcessing = "payment_processing",
        /// Paid; the restaurant is asked.
        Confirmed = "confirmed",
        /// The restaurant will cook it.
        Accepted = "accepted",
        /// It is being cooked.
        Preparing = "preparing",
        /// It waits for its courier.
        Ready = "ready",
        /// The courier has it.
        PickedUp = "picked_up",
        /// The customer has it; final.
        Delivered = "delivered",
        /// The money could not be had; final.
        PaymentFailed = "payment_failed",
        /// The restaurant will not cook it; final.
        Rejected = "rejected",
        /// Called off; final.
        Cancelled = "cancelled",
    }
}

impl OrderStatus {
    /// Nothing follows.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Delivered | Self::PaymentFailed | Self::Rejected | Self::Cancelled)
    }
}

names! {
    /// How far the payment of an order is; a fact of its own beside [`OrderStatus`].
    PaymentStatus {
        /// The charge has no known end yet.
        Processing = "processing",
        /// The whole amount was captured.
        Paid = "paid",
        /// The charge was declined.
        Failed = "failed",
        /// The order was called off before anything was charged.
        Cancelled = "cancelled",
        /// A part was given back.
        PartiallyRefunded = "partially_refunded",
        /// All was given back.
        Refunded = "refunded",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_same_in_json_and_in_sql() {
        for status in OrderStatus::ALL {
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
            assert_eq!(OrderStatus::parse(status.as_str()), Some(*status));
        }
        for status in PaymentStatus::ALL {
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
            assert_eq!(PaymentStatus::parse(status.as_str()), Some(*status));
        }
    }
}
