//! The rules of the stores, held by the forms that need no server.

#![allow(clippy::unwrap_used, reason = "a test may")]

use hearth_pool::lease::{
    Ranges,
    local::{LocalConfig, LocalLeases},
};
use hearth_tests::{
    lease_rules::{Backing, IDENTITIES, TTL},
    ledger_rules,
};
use hearth_worker::ledger::MemoryLedger;
use tempfile::TempDir;

struct Directory(TempDir);

impl Backing for Directory {
    type Store = LocalLeases;

    fn open(&self) -> LocalLeases {
        let last = u16::try_from(IDENTITIES).unwrap() + 8999;
        let ranges = Ranges { cids: 3..=2 + IDENTITIES, ports: 9000..=last };
        LocalLeases::open(LocalConfig { ranges, ttl: TTL, ..LocalConfig::new(self.0.path()) }).unwrap()
    }
}

mod local_leases {
    use super::Directory;

    async fn directory() -> Option<Directory> {
        Some(Directory(tempfile::tempdir().unwrap()))
    }

    hearth_tests::lease_rules!(directory());
}

struct Memory(MemoryLedger);

impl ledger_rules::Backing for Memory {
    type Ledger = MemoryLedger;

    fn ledgers(&self) -> [&MemoryLedger; 2] {
        [&self.0, &self.0]
    }
}

mod memory_ledger {
    use super::Memory;

    async fn memory() -> Option<Memory> {
        Some(Memory(Default::default()))
    }

    hearth_tests::ledger_rules!(memory());
}
