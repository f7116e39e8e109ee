//! Partners on both sides: who may talk, how they are found and proved, what they may send.

use crate::documents::categories;
use crate::im::{TEXT, open, texts};
use crate::old::{OldServer, Stream};
use crate::player::{Answer, Edge, First, offer};
use crate::presence::{CATEGORIES, add, notify};
use crate::wire::Papers;
use crate::world::quoted;
use crate::{EJABBERD, Outcome, PROSODY, QUIET, SOON, Scenario, Site, ensure, equal};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const SCENARIOS: &[Scenario] = &[
    ("f28-unknown-partner-addressees", unknown_partner_addressees),
    ("f29-own-pacing", own_pacing),
    ("f28-unknown-partner-rate", unknown_partner_rate),
    ("f19-allowed-and-blocked-partners", allowed_and_blocked),
    ("f21-connection-limits", connection_limits),
    ("f21-connection-limit-in-all", connection_limit_in_all),
    ("f22-stream-timers", stream_timers),
    ("f22-keep-alive", keep_alive),
    ("f24-body-logging", body_logging),
    ("f25-mtls-no-certificate", |site| mutual_tls(site, "none")),
    ("f25-mtls-wrong-name", |site| mutual_tls(site, "wrong name")),
    ("f25-mtls-expired", |site| mutual_tls(site, "expired")),
    ("f25-mtls-untrusted", |site| mutual_tls(site, "untrusted")),
    ("f25-mtls-revoked", |site| mutual_tls(site, "revoked")),
    ("f26-srv-discovery", srv_discovery),
    ("f26-srv-target-outside", srv_target_outside),
    ("f27-direct-partner", direct_partner),
    ("f30-verification-level", verification_level),
    ("f31-decorated-addresses", decorated),
    ("f38-policy-per-user", policy_per_user),
    ("f39-synthetic-test", synthetic_test),
    ("f40-partner-test", partner_test),
    ("f43-ipv6", ipv6),
    ("f44-old-s2s-peer", old_peer),
];

/// A SIP domain of the discovered kind, with its Edge.
fn discovered_edge(site: &Site) -> Outcome<Arc<Edge>> {
    let name = site.discovered();
    let papers = site.papers("weir", "ca", "3650", &[&format!("sip.{name}")])?;
    site.edge_with(&name, papers)
}

/// An old server for the site's own old domain, and the lines that make it a partner.
fn old_partner(site: &Site) -> Outcome<(OldServer, String)> {
    let (domain, address) = (site.old(), SocketAddr::new(site.edge_address(), 5269));
    let server = OldServer::new(&domain, address, site.domain(), site.gateway(5269))?;
    let lines = ["type federated", "tls not-supported", "sasl not-supported", "dialback true"];
    Ok((server, lines.iter().map(|line| format!("set partner {domain} {line}\n")).collect()))
}

fn allowed_and_blocked(site: &Site) -> Outcome {
    let edge = site.edge()?;
    let text = site
        .config(EJABBERD, &["partner ej.example additional-domain ej2.example", "partner ej.example tls optional"])?;
    let latimer = site.latimer(&text)?;
    let odile = edge.user("odile");
    let mut friend = site.world.client("alice", "ej2.example")?;
    friend.message(&odile.address, "of an additional domain")?;
    let talk = edge.wait_talk(&odile, SOON)?;
    equal("the text", talk.wait_text(SOON)?.as_str(), "of an additional domain")?;
    // A sibling and a stranger are refused before they say anything.
    for (user, domain) in [(site.world.guest(), PROSODY), ("alice".into(), "xmpp2.example")] {
        let mut stranger = site.world.client(&user, domain)?;
        let id = stranger.message(&odile.address, "let me in")?;
        let error = stranger.wait_error(&id, Duration::from_secs(15))?.error();
        ensure(error.contains("forbidden") || error.contains("remote-server"), || format!("{domain}: {error}"))?;
        let to = format!("{user}@{domain}");
        let (answer, _) = edge.ask(&odile, "INVITE", &to, &[], "application/sdp", &offer("null"))?;
        ensure([403, 404].contains(&answer.status()), || format!("towards {domain}: {}", answer.first))?;
    }
    // So is a SIP domain that is none of ours, whatever its certificate says.
    let stranger = odile.of_domain(&site.discovered());
    let (answer, _) = edge.ask(&stranger, "INVITE", "alice@ej2.example", &[], "application/sdp", &offer("null"))?;
    equal("an unknown SIP domain", answer.status(), 403)?;
    edge.never("INVITE", Duration::ZERO)?;
    // With discovery open all of them may, but for those that are blocked.
    let text = format!(
        "{}set partner discovery open\nset blocked {PROSODY}\nset blocked {}\n",
        site.config(EJABBERD, &[])?,
        site.discovered()
    );
    latimer.reload_text(&text)?;
    std::thread::sleep(Duration::from_secs(1));
    let (mut blocked, bare) = site.guest(PROSODY)?;
    let id = blocked.message(&odile.address, "let me in")?;
    let error = blocked.wait_error(&id, Duration::from_secs(15))?.error();
    ensure(error.contains("forbidden") || error.contains("remote-server"), || error.clone())?;
    let (answer, _) = edge.ask(&odile, "INVITE", &bare, &[], "application/sdp", &offer("null"))?;
    ensure([403, 404].contains(&answer.status()), || format!("towards a blocked domain: {}", answer.first))?;
    let (answer, _) = edge.ask(&stranger, "INVITE", "alice@ej2.example", &[], "application/sdp", &offer("null"))?;
    equal("a blocked SIP domain", answer.status(), 403)?;
    edge.never("INVITE", Duration::ZERO)
}

