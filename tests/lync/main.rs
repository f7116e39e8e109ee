//! Forty messages as an Edge sends them (`samples`): all of them parse, and the gateway
//! answers each as `manifest.tsv` says, in its order inside its dialog. No sockets: the
//! gateway stands on a virtual clock, the neighbours are those of the attacks.

#[allow(dead_code)] // Shared with the attacks.
#[path = "../attacks/house.rs"]
mod house;
#[allow(dead_code)] // Shared with the attacks.
#[path = "../attacks/sip.rs"]
mod sip;
#[allow(dead_code)] // Shared with the attacks.
#[path = "../attacks/world.rs"]
mod world;
#[allow(dead_code)] // Shared with the attacks.
#[path = "../attacks/xml.rs"]
mod xml;

use latimer::appliance::config;
use latimer::base::net::LinkId;
use latimer::sip::framer::{Frame, Framer};
use latimer::sip::message::Message;
use sip::Sip;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use world::{Mood, PROXY, SIP_TLS, World};
use xml::El;

const SIP: &str = "contoso.example";
const XMPP: &str = "fabrikam.example";
const ALICE: &str = "alice@contoso.example";
const BOB: &str = "bob@fabrikam.example";

/// One line of `manifest.tsv`.
struct Row {
    file: String,
    is_request: bool,
    octets: usize,
    body_octets: usize,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lync/samples")
}

fn manifest() -> Vec<Row> {
    let table = std::fs::read_to_string(folder().join("manifest.tsv")).expect("the manifest");
    let rows = table.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let rows = rows.map(|row| {
        let columns: Vec<_> = row.split('\t').collect();
        let [file, kind, _, octets, body_octets, _] = columns[..] else {
            panic!("a row of {} columns: {row}", columns.len())
        };
        let number = |text: &str| text.parse().expect("a number");
        let (octets, body_octets) = (number(octets), number(body_octets));
        Row { file: file.into(), is_request: kind == "request", octets, body_octets }
    });
    rows.collect()
}

/// The text of the sample whose file begins with this number.
fn sample(number: &str) -> String {
    let row = manifest().into_iter().find(|row| row.file.starts_with(number)).expect("a sample of that number");
    std::fs::read_to_string(folder().join(row.file)).expect("a sample")
}

/// The value of the first header field of this name in a sample.
fn field<'a>(text: &'a str, name: &str) -> &'a str {
    let (head, _) = text.split_once("\r\n\r\n").expect("a head");
    let line = head.lines().find(|l| l.split(':').next().is_some_and(|n| n.eq_ignore_ascii_case(name)));
    line.map_or("", |line| line.split_once(':').expect("a field").1.trim())
}

/// A sample with other values of some header fields, of each the first line.
fn with(text: &str, fields: &[(&str, &str)]) -> String {
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let mut lines: Vec<String> = head.split("\r\n").map(String::from).collect();
    for (name, value) in fields {
        let fits = |line: &&mut String| line.split(':').next().is_some_and(|n| n.eq_ignore_ascii_case(name));
        let line = lines.iter_mut().skip(1).find(fits).expect("a field of that name");
        *line = format!("{name}: {value}");
    }
    format!("{}\r\n\r\n{body}", lines.join("\r\n"))
}

fn tag(value: &str) -> &str {
    let parameters = value.rsplit('>').next().unwrap_or("");
    parameters.split(';').find_map(|p| p.strip_prefix("tag=")).unwrap_or("")
}

/// The gateway with its Edge and the server of the other domain.
struct Scene {
    world: World,
    edge: LinkId,
    /// The stream of the XMPP server.
    server: Option<LinkId>,
}

impl Scene {
    fn new() -> Self {
        Self::with("")
    }

    fn with(more: &str) -> Self {
        let text = format!(
            "set system host-name sipgw.{XMPP}\nset sip domain {SIP} next-hop tcp:{PROXY}\n\
             set sip domain {SIP} peer sip.{SIP}\nset sip domain {SIP} peer {PROXY}\n\
             set sip domain {SIP} dialect lync\nset partner {XMPP} type federated\n{more}"
        );
        let (config, _) = config::load(&text).expect("a good configuration");
        let mut settings = config.settings;
        let others = world::settings();
        (settings.listeners, settings.dns_servers) = (others.listeners, others.dns_servers);
        for (place, partner) in settings.partners.iter_mut().enumerate() {
            partner.proxy = world::partner(&partner.domain, place).proxy;
        }
        let mut world = World::with(settings);
        // The test answers itself.
        world.moods.insert(PROXY, Mood::Silent);
        let edge = edge_link(&mut world, 50_104, &[&format!("sip.{SIP}")]);
        Self { world, edge, server: None }
    }

