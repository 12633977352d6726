//! `menu-api generate`: realistic restaurants with menus, for demonstrations and load.
//!
//! Writes what [`crate::import`] reads, one restaurant per line. The same settings make the same
//! bytes, and restaurant `n` of a seed does not depend on how many there are.

mod kitchen;
mod place;

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;
use contracts::money::Currency;
use flate2::{Compression, write::GzEncoder};
use rand::{Rng, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

use self::{kitchen::Kitchen, place::Places};
use crate::{
    import::Record,
    menu::ITEMS_MAX,
    restaurant::{Cuisine, Profile, Status},
};

/// What to generate.
#[derive(Debug, Clone, Args)]
pub struct GenerateArgs {
    /// Restaurants
    #[arg(long, default_value_t = 5_000)]
    pub restaurants: u32,
    /// Items on the menu of each
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(0..=ITEMS_MAX as i64))]
    pub items: u32,
    /// The same seed makes the same restaurants
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Where they are: CSV, also with .gz, with the columns id, postal_code, latitude, longitude,
    /// categories (separated by |) and price_level; anywhere in San Francisco when absent
    #[arg(long)]
    pub places: Option<PathBuf>,
    /// File to write, packed when it ends with .gz; - is the standard output
    #[arg(long, default_value = "-")]
    pub out: PathBuf,
}

/// Opening hours of kitchens that serve meals.
const MEALS: [&str; 12] = [
    "Mo-Su 11:00-22:00",
    "Mo-Su 11:30-21:30; PH 12:00-20:00",
    "Tu-Su 17:00-22:30",
    "Mo-Fr 11:00-14:30,17:00-21:30; Sa-Su 12:00-22:00",
    "Mo-Fr 11:00-14:00,17:00-22:00; Sa-Su 17:00-02:00; PH off",
    "Mo-Th 11:00-22:00; Fr-Sa 11:00-01:00; Su 12:00-21:00",
    "We-Mo 12:00-15:00,17:30-22:00; Tu off",
    "Mo-Sa 10:30-21:00; Su,PH off",
    "Mo-Su 17:00-02:00",
    "Mo-Su 10:00-23:59; Dec 25 off",
    "Jun-Sep Mo-Su 10:00-23:00; Oct-May We-Su 11:00-21:00",
    "24/7",
];
/// Of those that serve breakfast.
const MORNINGS: [&str; 5] = [
    "Mo-Fr 06:30-15:00; Sa-Su 07:30-16:00",
    "Mo-Su 07:00-19:00; PH 08:00-14:00",
    "Tu-Su 07:00-14:30",
    "Mo-Fr 06:00-18:00; Sa 07:00-15:00; Su,PH off",
    "Mo-Su 08:00-21:00",
];

/// Writes the restaurants.
///
/// # Errors
/// When the places cannot be read or the file cannot be written.
pub fn generate(args: &GenerateArgs) -> anyhow::Result<()> {
    let records = restaurants(args)?;
    let written = write(records, &args.out);
    match written {
        // `generate | head` has all that it wanted.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.with_context(|| format!("{} cannot be written", args.out.display())),
    }
}

fn write(records: impl Iterator<Item = Record>, path: &Path) -> io::Result<()> {
    if path.as_os_str() == "-" {
        return write_lines(records, &mut BufWriter::new(io::stdout().lock()));
    }
    let mut file = BufWriter::new(File::create(path)?);
    if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gz")) {
        let mut packed = GzEncoder::new(&mut file, Compression::default());
        write_lines(records, &mut packed)?;
        packed.finish()?;
        return file.flush();
    }
    write_lines(records, &mut file)
}

fn write_lines(records: impl Iterator<Item = Record>, out: &mut impl Write) -> io::Result<()> {
    for record in records {
        serde_json::to_writer(&mut *out, &record)?;
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// The restaurants, made one at a time.
///
/// # Errors
/// When the places cannot be read.
pub fn restaurants(args: &GenerateArgs) -> anyhow::Result<impl Iterator<Item = Record> + use<>> {
    let places = args.places.as_deref().map(Places::read).transpose()?;
    let currency = Currency::parse("USD")?;
    let GenerateArgs { restaurants, items, seed, .. } = *args;
    Ok((1..=restaurants)
        .map(move |number| restaurant(seed, number, items, places.as_ref(), currency)))
}

fn restaurant(
    seed: u64,
    number: u32,
    items: u32,
    places: Option<&Places>,
    currency: Currency,
) -> Record {
    // Neighbouring seeds would otherwise share restaurants; the factor is the golden ratio's.
    let mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(number);
    let rng = &mut StdRng::seed_from_u64(mixed);
    let place = match places {
        Some(places) => places.nth(number - 1, rng),
        None => place::anywhere(rng),
    };
    let cuisine = place.cuisines.first().copied().unwrap_or(Cuisine::Other);
    let kitchen = Kitchen::of(cuisine);
    let external_id = format!("gen-{seed}-{number}");
    let address = place::address(rng);
    let name = kitchen.name(rng, address.split_once(' ').map_or("", |(_, street)| street));
    let photos = rng.random_range(0..=2);
    // Every fourth American kitchen is a diner.
    let is_diner = cuisine == Cuisine::American && number.is_multiple_of(4);
    let tables: &[&str] = if is_diner || cuisine == Cuisine::Other { &MORNINGS } else { &MEALS };
    let status = match rng.random_range(0..100) {
        0..90 => Status::Open,
        90..95 => Status::Busy,
        95..98 => Status::Closed,
        _ => Status::Maintenance,
    };
    let profile = Profile {
        name,
        description: kitchen.description(rng),
        price_level: place.price_level,
        address,
        city: "San Francisco".into(),
        postal_code: place.postal_code,
        country: "US".into(),
        latitude: place.latitude,
        longitude: place.longitude,
        time_zone: "America/Los_Angeles".into(),
        opening_hours: (*tables.choose(rng).unwrap_or(&"24/7")).into(),
        phone: Some(format!("+1415555{:04}", rng.random_range(0..10_000))),
        photos: (1..=photos)
            .map(|n| format!("https://photos.example/restaurants/{external_id}/{n}.jpg"))
            .collect(),
        currency,
        delivery_fee: *[0, 199, 299, 299, 399, 499].choose(rng).unwrap_or(&299),
        minimum_order: *[0, 1_000, 1_200, 1_500, 2_000].choose(rng).unwrap_or(&0),
        tax_basis_points: 863,
        cuisines: place.cuisines,
        external_id: Some(external_id),
    };
    let menu = kitchen.menu(rng, items as usize, profile.price_level);
    Record { restaurant: profile, status: Some(status), menu: Some(menu) }
}

#[cfg(test)]
mod tests;
