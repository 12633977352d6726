use tokio::net::UnixListener;

use super::*;

const SOON: Duration = Duration::from_secs(5);
const LATE: Duration = Duration::from_millis(100);

/// Echoes whatever comes; told of each connection that ends.
async fn echo() -> (Upstream, mpsc::UnboundedReceiver<u64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (ended, ends) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let ended = ended.clone();
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let copied = tokio::io::copy(&mut from, &mut to).await.unwrap_or_default();
                let _ = ended.send(copied);
            });
        }
    });
    (Upstream::Tcp(address), ends)
}

async fn connect(proxy: &Proxy) -> io::Result<TcpStream> {
    TcpStream::connect(("127.0.0.1", proxy.port)).await
}

/// Sends and reads back as much.
async fn exchange(stream: &mut TcpStream, text: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(text).await?;
    let mut back = vec![0; text.len()];
    tokio::time::timeout(SOON, stream.read_exact(&mut back)).await??;
    Ok(back)
}

async fn opened(proxy: &Proxy) -> TcpStream {
    let mut stream = connect(proxy).await.unwrap();
    assert_eq!(exchange(&mut stream, b"hello").await.unwrap(), b"hello");
    stream
}

/// What is read until the end, and how it ended.
async fn rest(stream: &mut TcpStream) -> (Vec<u8>, io::Result<()>) {
    let mut all = Vec::new();
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut all)).await.expect("an end");
    (all, read.map(drop))
}

#[tokio::test]
async fn passes_large_bodies_and_the_end() {
    let (upstream, mut ends) = echo().await;
    let proxy = Proxy::start(upstream).await.unwrap();
    let mut stream = opened(&proxy).await;
    let body: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let (mut from, mut to) = stream.split();
    let send = async {
        to.write_all(&body).await.unwrap();
        to.shutdown().await.unwrap();
    };
    let mut back = Vec::new();
    let (_, read) = tokio::join!(send, from.read_to_end(&mut back));
    read.unwrap();
    assert!(back == body, "other bytes came back");
    assert_eq!(ends.recv().await, Some(3_000_005));
}

#[tokio::test]
async fn forwards_to_a_unix_socket() {
    let dir = crate::stores::temp_dir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        stream.write_all(&[byte[0] + 1]).await.unwrap();
    });
    let proxy = Proxy::start(Upstream::Unix(path)).await.unwrap();
    let mut stream = connect(&proxy).await.unwrap();
    stream.write_all(b"a").await.unwrap();
    assert_eq!(rest(&mut stream).await.0, b"b");
}

