use super::*;

fn id(id: i64) -> DriverId {
    DriverId::new(id).unwrap()
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn registering_again_changes_nothing(db: PgPool) {
    let Registered::New(driver) = register(&db, id(7), Vehicle::Car, 2).await.unwrap() else {
        panic!("driver 7 is not registered yet")
    };
    assert_eq!((driver.state, driver.capacity), (DriverState::Offline, 2));
    assert_eq!(
        register(&db, id(7), Vehicle::Car, 2).await.unwrap(),
        Registered::Before(driver.clone())
    );
    assert_eq!(register(&db, id(7), Vehicle::Bicycle, 2).await.unwrap(), Registered::Different);
    assert_eq!(register(&db, id(7), Vehicle::Car, 3).await.unwrap(), Registered::Different);
    assert_eq!(get(&db, id(7)).await.unwrap(), Some(driver));
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn a_state_set_twice_is_written_once(db: PgPool) {
    register(&db, id(7), Vehicle::Car, 1).await.unwrap();
    let online = set_state(&db, id(7), DriverState::Online).await.unwrap().unwrap();
    assert_eq!(online.state, DriverState::Online);
    assert_eq!(set_state(&db, id(7), DriverState::Online).await.unwrap(), Some(online));
    assert_eq!(set_state(&db, id(8), DriverState::Online).await.unwrap(), None);
}

#[sqlx::test(migrator = "crate::MIGRATOR")]
async fn a_list_is_filtered_and_paged(db: PgPool) {
    for n in 1..=5 {
        let vehicle = if n % 2 == 0 { Vehicle::Car } else { Vehicle::Bicycle };
        register(&db, id(n), vehicle, 1).await.unwrap();
    }
    set_state(&db, id(3), DriverState::Online).await.unwrap();
    let ids = async |vehicle, state, limit, offset| {
        let (drivers, total) = list(&db, vehicle, state, limit, offset).await.unwrap();
        (drivers.iter().map(|d| d.driver_id.get()).collect::<Vec<_>>(), total)
    };
    assert_eq!(ids(None, None, 2, 2).await, (vec![3, 4], 5));
    assert_eq!(ids(Some(Vehicle::Bicycle), None, 9, 0).await, (vec![1, 3, 5], 3));
    assert_eq!(ids(None, Some(DriverState::Online), 9, 0).await, (vec![3], 1));
    assert_eq!(attributes(&db).await.unwrap().len(), 5);
}
