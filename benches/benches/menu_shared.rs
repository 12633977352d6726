//! The shared cache on a real Redis: a lookup with its lease script against a plain GET, and a miss
//! that is filled against SET.

use std::{sync::Arc, time::Duration};

use benches::{
    menus::{document, key, menu_json},
    stores::{Redis, or_skip},
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use menu_api::{
    coherence::Names,
    shared::{Answer, Shared},
    stats::Stats,
};
use platform::stores::RedisRole;

const TTL: Duration = Duration::from_secs(3_600);

fn menu_shared(c: &mut Criterion) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let Some(redis) = or_skip("menu_shared", Redis::start(&runtime, RedisRole::Cache)) else {
        return;
    };
    let client = redis::Client::open(redis.url()).expect("a URL");
    let document = document(1, menu_json());
    let shared = runtime.block_on(async {
        let names = Names::new("menu");
        let second = Duration::from_secs(1);
        Shared::new(&client, names, second, second, Arc::new(Stats::default()))
    });
    let fill = async |id: i64| {
        let Answer::Fill(lease) = shared.get(&key(id)).await else { panic!("{id} is there") };
        assert!(shared.fill(lease, Some(&document), TTL).await, "{id} was refused");
    };
    runtime.block_on(fill(1));
    let mut plain =
        runtime.block_on(client.get_multiplexed_async_connection()).expect("a connection");
    let value = menu_json();
    let packed = menu_api::document::encode(&value, menu_api::document::Encoding::Zstd);

    let mut group = c.benchmark_group("menu_shared");
    group.throughput(Throughput::Elements(1));
    group.bench_function("lookup", |b| {
        b.iter(|| {
            runtime.block_on(async {
                assert!(matches!(shared.get(&key(1)).await, Answer::Here(Some(_))));
            });
        });
    });
    runtime.block_on(async {
        let _: () = redis::cmd("SET")
            .arg("plain")
            .arg(&packed[..])
            .query_async(&mut plain)
            .await
            .expect("SET");
    });
    group.bench_function("plain_get", |b| {
        b.iter(|| {
            runtime.block_on(async {
                let value: Vec<u8> = redis::cmd("GET")
                    .arg("plain")
                    .query_async(&mut plain.clone())
                    .await
                    .expect("GET");
                value.len()
            })
        });
    });
    let mut id = 1;
    group.bench_function("miss_and_fill", |b| {
        b.iter(|| {
            id += 1;
            runtime.block_on(fill(id));
        });
    });
    group.bench_function("plain_get_and_set", |b| {
        b.iter(|| {
            id += 1;
            runtime.block_on(async {
                let mut connection = plain.clone();
                let name = format!("plain:{id}");
                let there: Option<Vec<u8>> =
                    redis::cmd("GET").arg(&name).query_async(&mut connection).await.expect("GET");
                assert!(there.is_none());
                let _: () = redis::cmd("SET")
                    .arg(&name)
                    .arg(&packed[..])
                    .arg("PX")
                    .arg(3_600_000)
                    .query_async(&mut connection)
                    .await
                    .expect("SET");
            });
        });
    });
}

criterion_group!(benches, menu_shared);
criterion_main!(benches);
