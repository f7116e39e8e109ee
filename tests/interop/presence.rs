//! Presence and contacts, between rosters of real XMPP servers and a real SIP presence
//! server: asking, approving, denying, leaving; and that contacts stay what they are when
//! any of the three is gone for a while.

use crate::messages::gateway;
use crate::peers::server_of;
use crate::sip::{Agent, Watch};
use crate::world::{Config, Hop, Latimer, World};
use crate::xmpp::{Client, Element};
use crate::{Outcome, Scenario, ensure, equal};
use std::time::{Duration, Instant};

const PROSODY: &str = "xmpp.example";
const EJABBERD: &str = "ej.example";

pub const SCENARIOS: &[Scenario] = &[
    ("presence-xmpp-adds-sip-prosody", |world| xmpp_adds_sip(world, PROSODY)),
    ("presence-xmpp-adds-sip-ejabberd", |world| xmpp_adds_sip(world, EJABBERD)),
    ("presence-sip-decides-prosody", |world| sip_decides(world, PROSODY)),
    ("presence-sip-decides-ejabberd", |world| sip_decides(world, EJABBERD)),
    ("presence-sip-adds-xmpp-prosody", |world| sip_adds_xmpp(world, PROSODY)),
    ("presence-sip-adds-xmpp-ejabberd", |world| sip_adds_xmpp(world, EJABBERD)),
    ("presence-xmpp-denies-prosody", |world| xmpp_denies(world, PROSODY)),
    ("presence-xmpp-denies-ejabberd", |world| xmpp_denies(world, EJABBERD)),
    ("presence-logs-in-again-prosody", |world| logs_in_again(world, PROSODY)),
    ("presence-logs-in-again-ejabberd", |world| logs_in_again(world, EJABBERD)),
    ("presence-public-partner-prosody", |world| public_partner(world, PROSODY)),
    ("presence-public-partner-ejabberd", |world| public_partner(world, EJABBERD)),
    ("presence-two-watchers-prosody", |world| two_watchers(world, PROSODY)),
    ("presence-two-watchers-ejabberd", |world| two_watchers(world, EJABBERD)),
    ("presence-outlives-refreshes", refreshes),
    ("presence-after-kill-9", gateway_killed),
    ("presence-after-kamailio-restart", kamailio_restarted),
    ("presence-after-restart-of-prosody", |world| server_restarted(world, PROSODY)),
    ("presence-after-restart-of-ejabberd", |world| server_restarted(world, EJABBERD)),
];

/// What takes no waiting but for the changes that are told at most one a second.
const SOON: Duration = Duration::from_secs(6);
/// How long nothing may come where nothing is to come.
const QUIET: Duration = Duration::from_millis(1500);
/// How long after a restart contacts may be wrong.
const HEALED: Duration = Duration::from_secs(60);

const AWAY: &str = "<show xmlns='jabber:client'>away</show>";
const DND: &str = "<show xmlns='jabber:client'>dnd</show>";

/// Puts the name of the step before what went wrong in it.
fn step<T>(name: &str, outcome: Outcome<T>) -> Outcome<T> {
    outcome.map_err(|why| format!("{name}: {why}"))
}

/// An XMPP user whom nobody knows yet, logged in, who has asked for the empty roster.
fn newcomer(world: &World, domain: &str) -> Outcome<Client> {
    let mut client = world.client(&world.guest(), domain)?;
    equal("the roster at first", client.roster("nobody@sip.example")?.as_str(), "-")?;
    Ok(client)
}

/// A SIP user of that name who has not been seen by any other scenario.
fn sip_user(world: &World, name: &str, domain: &str) -> Outcome<(Agent, String)> {
    let address = format!("{name}.{}@sip.example", server_of(domain));
    Ok((world.agent(&address)?, address))
}

fn bare(client: &Client) -> String {
    client.jid.split('/').next().unwrap_or("").to_string()
}

