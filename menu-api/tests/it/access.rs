//! Every route × everybody: generated from the access table, so that no route is forgotten.

use bytes::Bytes;
use platform::{access::Who, auth::Role};

use crate::world::World;

#[tokio::test]
async fn every_route_lets_in_those_it_names_and_nobody_else() {
    let world = World::start(1).await;
    let elsewhere = platform::auth::Signer::generate().0;
    let forged = elsewhere.access(Role::Admin, 1, &[], std::time::Duration::from_secs(60));
    let mut routes = 0;
    for (method, route, who) in menu_api::http::access().rows() {
        routes += 1;
        let path = route
            .replace("{restaurant_id}", "4711")
            .replace("{item_id}", "4711")
            .replace("{category_id}", "4711");
        let call = async |token: &str| {
            world.send(0, method.as_str(), &path, token, &[], Bytes::new()).await.status
        };
        let Who::Roles(allowed) = who else {
            assert!([200, 404].contains(&call("").await), "{method} {route}");
            continue;
        };
        for token in ["", "nonsense", &forged] {
            assert_eq!(call(token).await, 401, "{method} {route}");
        }
        for role in Role::ALL {
            let status = call(&world.token(*role, 8, &[4712])).await;
            if allowed.contains(role) {
                assert!(![401, 403].contains(&status), "{method} {route} {role:?}: {status}");
                assert!(status < 500, "{method} {route} {role:?}: {status}");
            } else {
                assert_eq!(status, 403, "{method} {route} {role:?}");
            }
        }
    }
    assert!(routes >= 15, "{routes}");
}
