//! Following the current positions, with a live Redis that answers only in part.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use chrono::TimeDelta;
use logistics::{current::Current, tracking::Hub};
use platform::{health::Health, redis::Redis};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::world::until;

/// An index that follows the channels until `stop`, loaded when `loaded` is.
struct Following {
    stop: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Following {
    fn start(live: Redis, shards: u16) -> Self {
        let current = Arc::new(Current::new(Arc::new(Hub::new()), TimeDelta::seconds(60)));
        let (loaded, stop) = (CancellationToken::new(), CancellationToken::new());
        let dependency = Health::new("test").dependency("live");
        let running = tokio::spawn({
            let stop = stop.clone();
            async move { current.follow(live, shards, dependency, loaded, stop).await }
        });
        Self { stop, running }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_a_subscription_is_left() {
    /// Answers what a client says of itself, but no subscription.
    async fn serve(mut client: TcpStream, subscriptions: Arc<AtomicU32>) {
        let mut bytes = vec![0; 4_096];
        while let Ok(read @ 1..) = client.read(&mut bytes).await {
            let said = String::from_utf8_lossy(&bytes[..read]).into_owned();
            for _ in said.matches("SETINFO") {
                let _ = client.write_all(b"+OK\r\n").await;
            }
            subscriptions.fetch_add(said.matches("SUBSCRIBE").count() as u32, Ordering::Relaxed);
        }
    }

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let subscriptions = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&subscriptions);
    let serving = tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(client, Arc::clone(&counter)));
        }
    });
    let following = Following::start(Redis::open(&url.into()).unwrap(), 2);
    until("it is tried again", async || subscriptions.load(Ordering::Relaxed) >= 2).await;
    following.stop().await;
    serving.abort();
}