/// The XMPP user adds the SIP user, who lets everybody watch.
fn add(client: &mut Client, address: &str, wanted: &str) -> Outcome {
    client.contact("subscribe", address)?;
    let mut answer = client.wait_contact("subscribed", address, SOON);
    if answer.is_err() && client.wait_contact("error", address, Duration::ZERO).is_ok_and(|e| is_resting(&e)) {
        client.contact("subscribe", address)?;
        answer = client.wait_contact("subscribed", address, SOON);
    }
    step("the XMPP user adds the SIP user", answer)?;
    step("the XMPP user sees the SIP user first", client.wait_sees(address, wanted, SOON))
}

/// ejabberd gives a server that was away a moment ago a rest before it connects again:
/// the one of the scenario before.
fn is_resting(error: &Element) -> bool {
    error.error() == "wait remote-server-timeout"
}

/// The SIP user watches the XMPP user, who approves.
fn watch(agent: &mut Agent, address: &str, client: &mut Client, wanted: &str) -> Outcome<Watch> {
    let watch = step("the SIP user adds the XMPP user", agent.watch(&format!("sip:{}", bare(client)), 600))?;
    step("before the XMPP user approves", agent.wait_sees(&watch, "pending", SOON))?;
    step("the XMPP user is asked", client.wait_contact("subscribe", address, SOON))?;
    client.contact("subscribed", address)?;
    step("the SIP user sees the XMPP user first", agent.wait_sees(&watch, wanted, SOON))?;
    Ok(watch)
}

/// Refreshes a watch as a SIP user does: where the dialog is unknown, by a new one.
fn renew(agent: &mut Agent, watch: &mut Watch, target: &str) -> Outcome {
    let status = agent.rewatch(watch, 600)?.status();
    if status / 100 == 2 {
        return Ok(());
    }
    ensure(status == 481, || format!("the refresh was answered {status}"))?;
    *watch = agent.watch(target, 600)?;
    Ok(())
}

fn xmpp_adds_sip(world: &World, domain: &str) -> Outcome {
    let _latimer = gateway(world, "sip.example", Hop::Tls, domain, &[])?;
    let (mut marta, address) = sip_user(world, "marta", domain)?;
    let mut guest = newcomer(world, domain)?;
    marta.publish(true, "", "", "At the desk")?;
    add(&mut guest, &address, "available (At the desk)")?;
    equal("the roster", guest.roster(&address)?.as_str(), "to/")?;

    let mut told = |open, status, person, note, wanted: &str| {
        marta.publish(open, status, person, note)?;
        step("a change", guest.wait_sees(&address, wanted, SOON))
    };
    told(true, AWAY, "", "", "away")?;
    told(true, DND, "", "Grüße aus Zürich \u{1F5FC} &lt;3", "dnd (Grüße aus Zürich \u{1F5FC} <3)")?;
    told(true, "", "<rpid:on-the-phone/>", "RPID alone", "dnd (RPID alone)")?;
    told(false, "", "", "", "gone")?;
    told(true, "", "", "", "available")?;
    marta.unpublish()?;
    step("nothing is published any more", guest.wait_sees(&address, "gone", SOON))?;

    // A second request makes no second subscription.
    let asked = world.asked(&address);
    guest.contact("subscribe", &address)?;
    std::thread::sleep(QUIET);
    equal("SUBSCRIBEs for a known contact", world.asked(&address), asked)?;

    guest.contact("unsubscribe", &address)?;
    let begun = Instant::now();
    while world.asked(&address) == asked {
        ensure(begun.elapsed() < SOON, || "the XMPP user left, and no SUBSCRIBE ended the dialog".into())?;
        std::thread::sleep(Duration::from_millis(50));
    }
    marta.publish(true, "", "", "Nobody hears this")?;
    step("after leaving", guest.still_sees(&address, "gone", QUIET))?;
    let state = guest.roster(&address)?;
    ensure(["none/", "-"].contains(&state.as_str()), || format!("the roster says {state} after leaving"))?;
    add(&mut guest, &address, "available (Nobody hears this)")
}

