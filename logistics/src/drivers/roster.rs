//! What filters need to know of each driver, in memory.

use contracts::ids::DriverId;
use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use sqlx::PgPool;

use super::{DriverState, Vehicle, store};

/// What one driver can be filtered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// What the driver moves with.
    pub vehicle: Vehicle,
    /// Whether the driver takes work.
    pub state: DriverState,
    /// How many deliveries the driver may have at once.
    pub capacity: i32,
}

/// A copy of every registered driver's attributes, so that a search looks nothing up.
///
/// [`crate::tracking::notify`] loads it and keeps it right; until the first load it is empty.
#[derive(Debug, Default)]
pub struct Roster {
    drivers: RwLock<FxHashMap<DriverId, Attributes>>,
}

impl Roster {
    /// An empty roster.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is known of a driver; `None` when none of that id is registered.
    pub fn get(&self, driver_id: DriverId) -> Option<Attributes> {
        self.drivers.read().get(&driver_id).copied()
    }

    /// How many drivers are registered.
    pub fn len(&self) -> usize {
        self.drivers.read().len()
    }

    /// Whether no driver is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes every registered driver from the database.
    pub async fn load(&self, db: &PgPool) -> Result<(), sqlx::Error> {
        self.replace(store::attributes(db).await?);
        Ok(())
    }

    /// Takes one driver's new attributes.
    pub fn set(&self, driver_id: DriverId, attributes: Attributes) {
        self.drivers.write().insert(driver_id, attributes);
    }

    /// Takes all drivers at once and forgets who is not among them.
    pub fn replace(&self, drivers: impl IntoIterator<Item = (DriverId, Attributes)>) {
        let drivers = drivers.into_iter().collect();
        *self.drivers.write() = drivers;
    }
}
