//! `latimer demo`: the real gateway on loopback with a built-in configuration and two
//! built-in users, one on each side, who make each other's acquaintance and talk to each
//! other over real sockets. Nothing of it is kept.
//!
//! The legs are in the clear: UDP on the SIP side, TCP with Server Dialback on the XMPP
//! side. So the demo needs no certificates and is honest about what it shows; TLS is
//! for real servers. The users are small non-blocking machines, looked after between
//! two turns of the same reactor that `serve` runs.

mod phone;
mod server;

use super::log::Log;
use super::reactor::Reactor;
use super::tls::{Material, Tls};
use crate::appliance::config;
use crate::base::outbox::Level;
use crate::base::rng::Rng;
use crate::gateway::Gateway;
use crate::gateway::input::Input;
use core::fmt::{self, Write as _};
use core::time::Duration;
use phone::Phone;
use server::Server;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Instant;

/// What stands behind `demo` on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// `--sip`: where the gateway speaks SIP over UDP and TCP; else any free port of loopback.
    pub sip: Option<SocketAddr>,
    /// `--xmpp`: where it speaks XMPP; else any free port of loopback.
    pub xmpp: Option<SocketAddr>,
    /// `--once`: end after the conversation.
    pub once: bool,
}

/// How long one step of the conversation may take.
const STEP_TIME_MAX: Duration = Duration::from_secs(10);
/// How often the built-in users look for something new.
const TURN: Duration = Duration::from_millis(5);

/// Runs the demo; gives whether everything arrived. The error is a sentence for the user.
pub fn run(options: Options, seed: [u8; 32]) -> Result<bool, String> {
    let mut demo = Demo::new(options, seed)?;
    let arrived = demo.converse().map_err(|error| format!("the demo's own sockets failed: {error}"))?;
    if options.once || !arrived {
        demo.end();
        return Ok(arrived);
    }
    demo.explain();
    demo.stay().map_err(|error| format!("the demo's own sockets failed: {error}"))?;
    demo.end();
    Ok(true)
}

struct Demo {
    reactor: Reactor,
    gateway: Gateway,
    rng: Rng,
    phone: Phone,
    server: Server,
    sip: SocketAddr,
    xmpp: SocketAddr,
    /// The `set` lines the gateway obeys.
    lines: String,
    /// SIGTERM or SIGINT came.
    ended: bool,
    ladder: Ladder,
}

/// A step of the conversation.
struct Step {
    /// What is going to happen.
    title: &'static str,
    act: Act,
    /// What has to arrive, with the text it has to bring; see [`Arrivals`].
    arrives: &'static [(&'static str, &'static str)],
}

