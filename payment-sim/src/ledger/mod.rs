//! Who was charged, and who got it back: kept in a file, and answered from memory.
//!
//! The file has one JSON object a line, [`Entry`]; a line is never changed. An effect is decided
//! under the lock of [`State`] and goes at once into the writer's queue, so that the file has the
//! order in which effects were decided. The writer takes all that waits, writes it, has it synced
//! and only then shows it to readers and to whoever waits for it: what anybody was told survives a
//! kill. Effects that wait together share a sync.
//!
//! When the file cannot be written, nothing can be promised any more: the simulator ends.

mod file;
mod list;
mod place;
mod state;
mod summary;

use std::{
    fs::File,
    io::{self, Write as _},
    path::Path,
    sync::Arc,
    thread::JoinHandle,
};

use chrono::Utc;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

pub use self::{
    file::{Contents, read},
    list::{Listed, Page},
    state::{Damage, Known, Origin, State},
    summary::Summary,
};
use crate::{
    asked::{NewIntent, NewRefund},
    effect::{Decline, Entry},
    params::Fingerprint,
    refusal::Refusal,
};

/// Effects that wait for the writer; who comes when it is full waits too.
const QUEUE_MAX: usize = 4_096;

/// The ledger of a running simulator.
pub struct Ledger {
    state: Arc<Mutex<State>>,
    queue: mpsc::Sender<Message>,
}

enum Message {
    Write(Arc<Entry>, oneshot::Sender<()>),
    Stop,
}

/// What a key means for the request that brought it.
pub enum Begun {
    /// Nothing has happened with it yet.
    New(Claim),
    /// This happened with it, and nothing else will.
    Done(Arc<Entry>),
}

/// The right to have one effect. Dropped without one, its key is free again.
pub struct Claim {
    ledger: Arc<Ledger>,
    key: Option<Box<str>>,
    params: Fingerprint,
}

impl Ledger {
    /// Opens or makes the file; `failed` is cancelled when it cannot be written any more.
    ///
    /// # Errors
    /// The file cannot be opened, belongs to another process, or makes no sense.
    pub fn open(
        path: &Path,
        failed: CancellationToken,
    ) -> anyhow::Result<(Arc<Self>, JoinHandle<()>)> {
        let (file, state) = file::open(path)?;
        Ok(Self::on(file, state, failed)?)
    }

    fn on(
        file: File,
        state: State,
        failed: CancellationToken,
    ) -> io::Result<(Arc<Self>, JoinHandle<()>)> {
        let state = Arc::new(Mutex::new(state));
        let (queue, messages) = mpsc::channel(QUEUE_MAX);
        let writer = Writer { file, state: Arc::clone(&state), messages, failed };
        let thread = std::thread::Builder::new().name("ledger".to_owned());
        let thread = thread.spawn(move || writer.run())?;
        Ok((Arc::new(Self { state, queue }), thread))
    }

    /// Begins a request with its key.
    ///
    /// # Errors
    /// The key is bound to other parameters, or the first request with it still runs.
    pub fn begin(
        self: &Arc<Self>,
        key: Option<&str>,
        params: Fingerprint,
    ) -> Result<Begun, Refusal> {
        if let Some(key) = key
            && let Known::Done(entry) = self.state.lock().claim(key, params)?
        {
            return Ok(Begun::Done(entry));
        }
        Ok(Begun::New(Claim { ledger: Arc::clone(self), key: key.map(Box::from), params }))
    }

    /// Reads what is on disk.
    pub fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock())
    }

    /// Ends the writer after what was decided until now.
    pub async fn stop(&self) {
        // Gone already when it has failed.
        let _ = self.queue.send(Message::Stop).await;
    }

    async fn write(
        &self,
        decide: impl FnOnce(&mut State) -> Result<Entry, Refusal>,
    ) -> Result<Arc<Entry>, Refusal> {
        let place = self.queue.reserve().await.map_err(|_| Refusal::LedgerFailed)?;
        let (done, written) = oneshot::channel();
        let entry = {
            // Decided and queued under one lock: the file's order is that of the decisions.
            let mut state = self.state.lock();
            let entry = Arc::new(decide(&mut state)?);
            place.send(Message::Write(Arc::clone(&entry), done));
            entry
        };
        written.await.map_err(|_| Refusal::LedgerFailed)?;
        Ok(entry)
    }
}

impl Claim {
    /// Charges, unless the card says no.
    ///
    /// # Errors
    /// The ledger cannot be written.
    pub async fn charge(
        mut self,
        new: NewIntent,
        decline: Option<Decline>,
    ) -> Result<Arc<Entry>, Refusal> {
        let ledger = Arc::clone(&self.ledger);
        ledger.write(|state| state.charge(new, decline, self.origin())).await
    }

    /// Gives back, unless the bank refuses.
    ///
    /// # Errors
    /// There is no such payment, or not so much left of it. That is not kept: what is left never
    /// grows, so the same request is refused again.
    pub async fn refund(
        mut self,
        new: NewRefund,
        is_declined: bool,
    ) -> Result<Arc<Entry>, Refusal> {
        let ledger = Arc::clone(&self.ledger);
        let key = self.key.clone();
        let refused = ledger.write(|state| state.refund(new, is_declined, self.origin())).await;
        if refused.is_err() {
            // The origin took the key along.
            self.key = key;
        }
        refused
    }

    /// From here on the key belongs to the effect and not to this claim.
    fn origin(&mut self) -> Origin {
        Origin {
            key: self.key.take(),
            params: self.params,
            at_ms: Utc::now().timestamp_millis(),
            salt: rand::random(),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(key) = &self.key {
            self.ledger.state.lock().release(key);
        }
    }
}

struct Writer {
    file: File,
    state: Arc<Mutex<State>>,
    messages: mpsc::Receiver<Message>,
    failed: CancellationToken,
}

impl Writer {
    fn run(mut self) {
        let mut lines = Vec::new();
        let mut batch = Vec::with_capacity(QUEUE_MAX);
        let mut is_stopping = false;
        while !is_stopping {
            let mut next = self.messages.blocking_recv();
            while let Some(message) = next {
                match message {
                    Message::Write(entry, done) => batch.push((entry, done)),
                    Message::Stop => is_stopping = true,
                }
                next = if batch.len() < QUEUE_MAX { self.messages.try_recv().ok() } else { None };
            }
            if batch.is_empty() {
                // Stopped, or nobody is left who could ask for anything.
                break;
            }
            if let Err(error) = self.write(&mut lines, &batch) {
                tracing::error!(%error, "the ledger cannot be written");
                self.failed.cancel();
                return;
            }
            let mut state = self.state.lock();
            for (entry, _) in &batch {
                state.publish(Arc::clone(entry));
            }
            drop(state);
            metrics::histogram!("payment_sim_ledger_batch_size").record(batch.len() as f64);
            for (_, done) in batch.drain(..) {
                // Who went away does not need to know.
                let _ = done.send(());
            }
        }
    }

    fn write(
        &mut self,
        lines: &mut Vec<u8>,
        batch: &[(Arc<Entry>, oneshot::Sender<()>)],
    ) -> io::Result<()> {
        lines.clear();
        for (entry, _) in batch {
            serde_json::to_writer(&mut *lines, entry)?;
            lines.push(b'\n');
        }
        self.file.write_all(lines)?;
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests;