/// The SIP user lets the XMPP user wait, approves, withdraws; another one refuses.
fn sip_decides(world: &World, domain: &str) -> Outcome {
    let _latimer = gateway(world, "sip.example", Hop::Tcp, domain, &[])?;
    let (mut marta, address) = sip_user(world, "careful", domain)?;
    marta.publish(true, AWAY, "", "")?;
    world.watchers(&address, "confirm")?;
    let mut guest = newcomer(world, domain)?;
    guest.contact("subscribe", &address)?;
    step("while the SIP user thinks", guest.never_contact("subscribed", &address, QUIET))?;
    equal("seen meanwhile", guest.sees(&address).as_str(), "nothing")?;
    equal("the roster meanwhile", guest.roster(&address)?.as_str(), "none/subscribe")?;
    world.watchers(&address, "allow")?;
    step("the SIP user approves", guest.wait_contact("subscribed", &address, SOON))?;
    step("the SIP user approved", guest.wait_sees(&address, "away", SOON))?;
    world.watchers(&address, "block")?;
    step("the SIP user withdraws", guest.wait_contact("unsubscribed", &address, SOON))?;
    equal("the roster after it", guest.roster(&address)?.as_str(), "none/")?;

    for status in ["403", "603"] {
        let refuser = format!("refuser{status}.{}@sip.example", server_of(domain));
        world.kamcmd(&["htable.seti", "refuse", &refuser, status])?;
        guest.contact("subscribe", &refuser)?;
        step(&format!("refused by {status}"), guest.wait_contact("unsubscribed", &refuser, SOON))?;
        equal("the roster after a refusal", guest.roster(&refuser)?.as_str(), "none/")?;
    }
    Ok(())
}

fn sip_adds_xmpp(world: &World, domain: &str) -> Outcome {
    let _latimer = gateway(world, "sip.example", Hop::Tls, domain, &[])?;
    let (mut marta, address) = sip_user(world, "watcher", domain)?;
    let mut guest = newcomer(world, domain)?;
    let target = format!("sip:{}", bare(&guest));
    let mut seen = watch(&mut marta, &address, &mut guest, "active open")?;
    equal("the roster", guest.roster(&address)?.as_str(), "from/")?;

    guest.be("dnd", "Grüße &amp; Küsse \u{1F5FC}")?;
    step("a change", marta.wait_sees(&seen, "active open dnd (Grüße & Küsse \u{1F5FC})", SOON))?;
    equal("the refresh", marta.rewatch(&mut seen, 600)?.status(), 200)?;
    std::thread::sleep(Duration::from_millis(300));
    step("after a refresh", marta.wait_sees(&seen, "active open dnd (Grüße & Küsse \u{1F5FC})", SOON))?;
    // A second phone shares the approval.
    let (mut second, _) = sip_user(world, "watcher", domain)?;
    let on_second = second.watch(&target, 600)?;
    step("a second phone", second.wait_sees(&on_second, "active open dnd (Grüße & Küsse \u{1F5FC})", SOON))?;
    guest.be_gone()?;
    step("the XMPP user goes", marta.wait_sees(&seen, "active closed", SOON))?;
    step("the second phone too", second.wait_sees(&on_second, "active closed", SOON))?;
    guest.be("xa", "")?;
    step("the XMPP user is back", marta.wait_sees(&seen, "active open xa", SOON))?;

    equal("the end", marta.rewatch(&mut seen, 0)?.status(), 200)?;
    step("the SIP user leaves", marta.wait_sees(&seen, "terminated timeout closed", SOON))?;
    let seen = marta.watch(&target, 600)?;
    step("the SIP user comes again", marta.wait_sees(&seen, "active open xa", SOON))?;
    step("approved once for all", guest.never_contact("subscribe", &address, QUIET))?;
    guest.contact("unsubscribed", &address)?;
    step("the XMPP user withdraws", marta.wait_sees(&seen, "terminated rejected", SOON))?;
    step("on the second phone too", second.wait_sees(&on_second, "terminated rejected", SOON))
}

