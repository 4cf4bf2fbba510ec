//! What is asked, and what may be answered. Pure.

use std::{io, net::Ipv4Addr};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata::A},
};

use crate::net::{Policy, is_blocked};

/// For how long an address may be reached, in seconds: a connection takes a moment to begin, and nothing holds for ever.
const TTL_S: std::ops::RangeInclusive<u32> = 5..=3600;
/// Addresses of one answer.
const ADDRESSES_MAX: usize = 32;

/// A question for an allowed name's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// The guest's own number.
    id: u16,
    /// As the guest wrote it.
    name: Name,
    /// As the policy has it.
    pub host: String,
}

/// What to do with a guest's message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// It is none that has an answer.
    Ignore,
    /// It is answered without asking anybody.
    Known(Vec<u8>),
    /// Its addresses are to be found.
    Resolve(Question),
}

/// What a server answered, as far as a guest may know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Addresses and for how many seconds each holds. None of them is in a blocked range.
    pub addresses: Vec<(Ipv4Addr, u32)>,
    /// Whether there is no such name.
    missing: bool,
}

/// Only allowed names have answers, and only addresses.
pub(super) fn asked(message: &[u8], policy: &Policy) -> Asked {
    let Ok(message) = Message::from_vec(message) else { return Asked::Ignore };
    if message.metadata.message_type != MessageType::Query {
        return Asked::Ignore;
    }
    let id = message.metadata.id;
    let refuse = |code| reply(id, None, code).map_or(Asked::Ignore, Asked::Known);
    let [query] = message.queries.as_slice() else { return refuse(ResponseCode::FormErr) };
    if message.metadata.op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp);
    }
    let host = query.name().to_lowercase().to_ascii();
    let host = host.strip_suffix('.').unwrap_or(&host).to_owned();
    let known = |code| reply(id, Some(query.clone()), code).map_or(Asked::Ignore, Asked::Known);
    if query.query_class() != DNSClass::IN || policy.ports_of(&host).is_none() {
        return known(ResponseCode::Refused);
    }
    match query.query_type() {
        RecordType::A => Asked::Resolve(Question { id, name: query.name().clone(), host }),
        // It has other records, maybe, but none that helps: there is no IPv6.
        _ => known(ResponseCode::NoError),
    }
}

/// The same question, for a server.
pub(super) fn question(question: &Question, id: u16) -> io::Result<Vec<u8>> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(query(question));
    message.to_vec().map_err(io::Error::other)
}

/// Reads a server's answer; `None` when it is not one to this question. A name that resolves to a blocked address is none that
/// the policy meant: such addresses are left out.
pub(super) fn found(message: &[u8], id: u16, question: &Question) -> Option<Found> {
    let message = Message::from_vec(message).ok()?;
    let ours = message.metadata.message_type == MessageType::Response
        && message.metadata.id == id
        && message.queries == [query(question)];
    if !ours {
        return None;
    }
    let address = |record: &Record| match record.data {
        RData::A(A(address)) => Some((address, record.ttl.clamp(*TTL_S.start(), *TTL_S.end()))),
        _ => None,
    };
    match message.metadata.response_code {
        ResponseCode::NoError => {
            let addresses = message.answers.iter().filter_map(address);
            let open = addresses.filter(|(address, _)| !is_blocked(*address));
            Some(Found { addresses: open.take(ADDRESSES_MAX).collect(), missing: false })
        }
        ResponseCode::NXDomain => Some(Found { addresses: Vec::new(), missing: true }),
        // Another server may do better.
        _ => None,
    }
}

