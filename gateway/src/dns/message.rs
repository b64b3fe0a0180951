//! DNS messages: a query's bytes to a question, an answer to bytes. Pure.
//!
//! RFC 1035 with EDNS (RFC 6891), as much of it as a stub resolver uses. The name is given back in the letters it was
//! asked in: clients that vary the case as a protection compare it. Addresses stand under that very name, whatever chain of
//! CNAMEs leads to them: the names on the way are not the agent's to ask.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, SRV};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};

/// Addresses, or services, in one answer.
pub(super) const MAX_RECORDS: usize = 32;
/// What this end takes, announced by EDNS, and the most that it sends by UDP: no path fragments it (RFC 9715).
const PAYLOAD: u16 = 1232;
/// What a client without EDNS takes by UDP (RFC 1035, section 2.3.4).
const PLAIN_PAYLOAD: u16 = 512;
const HEADER: usize = 12;

/// One question, well formed.
#[derive(Debug)]
pub struct Question {
    id: u16,
    recursion_desired: bool,
    /// Without DNSSEC this changes nothing, but is given back (RFC 4035, section 3.2.2).
    checking_disabled: bool,
    edns: Option<ClientEdns>,
    query: Query,
}

#[derive(Clone, Copy, Debug)]
struct ClientEdns {
    payload: u16,
    dnssec_ok: bool,
}

/// How the answer travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// The address family that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    Address(Family),
    /// SRV records of `_SERVICE._tcp.NAME`.
    Service(String),
    /// HTTPS and SVCB: how else to connect.
    Hints,
    Other,
}

impl Family {
    pub(super) fn holds(self, address: IpAddr) -> bool {
        matches!((self, address), (Self::V4, IpAddr::V4(_)) | (Self::V6, IpAddr::V6(_)))
    }

    pub(super) fn record_type(self) -> RecordType {
        match self {
            Self::V4 => RecordType::A,
            Self::V6 => RecordType::AAAA,
        }
    }
}

/// A query that gets no answer of substance.
#[derive(Debug, PartialEq, Eq)]
pub enum Unanswerable {
    /// Not even worth an error: too short, or an answer itself.
    Ignore,
    /// Send this.
    Error(Vec<u8>),
}

impl Question {
    pub fn read(bytes: &[u8]) -> Result<Self, Unanswerable> {
        // The response bit: answering answers makes loops.
        if bytes.len() < HEADER || bytes[2] & 0x80 != 0 {
            return Err(Unanswerable::Ignore);
        }
        let id = u16::from_be_bytes([bytes[0], bytes[1]]);
        let error = |code| Unanswerable::Error(encode(&Message::error_msg(id, OpCode::Query, code)));
        let message = Message::from_vec(bytes).map_err(|_| error(ResponseCode::FormErr))?;
        if message.metadata.op_code != OpCode::Query || message.metadata.message_type != MessageType::Query {
            let error = Message::error_msg(id, message.metadata.op_code, ResponseCode::NotImp);
            return Err(Unanswerable::Error(encode(&error)));
        }
        if message.version() > 0 {
            return Err(Unanswerable::Error(bad_version(id)));
        }
        let (recursion_desired, checking_disabled) =
            (message.metadata.recursion_desired, message.metadata.checking_disabled);
        let edns =
            message.edns.map(|edns| ClientEdns { payload: edns.max_payload(), dnssec_ok: edns.flags().dnssec_ok });
        match <[Query; 1]>::try_from(message.queries) {
            Ok([query]) => Ok(Self { id, recursion_desired, checking_disabled, edns, query }),
            Err(_) => Err(error(ResponseCode::FormErr)),
        }
    }

    /// The name as configurations write it: lower case, without the trailing dot, others than letters and digits escaped as
    /// in zone files.
    pub fn name(&self) -> String {
        let mut name = self.query.name().to_ascii().to_ascii_lowercase();
        if name.len() > 1 && name.ends_with('.') {
            name.pop();
        }
        name
    }

    /// What is asked for, and of which name.
    pub fn wanted(&self) -> (Wanted, String) {
        let name = self.name();
        let wanted = match (self.query.query_class(), self.query.query_type()) {
            (DNSClass::IN, RecordType::A) => Wanted::Address(Family::V4),
            (DNSClass::IN, RecordType::AAAA) => Wanted::Address(Family::V6),
            (DNSClass::IN, RecordType::HTTPS | RecordType::SVCB) => Wanted::Hints,
            (DNSClass::IN, RecordType::SRV) => {
                let parts = name.strip_prefix('_').and_then(|rest| rest.split_once("._tcp."));
                return match parts {
                    Some((service, host)) if !service.contains('.') => {
                        (Wanted::Service(service.to_owned()), host.to_owned())
                    }
                    _ => (Wanted::Other, name),
                };
            }
            _ => Wanted::Other,
        };
        (wanted, name)
    }

