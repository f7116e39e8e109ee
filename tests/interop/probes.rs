//! `latimer test` between real servers: all green where all is well; at each thing that
//! is broken a red line at that very step, with whose side it is and what to do.

use crate::messages::gateway;
use crate::world::{Config, Hop, Latimer, Shown, World};
use crate::{Outcome, Scenario, ensure, equal};
use std::sync::atomic::Ordering;

pub const SCENARIOS: &[Scenario] = &[
    ("test-partner-prosody", |world| partner(world, "xmpp.example", "EXTERNAL")),
    ("test-partner-ejabberd", |world| partner(world, "ej.example", "EXTERNAL")),
    ("test-partner-dialback", |world| partner(world, "nosrv.example", "dialback")),
    ("test-partner-by-a-running-stream", running),
    ("test-partner-not-configured", not_configured),
    ("test-partner-without-records", |world| {
        let red = Red { step: "dns", side: "the DNS's", words: &["none.example", "SRV"] };
        red_partner(world, "none.example", &[], &red)
    }),
    ("test-partner-that-does-not-exist", |world| {
        red_partner(world, "nowhere.example", &[], &Red { step: "dns", side: "the DNS's", words: &["does not exist"] })
    }),
    ("test-partner-port-closed", |world| {
        let proxy = format!("proxy {}:5999", world.host(10));
        let red = Red { step: "tcp", side: "the partner's", words: &["refused", "5999"] };
        red_partner(world, "xmpp.example", &[&proxy], &red)
    }),
    ("test-partner-certificate-expired", |world| {
        let red = Red { step: "tls", side: "the partner's", words: &["expired", "wanted expired.example", "renew"] };
        red_partner(world, "expired.example", &["sasl required"], &red)
    }),
    ("test-partner-certificate-wrong-name", |world| {
        let red = Red { step: "tls", side: "the partner's", words: &["somebody-else.example", "wrong name"] };
        red_partner(world, "wrongname.example", &["sasl required"], &red)
    }),
    ("test-partner-certificate-untrusted", |world| {
        let red = Red { step: "tls", side: "the partner's", words: &["set tls trust NAME"] };
        red_partner(world, "untrusted.example", &["sasl required"], &red)
    }),
    ("test-partner-external-not-offered", |world| {
        let mut config = Config::with_certificate(world, "gw-untrusted")?;
        config.sip("sip2.example", Hop::Tcp).partner("xmpp.example", &["sasl required"]);
        let latimer = Latimer::start(world, &config)?;
        let words = &["ok  tls", "does the partner trust our certificate?"];
        red(&latimer.test(&["partner", "xmpp.example"])?, &Red { step: "identity", side: "ours", words })
    }),
    ("test-partner-domain-not-served-there", |world| {
        red_partner(
            world,
            "unhosted.example",
            &["tls optional"],
            &Red { step: "identity", side: "the partner's", words: &["host-unknown"] },
        )
    }),
    ("test-partner-refuses-our-certificate", our_certificate),
    ("test-partner-refuses-our-key", our_key),
    ("test-partner-that-cannot-come-back", deaf),
    ("test-sip-domain-tls", |world| sip(world, Hop::Tls)),
    ("test-sip-domain-tcp", |world| sip(world, Hop::Tcp)),
    ("test-sip-domain-udp", |world| sip(world, Hop::Udp)),
    ("test-sip-domain-port-closed", |world| {
        let hop = format!("tls:{}:5999", world.host(30));
        red_sip(
            world,
            "sip.example",
            &hop,
            "gw",
            &Red { step: "tcp", side: "the partner's", words: &["5999", "refused"] },
        )
    }),
    ("test-sip-domain-certificate-of-another", |world| {
        let red = Red { step: "tls", side: "the partner's", words: &["kamailio.example", "wanted sip4.example"] };
        red_sip(world, "sip4.example", "tls:sip4.example:5061", "gw", &red)
    }),
    ("test-sip-domain-refuses-our-certificate", |world| {
        let red = Red { step: "tls", side: "ours", words: &["UnknownCA"] };
        red_sip(world, "sip.example", "tls:kamailio.example:5061", "gw-untrusted", &red)
    }),
    ("test-sip-domain-without-an-address", |world| {
        let red = Red { step: "dns", side: "the DNS's", words: &["does not exist"] };
        red_sip(world, "sip.example", "tls:nowhere.example:5061", "gw", &red)
    }),
    ("test-user-sip-to-xmpp", |world| user_to_xmpp(world, "xmpp.example")),
    ("test-user-sip-to-xmpp-ejabberd", |world| user_to_xmpp(world, "ej.example")),
    ("test-user-xmpp-to-sip", user_to_sip),
    ("test-user-policy", user_refused_by_us),
];

/// What a red line has to say.
struct Red<'a> {
    step: &'a str,
    side: &'a str,
    words: &'a [&'a str],
}

fn green(shown: &Shown, words: &[&str]) -> Outcome {
    equal("the exit code", shown.code, 0).map_err(|why| format!("{why}: {shown:?}"))?;
    ensure(shown.out.lines().last().is_some_and(|line| line.starts_with("green: ")), || format!("{shown:?}"))?;
    told(shown, words)
}