fn connection_limits(site: &Site) -> Outcome {
    let (old, lines) = old_partner(site)?;
    let edge = site.edge()?;
    let latimer = site.latimer(&(site.config(PROSODY, &["xmpp partner-connection-limit 4"])? + &lines))?;
    // Some of the four may be the gateway's own.
    let (mut streams, mut refused) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        let mut stream = old.stream()?;
        match stream.wait_end(Duration::from_millis(500)) {
            Ok(error) => {
                refused.push(error.and_then(|e| e.children.first().map(|c| c.name.clone())).unwrap_or_default())
            }
            Err(_) => streams.push(stream),
        }
    }
    ensure((2..=4).contains(&streams.len()), || format!("{} streams were let in", streams.len()))?;
    ensure(refused.iter().all(|why| ["resource-constraint", "policy-violation"].contains(&&**why)), || {
        format!("streams were refused with {refused:?}")
    })?;
    // The others live on.
    all_carry(site, &edge, &mut streams)?;
    latimer.wait_log(&[&site.old()]).map(drop)
}

/// A text of the partner's arrives on each of these streams.
fn all_carry(site: &Site, edge: &Edge, streams: &mut [Stream]) -> Outcome {
    let odile = edge.user("odile");
    let from = format!("petra@{}", site.old());
    for (number, stream) in streams.iter_mut().enumerate() {
        stream.send(&format!(
            "<message from='{from}' to='{}' type='chat' id='s{number}'><body>on stream {number}</body></message>",
            odile.address
        ))?;
    }
    let talk = edge.wait_talk(&odile, SOON)?;
    for _ in streams {
        talk.wait_text(SOON)?;
    }
    Ok(())
}

/// With room for ten streams in all the next is refused, whosever it is, and those that are
/// there live on.
fn connection_limit_in_all(site: &Site) -> Outcome {
    let (old, lines) = old_partner(site)?;
    let edge = site.edge()?;
    let _latimer = site.latimer(&(site.config(PROSODY, &["xmpp connection-limit 10"])? + &lines))?;
    let mut streams = Vec::new();
    while let Ok(mut stream) = old.stream() {
        if stream.wait_end(Duration::from_millis(200)).is_ok() {
            break;
        }
        streams.push(stream);
        ensure(streams.len() <= 10, || format!("{} streams were let in", streams.len()))?;
    }
    ensure(streams.len() >= 5, || format!("only {} streams were let in", streams.len()))?;
    all_carry(site, &edge, &mut streams)
}

