//! The restaurants of the town: generated, imported, and asked for.

use std::{
    io::{BufWriter, Write as _},
    path::PathBuf,
};

use anyhow::Context as _;
use loadtest::{
    client::{Caller, Target},
    menu::{
        What,
        catalogue::{self, Listed},
        check::Start,
        choose::{Chooser, Habits},
        lists,
        write::{Operators, Place},
    },
};
use menu_api::{
    generate::{self, GenerateArgs},
    import::{self, Format, ImportArgs, Record},
};
use platform::auth::{Role, Signer};
use platform::postgres::{self, Limits};
use rand::{SeedableRng as _, rngs::SmallRng};
use secrecy::SecretString;
use tempfile::NamedTempFile;

use super::visits::{LIST_EVERY, TOKEN_FOR};
use crate::{city::plane::Spot, demo::orders::Kitchens};

const RESTAURANTS: u32 = 300;
/// Items on each menu.
const ITEMS: u32 = 40;
/// Restaurants that are written to, from the most popular to the least.
const WRITTEN: usize = 30;
/// Items of a restaurant that are written to.
const ITEMS_WRITTEN: usize = 8;
/// Places where customers look around.
const LOOKS: usize = 500;
/// The share of writes among all errands.
const WRITES: f64 = 0.01;
/// The share of reads whose customer has an older copy.
const REVALIDATED: f64 = 0.2;
/// Operators are far from drivers and customers.
const FIRST_OPERATOR: i64 = 5_000_000;
/// Restaurants of one transaction; long ones hold up the fixes.
const AT_ONCE: usize = 20;
/// Of the import; the service has its own.
const CONNECTIONS: u32 = 2;

/// What there is to ask for and to change.
pub(super) struct World {
    /// Restaurants by their ids; all else goes by the index here.
    pub(super) ids: Vec<i64>,
    /// Queries of lists.
    pub(super) queries: Vec<Box<str>>,
    /// What restaurants that are written to are now.
    pub(super) starts: Vec<(u32, Start)>,
    pub(super) operators: Operators,
    pub(super) chooser: Chooser,
}

/// Writes the restaurants into the service's database, some at a time.
pub(super) async fn import(
    database_url: &SecretString,
    seed: u64,
    spots: Vec<Spot>,
) -> anyhow::Result<()> {
    // Making them keeps a core busy for a moment.
    let files = tokio::task::spawn_blocking(move || {
        records(seed, &spots)?.chunks(AT_ONCE).map(write).collect::<anyhow::Result<Vec<_>>>()
    });
    let files = files.await?.context("the restaurants cannot be written to files")?;
    let db = postgres::pool(database_url, "devstack-demo", CONNECTIONS, Limits::TOOL)?;
    for file in files {
        let (file, format) = (file.path().to_owned(), Some(Format::Json));
        let report = import::import(&db, &ImportArgs { file, format, dry_run: false }).await;
        let report = report.context("the restaurants cannot be imported")?;
        anyhow::ensure!(report.failed == 0, "restaurants were not imported: {report}");
    }
    db.close().await;
    Ok(())
}

fn records(seed: u64, spots: &[Spot]) -> anyhow::Result<Vec<Record>> {
    let (restaurants, items) = (RESTAURANTS, ITEMS);
    let args = GenerateArgs { restaurants, items, seed, places: None, out: PathBuf::new() };
    let records = generate::restaurants(&args)?.enumerate();
    Ok(records.map(|(number, record)| settle(record, number, spots)).collect())
}

/// Moves a restaurant from San Francisco, where all are generated, to the town; what is said of
/// streets and prices comes along. A recorded trace has no restaurants, and is of San Francisco.
fn settle(mut record: Record, number: usize, spots: &[Spot]) -> Record {
    let Some(spot) = site(number, spots) else { return record };
    let profile = &mut record.restaurant;
    (profile.latitude, profile.longitude) = spot.degrees();
    profile.city = "Pune".into();
    profile.postal_code = "411001".into();
    profile.country = "IN".into();
    profile.time_zone = "Asia/Kolkata".into();
    profile.phone = None;
    // A demo may be watched at any hour.
    profile.opening_hours = "24/7".into();
    record
}

/// The first are where the drivers fetch orders, the others half-way between two of these.
fn site(number: usize, spots: &[Spot]) -> Option<Spot> {
    let spot = spots.get(number % spots.len().max(1))?;
    let lap = number / spots.len();
    Some(if lap == 0 { *spot } else { spot.towards(spots[(number + lap) % spots.len()], 0.5) })
}

fn write(records: &[Record]) -> anyhow::Result<NamedTempFile> {
    let mut file = BufWriter::new(NamedTempFile::new()?);
    for record in records {
        serde_json::to_writer(&mut file, record)?;
        file.write_all(b"\n")?;
    }
    Ok(file.into_inner()?)
}