/// What begins a step.
enum Act {
    /// The phone asks to watch an XMPP user.
    WatchFromSip { to: &'static str },
    /// The XMPP user lets herself be watched, and says how she is.
    Approve { to: &'static str, show: &'static str, status: &'static str },
    /// The XMPP user asks to watch a SIP user.
    WatchFromXmpp { to: &'static str },
    /// The SIP user's state changes: an activity of RPID, a note.
    StateFromSip { activity: &'static str, note: &'static str },
    /// The XMPP user's state changes.
    StateFromXmpp { to: &'static str, show: &'static str, status: &'static str },
    /// The phone writes to an XMPP address.
    FromSip { to: &'static str, text: &'static str },
    /// The XMPP user writes to a SIP address.
    FromXmpp { to: &'static str, text: &'static str },
}

const MARTA: &str = "marta@voip.example";
const LENA: &str = "lena@chat.example";
const PAUL: &str = "paul@voip.example";
const TRAM: &str = "on the tram";
const HOME: &str = "home at last";
const DESK: &str = "at my desk";
const CALL: &str = "in a call";
const QUESTION: &str = "Hello Lena! Tonight at the tower?";
const ANSWER: &str = "Grüße! At eight \u{1F319}, and I bring <bread> & tea.";
const TO_PAUL: &str = "Paul, are you there?";

const CONVERSATION: &[Step] = &[
    Step {
        title: "Marta, on SIP, adds Lena, on XMPP, to her contacts; Lena is asked",
        act: Act::WatchFromSip { to: LENA },
        arrives: &[("200 SUBSCRIBE", ""), ("NOTIFY 200 pending", ""), ("presence subscribe", "")],
    },
    Step {
        title: "Lena allows it, and is away",
        act: Act::Approve { to: MARTA, show: "away", status: TRAM },
        arrives: &[("NOTIFY 200 active open away", TRAM)],
    },
    Step {
        title: "Lena adds Marta, whose phone allows it",
        act: Act::WatchFromXmpp { to: MARTA },
        arrives: &[("SUBSCRIBE 200", ""), ("200 NOTIFY", ""), ("presence subscribed", ""), ("presence", DESK)],
    },
    Step {
        title: "Marta takes a call",
        act: Act::StateFromSip { activity: "on-the-phone", note: CALL },
        arrives: &[("200 NOTIFY", ""), ("presence dnd", CALL)],
    },
    Step {
        title: "Lena would chat (phones are told of a change after 5 seconds at the earliest)",
        act: Act::StateFromXmpp { to: MARTA, show: "chat", status: HOME },
        arrives: &[("NOTIFY 200 active open chat", HOME)],
    },
    Step {
        title: "Marta writes to Lena",
        act: Act::FromSip { to: LENA, text: QUESTION },
        arrives: &[("200 MESSAGE", ""), ("message", QUESTION)],
    },
    Step { title: "Lena answers", act: Act::FromXmpp { to: MARTA, text: ANSWER }, arrives: &[("MESSAGE 200", ANSWER)] },
    Step {
        title: "Lena writes to somebody whom SIP does not know",
        act: Act::FromXmpp { to: PAUL, text: TO_PAUL },
        arrives: &[("MESSAGE 404", TO_PAUL), ("message error item-not-found", "")],
    },
];

impl Demo {
    fn new(options: Options, seed: [u8; 32]) -> Result<Self, String> {
        let failed = |error: io::Error| format!("the demo cannot start: {error}");
        let sip = options.sip.map_or_else(free_address, Ok).map_err(failed)?;
        let xmpp = options.xmpp.map_or_else(free_address, Ok).map_err(failed)?;
        let mut rng = Rng::from_seed(seed);
        let phone = Phone::new(sip).map_err(failed)?;
        let server = Server::new(phone::DOMAIN, xmpp, &mut rng).map_err(failed)?;
        let lines = lines(sip, xmpp, phone.address().map_err(failed)?, server.address().map_err(failed)?);
        let (config, _) = config::load(&lines)
            .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
        let tls = Tls::new(&Material::default())?;
        let mut reactor_seed = [0; 32];
        rng.fill(&mut reactor_seed);
        let mut reactor = Reactor::new(reactor_seed, tls, Log::new()).map_err(failed)?;
        reactor.set_log(Level::Warn, |_| ());
        reactor.watch_signals().map_err(failed)?;
        reactor.listen(&config.settings.listeners)?;
        let mut secret = [0; 32];
        rng.fill(&mut secret);
        let gateway = Gateway::new(config.settings, &secret);
        Ok(Self { reactor, gateway, rng, phone, server, sip, xmpp, lines, ended: false, ladder: Ladder })
    }

    /// Plays the conversation; did everything arrive?
    fn converse(&mut self) -> io::Result<bool> {
        self.ladder.begin(self.sip, self.xmpp);
        for step in CONVERSATION {
            self.ladder.title(step.title);
            if !self.play(step)? {
                self.ladder.title(if self.ended { "Ended." } else { "This did not arrive: the demo failed." });
                return Ok(false);
            }
        }
        self.ladder.title("Everything arrived.");
        Ok(true)
    }

    fn play(&mut self, step: &Step) -> io::Result<bool> {
        self.act(&step.act)?;
        let end = Instant::now() + STEP_TIME_MAX;
        let mut arrivals = Arrivals::default();
        while !arrivals.hold(step.arrives) && Instant::now() < end && !self.ended {
            self.turn(&mut arrivals)?;
        }
        Ok(arrivals.hold(step.arrives))
    }

    fn act(&mut self, act: &Act) -> io::Result<()> {
        let Self { phone, server, ladder, .. } = self;
        match act {
            Act::WatchFromSip { to } => {
                let octets = phone.watch(to)?;
                ladder.sip_in(&format!("SUBSCRIBE sip:{to}"), None, octets);
            }
            Act::Approve { to, show, status } => {
                let octets = server.send_contact(to, "subscribed")?;
                ladder.xmpp_in(&format!("<presence to='{to}' type='subscribed'>"), None, octets);
                self.show_lena(to, show, status)?;
            }
            Act::WatchFromXmpp { to } => {
                let octets = server.send_contact(to, "subscribe")?;
                ladder.xmpp_in(&format!("<presence to='{to}' type='subscribe'>"), None, octets);
            }
            Act::StateFromSip { activity, note } => self.show_marta(activity, note)?,
            Act::StateFromXmpp { to, show, status } => self.show_lena(to, show, status)?,
            Act::FromSip { to, text } => {
                let octets = phone.send(to, text)?;
                ladder.sip_in(&format!("MESSAGE sip:{to}"), Some(text), octets);
            }
            Act::FromXmpp { to, text } => {
                let octets = server.send(to, text)?;
                ladder.xmpp_in(&format!("<message to='{to}'>"), Some(text), octets);
            }
        }
        Ok(())
    }

    fn show_lena(&mut self, to: &str, show: &str, status: &str) -> io::Result<()> {
        let octets = self.server.send_state(to, show, status)?;
        self.ladder.xmpp_in(&format!("<presence to='{to}'>"), None, octets);
        self.ladder.right(&format!("      {show}"));
        self.ladder.text(Some(status), Ladder::right);
        Ok(())
    }

    fn show_marta(&mut self, activity: &str, note: &str) -> io::Result<()> {
        let (target, octets) = self.phone.notify(activity, note)?;
        // Without its parameters, for which there is no room.
        let target = target.split(';').next().unwrap_or_default();
        self.ladder.sip_in(&format!("NOTIFY {}", Shown(target)), None, octets);
        self.ladder.left(&format!("      open {activity}"));
        self.ladder.text(Some(note), Ladder::left);
        Ok(())
    }

    /// Stays up until a signal comes, showing whatever reaches the built-in users.
    fn stay(&mut self) -> io::Result<()> {
        while !self.ended {
            self.turn(&mut Arrivals::default())?;
        }
        Ok(())
    }

    /// One turn of the gateway, then of the users.
    fn turn(&mut self, arrivals: &mut Arrivals) -> io::Result<()> {
        let Self { reactor, gateway, .. } = self;
        let soon = reactor.with(|cx| cx.now).after(TURN);
        let deadline = gateway.deadline().map_or(soon, |deadline| deadline.min(soon));
        self.ended |= reactor.turn(Some(deadline), &mut |cx, input| gateway.handle(cx, input))?.end;
        while let Some(heard) = self.phone.poll()? {
            match heard {
                phone::Heard::Request(request) => self.at_phone(request, arrivals)?,
                phone::Heard::Response { line, status, method, octets } => {
                    self.ladder.sip_out(&Shown(&line).to_string(), None, octets);
                    arrivals.add(&[&status.to_string(), &method], "");
                }
            }
        }
        for heard in self.server.poll(&mut self.rng)? {
            match heard {
                server::Heard::Proved { from, to } => self.ladder.stream(&from, &to),
                server::Heard::Stanza(stanza) => self.at_server(&stanza, arrivals),
            }
        }
        Ok(())
    }

    fn at_phone(&mut self, request: phone::Request, arrivals: &mut Arrivals) -> io::Result<()> {
        let phone::Request { method, line, from, detail, text, octets, status, answer_octets } = request;
        self.ladder.sip_out(&Shown(&line).to_string(), None, octets);
        self.ladder.left(&format!("      From: {}", Shown(&from)));
        if !detail.is_empty() {
            self.ladder.left(&format!("      {}", Shown(&detail)));
        }
        self.ladder.text(Some(&text), Ladder::left);
        self.ladder.sip_in(if status == 200 { "200 OK" } else { "404 Not Found" }, None, answer_octets);
        arrivals.add(&[&method, &status.to_string(), &detail], &text);
        if method == "SUBSCRIBE" && status == 200 {
            // Whoever subscribes is told the state at once (RFC 6665 section 4.2.2).
            self.show_marta("", DESK)?;
        }
        Ok(())
    }

    fn at_server(&self, stanza: &server::Stanza, arrivals: &mut Arrivals) {
        let server::Stanza { name, from, to, type_, detail, text, octets } = stanza;
        let with_type = if type_.is_empty() { String::new() } else { format!(" type='{}'", Shown(type_)) };
        self.ladder.xmpp_out(&format!("<{name} from='{}'{with_type}>", Shown(from)), None, *octets);
        self.ladder.right(&format!("      to='{}'", Shown(to)));
        if !detail.is_empty() {
            self.ladder.right(&format!("      {}", Shown(detail)));
        }
        self.ladder.text(Some(text), Ladder::right);
        // A message is the same one as `chat` and as `normal`.
        let type_ = if name == "message" && type_ != "error" { "" } else { type_ };
        arrivals.add(&[name, type_, detail], text);
    }

    fn explain(&self) {
        let Self { sip, xmpp, lines, .. } = self;
        say(&format!(
            "\nThe gateway stays up; what reaches Marta or Lena is shown above. End it with Ctrl-C.\n\n\
             A SIP client of your own, on this machine: as any user of voip.example, with {sip} (UDP or TCP)\n\
             as its outbound proxy, write to sip:lena@chat.example.\n\n\
             Servers of your own in the places of Marta and Lena: put their addresses behind `next-hop` and\n\
             `proxy` in the lines below, and let your XMPP server, which serves chat.example, find the server of\n\
             voip.example at {xmpp}. Then\n\n\
             \x20   latimer config load FILE --config latimer.conf\n\
             \x20   latimer serve --config latimer.conf\n\n\
             {lines}"
        ));
    }

    /// Closes the streams.
    fn end(&mut self) {
        let Self { reactor, gateway, .. } = self;
        reactor.with(|cx| {
            gateway.handle(cx, Input::Shutdown);
        });
        reactor.finish();
    }
}

/// What came to the users since a step began, each thing in a few words with its text:
/// `200 SUBSCRIBE` is an answer, `MESSAGE 404` a request and how it was answered,
/// `presence dnd` a stanza.
#[derive(Default)]
struct Arrivals(Vec<(String, String)>);

impl Arrivals {
    fn add(&mut self, words: &[&str], text: &str) {
        let words: Vec<&str> = words.iter().copied().filter(|word| !word.is_empty()).collect();
        self.0.push((words.join(" "), text.to_owned()));
    }

    /// Did all that come?
    fn hold(&self, wanted: &[(&str, &str)]) -> bool {
        wanted.iter().all(|(words, text)| self.0.iter().any(|(came, said)| came == words && said == text))
    }
}

fn lines(sip: SocketAddr, xmpp: SocketAddr, phone: SocketAddr, server: SocketAddr) -> String {
    format!(
        "set system host-name gw.example\n\
         set sip listen udp udp:{sip}\n\
         set sip listen tcp tcp:{sip}\n\
         set sip domain voip.example next-hop udp:{phone}\n\
         set sip domain voip.example peer 127.0.0.0/8\n\
         set xmpp listen servers starttls:{xmpp}\n\
         set partner chat.example type federated\n\
         set partner chat.example tls not-supported\n\
         set partner chat.example sasl not-supported\n\
         set partner chat.example dialback true\n\
         set partner chat.example proxy {server}\n"
    )
}

/// A port of loopback that is free for UDP and TCP.
fn free_address() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    UdpSocket::bind(address)?;
    Ok(address)
}

/// Shows the conversation: SIP to the left, the gateway in the middle, XMPP to the right.
struct Ladder;

/// Columns of each side.
const SIDE: usize = 54;

impl Ladder {
    fn begin(&self, sip: SocketAddr, xmpp: SocketAddr) {
        say(&format!("latimer: SIP on {sip} (UDP and TCP), XMPP on {xmpp} (TCP, Server Dialback), no TLS\n"));
        say(&format!("{:<SIDE$}latimer{:18}{}", "Marta, sip:marta@voip.example", "", "Lena, xmpp:lena@chat.example"));
    }

    fn title(&self, title: &str) {
        say(&format!("\n{title}"));
    }

    fn stream(&self, from: &str, to: &str) {
        self.right(&format!("== stream {from} -> {to} proved"));
    }

    /// From the SIP side to the gateway.
    fn sip_in(&self, what: &str, text: Option<&str>, octets: usize) {
        self.left(&format!("{:-<SIDE$}>", format!("{what} ({octets} octets) ")));
        self.text(text, Self::left);
    }

    /// From the gateway to the SIP side.
    fn sip_out(&self, what: &str, text: Option<&str>, octets: usize) {
        self.left(&format!("{:-<SIDE$}-", format!("{what} ({octets} octets) <")));
        self.text(text, Self::left);
    }

    /// From the XMPP side to the gateway.
    fn xmpp_in(&self, what: &str, text: Option<&str>, octets: usize) {
        self.right(&format!("<---- {what} ({octets} octets)"));
        self.text(text, Self::right);
    }

    /// From the gateway to the XMPP side.
    fn xmpp_out(&self, what: &str, text: Option<&str>, octets: usize) {
        self.right(&format!("----> {what} ({octets} octets)"));
        self.text(text, Self::right);
    }

    fn text(&self, text: Option<&str>, side: fn(&Self, &str)) {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            side(self, &format!("      \u{201C}{}\u{201D}", Shown(text)));
        }
    }

    fn left(&self, line: &str) {
        say(&format!("{line:<0$}|", SIDE + 1));
    }

    fn right(&self, line: &str) {
        say(&format!("{:1$}|{line}", "", SIDE + 1));
    }
}

/// Text of a stranger: nothing in it steers the terminal.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| f.write_char(if c.is_control() { '\u{FFFD}' } else { c }))
    }
}

/// A line for the user. A reader who went away is no reason to stop.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
