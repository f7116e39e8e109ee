//! Whatever cannot be delivered is told to the side that sent it, in its own words, and
//! the log names the cause and the side at fault.

use crate::messages::{exchange, gateway};
use crate::world::{Config, Hop, Latimer, World};
use crate::{Outcome, Scenario, ensure, equal};
use std::sync::atomic::Ordering;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(15);

pub const SCENARIOS: &[Scenario] = &[
    ("unknown-xmpp-user-prosody", |world| unknown_xmpp_user(world, "xmpp.example")),
    ("unknown-xmpp-user-ejabberd", |world| unknown_xmpp_user(world, "ej.example")),
    ("late-error-prosody", |world| late_error(world, "xmpp.example")),
    ("late-error-ejabberd", |world| late_error(world, "ej.example")),
    ("unknown-sip-user-prosody", |world| sip_failures(world, "xmpp.example")),
    ("unknown-sip-user-ejabberd", |world| sip_failures(world, "ej.example")),
    ("sip-server-offline-and-back", sip_server_offline),
    ("sip-certificate-of-another-domain", sip_certificate),
    ("our-certificate-refused-by-kamailio", |world| {
        world.kamailio_hop("xmpp.example", Hop::Tls)?;
        let mut config = Config::with_certificate(world, "gw-untrusted")?;
        let latimer = Latimer::start(world, config.sip("sip2.example", Hop::Tls).partner("xmpp.example", &[]))?;
        let mut bob = world.agent("bob@sip2.example")?;
        let status = bob.message("sip:alice@xmpp.example", "unheard")?.status();
        ensure(status >= 400, || format!("answered {status}"))?;
        latimer.wait_log(&["tls.failed", "UnknownCA"])?;
        latimer.wait_log(&["sip.closed", "TLS failed"]).map(drop)
    }),
    ("partner-certificate-expired", |world| partner_certificate(world, "expired", "expired")),
    ("partner-certificate-wrong-name", |world| partner_certificate(world, "wrongname", "somebody-else.example")),
    ("partner-certificate-untrusted", |world| partner_certificate(world, "untrusted", "unknown")),
    ("partner-certificate-self-signed", |world| partner_certificate(world, "selfsigned", "self-signed")),
    ("partner-certificate-no-intermediate", |world| partner_certificate(world, "nomiddle", "unknown|intermediate")),
    ("our-certificate-wrong-name", |world| our_certificate(world, "gw-wrongname")),
    ("our-certificate-expired", |world| our_certificate(world, "gw-expired")),
    ("our-certificate-untrusted", |world| our_certificate(world, "gw-untrusted")),
    ("our-certificate-self-signed", |world| our_certificate(world, "gw-selfsigned")),
    ("stream-refused-prosody", |world| stream_refused(world, "unhosted.example")),
    ("stream-refused-ejabberd", |world| stream_refused(world, "unhosted2.example")),
    ("sasl-required-and-not-offered", |world| {
        let latimer = gateway(world, "sip2.example", Hop::Tcp, "nosrv.example", &["sasl required"])?;
        refused_both_ways(world, "sip2.example", "nosrv.example")?;
        latimer.wait_log(&["nosrv.example", "dialback", "not", "side=partner"]).map(drop)
    }),
    ("sip-sender-of-a-domain-not-its-own", sip_forbidden),
    ("xmpp-sender-of-a-domain-not-a-partner", not_a_partner),
    ("dns-odd-answers", dns),
];

/// The partner's error comes while the SIP side still waits, and decides the answer.
fn unknown_xmpp_user(world: &World, domain: &str) -> Outcome {
    world.kamailio_hop(domain, Hop::Tls)?;
    let mut config = Config::new(world)?;
    config.sip("sip.example", Hop::Tls).partner(domain, &[]).set("message error-wait 5");
    let _latimer = Latimer::start(world, &config)?;
    let mut bob = world.agent("bob@sip.example")?;
    // Both servers say service-unavailable of a bare address (RFC 6121 section 8.5.1).
    equal("the answer", bob.message(&format!("sip:nobody@{domain}"), "who?")?.status(), 403)
}

/// The error comes after the 200: the sender hears of it in a message of its own.
fn late_error(world: &World, domain: &str) -> Outcome {
    let latimer = gateway(world, "sip.example", Hop::Tls, domain, &[])?;
    let mut bob = world.agent("bob@sip.example")?;
    equal("the answer", bob.message(&format!("sip:nobody@{domain}"), "who?")?.status(), 200)?;
    let notice = bob.wait_message_like("a notice of the failure", |body| !body.is_empty())?;
    ensure(notice.field("from").contains(&format!("sip:nobody@{domain}")), || notice.field("from").into())?;
    latimer.wait_log(&["late-error", "side=xmpp"]).map(drop)
}

