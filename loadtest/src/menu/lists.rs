//! What people search for: queries made from what is known of the restaurants.

use std::fmt::Write as _;

use rand::{Rng, SeedableRng as _, rngs::SmallRng, seq::IndexedRandom as _};

use super::catalogue::Listed;

/// Shorter words find everything, or nothing.
const WORD_CHARS_MIN: usize = 3;
/// Most people do not turn pages often.
const PAGE_MAX: u32 = 5;

/// `count` queries such as `?cuisine_type=thai&page=2`, the same for the same seed.
pub fn queries(known: &[Listed], count: usize, seed: u64) -> Vec<Box<str>> {
    let mut random = SmallRng::seed_from_u64(seed);
    (0..count).map(|_| query(known, &mut random).into()).collect()
}

fn query(known: &[Listed], random: &mut SmallRng) -> String {
    let mut query = String::from("?page_size=20");
    let Some(one) = known.choose(random) else { return query };
    let mut add = |text: std::fmt::Arguments<'_>| {
        let _infallible = query.write_fmt(text);
    };
    // One of four ways to look for food, each narrowed down now and then.
    match random.random_range(0..4) {
        0 => add(format_args!("&cuisine_type={}", Encoded(&one.cuisine_type))),
        1 => {
            let words: Vec<_> = one
                .name
                .split(|c: char| !c.is_alphanumeric())
                .filter(|word| word.chars().count() >= WORD_CHARS_MIN)
                .collect();
            let word = words.choose(random).copied().unwrap_or(one.name.as_str());
            add(format_args!("&q={}", Encoded(word)));
        }
        2 => {
            // Some hundred metres from a restaurant, where its customers are.
            let mut off = || random.random_range(-0.005..0.005);
            let (latitude, longitude) = (one.latitude + off(), one.longitude + off());
            add(format_args!(
                "&near={:.5},{:.5}&radius={}",
                latitude.clamp(-90.0, 90.0),
                longitude.clamp(-180.0, 180.0),
                [500, 1_000, 2_000, 5_000][random.random_range(0..4)]
            ));
        }
        _ => add(format_args!("&city={}", Encoded(&one.city))),
    }
    if random.random_bool(0.3) {
        add(format_args!("&min_rating={}", [3.0, 3.5, 4.0, 4.5][random.random_range(0..4)]));
    }
    if random.random_bool(0.2) {
        add(format_args!("&open_now=true"));
    }
    if random.random_bool(0.1) {
        add(format_args!("&status=open"));
    }
    if random.random_bool(0.3) {
        add(format_args!("&page={}", random.random_range(2..=PAGE_MAX)));
    }
    query
}

/// Percent-encoded as a query value: all but RFC 3986's unreserved characters.
struct Encoded<'a>(&'a str);

impl std::fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for byte in self.0.bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                f.write_char(char::from(byte))?;
            } else {
                write!(f, "%{byte:02X}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_of_all_kinds_well_formed_and_the_same_for_a_seed() {
        let known = [Listed {
            restaurant_id: 1,
            name: "Chez Café & Söhne".into(),
            cuisine_type: "other".into(),
            city: "San Francisco".into(),
            latitude: 37.7,
            longitude: -122.4,
        }];
        let made = queries(&known, 1_000, 3);
        for kind in [
            "&cuisine_type=other",
            "&q=Chez",
            "&q=Caf%C3%A9",
            "&q=S%C3%B6hne",
            "&near=37.",
            "&radius=500",
            "&city=San%20Francisco",
            "&min_rating=4.5",
            "&min_rating=3",
            "&open_now=true",
            "&status=open",
            "&page=5",
        ] {
            assert!(made.iter().any(|query| query.contains(kind)), "{kind}");
        }
        for query in &made {
            let uri: Result<http::Uri, _> = format!("http://x/restaurants{query}").parse();
            assert!(uri.is_ok(), "{query}");
        }
        assert_eq!(made, queries(&known, 1_000, 3));
        assert_ne!(made, queries(&known, 1_000, 4));
        assert_eq!(queries(&[], 1, 1), [Box::from("?page_size=20")]);
    }
}
