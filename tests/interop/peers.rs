//! Do the peers do their own part, without the gateway?

use crate::world::World;
use crate::{Scenario, equal};

pub const SCENARIOS: &[Scenario] = &[
    ("peers-prosody-and-ejabberd-talk", |world| {
        let mut alice = world.client("alice", "xmpp.example")?;
        let mut bob = world.client("bob", "ej.example")?;
        alice.message("bob@ej.example", "there")?;
        equal("from", bob.wait_message("there")?.attribute("from"), &alice.jid)?;
        bob.message("alice@xmpp.example", "and back")?;
        equal("from", alice.wait_message("and back")?.attribute("from"), &bob.jid)
    }),
    ("peers-kamailio-finds-registered-users", |world| {
        let mut carol = world.agent("carol@sip.example")?;
        let dave = world.agent("dave@sip.example")?;
        equal("status", carol.message("sip:dave@sip.example", "hello")?.status(), 200)?;
        dave.wait_message("hello")?;
        equal("status of an unknown user", carol.message("sip:nobody@sip.example", "hello")?.status(), 404)
    }),
];

/// The XMPP server that serves a domain, as `tests/peers` names it.
pub fn server_of(domain: &str) -> &'static str {
    if domain.starts_with("ej") { "ejabberd" } else { "prosody" }
}

/// The log of that server.
pub fn log_of(world: &World, domain: &str) -> String {
    world.peer_log(&format!("{}-server.log", server_of(domain)))
}
