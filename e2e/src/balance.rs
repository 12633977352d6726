//! A small balancer: new connections go to a process that is ready, as in front of real copies.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::service::is_ready;

/// Readiness is looked at this often; what happens in between is met by trying the next copy.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Listens until it is dropped.
pub(crate) struct Balancer {
    pub(crate) port: u16,
    copies: Arc<Mutex<Vec<u16>>>,
    tasks: [JoinHandle<()>; 2],
}

impl Balancer {
    /// Starts to listen on a free port; `copies` are the ports behind it.
    pub(crate) async fn start(copies: Vec<u16>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let ready = Arc::new(Mutex::new(copies.clone()));
        let copies = Arc::new(Mutex::new(copies));
        let tasks = [
            tokio::spawn(watch(Arc::clone(&copies), Arc::clone(&ready))),
            tokio::spawn(accept(listener, ready)),
        ];
        Ok(Self { port, copies, tasks })
    }

    /// Replaces the ports behind it.
    pub(crate) fn set(&self, copies: Vec<u16>) {
        *self.copies.lock().unwrap_or_else(PoisonError::into_inner) = copies;
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn of(ports: &Mutex<Vec<u16>>) -> Vec<u16> {
    ports.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

async fn watch(copies: Arc<Mutex<Vec<u16>>>, ready: Arc<Mutex<Vec<u16>>>) {
    loop {
        let mut up = Vec::new();
        for port in of(&copies) {
            if is_ready(port).await {
                up.push(port);
            }
        }
        *ready.lock().unwrap_or_else(PoisonError::into_inner) = up;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn accept(listener: TcpListener, ready: Arc<Mutex<Vec<u16>>>) {
    let turn = AtomicUsize::new(0);
    loop {
        let Ok((mut client, _)) = listener.accept().await else { continue };
        let mut ports = of(&ready);
        let first = turn.fetch_add(1, Ordering::Relaxed);
        if !ports.is_empty() {
            let first = first % ports.len();
            ports.rotate_left(first);
        }
        tokio::spawn(async move {
            let _ = client.set_nodelay(true);
            for port in ports {
                if let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await {
                    let _ = server.set_nodelay(true);
                    // How a connection ends is told to both sides by its ending.
                    let _ = copy_bidirectional(&mut client, &mut server).await;
                    return;
                }
            }
        });
    }
}
