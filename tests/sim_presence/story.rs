//! What happens, drawn from a seed: who does what when, how the network is, what breaks.

use crate::cast::{sip, xmpp};
use crate::net::{Chance, Weather};
use crate::peers::Manner;
use crate::phones::{self, Habits};
use crate::server;
use latimer::base::net::Network;
use latimer::settings::{
    Listener, ListenerKind, NextHop, NextHopTransport, Partner, PartnerKind, Peer, Requirement, Settings, SipDomain,
};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

pub const SIP_DOMAIN: &str = "voip.example";
pub const XMPP_DOMAIN: &str = "chat.example";
pub const XMPP_USERS: &[&str] = &["lena", "pavel", "olga"];
pub const SIP_USERS: &[&str] = &["marta", "jonas", "nuria"];

const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));
const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 21));
const DNS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53));

const RESOURCES: &[&str] = &["balkon", "phone-2", "r.3"];
const CLIENTS: &[&str] = &["desk", "cell", "t4"];
const SHOWS: &[&str] = &["", "away", "chat", "dnd", "xa"];

/// The shortest time between two states in a dialog, in seconds.
pub const MIN_INTERVAL_S: u32 = 5;

/// A source of chance; those of neighbouring seeds have nothing in common.
fn chance_of(seed: u64) -> Chance {
    Chance::new(Chance::new(seed).number())
}

/// One of the words above.
pub fn known(word: &str) -> &'static str {
    let all = [XMPP_USERS, SIP_USERS, RESOURCES, CLIENTS, SHOWS];
    all.into_iter().flatten().find(|known| **known == word).copied().unwrap_or("unknown")
}

/// Something that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    Xmpp(&'static str, server::Deed),
    Sip(&'static str, phones::Deed),
    /// The gateway is killed and started again with its records.
    Kill,
    /// The XMPP server crashes: sessions are gone, rosters stay.
    ServerCrash,
    /// Every connection breaks.
    Resets,
    /// Neighbours take no connection for so many milliseconds.
    Deaf(u64),
}

#[derive(Clone, Debug)]
pub struct Story {
    pub transport: NextHopTransport,
    pub manner: Manner,
    pub weather: Weather,
    pub habits: Habits,
    /// `presence expires` of the gateway.
    pub expires_s: u32,
    pub trusts_domain: bool,
    /// Nothing goes wrong.
    pub calm: bool,
    /// After the faults everybody who is online on XMPP logs in again.
    pub log_in_again: bool,
    /// After the faults a person asks again where two stanzas crossed.
    pub insists: bool,
    pub acts: Vec<(u64, Act)>,
    /// How long things happen.
    pub length_ms: u64,
}

impl Story {
    /// Without any act.
    fn quiet(chance: &mut Chance, calm: bool) -> Self {
        let bad = |chance: &mut Chance, most: u64| if calm || chance.below(2) == 0 { 0 } else { chance.below(most) };
        let external = chance.below(2) == 0;
        let short = chance.below(3) > 0;
        Self {
            transport: [NextHopTransport::Tls, NextHopTransport::Tcp, NextHopTransport::Udp][chance.below(3) as usize],
            manner: Manner {
                starttls: true,
                external,
                dialback: !external,
                // Without it a lost stanza is lost for good, and nobody could agree.
                management: !calm || chance.below(2) == 0,
                bidirectional: false,
            },
            weather: Weather {
                latency_ms: 1 + chance.below(40),
                jitter_ms: if calm { 0 } else { chance.below(60) },
                loss: bad(chance, 250),
                doubles: bad(chance, 200),
                late: bad(chance, 200),
                refused: bad(chance, 300),
                cuts: chance.below(2) * chance.below(1000),
                resets: bad(chance, 30),
                stalls: bad(chance, 30),
            },
            habits: Habits {
                declines: chance.below(2) == 0,
                says_closed: chance.below(2) == 0,
                grant_s: if short { 600 } else { 3600 },
                ask_s: if short { 600 } else { 3600 },
            },
            expires_s: if short && chance.below(2) == 0 { 600 } else { 3600 },
            trusts_domain: chance.below(2) == 0,
            calm,
            log_in_again: false,
            insists: false,
            acts: Vec::new(),
            length_ms: 0,
        }
    }

    /// People do `steps` things in half an hour.
    pub fn sweep(seed: u64, steps: u64) -> Self {
        let mut chance = chance_of(seed ^ 0x9e5e);
        let calm = seed.is_multiple_of(4);
        let mut story = Self::quiet(&mut chance, calm);
        story.length_ms = [600_000, 1_800_000, 7_200_000][chance.below(3) as usize];
        let mut at = 1000;
        for user in XMPP_USERS {
            let resource = RESOURCES[chance.below(2) as usize];
            story.acts.push((at, xmpp(user, server::Deed::Show(resource, ""))));
        }
        for user in SIP_USERS {
            story.acts.push((at, sip(user, phones::Deed::Publish(CLIENTS[chance.below(2) as usize], ""))));
        }
        for _ in 0..steps {
            at = 2000 + chance.below(story.length_ms - 2000);
            let act = if chance.below(2) == 0 { Self::xmpp_act(&mut chance) } else { Self::sip_act(&mut chance) };
            story.acts.push((at, act));
        }
        if !calm {
            for _ in 0..chance.below(5) {
                let at = chance.below(story.length_ms);
                let fault = match chance.below(6) {
                    0 => Act::ServerCrash,
                    1 => Act::Deaf(1000 + chance.below(90_000)),
                    2 => Act::Resets,
                    3 => sip(SIP_USERS[chance.below(3) as usize], phones::Deed::Crash),
                    _ => Act::Kill,
                };
                story.log_in_again |= fault == Act::Kill;
                story.acts.push((at, fault));
            }
            story.log_in_again |= chance.below(3) == 0;
            story.insists = true;
        }
        story.acts.sort_by_key(|(at, _)| *at);
        story
    }