fn red(shown: &Shown, red: &Red<'_>) -> Outcome {
    equal("the exit code", shown.code, 1).map_err(|why| format!("{why}: {shown:?}"))?;
    let line = format!("RED {:10} ", red.step);
    ensure(shown.out.lines().any(|l| l.starts_with(&line)), || format!("no line {line:?} in {shown:?}"))?;
    let last = shown.out.lines().last().unwrap_or_default();
    let side = format!("    side: {}; what to do: ", red.side);
    ensure(last.starts_with(&side) && last.len() > side.len(), || format!("the last line is {last:?}: {shown:?}"))?;
    ensure(shown.err.contains(&format!("red at {}", red.step)), || format!("{shown:?}"))?;
    told(shown, red.words)
}

fn told(shown: &Shown, words: &[&str]) -> Outcome {
    match words.iter().find(|word| !shown.out.contains(*word)) {
        None => Ok(()),
        Some(word) => Err(format!("{word:?} is not told: {shown:?}")),
    }
}

fn partner(world: &World, domain: &str, proof: &str) -> Outcome {
    let latimer = gateway(world, "sip2.example", Hop::Tcp, domain, &[])?;
    let proof = format!("we are proved by {proof}");
    let steps = ["ok  configured", "ok  dns", "ok  tcp", "ok  tls", "good until 20", "ok  identity", &proof];
    let shown = latimer.test(&["partner", domain])?;
    green(&shown, &steps)?;
    green(&shown, &["ok  round-trip", "ok  incoming", "can be reached and reaches us"])
}

fn running(world: &World) -> Outcome {
    let latimer = gateway(world, "sip2.example", Hop::Tcp, "xmpp.example", &[])?;
    green(&latimer.test(&["partner", "xmpp.example"])?, &["ok  dns"])?;
    let shown = latimer.test(&["partner", "xmpp.example", "sip2.example"])?;
    green(&shown, &["our stream is up and used: TLS", "proved by EXTERNAL", "ok  round-trip"])?;
    ensure(!shown.out.contains("ok  dns"), || format!("{shown:?}"))?;
    // The same at a console that reads a script.
    let shown = latimer.console("test partner xmpp.example\nshow version\n")?;
    equal("the exit code", shown.code, 0)?;
    told(&shown, &["green: xmpp.example", "latimer 0."])
}

fn not_configured(world: &World) -> Outcome {
    let latimer = gateway(world, "sip2.example", Hop::Tcp, "xmpp.example", &[])?;
    let wanted = Red { step: "configured", side: "ours", words: &["set partner ej.example type federated"] };
    red(&latimer.test(&["partner", "ej.example"])?, &wanted)?;
    let wanted =
        Red { step: "configured", side: "ours", words: &["sip3.example is no SIP domain that is served here"] };
    red(&latimer.test(&["partner", "xmpp.example", "sip3.example"])?, &wanted)?;
    let shown = latimer.console("test partner ej.example\nshow version\n")?;
    equal("the exit code", shown.code, 1)?;
    ensure(shown.err.contains("line 1: red at configured"), || format!("{shown:?}"))?;
    for words in [&["partner"][..], &["user", "a@sip2.example"], &["user", "a", "b", "c"]] {
        equal("the exit code of wrong usage", latimer.test(words)?.code, 2)?;
    }
    equal("the exit code", latimer.test(&["user", "a@sip2.example", "to", "b@sip2.example"])?.code, 1)
}

fn red_partner(world: &World, domain: &str, settings: &[&str], wanted: &Red<'_>) -> Outcome {
    let latimer = gateway(world, "sip2.example", Hop::Tcp, domain, settings)?;
    red(&latimer.test(&["partner", domain])?, wanted)?;
    // A failure a moment ago does not answer for the next test.
    red(&latimer.test(&["partner", domain])?, wanted)
}

/// The server demands EXTERNAL of sip.example, and a certificate it trusts.
fn our_certificate(world: &World) -> Outcome {
    let mut config = Config::with_certificate(world, "gw-untrusted")?;
    let latimer = Latimer::start(world, config.sip("sip.example", Hop::Tcp).partner("xmpp.example", &[]))?;
    let shown = latimer.test(&["partner", "xmpp.example"])?;
    equal("the exit code", shown.code, 1)?;
    ensure(shown.out.lines().any(|line| line.starts_with("RED identity")), || format!("{shown:?}"))
}

/// The DNS leads the server elsewhere when it asks about the key of a domain that is
/// served here by our word alone.
fn our_key(world: &World) -> Outcome {
    let mut config = Config::new(world)?;
    config.set("sip domain ej.example next-hop tcp:127.0.0.1:5060").partner("nosrv.example", &[]);
    let latimer = Latimer::start(world, &config)?;
    let wanted = Red {
        step: "identity",
        side: "ours",
        words: &["it refused our dialback key for ej.example", "SRV _xmpp-server._tcp"],
    };
    red(&latimer.test(&["partner", "nosrv.example"])?, &wanted)
}

