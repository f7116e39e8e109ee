//! How streams come about: every row of the table of `tls`, `sasl` and `dialback`, each
//! against servers that offer everything, TLS without SASL, and nothing but dialback.

use crate::messages::{exchange, gateway};
use crate::peers::log_of;
use crate::world::{Config, Hop, Latimer, World};
use crate::{Outcome, Scenario, ensure, equal};

pub const SCENARIOS: &[Scenario] = &[
    ("external-prosody", |world| opens(world, "sip.example", "xmpp.example", &["sasl required"], "external")),
    ("external-ejabberd", |world| {
        opens(world, "sip.example", "ej.example", &["sasl required"], "external")?;
        let log = log_of(world, "ej.example");
        ensure(log.contains("EXTERNAL authentication sip.example -> ej.example"), || "ejabberd saw none".into())
    }),
    ("external-server-purpose-only-prosody", |world| server_only(world, "xmpp.example")),
    ("external-server-purpose-only-ejabberd", |world| server_only(world, "ej.example")),
    ("dialback-tls-prosody", |world| opens(world, "sip2.example", "nosrv.example", &[], "dialback-tls")),
    ("dialback-tls-ejabberd", |world| {
        opens(world, "sip2.example", "ej.example", &["sasl not-supported"], "dialback-tls")
    }),
    ("dialback-plain-prosody", |world| opens(world, "sip2.example", "xmpp2.example", &["tls optional"], "dialback")),
    ("dialback-plain-prosody-no-tls", |world| {
        opens(world, "sip2.example", "xmpp2.example", &["tls not-supported"], "dialback")
    }),
    ("dialback-plain-ejabberd", |world| {
        opens(world, "sip2.example", "ej2.example", &["tls not-supported"], "dialback")
    }),
    ("external-all-names-prosody", |world| {
        world.kamailio_hop("xmpp.example", Hop::Tls)?;
        let mut config = Config::with_certificate(world, "gw-allnames")?;
        let latimer = Latimer::start(world, config.sip("sip.example", Hop::Tls).partner("xmpp.example", &[]))?;
        talk(world, &latimer, "sip.example", "xmpp.example", "external")
    }),
    ("direct-tls-out", |world| opens(world, "sip2.example", "direct.example", &[], "external")),
    ("one-stream-for-both-directions", |world| {
        let latimer = gateway(world, "sip2.example", Hop::Tls, "bidi.example", &[])?;
        let mut bob = world.agent("bob@sip2.example")?;
        exchange(&mut bob, "bob@sip2.example", &mut world.client("alice", "bidi.example")?, "on one stream")?;
        equal("streams", latimer.log().matches("xmpp.stream.opened").count(), 1)
    }),
    ("direct-tls-in", |world| opens(world, "sip3.example", "xmpp.example", &[], "external")),
    ("negotiation-table", table),
];

/// Messages cross, and both streams were authenticated in this way.
fn opens(world: &World, sip: &str, xmpp: &str, settings: &[&str], method: &str) -> Outcome {
    let latimer = gateway(world, sip, Hop::Tls, xmpp, settings)?;
    talk(world, &latimer, sip, xmpp, method)
}

fn talk(world: &World, latimer: &Latimer, sip: &str, xmpp: &str, method: &str) -> Outcome {
    let address = format!("bob@{sip}");
    let mut bob = world.agent(&address)?;
    let mut alice = world.client("alice", xmpp)?;
    exchange(&mut bob, &address, &mut alice, "through a new stream")?;
    for direction in ["out", "in"] {
        opened(latimer, xmpp, direction, method)?;
    }
    Ok(())
}

/// A stream with the partner was opened in that direction and authenticated in that way.
fn opened(latimer: &Latimer, partner: &str, direction: &str, method: &str) -> Outcome {
    let partner = format!("partner={partner} ");
    let direction = format!("direction={direction} ");
    let (proof, tls) = match method {
        "external" => ("proof=EXTERNAL ", "tls=TLS"),
        "dialback-tls" => ("proof=dialback ", "tls=TLS"),
        _ => ("proof=dialback ", "tls=none "),
    };
    latimer.wait_log(&["xmpp.stream.opened", &partner, &direction, proof, tls]).map(drop)
}

