use super::*;

/// A new route must say who may call it before it can be called.
#[test]
fn every_documented_route_has_an_access_row() {
    let access = access();
    let mut routes = 0;
    for (path, item) in openapi().paths.paths {
        for (method, operation) in [
            (Method::GET, item.get),
            (Method::POST, item.post),
            (Method::PUT, item.put),
            (Method::DELETE, item.delete),
            (Method::PATCH, item.patch),
        ] {
            if operation.is_some() {
                routes += 1;
                assert!(access.covers(&method, &path), "{method} {path} has no access row");
            }
        }
    }
    assert_eq!(routes, access.rows().count(), "a row without a documented route");
}

/// What changes something is for operators.
#[test]
fn nobody_writes_without_a_token() {
    for (method, route, who) in access().rows() {
        assert!(method == Method::GET || who == OPERATORS, "{method} {route}");
        assert!(!route.contains("/operator/") || who == OPERATORS, "{method} {route}");
    }
}

#[test]
fn an_etag_that_the_client_has_is_found_in_any_spelling() {
    let etag = b"W/\"12-0123456789abcdef\"";
    for known in [
        "W/\"12-0123456789abcdef\"",
        "\"12-0123456789abcdef\"",
        "\"other\", W/\"12-0123456789abcdef\"",
        "\"other\",\"12-0123456789abcdef\"",
        "*",
    ] {
        assert!(matches(known.as_bytes(), etag), "{known}");
    }
    for other in ["", "W/\"13-0123456789abcdef\"", "12-0123456789abcdef", "\"12\"", ","] {
        assert!(!matches(other.as_bytes(), etag), "{other}");
    }
}