/// A failure of the SIP side goes back with the id and the addresses of the original.
fn sip_failures(world: &World, domain: &str) -> Outcome {
    let latimer = gateway(world, "sip.example", Hop::Tls, domain, &[])?;
    let bob = world.agent("bob@sip.example")?;
    let mut alice = world.client("alice", domain)?;
    for (to, status, wanted) in [
        ("nobody@sip.example", 0, "cancel item-not-found"),
        ("bob@sip.example", 480, "wait recipient-unavailable"),
        ("bob@sip.example", 403, "auth forbidden"),
        ("bob@sip.example", 415, "modify not-acceptable"),
        ("bob@sip.example", 603, "wait recipient-unavailable"),
    ] {
        bob.answer.store(status, Ordering::Relaxed);
        let id = alice.message(to, "refuse this")?;
        let error = alice.wait_error(&id, SOON)?;
        equal("the error", error.error().as_str(), wanted)?;
        equal("from", error.attribute("from"), to)?;
        equal("to", error.attribute("to"), &alice.jid)?;
    }
    latimer.wait_log(&["side=sip", "404"]).map(drop)
}

fn sip_server_offline(world: &World) -> Outcome {
    let latimer = gateway(world, "sip.example", Hop::Tcp, "xmpp.example", &[])?;
    let mut alice = world.client("alice", "xmpp.example")?;
    world.peers("down", &["kamailio"])?;
    let id = alice.message("bob@sip.example", "is anybody there?")?;
    let error = alice.wait_error(&id, SOON);
    world.peers("up", &["kamailio"])?;
    equal("the error", error?.error().as_str(), "wait remote-server-timeout")?;
    latimer.wait_log(&["side=sip"])?;
    world.kamailio_hop("xmpp.example", Hop::Tcp)?;
    let mut bob = world.agent("bob@sip.example")?;
    exchange(&mut bob, "bob@sip.example", &mut alice, "and back again")
}

/// Kamailio's certificate does not name sip4.example: nothing goes there, nothing comes.
fn sip_certificate(world: &World) -> Outcome {
    world.kamailio_hop("xmpp.example", Hop::Tls)?;
    let mut config = Config::new(world)?;
    config.set("sip domain sip4.example next-hop tls:sip4.example:5061").partner("xmpp.example", &[]);
    let latimer = Latimer::start(world, &config)?;
    let mut bob = world.agent("bob@sip4.example")?;
    let mut alice = world.client("alice", "xmpp.example")?;
    equal("the answer", bob.message("sip:alice@xmpp.example", "unproven")?.status(), 403)?;
    let id = alice.message("bob@sip4.example", "to whom?")?;
    let error = alice.wait_error(&id, SOON)?.error();
    equal("the error", error.as_str(), "cancel internal-server-error")?;
    latimer.wait_log(&["side=sip", "sip4.example", "kamailio.example"]).map(drop)
}

/// A partner must authenticate by certificate and shows a bad one.
fn partner_certificate(world: &World, name: &str, cause: &str) -> Outcome {
    let domain = format!("{name}.example");
    let latimer = gateway(world, "sip2.example", Hop::Tcp, &domain, &["sasl required"])?;
    refused_both_ways(world, "sip2.example", &domain)?;
    let log = latimer.log();
    let told =
        |line: &str| line.contains(&domain) && line.contains("side=") && cause.split('|').any(|c| line.contains(c));
    ensure(log.lines().any(told), || format!("no line tells the cause {cause:?}"))
}

/// We show a bad certificate to a server that demands a good one.
fn our_certificate(world: &World, certificate: &str) -> Outcome {
    world.kamailio_hop("xmpp.example", Hop::Tcp)?;
    let mut config = Config::with_certificate(world, certificate)?;
    let latimer = Latimer::start(world, config.sip("sip.example", Hop::Tcp).partner("xmpp.example", &[]))?;
    let mut bob = world.agent("bob@sip.example")?;
    let status = bob.message("sip:alice@xmpp.example", "unheard")?.status();
    ensure(REFUSED.contains(&status), || format!("answered {status}"))?;
    latimer.wait_log(&["xmpp.example", "side="]).map(drop)
}