fn xmpp_denies(world: &World, domain: &str) -> Outcome {
    let _latimer = gateway(world, "sip.example", Hop::Udp, domain, &[])?;
    let (mut marta, address) = sip_user(world, "unwanted", domain)?;
    let mut guest = newcomer(world, domain)?;
    let seen = marta.watch(&format!("sip:{}", bare(&guest)), 600)?;
    step("at first", marta.wait_sees(&seen, "pending", SOON))?;
    step("the XMPP user is asked", guest.wait_contact("subscribe", &address, SOON))?;
    guest.contact("unsubscribed", &address)?;
    step("the XMPP user denies", marta.wait_sees(&seen, "terminated rejected", SOON))?;
    // And asked again, he may approve.
    watch(&mut marta, &address, &mut guest, "active open")?;
    // A user whom the server does not know: what comes is no presence.
    let nobody = marta.watch(&format!("sip:nobody@{domain}"), 600)?;
    std::thread::sleep(QUIET);
    let said = marta.sees(&nobody);
    ensure(said == "pending" || said.starts_with("terminated"), || format!("seen of nobody: {said}"))
}

/// The XMPP user logs out and in: the server asks for the presence of all contacts.
fn logs_in_again(world: &World, domain: &str) -> Outcome {
    let _latimer = gateway(world, "sip.example", Hop::Tls, domain, &[])?;
    let (mut marta, address) = sip_user(world, "steady", domain)?;
    marta.publish(true, AWAY, "", "Still here")?;
    let user = world.guest();
    let mut guest = world.client(&user, domain)?;
    guest.roster(&address)?;
    add(&mut guest, &address, "away (Still here)")?;
    let seen = watch(&mut marta, &address, &mut guest, "active open")?;
    equal("the roster", guest.roster(&address)?.as_str(), "both/")?;
    drop(guest);
    step("the XMPP user loses the connection", marta.wait_sees(&seen, "active closed", SOON))?;
    marta.publish(true, DND, "", "While away")?;
    let mut guest = world.client(&user, domain)?;
    step("back again", guest.wait_sees(&address, "dnd (While away)", SOON))?;
    step("and seen again", marta.wait_sees(&seen, "active open", SOON))?;
    // Either direction ends without the other.
    guest.contact("unsubscribe", &address)?;
    guest.be("chat", "")?;
    step("the other direction", marta.wait_sees(&seen, "active open chat", SOON))
}

/// Users of an unverified partner reach only who added them; those of a verified one
/// anybody, but of what SIP users write about themselves they see nothing.
fn public_partner(world: &World, domain: &str) -> Outcome {
    world.kamailio_hop(domain, Hop::Tls)?;
    let mut config = Config::new(world)?;
    config.sip("sip.example", Hop::Tls);
    let verified = format!("partner {domain} type public-verified");
    let unverified = format!("partner {domain} type public-unverified");
    let (mut marta, address) = sip_user(world, "private", domain)?;
    marta.publish(true, AWAY, "", "For friends alone")?;
    let mut guest = newcomer(world, domain)?;
    {
        let _latimer = Latimer::start(world, config.set(&unverified))?;
        guest.contact("subscribe", &address)?;
        step("a stranger", guest.never_contact("subscribed", &address, QUIET))?;
        equal("SUBSCRIBEs for a stranger", world.asked(&address), 0)?;
        let id = guest.message(&address, "from a stranger")?;
        step("a stranger's message", guest.wait_error(&id, SOON))?;

        watch(&mut marta, &address, &mut guest, "active open")?;
        // The request that was refused still stands in the roster. An answer to its end
        // that came after the next request would end that too.
        guest.contact("unsubscribe", &address)?;
        std::thread::sleep(QUIET);
        add(&mut guest, &address, "away")?;
        guest.message(&address, "from a contact")?;
        step("a contact's message", marta.wait_message("from a contact"))?;
    }
    config.text = config.text.replace(&unverified, &verified);
    let (mut public, address) = sip_user(world, "public", domain)?;
    public.publish(true, DND, "", "For friends alone")?;
    let _latimer = Latimer::start(world, &config)?;
    add(&mut guest, &address, "dnd")
}

