//! Floods: R1, R5.

use crate::measure::{processor_ms, resident};
use crate::world::{
    EVIL, HONEST, OURS, PROXY, SIP_TCP, SIP_TLS, World, XMPP, XMPP_TLS, certificate, header, message, sip_message,
};
use latimer::base::certificate::PeerCertificate;
use latimer::base::counters::Counter;
use latimer::base::net::{CloseReason, LinkId};
use latimer::limits::{
    SIP_LINKS_MAX, SIP_LINKS_UNPROVEN_PER_ADDRESS_MAX, SIP_LINKS_UNPROVEN_PERCENT, STREAMS_MAX,
    STREAMS_UNPROVEN_PER_ADDRESS_MAX, STREAMS_UNPROVEN_PERCENT,
};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// A stranger's address: the same for all, or another for each.
fn stranger(n: usize, spread: bool) -> SocketAddr {
    let (high, low) = if spread { ((n / 200) as u8, (n % 200) as u8) } else { (0, 0) };
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, high, low)), 1024 + (n % 60_000) as u16)
}

#[test]
fn r1_a_flood_of_connections_holds_no_more_than_its_share() {
    let streams_share = STREAMS_MAX * STREAMS_UNPROVEN_PERCENT / 100;
    let sip_share = SIP_LINKS_MAX * SIP_LINKS_UNPROVEN_PERCENT / 100;
    for (listener, per_address, share) in [
        (XMPP, STREAMS_UNPROVEN_PER_ADDRESS_MAX, streams_share),
        (XMPP_TLS, STREAMS_UNPROVEN_PER_ADDRESS_MAX, streams_share),
        (SIP_TCP, SIP_LINKS_UNPROVEN_PER_ADDRESS_MAX, sip_share),
        (SIP_TLS, SIP_LINKS_UNPROVEN_PER_ADDRESS_MAX, sip_share),
    ] {
        let mut world = World::new();
        world.assert_honest_traffic();
        let quiet = world.house.links();
        let before = resident();
        for spread in [false, true] {
            world.stalls_tls = true;
            let flood = |world: &mut World, from: usize| {
                for n in from..from + 10_000 {
                    world.dial_at(listener, stranger(n, spread), PeerCertificate::default());
                }
            };
            flood(&mut world, 0);
            let held = world.house.links() - quiet;
            let most = if spread { share } else { per_address };
            assert!(held <= most, "{listener:?}: {held} links of strangers, spread: {spread}");
            // In the midst of it the partner's streams and a new one of its work.
            world.stalls_tls = false;
            world.assert_honest_traffic();
            world.pass(3000);
            let link = world.open(HONEST);
            world.write(
                link,
                message(&format!("bob@{HONEST}"), &format!("ada@{OURS}"), "n", &format!("flooded {spread}")).as_bytes(),
            );
            assert!(world.take().0.iter().any(|r| r.body() == format!("flooded {spread}")));
            world.house.close(link, CloseReason::Peer);
            // A SIP peer that is known by its certificate alone.
            let tls = world.dial_sip(
                SIP_TLS,
                SocketAddr::new("198.51.100.77".parse().expect("an address"), 5),
                certificate(&[OURS]),
            );
            let call = format!("r1-tls-{spread}");
            world.write(
                tls,
                sip_message(&format!("ada@{OURS}"), &format!("bob@{HONEST}"), &call, "flooded")
                    .replace("SIP/2.0/UDP", "SIP/2.0/TLS")
                    .as_bytes(),
            );
            assert_eq!(world.statuses(&call), [200], "{listener:?}: {}", world.log());
            world.house.close(tls, CloseReason::Peer);
            let tcp = world.dial_sip(SIP_TCP, SocketAddr::new(PROXY, 40_000), PeerCertificate::default());
            let call = format!("r1-{spread}");
            world.write(
                tcp,
                sip_message(&format!("ada@{OURS}"), &format!("bob@{HONEST}"), &call, "flooded")
                    .replace("SIP/2.0/UDP", "SIP/2.0/TCP")
                    .as_bytes(),
            );
            assert_eq!(world.statuses(&call), [200], "{listener:?}: {}", world.log());
            world.house.close(tcp, CloseReason::Peer);
            world.take();
            // It ends by itself.
            world.pass(120_000);
            assert!(world.house.links() <= quiet + 1, "{listener:?}: {} links are left", world.house.links());
        }
        let refused = world.of(Counter::StreamLimit) + world.of(Counter::SipConnectionRefused);
        assert!(refused >= 15_000, "{}", world.books());
        assert!(resident().saturating_sub(before) < 64 << 20, "memory grew by {}", resident() - before);
        world.stream_errors.clear();
        world.assert_honest_traffic();
        world.settle();
    }
}

