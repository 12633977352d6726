use axum::http::Method;
use platform::access::Who;

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

/// What is somebody's needs a token; what runs the system, an administrator's.
#[test]
fn only_ratings_of_restaurants_are_public() {
    for (method, route, who) in access().rows() {
        let is_public = route == "/api/v1/restaurants/{restaurant_id}/ratings";
        assert_eq!(who == Who::Anyone, is_public, "{method} {route}");
        let is_admin = who == Who::Roles(&[Role::Admin]);
        assert_eq!(route.contains("/admin/"), is_admin, "{method} {route}");
        // No other service calls this one, and a fleet's gateway has nothing to do here.
        let Who::Roles(roles) = who else { continue };
        assert!(!roles.iter().any(|role| [Role::Service, Role::Fleet].contains(role)), "{route}");
        assert!(!route.contains("/cart") || who == Who::Roles(&[Role::Customer]), "{route}");
    }
}