/// A quiet stream of ours is probed, unless the partner is to be left alone.
fn keep_alive(site: &Site) -> Outcome {
    let (old, lines) = old_partner(site)?;
    let edge = site.edge()?;
    let config = |on: bool| -> Outcome<String> {
        let text = site.config(PROSODY, &["xmpp keep-alive-interval 2"])? + &lines;
        Ok(format!("{text}set partner {} keep-alive {on}\n", site.old()))
    };
    let latimer = site.latimer(&config(false)?)?;
    let (odile, petra) = (edge.user("odile"), format!("petra@{}", site.old()));
    let is_ping = |e: &crate::xmpp::Element| e.name == "iq" && e.child("ping").is_some();
    open(&edge, &odile, &petra, "left alone")?;
    old.wait("the text", SOON, |e| e.text_of("body") == "left alone")?;
    ensure(old.wait("a ping", Duration::from_secs(5), is_ping).is_err(), || "there came a ping".into())?;
    latimer.reload_text(&config(true)?)?;
    std::thread::sleep(Duration::from_secs(1));
    open(&edge, &edge.user("rhea"), &petra, "looked after")?;
    old.wait("the text", SOON, |e| e.text_of("body") == "looked after")?;
    old.wait("a ping", Duration::from_secs(6), is_ping).map(drop)
}

fn stream_timers(site: &Site) -> Outcome {
    let (old, lines) = old_partner(site)?;
    let lines = format!(
        "{lines}set xmpp stream-establishment-timeout 3\nset xmpp stream-inactivity-timeout 4\n\
         set xmpp keep-alive-interval 2\nset partner {} keep-alive false\n",
        site.old()
    );
    let _latimer = site.latimer(&(site.config(PROSODY, &[])? + &lines))?;
    // No header.
    let begun = Instant::now();
    let mut silent = Stream::connect(site.gateway(5269))?;
    let mut half = Stream::connect(site.gateway(5269))?;
    half.greet("", site.domain())?;
    // Silence: without the keep-alive rule of two seconds it lives for four.
    let mut quiet = old.stream()?;
    silent.wait_end(Duration::from_secs(8))?;
    let took = begun.elapsed().as_secs_f32();
    ensure((1.0..7.0).contains(&took), || format!("without a header it took {took} s"))?;
    half.wait_end(Duration::from_secs(8))?;
    quiet.wait_end(Duration::from_secs(12))?;
    let took = begun.elapsed().as_secs_f32();
    ensure((3.5..11.0).contains(&took), || format!("the quiet stream was closed after {took} s"))
}

fn body_logging(site: &Site) -> Outcome {
    let (latimer, edge) = site.open(PROSODY, &["system log level debug", "system privacy full"])?;
    let (mut guest, bare) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    let secret = "the-weir-key-is-under-the-stone";
    let speak = |guest: &mut crate::xmpp::Client| -> Outcome {
        let talk = open(&edge, &odile, &bare, secret)?;
        guest.wait_message(secret)?;
        guest.message(&odile.address, secret)?;
        equal("the text", talk.wait_text(SOON)?.as_str(), secret)?;
        talk.bye()
    };
    speak(&mut guest)?;
    ensure(!latimer.log().contains(secret), || "the log has a text by default".into())?;
    latimer.reload_text(&site.config(PROSODY, &["xmpp log-message-bodies true"])?)?;
    std::thread::sleep(Duration::from_secs(1));
    speak(&mut guest)?;
    latimer.wait_log(&[secret])?;
    let count = latimer.log().matches(secret).count();
    ensure(count >= 2, || format!("the text is there {count} times, of two directions"))
}

/// An Edge that proves nothing, or the wrong thing, in both directions.
fn mutual_tls(site: &Site, fault: &str) -> Outcome {
    let host = site.edge_name();
    let good = || site.papers("edge", "ca", "3650", &[&host]);
    let (papers, cause) = match fault {
        "none" => (Papers { shown: false, ..good()? }, "certificate"),
        "wrong name" => (site.papers("edge", "ca", "3650", &["sip.somebody-else.example"])?, "somebody-else.example"),
        "expired" => (site.papers("edge", "ca", "expired", &[&host])?, "xpired"),
        "revoked" => (good()?, "revoked"),
        _ => (site.papers("edge", "otherca", "3650", &[&host])?, "nknown"),
    };
    let edge = site.edge_with(site.domain(), papers)?;
    let mut text = site.config(PROSODY, &[])?;
    if fault == "revoked" {
        text.push_str(&format!("set tls revoked ours {}\n", quoted(&site.revoke("edge")?)));
    }
    let latimer = site.latimer(&text)?;
    let (mut guest, bare) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    let first = First { plain: "unproven", ..First::default() };
    let asked = edge.link().and_then(|_| {
        let (branch, _) =
            edge.begin(&odile, "INVITE", &bare, &first.lines(&odile, &bare), "application/sdp", &offer("null"))?;
        edge.finish(&branch, Duration::from_secs(4))
    });
    if let Ok(answer) = asked {
        ensure(answer.status() == 403, || format!("it was answered {}", answer.first))?;
    }
    let came = texts(&mut guest, QUIET);
    ensure(came.is_empty(), || format!("it came through: {came:?}"))?;
    // Found and wanted.
    latimer.wait_log(&["sip.identity", cause, "wanted=", &site.edge_name()])?;
    if fault != "none" {
        let id = guest.message(&odile.address, "to whom?")?;
        guest.wait_error(&id, Duration::from_secs(20))?;
        edge.never("INVITE", Duration::ZERO)?;
    }
    Ok(())
}

