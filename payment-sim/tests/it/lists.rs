//! Lists: the newest first, page by page.

use serde_json::Value;

use crate::world::Sim;

fn ids(list: &Value) -> Vec<String> {
    let data = list["data"].as_array().unwrap();
    data.iter().map(|object| object["id"].as_str().unwrap().to_owned()).collect()
}

/// All pages of a list, and how many there were.
async fn walk(sim: &Sim, path: &str) -> (Vec<String>, usize) {
    let (mut all, mut pages) = (Vec::new(), 0);
    loop {
        let after = all.last().map_or(String::new(), |id| format!("&starting_after={id}"));
        let page = sim.get(&format!("{path}{after}")).await.ok();
        pages += 1;
        all.extend(ids(&page));
        if page["has_more"] == false {
            return (all, pages);
        }
    }
}

#[tokio::test]
async fn pages_miss_and_repeat_nothing() {
    let sim = Sim::start(&[]).await;
    let mut intents = Vec::new();
    let mut refunds = Vec::new();
    for n in 0..25 {
        let intent = sim.charge(&format!("o{n}"), "").await.ok();
        let id = intent["id"].as_str().unwrap().to_owned();
        for amount in 0..n % 3 {
            let form = format!("payment_intent={id}&amount={}", amount + 1);
            let refund = sim.post("/v1/refunds", "", &form).await.ok();
            refunds.push((refund["id"].as_str().unwrap().to_owned(), n));
        }
        intents.push(id);
    }
    intents.reverse();
    refunds.reverse();
    let refund_ids: Vec<_> = refunds.iter().map(|(id, _)| id.clone()).collect();
    assert_eq!(walk(&sim, "/v1/payment_intents?limit=10").await, (intents.clone(), 3));
    assert_eq!(walk(&sim, "/v1/payment_intents?limit=5").await, (intents.clone(), 5));
    assert_eq!(walk(&sim, "/v1/refunds?limit=100").await, (refund_ids.clone(), 1));
    assert_eq!(walk(&sim, "/v1/refunds?limit=1").await, (refund_ids, 24));
    let of_last: Vec<_> =
        refunds.iter().filter(|(_, n)| *n == 23).map(|(id, _)| id.clone()).collect();
    let path = format!("/v1/refunds?limit=1&payment_intent={}", intents[1]);
    assert_eq!(walk(&sim, &path).await, (of_last, 2));
    let none = sim.get(&format!("/v1/refunds?payment_intent={}", intents[24])).await.ok();
    assert_eq!((ids(&none).len(), &none["has_more"]), (0, &false.into()));

    let default = sim.get("/v1/payment_intents").await.ok();
    assert_eq!(ids(&default), intents[..10]);
    assert_eq!(
        (&default["object"], &default["url"]),
        (&"list".into(), &"/v1/payment_intents".into())
    );
    let one = sim.get(&format!("/v1/payment_intents/{}", intents[3])).await.ok();
    assert_eq!(default["data"][3], one);
}

#[tokio::test]
async fn times_are_limits() {
    let sim = Sim::start(&[]).await;
    let intent = sim.charge("a", "").await.ok();
    let created = intent["created"].as_i64().unwrap();
    let count = async |query: String| {
        ids(&sim.get(&format!("/v1/payment_intents?{query}")).await.ok()).len()
    };
    assert_eq!(count(format!("created[gte]={created}&created[lte]={created}")).await, 1);
    assert_eq!(count(format!("created%5Bgte%5D={}", created + 1)).await, 0);
    assert_eq!(count(format!("created[lte]={}", created - 1)).await, 0);
    assert_eq!(count(format!("created[gte]={created}&created[lte]=5")).await, 0);
}

#[tokio::test]
async fn a_query_that_makes_no_sense_is_refused() {
    let sim = Sim::start(&[]).await;
    let intent = sim.charge("a", "").await.ok();
    let id = intent["id"].as_str().unwrap();
    for path in [
        "/v1/payment_intents?limit=0",
        "/v1/payment_intents?limit=101",
        "/v1/payment_intents?limit=x",
        "/v1/payment_intents?what=1",
        "/v1/payment_intents?payment_intent=pi_1",
        "/v1/payment_intents?starting_after=pi_1",
        "/v1/refunds?payment_intent=pi_1",
        &format!("/v1/refunds?starting_after={id}"),
    ] {
        let error = sim.get(path).await.error(400);
        assert_eq!(error["type"], "invalid_request_error", "{path}");
    }
    assert_eq!(sim.get(&format!("/v1/refunds/{id}")).await.status, 404);
}