/// Two XMPP users watch one SIP user; one of them leaves, and the other goes on seeing.
/// Kamailio as it is by default gives all subscriptions to a user one tag and forgets them
/// by it: the wrong one at times.
fn two_watchers(world: &World, domain: &str) -> Outcome {
    let _latimer = gateway(world, "sip.example", Hop::Tls, domain, &[])?;
    let (mut marta, address) = sip_user(world, "popular", domain)?;
    marta.publish(true, "", "", "")?;
    let (mut first, mut second) = (newcomer(world, domain)?, newcomer(world, domain)?);
    step("the first", add(&mut first, &address, "available"))?;
    step("the second", add(&mut second, &address, "available"))?;
    first.contact("unsubscribe", &address)?;
    step("the first leaves", first.wait_sees(&address, "gone", SOON))?;
    marta.publish(true, DND, "", "Still here")?;
    step("the second, alone now", second.wait_sees(&address, "dnd (Still here)", HEALED))?;
    step("the first sees nothing", first.still_sees(&address, "gone", QUIET))
}

/// A pair with one XMPP user, each the other's contact.
struct Pair {
    marta: Agent,
    address: String,
    guest: Client,
    user: String,
    domain: &'static str,
    seen: Watch,
}

impl Pair {
    fn new(world: &World, name: &str, domain: &'static str) -> Outcome<Self> {
        let (mut marta, address) = sip_user(world, name, domain)?;
        marta.publish(true, "", "", "")?;
        let user = world.guest();
        let mut guest = world.client(&user, domain)?;
        guest.roster(&address)?;
        add(&mut guest, &address, "available")?;
        let seen = watch(&mut marta, &address, &mut guest, "active open")?;
        Ok(Self { marta, address, guest, user, domain, seen })
    }

    /// Changes on both sides arrive within the time; the SIP user refreshes till then as
    /// phones do. Nobody is asked anew.
    fn heals(&mut self, show: &str, within: Duration) -> Outcome {
        let (guest, marta, address) = (&mut self.guest, &mut self.marta, &self.address);
        let end = Instant::now() + within;
        let target = format!("sip:{}", bare(guest));
        let status = format!("<show xmlns='jabber:client'>{show}</show>");
        marta.publish(true, &status, "", "")?;
        step(&format!("{} sees", self.domain), guest.wait_sees(address, show, within))?;
        guest.be(show, "")?;
        renew(marta, &mut self.seen, &target)?;
        let left = end.saturating_duration_since(Instant::now()).max(SOON);
        let wanted = format!("active open {show}");
        step(&format!("{} is seen", self.domain), marta.wait_sees(&self.seen, &wanted, left))?;
        step("nobody is asked twice", guest.never_contact("subscribe", address, Duration::from_millis(300)))?;
        step("nor refused", guest.never_contact("unsubscribed", address, Duration::from_millis(10)))?;
        equal("the roster", guest.roster(address)?.as_str(), "both/")
    }
}

/// A gateway with both servers; subscriptions to `name` at each live so long at most.
fn both_servers(world: &World, name: &str, life: Option<&str>) -> Outcome<Latimer> {
    let mut config = Config::new(world)?;
    config.sip("sip.example", Hop::Tls).set("presence expires 60");
    for domain in [PROSODY, EJABBERD] {
        world.kamailio_hop(domain, Hop::Tls)?;
        config.partner(domain, &[]);
        if let Some(life) = life {
            let address = format!("{name}.{}@sip.example", server_of(domain));
            world.kamcmd(&["htable.seti", "life", &address, life])?;
        }
    }
    Latimer::start(world, &config)
}

/// The same, and a pair at each.
fn two_pairs(world: &World, name: &str, life: Option<&str>) -> Outcome<(Latimer, Vec<Pair>)> {
    let latimer = both_servers(world, name, life)?;
    let pairs = [PROSODY, EJABBERD].map(|domain| step(domain, Pair::new(world, name, domain)));
    Ok((latimer, pairs.into_iter().collect::<Outcome<_>>()?))
}