/// The DNS leads to a server that does not serve the domain.
fn stream_refused(world: &World, domain: &str) -> Outcome {
    let latimer = gateway(world, "sip2.example", Hop::Tcp, domain, &["tls optional"])?;
    let mut bob = world.agent("bob@sip2.example")?;
    let status = bob.message(&format!("sip:alice@{domain}"), "unheard")?.status();
    ensure(REFUSED.contains(&status), || format!("answered {status}"))?;
    latimer.wait_log(&[domain, "host-unknown", "side="]).map(drop)
}

/// What a SIP user hears of a partner that cannot be talked to; Kamailio makes 500 of 503.
const REFUSED: [u16; 5] = [403, 404, 408, 480, 500];

fn refused_both_ways(world: &World, sip: &str, domain: &str) -> Outcome {
    let address = format!("bob@{sip}");
    let mut bob = world.agent(&address)?;
    let mut alice = world.client("alice", domain)?;
    let status = bob.message(&format!("sip:alice@{domain}"), "unheard")?.status();
    ensure(REFUSED.contains(&status), || format!("answered {status}"))?;
    let id = alice.message(&address, "unheard too")?;
    let error = alice.wait_error(&id, SOON)?.error();
    ensure(error.contains("remote-server"), || format!("the partner's server said {error}"))?;
    let came = bob.requests();
    ensure(came.is_empty(), || format!("a message came through: {came:?}"))
}

fn sip_forbidden(world: &World) -> Outcome {
    let latimer = gateway(world, "sip.example", Hop::Tls, "xmpp.example", &[])?;
    let mut bob = world.agent("bob@sip.example")?;
    let mut alice = world.client("alice", "xmpp.example")?;
    for spoofed in ["sip:alice@xmpp.example", "sip:eve@elsewhere.example", "sip:eve@sip2.example"] {
        let branch = bob.begin_message_from(spoofed, "sip:alice@xmpp.example", "spoofed")?;
        equal(&format!("the answer to {spoofed}"), bob.wait_final(&branch, SOON)?.status(), 403)?;
    }
    // Straight at the gateway, from an address that is nobody's peer.
    let mut eve = crate::sip::Agent::new("sip:bob@sip.example", world.agent_address(), world.gateway())?;
    let branch = eve.begin_message("sip:alice@xmpp.example", "spoofed")?;
    if let Ok(answer) = eve.wait_final(&branch, Duration::from_secs(1)) {
        equal("the answer to a stranger", answer.status(), 403)?;
    }
    let came = alice.messages(Duration::from_millis(200));
    ensure(came.is_empty(), || format!("it came through: {came:?}"))?;
    latimer.wait_log(&["side=sip", "elsewhere.example"]).map(drop)
}

fn not_a_partner(world: &World) -> Outcome {
    let latimer = gateway(world, "sip.example", Hop::Tls, "ej.example", &[])?;
    let mut bob = world.agent("bob@sip.example")?;
    let mut alice = world.client("alice", "xmpp.example")?;
    let id = alice.message("bob@sip.example", "let me in")?;
    equal("the error", alice.wait_error(&id, SOON)?.error().as_str(), "auth forbidden")?;
    world.kamailio_hop("xmpp.example", Hop::Tls)?;
    let status = bob.message("sip:alice@xmpp.example", "let me out")?.status();
    ensure([403, 404].contains(&status), || format!("answered {status}"))?;
    ensure(bob.requests().is_empty(), || "it came through".into())?;
    latimer.wait_log(&["xmpp.example", "partner"]).map(drop)
}

fn dns(world: &World) -> Outcome {
    let mut config = Config::new(world)?;
    config.sip("sip2.example", Hop::Tcp);
    let domains = ["failover", "big", "none", "nowhere", "servfail", "black"];
    for domain in domains {
        let domain = format!("{domain}.example");
        config.partner(&domain, &[]);
        world.kamailio_hop(&domain, Hop::Tcp)?;
    }
    let latimer = Latimer::start(world, &config)?;
    let mut bob = world.agent("bob@sip2.example")?;
    for (domain, wanted) in domains.into_iter().zip([200, 200, 404, 404, 408, 408]) {
        let status = bob.message(&format!("sip:alice@{domain}.example"), "found?")?.status();
        equal(&format!("the answer by way of {domain}.example"), status, wanted)?;
    }
    latimer.wait_log(&["side=dns", "black.example"]).map(drop)
}