    fn xmpp_act(chance: &mut Chance) -> Act {
        let user = XMPP_USERS[chance.below(3) as usize];
        let contact = SIP_USERS[chance.below(3) as usize];
        let resource = RESOURCES[chance.below(3) as usize];
        let show = SHOWS[chance.below(5) as usize];
        xmpp(
            user,
            match chance.below(60) {
                0..20 => server::Deed::Show(resource, show),
                20..27 => server::Deed::Leave(resource),
                27..29 => server::Deed::Direct(contact),
                29..40 => server::Deed::Add(contact),
                40..44 => server::Deed::Remove(contact),
                44..56 => server::Deed::Approve(contact),
                _ => server::Deed::Deny(contact),
            },
        )
    }

    fn sip_act(chance: &mut Chance) -> Act {
        let user = SIP_USERS[chance.below(3) as usize];
        let contact = XMPP_USERS[chance.below(3) as usize];
        let client = CLIENTS[chance.below(3) as usize];
        let show = SHOWS[chance.below(5) as usize];
        let device = (chance.below(4) / 3) as u8;
        sip(
            user,
            match chance.below(60) {
                0..17 => phones::Deed::Publish(client, show),
                17..24 => phones::Deed::Unpublish(client),
                24..36 => phones::Deed::Allow(contact),
                36..40 => phones::Deed::Deny(contact),
                40..54 => phones::Deed::Watch(contact, device),
                _ => phones::Deed::Unwatch(contact, device),
            },
        )
    }

    /// Lena's four subscription stanzas in one of the 24 orders, while Marta watches and
    /// allows at some moment.
    pub fn crossing(order: u64, variant: u64) -> Self {
        let mut chance = chance_of(order ^ (variant << 8) ^ 0xc055);
        let mut story = Self::quiet(&mut chance, variant == 0);
        story.habits.grant_s = 600;
        story.habits.ask_s = 600;
        let mut left = vec![
            server::Deed::Add("marta"),
            server::Deed::Approve("marta"),
            server::Deed::Remove("marta"),
            server::Deed::Deny("marta"),
        ];
        let gap = [3000, 0, 40, 45_000][variant as usize % 4];
        let mut at = 5000;
        story.acts.push((1000, xmpp("lena", server::Deed::Show("balkon", ""))));
        story.acts.push((1000, sip("marta", phones::Deed::Publish("desk", "away"))));
        // Marta's own deeds fall somewhere in between.
        let between = |chance: &mut Chance| 4000 + chance.below(4 * gap + 2000);
        let watches = between(&mut chance);
        story.acts.push((watches, sip("marta", phones::Deed::Watch("lena", 0))));
        let allows = between(&mut chance);
        story.acts.push((allows, sip("marta", phones::Deed::Allow("lena"))));
        let mut number = order;
        while !left.is_empty() {
            let deed = left.remove((number % left.len() as u64) as usize);
            number /= left.len() as u64 + 1;
            for _ in 0..1 + u64::from(variant > 0) * chance.below(2) {
                story.acts.push((at, xmpp("lena", deed.clone())));
            }
            at += gap;
        }
        if variant >= 2 {
            story.acts.push((between(&mut chance), Act::Kill));
            story.log_in_again = true;
        }
        if variant % 2 == 1 {
            story.acts.push((between(&mut chance), Act::Resets));
        }
        story.insists = variant > 0;
        story.length_ms = at + 10_000;
        story.acts.sort_by_key(|(at, _)| *at);
        story
    }

    /// A calm world in which `acts` happen.
    pub fn calm(seed: u64, acts: Vec<(u64, Act)>) -> Self {
        let mut story = Self::quiet(&mut Chance::new(seed), true);
        story.habits.grant_s = 3600;
        story.habits.ask_s = 3600;
        story.length_ms = acts.iter().map(|(at, _)| *at).max().unwrap_or_default() + 1000;
        story.acts = acts;
        story
    }

    /// How long it takes until every subscription has been refreshed once.
    pub fn refresh_ms(&self) -> u64 {
        self.habits.grant_s.max(self.habits.ask_s) * 1000
    }

    pub fn settings(&self) -> Settings {
        let listener =
            |kind, port| Listener { name: format!("l{port}"), kind, address: SocketAddr::new(GATEWAY, port) };
        let mut partner = Partner::new(XMPP_DOMAIN);
        partner.kind = PartnerKind::Federated;
        partner.sasl = Requirement::Optional;
        let mut settings = Settings {
            host_name: "gw.edge.example".into(),
            dns_servers: vec![SocketAddr::new(DNS, 53)],
            listeners: vec![
                listener(ListenerKind::SipTls, 5061),
                listener(ListenerKind::SipTcp, 5060),
                listener(ListenerKind::SipUdp, 5060),
                listener(ListenerKind::XmppStartTls, 5269),
            ],
            sip_domains: vec![SipDomain {
                next_hop: Some(NextHop { transport: self.transport, host: "proxy.voip.example".into(), port: None }),
                peers: vec![
                    Peer::Host("proxy.voip.example".into()),
                    Peer::Network(Network { address: PROXY, length: 32 }),
                ],
                ..SipDomain::new(SIP_DOMAIN)
            }],
            partners: vec![partner],
            ..Settings::default()
        };
        settings.presence.expires_s = self.expires_s;
        settings.presence.min_interval_s = MIN_INTERVAL_S;
        settings
    }
}
