//! Do the peers do their own part, without the gateway?

use crate::sip::Agent;
use crate::world::{Hop, World};
use crate::{Outcome, Scenario, ensure, equal};
use std::time::Duration;

pub const SCENARIOS: &[Scenario] = &[
    ("peers-prosody-and-ejabberd-talk", |world| {
        let mut alice = world.client("alice", "xmpp.example")?;
        let mut bob = world.client("bob", "ej.example")?;
        alice.message("bob@ej.example", "there")?;
        equal("from", bob.wait_message("there")?.attribute("from"), &alice.jid)?;
        bob.message("alice@xmpp.example", "and back")?;
        equal("from", alice.wait_message("and back")?.attribute("from"), &bob.jid)
    }),
    ("peers-prosody-and-ejabberd-keep-rosters", rosters),
    ("peers-kamailio-finds-registered-users", |world| {
        let mut carol = world.agent("carol@sip.example")?;
        let dave = world.agent("dave@sip.example")?;
        equal("status", carol.message("sip:dave@sip.example", "hello")?.status(), 200)?;
        dave.wait_message("hello")?;
        equal("status of an unknown user", carol.message("sip:nobody@sip.example", "hello")?.status(), 404)
    }),
    ("peers-kamailio-serves-presence", presence),
    ("peers-kamailio-relays-watches", relayed),
];

const SOON: Duration = Duration::from_secs(4);

/// Users of the two servers add each other; rosters are there after a restart.
fn rosters(world: &World) -> Outcome {
    let (carol, dave) = (world.guest(), world.guest());
    let (carol_at, dave_at) = (format!("{carol}@xmpp.example"), format!("{dave}@ej.example"));
    let mut on_prosody = world.client(&carol, "xmpp.example")?;
    let mut on_ejabberd = world.client(&dave, "ej.example")?;
    equal("roster", on_prosody.roster(&dave_at)?.as_str(), "-")?;
    equal("roster", on_ejabberd.roster(&carol_at)?.as_str(), "-")?;
    on_prosody.contact("subscribe", &dave_at)?;
    on_ejabberd.wait_contact("subscribe", &carol_at, SOON)?;
    on_ejabberd.contact("subscribed", &carol_at)?;
    on_prosody.wait_contact("subscribed", &dave_at, SOON)?;
    on_prosody.wait_sees(&dave_at, "available", SOON)?;
    on_ejabberd.contact("subscribe", &carol_at)?;
    on_prosody.wait_contact("subscribe", &dave_at, SOON)?;
    on_prosody.contact("subscribed", &dave_at)?;
    on_ejabberd.wait_sees(&carol_at, "available", SOON)?;
    on_prosody.be("dnd", "Busy")?;
    on_ejabberd.wait_sees(&carol_at, "dnd (Busy)", SOON)?;
    // ejabberd writes its rosters to disk when it is at leisure.
    std::thread::sleep(Duration::from_secs(4));
    world.peers("down", &["prosody", "ejabberd"])?;
    world.peers("up", &["prosody", "ejabberd"])?;
    let mut on_prosody = world.client(&carol, "xmpp.example")?;
    let mut on_ejabberd = world.client(&dave, "ej.example")?;
    equal("roster after a restart", on_prosody.roster(&dave_at)?.as_str(), "both/")?;
    equal("roster after a restart", on_ejabberd.roster(&carol_at)?.as_str(), "both/")?;
    on_prosody.wait_sees(&dave_at, "available", SOON)?;
    on_ejabberd.wait_sees(&carol_at, "available", SOON)
}

/// One SIP user publishes, another watches.
fn presence(world: &World) -> Outcome {
    let mut carol = world.agent("carol@sip.example")?;
    let mut dave = world.agent("dave@sip.example")?;
    let mut watch = dave.watch("sip:carol@sip.example", 600)?;
    dave.wait_sees(&watch, "active", SOON)?;
    carol.publish(true, "<show xmlns='jabber:client'>away</show>", "<rpid:away/>", "Gone for a walk")?;
    dave.wait_sees(&watch, "active open away (Gone for a walk)", SOON)?;
    equal("the refresh", dave.rewatch(&mut watch, 600)?.status() / 100, 2)?;
    carol.publish(false, "", "", "")?;
    dave.wait_sees(&watch, "active closed", SOON)?;

    world.watchers("carol@sip.example", "block")?;
    dave.wait_sees(&watch, "terminated rejected", SOON)?;
    world.watchers("carol@sip.example", "confirm")?;
    let mut watch = dave.watch("sip:carol@sip.example", 600)?;
    dave.wait_sees(&watch, "pending", SOON)?;
    world.watchers("carol@sip.example", "allow")?;
    dave.wait_sees(&watch, "active closed", SOON)?;
    equal("the end", dave.rewatch(&mut watch, 0)?.status() / 100, 2)?;
    dave.wait_sees(&watch, "terminated timeout closed", SOON)?;
    carol.unpublish()?;

    world.kamcmd(&["htable.seti", "refuse", "carol@sip.example", "603"])?;
    let refused = dave.watch("sip:carol@sip.example", 600).map(drop).unwrap_err();
    world.kamcmd(&["htable.delete", "refuse", "carol@sip.example"])?;
    ensure(refused.contains("603"), || refused)?;
    equal("counted", world.asked("carol@sip.example"), 5)
}

/// The XMPP server that serves a domain, as `tests/peers` names it.
pub fn server_of(domain: &str) -> &'static str {
    if domain.starts_with("ej") { "ejabberd" } else { "prosody" }
}

/// The log of that server.
pub fn log_of(world: &World, domain: &str) -> String {
    world.peer_log(&format!("{}-server.log", server_of(domain)))
}

/// A SIP user watches somebody of another domain, for whom an agent stands where else the
/// gateway does: what is sent inside the dialog finds its way in both directions.
fn relayed(world: &World) -> Outcome {
    world.kamailio_hop("far.example", Hop::Udp)?;
    let mut far = Agent::new("sip:frida@far.example", world.gateway(), world.kamailio())?;
    let mut dave = world.agent("dave@sip.example")?;
    let mut watch = dave.watch("sip:frida@far.example", 600)?;
    let request = far.wait_watcher()?;
    ensure(request.field("record-route").contains(&world.host(30)), || "no Record-Route".into())?;
    equal("the NOTIFY", far.notify(&request)?.status(), 200)?;
    dave.wait_sees(&watch, "active", SOON)?;
    equal("the refresh", dave.rewatch(&mut watch, 600)?.status(), 200)?;
    let refresh = far.wait_watcher()?;
    ensure(refresh.first.starts_with(&format!("SUBSCRIBE sip:{}", world.gateway())), || refresh.first.clone())?;
    equal("the To of the refresh", refresh.field("to"), "<sip:frida@far.example>;tag=agent")
}