/// The presence server lets a subscription live 10 seconds. The XMPP user has the SIP user
/// among his contacts, not the reverse: to the probe before a refresh Prosody answers
/// `unsubscribed` and ejabberd nothing. Presence goes on.
fn refreshes(world: &World) -> Outcome {
    let _latimer = both_servers(world, "short", Some("10"))?;
    let mut sides = Vec::new();
    for domain in [PROSODY, EJABBERD] {
        let (mut marta, address) = sip_user(world, "short", domain)?;
        marta.publish(true, "", "", "")?;
        let mut guest = newcomer(world, domain)?;
        step(domain, add(&mut guest, &address, "available"))?;
        sides.push((domain, marta, guest, world.asked(&address), address));
    }
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(24) {
        for (domain, _, guest, _, address) in &mut sides {
            let outcome = guest.still_sees(address, "available", Duration::from_millis(500));
            step(&format!("{domain}, between refreshes"), outcome)?;
        }
    }
    for (domain, marta, guest, before, address) in &mut sides {
        let asked = world.asked(address) - *before;
        ensure((2..=8).contains(&asked), || format!("{domain}: {asked} SUBSCRIBEs in 24 s for a life of 10 s"))?;
        marta.publish(true, AWAY, "", "")?;
        step(&format!("{domain}, after refreshes"), guest.wait_sees(address, "away", SOON))?;
        equal("the roster", guest.roster(address)?.as_str(), "to/")?;
    }
    Ok(())
}

/// The gateway dies, and both sides change while it is away.
fn gateway_killed(world: &World) -> Outcome {
    let (mut latimer, mut pairs) = two_pairs(world, "killed", None)?;
    latimer.signal("KILL")?;
    latimer.wait(Duration::from_secs(1))?;
    for pair in &mut pairs {
        pair.marta.publish(true, AWAY, "", "Meanwhile")?;
        pair.guest.be("xa", "Meanwhile")?;
    }
    std::thread::sleep(Duration::from_secs(1));
    latimer.start_again()?;
    for pair in &mut pairs {
        let target = format!("sip:{}", bare(&pair.guest));
        renew(&mut pair.marta, &mut pair.seen, &target)?;
    }
    for pair in &mut pairs {
        step("changed meanwhile on SIP", pair.guest.wait_sees(&pair.address, "away (Meanwhile)", HEALED))?;
        let wanted = "active open xa (Meanwhile)";
        step("changed meanwhile on XMPP", pair.marta.wait_sees(&pair.seen, wanted, HEALED))?;
        pair.heals("dnd", HEALED)?;
    }
    Ok(())
}

/// The presence server forgets all subscriptions and registrations.
fn kamailio_restarted(world: &World) -> Outcome {
    let (_latimer, mut pairs) = two_pairs(world, "patient", Some("20"))?;
    let restarted = world.peers("down", &["kamailio"]).and_then(|()| world.peers("up", &["kamailio"]));
    restarted?;
    for domain in [PROSODY, EJABBERD] {
        world.kamailio_hop(domain, Hop::Tls)?;
    }
    for pair in &mut pairs {
        pair.marta.register(None)?;
        pair.heals("dnd", HEALED)?;
    }
    Ok(())
}

/// The XMPP server is away for a moment; its users come back.
fn server_restarted(world: &World, domain: &'static str) -> Outcome {
    let _latimer = gateway(world, "sip.example", Hop::Tls, domain, &[])?;
    let mut pair = Pair::new(world, "loyal", domain)?;
    // ejabberd writes its rosters to disk when it is at leisure.
    std::thread::sleep(Duration::from_secs(if server_of(domain) == "ejabberd" { 4 } else { 0 }));
    world.peers("down", &[server_of(domain)])?;
    let meanwhile = pair.marta.publish(true, AWAY, "", "Meanwhile");
    world.peers("up", &[server_of(domain)])?;
    meanwhile?;
    pair.guest = world.client(&pair.user, domain)?;
    equal("the roster after the restart", pair.guest.roster(&pair.address)?.as_str(), "both/")?;
    step("changed meanwhile", pair.guest.wait_sees(&pair.address, "away (Meanwhile)", HEALED))?;
    pair.heals("dnd", HEALED)
}