    /// The Edge says this; gives the final answers to it.
    fn say(&mut self, text: &str) -> Vec<Sip> {
        let (call, cseq) = (field(text, "Call-ID").to_string(), field(text, "CSeq").to_string());
        let before = self.world.responses.get(&call).map_or(0, Vec::len);
        self.world.write(self.edge, text.as_bytes());
        self.world.pass(100);
        let all = self.world.responses.get(&call).map_or(&[][..], |all| &all[before..]);
        all.iter().filter(|answer| answer.status() >= 200 && answer.get("CSeq") == cseq).cloned().collect()
    }

    /// The same with one answer, whose hops, names and numbers are those of the request.
    fn ask(&mut self, text: &str) -> Sip {
        let mut answers = self.say(text);
        assert_eq!(
            answers.len(),
            1,
            "{}: {:?}{}",
            text.lines().next().unwrap_or(""),
            answers.iter().map(|answer| &*answer.start).collect::<Vec<_>>(),
            self.world.log()
        );
        let answer = answers.remove(0);
        let vias = |fields: Vec<&str>| fields.iter().map(ToString::to_string).collect::<Vec<_>>();
        let asked = text.split("\r\n\r\n").next().unwrap_or("").split("\r\n");
        let asked = vias(asked.filter_map(|line| line.strip_prefix("Via: ")).collect());
        let answered = answer.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("Via"));
        let answered = vias(answered.map(|(_, value)| value.as_str()).collect());
        assert_eq!(answered.len(), asked.len(), "{answered:?}");
        assert!(answered.iter().zip(&asked).all(|(a, b)| a.starts_with(b.as_str())), "{answered:?} of {asked:?}");
        for name in ["From", "Call-ID", "CSeq"] {
            assert_eq!(answer.get(name), field(text, name));
        }
        assert!(answer.get("To").starts_with(field(text, "To")), "{}", answer.get("To"));
        if answer.status() >= 400 {
            assert_eq!(
                answer.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case("ms-diagnostics-public")).count(),
                1
            );
        }
        answer
    }

    /// A sample with the To tag that the gateway gave.
    fn inside(&self, number: &str, tag: &str) -> String {
        let text = sample(number);
        let to = field(&text, "To").split(";tag=").next().unwrap_or("").to_string();
        with(&text, &[("To", &format!("{to};tag={tag}"))])
    }

    /// Opens dialog A by 01 and 04; gives the To tag.
    fn open(&mut self) -> String {
        let answer = self.ask(&sample("01"));
        assert_eq!(answer.status(), 200, "{}", answer.start);
        assert!(answer.body().contains("m=message"), "{}", answer.body());
        let routes = |fields: &[(String, String)]| -> Vec<String> {
            fields.iter().filter(|(n, _)| n == "Record-Route").map(|(_, value)| value.clone()).collect()
        };
        let asked = Sip::read(sample("01").as_bytes()).expect("a sample").expect("a whole sample").0;
        assert_eq!(routes(&answer.fields).join(", "), routes(&asked.fields).join(", "));
        let tag = tag(answer.get("To")).to_string();
        assert!(!tag.is_empty());
        let ack = self.inside("04", &tag);
        assert!(self.say(&ack).is_empty());
        tag
    }

    /// All stanzas that came to the server since the last time.
    fn stanzas(&mut self) -> Vec<El> {
        std::mem::take(&mut self.world.stanzas).into_iter().map(|(_, stanza)| stanza).collect()
    }

    /// The texts among them.
    fn texts(&mut self) -> Vec<String> {
        let all = self.stanzas().into_iter().filter(|stanza| stanza.child("body").is_some());
        all.map(|stanza| stanza.body().to_string()).collect()
    }

    /// The server says this.
    fn stanza(&mut self, text: &str) {
        let server = match self.server {
            Some(server) => server,
            None => self.world.reach_for(XMPP, SIP),
        };
        self.server = Some(server);
        self.world.write(server, text.as_bytes());
        self.world.pass(100);
    }

    /// Takes the next request of the gateway's with this method.
    fn request(&mut self, method: &str) -> Sip {
        let place = self.world.requests.iter().position(|r| r.start.starts_with(&format!("{method} ")));
        let came: Vec<&str> = self.world.requests.iter().map(|request| &*request.start).collect();
        let place = place.unwrap_or_else(|| panic!("no {method} among {came:?}{}", self.world.log()));
        self.world.requests.remove(place)
    }

    /// Answers a request of the gateway's with a sample.
    fn answer(&mut self, request: &Sip, number: &str) {
        let text = sample(number);
        let to_tag = match tag(request.get("To")) {
            "" => format!(";tag={}", tag(field(&text, "To"))),
            _ => String::new(),
        };
        let to = format!("{}{to_tag}", request.get("To"));
        let fields = [
            ("Via", request.get("Via")),
            ("From", request.get("From")),
            ("To", &to),
            ("Call-ID", request.get("Call-ID")),
            ("CSeq", request.get("CSeq")),
        ];
        let text = with(&text, &fields);
        let link = self.world.last_hop.expect("a connection");
        self.world.write(link, text.as_bytes());
        self.world.pass(100);
    }

    /// A sample that belongs to the dialog of the gateway's own SUBSCRIBE.
    fn of_subscription(&self, number: &str, subscribe: &Sip) -> String {
        let text = sample(number);
        let from = format!("<sip:{ALICE}>;tag={}", tag(field(&sample("18"), "To")));
        with(&text, &[("Call-ID", subscribe.get("Call-ID")), ("From", &from), ("To", subscribe.get("From"))])
    }

    /// Bob adds Alice; gives the SUBSCRIBE, which is not answered yet.
    fn add(&mut self) -> Sip {
        self.stanza(&format!("<presence from='{BOB}' to='{ALICE}' type='subscribe'/>"));
        self.request("SUBSCRIBE")
    }

    /// Answers it with 200 and nothing more.
    fn accept(&mut self, subscribe: &Sip) {
        let (to, tag) = (subscribe.get("To"), tag(field(&sample("18"), "To")).to_string());
        let text = format!(
            "SIP/2.0 200 OK\r\nVia: {}\r\nFrom: {}\r\nTo: {to};tag={tag}\r\nCall-ID: {}\r\nCSeq: {}\r\nContact: \
             <sip:fe01.corp.{SIP}:5061;transport=tls>\r\nExpires: 28800\r\nContent-Length: 0\r\n\r\n",
            subscribe.get("Via"),
            subscribe.get("From"),
            subscribe.get("Call-ID"),
            subscribe.get("CSeq")
        );
        let link = self.world.last_hop.expect("a connection");
        self.world.write(link, text.as_bytes());
        self.world.pass(100);
    }

    /// The last presence of Alice that came: `unavailable`, or its show and status.
    fn presence(&mut self) -> (String, String) {
        let of = |stanza: &&El| stanza.name == "presence" && ["", "unavailable"].contains(&stanza.attr("type"));
        // One change a second is told.
        self.world.pass(1500);
        let all = self.stanzas();
        let last = all.iter().rfind(of).unwrap_or_else(|| panic!("no presence among {all:#?}{}", self.world.log()));
        let text = |name: &str| last.child(name).map_or(String::new(), |e| e.text.clone());
        if last.attr("type") == "unavailable" {
            ("unavailable".into(), String::new())
        } else {
            (text("show"), text("status"))
        }
    }
}

