use super::*;

const TTL: u64 = 60;

#[derive(Default)]
struct Host {
    gone: Vec<&'static str>,
    alive: Vec<u32>,
}

impl World for Host {
    fn holder_is_gone(&self, holder: &str) -> bool {
        self.gone.contains(&holder)
    }
    fn cid_in_use(&self, cid: u32) -> bool {
        self.alive.contains(&cid)
    }
}

fn ranges(n: u32) -> Ranges {
    Ranges { cids: 3..=2 + n, ports: 9000..=8999 + n as u16 }
}

fn ask<'a>(request: &'a str, now_us: u64) -> Ask<'a> {
    Ask { request, holder: "a", now_us, unix_us: now_us, ttl_us: TTL }
}

fn take(table: &mut Table, request: &str, now_us: u64) -> Result<Identity, Exhausted> {
    table.acquire(ask(request, now_us), &ranges(2), &Host::default())
}

#[test]
fn the_lowest_free_cid_and_port_are_given_until_there_are_none() {
    let mut table = Table::default();
    let first = take(&mut table, "r1", 100).unwrap();
    assert_eq!((first.cid, first.port), (3, 9000));
    let second = take(&mut table, "r2", 110).unwrap();
    assert_eq!((second.cid, second.port), (4, 9001));
    let full = take(&mut table, "r3", 120).unwrap_err();
    assert_eq!(full, Exhausted { what: "CID", retry_after: Duration::from_micros(40) });
    assert_eq!(table.release(&first, 121), Release::Released);
    let third = take(&mut table, "r3", 122).unwrap();
    assert_eq!((third.cid, third.port), (3, 9000), "released means reusable");
}

#[test]
fn tokens_grow_even_when_the_clock_goes_back() {
    let mut table = Table::default();
    let mut last = 0;
    for (n, unix_us) in [1000, 1000, 5, 2000].into_iter().enumerate() {
        let request = n.to_string();
        let ask = Ask { unix_us, ..ask(&request, 0) };
        let token = table.acquire(ask, &ranges(9), &Host::default()).unwrap().token;
        assert!(token > last && token >= unix_us);
        last = token;
    }
    let mut lost = Table::default();
    let ask = Ask { unix_us: last + 1, ..ask("r", 0) };
    assert!(lost.acquire(ask, &ranges(1), &Host::default()).unwrap().token > last, "after a loss too");
}

#[test]
fn the_same_request_again_gets_the_same_lease_while_it_lasts() {
    let mut table = Table::default();
    let first = take(&mut table, "r", 0).unwrap();
    assert_eq!(take(&mut table, "r", 30).unwrap(), first);
    assert!(table.renew(&first, 30 + TTL - 1, TTL), "the second answer counts from its own time");
    let late = 30 + TTL - 1 + TTL;
    assert_ne!(take(&mut table, "r", late).unwrap().token, first.token);
    let other = Ask { holder: "b", ..ask("r", late) };
    let theirs = table.acquire(other, &ranges(2), &Host::default()).unwrap();
    assert_eq!(theirs.cid, 4, "a request is its holder's own");
}

#[test]
fn an_expired_lease_can_be_taken_and_its_late_holder_is_told() {
    let mut table = Table::default();
    let old = take(&mut table, "r1", 0).unwrap();
    assert!(table.renew(&old, TTL - 1, TTL));
    let expired = 2 * TTL - 1;
    assert!(!table.renew(&old, expired, TTL), "late even though nobody took it");
    assert_eq!(table.release(&old, expired), Release::NotHeld);
    let new = take(&mut table, "r2", expired).unwrap();
    assert_eq!((new.cid, new.port), (old.cid, old.port));
    assert!(!table.renew(&old, expired, TTL));
    assert_eq!(table.release(&old, expired), Release::NotHeld);
    assert!(table.renew(&new, expired, TTL), "the late release took nothing from the new holder");
}

#[test]
fn a_dead_holder_loses_its_leases_at_once_but_not_while_its_vm_lives() {
    let mut table = Table::default();
    let old = take(&mut table, "r1", 0).unwrap();
    let dying = Host { gone: vec!["a"], alive: vec![3] };
    let other = Ask { holder: "b", ..ask("r2", 1) };
    let beside = table.acquire(other, &ranges(2), &dying).unwrap();
    assert_eq!((beside.cid, beside.port), (4, 9001), "neither the CID nor the port of a live VM");
    let dead = Host { gone: vec!["a"], alive: vec![] };
    let other = Ask { holder: "b", ..ask("r3", 2) };
    let after = table.acquire(other, &ranges(2), &dead).unwrap();
    assert_eq!((after.cid, after.port), (old.cid, old.port));
}

#[test]
fn a_cid_whose_vm_lives_is_skipped_although_the_table_says_it_is_free() {
    let mut table = Table::default();
    let host = Host { gone: vec![], alive: vec![3] };
    assert_eq!(table.acquire(ask("r", 0), &ranges(2), &host).unwrap().cid, 4);
    let full = table.acquire(ask("s", 0), &Ranges { cids: 3..=3, ports: 9000..=9001 }, &host);
    assert_eq!(full.unwrap_err().what, "CID");
    let no_port = table.acquire(ask("s", 0), &Ranges { cids: 3..=9, ports: 9000..=9000 }, &Host::default());
    assert_eq!(no_port.unwrap_err().what, "port");
}
