//! Load on restaurants and menus, and a check of every answer (I10).
//!
//! [`choose`] decides what is asked next, [`mod@write`] what operators change, [`lists`] what is
//! searched for; [`send`] sends it when it is due over connections to every node, and [`engine`]
//! is what happens to each request; [`check`] knows which versions an answer may have, [`body`]
//! finds out which one it has, and [`judge`] brings the two together; [`catalogue`] asks the
//! service at the start what there is, and [`report`] says what was found.

pub mod body;
mod burst;
pub mod catalogue;
pub mod check;
pub mod choose;
mod engine;
pub mod judge;
pub mod lists;
pub mod popularity;
pub mod report;
pub mod request;
pub mod send;
mod stats;
pub mod write;

/// The documents of a restaurant, each with versions that only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Document {
    /// `GET /restaurants/{id}`
    Restaurant,
    /// `…/menu`
    Menu,
    /// `…/status`
    Status,
    /// `…/menu-with-status`
    MenuWithStatus,
}

impl Document {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Restaurant, Self::Menu, Self::Status, Self::MenuWithStatus];

    /// What follows `/restaurants/{id}` in its path.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Restaurant => "",
            Self::Menu => "/menu",
            Self::Status => "/status",
            Self::MenuWithStatus => "/menu-with-status",
        }
    }

    /// In messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Restaurant => "restaurant",
            Self::Menu => "menu",
            Self::Status => "status",
            Self::MenuWithStatus => "menu-with-status",
        }
    }

    /// Whether the availability of items is in it.
    pub const fn has_items(self) -> bool {
        matches!(self, Self::Menu | Self::MenuWithStatus)
    }

    /// Whether the operator's status is in it.
    pub const fn has_status(self) -> bool {
        !matches!(self, Self::Menu)
    }

    /// Whether its bytes are a function of its version. Whether a restaurant is open changes with
    /// the clock and has no version of its own.
    pub const fn is_fixed(self) -> bool {
        matches!(self, Self::Restaurant | Self::Menu)
    }
}

/// What readers ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// Menus
    Menu,
    /// Restaurants
    Restaurant,
    /// Statuses
    Status,
    /// Menus with the status
    MenuWithStatus,
    /// 9 menus, 4 menus with status, 4 restaurants, 3 statuses of 20
    Mix,
    /// Lists: filters, search, near a point, paging
    List,
}

impl What {
    /// Any of these is as likely as any other; empty for lists.
    pub const fn documents(self) -> &'static [Document] {
        use Document as D;
        match self {
            Self::Menu => &[D::Menu],
            Self::Restaurant => &[D::Restaurant],
            Self::Status => &[D::Status],
            Self::MenuWithStatus => &[D::MenuWithStatus],
            Self::List => &[],
            Self::Mix => &[
                D::Menu,
                D::MenuWithStatus,
                D::Menu,
                D::Restaurant,
                D::Menu,
                D::Status,
                D::Menu,
                D::MenuWithStatus,
                D::Menu,
                D::Restaurant,
                D::Menu,
                D::Status,
                D::Menu,
                D::MenuWithStatus,
                D::Menu,
                D::Restaurant,
                D::Menu,
                D::Status,
                D::MenuWithStatus,
                D::Restaurant,
            ],
        }
    }
}

/// What readers accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Encoding {
    /// Bodies as they are
    Identity,
    /// RFC 1952; decoded for sampled checks of content
    Gzip,
    /// RFC 7932; content is not checked
    Br,
    /// RFC 8878; content is not checked
    Zstd,
}

impl Encoding {
    /// In `accept-encoding` and `content-encoding`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Br => "br",
            Self::Zstd => "zstd",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_what_its_help_says() {
        let count = |document| What::Mix.documents().iter().filter(|d| **d == document).count();
        assert_eq!(Document::ALL.map(count), [4, 9, 3, 4]);
    }
}