fn srv_discovery(site: &Site) -> Outcome {
    let edge = discovered_edge(site)?;
    let domain = site.discovered();
    let text = format!("{}set sip domain {domain} dialect lync\nset partner {PROSODY} type federated\n", site.house()?);
    let _latimer = site.latimer(&text)?;
    let (mut guest, bare) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    // Of the two records the first leads to a port where nobody is.
    guest.message(&odile.address, TEXT)?;
    let invite = edge.wait_request("INVITE", SOON)?;
    let link = edge.links().into_iter().find(|link| link.number == invite.link).ok_or("no such connection")?;
    ensure(!link.ours && link.local.port() == 5062, || format!("it came by {}", link.local))?;
    let talk = edge.talk(&invite);
    equal("the text", talk.wait_text(SOON)?.as_str(), TEXT)?;
    talk.text("and back")?;
    guest.wait_message("and back")?;
    let rhea = edge.user("rhea");
    open(&edge, &rhea, &bare, "from there")?;
    guest.wait_message("from there")?;
    asked_dns(site, &format!("_sipfederationtls._tcp.{domain}"), true)
}

/// Does the log of the DNS say that this was asked?
fn asked_dns(site: &Site, name: &str, wanted: bool) -> Outcome {
    let asked = site.world.peer_log("dns-queries.log").contains(name);
    ensure(asked == wanted, || format!("asked for {name}: {asked}"))
}

fn srv_target_outside(site: &Site) -> Outcome {
    let (edge, far) = (site.edge()?, site.far());
    let config = |more: &str| -> Outcome<String> {
        Ok(format!("{}set sip domain {far} dialect lync\n{more}set partner {PROSODY} type federated\n", site.house()?))
    };
    let latimer = site.latimer(&config("")?)?;
    let (mut guest, _) = site.guest(PROSODY)?;
    let to = format!("odile@{far}");
    let id = guest.message(&to, "where are you?")?;
    let error = guest.wait_error(&id, Duration::from_secs(20))?.error();
    ensure(error.contains("remote-server"), || error.clone())?;
    edge.never("INVITE", Duration::ZERO)?;
    latimer.wait_log(&[&far, &site.edge_name()])?;
    latimer.reload_text(&config(&format!("set sip domain {far} srv-target warn\n"))?)?;
    std::thread::sleep(Duration::from_secs(1));
    guest.message(&to, "there you are")?;
    edge.wait_request("INVITE", Duration::from_secs(15))?;
    // Another domain answers for it: its dialog is of no interest here.
    Ok(())
}

fn direct_partner(site: &Site) -> Outcome {
    let (_latimer, edge) = site.open(PROSODY, &[])?;
    let (mut guest, _) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    guest.message(&odile.address, "straight")?;
    let talk = edge.wait_talk(&odile, SOON)?;
    equal("the text", talk.wait_text(SOON)?.as_str(), "straight")?;
    asked_dns(site, &format!("_sipfederationtls._tcp.{}", site.domain()), false)?;
    asked_dns(site, &site.edge_name(), true)
}

