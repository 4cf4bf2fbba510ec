//! What the scripts answer, read. Anything that no script of ours answers is `None`.

use std::{str::FromStr, time::Duration};

use bytes::Bytes;

use crate::ledger::{
    Beat, Begun, Busy, FailedAttempt, JobKey, Registered, Seized, Seizure, Token, Unpublished,
};

/// Fields of an answer.
pub(super) type Fields = Vec<Vec<u8>>;

pub(super) fn registered(fields: Fields) -> Option<Registered> {
    match &fields.iter().map(Vec::as_slice).collect::<Vec<_>>()[..] {
        [b"conflict"] => Some(Registered::Conflict),
        [b"committed", result] => Some(Registered::Committed(copied(result))),
        [b"done", result] => Some(Registered::Done(copied(result))),
        [b"held", left, shard] => Some(Registered::Held { lapses_in: micros(left)?, shard: number(shard)? }),
        [b"waiting", cancelled, shard] => {
            Some(Registered::Waiting { cancelled: flag(cancelled)?, shard: number(shard)? })
        }
        _ => None,
    }
}

pub(super) fn begun(fields: Fields, key: &JobKey, digest: &str, owner: &str) -> Option<Begun> {
    match &fields.iter().map(Vec::as_slice).collect::<Vec<_>>()[..] {
        [b"conflict"] => Some(Begun::Conflict),
        [b"committed", result] => Some(Begun::Committed(copied(result))),
        [b"done", result, told] => {
            Some(Begun::Done { result: copied(result), told: String::from_utf8(told.to_vec()).ok()? })
        }
        [b"held", left] => Some(Begun::Held { lapses_in: micros(left)? }),
        [b"busy", running] => Some(Begun::TenantBusy(Busy::Running(number(running)?))),
        [b"paced", left] => Some(Begun::TenantBusy(Busy::Rate { free_in: micros(left)? })),
        [b"begun", count, cancelled, history] => {
            let (number, digest, owner) = (number(count)?, digest.to_owned(), owner.to_owned());
            let token = Token { key: key.clone(), number, digest, owner };
            Some(Begun::Begun { token, history: attempts(history)?, cancelled: flag(cancelled)? })
        }
        _ => None,
    }
}

pub(super) fn seized(fields: Fields, key: &JobKey, owner: &str) -> Option<Seized> {
    match &fields.iter().map(Vec::as_slice).collect::<Vec<_>>()[..] {
        [b"ended"] => Some(Seized::Ended),
        [b"not yet"] => Some(Seized::NotYet),
        [b"seized", count, digest, route, cancelled, overdue, history] => {
            let digest = std::str::from_utf8(digest).ok()?.to_owned();
            let token = Token { key: key.clone(), number: number(count)?, digest, owner: owner.to_owned() };
            Some(Seized::Seized(Box::new(Seizure {
                token,
                route: copied(route),
                history: attempts(history)?,
                cancelled: flag(cancelled)?,
                overdue: flag(overdue)?,
            })))
        }
        _ => None,
    }
}

pub(super) fn beat(answer: i64) -> Option<Beat> {
    match answer {
        0 => Some(Beat::Lost),
        1 => Some(Beat::Ours),
        2 => Some(Beat::Cancelled),
        _ => None,
    }
}

pub(super) fn unpublished(fields: Fields) -> Option<Vec<Unpublished>> {
    let read = |of_one: &[Vec<u8>]| match of_one {
        [name, result, route] => {
            let key = key(std::str::from_utf8(name).ok()?)?;
            Some(Unpublished { key, result: copied(result), route: copied(route) })
        }
        _ => None,
    };
    fields.chunks(3).map(read).collect()
}

/// Undoes [`name`].
pub(super) fn key(name: &str) -> Option<JobKey> {
    let (tenant, id) = name.split_once('/')?;
    Some(JobKey { tenant: tenant.into(), id: id.into() })
}

/// How a job is named in keys and sets. `None` when that could be another job's name as well.
pub(super) fn name(key: &JobKey) -> Option<String> {
    (!key.tenant.contains('/')).then(|| key.to_string())
}

fn copied(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn number<T: FromStr>(bytes: &[u8]) -> Option<T> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

fn micros(bytes: &[u8]) -> Option<Duration> {
    number(bytes).map(Duration::from_micros)
}

fn flag(bytes: &[u8]) -> Option<bool> {
    match bytes {
        b"0" => Some(false),
        b"1" => Some(true),
        _ => None,
    }
}

fn attempts(json: &[u8]) -> Option<Vec<FailedAttempt>> {
    serde_json::from_slice(json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(of: &[&str]) -> Fields {
        of.iter().map(|f| f.as_bytes().to_vec()).collect()
    }

    #[test]
    fn answers_are_read_and_others_refused() {
        let key = JobKey { tenant: "t".into(), id: "1".into() };
        let history =
            r#"[{"worker":"w","step":"run","message":"m","failed_unix_ms":5,"took_ms":7,"counted":true}]"#;
        match begun(fields(&["begun", "1700000000000000", "1", history]), &key, "d", "w").unwrap() {
            Begun::Begun { token, history, cancelled: true } => {
                assert_eq!((token.number, history.len()), (1_700_000_000_000_000, 1));
                assert_eq!(history[0].failed_unix_ms, 5);
            }
            other => panic!("{other:?}"),
        }
        for foreign in [&["begun", "1"][..], &["begun", "x", "0", "[]"], &["done"], &[], &["held", "1e+15"]] {
            assert_eq!(begun(fields(foreign), &key, "d", "w"), None, "{foreign:?}");
            assert_eq!(registered(fields(foreign)), None, "{foreign:?}");
            assert_eq!(seized(fields(foreign), &key, "w"), None, "{foreign:?}");
        }
        assert_eq!(begun(fields(&["done", "r"]), &key, "d", "w"), None, "whom it told is missing");
        assert_eq!(unpublished(fields(&["t/1", "r", "", "t/2"])), None);
        assert_eq!(beat(3), None);
    }

    #[test]
    fn two_jobs_never_share_a_name() {
        let of = |tenant: &str, id: &str| JobKey { tenant: tenant.into(), id: id.into() };
        assert_eq!(name(&of("a/b", "c")), None);
        let slashes = of("a", "b/c");
        assert_eq!(super::key(&name(&slashes).unwrap()), Some(slashes));
    }
}
