//! Which of its lane's queues a tenant's jobs wait in: one that is its own while there are enough of them.

/// Where a tenant's jobs wait if nobody else's are in the way, the same for every worker of every version: FNV-1a, 32
/// bits, modulo the number of shards.
pub fn shard(tenant: &str, shards: u16) -> u16 {
    let hash =
        tenant.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    u16::try_from(hash % u32::from(shards.max(1))).unwrap_or(0)
}

/// The shard in which the fewest jobs wait; of equals the first from `home` on. `load` says how many wait in one.
pub(super) fn emptiest(home: u16, shards: u16, load: impl Fn(u16) -> u64) -> u16 {
    let from_home = (home..shards).chain(0..home);
    from_home.min_by_key(|shard| load(*shard)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenants_home_stays_for_ever() {
        assert_eq!([shard("", 16), shard("default", 16), shard("acme", 16)], [5, 14, 15]);
        assert_eq!(shard("acme", 0), 0, "no shards count as one");
        let used: std::collections::BTreeSet<_> = (0..200).map(|n| shard(&format!("t{n}"), 16)).collect();
        assert_eq!(used.len(), 16);
    }

    #[test]
    fn the_emptiest_is_chosen_and_home_goes_first() {
        let load = |shard: u16| [5, 0, 7, 0][usize::from(shard)];
        assert_eq!([0, 1, 2, 3].map(|home| emptiest(home, 4, load)), [1, 1, 3, 3]);
        assert_eq!(emptiest(0, 0, load), 0);
    }
}
