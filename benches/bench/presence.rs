//! Contacts and presence through `Gateway::handle`: what a subscription holds, how fast
//! ten thousand of them are taken in, and what one change costs with more and more held.
//! SIP is one next hop over TCP, XMPP one partner; every pair has two users of its own,
//! which is the worst case for memory.

use crate::memory::{Cost, Memory, Sip, answer_to};
use latimer::limits::CONTACTS_MAX;

/// The dialogs' own values are as long as usual: Call-ID 32 octets, tags 10, URIs 30 to
/// 40, and one set of two proxies.
const ROUTES: [&str; 2] = ["<sip:edge.sip.example:5061;transport=tls;lr>", "<sip:core.sip.example;lr;ftag=a1b2c3>"];
/// A note of 20 octets, another one each time.
fn note(number: u64) -> String {
    format!("in the tower {number:07}")
}

/// Pairs of users, half of them watched in each direction.
pub struct Presence {
    memory: Memory,
    /// For the CSeq of NOTIFYs and the branches of requests.
    number: u64,
    /// Of each pair whose SIP user we are watching: the Request-URI, To and From of a NOTIFY.
    watched: Vec<Dialog>,
    /// SIP users who came to watch, and those of them who were let in.
    came: usize,
    watchers: usize,
    /// NOTIFYs that came.
    pub notified: usize,
}

/// A dialog that the gateway subscribed in.
struct Dialog {
    target: String,
    from: String,
    to: String,
    call_id: String,
    cseq: u32,
}

fn sip_user(number: usize) -> String {
    format!("marta.weber.{number:06}")
}

fn xmpp_user(number: usize) -> String {
    format!("lena.sommer.{number:06}")
}

/// The value of a header field.
fn value<'a>(message: &'a str, name: &str) -> &'a str {
    let line = message.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(':')));
    line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim()).unwrap_or_default()
}

impl Presence {
    pub fn new(sip: Sip) -> Self {
        Self::with(sip, "set presence min-interval 1\n")
    }

    /// The same with settings of its own.
    fn with(sip: Sip, more: &str) -> Self {
        let lines = format!("set presence expires 86400\n{more}");
        let memory = Memory::over(sip, 1, &lines);
        Self { memory, number: 0, watched: Vec::new(), came: 0, watchers: 0, notified: 0 }
    }

    /// What the gateway cost and took since this was last asked.
    pub fn take_cost(&mut self) -> Cost {
        self.memory.take_cost()
    }

    /// Milliseconds go by.
    pub fn pass_time(&mut self, ms: u64) {
        self.memory.pass_time(ms);
        self.after_event();
    }

    /// A message comes from SIP; what the gateway sent for it is answered.
    fn sip_sends(&mut self, message: &[u8]) -> Vec<String> {
        self.memory.sip_sends(message);
        self.after_event()
    }

    /// The same from XMPP.
    fn xmpp_sends(&mut self, stanza: &str) -> Vec<String> {
        self.memory.xmpp_sends(0, stanza);
        self.after_event()
    }

    /// Settles what an event left, and answers NOTIFYs. Gives the other SIP messages.
    fn after_event(&mut self) -> Vec<String> {
        let mut left = Vec::new();
        loop {
            self.memory.after_event();
            let sent = core::mem::take(&mut self.memory.sip_sent);
            if sent.is_empty() {
                return left;
            }
            for message in sent {
                if message.starts_with(b"NOTIFY") {
                    self.notified += 1;
                    self.memory.sip_sends(&answer_to(&message, ""));
                } else if message == b"\r\n\r\n" {
                    // It asks whether we are still there (RFC 5626).
                    self.memory.sip_sends(b"\r\n");
                } else {
                    left.push(String::from_utf8(message).expect("SIP of ASCII"));
                }
            }
        }
    }