/// What a domain that was merely discovered sends in one burst.
fn unknown_partner_rate(site: &Site) -> Outcome {
    let (_old, lines) = old_partner(site)?;
    let edge = discovered_edge(site)?;
    let text = site.config(PROSODY, &["partner discovery open"])? + &lines;
    let _latimer = site.latimer(&text)?;
    let odile = edge.user("odile");
    let to = format!("petra@{}", site.old());
    let (first, _) = edge.ask(&odile, "MESSAGE", &to, &[], "text/plain; charset=UTF-8", "first")?;
    equal("the first answer", first.status(), 200)?;
    let begun = Instant::now();
    let mut branches = Vec::new();
    for number in 0..100 {
        branches
            .push(edge.begin(&odile, "MESSAGE", &to, &[], "text/plain; charset=UTF-8", &format!("number {number}"))?.0);
    }
    let (mut passed, mut refused) = (0, 0);
    for branch in &branches {
        let answer = edge.finish(branch, Duration::from_secs(20))?;
        match answer.status() {
            200 => passed += 1,
            503 => {
                ensure(!answer.field("retry-after").is_empty(), || "503 without Retry-After".into())?;
                refused += 1;
            }
            other => return Err(format!("a MESSAGE was answered {other}")),
        }
    }
    let seconds = begun.elapsed().as_secs_f32();
    // Who is a partner by configuration has no such bound.
    let mill = site.edge_beside(site.domain())?;
    let rhea = mill.user("rhea");
    for number in 0..100 {
        let (answer, _) =
            mill.ask(&rhea, "MESSAGE", &to, &[], "text/plain; charset=UTF-8", &format!("and {number}"))?;
        equal("the answer to a partner", answer.status(), 200)?;
    }
    #[allow(clippy::cast_precision_loss)] // Small numbers.
    let allowed = 20.0 * (seconds + 1.0) + 5.0;
    ensure((passed as f32) <= allowed, || format!("{passed} passed in {seconds:.1} s, {refused} did not"))?;
    ensure(passed >= 15, || format!("only {passed} passed"))
}

fn unknown_partner_addressees(site: &Site) -> Outcome {
    let (_old, lines) = old_partner(site)?;
    let edge = discovered_edge(site)?;
    let text = format!("{}{lines}set partner discovery open\n", site.house()?);
    let _latimer = site.latimer(&text)?;
    let odile = edge.user("odile");
    let mut first_refused = None;
    let (begun, mut sent) = (Instant::now(), 0_u32);
    for number in 0..1010 {
        loop {
            // Below the rate.
            let due = begun + Duration::from_millis(56) * sent;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            sent += 1;
            let to = format!("reader{number}@{}", site.old());
            let (answer, _) = edge.ask(&odile, "MESSAGE", &to, &[], "text/plain; charset=UTF-8", "news")?;
            match (answer.status(), first_refused) {
                (200, None) => {}
                (503, _) => continue,
                (403, _) => first_refused = first_refused.or(Some(number)),
                (other, _) => return Err(format!("number {number} was answered {other}")),
            }
            break;
        }
    }
    equal("the first addressee that was refused", first_refused, Some(1000))?;
    let known = format!("reader7@{}", site.old());
    let (answer, _) = edge.ask(&odile, "MESSAGE", &known, &[], "text/plain", "again")?;
    ensure([200, 403].contains(&answer.status()), || answer.first.clone())
}

fn own_pacing(site: &Site) -> Outcome {
    const READERS: usize = 2;
    const EACH: usize = 250;
    let (_latimer, edge) = site.open(PROSODY, &["sip domain DOMAIN rate 20"])?;
    let (mut guest, _) = site.guest(PROSODY)?;
    // Prosody 0.12 mixes up what it sends while its stream is being authenticated.
    guest.message(&site.at("odile"), "first")?;
    edge.wait_talk(&edge.user("odile"), SOON)?.wait_text(SOON)?;
    let begun = Instant::now();
    for number in 0..EACH {
        for reader in 0..READERS {
            guest.message(&site.at(&format!("reader{reader}")), &format!("{reader} number {number}"))?;
        }
    }
    let (mut times, mut last) = (Vec::new(), [0; READERS]);
    while times.len() < READERS * EACH {
        let message = edge.wait_request("MESSAGE", Duration::from_secs(10))?;
        let (reader, number) = message.body.split_once(" number ").ok_or("another text")?;
        let reader: usize = reader.parse().map_err(|_| "another text")?;
        // In order, and none missing.
        equal("the next text", number.parse(), Ok(last[reader]))?;
        last[reader] += 1;
        times.push(message.at);
    }
    let took = begun.elapsed();
    ensure(took > Duration::from_secs(22), || format!("all left in {took:?}"))?;
    // In any five seconds no more than the rate and what may have been saved in one.
    let within = |at: &Instant| times.iter().filter(|t| *t >= at && **t < *at + Duration::from_secs(5)).count();
    let most = times.iter().map(within).max().unwrap_or(0);
    ensure(most <= 125, || format!("{most} left within five seconds"))?;
    let errors = texts(&mut guest, QUIET);
    ensure(errors.is_empty(), || format!("errors came: {errors:?}"))
}

