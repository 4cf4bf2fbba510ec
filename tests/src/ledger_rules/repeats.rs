//! What a resubmitted, redelivered, conflicting or foreign id gets: each row of the table.

use bytes::Bytes;
use futures_util::future::join_all;
use hearth_worker::ledger::{
    Begun, Cancel, Commit, HEARTBEAT_LAPSES_AFTER, Ledger, Registered, Registration, Token,
};

use super::{Backing, begin, due_in, failed, job};

/// Bytes that are no text.
const RESULT: &[u8] = b"{\"id\":1}\x00\xff\r\n";

async fn commit(ledger: &impl Ledger, token: &Token, result: &'static [u8]) -> Commit {
    ledger.commit(token, Bytes::from_static(result)).await.unwrap()
}

/// The first request runs; the same request later gets the stored bytes.
pub async fn a_job_is_begun_committed_published_and_remembered<B: Backing>(backing: B) {
    let [one, two] = backing.ledgers();
    let key = job("t", "1");
    match one.begin(&key, "digest", "w").await.unwrap() {
        Begun::Begun { token, history, cancelled: false } => {
            assert_eq!((token.key.clone(), history.len()), (key.clone(), 0));
            assert_eq!(commit(one, &token, RESULT).await, Commit::Committed);
        }
        other => panic!("{other:?}"),
    }
    one.published(&key, "r").await.unwrap();
    one.published(&key, "r").await.unwrap();
    let done = Bytes::from_static(RESULT);
    assert_eq!(
        two.begin(&key, "digest", "x").await.unwrap(),
        Begun::Done { result: done.clone(), told: "r".into() }
    );
    assert_eq!(two.register(&key, "digest", &Registration::default()).await.unwrap(), Registered::Done(done));
    assert_eq!(two.running("t").await.unwrap(), 0);
    two.published(&job("t", "unknown"), "r").await.unwrap();
}

/// A second delivery does not run what runs.
pub async fn a_redelivery_while_the_job_runs_waits<B: Backing>(backing: B) {
    let [one, two] = backing.ledgers();
    let key = job("t", "1");
    begin(one, &key, "w").await;
    for ledger in [one, two] {
        let Begun::Held { lapses_in } = ledger.begin(&key, "digest", "x").await.unwrap() else {
            panic!("run twice")
        };
        assert!(lapses_in <= HEARTBEAT_LAPSES_AFTER && !lapses_in.is_zero());
    }
    let again = two.register(&key, "digest", &due_in(1000)).await.unwrap();
    assert!(matches!(again, Registered::Held { .. }), "{again:?}");
}

/// A delivery after a crash between commit and publish is told what to publish.
pub async fn a_redelivery_after_the_commit_gets_the_same_bytes<B: Backing>(backing: B) {
    let [one, two] = backing.ledgers();
    let key = job("t", "1");
    let token = begin(one, &key, "w").await;
    assert_eq!(commit(one, &token, RESULT).await, Commit::Committed);
    let committed = Bytes::from_static(RESULT);
    assert_eq!(two.begin(&key, "digest", "x").await.unwrap(), Begun::Committed(committed.clone()));
    let again = two.register(&key, "digest", &Registration::default()).await.unwrap();
    assert_eq!(again, Registered::Committed(committed));
}

/// Two messages for one job that waits are one job, on the first one's registration.
pub async fn a_resubmission_of_a_waiting_job_changes_nothing<B: Backing>(backing: B) {
    let [one, two] = backing.ledgers();
    let key = job("t", "1");
    let waiting = Registered::Waiting { cancelled: false, shard: 0 };
    assert_eq!(one.register(&key, "digest", &due_in(60_000)).await.unwrap(), waiting);
    let later = Registration { route: "another".into(), ..due_in(-1000) };
    assert_eq!(two.register(&key, "digest", &later).await.unwrap(), waiting);
    assert_eq!(two.overdue(10).await.unwrap(), [], "the first deadline counts");
    let token = begin(two, &key, "w").await;
    assert_eq!(commit(two, &token, RESULT).await, Commit::Committed);
    let found = one.unpublished(Default::default(), 10).await.unwrap();
    assert_eq!(found[0].route, due_in(0).route, "the first route counts");
}

