//! Messages cross in both directions, whole and under the right addresses.

use crate::sip::Agent;
use crate::world::{Config, Hop, Latimer, World};
use crate::xmpp::Client;
use crate::{Outcome, Scenario, ensure, equal};
use std::process::{Command, Stdio};
use std::time::Duration;

pub const SCENARIOS: &[Scenario] = &[
    ("messages-prosody-tls", |world| both_ways(world, "xmpp.example", Hop::Tls)),
    ("messages-prosody-tcp", |world| both_ways(world, "xmpp.example", Hop::Tcp)),
    ("messages-prosody-udp", |world| both_ways(world, "xmpp.example", Hop::Udp)),
    ("messages-ejabberd-tls", |world| both_ways(world, "ej.example", Hop::Tls)),
    ("messages-ejabberd-tcp", |world| both_ways(world, "ej.example", Hop::Tcp)),
    ("messages-ejabberd-udp", |world| both_ways(world, "ej.example", Hop::Udp)),
    ("sipp-to-prosody-and-back", |world| sipp(world, "xmpp.example", Hop::Tls)),
    ("sipp-to-ejabberd-and-back", |world| sipp(world, "ej.example", Hop::Tcp)),
    ("addresses-escaped-on-both-sides", addresses),
    ("component-prosody", |world| component(world, "gw.xmpp.example", 10, "xmpp.example")),
    ("component-ejabberd", |world| component(world, "gw.ej.example", 20, "ej.example")),
];

/// A gateway between `sip_domain` at Kamailio and one XMPP domain.
pub fn gateway(world: &World, sip_domain: &str, hop: Hop, xmpp_domain: &str, settings: &[&str]) -> Outcome<Latimer> {
    world.kamailio_hop(xmpp_domain, hop)?;
    Latimer::start(world, Config::new(world)?.sip(sip_domain, hop).partner(xmpp_domain, settings))
}

/// One message each way: text, and the bare addresses of both.
pub fn exchange(agent: &mut Agent, sip: &str, client: &mut Client, text: &str) -> Outcome {
    let (bare, resource) = client.jid.split_once('/').map(|(b, r)| (b.to_string(), r.to_string())).unwrap_or_default();
    let answer = agent.message(&format!("sip:{bare}"), text)?;
    equal("the answer to the SIP user", answer.status(), 200)?;
    let stanza = client.wait_message(text)?;
    equal("from", stanza.attribute("from"), sip)?;
    equal("to", stanza.attribute("to").split('/').next().unwrap_or(""), &bare)?;
    client.message(sip, text)?;
    let request = agent.wait_message(text)?;
    let from = request.field("from");
    let wanted = format!("<sip:{bare};gr={resource}>;tag=");
    ensure(from.starts_with(&wanted), || format!("From is {from}, wanted {wanted}"))?;
    equal("To", request.field("to"), &format!("<sip:{sip}>"))?;
    ensure(request.field("content-type").starts_with("text/plain"), || request.field("content-type").to_string())
}

fn both_ways(world: &World, domain: &str, hop: Hop) -> Outcome {
    let _latimer = gateway(world, "sip.example", hop, domain, &[])?;
    let mut bob = world.agent("bob@sip.example")?;
    let mut alice = world.client("alice", domain)?;
    let thousand: String = ('!'..='~').cycle().take(1000).collect();
    for text in [
        "plain words",
        "Grüße aus Zürich, 你好, שלום \u{1F600}\u{1F468}\u{200D}\u{1F469}\u{200D}\u{1F467}",
        "<body>&amp;]]>\"'</body><!-- -->\\ %41",
        "two\nlines",
        &thousand,
    ] {
        exchange(&mut bob, "bob@sip.example", &mut alice, text)?;
    }
    // To one resource, as the gr parameter names it; and no error came for any of them.
    let answer = bob.message(&format!("sip:alice@{domain};gr=test"), "to one resource")?;
    equal("the answer to the SIP user", answer.status(), 200)?;
    equal("to", alice.wait_message("to one resource")?.attribute("to"), &alice.jid)?;
    let left = alice.messages(Duration::from_millis(100));
    ensure(left.is_empty(), || format!("more came to the XMPP user: {left:?}"))
}

