use hearth_schemas::result::{Millis, Step};

use super::*;

fn key() -> JobKey {
    JobKey { tenant: "t".into(), id: "1".into() }
}

async fn begin(ledger: &MemoryLedger) -> Token {
    match ledger.begin(&key(), "d", "w").await.unwrap() {
        Begun::Begun { token, .. } => token,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_owner_is_taken_over_and_its_commit_is_lost() {
    let ledger = MemoryLedger::default();
    let first = begin(&ledger).await;
    let held = ledger.begin(&key(), "d", "x").await.unwrap();
    assert_eq!(held, Begun::Held { lapses_in: HEARTBEAT_LAPSES_AFTER });
    tokio::time::advance(HEARTBEAT_LAPSES_AFTER).await;
    let Begun::Begun { token: second, history, .. } = ledger.begin(&key(), "d", "x").await.unwrap() else {
        panic!("not taken over")
    };
    assert_eq!((history.len(), history[0].worker.as_str()), (1, "w"));
    assert_eq!(ledger.heartbeat(&first).await.unwrap(), Beat::Lost);
    assert_eq!(ledger.commit(&first, "old".into()).await.unwrap(), Commit::Lost);
    assert_eq!(ledger.commit(&second, "new".into()).await.unwrap(), Commit::Committed);
    assert_eq!(ledger.begin(&key(), "d", "w").await.unwrap(), Begun::Committed("new".into()));
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_holds_the_job() {
    let ledger = MemoryLedger::default();
    let token = begin(&ledger).await;
    for _ in 0..20 {
        tokio::time::advance(HEARTBEAT_LAPSES_AFTER / 2).await;
        assert_eq!(ledger.heartbeat(&token).await.unwrap(), Beat::Ours);
    }
    assert!(matches!(ledger.begin(&key(), "d", "x").await.unwrap(), Begun::Held { .. }));
}

#[tokio::test]
async fn the_first_result_stays_and_the_same_token_may_repeat_itself() {
    let ledger = MemoryLedger::default();
    let token = begin(&ledger).await;
    assert_eq!(ledger.commit(&token, "r".into()).await.unwrap(), Commit::Committed);
    assert_eq!(ledger.commit(&token, "r".into()).await.unwrap(), Commit::Committed);
    ledger.published(&key(), "r").await.unwrap();
    ledger.published(&key(), "r").await.unwrap();
    assert_eq!(
        ledger.begin(&key(), "d", "w").await.unwrap(),
        Begun::Done { result: "r".into(), told: "r".into() }
    );
    assert_eq!(ledger.begin(&key(), "other", "w").await.unwrap(), Begun::Conflict);
    assert_eq!(ledger.cancel(&key()).await.unwrap(), Cancel::TooLate);
}

#[tokio::test]
async fn a_cancel_is_seen_by_the_owner_and_by_the_next_begin() {
    let ledger = MemoryLedger::default();
    let token = begin(&ledger).await;
    assert_eq!(ledger.cancel(&key()).await.unwrap(), Cancel::Marked);
    assert_eq!(ledger.heartbeat(&token).await.unwrap(), Beat::Cancelled);
    let failed = FailedAttempt {
        worker: "w".into(),
        step: Step::Claim,
        message: "none".into(),
        failed_unix_ms: 0,
        took_ms: Millis::default(),
        counted: false,
    };
    assert_eq!(ledger.give_back(&token, failed).await.unwrap(), Beat::Cancelled);
    let again = ledger.begin(&key(), "d", "w").await.unwrap();
    assert!(matches!(again, Begun::Begun { cancelled: true, ref history, .. } if history.len() == 1));
}

#[tokio::test]
async fn results_are_forgotten_the_oldest_first() {
    let ledger = MemoryLedger::default();
    let key = |n: usize| JobKey { tenant: "t".into(), id: n.to_string() };
    for n in 0..=RESULTS_MAX {
        let Begun::Begun { token, .. } = ledger.begin(&key(n), "d", "w").await.unwrap() else { panic!() };
        ledger.commit(&token, Bytes::new()).await.unwrap();
        ledger.published(&key(n), "r").await.unwrap();
    }
    assert!(ledger.state().jobs.len() < RESULTS_MAX);
    let newest = ledger.begin(&key(RESULTS_MAX), "d", "w").await.unwrap();
    assert_eq!(newest, Begun::Done { result: Bytes::new(), told: "r".into() });
}
