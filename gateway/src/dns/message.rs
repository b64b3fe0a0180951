//! DNS messages: a query's bytes to a question, an answer to bytes. Pure.
//!
//! RFC 1035 with EDNS (RFC 6891), as much of it as a stub resolver uses. The name is given back in the letters it was
//! asked in: clients that vary the case as a protection compare it.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};

/// How long a client may keep an answer, in seconds.
const TTL: u32 = 30;
/// Addresses in one answer: so few that every answer fits the 512 bytes that any client takes, whatever the name.
pub(super) const MAX_ADDRESSES: usize = 8;
/// What this end takes, announced by EDNS.
const PAYLOAD: u16 = 1232;
const HEADER: usize = 12;

/// One question, well formed.
#[derive(Debug)]
pub(super) struct Question {
    id: u16,
    recursion_desired: bool,
    edns: bool,
    query: Query,
}

/// The address family that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    fn holds(self, address: IpAddr) -> bool {
        matches!((self, address), (Self::V4, IpAddr::V4(_)) | (Self::V6, IpAddr::V6(_)))
    }
}

/// A query that gets no answer of substance.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unanswerable {
    /// Not even worth an error: too short, or an answer itself.
    Ignore,
    /// Send this.
    Error(Vec<u8>),
}

impl Question {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Unanswerable> {
        // The response bit: answering answers makes loops.
        if bytes.len() < HEADER || bytes[2] & 0x80 != 0 {
            return Err(Unanswerable::Ignore);
        }
        let id = u16::from_be_bytes([bytes[0], bytes[1]]);
        let error = |code| Unanswerable::Error(encode(&Message::error_msg(id, OpCode::Query, code)));
        let message = Message::from_vec(bytes).map_err(|_| error(ResponseCode::FormErr))?;
        if message.metadata.op_code != OpCode::Query || message.metadata.message_type != MessageType::Query {
            return Err(error(ResponseCode::NotImp));
        }
        if message.version() > 0 {
            return Err(Unanswerable::Error(bad_version(id)));
        }
        let recursion_desired = message.metadata.recursion_desired;
        let edns = message.edns.is_some();
        match <[Query; 1]>::try_from(message.queries) {
            Ok([query]) => Ok(Self { id, recursion_desired, edns, query }),
            Err(_) => Err(error(ResponseCode::FormErr)),
        }
    }

    /// The name as configurations write it: lower case, without the trailing dot.
    pub(super) fn name(&self) -> String {
        let mut name = self.query.name().to_ascii().to_ascii_lowercase();
        if name.len() > 1 && name.ends_with('.') {
            name.pop();
        }
        name
    }

    /// None for anything but an address of the Internet's.
    pub(super) fn family(&self) -> Option<Family> {
        match (self.query.query_class(), self.query.query_type()) {
            (DNSClass::IN, RecordType::A) => Some(Family::V4),
            (DNSClass::IN, RecordType::AAAA) => Some(Family::V6),
            _ => None,
        }
    }

    /// The type in words, for records.
    pub(super) fn kind(&self) -> String {
        self.query.query_type().to_string()
    }

    /// The answer with those addresses that are of the family asked for, and these addresses; none is an answer too
    /// ("the name exists, but not so").
    pub(super) fn answer(&self, addresses: &[IpAddr]) -> (Vec<u8>, Vec<IpAddr>) {
        let family = self.family();
        let given: Vec<IpAddr> = addresses
            .iter()
            .copied()
            .filter(|&address| family.is_some_and(|family| family.holds(address)))
            .take(MAX_ADDRESSES)
            .collect();
        let mut message = self.response(ResponseCode::NoError);
        message.answers = given
            .iter()
            .map(|address| {
                let data = match address {
                    IpAddr::V4(address) => RData::A(A(*address)),
                    IpAddr::V6(address) => RData::AAAA(AAAA(*address)),
                };
                Record::from_rdata(self.query.name().clone(), TTL, data)
            })
            .collect();
        (encode(&message), given)
    }

    /// This resolver does not answer that.
    pub(super) fn refuse(&self) -> Vec<u8> {
        encode(&self.response(ResponseCode::Refused))
    }

    /// It would, and cannot now.
    pub(super) fn fail(&self) -> Vec<u8> {
        encode(&self.response(ResponseCode::ServFail))
    }

    fn response(&self, code: ResponseCode) -> Message {
        let mut message = Message::error_msg(self.id, OpCode::Query, code);
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.recursion_available = true;
        message.queries = vec![self.query.clone()];
        message.edns = self.edns.then(our_edns);
        message
    }
}

fn our_edns() -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(PAYLOAD);
    edns
}

fn bad_version(id: u16) -> Vec<u8> {
    let mut message = Message::error_msg(id, OpCode::Query, ResponseCode::BADVERS);
    let mut edns = our_edns();
    edns.set_rcode_high(ResponseCode::BADVERS.high());
    message.edns = Some(edns);
    encode(&message)
}