fn edge_link(world: &mut World, port: u16, names: &[&str]) -> LinkId {
    let from = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)), port);
    let link = world.dial_sip(SIP_TLS, from, world::certificate(names));
    world.house.secured(link);
    link
}

/// 200 to a request in a dialog.
fn good(request: &Sip) -> String {
    request.response(200).replace(";tag=far", "")
}

#[test]
fn all_of_them_parse() {
    let rows = manifest();
    assert_eq!(rows.len(), 40);
    for row in rows {
        let octets = std::fs::read(folder().join(&row.file)).expect(&row.file);
        assert_eq!(octets.len(), row.octets, "{}", row.file);
        let mut copy = octets.clone();
        let Frame::Message { head, len } = Framer::default().next(&copy) else { panic!("{} is not whole", row.file) };
        assert_eq!(len, octets.len(), "{}", row.file);
        let message = Message::parse(&mut copy[..len], head).unwrap_or_else(|e| panic!("{}: {}", row.file, e.fault));
        assert_eq!(message.is_request(), row.is_request, "{}", row.file);
        assert_eq!(message.body().len(), row.body_octets, "{}", row.file);
    }
}

#[test]
fn s01_to_s12_a_session_from_its_invite_to_its_end() {
    let mut scene = Scene::new();
    let tag = scene.open();
    // No MESSAGE repeats the text: it comes out of the headers, after a while at most.
    scene.world.pass(20_000);
    assert_eq!(scene.texts(), ["Hi Bob, is the 14:00 call still on?"], "{}", scene.world.log());
    for (number, wanted) in [
        ("05", "Grüße aus Zürich – 14:00 works ✓"),
        ("06", "See the page <https://wiki.contoso.example/?a=1&b=2>\nand reply <today> :-)"),
        ("07", "Price: 20 €\nsecond line with braces {x} and café\ndone"),
        ("08", "next week?"),
    ] {
        let text = scene.inside(number, &tag);
        assert_eq!(scene.ask(&text).status(), 200, "{number}");
        assert_eq!(scene.texts(), [wanted], "{number}");
    }
    for (number, states) in [("09", &["composing"][..]), ("10", &["paused", "active"]), ("11", &["composing"])] {
        let text = scene.inside(number, &tag);
        assert_eq!(scene.ask(&text).status(), 200, "{number}");
        let stanzas = scene.stanzas();
        let says = |stanza: &El| states.iter().any(|state| stanza.child(state).is_some());
        assert!(
            stanzas.len() == 1 && says(&stanzas[0]) && stanzas[0].child("body").is_none(),
            "{number}: {stanzas:#?}"
        );
    }
    let text = scene.inside("12", &tag);
    assert_eq!(scene.ask(&text).status(), 200);
    assert!(scene.texts().is_empty());
    scene.stanza(&world::message(BOB, ALICE, "x1", "one more thing"));
    let invite = scene.request("INVITE");
    assert_ne!(invite.get("Call-ID"), field(&sample("01"), "Call-ID"));
}

