use futures_util::FutureExt as _;
use proptest::prelude::*;

use super::{pack::ENTRY_POSITIONS_MAX, *};

fn requests(sizes: &[usize]) -> Vec<Request> {
    let mut seq = 0;
    let mut position = || {
        let mut position = Position::decode(&[1; 64]).unwrap();
        position.seq = seq;
        seq += 1;
        position
    };
    sizes
        .iter()
        .map(|size| Request {
            positions: (0..*size).map(|_| position()).collect(),
            reply: oneshot::channel().0,
        })
        .collect()
}

proptest! {
    #[test]
    fn packing_keeps_every_position_where_the_receipt_says(
        sizes in prop::collection::vec(1_usize..600, 1..20),
    ) {
        let batch = requests(&sizes);
        let packed = pack(&batch);
        let total: usize = sizes.iter().sum();
        prop_assert_eq!(packed.entries.len(), total.div_ceil(ENTRY_POSITIONS_MAX));
        let read: Vec<Vec<Position>> = packed
            .entries
            .iter()
            .map(|entry| {
                contracts::position::read_entry(entry).unwrap().map(Result::unwrap).collect()
            })
            .collect();
        let flat: Vec<Position> = read.iter().flatten().copied().collect();
        let sent: Vec<Position> =
            batch.iter().flat_map(|request| request.positions.iter().copied()).collect();
        prop_assert_eq!(flat, sent);
        for (request, place) in batch.iter().zip(&packed.places) {
            let entry = &read[place.entries.start];
            prop_assert_eq!(entry[place.first as usize], request.positions[0]);
            let last = read[place.entries.end - 1].contains(request.positions.last().unwrap());
            prop_assert!(last);
        }
    }
}

#[test]
fn a_request_is_refused_when_any_of_its_entries_is() {
    let (id, refused) = (Value::BulkString(b"5-1".to_vec()), Value::SimpleString("OOM".to_owned()));
    let mut batch = requests(&[ENTRY_POSITIONS_MAX, 2 * ENTRY_POSITIONS_MAX, 1]);
    let packed = pack(&batch);
    let answers: Vec<_> = batch
        .iter_mut()
        .map(|request| {
            let (reply, answer) = oneshot::channel();
            request.reply = reply;
            answer
        })
        .collect();
    answer(batch, &packed.places, vec![id.clone(), id.clone(), refused, id]);
    let told: Vec<_> =
        answers.into_iter().map(|mut answer| answer.try_recv().unwrap().is_ok()).collect();
    assert_eq!(told, [true, false, true]);
}

#[tokio::test]
async fn positions_that_wait_are_bounded_whatever_the_number_of_requests() {
    let redis = platform::redis::Redis::open(&"redis://127.0.0.1:1".to_owned().into()).unwrap();
    let dependency = platform::health::Health::new("test").dependency("queue");
    let (appender, mut writer) = appender(redis.connection().unwrap(), 1, u64::MAX, dependency);
    let position = Position::decode(&[1; 64]).unwrap();
    // Nobody takes them.
    let offer = |count: usize| {
        let positions = vec![position; count];
        appender.append(&positions).now_or_never()
    };
    for _ in 0..POSITIONS_WAITING_MAX / 500 {
        assert_eq!(offer(500), None, "it waits");
    }
    assert_eq!(offer(500), Some(Err(AppendError::Busy)));
    assert_eq!(offer(1), None, "what has room is not refused for what has none");
    assert!(writer.take(&mut Vec::new()).await > 0);
    assert_eq!(offer(500), None);
}