#[tokio::test]
async fn refuses_and_listens_again_on_its_port() {
    let (upstream, _ends) = echo().await;
    let proxy = Proxy::start(upstream).await.unwrap();
    for _ in 0..3 {
        let mut open = opened(&proxy).await;
        proxy.set(Mode::Refuse);
        let _ = rest(&mut open).await;
        let refused = async {
            while connect(&proxy).await.is_ok() {
                tokio::task::yield_now().await;
            }
            connect(&proxy).await.unwrap_err().kind()
        };
        let kind = tokio::time::timeout(SOON, refused).await.unwrap();
        assert_eq!(kind, io::ErrorKind::ConnectionRefused);
        proxy.set(Mode::Pass);
        let again = async {
            loop {
                match connect(&proxy).await {
                    Ok(mut stream) => return exchange(&mut stream, b"again").await.unwrap(),
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        assert_eq!(tokio::time::timeout(SOON, again).await.unwrap(), b"again");
    }
}

#[tokio::test]
async fn cuts_and_resets_even_for_a_moment() {
    let (upstream, mut ends) = echo().await;
    let proxy = Proxy::start(upstream).await.unwrap();
    let mut stream = opened(&proxy).await;
    proxy.set(Mode::Cut);
    proxy.set(Mode::Pass);
    let (all, end) = rest(&mut stream).await;
    assert!(all.is_empty() && end.is_ok(), "{end:?}");
    assert_eq!(ends.recv().await, Some(5), "the server is told too");

    let mut stream = opened(&proxy).await;
    proxy.set(Mode::Reset);
    let end = rest(&mut stream).await.1;
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let mut late = connect(&proxy).await.unwrap();
    rest(&mut late).await.1.unwrap_err();
    proxy.set(Mode::Pass);
    opened(&proxy).await;
}

#[tokio::test]
async fn a_black_hole_holds_everything_back_until_it_ends() {
    let (upstream, _ends) = echo().await;
    let proxy = Proxy::start(upstream).await.unwrap();
    let mut open = opened(&proxy).await;
    proxy.set(Mode::BlackHole);
    let mut late = connect(&proxy).await.unwrap();
    for stream in [&mut open, &mut late] {
        stream.write_all(b"held").await.unwrap();
        let mut byte = [0];
        let read = tokio::time::timeout(LATE, stream.read(&mut byte)).await;
        assert!(read.is_err(), "{read:?}");
    }
    proxy.set(Mode::Pass);
    for mut stream in [open, late] {
        let mut back = [0; 4];
        tokio::time::timeout(SOON, stream.read_exact(&mut back)).await.unwrap().unwrap();
        assert_eq!(&back, b"held");
    }
}

#[tokio::test]
async fn requests_arrive_whose_replies_are_dropped() {
    let (upstream, mut ends) = echo().await;
    let proxy = Proxy::start(upstream).await.unwrap();
    let mut stream = opened(&proxy).await;
    proxy.set(Mode::DropReplies);
    stream.write_all(b"lost").await.unwrap();
    let mut byte = [0];
    assert!(tokio::time::timeout(LATE, stream.read(&mut byte)).await.is_err());
    proxy.set(Mode::Pass);
    let (all, _) = rest(&mut stream).await;
    assert!(all.is_empty(), "an answer after one that was lost: {all:?}");
    assert_eq!(ends.recv().await, Some(9), "the request was taken");
}

#[tokio::test]
async fn delays_each_way_and_keeps_the_order() {
    let (upstream, _ends) = echo().await;
    let proxy = Proxy::start(upstream).await.unwrap();
    let mut stream = opened(&proxy).await;
    proxy.set(Mode::Delay(LATE));
    let started = Instant::now();
    for n in 0..50_u8 {
        stream.write_all(&[n]).await.unwrap();
        tokio::task::yield_now().await;
    }
    // What comes after it waits behind what is late.
    proxy.set(Mode::Pass);
    stream.write_all(&[50]).await.unwrap();
    let mut back = [0; 51];
    tokio::time::timeout(SOON, stream.read_exact(&mut back)).await.unwrap().unwrap();
    assert!(back.iter().copied().eq(0..51));

    proxy.set(Mode::Delay(LATE));
    let begun = Instant::now();
    assert_eq!(exchange(&mut stream, b"there and back").await.unwrap(), b"there and back");
    assert!(begun.elapsed() >= LATE * 2, "{:?}", begun.elapsed());
    assert!(started.elapsed() >= LATE * 2);
}

#[tokio::test]
async fn cuts_after_so_many_bytes() {
    let (upstream, _ends) = echo().await;
    let proxy = Proxy::start(upstream).await.unwrap();
    let mut stream = opened(&proxy).await;
    for bytes in [3, 20_000] {
        proxy.set(Mode::CutAfter(bytes));
        let mut body = vec![b'x'; 30_000];
        body[0] = b'y';
        // The proxy may be gone before all of it is sent.
        let _ = stream.write_all(&body).await;
        let mut got = Vec::new();
        let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut got)).await.expect("an end");
        assert_eq!(got.len() as u64, bytes);
        proxy.set(Mode::Pass);
        stream = opened(&proxy).await;
    }
}

/// Sends, and sees nothing come back within a moment.
async fn is_silent(stream: &mut TcpStream) -> bool {
    stream.write_all(b"lost").await.unwrap();
    let mut byte = [0];
    tokio::time::timeout(LATE, stream.read(&mut byte)).await.is_err()
}

#[tokio::test]
async fn silence_is_for_ever_and_for_those_that_exist() {
    let (upstream, mut ends) = echo().await;
    let proxy = Proxy::start(upstream).await.unwrap();
    let mut old = opened(&proxy).await;
    proxy.set(Mode::Silent);
    let mut new = opened(&proxy).await;
    assert!(is_silent(&mut old).await);
    proxy.set(Mode::Pass);
    assert!(is_silent(&mut old).await, "bytes after others that were lost");
    assert_eq!(proxy.carrying(), 1);
    assert_eq!(exchange(&mut new, b"works").await.unwrap(), b"works");
    drop(new);
    assert_eq!(ends.recv().await, Some(10));
    drop(old);
    let told = tokio::time::timeout(LATE, ends.recv()).await;
    assert!(told.is_err(), "the server of a silent link is told of its end");
    proxy.set(Mode::Cut);
    assert_eq!(ends.recv().await, Some(5), "until the link is cut; and nothing was forwarded");
}

#[tokio::test]
async fn where_all_are_silent_new_ones_are_too() {
    let (upstream, _ends) = echo().await;
    let proxy = Proxy::start(upstream).await.unwrap();
    let mut old = opened(&proxy).await;
    proxy.set(Mode::SilentAll);
    let mut new = connect(&proxy).await.unwrap();
    assert!(is_silent(&mut old).await && is_silent(&mut new).await);
    proxy.set(Mode::Pass);
    assert!(is_silent(&mut new).await);
    opened(&proxy).await;
}

#[tokio::test]
async fn one_kind_of_connection_is_made_silent_by_what_it_said() {
    let (upstream, _ends) = echo().await;
    let proxy = Proxy::start(upstream).await.unwrap();
    let (mut one, mut other) = (opened(&proxy).await, opened(&proxy).await);
    exchange(&mut one, b"SUBSCRIBE x").await.unwrap();
    assert_eq!(proxy.silence("SUBSCRIBE"), 1);
    assert!(is_silent(&mut one).await);
    assert_eq!(exchange(&mut other, b"works").await.unwrap(), b"works");
    assert_eq!(proxy.silence("SUBSCRIBE"), 0, "those that are silent already do not count");
}
