//! What the flows of one file have in common: restaurants, customers, drivers, and who delivers what.

use std::{
    cell::{OnceCell, RefCell},
    collections::VecDeque,
};

use anyhow::Context as _;
use platform::auth::Role;
use rustc_hash::{FxHashMap, FxHashSet};
use serde::Deserialize;
use uuid::Uuid;

use super::{
    agent::{Agent, Call, Identity},
    state::Run,
    target::Service,
};
use crate::{
    client::Caller,
    menu::catalogue::{Listed, Menu, Paging},
    orders::{
        basket::{Customers, Kitchen},
        kitchens,
    },
    pace::wall_us,
    plan::Drivers,
};

/// Ids of one run; the next second's run has others.
const IDS: i64 = 1_000_000;

/// `[town]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Settings {
    /// How many restaurants are visited.
    restaurants: u32,
    /// Make them where they are missing; otherwise the first of the list are taken.
    make_restaurants: bool,
    customers: u32,
    /// The lowest id; one that no other run has when there is none.
    first_customer: Option<i64>,
    drivers: u32,
    /// The lowest id; one that no other run has when there is none.
    first_driver: Option<i64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            restaurants: 50,
            make_restaurants: true,
            customers: 2_000,
            first_customer: None,
            drivers: 1_000,
            first_driver: None,
        }
    }
}

impl Settings {
    /// Whether restaurants are made where they are missing.
    pub(super) fn makes_restaurants(&self) -> bool {
        self.make_restaurants
    }

    /// How many drivers there are.
    pub(super) fn drivers(&self) -> u32 {
        self.drivers
    }

    /// Whether it makes a town.
    ///
    /// # Errors
    /// What is out of range.
    pub(super) fn check(&self) -> Result<(), String> {
        let counts = [self.restaurants, self.customers, self.drivers];
        let firsts = [self.first_customer.unwrap_or(1), self.first_driver.unwrap_or(1)];
        if counts.iter().any(|count| !(1..=IDS as u32).contains(count)) {
            return Err(format!("there are 1 to {IDS} restaurants, customers and drivers"));
        }
        if firsts.iter().any(|first| !(1..=i64::MAX / 2).contains(first)) {
            return Err("ids are positive".into());
        }
        Ok(())
    }
}

/// A restaurant.
#[derive(Debug, Clone)]
pub(super) struct Restaurant {
    /// What customers order from: all of its items but one.
    pub(super) kitchen: Kitchen,
    /// The item that its operator changes, so that no order fails because of that.
    pub(super) special: Option<i64>,
    /// Degrees.
    pub(super) latitude: f64,
    /// Degrees.
    pub(super) longitude: f64,
}

/// An order that a driver brings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Errand {
    pub(super) order: Uuid,
    /// Index of the restaurant.
    pub(super) restaurant: usize,
}

/// A driver who was taken and has nothing to bring yet. It is free again unless it is sent, also when
/// the iteration is cut off before that.
#[derive(Debug)]
pub(super) struct Taken<'a> {
    town: &'a Town,
    pub(super) driver: i64,
    is_sent: bool,
}

impl Taken<'_> {
    /// Tells the driver what to bring.
    pub(super) fn send(mut self, errand: Errand) {
        self.is_sent = true;
        self.town.assigned.borrow_mut().insert(errand.order);
        self.town.errands.borrow_mut().insert(self.driver, errand);
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.is_sent {
            self.town.is_free(self.driver);
        }
    }
}

/// The town of a run.
#[derive(Debug)]
pub(super) struct Town {
    pub(super) customers: Customers,
    pub(super) drivers: Drivers,
    restaurants: OnceCell<Vec<Restaurant>>,
    /// Drivers that have nothing to bring, the one that waits longest first.
    idle: RefCell<VecDeque<i64>>,
    /// What drivers were given and have not taken up. The API has no way to tell a driver's phone;
    /// here it is the operator who calls.
    errands: RefCell<FxHashMap<i64, Errand>>,
    assigned: RefCell<FxHashSet<Uuid>>,
}

impl Town {
    /// Of these settings.
    pub(super) fn new(settings: &Settings) -> Self {
        let first = wall_us() / 1_000_000 * IDS;
        Self {
            customers: Customers {
                first: settings.first_customer.unwrap_or(first),
                count: settings.customers,
            },
            drivers: Drivers {
                first: settings.first_driver.unwrap_or(first),
                count: settings.drivers,
            },
            restaurants: OnceCell::new(),
            idle: RefCell::default(),
            errands: RefCell::default(),
            assigned: RefCell::default(),
        }
    }

    /// The restaurants; they are there once a flow has asked for them by [`Town::open`].
    pub(super) fn restaurants(&self) -> &[Restaurant] {
        self.restaurants.get().map_or(&[], Vec::as_slice)
    }

    /// Makes or finds the restaurants.
    ///
    /// # Errors
    /// The menu service does not answer as it should, or has none.
    pub(super) async fn open(&self, run: &Run, agent: &mut Agent) -> anyhow::Result<()> {
        if self.restaurants.get().is_some() {
            return Ok(());
        }
        let settings = &run.script.town;
        let mut restaurants = if settings.make_restaurants {
            made(run, settings.restaurants).await?
        } else {
            found(run, agent, settings.restaurants as usize).await?
        };
        for restaurant in &mut restaurants {
            if restaurant.kitchen.items.len() > 1 {
                restaurant.special = restaurant.kitchen.items.pop();
            }
        }
        anyhow::ensure!(!restaurants.is_empty(), "there is no restaurant with a menu");
        let _set_above = self.restaurants.set(restaurants);
        Ok(())
    }

