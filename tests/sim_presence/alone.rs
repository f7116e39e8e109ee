//! The neighbours without a gateway: two XMPP servers, and phones of two domains, come to
//! the same truth when they talk to each other. So a gateway that fails the simulation
//! cannot say that its neighbours misled it.

use crate::peers::{SERVER, SipMessage, parse_element};
use crate::phones::{self, Habits, Out, Phones};
use crate::server::{self, Server};

/// Hands over what both servers have to say until they are silent.
fn exchange(one: &mut Server, other: &mut Server, now: u64) {
    while !one.out.is_empty() || !other.out.is_empty() {
        for xml in core::mem::take(&mut one.out) {
            other.receive(&parse_element(&xml, SERVER).expect("well-formed"), now);
        }
        for xml in core::mem::take(&mut other.out) {
            one.receive(&parse_element(&xml, SERVER).expect("well-formed"), now);
        }
    }
}

#[test]
fn two_servers_agree() {
    let mut chat = Server::new("chat.example", "voip.example", &["lena"]);
    let mut voip = Server::new("voip.example", "chat.example", &["marta"]);
    let deeds = [
        (true, server::Deed::Show("balkon", "")),
        (true, server::Deed::Add("marta")),
        (false, server::Deed::Show("desk", "away")),
        (false, server::Deed::Approve("lena")),
        (false, server::Deed::Show("cell", "dnd")),
        (false, server::Deed::Leave("desk")),
    ];
    for (by_lena, deed) in deeds {
        if by_lena {
            chat.act("lena", &deed, 0);
        } else {
            voip.act("marta", &deed, 0);
        }
        exchange(&mut chat, &mut voip, 0);
    }
    let truth = voip.truth("marta", "lena@chat.example");
    assert_eq!(truth.len(), 1);
    assert_eq!(chat.users["lena"].views["marta@voip.example"], truth);
    assert!(chat.users["lena"].roster["marta@voip.example"].to);
    // Back from a pause she is told by the answer to her probe.
    chat.act("lena", &server::Deed::Leave("balkon"), 0);
    chat.act("lena", &server::Deed::Show("balkon", ""), 0);
    exchange(&mut chat, &mut voip, 0);
    assert_eq!(chat.users["lena"].views["marta@voip.example"], truth);
    voip.act("marta", &server::Deed::Deny("lena"), 0);
    exchange(&mut chat, &mut voip, 0);
    assert!(chat.users["lena"].views.get("marta@voip.example").is_none_or(|view| view.is_empty()));
    assert_eq!(chat.users["lena"].roster["marta@voip.example"], server::Item::default());
    assert_eq!((&chat.faults, &voip.faults), (&Vec::new(), &Vec::new()));
}

/// Hands over what the phones have to say, and moves the clock on to `until`.
fn talk(one: &mut Phones, other: &mut Phones, now: &mut u64, until: u64) {
    loop {
        for out in core::mem::take(&mut one.out) {
            let (Out::Request(bytes) | Out::Response(_, bytes)) = out;
            other.receive(None, &SipMessage::parse(&bytes).expect("SIP"), *now);
        }
        for out in core::mem::take(&mut other.out) {
            let (Out::Request(bytes) | Out::Response(_, bytes)) = out;
            one.receive(None, &SipMessage::parse(&bytes).expect("SIP"), *now);
        }
        if !one.out.is_empty() || !other.out.is_empty() {
            continue;
        }
        match one.due().into_iter().chain(other.due()).min().filter(|due| *due <= until) {
            Some(due) => {
                *now = due.max(*now);
                one.poll(*now);
                other.poll(*now);
            }
            None => {
                *now = until;
                return;
            }
        }
    }
}

#[test]
fn two_phones_agree() {
    for says_closed in [true, false] {
        let habits = Habits { declines: says_closed, says_closed, grant_s: 600, ask_s: 600 };
        let mut voip = Phones::new("voip.example", "chat.example", "TCP", habits, &["marta"]);
        let mut chat = Phones::new("chat.example", "voip.example", "TCP", habits, &["lena"]);
        let mut now = 0;
        let key = ("lena".to_string(), "marta".to_string(), 0);
        voip.act("marta", &phones::Deed::Publish("desk", "away"), now);
        chat.act("lena", &phones::Deed::Watch("marta", 0), now);
        talk(&mut chat, &mut voip, &mut now, 1000);
        assert_eq!((chat.watches[&key].state.as_str(), chat.watches[&key].view.len()), ("pending", 0));
        voip.act("marta", &phones::Deed::Allow("lena"), now);
        talk(&mut chat, &mut voip, &mut now, 2000);
        assert_eq!((chat.watches[&key].state.as_str(), chat.watches[&key].view.len()), ("active", 1));
        voip.act("marta", &phones::Deed::Publish("cell", ""), now);
        voip.act("marta", &phones::Deed::Unpublish("desk"), now);
        talk(&mut chat, &mut voip, &mut now, 3_600_000);
        assert_eq!(chat.watches[&key].view, voip.truth("marta", "lena"));
        assert_eq!((chat.watches[&key].begun.len(), voip.serving("marta", "lena")), (1, 1));
        // The notifier forgets: 481 to the refresh, and all is as before.
        voip.act("marta", &phones::Deed::Crash, now);
        talk(&mut chat, &mut voip, &mut now, 5_000_000);
        assert_eq!(chat.watches[&key].view, voip.truth("marta", "lena"));
        assert_eq!(chat.watches[&key].begun.len(), 2);
        voip.act("marta", &phones::Deed::Deny("lena"), now);
        talk(&mut chat, &mut voip, &mut now, 6_000_000);
        assert!(!chat.watches[&key].wants && chat.watches[&key].view.is_empty());
        assert_eq!(voip.serving("marta", "lena"), 0);
        assert_eq!((&chat.faults, &voip.faults), (&Vec::new(), &Vec::new()));
    }
}
