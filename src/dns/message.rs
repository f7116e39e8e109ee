//! DNS messages (RFC 1035): one question out, and of an answer what it says to that
//! question and nothing else.
//!
//! Believed are only records that lie on the chain of names that begins with the
//! name asked for (CNAME by CNAME), in the answer section, of class IN. Names are
//! lower-case text made of letters, digits, `-` and `_`; a record with any other name
//! is passed over, so no odd octet gets further than here. The case of the question's
//! letters is chosen at random and has to come back (draft-vixie-dnsext-dns0x20): it
//! adds to the id and the port what a forger has to guess.
//!
//! Left out on purpose: EDNS (what does not fit into 512 octets comes over TCP),
//! DNSSEC (the server asked is trusted), everything but A, AAAA, SRV, NAPTR.

use crate::base::rng::Rng;
use crate::limits::{DNS_ALIASES_MAX, DNS_RECORDS_MAX, DNS_TARGETS_MAX};
use core::net::IpAddr;
use domain::base::iana::{Class, Opcode, Rcode, Rtype};
use domain::base::name::{Name, ParsedName};
use domain::base::{Message, MessageBuilder, ParseRecordData, RecordSection};
use domain::rdata::{A, Aaaa, Cname, Naptr, Soa, Srv};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// Hosts that offer a service (RFC 2782).
    Srv,
    /// Which services there are (RFC 3403).
    Naptr,
}

impl Kind {
    /// The name, for logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::A => "A",
            Self::Aaaa => "AAAA",
            Self::Srv => "SRV",
            Self::Naptr => "NAPTR",
        }
    }

    const fn rtype(self) -> Rtype {
        match self {
            Self::A => Rtype::A,
            Self::Aaaa => Rtype::AAAA,
            Self::Srv => Rtype::SRV,
            Self::Naptr => Rtype::NAPTR,
        }
    }
}

/// One SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SrvRecord {
    /// Lower ones are tried first.
    pub priority: u16,
    /// Its share among those of one priority.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The host; empty for `.`, which says that the service is not offered.
    pub target: String,
}

/// One NAPTR record that leads to an SRV record (flag `s`, no regular expression).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NaptrRecord {
    /// Lower ones come first.
    pub order: u16,
    /// Lower ones come first within one order.
    pub preference: u16,
    /// Such as `SIPS+D2T`, in upper case.
    pub service: String,
    /// The name to ask for SRV records.
    pub replacement: String,
}

/// The records that answer a question, all of the kind asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Records {
    /// To `A` and `Aaaa`.
    Addresses(Vec<IpAddr>),
    /// To `Srv`, those of the lowest priority first.
    Srv(Vec<SrvRecord>),
    /// To `Naptr`.
    Naptr(Vec<NaptrRecord>),
}

/// A question as it was sent: what its answer is held against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Drawn at random.
    pub id: u16,
    /// What is asked for.
    pub kind: Kind,
    /// The message as sent, without the length that TCP wants before it.
    pub octets: Vec<u8>,
}

/// Octets of a message's head.
const HEAD_OCTETS: usize = 12;

impl Question {
    /// A question for `name`, lower-case text without a dot at its end, with a random
    /// id and random case. `None` if that is no name the DNS can hold.
    pub fn new(name: &str, kind: Kind, rng: &mut Rng) -> Option<Self> {
        let mut wire = Vec::with_capacity(name.len() + 2);
        for label in name.split('.') {
            if label.is_empty() || label.len() > 63 || !label.bytes().all(is_plain) {
                return None;
            }
            wire.push(label.len() as u8);
            wire.extend(label.bytes());
        }
        wire.push(0);
        let mut bits = 0;
        for (at, octet) in wire.iter_mut().enumerate() {
            if at % 64 == 0 {
                bits = rng.next_u64();
            }
            // The lengths are below 64, which no letter is.
            if octet.is_ascii_lowercase() && bits & 1 == 1 {
                *octet = octet.to_ascii_uppercase();
            }
            bits >>= 1;
        }
        let id = rng.next_u64() as u16;
        let mut builder = MessageBuilder::new_vec().question();
        builder.header_mut().set_id(id);
        builder.header_mut().set_rd(true);
        builder.push((Name::from_octets(wire).ok()?, kind.rtype())).ok()?;
        Some(Self { id, kind, octets: builder.finish() })
    }