/// An id is for one request.
pub async fn another_request_with_the_same_id_is_a_conflict_at_every_stage<B: Backing>(backing: B) {
    let [one, two] = backing.ledgers();
    let key = job("t", "1");
    let conflicts = async || {
        let begun = two.begin(&key, "other", "x").await.unwrap();
        let registered = two.register(&key, "other", &Registration::default()).await.unwrap();
        begun == Begun::Conflict && registered == Registered::Conflict
    };
    one.register(&key, "digest", &Registration::default()).await.unwrap();
    assert!(conflicts().await, "waiting");
    let token = begin(one, &key, "w").await;
    assert!(conflicts().await, "held");
    one.give_back(&token, failed("w", true)).await.unwrap();
    assert!(conflicts().await, "given back");
    let token = begin(one, &key, "w").await;
    assert_eq!(commit(one, &token, RESULT).await, Commit::Committed);
    assert!(conflicts().await, "committed");
    one.published(&key, "r").await.unwrap();
    assert!(conflicts().await, "done");
    assert_eq!(
        one.begin(&key, "digest", "w").await.unwrap(),
        Begun::Done { result: Bytes::from_static(RESULT), told: "r".into() }
    );
}

/// Tenants do not see each other's jobs.
pub async fn the_same_id_of_another_tenant_is_another_job<B: Backing>(backing: B) {
    let [one, two] = backing.ledgers();
    let (mine, theirs) = (job("mine", "1"), job("theirs", "1"));
    let token = begin(one, &mine, "w").await;
    assert_eq!(commit(one, &token, RESULT).await, Commit::Committed);
    one.published(&mine, "r").await.unwrap();
    match two.begin(&theirs, "another digest", "x").await.unwrap() {
        Begun::Begun { token, cancelled: false, .. } => {
            assert_eq!(one.cancel(&mine).await.unwrap(), Cancel::TooLate);
            assert_eq!(commit(two, &token, b"theirs").await, Commit::Committed);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        one.begin(&mine, "digest", "w").await.unwrap(),
        Begun::Done { result: Bytes::from_static(RESULT), told: "r".into() }
    );
    let stolen = Token { key: theirs.clone(), ..token };
    assert_eq!(commit(one, &stolen, b"stolen").await, Commit::Lost);
    let kept = two.begin(&theirs, "another digest", "x").await.unwrap();
    assert_eq!(kept, Begun::Committed(Bytes::from_static(b"theirs")));
}

/// A commit may be repeated; nothing changes a result.
pub async fn the_first_result_stays<B: Backing>(backing: B) {
    let [one, two] = backing.ledgers();
    let key = job("t", "1");
    let token = begin(one, &key, "w").await;
    for ledger in [one, two] {
        assert_eq!(commit(ledger, &token, RESULT).await, Commit::Committed);
    }
    assert_eq!(two.begin(&key, "digest", "x").await.unwrap(), Begun::Committed(Bytes::from_static(RESULT)));
    one.published(&key, "r").await.unwrap();
    assert_eq!(commit(one, &token, RESULT).await, Commit::Committed, "an answer that was lost for long");
    let forged = Token { number: token.number + 1, ..token };
    assert_eq!(commit(one, &forged, b"another").await, Commit::Lost);
    assert_eq!(
        two.begin(&key, "digest", "x").await.unwrap(),
        Begun::Done { result: Bytes::from_static(RESULT), told: "r".into() }
    );
}

/// However many deliveries there are, one runs.
pub async fn of_many_begins_at_once_one_is_granted<B: Backing>(backing: B) {
    let [one, two] = backing.ledgers();
    let key = job("t", "1");
    let begin = async |ledger: &B::Ledger| ledger.begin(&key, "digest", "w").await.unwrap();
    let begun = join_all((0..32).map(|n| begin(if n % 2 == 0 { one } else { two }))).await;
    let granted = begun.iter().filter(|b| matches!(b, Begun::Begun { .. })).count();
    let held = begun.iter().filter(|b| matches!(b, Begun::Held { .. })).count();
    assert_eq!((granted, held), (1, 31));
}
