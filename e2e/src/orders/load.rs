//! Orders, so many a second.

use std::{collections::BTreeMap, time::Duration};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use super::buy::{Bought, Fate, Placed, Shop};

/// Orders under way at once; beyond it no new ones begin.
const UNDER_WAY_MAX: usize = 2_000;

/// What became of all orders of a load.
#[derive(Debug, Default)]
pub(super) struct Orders {
    pub(super) placed: Vec<Placed>,
    /// Answers before the 202, by status; 0 is no answer.
    pub(super) refused: BTreeMap<u16, u32>,
    pub(super) odd: Vec<String>,
    pub(super) slowest: Duration,
}

impl Orders {
    pub(super) fn add(&mut self, bought: Bought) {
        self.placed.extend(bought.placed);
        for (status, count) in bought.refused {
            *self.refused.entry(status).or_default() += count;
        }
        self.odd.extend(bought.odd);
        self.slowest = self.slowest.max(bought.took);
    }

    /// Why orders were sent again, and how often.
    pub(super) fn repeats(&self) -> String {
        let name = |status: u16| if status == 0 { "no answer".into() } else { status.to_string() };
        let all = self.refused.iter().map(|(status, count)| format!("{} {count}", name(*status)));
        all.collect::<Vec<_>>().join(", ")
    }
}

/// A load under way.
pub(super) struct Load {
    stop: watch::Sender<bool>,
    task: JoinHandle<Orders>,
}

impl Load {
    /// Starts to order, each order as another customer. `fates` is what becomes of a hundred.
    pub(super) fn start(
        shop: Shop,
        customers: std::ops::Range<i64>,
        rate: u32,
        fates: &'static [(Fate, u32)],
        seed: u64,
    ) -> Self {
        let (stop, mut stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut orders = Orders::default();
            let mut under_way = JoinSet::new();
            let mut due = tokio::time::interval(Duration::from_secs(1) / rate.max(1));
            for customer in customers {
                tokio::select! {
                    _ = due.tick() => {}
                    _ = stopped.wait_for(|stop| *stop) => break,
                }
                while let Some(ended) = under_way.try_join_next() {
                    orders.add(ended.unwrap_or_default());
                }
                if under_way.len() >= UNDER_WAY_MAX {
                    orders.odd.push(format!("{UNDER_WAY_MAX} orders are under way"));
                    break;
                }
                let (shop, fate, seed) = (shop.clone(), draw(fates, &mut rng), rng.random());
                under_way.spawn(async move { shop.buy(customer, fate, seed).await });
            }
            while let Some(ended) = under_way.join_next().await {
                orders.add(ended.unwrap_or_default());
            }
            orders
        });
        Self { stop, task }
    }

    /// Orders no more, and answers when the last order is answered.
    pub(super) async fn conclude(mut self) -> anyhow::Result<Orders> {
        self.stop.send_replace(true);
        Ok((&mut self.task).await?)
    }
}

impl Drop for Load {
    /// A round that ends with an error must not order in the next one.
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One of the fates; who has none is left alone.
fn draw(fates: &[(Fate, u32)], rng: &mut StdRng) -> Fate {
    let mut drawn = rng.random_range(0..100_u32);
    for (fate, percent) in fates {
        match drawn.checked_sub(*percent) {
            None => return *fate,
            Some(left) => drawn = left,
        }
    }
    Fate::Stays
}