    /// The name as it was sent, length octets and case as they were.
    fn wire_name(&self) -> &[u8] {
        let end = self.octets.len().saturating_sub(4);
        self.octets.get(HEAD_OCTETS..end).unwrap_or_default()
    }
}

/// What a server said to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// There is more than a datagram holds: to be asked over TCP.
    Truncated,
    /// Records, and for how many seconds they hold.
    Records(Records, u32),
    /// The name has no such records; for how many seconds that holds, if told.
    NoData(Option<u32>),
    /// The name does not exist; for how many seconds that holds, if told.
    NoSuchName(Option<u32>),
    /// The name is another name for this one, of which nothing is told. The number of
    /// aliases gone through, and for how many seconds they hold.
    Alias(String, usize, u32),
    /// The server cannot or will not answer; or the chain of aliases is a circle or
    /// too long, or a record cannot be read.
    Failed(&'static str),
}

/// Why octets are no answer to a question, so that it stays open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// Not a DNS answer.
    Malformed,
    /// Another id.
    Id,
    /// Another question.
    Question,
    /// The question in other letters: forged, or by a server that changes them.
    Case,
}

impl Foreign {
    /// In words, for logs.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Id => "wrong-id",
            Self::Question => "wrong-question",
            Self::Case => "wrong-case",
        }
    }
}

/// Reads an answer to `question`. With `exact_case` the letters of the name must come
/// back as they were sent.
pub fn parse(octets: &[u8], question: &Question, exact_case: bool) -> Result<Reply, Foreign> {
    let message = Message::from_slice(octets).map_err(|_| Foreign::Malformed)?;
    let header = message.header();
    if !header.qr() || header.opcode() != Opcode::QUERY {
        return Err(Foreign::Malformed);
    }
    if header.id() != question.id {
        return Err(Foreign::Id);
    }
    let asked = message.sole_question().map_err(|_| Foreign::Question)?;
    if asked.qtype() != question.kind.rtype() || asked.qclass() != Class::IN {
        return Err(Foreign::Question);
    }
    let sent = question.wire_name();
    let came = wire_of(asked.qname());
    if !came.eq_ignore_ascii_case(sent) {
        return Err(Foreign::Question);
    }
    if exact_case && came != sent {
        return Err(Foreign::Case);
    }
    if header.tc() {
        return Ok(Reply::Truncated);
    }
    match header.rcode() {
        Rcode::NOERROR | Rcode::NXDOMAIN => {}
        Rcode::SERVFAIL => return Ok(Reply::Failed("SERVFAIL")),
        Rcode::REFUSED => return Ok(Reply::Failed("REFUSED")),
        _ => return Ok(Reply::Failed("an error code")),
    }
    let name = text_of(asked.qname()).ok_or(Foreign::Question)?;
    Ok(read(message, question.kind, name, header.rcode() == Rcode::NXDOMAIN).unwrap_or(Reply::Failed("malformed")))
}

/// What the records of an answer say about `name`; `None` if they cannot be read.
fn read(message: &Message<[u8]>, kind: Kind, name: String, no_such_name: bool) -> Option<Reply> {
    let answer = message.answer().ok()?;
    let (name, aliases, ttl) = match follow(answer, name)? {
        Ok(end) => end,
        Err(reason) => return Some(Reply::Failed(reason)),
    };
    let mut ttl = ttl;
    if let Some(records) = records(answer, kind, &name, &mut ttl)? {
        return Some(Reply::Records(records, ttl));
    }
    let authority = answer.next_section().ok()??;
    let negative = owned::<Soa<ParsedName<&[u8]>>>(authority)
        .next()
        .map(|(_, soa_ttl, soa)| clamp(soa.minimum().as_secs()).min(soa_ttl));
    Some(match (no_such_name, aliases, negative) {
        (true, ..) => Reply::NoSuchName(negative),
        // The server did not look where the alias leads; somebody has to.
        (false, 1.., None) => Reply::Alias(name, aliases, ttl),
        (false, ..) => Reply::NoData(negative),
    })
}

