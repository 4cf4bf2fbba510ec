//! What the driver does not do by itself, each once as it is and once as Hearth uses it.

use std::time::Duration;

use hearth_pool::{
    lease::{LeaseError, LeaseStore, Release, redis::RedisLeases},
    redis_server::{RedisConfig, RedisServer, ServerError, script},
};
use hearth_tests::{
    redis::{Line, RealRedis, Weather},
    wait::{until, until_some},
};
use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

use crate::leases::{Shared, config, settled};

async fn admin(connection: &mut MultiplexedConnection, command: &str) {
    let mut words = command.split(' ');
    let mut cmd = redis::cmd(words.next().unwrap());
    cmd.arg(words.collect::<Vec<_>>()).exec_async(connection).await.unwrap();
}

async fn held(connection: &mut MultiplexedConnection) -> u64 {
    redis::cmd("HLEN").arg("hearth:lease:host:held").query_async(connection).await.unwrap()
}

/// A store that asks over a line, and does not wait long for an answer.
fn over(line: &Line, identities: u32) -> RedisLeases {
    let config_of =
        RedisConfig { response_timeout: Duration::from_millis(300), ..RedisConfig::new(line.url()) };
    let mut leases = config("host", identities);
    leases.ttl = Duration::from_secs(60);
    RedisLeases::new(RedisServer::new(config_of).unwrap(), leases)
}

#[tokio::test]
async fn an_answer_that_takes_longer_than_the_drivers_500_ms_is_waited_for() {
    let Some(Shared(redis)) = settled().await else { return };
    let store = RedisLeases::new(redis.server(), config("host", 2));
    let lease = store.acquire("before").await.unwrap();
    let (mut aside, mut plain) = (redis.aside().await, redis.aside().await);
    admin(&mut aside, "CLIENT PAUSE 1200 ALL").await;
    let paused = Instant::now();
    let (ping, batch) = (redis::cmd("PING"), [lease.identity]);
    let bare = ping.exec_async(&mut plain);
    let (bare, renewed, acquired) = tokio::join!(bare, store.renew(&batch), store.acquire("while"));
    assert!(bare.unwrap_err().is_timeout(), "the trap is there");
    assert!(paused.elapsed() > Duration::from_secs(1), "the pause was real");
    renewed.unwrap();
    acquired.unwrap();
}

#[tokio::test]
async fn a_broken_connection_is_replaced_before_the_caller_notices() {
    let Some(Shared(redis)) = settled().await else { return };
    let store = RedisLeases::new(redis.server(), config("host", 8));
    store.acquire("before").await.unwrap();
    let (mut aside, mut plain) = (redis.aside().await, redis.aside().await);
    for round in 0..5 {
        admin(&mut aside, "CLIENT KILL TYPE normal").await;
        store.acquire(&format!("after {round}")).await.unwrap();
    }
    assert!(redis::cmd("PING").exec_async(&mut plain).await.is_err(), "the trap is there");
}

#[tokio::test]
async fn a_script_that_the_server_forgot_is_loaded_again() {
    let Some(Shared(mut redis)) = settled().await else { return };
    let store = RedisLeases::new(redis.server(), config("host", 2));
    let lease = store.acquire("before").await.unwrap();
    admin(&mut redis.aside().await, "SCRIPT FLUSH").await;
    store.renew(&[lease.identity]).await.unwrap();
    redis.restart().await;
    assert_eq!(store.acquire("before").await.unwrap().identity, lease.identity);
    assert_eq!(store.release(&lease.identity).await.unwrap(), Release::Released);
}

#[tokio::test]
async fn a_request_whose_answer_is_lost_leases_once() {
    let Some(Shared(redis)) = settled().await else { return };
    let line = Line::to(redis.port()).await;
    let store = over(&line, 8);
    // The server learns every script first, or the lost answer would be that it does not know it.
    let warm = store.acquire("warm").await.unwrap();
    assert_eq!(store.release(&warm.identity).await.unwrap(), Release::Released);
    let warm = store.acquire("warm").await.unwrap();
    let mut aside = redis.aside().await;
    line.set(Weather::AnswersLost);
    let clear_when_it_ran = async {
        until(Duration::from_secs(5), "the script ran", async || held(&mut aside).await == 2).await;
        line.set(Weather::Clear);
    };
    let (lease, ()) = tokio::join!(store.acquire("lost"), clear_when_it_ran);
    let lease = lease.unwrap();
    assert_eq!(held(&mut aside).await, 2, "asked again, leased once");

    line.set(Weather::AnswersLost);
    let clear_when_it_ran = async {
        until(Duration::from_secs(5), "the script ran", async || held(&mut aside).await == 1).await;
        line.set(Weather::Clear);
    };
    let (released, ()) = tokio::join!(store.release(&lease.identity), clear_when_it_ran);
    assert_eq!(released.unwrap(), Release::Released, "the second answer is the first one's");
    assert_eq!(store.release(&warm.identity).await.unwrap(), Release::Released);
}

#[tokio::test]
async fn after_the_patience_the_same_request_still_gets_its_lease() {
    let Some(Shared(redis)) = settled().await else { return };
    let line = Line::to(redis.port()).await;
    let impatient = RedisConfig {
        response_timeout: Duration::from_millis(200),
        patience: Duration::from_millis(500),
        ..RedisConfig::new(line.url())
    };
    let store = RedisLeases::new(RedisServer::new(impatient).unwrap(), config("host", 8));
    store.acquire("warm").await.unwrap();
    line.set(Weather::AnswersLost);
    assert!(matches!(store.acquire("lost").await, Err(LeaseError::Unavailable { .. })));
    line.set(Weather::Clear);
    let mut aside = redis.aside().await;
    assert_eq!(held(&mut aside).await, 2, "a timeout does not say that nothing happened");
    store.acquire("lost").await.unwrap();
    assert_eq!(held(&mut aside).await, 2);
}

#[tokio::test]
async fn a_server_that_is_not_there_yet_is_waited_for_and_an_absent_one_told() {
    let Some(mut redis) = RealRedis::start().await else { return };
    redis.server().trust_new_data().await.unwrap();
    redis.kill();
    let store = RedisLeases::new(redis.server(), config("host", 2));
    let impatient = RedisConfig { patience: Duration::from_millis(300), ..RedisConfig::new(redis.url()) };
    let absent = RedisServer::new(impatient).unwrap();
    assert!(matches!(absent.check().await, Err(ServerError::Connect(_) | ServerError::Silent { .. })));
    let (lease, ()) = tokio::join!(store.acquire("early"), redis.restart());
    lease.unwrap();
    until_some(Duration::from_secs(5), "it is there", async || absent.check().await.ok()).await;
}

#[tokio::test]
async fn a_refused_command_is_told_at_once_and_not_asked_again() {
    let Some(redis) = RealRedis::start().await else { return };
    let server = redis.server();
    let wrong = script("return redis.call('INCR', KEYS[1])");
    let began = Instant::now();
    let refused = server.ask::<i64>(&server.question(&wrong)).await.unwrap_err();
    assert!(matches!(refused, ServerError::Command(_)), "{refused:?}");
    assert!(began.elapsed() < Duration::from_secs(2));
}
