//! Who holds what, as a value: the rules of every lease store that lives in one place. No clock, no I/O.

use std::{collections::BTreeSet, ops::RangeInclusive, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Identity, Release};

/// What may be leased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// vsock CIDs.
    pub cids: RangeInclusive<u32>,
    /// Host ports.
    pub ports: RangeInclusive<u16>,
}

/// One lease as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    pub(crate) cid: u32,
    pub(crate) port: u16,
    pub(crate) token: u64,
    /// What asked for it, so that the same question again gets the same answer.
    pub(crate) request: String,
    /// The process that holds it.
    pub(crate) holder: String,
    /// In microseconds of the store's clock, which never goes back.
    pub(crate) expires_us: u64,
}

impl Record {
    fn identity(&self) -> Identity {
        Identity { cid: self.cid, port: self.port, token: self.token }
    }
}

/// Every lease, and the last token given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Table {
    pub(crate) last_token: u64,
    pub(crate) records: Vec<Record>,
}

/// One attempt to lease.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) request: &'a str,
    pub(crate) holder: &'a str,
    /// The store's clock.
    pub(crate) now_us: u64,
    /// The wall clock, from which tokens grow even when the table was lost.
    pub(crate) unix_us: u64,
    pub(crate) ttl_us: u64,
}

/// What the table cannot know by itself.
pub(crate) trait World {
    /// Whether the process of that name is gone, so that its leases are as good as expired.
    fn holder_is_gone(&self, holder: &str) -> bool;
    /// Whether a VM with this CID lives on the host, whatever the table says.
    fn cid_in_use(&self, cid: u32) -> bool;
}

/// Nothing is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exhausted {
    pub(crate) what: &'static str,
    pub(crate) retry_after: Duration,
}

/// What is said when nothing in the table tells when something may be free.
const RETRY_UNKNOWN: Duration = Duration::from_secs(1);

impl Table {
    /// Leases the lowest free CID and port. The same request of the same holder again gets the lease it has.
    pub(crate) fn acquire(
        &mut self,
        ask: Ask<'_>,
        ranges: &Ranges,
        world: &impl World,
    ) -> Result<Identity, Exhausted> {
        let expires_us = ask.now_us.saturating_add(ask.ttl_us);
        let asked =
            |r: &&mut Record| r.request == ask.request && r.holder == ask.holder && ask.now_us < r.expires_us;
        if let Some(record) = self.records.iter_mut().find(asked) {
            record.expires_us = expires_us;
            return Ok(record.identity());
        }
        // A lease whose VM still lives keeps its CID and its port, however late its holder is.
        self.records.retain(|r| {
            let over = r.expires_us <= ask.now_us || world.holder_is_gone(&r.holder);
            !over || world.cid_in_use(r.cid)
        });
        let cids: BTreeSet<u32> = self.records.iter().map(|r| r.cid).collect();
        let ports: BTreeSet<u16> = self.records.iter().map(|r| r.port).collect();
        let cid = ranges.cids.clone().find(|cid| !cids.contains(cid) && !world.cid_in_use(*cid));
        let port = ranges.ports.clone().find(|port| !ports.contains(port));
        let cid = cid.ok_or_else(|| self.exhausted("CID", ask.now_us))?;
        let port = port.ok_or_else(|| self.exhausted("port", ask.now_us))?;
        let token = self.last_token.saturating_add(1).max(ask.unix_us);
        self.last_token = token;
        let record =
            Record { cid, port, token, request: ask.request.into(), holder: ask.holder.into(), expires_us };
        self.records.push(record);
        Ok(Identity { cid, port, token })
    }

    /// Whether the lease now lasts for another `ttl_us`. A late renewal changes nothing.
    pub(crate) fn renew(&mut self, identity: &Identity, now_us: u64, ttl_us: u64) -> bool {
        let held = |r: &&mut Record| r.identity() == *identity && now_us < r.expires_us;
        let record = self.records.iter_mut().find(held);
        record.map(|record| record.expires_us = now_us.saturating_add(ttl_us)).is_some()
    }

    /// Gives the lease back. A late release changes nothing.
    pub(crate) fn release(&mut self, identity: &Identity, now_us: u64) -> Release {
        let held = |r: &Record| r.identity() == *identity && now_us < r.expires_us;
        match self.records.iter().position(held) {
            Some(at) => {
                self.records.swap_remove(at);
                Release::Released
            }
            None => Release::NotHeld,
        }
    }

    fn exhausted(&self, what: &'static str, now_us: u64) -> Exhausted {
        let soonest = self.records.iter().map(|r| r.expires_us).filter(|at| *at > now_us).min();
        let retry_after = soonest.map_or(RETRY_UNKNOWN, |at| Duration::from_micros(at - now_us));
        Exhausted { what, retry_after }
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