    /// The type in words, for records.
    pub fn kind(&self) -> String {
        self.query.query_type().to_string()
    }

    /// The answer with those addresses that are of the family asked for, and the addresses that it has room for; none is an
    /// answer too ("the name exists, but not so"). `ttl` in seconds.
    pub fn addresses(&self, addresses: &[IpAddr], ttl: u32, transport: Transport) -> (Vec<u8>, Vec<IpAddr>) {
        let (wanted, _) = self.wanted();
        let is_wanted = |address: &IpAddr| matches!(wanted, Wanted::Address(family) if family.holds(*address));
        let mut given: Vec<IpAddr> = addresses.iter().copied().filter(is_wanted).take(MAX_RECORDS).collect();
        let data = given.iter().map(|address| match address {
            IpAddr::V4(address) => RData::A(A(*address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(*address)),
        });
        let (bytes, fitting) = self.answer(data.collect(), ttl, transport);
        given.truncate(fitting);
        (bytes, given)
    }

    /// The answer with these services.
    pub fn services(&self, services: &[SRV], ttl: u32, transport: Transport) -> Vec<u8> {
        self.answer(services.iter().take(MAX_RECORDS).cloned().map(RData::SRV).collect(), ttl, transport).0
    }

    /// This resolver does not answer that.
    pub fn refuse(&self) -> Vec<u8> {
        encode(&self.response(ResponseCode::Refused))
    }

    /// It would, and cannot now.
    pub fn fail(&self) -> Vec<u8> {
        encode(&self.response(ResponseCode::ServFail))
    }

    /// There is no such name.
    pub fn no_name(&self) -> Vec<u8> {
        encode(&self.response(ResponseCode::NXDomain))
    }

    /// The message with as many of the records as it has room for, and how many these are. If it is cut, it says so, and the
    /// client asks again by TCP; one that does not (musl before 1.2.4) has these at least.
    fn answer(&self, records: Vec<RData>, ttl: u32, transport: Transport) -> (Vec<u8>, usize) {
        let room = match transport {
            Transport::Udp => {
                usize::from(self.edns.map_or(PLAIN_PAYLOAD, |it| it.payload.clamp(PLAIN_PAYLOAD, PAYLOAD)))
            }
            Transport::Tcp => usize::from(u16::MAX),
        };
        let mut message = self.response(ResponseCode::NoError);
        message.answers =
            records.into_iter().map(|data| Record::from_rdata(self.query.name().clone(), ttl, data)).collect();
        loop {
            let bytes = encode(&message);
            if bytes.len() <= room || message.answers.is_empty() {
                return (bytes, message.answers.len());
            }
            message.answers.pop();
            message.metadata.truncation = true;
        }
    }

    fn response(&self, code: ResponseCode) -> Message {
        let mut message = Message::error_msg(self.id, OpCode::Query, code);
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.recursion_available = true;
        message.metadata.checking_disabled = self.checking_disabled;
        // Never "authentic data": nothing is validated here, and what upstream says of it is not passed on.
        message.queries = vec![self.query.clone()];
        message.edns = self.edns.map(|client| {
            let mut edns = our_edns();
            // RFC 3225: given back as it came. There are no signatures to send.
            edns.set_dnssec_ok(client.dnssec_ok);
            edns
        });
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

    pub(in crate::dns) fn question(name: &str, kind: RecordType) -> Question {
        Question::read(&query(name, kind)).unwrap()
    }

    fn addresses() -> Vec<IpAddr> {
        ["192.0.2.1", "2001:db8::1", "192.0.2.2"].map(|address| address.parse().unwrap()).to_vec()
    }

    #[test]
    fn names_are_compared_in_lower_case_and_given_back_as_asked() {
        let question = question("dB.InterNal.", RecordType::A);
        assert_eq!(question.name(), "db.internal");
        let (bytes, given) = question.addresses(&addresses(), 30, Transport::Udp);
        assert_eq!(given, [addresses()[0], addresses()[2]]);
        assert_eq!(outcome(&bytes), (ResponseCode::NoError, given));
        let message = Message::from_vec(&bytes).unwrap();
        assert!(message.queries[0].name().eq_case(&Name::from_ascii("dB.InterNal.").unwrap()));
        assert!(message.answers[0].name.eq_case(&Name::from_ascii("dB.InterNal.").unwrap()));
        assert!(message.metadata.recursion_desired && message.metadata.recursion_available);
    }

    #[test]
    fn a_family_that_the_name_lacks_is_an_empty_answer() {
        let question = question("db.internal", RecordType::AAAA);
        let answer = |addresses: &[IpAddr]| outcome(&question.addresses(addresses, 30, Transport::Udp).0);
        assert_eq!(answer(&addresses()), (ResponseCode::NoError, vec![addresses()[1]]));
        assert_eq!(answer(&addresses()[..1]), (ResponseCode::NoError, vec![]));
    }

    #[test]
    fn only_addresses_services_and_hints_are_wanted() {
        let wanted = |name: &str, kind| question(name, kind).wanted();
        assert_eq!(wanted("db.internal", RecordType::A).0, Wanted::Address(Family::V4));
        assert_eq!(wanted("db.internal", RecordType::HTTPS).0, Wanted::Hints);
        assert_eq!(
            wanted("_Postgresql._TCP.db.internal", RecordType::SRV),
            (Wanted::Service("postgresql".to_owned()), "db.internal".to_owned())
        );
        for name in ["db.internal", "_a._b._tcp.db.internal", "_postgresql._udp.db.internal", "_tcp.db.internal"] {
            assert_eq!(wanted(name, RecordType::SRV).0, Wanted::Other, "{name}");
        }
        for kind in [RecordType::MX, RecordType::TXT, RecordType::ANY, RecordType::NULL, RecordType::AXFR] {
            assert_eq!(wanted("db.internal", kind).0, Wanted::Other, "{kind}");
        }
        let mut chaos = query("db.internal", RecordType::A);
        let class = chaos.len() - 1;
        chaos[class] = 3;
        assert_eq!(Question::read(&chaos).unwrap().wanted().0, Wanted::Other);
    }

    /// A question with EDNS.
    fn with_edns(name: &str, payload: u16, dnssec_ok: bool) -> Question {
        let mut message = Message::from_vec(&query(name, RecordType::AAAA)).unwrap();
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        edns.set_dnssec_ok(dnssec_ok);
        message.edns = Some(edns);
        Question::read(&message.to_vec().unwrap()).unwrap()
    }

    #[test]
    fn answers_are_cut_to_what_the_client_takes_and_say_so() {
        let label = "x".repeat(63);
        let name = format!("{label}.{label}.{label}.{}", "x".repeat(61));
        let many: Vec<IpAddr> = (0..100).map(|n| IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, n])).collect();
        for (asked, transport, room, fitting) in [
            (question(&name, RecordType::AAAA), Transport::Udp, 512, 1..MAX_RECORDS),
            (with_edns(&name, 0, false), Transport::Udp, 512, 1..MAX_RECORDS),
            (with_edns(&name, 900, false), Transport::Udp, 900, 1..MAX_RECORDS),
            (with_edns(&name, 65_000, false), Transport::Udp, 1232, MAX_RECORDS..MAX_RECORDS + 1),
            (question(&name, RecordType::AAAA), Transport::Tcp, 65_535, MAX_RECORDS..MAX_RECORDS + 1),
        ] {
            let (bytes, given) = asked.addresses(&many, 30, transport);
            assert!(bytes.len() <= room, "{} of {room}", bytes.len());
            assert!(fitting.contains(&given.len()), "{} in {room}", given.len());
            let message = Message::from_vec(&bytes).unwrap();
            assert_eq!(message.metadata.truncation, given.len() < MAX_RECORDS);
            assert_eq!(outcome(&bytes).1, given);
            assert_eq!(message.edns.is_some(), asked.edns.is_some());
        }
    }

    #[test]
    fn dnssec_bits_are_given_back_and_nothing_is_claimed() {
        for dnssec_ok in [false, true] {
            let (bytes, _) = with_edns("db.internal", 1232, dnssec_ok).addresses(&addresses(), 30, Transport::Udp);
            let message = Message::from_vec(&bytes).unwrap();
            assert_eq!(message.edns.unwrap().flags().dnssec_ok, dnssec_ok);
            assert!(!message.metadata.authentic_data && !message.metadata.checking_disabled);
        }
        let mut bytes = query("db.internal", RecordType::A);
        // AD and CD, as `dig +adflag +cdflag` sets them.
        bytes[3] |= 0x30;
        let (bytes, _) = Question::read(&bytes).unwrap().addresses(&addresses(), 30, Transport::Udp);
        let message = Message::from_vec(&bytes).unwrap();
        assert!(!message.metadata.authentic_data && message.metadata.checking_disabled);
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