#[test]
fn r1_who_sends_an_octet_now_and_then_is_closed() {
    let mut world = World::new();
    world.assert_honest_traffic();
    let request = sip_message(&format!("ada@{OURS}"), &format!("bob@{HONEST}"), "slow", "a body that takes its time");
    let body = request.find("\r\n\r\n").expect("a head") + 6;
    let none = PeerCertificate::default;
    let mut slow: Vec<(LinkId, Vec<u8>)> = vec![
        (world.dial(stranger(1, true), none()), header(EVIL, OURS).into_bytes()),
        (world.dial_at(XMPP_TLS, stranger(2, true), none()), header(EVIL, OURS).into_bytes()),
        (
            world.reach(EVIL, crate::world::Stage::Clear),
            b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>".to_vec(),
        ),
        (
            world.reach(EVIL, crate::world::Stage::Encrypted),
            b"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>".to_vec(),
        ),
        (world.reach(EVIL, crate::world::Stage::Authenticated), header(EVIL, OURS).into_bytes()),
        (world.dial_sip(SIP_TCP, stranger(3, true), none()), request.clone().into_bytes()),
        (world.dial_sip(SIP_TLS, stranger(4, true), none()), request.clone().into_bytes()),
        (world.dial_sip(SIP_TCP, SocketAddr::new(PROXY, 40_001), none()), request.clone().into_bytes()),
    ];
    // One that sends the head at once and dribbles the body, one that only says it is there.
    let link = world.dial_sip(SIP_TCP, SocketAddr::new(PROXY, 40_002), none());
    world.write(link, &request.as_bytes()[..body]);
    slow.push((link, request.as_bytes()[body..].to_vec()));
    slow.push((world.dial_sip(SIP_TCP, stranger(5, true), none()), b"\r\n".repeat(100)));
    for step in 0..12 {
        for (link, octets) in &slow {
            if !world.is_closed(*link) {
                world.write(*link, &octets[step..=step]);
            }
        }
        world.pass(10_000);
        world.assert_honest_traffic();
    }
    for (number, (link, _)) in slow.iter().enumerate() {
        assert!(world.is_closed(*link), "slow one {number} is still there: {}", world.said(*link));
    }
    assert!(world.of(Counter::SipConnectionRefused) >= 4 && world.of(Counter::StreamFailed) >= 4, "{}", world.books());
    assert!(world.take().1.is_empty());
    world.assert_recovered();
    world.settle();
}

#[test]
fn r5_many_names_cost_no_more_each_than_few() {
    let mut world = World::new();
    world.assert_honest_traffic();
    let link = world.open(EVIL);
    let mut costs = Vec::new();
    for part in 0..5_u32 {
        costs.push(processor_ms(|| {
            for n in 0..4000 {
                // Names that share their length, their beginning and their end.
                let name = format!("{:032b}", (part * 4000 + n).reverse_bits());
                let stanza = format!(
                    "<message from='{name}@{EVIL}' to='{name}@{OURS}' id='{name}'><thread>{name} {name}</thread><body>{name}</body></message>"
                );
                world.write(link, stanza.as_bytes());
                let request = sip_message(&format!("{name}@{OURS}"), &format!("{name}@{HONEST}"), &name, &name);
                world.datagram(SocketAddr::new(PROXY, 5060), request.as_bytes());
                world.house.now += 1;
            }
            world.responses.clear();
            world.take();
        }));
        world.pass(40_000);
    }
    assert!(costs[4] < costs[0] * 3.0 + 200.0, "{costs:?}");
    assert_eq!(world.of(Counter::XmppMessageDelivered), 20_000 + 1, "{}", world.books());
    assert_eq!(world.of(Counter::SipMessageDelivered), 20_000 + 1, "{}", world.books());
    world.assert_honest_traffic();
    world.settle();
}