    fn transport(&self) -> &'static str {
        if self.memory.sip == Sip::Udp { "UDP" } else { "TCP" }
    }

    /// A SIP user subscribes to an XMPP user, who says yes and shows himself: SUBSCRIBE,
    /// 200, NOTIFY pending, `subscribe`, `subscribed`, NOTIFY active, `<presence/>`,
    /// NOTIFY with state.
    pub fn be_watched(&mut self) -> bool {
        let number = self.came;
        self.came += 1;
        let (sip, xmpp) = (sip_user(number), xmpp_user(number));
        let transport = self.transport();
        let record_route: String = ROUTES.iter().map(|route| format!("Record-Route: {route}\r\n")).collect();
        let subscribe = format!(
            "SUBSCRIBE sip:{xmpp}@p0.example SIP/2.0\r\nVia: SIP/2.0/{transport} 127.0.0.2:5060;branch=z9hG4bKs{number:08}\r\n\
             Via: SIP/2.0/UDP 192.0.2.7:5060;branch=z9hG4bKp{number:08};received=192.0.2.7;rport=5060\r\n{record_route}\
             Max-Forwards: 69\r\nFrom: <sip:{sip}@sip.example>;tag=f{number:09}\r\nTo: <sip:{xmpp}@p0.example>\r\n\
             Call-ID: c{number:020}@192.0.2.77x\r\nCSeq: 1 SUBSCRIBE\r\nContact: <sip:{sip}@192.0.2.77:5060>\r\n\
             User-Agent: bench\r\nEvent: presence\r\nAccept: application/pidf+xml\r\nExpires: 86400\r\n\
             Content-Length: 0\r\n\r\n"
        );
        let before = self.notified;
        let answers = self.sip_sends(subscribe.as_bytes());
        if !answers.first().is_some_and(|answer| answer.starts_with("SIP/2.0 200")) {
            return false;
        }
        self.watchers += 1;
        self.xmpp_sends(&format!("<presence from='{xmpp}@p0.example' to='{sip}@sip.example' type='subscribed'/>"));
        self.change_xmpp(number);
        self.notified - before == 3
    }

    /// An XMPP user subscribes to a SIP user, who says yes and shows himself: `subscribe`,
    /// SUBSCRIBE, 200, NOTIFY, `subscribed`, `<presence/>`.
    pub fn watch(&mut self) -> bool {
        let number = self.watched.len();
        let (sip, xmpp) = (format!("paul.{}", sip_user(number)), format!("anna.{}", xmpp_user(number)));
        let sent = self.xmpp_sends(&format!(
            "<presence from='{xmpp}@p0.example' to='{sip}@sip.example' type='subscribe' id='s{number}'/>"
        ));
        let Some(subscribe) = sent.into_iter().find(|message| message.starts_with("SUBSCRIBE")) else { return false };
        let contact = format!("<sip:{sip}@192.0.2.77:5060>");
        let record_route: String = ROUTES.iter().map(|route| format!("Record-Route: {route}\r\n")).collect();
        let answer =
            answer_to(subscribe.as_bytes(), &format!("Contact: {contact}\r\n{record_route}Expires: 86400\r\n"));
        let tag = format!("m{number:09}");
        let answer = String::from_utf8(answer).expect("SIP of ASCII");
        let answer = answer.replacen(value(&subscribe, "To"), &format!("{};tag={tag}", value(&subscribe, "To")), 1);
        self.watched.push(Dialog {
            target: value(&subscribe, "Contact").trim_matches(['<', '>']).to_owned(),
            from: format!("{};tag={tag}", value(&subscribe, "To")),
            to: value(&subscribe, "From").to_owned(),
            call_id: value(&subscribe, "Call-ID").to_owned(),
            cseq: 0,
        });
        self.sip_sends(answer.as_bytes());
        let before = self.memory.presences_sent;
        self.change_sip(number);
        // `subscribed` goes out in the turn after its record is safe.
        self.pass_time(1);
        self.memory.presences_sent - before == 2
    }

    /// The presence of an XMPP user changes, and his watcher gets a NOTIFY.
    pub fn change_xmpp(&mut self, number: usize) {
        self.number += 1;
        let (sip, xmpp, note) = (sip_user(number), xmpp_user(number), note(self.number));
        self.xmpp_sends(&format!(
            "<presence from='{xmpp}@p0.example/balcony' to='{sip}@sip.example'><show>away</show>\
             <status>{note}</status><priority>5</priority></presence>"
        ));
    }

    /// The presence of a SIP user changes, and his watcher gets a stanza.
    pub fn change_sip(&mut self, number: usize) {
        self.number += 1;
        let (branch, note) = (self.number, note(self.number));
        let transport = self.transport();
        let user = format!("paul.{}", sip_user(number));
        let Dialog { target, from, to, call_id, cseq } = &mut self.watched[number];
        *cseq += 1;
        let body = format!(
            "<?xml version='1.0' encoding='UTF-8'?>\r\n<presence xmlns='urn:ietf:params:xml:ns:pidf' \
             entity='pres:{user}@sip.example'><tuple id='desk4'><status><basic>open</basic>\
             <show xmlns='jabber:client'>away</show></status><note>{note}</note></tuple></presence>"
        );
        let notify = format!(
            "NOTIFY {target} SIP/2.0\r\nVia: SIP/2.0/{transport} 127.0.0.2:5060;branch=z9hG4bKn{branch:08}\r\n\
             Max-Forwards: 69\r\nFrom: {from}\r\nTo: {to}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} NOTIFY\r\n\
             Contact: <sip:{user}@192.0.2.77:5060>\r\nEvent: presence\r\nSubscription-State: active;expires=86000\r\n\
             Content-Type: application/pidf+xml\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answers = self.sip_sends(notify.as_bytes());
        assert!(answers.iter().all(|answer| answer.starts_with("SIP/2.0 200")), "{answers:?}");
    }

    /// That many changes, each of another pair than the last and each told at once.
    fn change(&mut self, way: Way, count: usize) {
        let (notified, told) = (self.notified, self.memory.presences_sent);
        for _ in 0..count {
            match way {
                Way::ToSip => self.change_xmpp(self.number as usize % self.watchers),
                Way::ToXmpp => self.change_sip(self.number as usize % self.watched.len()),
            }
            self.pass_time(CHANGE_PAUSE_MS);
        }
        let done = match way {
            Way::ToSip => self.notified - notified,
            Way::ToXmpp => self.memory.presences_sent - told,
        };
        assert_eq!(done, count, "not every change was told at once");
    }

    /// Holds that many subscriptions, half in each direction.
    fn hold(&mut self, count: usize) {
        self.hold_both(count / 2, count / 2);
    }

    /// Holds at least that many of SIP users, and of XMPP users.
    fn hold_both(&mut self, watchers: usize, watched: usize) {
        while self.watchers < watchers {
            assert!(self.be_watched(), "watcher {} was not told all", self.watchers);
            self.pass_time(2);
        }
        while self.watched.len() < watched {
            assert!(self.watch(), "watcher {} of XMPP was not told all", self.watched.len());
            self.pass_time(2);
        }
    }
}

