//! Every route × everybody: generated from the access table, so that no route is forgotten.

use bytes::Bytes;
use platform::{access::Who, auth::Role};

use crate::world::{World, until};

/// A route with its parameters filled in with what exists for nobody.
fn filled(route: &str) -> String {
    route
        .replace("{driver_id}", "4711")
        .replace("{order_id}", "01900000-0000-7000-8000-000000000000")
        .replace("{id}", "4711")
}

#[tokio::test]
async fn every_route_lets_in_those_it_names_and_nobody_else() {
    let world = World::start().await;
    // Made first, so that it has expired, with the leeway of five seconds, when it is used.
    let expired = world.signer.access(Role::Admin, 1, &[], std::time::Duration::ZERO);
    let elsewhere = World::stores(platform::stores::Timescaledb::Off, &[]).await;
    until("the token has expired", async || {
        world.get("/api/v1/dead-letters", &expired).await.status == 401
    })
    .await;
    let forged = elsewhere.admin();
    // Whoever took the key of tracking tokens is nobody here.
    let by_tracking_key =
        world.tracking_signer.access(Role::Admin, 1, &[], std::time::Duration::from_secs(600));
    let mut routes = 0;
    for (method, route, who) in logistics::http::access().rows() {
        routes += 1;
        let path = filled(route);
        let call = async |token: &str| {
            world.send(method.as_str(), &path, token, &[], Bytes::new()).await.status
        };
        let Who::Roles(allowed) = who else {
            // It asks by itself, a socket in its first message: see the tests of tracking.
            assert!((400..500).contains(&call("").await), "{method} {route}");
            continue;
        };
        for token in ["", "nonsense", &expired, &forged, &by_tracking_key] {
            assert_eq!(call(token).await, 401, "{method} {route}");
        }
        let is_fleets = method == http::Method::POST && route == "/api/v1/locations";
        assert_eq!(allowed.contains(&Role::Fleet), is_fleets, "{method} {route}");
        for role in Role::ALL {
            let status = call(&world.token(*role, 8)).await;
            if allowed.contains(role) {
                assert!(![401, 403].contains(&status), "{method} {route} {role:?}: {status}");
                assert!(status < 500, "{method} {route} {role:?}: {status}");
            } else {
                assert_eq!(status, 403, "{method} {route} {role:?}");
            }
        }
        // What is another driver's or customer's reads like what does not exist.
        if route.contains("{driver_id}") && allowed.contains(&Role::Driver) {
            let status = call(&world.token(Role::Driver, 8)).await;
            assert!([404, 413, 415, 422].contains(&status), "{method} {route}: {status}");
        }
    }
    assert!(routes >= 20, "{routes}");
}
