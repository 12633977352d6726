use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn args(restaurants: u32, items: u32, seed: u64) -> GenerateArgs {
    GenerateArgs { restaurants, items, seed, places: None, out: "-".into() }
}

fn bytes(args: &GenerateArgs) -> Vec<u8> {
    let mut out = Vec::new();
    write_lines(restaurants(args).unwrap(), &mut out).unwrap();
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_is_generated_is_accepted(
        seed: u64,
        count in 1..8_u32,
        items in prop_oneof![0..120_u32, Just(1_000)],
    ) {
        for (n, record) in (1..).zip(restaurants(&args(count, items, seed)).unwrap()) {
            let Record { restaurant, status, menu } = record;
            prop_assert!(status.is_some());
            let hours = restaurant.check();
            prop_assert!(hours.is_ok(), "{hours:?}: {restaurant:?}");
            prop_assert_eq!(restaurant.external_id, Some(format!("gen-{seed}-{n}")));
            prop_assert!((37.70..=37.81).contains(&restaurant.latitude));
            prop_assert!((-122.51..=-122.38).contains(&restaurant.longitude));
            let menu = menu.unwrap();
            prop_assert_eq!(menu.check(), Ok(()));
            let mut names = HashSet::new();
            for category in &menu.categories {
                for item in &category.items {
                    prop_assert!((15..=40).contains(&item.preparation_minutes));
                    prop_assert!(names.insert((&category.name, &item.name)), "{}", item.name);
                }
            }
            prop_assert_eq!(names.len(), items as usize);
        }
    }
}

#[test]
fn the_same_seed_makes_the_same_bytes() {
    let all = bytes(&args(30, 20, 7));
    assert_eq!(all, bytes(&args(30, 20, 7)));
    assert_ne!(all, bytes(&args(30, 20, 8)));
    let few = bytes(&args(10, 20, 7));
    assert!(all.starts_with(&few) && all.len() > few.len());
}

#[test]
fn kinds_of_restaurants_vary() {
    let all: Vec<Record> = restaurants(&args(1_000, 3, 1)).unwrap().collect();
    let count =
        |what: &dyn Fn(&Record) -> String| all.iter().map(what).collect::<HashSet<_>>().len();
    assert_eq!(count(&|record| format!("{:?}", record.restaurant.cuisines[0])), 9);
    assert_eq!(
        count(&|record| record.restaurant.opening_hours.clone()),
        MEALS.len() + MORNINGS.len()
    );
    assert_eq!(count(&|record| record.restaurant.price_level.to_string()), 4);
    assert!(count(&|record| record.restaurant.name.clone()) > 500);
    let open = all.iter().filter(|record| record.status == Some(Status::Open)).count();
    assert!((850..950).contains(&open), "{open} of 1000 are open");
}

#[test]
fn places_come_from_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("places.csv");
    let text = "id,postal_code,latitude,longitude,categories,price_level\n\
                1,94121,37.782179,-122.486289,asianfusion|desserts|chinese,1\n\
                2,94109,37.78509,-122.42067,parking,0\n";
    std::fs::write(&path, text).unwrap();
    let args = GenerateArgs { places: Some(path.clone()), ..args(3, 5, 1) };
    let all: Vec<Profile> = restaurants(&args).unwrap().map(|record| record.restaurant).collect();
    let place = |n: usize| (all[n].latitude, all[n].longitude, &*all[n].postal_code);
    assert_eq!(place(0), (37.782179, -122.486289, "94121"));
    assert_eq!((&*all[0].cuisines, all[0].price_level), (&[Cuisine::Chinese][..], 1));
    assert_eq!(place(1), (37.78509, -122.42067, "94109"));
    assert_eq!((&*all[1].cuisines, all[1].price_level), (&[Cuisine::Other][..], 2));
    // The first place again, nearby.
    assert_ne!(place(2), place(0));
    assert!((all[2].latitude - all[0].latitude).abs() <= 0.001 && all[2].postal_code == "94121");

    for (text, message) in [
        ("id,postal_code,latitude,longitude,categories,price_level\n", "has no places"),
        (
            "id,postal_code,latitude,longitude,categories,price_level\n1,9,north,0,x,1\n",
            "places.csv",
        ),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = restaurants(&args).err().unwrap();
        assert!(format!("{error:#}").contains(message), "{error:#}");
    }
}

#[test]
fn files_are_packed_by_their_name() {
    use std::io::Read as _;

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("restaurants.jsonl.gz");
    generate(&GenerateArgs { out: path.clone(), ..args(5, 5, 1) }).unwrap();
    let mut text = Vec::new();
    let packed = std::fs::read(&path).unwrap();
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut text).unwrap();
    assert_eq!(text, bytes(&args(5, 5, 1)));
    let nowhere = GenerateArgs { out: dir.path().join("no/such/place"), ..args(1, 1, 1) };
    assert!(generate(&nowhere).unwrap_err().to_string().contains("cannot be written"));
}