/// Dialogs of one Edge of Lync, half in each direction.
const LYNC_DIALOGS: usize = 40_000;
/// The users behind it.
const LYNC_USERS: usize = 1000;

/// How the dialogs of an Edge differ.
#[derive(Clone, Copy)]
struct Edge {
    /// So many dialogs in a row have one route set.
    alike: usize,
    /// Both directions are between the same users.
    is_mutual: bool,
}

impl Edge {
    /// Two hops of about 500 octets. What changes from set to set is the signature and the
    /// tag; the key is that of the connection.
    fn route_set(self, number: usize) -> [String; 2] {
        let (set, key) = (number / self.alike, "Xb7-dR_q".repeat(45));
        ["edge.sip.example", "pool.sip.example"].map(|host| {
            format!(
                "<sip:{host}:5061;transport=tls;lr;ms-key-info=AAEAAW{key};ms-route-sig={set:0>42}AA>;tag={set:032X}"
            )
        })
    }

    /// The SIP user and the XMPP user of a dialog.
    fn users(self, number: usize, is_watched: bool) -> (String, String) {
        let way = if is_watched && !self.is_mutual { "paul" } else { "marta" };
        (format!("{way}.weber.{:04}", number % LYNC_USERS), format!("{way}.sommer.{number:06}"))
    }
}

/// Dialogs as an Edge has them.
impl Presence {
    /// A user of Lync subscribes, as in [`Self::be_watched`].
    fn be_watched_by_lync(&mut self, edge: Edge, number: usize) {
        let (sip, xmpp) = edge.users(number, false);
        let record_route: String = edge.route_set(number).map(|route| format!("Record-Route: {route}\r\n")).concat();
        let subscribe = format!(
            "SUBSCRIBE sip:{xmpp}@p0.example SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.2:50120;branch=z9hG4bKs{number:08};\
             branched=FALSE\r\nVia: SIP/2.0/TLS 192.0.2.7:5061;branch=z9hG4bKp{number:08}\r\n{record_route}\
             Max-Forwards: 67\r\nFrom: \"Marta Weber\"<sip:{sip}@sip.example>;tag=f{number:09};epid=75a92f45aa\r\n\
             To: <sip:{xmpp}@p0.example>\r\nCall-ID: {number:032x}\r\nCSeq: 1 SUBSCRIBE\r\n\
             Contact: <sip:{sip}@sip.example;opaque=user:epid:N4OQykhuMBrKaTofmj{number:06};gruu>\r\n\
             Event: presence\r\nAccept: application/msrtc-event-categories+xml, text/xml+msrtc.pidf, \
             application/pidf+xml\r\nSupported: com.microsoft.autoextend\r\nSupported: ms-piggyback-first-notify\r\n\
             Expires: 36000\r\nContent-Length: 0\r\n\r\n"
        );
        let before = self.notified;
        let answers = self.sip_sends(subscribe.as_bytes());
        assert!(answers.first().is_some_and(|answer| answer.starts_with("SIP/2.0 200")), "{answers:?}");
        self.xmpp_sends(&format!("<presence from='{xmpp}@p0.example' to='{sip}@sip.example' type='subscribed'/>"));
        self.number += 1;
        let note = note(self.number);
        self.xmpp_sends(&format!(
            "<presence from='{xmpp}@p0.example/balcony' to='{sip}@sip.example'><show>away</show>\
             <status>{note}</status><priority>5</priority></presence>"
        ));
        self.pass_time(2);
        assert_eq!(self.notified - before, 3, "watcher {number} was not told all");
    }