/// What public CAs issue since 2026: a certificate for servers alone. Where the server
/// does not take it for EXTERNAL, dialback over the same TLS has to do.
fn server_only(world: &World, domain: &str) -> Outcome {
    world.kamailio_hop(domain, Hop::Tcp)?;
    let mut config = Config::with_certificate(world, "gw-serveronly")?;
    let _latimer = Latimer::start(world, config.sip("sip.example", Hop::Tcp).partner(domain, &[]))?;
    let mut bob = world.agent("bob@sip.example")?;
    let mut alice = world.client("alice", domain)?;
    exchange(&mut bob, "bob@sip.example", &mut alice, "server purpose only")
}

/// Of each row: what a stream is authenticated by where the server offers everything
/// (ejabberd's ej2), TLS and dialback (Prosody's nosrv), dialback alone (Prosody's xmpp2).
/// `-`: none comes about; `x`: the configuration is refused.
#[rustfmt::skip]
const TABLE: &[(&str, &str, &str, &str, &str, &str)] = &[
    ("required",      "required",      "true",  "external",     "-",            "-"),
    ("required",      "required",      "false", "external",     "-",            "-"),
    ("required",      "optional",      "true",  "external",     "dialback-tls", "-"),
    ("required",      "optional",      "false", "external",     "-",            "-"),
    ("required",      "not-supported", "true",  "dialback-tls", "dialback-tls", "-"),
    ("required",      "not-supported", "false", "x",            "x",            "x"),
    ("optional",      "required",      "true",  "external",     "-",            "-"),
    ("optional",      "required",      "false", "external",     "-",            "-"),
    ("optional",      "optional",      "true",  "external",     "dialback-tls", "dialback"),
    ("optional",      "optional",      "false", "external",     "-",            "-"),
    ("optional",      "not-supported", "true",  "dialback-tls", "dialback-tls", "dialback"),
    ("optional",      "not-supported", "false", "x",            "x",            "x"),
    ("not-supported", "required",      "true",  "x",            "x",            "x"),
    ("not-supported", "required",      "false", "x",            "x",            "x"),
    ("not-supported", "optional",      "true",  "dialback",     "dialback",     "dialback"),
    ("not-supported", "optional",      "false", "x",            "x",            "x"),
    ("not-supported", "not-supported", "true",  "dialback",     "dialback",     "dialback"),
    ("not-supported", "not-supported", "false", "x",            "x",            "x"),
];

fn table(world: &World) -> Outcome {
    let domains = ["ej2.example", "nosrv.example", "xmpp2.example"];
    for domain in domains {
        world.kamailio_hop(domain, Hop::Tcp)?;
    }
    let mut bob = world.agent("bob@sip2.example")?;
    for (tls, sasl, dialback, everything, no_sasl, no_tls) in TABLE {
        let row = format!("tls {tls}, sasl {sasl}, dialback {dialback}");
        let settings = [format!("tls {tls}"), format!("sasl {sasl}"), format!("dialback {dialback}")];
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let mut config = Config::new(world)?;
        config.sip("sip2.example", Hop::Tcp);
        for domain in domains {
            config.partner(domain, &settings);
        }
        let latimer = match (Latimer::start(world, &config), *everything) {
            (Err(_), "x") => continue,
            (Ok(_), "x") => return Err(format!("{row}: the configuration was not refused")),
            (started, _) => started.map_err(|why| format!("{row}: {why}"))?,
        };
        for (domain, method) in domains.into_iter().zip([everything, no_sasl, no_tls]) {
            let status = bob.message(&format!("sip:alice@{domain}"), &row)?.status();
            if *method == "-" {
                ensure(status >= 400, || format!("{row}: {domain} took a message: {status}"))?;
                continue;
            }
            equal(&format!("{row}: the answer by way of {domain}"), status, 200)?;
            opened(&latimer, domain, "out", method).map_err(|why| format!("{row}: {why}"))?;
        }
    }
    Ok(())
}