/// SIPp sends through Kamailio to an XMPP user, and takes what the user sends.
fn sipp(world: &World, domain: &str, hop: Hop) -> Outcome {
    let _latimer = gateway(world, "sip.example", hop, domain, &[])?;
    let mut alice = world.client("alice", domain)?;
    let scenario = |name: &str| format!("{}/tests/peers/sipp/{name}.xml", env!("CARGO_MANIFEST_DIR"));
    let command = |name: &str, port: u16, count: &str| {
        let mut command = Command::new("sipp");
        command.args(["-sf", &scenario(name), "-i", &world.host(50), "-p", &port.to_string(), "-t", "u1", "-m", count]);
        command.args(["-nostdin", "-timeout", "20"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };

    let mut sender = command("message-uac", world.agent_address().port(), "50");
    sender.args(["-s", "alice", "-key", "domain", domain, "-r", "100", &world.kamailio().to_string()]);
    let status = sender.status().map_err(|e| format!("sipp: {e}"))?;
    ensure(status.success(), || format!("SIPp as a sender: {status}"))?;
    for number in 1..=50 {
        // SIPp ends a body with a line end.
        let body = format!("message {number}\n");
        equal("from", alice.wait_message(&body)?.attribute("from"), "sipp@sip.example")?;
    }

    let listening = world.agent_address();
    Agent::new("sip:sipp@sip.example", world.agent_address(), world.kamailio())?.register(Some(listening))?;
    let mut receiver = command("message-uas", listening.port(), "50").spawn().map_err(|e| format!("sipp: {e}"))?;
    std::thread::sleep(Duration::from_millis(300));
    for number in 1..=50 {
        alice.message("sipp@sip.example", &format!("back {number}"))?;
    }
    let status = receiver.wait().map_err(|e| e.to_string())?;
    ensure(status.success(), || format!("SIPp as a receiver: {status}"))?;
    let left = alice.messages(Duration::from_millis(100));
    ensure(left.is_empty(), || format!("errors came to the XMPP user: {left:?}"))
}

/// Characters that one side must escape (RFC 7247 section 4).
fn addresses(world: &World) -> Outcome {
    let _latimer = gateway(world, "sip.example", Hop::Tcp, "xmpp.example", &[])?;
    let mut agent = world.agent("o'brien&co@sip.example")?;
    let mut alice = world.client("alice", "xmpp.example")?;
    equal("the answer", agent.message("sip:alice@xmpp.example", "escaped")?.status(), 200)?;
    equal("from", alice.wait_message("escaped")?.attribute("from"), "o\\27brien\\26co@sip.example")?;
    alice.message("o\\27brien\\26co@sip.example", "and back")?;
    let to = agent.wait_message("and back")?.field("to").to_string();
    equal("To", to.as_str(), "<sip:o'brien&co@sip.example>")
}

/// The gateway as an external component (XEP-0114) of the server.
fn component(world: &World, sip_domain: &str, server: u8, domain: &str) -> Outcome {
    world.kamailio_hop(domain, Hop::Tcp)?;
    let mut config = Config::new(world)?;
    config.sip(sip_domain, Hop::Tcp).partner(domain, &[]);
    config.set(&format!("xmpp component server server {}:5347", world.host(server)));
    config.set("xmpp component server secret secret");
    config.set(&format!("xmpp component server domain {sip_domain}"));
    let latimer = Latimer::start(world, &config)?;
    let sip = format!("bob@{sip_domain}");
    let mut bob = world.agent(&sip)?;
    let mut alice = world.client("alice", domain)?;
    exchange(&mut bob, &sip, &mut alice, "by way of a component")?;
    latimer.wait_log(&["xmpp.stream.opened", "proof=handshake"])?;
    equal("streams", latimer.log().matches("xmpp.stream.opened").count(), 1)
}