#[test]
fn s02_a_client_of_2007() {
    let mut scene = Scene::new();
    let answer = scene.ask(&sample("02"));
    assert_eq!(answer.status(), 200);
    let to = format!("<sip:{BOB}>;tag={}", tag(answer.get("To")));
    let call = field(&sample("02"), "Call-ID").to_string();
    let from = field(&sample("02"), "From").to_string();
    let ack = with(&sample("04"), &[("To", &to), ("Call-ID", &call), ("From", &from)]);
    assert!(scene.say(&ack).is_empty());
    scene.world.pass(20_000);
    assert_eq!(scene.texts(), ["Hello from an older client"]);
}

/// Opens a session by a stanza and answers with 03; gives INVITE and MESSAGE.
fn begin(scene: &mut Scene) -> (Sip, Sip) {
    scene.stanza(&world::message(BOB, ALICE, "x1", "from XMPP"));
    let invite = scene.request("INVITE");
    assert!(invite.body().contains("m=message"), "{}", invite.body());
    scene.answer(&invite, "03");
    let route = field(&sample("03"), "Record-Route").to_string();
    let ack = scene.request("ACK");
    let message = scene.request("MESSAGE");
    assert_eq!(message.body(), "from XMPP");
    let contact = field(&sample("03"), "Contact").to_string();
    for request in [&ack, &message] {
        let mut routes: Vec<&str> = all(request, "Route");
        routes.reverse();
        assert_eq!(routes.concat().replace(", ", ","), recorded().concat().replace(", ", ","), "{route}");
        assert_eq!(format!("<{}>", request.start.split(' ').nth(1).unwrap_or("")), contact);
        assert_eq!(request.get("To"), format!("{};tag={}", invite.get("To"), tag(field(&sample("03"), "To"))));
    }
    (invite, message)
}

