use loadtest::menu::{What, body::Availability, check::Start, choose::Habits, write::Place};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;
use crate::demo::figures::read;

#[test]
fn an_answer_to_a_write_is_a_version_or_a_reason() {
    let end = |status, body: &str| end_of_write(status, body.as_bytes(), 7);
    let good = r#"{"success":true,"restaurant_id":7,"version":9}"#;
    assert_eq!(end(200, good), Ok(End::Made(9)));
    assert_eq!(end(404, ""), Ok(End::Refused));
    assert_eq!(end(408, ""), Ok(End::Unknown));
    assert_eq!(end(503, ""), Ok(End::Unknown));
    assert!(end(200, &good.replace(":7", ":8")).is_err());
    assert!(end(200, &good.replace("true", "false")).is_err());
    assert!(end(200, "{}").is_err());
}

/// A service with one restaurant at version 8 that answers what it is told to, one by one.
async fn town(answers: Vec<String>) -> Town {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        for answer in answers {
            let mut request = vec![0; 4_096];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let items = vec![(1, Availability { available: true, in_stock: true })];
    let start = Start { menu: 8, menu_with_status: 8, items, ..Start::default() };
    let tokens = [String::new(), String::new()];
    let place = Place { restaurant: 0, id: 7, items: vec![1], tokens };
    let habits = Habits { what: What::Menu, writes: 0.0, revalidate: 0.0, cold: false, seed: 1 };
    let world = World {
        ids: vec![7],
        queries: vec!["?near=1,2".into()],
        starts: vec![(0, start)],
        operators: Operators::new(vec![place], SmallRng::seed_from_u64(1)),
        chooser: Chooser::new(habits, 1, 1),
    };
    Town::new(Target::parse(&url).unwrap(), world, 1, Arc::new(Figures::new()))
}

fn answer(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nx-cache: hit\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn menu(version: i64) -> String {
    answer(&format!(r#"{{"restaurant_id":7,"version":{version},"categories":[]}}"#))
}

const MENU: Errand =
    Errand::Read { restaurant: 0, document: Document::Menu, revalidate: false, thorough: false };

#[tokio::test]
async fn what_is_older_than_an_answered_write_is_told() {
    let written = answer(r#"{"success":true,"restaurant_id":7,"version":9}"#);
    let town = town(vec![menu(8), written, menu(8)]).await;
    town.run(MENU).await;
    assert_eq!(read(&town.figures.menus.violations), 0, "{:?}", town.findings());
    let (operator, _) = town.desk.lock().operators.next(false).unwrap();
    town.run(Errand::Write(operator)).await;
    town.run(MENU).await;
    assert_eq!(town.findings().older, 1, "{:?}", town.findings());
    let figures = &town.figures.menus;
    let counters = [&figures.reads, &figures.from_memory, &figures.writes, &figures.failed];
    assert_eq!(counters.map(read), [2, 2, 1, 0]);
    assert!(read(&figures.violations) > 0);
    let notes = town.figures.notes(5);
    assert!(notes.iter().any(|note| note.starts_with("menus: ")), "{notes:?}");
}

#[tokio::test]
async fn what_fails_is_counted_and_frees_the_operator() {
    let town = town(vec!["HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n".into()]).await;
    town.run(Errand::List(0)).await;
    // The service hangs up, and nobody listens any more; the restaurant has two operators.
    for _ in 0..3 {
        let (operator, _) = town.desk.lock().operators.next(false).expect("a free operator");
        town.run(Errand::Write(operator)).await;
    }
    town.run(MENU).await;
    let figures = &town.figures.menus;
    assert_eq!([&figures.lists, &figures.writes, &figures.failed].map(read), [0, 0, 5]);
    assert_eq!(town.findings().violations, 0, "{:?}", town.findings());
}

#[tokio::test]
async fn some_errands_are_lists() {
    let town = town(Vec::new()).await;
    let lists = (0..100).filter(|_| matches!(town.next(), Some(Errand::List(0)))).count();
    assert_eq!(lists as u64, 100 / LIST_EVERY);
}
