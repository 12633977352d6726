use std::io::Read as _;

use super::*;

fn headers(accept: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static(accept))])
}

#[test]
fn the_best_accepted_encoding_wins() {
    for (accept, expected) in [
        ("", Encoding::Identity),
        ("identity", Encoding::Identity),
        ("gzip, deflate", Encoding::Gzip),
        ("GZIP", Encoding::Gzip),
        ("gzip, deflate, br", Encoding::Brotli),
        ("gzip, deflate, br, zstd", Encoding::Zstd),
        ("zstd;q=0, br;q=0.0, gzip;q=0.5", Encoding::Gzip),
        ("gzip;q=0", Encoding::Identity),
        ("*", Encoding::Gzip),
        ("*;q=0", Encoding::Identity),
        // `*` is what is not named.
        ("gzip;q=0, *", Encoding::Identity),
        ("*, gzip;q=0", Encoding::Identity),
        ("gzip;Q=0", Encoding::Identity),
        ("identity, *;q=0.1", Encoding::Gzip),
        (";;,,=", Encoding::Identity),
    ] {
        assert_eq!(Encoding::accepted(&headers(accept)), expected, "{accept:?}");
    }
}

#[test]
fn every_encoding_is_the_same_body() {
    let text = "{\"name\":\"Paneer Tikka\",\"price\":1250},".repeat(200);
    let body = Body::new(Bytes::from(text.clone()));
    for encoding in [Encoding::Gzip, Encoding::Brotli, Encoding::Zstd] {
        let (bytes, sent_as) = body.get(encoding);
        assert_eq!(sent_as, encoding);
        assert!(bytes.len() * 5 < text.len(), "{encoding:?} is not much smaller");
        let mut decoded = Vec::new();
        match encoding {
            Encoding::Gzip => {
                flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut decoded).unwrap();
            }
            Encoding::Brotli => {
                brotli::Decompressor::new(&bytes[..], 4096).read_to_end(&mut decoded).unwrap();
            }
            _ => decoded = zstd::bulk::decompress(bytes, 1 << 20).unwrap(),
        }
        assert_eq!(decoded, text.as_bytes(), "{encoding:?}");
    }
}

#[test]
fn what_gets_no_smaller_is_sent_as_it_is() {
    let noise: Vec<u8> = (0..5_000).map(|_| rand::random()).collect();
    let body = Body::new(noise.into());
    assert_eq!(body.get(Encoding::Gzip).1, Encoding::Identity);
    let small = Body::new(Bytes::from_static(b"{}"));
    assert_eq!(small.get(Encoding::Zstd), (&Bytes::from_static(b"{}"), Encoding::Identity));
}

#[test]
fn an_etag_tells_versions_and_bodies_apart() {
    let etag = |version, body: &'static str| {
        Document::new(version, Body::new(body.into()), Duration::from_secs(1)).etag
    };
    assert_eq!(etag(12, "a"), etag(12, "a"));
    assert_ne!(etag(12, "a"), etag(13, "a"));
    // The same version of a status opens and closes with the clock.
    assert_ne!(etag(12, "a"), etag(12, "b"));
    assert!(etag(12, "a").to_str().unwrap().starts_with("W/\"12-"));
}

#[test]
fn parts_name_the_documents_that_they_are_in() {
    let kinds = |parts: Parts| parts.kinds().collect::<Vec<_>>();
    assert_eq!(kinds(Parts::MENU), [Kind::Menu, Kind::MenuWithStatus]);
    assert_eq!(kinds(Parts::STATUS), [Kind::Restaurant, Kind::Status, Kind::MenuWithStatus]);
    assert_eq!(kinds(Parts::LISTS), []);
    assert_eq!(kinds(Parts::ALL), Kind::ALL);
    assert_eq!(Parts::from_bits(12), Parts::STATUS.and(Parts::LISTS));
    assert_eq!(Parts::from_bits(999), Parts::ALL);
}