fn all<'a>(request: &'a Sip, name: &str) -> Vec<&'a str> {
    request.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str()).collect()
}

/// The Record-Route lines of 03.
fn recorded() -> Vec<String> {
    let text = sample("03");
    let (head, _) = text.split_once("\r\n\r\n").expect("a head");
    head.lines().filter_map(|line| line.strip_prefix("Record-Route: ")).map(String::from).collect()
}

#[test]
fn s03_the_answer_to_an_invite_of_ours() {
    let mut scene = Scene::new();
    begin(&mut scene);
}

#[test]
fn s35_to_s37_and_s39_refusals_become_errors() {
    for (number, wanted) in [
        ("35", &["recipient-unavailable"][..]),
        ("36", &["forbidden", "not-allowed"]),
        ("37", &["item-not-found"]),
        ("38", &["remote-server-timeout"]),
        ("39", &["policy-violation"]),
    ] {
        let mut scene = Scene::new();
        scene.stanza(&world::message(BOB, ALICE, "x1", "refuse this"));
        let invite = scene.request("INVITE");
        scene.answer(&invite, number);
        assert!(scene.request("ACK").get("Via") == invite.get("Via"), "{number}");
        let stanzas = scene.stanzas();
        assert_eq!(stanzas.len(), 1, "{number}: {stanzas:#?}");
        assert_eq!((stanzas[0].attr("type"), stanzas[0].attr("id"), stanzas[0].body()), ("error", "x1", "refuse this"));
        assert!(wanted.contains(&stanzas[0].error()), "{number}: {}", stanzas[0].error());
        scene.world.pass(60_000);
        assert!(scene.world.requests.iter().all(|r| !r.start.starts_with("INVITE ")), "{number}: it tries again");
    }
}

#[test]
fn s39_a_filter_leaves_the_session_open() {
    let mut scene = Scene::new();
    let (invite, message) = begin(&mut scene);
    scene.answer(&message, "39");
    let stanzas = scene.stanzas();
    assert!(stanzas.len() == 1 && stanzas[0].error() == "policy-violation", "{stanzas:#?}");
    scene.stanza(&world::message(BOB, ALICE, "x2", "better words"));
    assert_eq!(scene.request("MESSAGE").get("Call-ID"), invite.get("Call-ID"));
}

#[test]
fn s40_a_session_that_is_gone_is_opened_again() {
    let mut scene = Scene::new();
    let (invite, message) = begin(&mut scene);
    scene.answer(&message, "40");
    let again = scene.request("INVITE");
    assert_ne!(again.get("Call-ID"), invite.get("Call-ID"));
    scene.answer(&again, "03");
    scene.request("ACK");
    assert_eq!(scene.request("MESSAGE").body(), "from XMPP");
    scene.world.pass(5000);
    assert!(scene.world.requests.is_empty(), "{:#?}", scene.world.requests);
    assert!(scene.texts().is_empty());
}

#[test]
fn s13_s15_s16_a_watch_from_its_beginning_to_its_end() {
    let mut scene = Scene::new();
    let answer = scene.ask(&sample("13"));
    assert_eq!(answer.status() / 100, 2);
    assert!(answer.get("Expires").parse::<u32>().is_ok_and(|expires| expires > 0));
    let to = tag(answer.get("To")).to_string();
    let stanzas = scene.stanzas();
    assert!(stanzas.iter().any(|s| s.name == "presence" && s.attr("type") == "subscribe"), "{stanzas:#?}");
    let notified = |scene: &mut Scene, state: &str| -> Sip {
        let notify = scene.request("NOTIFY");
        assert!(notify.get("Subscription-State").starts_with(state), "{}", notify.get("Subscription-State"));
        let route: Vec<String> = sample("13")
            .lines()
            .filter_map(|line| line.strip_prefix("Record-Route: "))
            .map(|line| line.trim_end().to_string())
            .collect();
        assert_eq!(all(&notify, "Route"), route);
        let link = scene.world.last_hop.expect("a connection");
        scene.world.write(link, good(&notify).as_bytes());
        notify
    };
    notified(&mut scene, "pending");
    scene.stanza(&format!("<presence from='{BOB}' to='{ALICE}' type='subscribed'/>"));
    scene.stanza(&format!("<presence from='{BOB}/desk' to='{ALICE}'><show>away</show></presence>"));
    // A state at most every five seconds, and the next only after the last was answered.
    let told = (0..4).any(|_| {
        scene.world.pass(6000);
        !scene.world.requests.is_empty() && notified(&mut scene, "active").body().contains("away")
    });
    assert!(told, "{}{:?}", scene.world.log(), scene.world.faults);
    let text = scene.inside("15", &to);
    assert_eq!(scene.ask(&text).status(), 200);
    scene.world.pass(6000);
    let full = notified(&mut scene, "active");
    assert!(full.body().contains("away"), "{}", full.body());
    let text = scene.inside("16", &to);
    assert_eq!(scene.ask(&text).status(), 200);
    notified(&mut scene, "terminated");
    let stanzas = scene.stanzas();
    assert!(stanzas.iter().any(|s| s.attr("type") == "unavailable"), "{stanzas:#?}");
}