fn verification_level(site: &Site) -> Outcome {
    let (latimer, edge) = site.open(PROSODY, &["sip domain DOMAIN verification never"])?;
    let (mut guest, bare) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    let refused = |what: &str| -> Outcome {
        let first = First { plain: "who am I?", ..First::default() };
        let lines = first.lines(&odile, &bare);
        let (answer, _) = edge.ask(&odile, "INVITE", &bare, &lines, "application/sdp", &offer("null"))?;
        ensure(answer.status() == 403, || format!("{what}: it was answered {}", answer.first))
    };
    refused("never verified, no contact")?;
    let call = add(&edge, &odile, &mut guest)?.field("call-id").to_string();
    notify(&edge, &call, "active;expires=28790", CATEGORIES, &categories(&odile.address, 3500, "", ""))?;
    guest.wait_contact("subscribed", &odile.address, SOON)?;
    open(&edge, &odile, &bare, "now you know")?.bye()?;
    guest.wait_message("now you know")?;

    latimer.reload_text(&site.config(PROSODY, &["sip domain DOMAIN verification source"])?)?;
    std::thread::sleep(Duration::from_secs(1));
    let (mut other, bare) = site.guest(PROSODY)?;
    edge.say_verified(false);
    let first = First { plain: "who am I?", ..First::default() };
    let lines = first.lines(&odile, &bare);
    let (answer, _) = edge.ask(&odile, "INVITE", &bare, &lines, "application/sdp", &offer("null"))?;
    ensure(answer.status() == 403, || format!("without the header: it was answered {}", answer.first))?;
    edge.say_verified(true);
    open(&edge, &odile, &bare, "with the header")?;
    other.wait_message("with the header").map(drop)
}

fn decorated(site: &Site) -> Outcome {
    const ROUTING: &str = "ferry.example";
    let edge = site.edge()?;
    let on = |on: bool| -> Outcome<String> {
        site.config(
            PROSODY,
            &[
                &format!("provider ferry enabled {on}"),
                &format!("provider ferry routing-domain {ROUTING}"),
                &format!("provider ferry partner {PROSODY}"),
                &format!("provider ferry excluded-domain {EJABBERD}"),
                &format!("partner {EJABBERD} type federated"),
            ],
        )
    };
    let latimer = site.latimer(&on(true)?)?;
    let (mut guest, bare) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    let address = format!("{}({PROSODY})@{ROUTING}", bare.split('@').next().unwrap_or(""));
    // Session mode: the player checks that To comes back as it was.
    let talk = open(&edge, &odile, &address, "by ferry")?;
    let stanza = guest.wait_message("by ferry")?;
    equal("to", stanza.attribute("to").split('/').next().unwrap_or(""), &*bare)?;
    guest.message(&odile.address, "back by ferry")?;
    let message = edge.wait_request("MESSAGE", SOON)?;
    equal("the text", message.body.as_str(), "back by ferry")?;
    ensure(message.uri("from").starts_with(&format!("sip:{address}")), || message.field("from").into())?;
    talk.bye()?;
    // What the XMPP side begins has the same name.
    guest.message(&odile.address, "a new one")?;
    let invite = edge.wait_request("INVITE", SOON)?;
    ensure(invite.uri("from").starts_with(&format!("sip:{address}")), || invite.field("from").into())?;
    equal("the text", edge.talk(&invite).wait_text(SOON)?.as_str(), "a new one")?;
    // Single MESSAGEs as well.
    let (answer, _) =
        edge.ask(&odile, "MESSAGE", &address, &["Supported: timer".into()], "text/plain; charset=UTF-8", "single")?;
    equal("the answer to a MESSAGE", answer.status(), 200)?;
    guest.wait_message("single")?;
    let ask = |to: &str| {
        Ok::<u16, String>(edge.ask(&odile, "INVITE", to, &[], "application/sdp", &offer("null"))?.0.status())
    };
    let excluded = ask(&format!("alice({EJABBERD})@{ROUTING}"))?;
    ensure([403, 404].contains(&excluded), || format!("an excluded domain was answered {excluded}"))?;
    let nobody = ask(&format!("tove(nobody.example)@{ROUTING}"))?;
    ensure([403, 404].contains(&nobody), || format!("no partner was answered {nobody}"))?;
    let bare_name = ask(&format!("tove@{ROUTING}"))?;
    ensure([403, 404].contains(&bare_name), || format!("a name without domain was answered {bare_name}"))?;
    let (mut plain, plain_bare) = site.guest(EJABBERD)?;
    open(&edge, &odile, &plain_bare, "as it is")?;
    plain.wait_message("as it is")?;
    latimer.reload_text(&on(false)?)?;
    std::thread::sleep(Duration::from_secs(1));
    equal("the answer when it is off", ask(&address)?, 404)?;
    asked_dns(site, ROUTING, false)
}