/// What the guest is told.
pub(super) fn answer(question: &Question, found: &Found) -> Option<Vec<u8>> {
    let mut message = Message::response(question.id, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.recursion_available = true;
    if found.missing {
        message.metadata.response_code = ResponseCode::NXDomain;
    }
    message.add_query(query(question));
    // To the name itself, whatever names lie between: nobody else's answer is kept.
    message.add_answers(found.addresses.iter().map(|(address, seconds)| {
        Record::from_rdata(question.name.clone(), *seconds, RData::A(A(*address)))
    }));
    message.to_vec().ok()
}

/// What the guest is told when nobody knows.
pub(super) fn failure(question: &Question) -> Option<Vec<u8>> {
    reply(question.id, Some(query(question)), ResponseCode::ServFail)
}

fn query(question: &Question) -> Query {
    Query::query(question.name.clone(), RecordType::A)
}

fn reply(id: u16, query: Option<Query>, code: ResponseCode) -> Option<Vec<u8>> {
    let mut message = Message::error_msg(id, OpCode::Query, code);
    message.metadata.recursion_desired = true;
    message.metadata.recursion_available = true;
    message.queries.extend(query);
    message.to_vec().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        let mut policy = Policy::default();
        policy.add("api.example.com:443").unwrap();
        policy
    }

    fn ask(name: &str, kind: RecordType) -> Asked {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        asked(&message.to_vec().unwrap(), &policy())
    }

    fn code(asked: Asked) -> ResponseCode {
        let Asked::Known(bytes) = asked else { panic!("{asked:?}") };
        let message = Message::from_vec(&bytes).unwrap();
        assert_eq!((message.metadata.id, message.answers.len()), (7, 0));
        message.metadata.response_code
    }

    fn resolve() -> Question {
        match ask("API.example.com.", RecordType::A) {
            Asked::Resolve(question) => question,
            other => panic!("{other:?}"),
        }
    }

    fn from_server(id: u16, records: &[(Ipv4Addr, u32)]) -> Vec<u8> {
        let question = resolve();
        let mut message = Message::response(id, OpCode::Query);
        message.add_query(query(&question));
        let alias = Name::from_ascii("cdn.example.net.").unwrap();
        message.add_answers(
            records.iter().map(|(ip, ttl)| Record::from_rdata(alias.clone(), *ttl, RData::A(A(*ip)))),
        );
        message.to_vec().unwrap()
    }

    #[test]
    fn only_allowed_names_are_asked_for() {
        assert_eq!(resolve().host, "api.example.com");
        assert_eq!(code(ask("example.com.", RecordType::A)), ResponseCode::Refused);
        assert_eq!(code(ask("x.api.example.com.", RecordType::A)), ResponseCode::Refused);
        assert_eq!(code(ask("api.example.com.", RecordType::AAAA)), ResponseCode::NoError);
        assert_eq!(code(ask("api.example.com.", RecordType::TXT)), ResponseCode::NoError);
        assert_eq!(asked(b"\0\x01what", &policy()), Asked::Ignore);
        let answer = Message::response(7, OpCode::Query).to_vec().unwrap();
        assert_eq!(asked(&answer, &policy()), Asked::Ignore);
        let empty = Message::new(7, MessageType::Query, OpCode::Query).to_vec().unwrap();
        assert_eq!(code(asked(&empty, &policy())), ResponseCode::FormErr);
    }

    #[test]
    fn answers_in_blocked_ranges_are_dropped() {
        let open = Ipv4Addr::new(1, 2, 3, 4);
        let bytes = from_server(
            9,
            &[(Ipv4Addr::new(169, 254, 169, 254), 60), (open, 60), (Ipv4Addr::new(10, 0, 0, 1), 60)],
        );
        assert_eq!(found(&bytes, 9, &resolve()).unwrap().addresses, [(open, 60)]);
    }

    #[test]
    fn a_time_to_live_is_neither_nothing_nor_for_ever() {
        let ip = Ipv4Addr::new(1, 2, 3, 4);
        let held = |ttl| found(&from_server(9, &[(ip, ttl)]), 9, &resolve()).unwrap().addresses;
        assert_eq!([held(0), held(60), held(u32::MAX >> 1)].concat(), [(ip, 5), (ip, 60), (ip, 3600)]);
    }

    #[test]
    fn an_answer_to_another_question_is_none() {
        let bytes = from_server(9, &[(Ipv4Addr::new(1, 2, 3, 4), 60)]);
        assert_eq!(found(&bytes, 8, &resolve()), None);
        let other = Question { name: Name::from_ascii("b.example.com.").unwrap(), ..resolve() };
        assert_eq!(found(&bytes, 9, &other), None);
        assert_eq!(found(b"", 9, &resolve()), None);
    }

    #[test]
    fn the_guest_gets_what_was_found_under_the_name_that_it_asked_for() {
        let question = resolve();
        let found = found(&from_server(9, &[(Ipv4Addr::new(1, 2, 3, 4), 60)]), 9, &question).unwrap();
        let message = Message::from_vec(&answer(&question, &found).unwrap()).unwrap();
        assert_eq!(message.metadata.id, 7);
        assert_eq!(message.answers.len(), 1);
        assert_eq!(message.answers[0].name, question.name);
        let missing = Found { missing: true, ..Found::default() };
        let message = Message::from_vec(&answer(&question, &missing).unwrap()).unwrap();
        assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
        let failed = Message::from_vec(&failure(&question).unwrap()).unwrap();
        assert_eq!(failed.metadata.response_code, ResponseCode::ServFail);
    }
}