#[test]
fn s14_a_poll_leaves_nothing() {
    let mut scene = Scene::new();
    let answer = scene.ask(&sample("14"));
    assert_eq!((answer.status() / 100, answer.get("Expires")), (2, "0"));
    scene.world.pass(15_000);
    let notify = scene.request("NOTIFY");
    assert!(notify.get("Subscription-State").starts_with("terminated"));
    let link = scene.world.last_hop.expect("a connection");
    scene.world.write(link, good(&notify).as_bytes());
    scene.world.pass(60_000);
    assert!(scene.world.requests.is_empty());
}

#[test]
fn s17_a_batched_list_is_refused() {
    let mut scene = Scene::new();
    let answer = scene.ask(&sample("17"));
    assert_eq!(answer.status(), 420);
    let unsupported = answer.get("Unsupported").to_ascii_lowercase();
    assert!(unsupported.contains("adhoclist") && unsupported.contains("categorylist"), "{unsupported}");
    scene.world.pass(5000);
    assert!(scene.world.requests.is_empty() && scene.stanzas().is_empty());
}

#[test]
fn s18_the_first_document_in_the_answer() {
    let mut scene = Scene::new();
    let subscribe = scene.add();
    scene.answer(&subscribe, "18");
    assert_eq!(scene.presence(), ("dnd".into(), "In Zürich this week".into()));
}

#[test]
fn s19_to_s21_documents_of_categories() {
    let mut scene = Scene::new();
    let subscribe = scene.add();
    scene.accept(&subscribe);
    let text = scene.of_subscription("19", &subscribe);
    assert_eq!(scene.ask(&text).status(), 200);
    assert_eq!(scene.presence(), ("dnd".into(), "In Zürich this week".into()));
    let before = scene.world.said(scene.edge);
    let text = scene.of_subscription("20", &subscribe);
    assert!(scene.say(&text).is_empty());
    assert_eq!(scene.world.said(scene.edge), before, "something was said to a BENOTIFY");
    let show = scene.presence().0;
    assert!(["away", "xa"].contains(&&*show), "{show}");
    let text = scene.of_subscription("21", &subscribe);
    assert_eq!(scene.ask(&text).status(), 200);
    assert_eq!(scene.presence().0, "unavailable");
}

#[test]
fn s22_s23_pidf_of_the_draft() {
    let mut scene = Scene::new();
    let subscribe = scene.add();
    scene.accept(&subscribe);
    let text = scene.of_subscription("22", &subscribe);
    assert_eq!(scene.ask(&text).status(), 200);
    assert_eq!(scene.presence().0, "away");
    let text = scene.of_subscription("23", &subscribe);
    assert_eq!(scene.ask(&text).status(), 200);
    assert_eq!(scene.presence().0, "unavailable");
    // Bob still wants to know.
    scene.world.pass(3_600_000);
    assert_ne!(scene.request("SUBSCRIBE").get("Call-ID"), subscribe.get("Call-ID"));
}

#[test]
fn s24_xpidf_that_nobody_asked_for() {
    let mut scene = Scene::new();
    let subscribe = scene.add();
    scene.accept(&subscribe);
    scene.stanzas();
    let text = scene.of_subscription("24", &subscribe);
    let status = scene.ask(&text).status();
    assert!([200, 415].contains(&status), "{status}");
    let shown = |s: &El| s.name == "presence" && s.attr("type").is_empty();
    assert!(!scene.stanzas().iter().any(shown));
}