/// What is built here is always encodable; should it not be, an empty datagram is what the client ignores.
fn encode(message: &Message) -> Vec<u8> {
    message.to_vec().unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use hickory_proto::rr::Name;

    use super::*;

    pub(in crate::dns) fn query(name: &str, kind: RecordType) -> Vec<u8> {
        let mut message = Message::query();
        message.metadata.id = 7;
        message.metadata.recursion_desired = true;
        message.queries = vec![Query::query(Name::from_ascii(name).unwrap(), kind)];
        message.to_vec().unwrap()
    }

    /// Response code and addresses of an answer.
    pub(in crate::dns) fn outcome(bytes: &[u8]) -> (ResponseCode, Vec<IpAddr>) {
        let message = Message::from_vec(bytes).unwrap();
        assert_eq!((message.metadata.id, message.metadata.message_type), (7, MessageType::Response));
        let addresses = message.answers.iter().filter_map(|record| record.data.ip_addr()).collect();
        (message.metadata.response_code, addresses)
    }

    fn addresses() -> Vec<IpAddr> {
        ["192.0.2.1", "2001:db8::1", "192.0.2.2"].map(|address| address.parse().unwrap()).to_vec()
    }

    #[test]
    fn names_are_compared_in_lower_case_and_given_back_as_asked() {
        let question = Question::read(&query("dB.InterNal.", RecordType::A)).unwrap();
        assert_eq!(question.name(), "db.internal");
        let (bytes, given) = question.answer(&addresses());
        assert_eq!(given, [addresses()[0], addresses()[2]]);
        assert_eq!(outcome(&bytes), (ResponseCode::NoError, given));
        let message = Message::from_vec(&bytes).unwrap();
        assert!(message.queries[0].name().eq_case(&Name::from_ascii("dB.InterNal.").unwrap()));
        assert!(message.answers[0].name.eq_case(&Name::from_ascii("dB.InterNal.").unwrap()));
        assert!(message.metadata.recursion_desired && message.metadata.recursion_available);
    }

    #[test]
    fn a_family_that_the_name_lacks_is_an_empty_answer() {
        let question = Question::read(&query("db.internal", RecordType::AAAA)).unwrap();
        assert_eq!(outcome(&question.answer(&addresses()).0), (ResponseCode::NoError, vec![addresses()[1]]));
        assert_eq!(outcome(&question.answer(&addresses()[..1]).0), (ResponseCode::NoError, vec![]));
    }

    #[test]
    fn only_addresses_are_a_family() {
        for kind in [RecordType::MX, RecordType::TXT, RecordType::ANY, RecordType::HTTPS, RecordType::AXFR] {
            assert_eq!(Question::read(&query("db.internal", kind)).unwrap().family(), None, "{kind}");
        }
        let mut chaos = query("db.internal", RecordType::A);
        let class = chaos.len() - 1;
        chaos[class] = 3;
        assert_eq!(Question::read(&chaos).unwrap().family(), None);
    }

    #[test]
    fn every_answer_fits_into_512_bytes() {
        let label = "x".repeat(63);
        let name = format!("{label}.{label}.{label}.{}", "x".repeat(61));
        let mut message = Message::from_vec(&query(&name, RecordType::AAAA)).unwrap();
        message.edns = Some(our_edns());
        let question = Question::read(&message.to_vec().unwrap()).unwrap();
        let many: Vec<IpAddr> = (0..100).map(|n| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n])).collect();
        let (bytes, given) = question.answer(&many);
        assert_eq!(given.len(), MAX_ADDRESSES);
        assert!(bytes.len() <= 512, "{}", bytes.len());
        assert!(Message::from_vec(&bytes).unwrap().edns.is_some());
    }

    #[test]
    fn what_is_no_query_is_ignored_or_told_so() {
        let good = query("db.internal", RecordType::A);
        for end in 0..HEADER {
            assert_eq!(Question::read(&good[..end]).unwrap_err(), Unanswerable::Ignore);
        }
        let error = |bytes: &[u8]| match Question::read(bytes) {
            Err(Unanswerable::Error(answer)) => outcome(&answer).0,
            other => panic!("{other:?}"),
        };
        for end in HEADER..good.len() {
            assert_eq!(error(&good[..end]), ResponseCode::FormErr, "{end}");
        }
        let changed = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            bytes
        };
        assert_eq!(Question::read(&changed(2, 0x81)).unwrap_err(), Unanswerable::Ignore);
        assert_eq!(error(&changed(2, 0x29)), ResponseCode::NotImp);
        assert_eq!(error(&changed(5, 0)), ResponseCode::FormErr);
        // A name that points at itself.
        assert_eq!(error(&[&good[..HEADER], &[0xc0, 12, 0, 1, 0, 1]].concat()), ResponseCode::FormErr);

        let mut message = Message::from_vec(&good).unwrap();
        let mut edns = our_edns();
        edns.set_version(1);
        message.edns = Some(edns);
        // BADVERS and BADSIG are one number.
        assert_eq!(u16::from(error(&message.to_vec().unwrap())), u16::from(ResponseCode::BADVERS));
    }
}
