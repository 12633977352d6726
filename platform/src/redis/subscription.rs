//! Subscriptions that notice when nothing can arrive any more.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::{Stream, StreamExt as _, stream::BoxStream};
use redis::{
    Msg, RedisResult, ToRedisArgs,
    aio::{PubSub, PubSubSink},
};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::{
    link::{SILENT_MAX, Work, until_silent},
    timed_out,
};

/// The messages of channels, as a stream that ends with its connection. A connection on which
/// nothing is said is pinged, as one that is dead would be silent, too.
pub struct Subscription {
    sink: PubSubSink,
    messages: BoxStream<'static, Msg>,
}

impl Subscription {
    pub(super) fn new(pubsub: PubSub) -> Self {
        let (sink, messages) = pubsub.split();
        let pinged = sink.clone();
        let silent = AbortOnDropHandle::new(tokio::spawn(async move {
            let error = until_silent(|| {
                let mut sink = pinged.clone();
                async move { sink.ping().await }
            });
            if error.await.is_timeout() {
                Work::Subscription.silent().increment(1);
                tracing::warn!("a subscription to Redis is silent, giving it up");
            }
        }));
        Self { sink, messages: messages.take_until(silent).boxed() }
    }

    /// Subscribes to more channels.
    ///
    /// # Errors
    /// The connection is broken or silent.
    pub async fn subscribe(&mut self, channels: impl ToRedisArgs) -> RedisResult<()> {
        let subscribing = timeout(SILENT_MAX, self.sink.subscribe(channels)).await;
        subscribing.unwrap_or_else(|_| Err(timed_out()))
    }
}

impl Stream for Subscription {
    type Item = Msg;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Msg>> {
        self.messages.poll_next_unpin(context)
    }
}
