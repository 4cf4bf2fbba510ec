//! Which tenants' jobs wait, and in which shard.

use std::collections::{HashMap, HashSet};

use crate::ledger::{
    JobKey,
    shards::{emptiest, shard},
};

#[derive(Debug, Default)]
pub(super) struct Waiting {
    tenants: HashMap<String, (u16, HashSet<String>)>,
}

impl Waiting {
    /// Notes a waiting job; its tenant's shard, which stays while any of its jobs waits.
    pub fn wait(&mut self, key: &JobKey, shards: u16) -> u16 {
        if shards == 0 {
            return 0;
        }
        let known = self.tenants.get(&key.tenant).map(|(shard, _)| *shard).filter(|shard| *shard < shards);
        let at = known.unwrap_or_else(|| {
            let mut loads = HashMap::<u16, u64>::new();
            for (tenant, (shard, ids)) in &self.tenants {
                let others = if *tenant == key.tenant { 0 } else { ids.len() };
                *loads.entry(*shard).or_default() += u64::try_from(others).unwrap_or(u64::MAX);
            }
            emptiest(shard(&key.tenant, shards), shards, |shard| loads.get(&shard).copied().unwrap_or(0))
        });
        let (now_at, ids) = self.tenants.entry(key.tenant.clone()).or_default();
        *now_at = at;
        ids.insert(key.id.clone());
        at
    }

    /// A job waits no more.
    pub fn ended(&mut self, key: &JobKey) {
        if let Some((_, ids)) = self.tenants.get_mut(&key.tenant) {
            ids.remove(&key.id);
            if ids.is_empty() {
                self.tenants.remove(&key.tenant);
            }
        }
    }
}