/// EXTERNAL gets us in, but its answer goes where the DNS says that our domain is.
fn deaf(world: &World) -> Outcome {
    let mut config = Config::with_certificate(world, "gw")?;
    config.sip("sip.example", Hop::Tcp).partner("xmpp.example", &[]);
    config.text = config.text.replace(".40:5269", ".40:5268").replace(".40:5270", ".40:5271");
    let latimer = Latimer::start(world, &config)?;
    let wanted = Red {
        step: "incoming",
        side: "the partner's",
        words: &["ok  sent", "SRV _xmpp-server._tcp.sip.example", "gw.example", "port 5268"],
    };
    red(&latimer.test(&["partner", "xmpp.example"])?, &wanted)
}

fn sip(world: &World, hop: Hop) -> Outcome {
    let latimer = gateway(world, "sip.example", hop, "xmpp.example", &[])?;
    let shown = latimer.test(&["partner", "sip.example"])?;
    green(
        &shown,
        &["ok  configured", "OPTIONS was answered", "kamailio", "no request of it was taken since the start"],
    )?;
    match hop {
        Hop::Tls => told(&shown, &["ok  dns", "ok  tcp", "ok  tls", "certificate of", "kamailio.example", "believed"])?,
        Hop::Tcp => told(&shown, &["ok  tcp"])?,
        Hop::Udp => {}
    }
    let mut bob = world.agent("bob@sip.example")?;
    equal("the answer", bob.message("sip:alice@xmpp.example", "anybody there?")?.status(), 200)?;
    let shown = latimer.test(&["partner", "sip.example"])?;
    green(&shown, &["its last request came 0 s ago"])?;
    if hop == Hop::Udp { Ok(()) } else { told(&shown, &["is up and used"]) }
}

fn red_sip(world: &World, domain: &str, hop: &str, certificate: &str, wanted: &Red<'_>) -> Outcome {
    let mut config = Config::with_certificate(world, certificate)?;
    config.set(&format!("sip domain {domain} next-hop {hop}")).partner("xmpp.example", &[]);
    let latimer = Latimer::start(world, &config)?;
    red(&latimer.test(&["partner", domain])?, wanted)
}

fn user_to_xmpp(world: &World, domain: &str) -> Outcome {
    let latimer = gateway(world, "sip.example", Hop::Tls, domain, &[])?;
    let mut alice = world.client("alice", domain)?;
    let shown = latimer.test(&["user", "carol@sip.example", "to", &format!("sip:alice@{domain}")])?;
    green(&shown, &["ok  accepted", "ok  dns", "ok  tls", "ok  delivered", "the message was delivered"])?;
    let stanza =
        alice.wait_message_like("the test message", |text| text.starts_with("Test message from the gateway"))?;
    equal("from", stanza.attribute("from"), "carol@sip.example")?;
    // Nobody of that name: the error comes after the message was delivered.
    let shown = latimer.test(&["user", "carol@sip.example", "to", &format!("nobody-there@{domain}")])?;
    red(
        &shown,
        &Red { step: "delivered", side: "the partner's", words: &["the XMPP side took it and sent an error"] },
    )?;
    let shown = latimer.test(&["user", "carol@sip.example", "to", "eve@nowhere.example"])?;
    red(&shown, &Red { step: "accepted", side: "ours", words: &["404", "set partner DOMAIN"] })
}

fn user_to_sip(world: &World) -> Outcome {
    let latimer = gateway(world, "sip.example", Hop::Tls, "xmpp.example", &[])?;
    let bob = world.agent("bob@sip.example")?;
    let shown = latimer.test(&["user", "alice@xmpp.example", "to", "bob@sip.example"])?;
    green(&shown, &["ok  accepted", "ok  dns", "ok  tls", "ok  delivered"])?;
    let request =
        bob.wait_message_like("the test message", |text| text.starts_with("Test message from the gateway"))?;
    ensure(request.field("from").starts_with("<sip:alice@xmpp.example>"), || request.field("from").to_string())?;
    bob.answer.store(486, Ordering::Relaxed);
    let shown = latimer.test(&["user", "alice@xmpp.example", "to", "bob@sip.example"])?;
    red(
        &shown,
        &Red { step: "delivered", side: "the partner's", words: &["refused by the SIP side: recipient-unavailable"] },
    )?;
    let shown = latimer.test(&["user", "alice@xmpp.example", "to", "nobody-there@sip.example"])?;
    red(&shown, &Red { step: "delivered", side: "the partner's", words: &["item-not-found", "knows no such user"] })
}

/// Users of a public service that does not verify their names may not write to whom has
/// not added them; nor may the test.
fn user_refused_by_us(world: &World) -> Outcome {
    let mut config = Config::new(world)?;
    config.sip("sip.example", Hop::Tls).set("partner xmpp.example type public-unverified");
    let latimer = Latimer::start(world, &config)?;
    let shown = latimer.test(&["user", "alice@xmpp.example", "to", "bob@sip.example"])?;
    red(&shown, &Red { step: "accepted", side: "ours", words: &["refused by this gateway: forbidden", "partner type"] })
}