#[test]
fn s25_options() {
    let mut scene = Scene::new();
    let answer = scene.ask(&sample("25"));
    assert_eq!(answer.status(), 200);
    assert!(answer.get("Allow").contains("MESSAGE") && !answer.get("Accept").is_empty(), "{answer:#?}");
    // From an Edge that proves another name.
    scene.edge = edge_link(&mut scene.world, 50_999, &["sip.stranger.example"]);
    let text = sample("25").replace("branch=z9hG4bK", "branch=z9hG4bK7");
    assert_eq!(scene.ask(&with(&text, &[("Call-ID", "another")])).status(), 403);
}

#[test]
fn s26_a_link_that_wants_to_compress() {
    let mut scene = Scene::new();
    let answer = scene.ask(&sample("26"));
    assert!([405, 501].contains(&answer.status()), "{}", answer.start);
    assert!(!answer.get("Allow").is_empty());
    // The link goes on, and nothing in it is compressed.
    assert_eq!(scene.ask(&sample("25")).status(), 200);
}

#[test]
fn s27_an_invite_taken_back() {
    let mut scene = Scene::new();
    let cancel = scene.ask(&sample("27"));
    assert_eq!(cancel.status(), 481, "nothing to take back");
    scene.world.write(scene.edge, sample("01").as_bytes());
    scene.ask(&sample("27"));
    // The first was the answer to the CANCEL of nothing, the last that to the second one.
    let all = scene.world.statuses(field(&sample("01"), "Call-ID"));
    let ends = [&[481, 200, 200][..], &[481, 481, 200], &[481, 200, 487], &[481, 487, 200], &[481, 200, 481]];
    assert!(ends.contains(&&all[..]), "{all:?}");
}

#[test]
fn s28_to_s32_what_is_no_message_is_refused_and_the_session_goes_on() {
    let mut scene = Scene::new();
    let tag = scene.open();
    scene.world.pass(20_000);
    scene.texts();
    let refer = scene.inside("28", &tag);
    // The number comes after those of 05 to 12, which are not said here.
    let answer = scene.ask(&refer);
    assert!([420, 603].contains(&answer.status()), "{}", answer.start);
    for (number, wanted) in [("29", &[488, 415][..]), ("30", &[488]), ("31", &[488]), ("32", &[488])] {
        let text = sample(number);
        let answer = scene.ask(&text);
        assert!(wanted.contains(&answer.status()), "{number}: {}", answer.start);
        let rung = &scene.world.responses[field(&text, "Call-ID")];
        assert!(rung.iter().all(|r| r.status() == 100 || r.status() >= 200), "{number} rang");
    }
    assert!(scene.stanzas().is_empty());
    let text = scene.inside("05", &tag).replace("CSeq: 2 ", "CSeq: 11 ");
    assert_eq!(scene.ask(&text).status(), 200);
    assert_eq!(scene.texts().len(), 1);
}

/// A provider whose addresses are decorated, under the name that the samples use.
const DECORATES: &str = "set partner example.org type federated\nset provider ferry routing-domain msn.com\n\
                         set provider ferry partner example.org\n";

#[test]
fn s33_s34_decorated_addresses() {
    let mut scene = Scene::with(&format!("{DECORATES}set provider ferry enabled true\n"));
    assert_eq!(scene.ask(&sample("33")).status(), 200);
    let answer = scene.ask(&sample("34"));
    assert_eq!(answer.status(), 200);
    assert!(answer.get("To").starts_with("<sip:carol(example.org)@msn.com>"), "{}", answer.get("To"));
    scene.world.pass(20_000);
    let stanzas = scene.stanzas();
    let to: Vec<&str> = stanzas.iter().filter(|s| s.child("body").is_some()).map(|s| s.attr("to")).collect();
    assert!(to.contains(&"carol@example.org") && to.iter().all(|to| to.starts_with("carol@example.org")), "{to:?}");
    let mut scene = Scene::with(&format!("{DECORATES}set provider ferry enabled false\n"));
    assert_eq!(scene.ask(&sample("33")).status(), 404);
    assert_eq!(scene.ask(&sample("34")).status(), 404);
    assert!(scene.stanzas().is_empty());
}
