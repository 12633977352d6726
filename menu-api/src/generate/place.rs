//! Where restaurants are.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::Path,
};

use anyhow::{Context as _, ensure};
use flate2::read::MultiGzDecoder;
use rand::{Rng, seq::IndexedRandom as _};
use serde::Deserialize;

use crate::restaurant::Cuisine;

/// What a place decides of its restaurant.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) latitude: f64,
    pub(super) longitude: f64,
    pub(super) postal_code: String,
    /// One to three.
    pub(super) cuisines: Vec<Cuisine>,
    pub(super) price_level: u8,
}

const STREETS: [&str; 40] = [
    "24th Street",
    "9th Avenue",
    "Balboa Street",
    "Broadway",
    "Bush Street",
    "California Street",
    "Castro Street",
    "Chestnut Street",
    "Church Street",
    "Clement Street",
    "Cortland Avenue",
    "Divisadero Street",
    "Fell Street",
    "Fillmore Street",
    "Folsom Street",
    "Geary Boulevard",
    "Grant Avenue",
    "Guerrero Street",
    "Haight Street",
    "Harrison Street",
    "Hayes Street",
    "Hyde Street",
    "Irving Street",
    "Jackson Street",
    "Judah Street",
    "Kearny Street",
    "Larkin Street",
    "Lombard Street",
    "Market Street",
    "Mission Street",
    "Noriega Street",
    "Ocean Avenue",
    "Pacific Avenue",
    "Polk Street",
    "Post Street",
    "San Bruno Avenue",
    "Taraval Street",
    "Union Street",
    "Valencia Street",
    "West Portal Avenue",
];
const POSTAL_CODES: [&str; 12] = [
    "94102", "94103", "94107", "94109", "94110", "94112", "94114", "94115", "94117", "94118",
    "94122", "94133",
];

/// What places of a map are called, and what is cooked there.
const KINDS: [(&str, Cuisine); 40] = [
    ("italian", Cuisine::Italian),
    ("pizza", Cuisine::Italian),
    ("chinese", Cuisine::Chinese),
    ("cantonese", Cuisine::Chinese),
    ("dimsum", Cuisine::Chinese),
    ("szechuan", Cuisine::Chinese),
    ("shanghainese", Cuisine::Chinese),
    ("taiwanese", Cuisine::Chinese),
    ("hotpot", Cuisine::Chinese),
    ("indpak", Cuisine::Indian),
    ("pakistani", Cuisine::Indian),
    ("himalayan", Cuisine::Indian),
    ("mexican", Cuisine::Mexican),
    ("salvadoran", Cuisine::Mexican),
    ("latin", Cuisine::Mexican),
    ("tex-mex", Cuisine::Mexican),
    ("japanese", Cuisine::Japanese),
    ("sushi", Cuisine::Japanese),
    ("ramen", Cuisine::Japanese),
    ("izakaya", Cuisine::Japanese),
    ("newamerican", Cuisine::American),
    ("tradamerican", Cuisine::American),
    ("burgers", Cuisine::American),
    ("hotdogs", Cuisine::American),
    ("sandwiches", Cuisine::American),
    ("bbq", Cuisine::American),
    ("southern", Cuisine::American),
    ("steak", Cuisine::American),
    ("diners", Cuisine::American),
    ("chicken_wings", Cuisine::American),
    ("thai", Cuisine::Thai),
    ("mediterranean", Cuisine::Mediterranean),
    ("greek", Cuisine::Mediterranean),
    ("mideastern", Cuisine::Mediterranean),
    ("turkish", Cuisine::Mediterranean),
    ("lebanese", Cuisine::Mediterranean),
    ("persian", Cuisine::Mediterranean),
    ("falafel", Cuisine::Mediterranean),
    ("spanish", Cuisine::Mediterranean),
    ("tapas", Cuisine::Mediterranean),
];

/// Places of a file.
#[derive(Debug)]
pub(super) struct Places(Vec<Place>);

#[derive(Deserialize)]
struct Row {
    postal_code: String,
    latitude: f64,
    longitude: f64,
    categories: String,
    price_level: u8,
}

impl Places {
    /// Reads all of a file.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("{}", path.display()))?;
        let is_packed = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gz"));
        let input: Box<dyn Read> = if is_packed {
            Box::new(MultiGzDecoder::new(BufReader::new(file)))
        } else {
            Box::new(file)
        };
        let mut places = Vec::new();
        for row in csv::Reader::from_reader(input).into_deserialize() {
            let row: Row = row.with_context(|| format!("{}", path.display()))?;
            places.push(Place {
                latitude: row.latitude,
                longitude: row.longitude,
                postal_code: row.postal_code,
                cuisines: cuisines(&row.categories),
                // 0 is unknown.
                price_level: if row.price_level == 0 { 2 } else { row.price_level.min(4) },
            });
        }
        ensure!(!places.is_empty(), "{} has no places", path.display());
        Ok(Self(places))
    }

    /// One after the other; from the beginning again, some steps away, when there are no more.
    pub(super) fn nth(&self, number: u32, rng: &mut impl Rng) -> Place {
        let number = number as usize;
        let mut place = self.0[number % self.0.len()].clone();
        if number >= self.0.len() {
            place.latitude += rng.random_range(-0.001..0.001);
            place.longitude += rng.random_range(-0.001..0.001);
        }
        place.latitude = rounded(place.latitude);
        place.longitude = rounded(place.longitude);
        place
    }
}

fn cuisines(categories: &str) -> Vec<Cuisine> {
    let mut cuisines = Vec::new();
    for category in categories.split('|') {
        let known = KINDS.iter().find(|(name, _)| *name == category).map(|(_, cuisine)| *cuisine);
        if let Some(cuisine) = known
            && !cuisines.contains(&cuisine)
            && cuisines.len() < 3
        {
            cuisines.push(cuisine);
        }
    }
    if cuisines.is_empty() { vec![Cuisine::Other] } else { cuisines }
}

/// Somewhere in the bounds of San Francisco's streets.
pub(super) fn anywhere(rng: &mut impl Rng) -> Place {
    let mut cuisines = vec![*Cuisine::ALL.choose(rng).unwrap_or(&Cuisine::Other)];
    if rng.random_range(0..5) == 0 {
        let second = *Cuisine::ALL.choose(rng).unwrap_or(&Cuisine::Other);
        cuisines.extend((second != cuisines[0]).then_some(second));
    }
    Place {
        latitude: rounded(rng.random_range(37.70..37.81)),
        longitude: rounded(rng.random_range(-122.51..-122.38)),
        postal_code: (*POSTAL_CODES.choose(rng).unwrap_or(&"")).into(),
        cuisines,
        price_level: *[1, 1, 1, 2, 2, 2, 2, 3, 3, 4].choose(rng).unwrap_or(&2),
    }
}

/// To about a tenth of a metre, as maps write them.
fn rounded(degrees: f64) -> f64 {
    (degrees * 1e6).round() / 1e6
}

pub(super) fn address(rng: &mut impl Rng) -> String {
    let street = STREETS.choose(rng).unwrap_or(&"Market Street");
    format!("{} {street}", rng.random_range(1..=3_999))
}