fn policy_per_user(site: &Site) -> Outcome {
    let (_latimer, edge) = site.open(
        PROSODY,
        &["policy default xmpp true", "policy interns xmpp false", "user odile@DOMAIN policy interns"],
    )?;
    let (mut guest, bare) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    let id = guest.message(&odile.address, "may I?")?;
    equal("the error", guest.wait_error(&id, SOON)?.error().as_str(), "auth forbidden")?;
    let first = First { plain: "may I?", ..First::default() };
    let (answer, _) =
        edge.ask(&odile, "INVITE", &bare, &first.lines(&odile, &bare), "application/sdp", &offer("null"))?;
    equal("the answer", answer.status(), 403)?;
    let (answer, _) = edge.subscribe(&odile, &bare, 3600)?;
    equal("the answer to a SUBSCRIBE", answer.status(), 403)?;
    edge.never("INVITE", QUIET)?;
    let rhea = edge.user("rhea");
    open(&edge, &rhea, &bare, "I may")?;
    guest.wait_message("I may").map(drop)
}

/// Runs `latimer test ...` beside the gateway: what it printed, and whether it was all well.
fn latimer_test(site: &Site, words: &[&str]) -> Outcome<(bool, String)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_latimer"));
    command.arg("test").args(words).arg("--control").arg(site.dir().join("latimer.sock"));
    let output = command.output().map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure(output.status.code() != Some(2), || format!("latimer test {words:?}: {text}"))?;
    Ok((output.status.success(), text))
}

fn synthetic_test(site: &Site) -> Outcome {
    let (_latimer, edge) = site.open(PROSODY, &[])?;
    let (mut guest, bare) = site.guest(PROSODY)?;
    let odile = edge.user("odile");
    let (good, text) = latimer_test(site, &["user", &odile.address, "to", &bare])?;
    ensure(good && text.contains("ms"), || text.clone())?;
    guest.wait("the test message", |m| m.text_of("body").contains("est message"))?;
    let (good, text) = latimer_test(site, &["user", &bare, "to", &odile.address])?;
    ensure(good, || text.clone())?;
    let talk = edge.wait_talk(&odile, SOON)?;
    let came = talk.wait_text(SOON)?;
    ensure(came.contains("est message"), || came.clone())?;
    edge.always(
        "INVITE",
        Answer::Refuse(404, "Not Found", vec!["ms-diagnostics-public: 1003;reason=\"User does not exist\"".into()]),
    );
    let (good, text) = latimer_test(site, &["user", &bare, "to", &site.at("nobody")])?;
    ensure(!good && text.contains("does not exist"), || text.clone())
}

fn partner_test(site: &Site) -> Outcome {
    let (_latimer, edge) = site.open(PROSODY, &[])?;
    let (good, text) = latimer_test(site, &["partner", site.domain()])?;
    ensure(good, || text.clone())?;
    edge.wait_request("OPTIONS", SOON)?;
    for word in ["DNS", "TCP", "TLS", "OPTIONS"] {
        ensure(text.to_uppercase().contains(word), || format!("no {word} in {text}"))?;
    }
    let (good, text) = latimer_test(site, &["partner", PROSODY])?;
    ensure(good, || text.clone())?;
    // An Edge that nobody believes.
    drop(text);
    let (good, text) = latimer_test(site, &["partner", "nobody.example"])?;
    ensure(!good, || text.clone())
}