    /// An XMPP user subscribes to a user of Lync, whose state rides in the answer.
    fn watch_lync(&mut self, edge: Edge, number: usize) {
        let (sip, xmpp) = edge.users(number, true);
        let before = self.memory.presences_sent;
        let sent = self.xmpp_sends(&format!(
            "<presence from='{xmpp}@p0.example' to='{sip}@sip.example' type='subscribe' id='s{number}'/>"
        ));
        let subscribe = sent.into_iter().find(|message| message.starts_with("SUBSCRIBE")).expect("a SUBSCRIBE");
        let record_route: String = edge.route_set(number).map(|route| format!("Record-Route: {route}\r\n")).concat();
        self.number += 1;
        let body = format!(
            "<presentity uri=\"{sip}@sip.example\" xmlns=\"http://schemas.microsoft.com/2002/09/sip/presence\">\
             <availability aggregate=\"300\"/><activity aggregate=\"600\"/>\
             <displayName displayName=\"Marta Weber\"/><userInfo><note>{}</note></userInfo></presentity>",
            note(self.number)
        );
        let more = format!(
            "Contact: <sip:fe01.corp.sip.example:5061;transport=tls>\r\n{record_route}Expires: 29087\r\n\
             Event: presence\r\nsubscription-state: active;expires=29087\r\nms-piggyback-cseq: 1\r\n\
             Content-Type: text/xml+msrtc.pidf\r\n"
        );
        let answer = String::from_utf8(answer_to(subscribe.as_bytes(), &more)).expect("SIP of ASCII");
        let tagged = format!("{};tag={number:032X}", value(&subscribe, "To"));
        let answer = answer.replacen(value(&subscribe, "To"), &tagged, 1);
        let answer = answer.replacen("Content-Length: 0\r\n", &format!("Content-Length: {}\r\n", body.len()), 1);
        self.sip_sends(format!("{answer}{body}").as_bytes());
        self.pass_time(2);
        assert!(self.memory.presences_sent - before >= 2, "watcher {number} of XMPP was not told all");
    }
}

/// What the dialogs of one Edge hold on the heap.
pub fn edge() {
    println!("\n{:<52}{:>10}{:>10}{:>10}", "one Edge of Lync, route sets of 1 KB", "dialogs", "octets", "MiB");
    for (name, alike, is_mutual) in [
        ("all by one way, pairs of their own", usize::MAX, false),
        ("a hundred each by one way, pairs of their own", 100, false),
        ("a hundred each by one way, pairs of both directions", 100, true),
        ("each by its own way, pairs of their own", 1, false),
    ] {
        let edge = Edge { alike, is_mutual };
        let mut presence =
            Presence::with(Sip::Tcp, "set presence min-interval 0\nset sip domain sip.example dialect lync\n");
        presence.take_cost();
        for number in 0..LYNC_DIALOGS / 2 {
            presence.be_watched_by_lync(edge, number);
            presence.watch_lync(edge, number);
        }
        // Whatever is kept of the work itself is given up.
        presence.pass_time(60_000);
        let held = presence.take_cost().held as f64;
        println!("{name:<52}{LYNC_DIALOGS:>10}{:>10.0}{:>10.1}", held / LYNC_DIALOGS as f64, held / (1024.0 * 1024.0));
    }
}

/// Milliseconds between two changes: one pair's come at most every five seconds.
const CHANGE_PAUSE_MS: u64 = 110;
/// How many subscriptions are held while changes are measured.
const SIZES: [usize; 3] = [100, 10_000, CONTACTS_MAX];

/// Which way a change goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    ToSip,
    ToXmpp,
}

