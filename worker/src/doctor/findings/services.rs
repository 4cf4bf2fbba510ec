//! The services that a worker of many hosts needs. `hearth run` needs none, so nothing here stops a job.

use super::{Finding, Level};
use crate::doctor::facts::{Broker, Redis, Service};

pub fn broker(service: &Service<Broker>) -> Finding {
    let address = &service.address;
    match &service.answer {
        Ok(broker) => {
            let product = broker.product.as_deref().unwrap_or("a broker");
            let version = broker.version.as_deref().unwrap_or("of unknown version");
            Finding::new("broker", Level::Ok, format!("{product} {version} answers at {address}"))
        }
        Err(why) => Finding::new("broker", Level::Warn, format!("{address}: {why}{}", without(service)))
            .remedy("start RabbitMQ, or give --broker (HEARTH_BROKER)"),
    }
}

/// A worker keeps leases and results there: it must keep what it is told.
pub fn redis(service: &Service<Redis>) -> Finding {
    let address = &service.address;
    let redis = match &service.answer {
        Ok(redis) => redis,
        Err(why) => {
            return Finding::new("redis", Level::Warn, format!("{address}: {why}{}", without(service)))
                .remedy("start Redis, or give --redis (HEARTH_REDIS)");
        }
    };
    let version = redis.version.as_deref().unwrap_or("of unknown version");
    let mut loses = Vec::new();
    let mut mend = Vec::new();
    if redis.append_only == Some(false) {
        loses.push("append-only file off".to_owned());
        mend.push("CONFIG SET appendonly yes");
    }
    if let Some(policy) = redis.eviction.as_deref().filter(|policy| *policy != "noeviction") {
        loses.push(format!("eviction policy {policy}"));
        mend.push("CONFIG SET maxmemory-policy noeviction");
    }
    if !loses.is_empty() {
        let detail = format!("{version} at {address} may forget leases and results: {}", loses.join(", "));
        return Finding::new("redis", Level::Warn, detail)
            .remedy(format!("redis-cli {}, and the same in redis.conf", mend.join("; redis-cli ")));
    }
    if redis.append_only.is_none() || redis.eviction.is_none() {
        let detail = format!("{version} answers at {address}, but not whether it keeps what it is told");
        return Finding::new("redis", Level::Warn, detail).remedy("allow this user INFO");
    }
    Finding::new("redis", Level::Ok, format!("{version} answers at {address}, append-only, no eviction"))
}

fn without<T>(service: &Service<T>) -> &'static str {
    if service.configured { "" } else { " (none configured; only a worker with a queue needs one)" }
}