/// Goes along the aliases from `name`: where they end, how many there were, and for
/// how long they hold. The order of records in a message means nothing.
fn follow(answer: RecordSection<'_, [u8]>, name: String) -> Option<Result<(String, usize, u32), &'static str>> {
    let mut aliases = Vec::new();
    for record in answer.take(DNS_RECORDS_MAX) {
        // A record whose head cannot be read makes the rest unreadable.
        record.ok()?;
    }
    for (owner, ttl, cname) in owned::<Cname<ParsedName<&[u8]>>>(answer) {
        if let Some(target) = text_of(cname.cname()) {
            aliases.push((owner, target, ttl));
        }
    }
    let (mut name, mut seen, mut least) = (name, 0, u32::MAX);
    while let Some((_, target, ttl)) = aliases.iter().find(|(owner, ..)| *owner == name) {
        if seen >= DNS_ALIASES_MAX {
            return Some(Err("a circle or too long a chain of aliases"));
        }
        seen += 1;
        least = least.min(*ttl);
        name.clone_from(target);
    }
    Some(Ok((name, seen, least)))
}

/// The records of `name` of the kind asked for; `Some(None)` if there are none.
fn records(answer: RecordSection<'_, [u8]>, kind: Kind, name: &str, least: &mut u32) -> Option<Option<Records>> {
    let mut count = 0;
    let mut ttl = |of: u32| {
        count += 1;
        *least = (*least).min(of);
    };
    let records = match kind {
        Kind::A | Kind::Aaaa => {
            let mut addresses = Vec::new();
            let v4 = owned::<A>(answer).map(|(owner, of, a)| (owner, of, IpAddr::V4(a.addr())));
            let v6 = owned::<Aaaa>(answer).map(|(owner, of, a)| (owner, of, IpAddr::V6(a.addr())));
            let wanted = |address: &IpAddr| address.is_ipv4() == (kind == Kind::A);
            for (_, of, address) in v4.chain(v6).filter(|(owner, _, address)| owner == name && wanted(address)) {
                ttl(of);
                // More addresses than we would ever try are not kept.
                if addresses.len() < DNS_TARGETS_MAX {
                    addresses.push(address);
                }
            }
            Records::Addresses(addresses)
        }
        Kind::Srv => {
            let mut all = Vec::new();
            for (_, of, srv) in owned::<Srv<ParsedName<&[u8]>>>(answer).filter(|(owner, ..)| owner == name) {
                ttl(of);
                if let Some(target) = text_of(srv.target()) {
                    all.push(SrvRecord { priority: srv.priority(), weight: srv.weight(), port: srv.port(), target });
                }
            }
            all.sort_by_key(|srv| srv.priority);
            all.truncate(DNS_TARGETS_MAX);
            Records::Srv(all)
        }
        Kind::Naptr => {
            let mut all = Vec::new();
            for (_, of, naptr) in owned::<Naptr<&[u8], ParsedName<&[u8]>>>(answer).filter(|(owner, ..)| owner == name) {
                ttl(of);
                let leads_to_srv = naptr.flags().as_slice().eq_ignore_ascii_case(b"s") && naptr.regexp().is_empty();
                let service = core::str::from_utf8(naptr.services().as_slice()).ok();
                if let (true, Some(service), Some(replacement)) = (leads_to_srv, service, text_of(naptr.replacement()))
                {
                    let service = service.to_ascii_uppercase();
                    all.push(NaptrRecord {
                        order: naptr.order(),
                        preference: naptr.preference(),
                        service,
                        replacement,
                    });
                }
            }
            all.truncate(DNS_TARGETS_MAX);
            Records::Naptr(all)
        }
    };
    Some((count > 0).then_some(records))
}

/// Of a section: the records of one type and class IN whose owner is a plain name,
/// with that name and the time they hold. Records that cannot be read are passed over.
fn owned<'a, Data: ParseRecordData<'a, [u8]>>(
    section: RecordSection<'a, [u8]>,
) -> impl Iterator<Item = (String, u32, Data)> {
    section.take(DNS_RECORDS_MAX).map_while(Result::ok).filter_map(|record| {
        let record = record.to_record::<Data>().ok()??;
        if record.class() != Class::IN {
            return None;
        }
        Some((text_of(record.owner())?, clamp(record.ttl().as_secs()), record.into_data()))
    })
}

/// A time to live with the top bit set counts as zero (RFC 2181 section 8).
const fn clamp(ttl: u32) -> u32 {
    if ttl > i32::MAX as u32 { 0 } else { ttl }
}

const fn is_plain(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_')
}

/// A name as lower-case text, empty for the root; `None` if it holds other octets than
/// letters, digits, `-` and `_`.
fn text_of<Octs: AsRef<[u8]>>(name: &ParsedName<Octs>) -> Option<String> {
    let mut text = String::new();
    for label in name.iter().filter(|label| !label.is_root()) {
        let label = label.as_slice();
        if !label.iter().copied().all(is_plain) {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.iter().map(|octet| char::from(octet.to_ascii_lowercase())));
    }
    Some(text)
}

/// A name with its length octets, uncompressed.
fn wire_of<Octs: AsRef<[u8]>>(name: &ParsedName<Octs>) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.iter() {
        wire.push(label.as_slice().len() as u8);
        wire.extend_from_slice(label.as_slice());
    }
    wire
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use core::net::Ipv4Addr;

    /// A small DNS server's half of the codec, which shares no code with the other.
    pub(crate) struct Answer(Vec<u8>, [u16; 3]);

    impl Answer {
        pub(crate) fn to(question: &[u8], rcode: u8) -> Self {
            let mut octets = question.to_vec();
            octets[2] = 0x81;
            octets[3] = 0x80 | rcode;
            Self(octets, [0; 3])
        }

        pub(crate) fn truncated(mut self) -> Self {
            self.0[2] |= 2;
            self
        }

        pub(crate) fn record(self, name: &str, rtype: u16, ttl: u32, data: &[u8]) -> Self {
            self.raw(&wire(name), rtype, ttl, data)
        }

        pub(crate) fn raw(mut self, name: &[u8], rtype: u16, ttl: u32, data: &[u8]) -> Self {
            self.0.extend_from_slice(name);
            self.0.extend_from_slice(&rtype.to_be_bytes());
            self.0.extend_from_slice(&1u16.to_be_bytes());
            self.0.extend_from_slice(&ttl.to_be_bytes());
            self.0.extend_from_slice(&(data.len() as u16).to_be_bytes());
            self.0.extend_from_slice(data);
            self.1[0] += 1;
            self
        }

        pub(crate) fn a(self, name: &str, ttl: u32, address: &str) -> Self {
            let address: Ipv4Addr = address.parse().expect("an address");
            self.record(name, 1, ttl, &address.octets())
        }

        pub(crate) fn cname(self, name: &str, ttl: u32, target: &str) -> Self {
            self.record(name, 5, ttl, &wire(target))
        }

        pub(crate) fn srv(self, name: &str, ttl: u32, priority: u16, weight: u16, port: u16, target: &str) -> Self {
            self.record(name, 33, ttl, &srv(priority, weight, port, target))
        }

        pub(crate) fn naptr(self, name: &str, order: u16, service: &str, replacement: &str) -> Self {
            let mut data = [order.to_be_bytes(), 50u16.to_be_bytes()].concat();
            for text in ["s", service, ""] {
                data.push(text.len() as u8);
                data.extend_from_slice(text.as_bytes());
            }
            data.extend_from_slice(&wire(replacement));
            self.record(name, 35, 300, &data)
        }

        /// An SOA in the authority section; comes last.
        pub(crate) fn soa(self, zone: &str, ttl: u32, minimum: u32) -> Self {
            let mut data = [wire("ns.example"), wire("root.example")].concat();
            for number in [1, 2, 3, 4, minimum] {
                data.extend_from_slice(&u32::to_be_bytes(number));
            }
            let mut with = self.record(zone, 6, ttl, &data);
            with.1[0] -= 1;
            with.1[1] += 1;
            with
        }

        pub(crate) fn octets(mut self) -> Vec<u8> {
            for (at, count) in self.1.into_iter().enumerate() {
                self.0[6 + 2 * at..8 + 2 * at].copy_from_slice(&count.to_be_bytes());
            }
            self.0
        }
    }

    pub(crate) fn wire(name: &str) -> Vec<u8> {
        let mut octets = Vec::new();
        for label in name.split('.').filter(|label| !label.is_empty()) {
            octets.push(label.len() as u8);
            octets.extend_from_slice(label.as_bytes());
        }
        octets.push(0);
        octets
    }

    pub(crate) fn srv(priority: u16, weight: u16, port: u16, target: &str) -> Vec<u8> {
        let mut data: Vec<u8> = [priority, weight, port].into_iter().flat_map(u16::to_be_bytes).collect();
        data.extend_from_slice(&wire(target));
        data
    }

    /// The name and the type a question asks for.
    pub(crate) fn asked(question: &[u8]) -> (String, u16) {
        let (mut at, mut name) = (12, String::new());
        while question[at] != 0 {
            let end = at + 1 + question[at] as usize;
            if !name.is_empty() {
                name.push('.');
            }
            name.push_str(core::str::from_utf8(&question[at + 1..end]).expect("text"));
            at = end;
        }
        (name.to_ascii_lowercase(), u16::from_be_bytes([question[at + 1], question[at + 2]]))
    }

    fn question(name: &str, kind: Kind) -> Question {
        Question::new(name, kind, &mut Rng::from_number(4)).expect("a good name")
    }

    fn addresses(all: &[&str]) -> Records {
        Records::Addresses(all.iter().map(|a| a.parse::<IpAddr>().expect("an address")).collect())
    }

    #[test]
    fn a_question_has_a_random_id_and_random_case() {
        let mut rng = Rng::from_number(1);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let question = Question::new("chat.example.org", Kind::Srv, &mut rng).expect("a name");
            assert_eq!(question.octets[..2], question.id.to_be_bytes());
            assert_eq!(question.octets[2..12], [1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
            assert_eq!(asked(&question.octets), ("chat.example.org".into(), 33));
            seen.insert((question.id, question.wire_name().to_vec()));
        }
        assert!(seen.len() > 98);
        assert!(seen.iter().any(|(_, name)| name.iter().any(u8::is_ascii_uppercase)));
    }

    #[test]
    fn what_the_dns_cannot_hold_is_not_asked() {
        let mut rng = Rng::from_number(1);
        for name in ["", ".", "a..b", "a.", "a b", "ü.example", "a\0b", &"a".repeat(64), &"abcdefg.".repeat(40)] {
            assert!(Question::new(name, Kind::A, &mut rng).is_none(), "{name}");
        }
        let longest = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(61));
        assert!(Question::new(&longest, Kind::A, &mut rng).is_some());
        assert!(Question::new(&format!("{longest}b"), Kind::A, &mut rng).is_none());
    }

    #[test]
    fn an_answer_is_held_against_its_question() {
        let question = question("chat.example", Kind::A);
        let good = || Answer::to(&question.octets, 0).a("chat.example", 60, "192.0.2.1").octets();
        assert_eq!(parse(&good(), &question, true), Ok(Reply::Records(addresses(&["192.0.2.1"]), 60)));
        let with = |at: usize, octet: u8| {
            let mut octets = good();
            octets[at] ^= octet;
            parse(&octets, &question, true)
        };
        assert_eq!(with(0, 1), Err(Foreign::Id));
        assert_eq!(with(1, 1), Err(Foreign::Id));
        assert_eq!(with(2, 0x80), Err(Foreign::Malformed), "a question");
        assert_eq!(with(2, 0x08), Err(Foreign::Malformed), "another opcode");
        assert_eq!(with(5, 3), Err(Foreign::Question), "two questions");
        assert_eq!(with(13, 0x20), Err(Foreign::Case));
        assert_eq!(with(13, 1), Err(Foreign::Question));
        let end = question.octets.len();
        assert_eq!(with(end - 3, 2), Err(Foreign::Question), "another type");
        assert_eq!(with(end - 1, 2), Err(Foreign::Question), "another class");
        let mut other_case = good();
        other_case[13] ^= 0x20;
        assert!(matches!(parse(&other_case, &question, false), Ok(Reply::Records(..))), "over TCP");
        for length in 0..12 {
            assert_eq!(parse(&good()[..length], &question, true), Err(Foreign::Malformed));
        }
    }

    #[test]
    fn records_that_do_not_answer_the_question_are_not_believed() {
        let question = question("chat.example", Kind::A);
        let octets = Answer::to(&question.octets, 0)
            .a("bank.example", 60, "203.0.113.1")
            .cname("chat.example", 60, "host.example")
            .a("chat.example.evil.example", 60, "203.0.113.2")
            .record("host.example", 28, 60, &[0; 16])
            .a("HOST.example", 30, "192.0.2.1")
            .octets();
        assert_eq!(parse(&octets, &question, true), Ok(Reply::Records(addresses(&["192.0.2.1"]), 30)));
    }

    #[test]
    fn aliases_are_followed_up_to_a_bound_and_not_in_circles() {
        let question = question("a0.example", Kind::A);
        let chain = |length: usize| {
            let mut answer = Answer::to(&question.octets, 0);
            // In the wrong order: order means nothing.
            for n in (0..length).rev() {
                answer = answer.cname(&format!("a{n}.example"), 100 + n as u32, &format!("a{}.example", n + 1));
            }
            parse(&answer.a(&format!("a{length}.example"), 200, "192.0.2.1").octets(), &question, true)
        };
        assert_eq!(chain(DNS_ALIASES_MAX), Ok(Reply::Records(addresses(&["192.0.2.1"]), 100)));
        assert!(matches!(chain(DNS_ALIASES_MAX + 1), Ok(Reply::Failed(_))));
        assert!(matches!(chain(50), Ok(Reply::Failed(_))));
        let circle = Answer::to(&question.octets, 0)
            .cname("a0.example", 60, "a1.example")
            .cname("a1.example", 60, "a0.example")
            .octets();
        assert!(matches!(parse(&circle, &question, true), Ok(Reply::Failed(_))));
        let open = Answer::to(&question.octets, 0).cname("a0.example", 60, "a1.example").octets();
        assert_eq!(parse(&open, &question, true), Ok(Reply::Alias("a1.example".into(), 1, 60)));
        let closed =
            Answer::to(&question.octets, 0).cname("a0.example", 60, "a1.example").soa("example", 9, 9).octets();
        assert_eq!(parse(&closed, &question, true), Ok(Reply::NoData(Some(9))));
    }

    #[test]
    fn negative_answers_hold_as_long_as_the_soa_says() {
        let question = question("chat.example", Kind::A);
        let answer = |rcode| Answer::to(&question.octets, rcode);
        assert_eq!(parse(&answer(0).octets(), &question, true), Ok(Reply::NoData(None)));
        assert_eq!(parse(&answer(0).soa("example", 60, 30).octets(), &question, true), Ok(Reply::NoData(Some(30))));
        assert_eq!(parse(&answer(3).soa("example", 20, 30).octets(), &question, true), Ok(Reply::NoSuchName(Some(20))));
        assert_eq!(parse(&answer(2).octets(), &question, true), Ok(Reply::Failed("SERVFAIL")));
        assert_eq!(parse(&answer(5).octets(), &question, true), Ok(Reply::Failed("REFUSED")));
        assert_eq!(parse(&answer(0).truncated().octets(), &question, true), Ok(Reply::Truncated));
    }

    #[test]
    fn odd_times_to_live_are_tamed() {
        let question = question("chat.example", Kind::A);
        for (ttl, holds) in [(0, 0), (1 << 31, 0), (u32::MAX, 0), (i32::MAX as u32, i32::MAX as u32)] {
            let octets = Answer::to(&question.octets, 0).a("chat.example", ttl, "192.0.2.1").octets();
            assert_eq!(parse(&octets, &question, true), Ok(Reply::Records(addresses(&["192.0.2.1"]), holds)));
        }
    }

    #[test]
    fn of_many_records_the_first_ones_are_kept() {
        let question = question("_xmpp-server._tcp.chat.example", Kind::Srv);
        let mut answer = Answer::to(&question.octets, 0);
        for n in 0..200u16 {
            answer = answer.srv("_xmpp-server._tcp.chat.example", 60, 200 - n, 0, n, "host.example");
        }
        let Ok(Reply::Records(Records::Srv(all), 60)) = parse(&answer.octets(), &question, true) else {
            panic!("no records");
        };
        assert_eq!(all.len(), DNS_TARGETS_MAX);
        assert!(all.iter().map(|srv| srv.port).eq((184..200).rev()));
    }

    #[test]
    fn names_with_odd_octets_go_nowhere() {
        let question = question("_sip._tcp.chat.example", Kind::Srv);
        let owner = "_sip._tcp.chat.example";
        let mut odd = srv(1, 1, 5060, "host.example");
        odd[8] = 7;
        let answer = Answer::to(&question.octets, 0).record(owner, 33, 60, &odd).srv(owner, 60, 2, 0, 0, "").record(
            owner,
            33,
            60,
            &[0, 1, 0],
        );
        let Ok(Reply::Records(Records::Srv(all), _)) = parse(&answer.octets(), &question, true) else {
            panic!("no records");
        };
        assert_eq!(all, [SrvRecord { priority: 2, weight: 0, port: 0, target: String::new() }]);
    }

    #[test]
    fn naptr_records_lead_to_srv_records_only() {
        let question = question("sip.example", Kind::Naptr);
        let mut with_regexp = vec![0, 1, 0, 1, 1, b's', 7];
        with_regexp.extend_from_slice(b"SIP+D2T\x05!a!b!\0");
        let octets = Answer::to(&question.octets, 0)
            .naptr("sip.example", 10, "sips+d2t", "_sips._tcp.sip.example")
            .record("sip.example", 35, 300, &with_regexp)
            .octets();
        let Ok(Reply::Records(Records::Naptr(all), _)) = parse(&octets, &question, true) else { panic!("no records") };
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].order, all[0].service.as_str()), (10, "SIPS+D2T"));
        assert_eq!(all[0].replacement, "_sips._tcp.sip.example");
    }

    #[test]
    fn pointers_in_circles_and_over_the_end_are_survived() {
        let question = question("chat.example", Kind::A);
        let here = question.octets.len() as u16;
        for pointer in [here, here + 2, here - 1, 0x3fff, 0] {
            let name = (0xC000 | pointer).to_be_bytes();
            let octets = Answer::to(&question.octets, 0).raw(&name, 1, 60, &[192, 0, 2, 1]).octets();
            let reply = parse(&octets, &question, true);
            assert!(matches!(reply, Ok(Reply::NoData(None) | Reply::Failed(_))), "{pointer}: {reply:?}");
        }
        // A compressed owner as servers write it.
        let octets = Answer::to(&question.octets, 0).raw(&[0xC0, 12], 1, 60, &[192, 0, 2, 1]).octets();
        assert_eq!(parse(&octets, &question, true), Ok(Reply::Records(addresses(&["192.0.2.1"]), 60)));
    }

    #[test]
    fn any_damage_gives_some_answer_and_no_panic() {
        let mut rng = Rng::from_number(9);
        let question = question("_sip._tcp.chat.example", Kind::Srv);
        let good = Answer::to(&question.octets, 0)
            .cname("_sip._tcp.chat.example", 60, "_sip._tcp.b.example")
            .raw(&[0xC0, 12], 33, 60, &srv(1, 2, 3, "host.example"))
            .soa("example", 60, 60)
            .octets();
        for length in 0..good.len() {
            let _ = parse(&good[..length], &question, true);
        }
        for _ in 0..50_000 {
            let mut octets = good.clone();
            for _ in 0..1 + rng.below(4) {
                let at = rng.below(octets.len() as u64) as usize;
                octets[at] = rng.next_u64() as u8;
            }
            let _ = parse(&octets, &question, false);
        }
    }

    #[test]
    fn a_huge_answer_costs_little() {
        let question = question("chat.example", Kind::A);
        let mut answer = Answer::to(&question.octets, 0);
        for _ in 0..4000 {
            answer = answer.raw(&[0xC0, 12], 1, 60, &[192, 0, 2, 1]);
        }
        let Ok(Reply::Records(Records::Addresses(all), 60)) = parse(&answer.octets(), &question, true) else {
            panic!("no records");
        };
        assert_eq!(all.len(), DNS_TARGETS_MAX);
    }
}