/// Asks the service for the restaurants, and decides who does what; also answers where customers
/// order.
pub(super) async fn learn(
    target: &Target,
    signer: &Signer,
    seed: u64,
    spots: &[Spot],
) -> anyhow::Result<(World, Kitchens)> {
    let admin = signer.access(Role::Admin, 1, &[], TOKEN_FOR);
    let mut caller = Caller::new(target.clone());
    let listed = catalogue::restaurants(&mut caller, &admin, RESTAURANTS as usize)
        .await
        .context("the restaurants cannot be listed")?;
    anyhow::ensure!(!listed.is_empty(), "the service lists no restaurant");
    let ids: Vec<i64> = listed.iter().map(|one| one.restaurant_id).collect();
    let habits = Habits {
        what: What::Mix,
        // Of what is no list.
        writes: WRITES * LIST_EVERY as f64 / (LIST_EVERY - 1) as f64,
        revalidate: REVALIDATED,
        cold: false,
        seed,
    };
    let chooser = Chooser::new(habits, ids.len() as u32, 1);
    let (mut starts, mut places) = (Vec::new(), Vec::new());
    for restaurant in chooser.ranks().iter().step_by(ids.len().div_ceil(WRITTEN)) {
        let id = ids[*restaurant as usize];
        let start = catalogue::start(&mut caller, &admin, id, ITEMS_WRITTEN).await?;
        let operator = FIRST_OPERATOR + 2 * id;
        places.push(Place {
            restaurant: *restaurant,
            id,
            items: start.items.iter().map(|(id, _)| *id).collect(),
            tokens: [operator, operator + 1]
                .map(|operator| signer.access(Role::Operator, operator, &[id], TOKEN_FOR)),
        });
        starts.push((*restaurant, start));
    }
    // Customers look around where they are.
    let mut queries = lists::queries(&listed, 4 * LOOKS, seed);
    queries.retain(|query| query.contains("&near="));
    let operators = Operators::new(places, SmallRng::seed_from_u64(seed));
    Ok((World { ids, queries, starts, operators, chooser }, kitchens(&listed, spots)))
}

/// Finds the town's restaurants again, by where they are.
fn kitchens(listed: &[Listed], spots: &[Spot]) -> Kitchens {
    let at = |spot: &Spot| {
        let distance_m =
            |one: &Listed| Spot::from_degrees(one.latitude, one.longitude).distance_m(*spot);
        let nearest = listed.iter().min_by(|a, b| distance_m(a).total_cmp(&distance_m(b)));
        nearest.map(|one| one.restaurant_id)
    };
    Kitchens {
        town: spots.iter().filter_map(at).collect(),
        all: listed.iter().map(|one| one.restaurant_id).collect(),
        rated: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restaurants_follow_from_the_seed_and_are_in_the_town() {
        let spots: Vec<_> = (0..7).map(|n| Spot::new(f64::from(n) * 100.0, 50.0)).collect();
        let made = records(3, &spots).unwrap();
        assert_eq!(made.len(), RESTAURANTS as usize);
        assert_eq!(made, records(3, &spots).unwrap());
        assert_ne!(made, records(4, &spots).unwrap());
        for (number, record) in made.iter().enumerate() {
            let profile = &record.restaurant;
            profile.check().unwrap();
            let spot = Spot::from_degrees(profile.latitude, profile.longitude);
            let nearest = spots.iter().map(|one| one.distance_m(spot)).fold(f64::MAX, f64::min);
            assert!(if number < 7 { nearest < 0.1 } else { nearest < 310.0 }, "{number}: {spot:?}");
        }
    }

    #[test]
    fn a_trace_keeps_the_places_of_the_generator() {
        let made = records(3, &[]).unwrap();
        assert!(made.iter().all(|record| record.restaurant.city == "San Francisco"));
    }

    #[test]
    fn the_towns_restaurants_are_found_by_their_places() {
        let spot = |n: i32| Spot::new(f64::from(n * n) * 37.0, f64::from(n) * 90.0);
        let spots: Vec<_> = (0..25).map(spot).collect();
        let mut listed: Vec<Listed> = (1_i64..)
            .zip(records(3, &spots).unwrap())
            .map(|(restaurant_id, record)| {
                let profile = record.restaurant;
                let (latitude, longitude) = (profile.latitude, profile.longitude);
                let (name, city, cuisine_type) = (profile.name, profile.city, String::new());
                Listed { restaurant_id, name, cuisine_type, city, latitude, longitude }
            })
            .collect();
        listed.reverse();
        let kitchens = kitchens(&listed, &spots);
        assert_eq!(kitchens.town, (1..=25).collect::<Vec<_>>());
        assert_eq!(kitchens.all.len(), RESTAURANTS as usize);
    }

    #[test]
    fn the_file_has_a_line_for_each() {
        let file = write(&records(3, &[]).unwrap()[..5]).unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(text.lines().count(), 5);
        let first: Record = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(first.restaurant.external_id.as_deref(), Some("gen-3-1"));
    }
}