    /// A driver has nothing to bring.
    pub(super) fn is_free(&self, driver: i64) {
        self.idle.borrow_mut().push_back(driver);
    }

    /// Takes a driver who is free: the first of `near` that is, else the one that waits longest.
    pub(super) fn take_driver(&self, near: &[i64]) -> Option<Taken<'_>> {
        let idle = &mut *self.idle.borrow_mut();
        let place = near.iter().find_map(|one| idle.iter().position(|driver| driver == one));
        let driver = match place {
            Some(place) => idle.remove(place),
            None => idle.pop_front(),
        };
        driver.map(|driver| Taken { town: self, driver, is_sent: false })
    }

    /// Whether a driver was told to bring it.
    pub(super) fn is_assigned(&self, order: Uuid) -> bool {
        self.assigned.borrow().contains(&order)
    }

    /// Nobody will ask again whether it is assigned.
    pub(super) fn forget(&self, order: Uuid) {
        self.assigned.borrow_mut().remove(&order);
    }

    /// What this driver was told to bring.
    pub(super) fn errand(&self, driver: i64) -> Option<Errand> {
        self.errands.borrow_mut().remove(&driver)
    }
}

/// Our own restaurants.
async fn made(run: &Run, count: u32) -> anyhow::Result<Vec<Restaurant>> {
    let target = run.script.targets.service(Service::Menu).context("target.menu is missing")?;
    let admin = run.token(Identity::new(Role::Admin, 1));
    anyhow::ensure!(
        !admin.is_empty(),
        "to make restaurants a token is needed; make_restaurants = false takes those that there are"
    );
    let mut caller = Caller::new(run.script.targets.bases[target].clone());
    let kitchens = kitchens::open(&mut caller, &admin, count).await?;
    let restaurant = |(n, kitchen)| {
        let (latitude, longitude) = kitchens::place(n);
        Restaurant { kitchen, special: None, latitude, longitude }
    };
    Ok((0..).zip(kitchens).map(restaurant).collect())
}

/// Up to so many restaurants, as the menu service lists them.
///
/// # Errors
/// It does not answer with a list.
pub(super) async fn list(
    run: &Run,
    agent: &mut Agent,
    count: usize,
) -> anyhow::Result<Vec<Listed>> {
    let endpoint = run.endpoint(Service::Menu, "GET", "/restaurants");
    let mut paging = Paging::all(count);
    loop {
        let path = format!("/api/v1{}", paging.path());
        agent.send(&Call::new(endpoint, &path), |_, _| {}).await;
        let page = agent.body_as();
        let page = page.with_context(|| format!("GET {path} answers {:?}", agent.body_start()))?;
        if !paging.take(page) {
            return Ok(paging.listed());
        }
    }
}

/// The first of the list that have something to eat.
async fn found(run: &Run, agent: &mut Agent, count: usize) -> anyhow::Result<Vec<Restaurant>> {
    let endpoint = run.endpoint(Service::Menu, "GET", "/restaurants/{id}/menu");
    let mut restaurants = Vec::new();
    for Listed { restaurant_id: id, latitude, longitude, .. } in list(run, agent, count).await? {
        let path = format!("/api/v1/restaurants/{id}/menu");
        agent.send(&Call::new(endpoint, &path), |_, _| {}).await;
        let Some(menu) = agent.body_as::<Menu>() else { continue };
        let items = menu.items().filter(|item| item.available && item.in_stock);
        let kitchen = Kitchen { id, items: items.map(|item| item.item_id).collect() };
        if !kitchen.items.is_empty() {
            restaurants.push(Restaurant { kitchen, special: None, latitude, longitude });
        }
    }
    Ok(restaurants)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_are_taken_by_nearness_and_told_what_to_bring() {
        let town = Town::new(&Settings::default());
        let drivers = |near: &[i64]| town.take_driver(near).map(|taken| taken.driver);
        assert_eq!(drivers(&[1]), None);
        [1, 2, 3].into_iter().for_each(|driver| town.is_free(driver));
        let third = town.take_driver(&[9, 3]).unwrap();
        let first = town.take_driver(&[3]).unwrap();
        assert_eq!((third.driver, first.driver), (3, 1), "who is near, or waits longest");
        let errand = Errand { order: Uuid::from_u128(7), restaurant: 0 };
        assert!(!town.is_assigned(errand.order));
        first.send(errand);
        // The operator was cut off before there was anything to bring.
        drop(third);
        assert_eq!((drivers(&[1, 3]), drivers(&[1, 3])), (Some(3), Some(3)));
        assert_eq!(drivers(&[2]), Some(2));
        assert!(town.is_assigned(errand.order));
        assert_eq!((town.errand(2), town.errand(1), town.errand(1)), (None, Some(errand), None));
        town.forget(errand.order);
        assert!(!town.is_assigned(errand.order));
    }

    #[test]
    fn a_town_has_somebody_in_it() {
        assert_eq!(Settings::default().check(), Ok(()));
        assert!(Settings { drivers: 0, ..Settings::default() }.check().is_err());
        assert!(Settings { first_customer: Some(0), ..Settings::default() }.check().is_err());
    }
}