const WAYS: [(&str, &str, Way); 2] =
    [("<presence/> -> NOTIFY", "to-sip", Way::ToSip), ("NOTIFY -> <presence/>", "to-xmpp", Way::ToXmpp)];

/// What subscriptions hold on the heap.
pub fn subscriptions() {
    println!("\n{:<52}{:>10}{:>10}{:>10}", "heap octets a subscription", "held", "all", "growth");
    for (name, watchers, watched) in [
        ("SIP watchers", CONTACTS_MAX, 0),
        ("XMPP watchers", 0, CONTACTS_MAX),
        ("half SIP watchers, half XMPP watchers", CONTACTS_MAX / 2, CONTACTS_MAX / 2),
    ] {
        let mut presence = Presence::new(Sip::Tcp);
        presence.take_cost();
        let mut held_by = |share: usize| {
            presence.hold_both(watchers / share, watched / share);
            // Whatever is kept of the work itself is given up.
            presence.pass_time(60_000);
            presence.take_cost().held as f64
        };
        // What a gateway keeps for any traffic is there with the first of them.
        let first = held_by(50);
        let growth = held_by(1);
        println!(
            "{name:<52}{CONTACTS_MAX:>10}{:>10.0}{:>10.0}",
            (first + growth) / CONTACTS_MAX as f64,
            growth / (CONTACTS_MAX - CONTACTS_MAX / 50) as f64
        );
    }
}

/// Ten thousand SIP users come at once and are told.
pub fn rush() {
    const COMING: usize = 10_000;
    println!(
        "\n{:<52}{:>10}{:>10}{:>10}{:>10}",
        "10,000 SUBSCRIBEs, taken in and told", "cpu s", "cpu us", "not taken", "told late"
    );
    for (name, sip, pause_ms) in [
        ("over TCP, as fast as it goes", Sip::Tcp, 0),
        ("over UDP, 10 ms apart", Sip::Udp, 10),
        ("over UDP, 6 ms apart", Sip::Udp, 6),
    ] {
        let mut presence = Presence::new(sip);
        presence.take_cost();
        let mut told_at_once = 0;
        for _ in 0..COMING {
            told_at_once += usize::from(presence.be_watched());
            if pause_ms > 0 {
                presence.pass_time(pause_ms);
            }
        }
        let seconds = presence.take_cost().ns as f64 / 1e9;
        let (taken, each) = (presence.watchers, seconds * 1e6 / COMING as f64);
        println!("{name:<52}{seconds:>10.2}{each:>10.1}{:>10}{:>10}", COMING - taken, taken - told_at_once);
    }
}

/// One change of presence, with more and more subscriptions held.
pub fn changes() {
    println!("\n{:<52}{:>10}{:>10}{:>10}{:>10}", "a change of presence", "held", "ns", "allocs", "octets");
    for held in SIZES {
        let mut presence = Presence::new(Sip::Tcp);
        presence.hold(held);
        for (name, _, way) in WAYS {
            // Less than the ten minutes after which a stream without stanzas is closed.
            presence.change(way, 500);
            presence.take_cost();
            let count = 2000;
            presence.change(way, count);
            let cost = presence.take_cost();
            let per = |total: f64| total / count as f64;
            println!(
                "{name:<52}{held:>10}{:>10.0}{:>10.1}{:>10.0}",
                per(cost.ns as f64),
                per(cost.allocations as f64),
                per(cost.octets as f64)
            );
        }
    }
}

/// The same in instructions, by the difference of two counts under callgrind: those of
/// the neighbours in this file are among them, the same for each size. The largest size
/// would take very long to set up.
pub fn instructions() {
    println!("\n{:<52}{:>10}{:>14}", "a change of presence, under callgrind", "held", "instructions");
    for held in [SIZES[0], SIZES[1]] {
        for (name, word, _) in WAYS {
            let counted =
                |count: usize| super::instructions_of(&["be-changed", &held.to_string(), word, &count.to_string()]);
            println!("{name:<52}{held:>10}{:>14.0}", (counted(600) - counted(100)) / 500.0);
        }
    }
}

/// The process under callgrind: holds, changes, ends.
pub fn be_changed(held: &str, way: &str, count: &str) {
    let number = |text: &str| text.parse::<usize>().expect("a number");
    let (_, _, way) = WAYS.into_iter().find(|(_, word, _)| *word == way).expect("a way");
    let mut presence = Presence::new(Sip::Tcp);
    presence.hold(number(held));
    presence.change(way, number(count));
}