/// Everything over IPv6: the SIP side as ever, the XMPP side with the old server, since
/// those of Debian listen where the other tests want them, on IPv4.
fn ipv6(site: &Site) -> Outcome {
    let here = IpAddr::V6(Ipv6Addr::LOCALHOST);
    if let Err(why) = std::net::TcpListener::bind((here, 0)) {
        println!("SKIP  f43-ipv6: there is no IPv6 here: {why}");
        return Ok(());
    }
    let free = || -> Outcome<SocketAddr> {
        let listener = std::net::TcpListener::bind((here, 0)).map_err(|e| e.to_string())?;
        listener.local_addr().map_err(|e| e.to_string())
    };
    let (sip, s2s, edge_at, old_at) = (free()?, free()?, free()?, free()?);
    let (host, domain, old_domain) = (site.edge_name_v6(), site.domain(), site.old());
    let papers = site.papers("edge", "ca", "3650", &[&host])?;
    let edge = Edge::new(domain, &host, here, &[edge_at.port()], papers, sip, &format!("gw.{domain}"))?;
    let old = OldServer::new(&old_domain, old_at, domain, s2s)?;
    let house: String = site
        .house()?
        .lines()
        .filter(|line| !line.contains(" listen "))
        .fold(String::new(), |all, line| all + line + "\n");
    let text = format!(
        "{house}set sip listen tls tls:{sip}\nset xmpp listen s2s starttls:{s2s}\n\
         set sip domain {domain} next-hop tls:{host}:{}\nset sip domain {domain} dialect lync\n\
         set partner {old_domain} type federated\nset partner {old_domain} tls not-supported\n\
         set partner {old_domain} sasl not-supported\nset partner {old_domain} proxy {host}:{}\n",
        edge_at.port(),
        old_at.port()
    );
    let latimer = site.latimer(&text)?;
    with_old(&edge, &old, &old_domain)?;
    // F25: nobody's certificate.
    let wrong = site.papers("edge", "ca", "3650", &["sip.somebody-else.example"])?;
    let link = edge.link_with(&wrong);
    if link.is_ok() {
        let odile = edge.user("odile");
        let to = format!("petra@{old_domain}");
        let (branch, _) = edge.begin(&odile, "INVITE", &to, &[], "application/sdp", &offer("null"))?;
        if let Ok(answer) = edge.finish(&branch, Duration::from_secs(4)) {
            equal("the answer to a wrong name", answer.status(), 403)?;
        }
    }
    latimer.wait_log(&["somebody-else.example"])?;
    edge.honest()
}

fn old_peer(site: &Site) -> Outcome {
    let (old, lines) = old_partner(site)?;
    let edge = site.edge()?;
    let _latimer = site.latimer(&(site.config(PROSODY, &[])? + &lines))?;
    with_old(&edge, &old, &site.old())
}

/// F1, F2 and F9 with an XMPP server from before version 1.0.
fn with_old(edge: &Edge, old: &OldServer, old_domain: &str) -> Outcome {
    let odile = edge.user("odile");
    let petra = format!("petra@{old_domain}");
    let body =
        |wanted: &'static str| move |e: &crate::xmpp::Element| e.name == "message" && e.text_of("body") == wanted;
    let talk = open(edge, &odile, &petra, TEXT)?;
    old.wait("the text", SOON, body(TEXT))?;
    talk.text("and more")?;
    old.wait("the second text", SOON, body("and more"))?;
    old.send(&format!(
        "<message from='{petra}/mill' to='{}' type='chat' id='o1'><body>and back</body></message>",
        odile.address
    ))?;
    equal("the text", talk.wait_text(SOON)?.as_str(), "and back")?;
    talk.bye()?;
    old.send(&format!(
        "<message from='{petra}/mill' to='{}' type='chat' id='o2'><body>once more</body></message>",
        odile.address
    ))?;
    let talk = edge.wait_talk(&odile, SOON)?;
    equal("the text", talk.wait_text(SOON)?.as_str(), "once more")?;

    let (answer, call) = edge.subscribe(&odile, &petra, 36_000)?;
    equal("the answer to the SUBSCRIBE", answer.status() / 100, 2)?;
    old.wait("a request", SOON, |e| e.name == "presence" && e.attribute("type") == "subscribe")?;
    old.send(&format!("<presence from='{petra}' to='{}' type='subscribed'/>", odile.address))?;
    old.send(&format!("<presence from='{petra}/mill' to='{}'><show>away</show></presence>", odile.address))?;
    edge.wait_notify(&call, SOON, |words| words == "active open away")?;
    std::thread::sleep(Duration::from_millis(1100));
    old.send(&format!("<presence from='{petra}/mill' to='{}'><show>dnd</show></presence>", odile.address))?;
    edge.wait_notify(&call, SOON, |words| words == "active open busy").map(drop)
}
