//! Plays one flow: sends what it sends, waits for what it expects, moves the clock.

use crate::compare::{self, Bindings, Rules};
use crate::format::{Flow, Lane, Section, What, parse_time};
use crate::neighbours::{Names, Neighbours, SipCame};
use crate::peers::{self, Element};
use latimer::appliance::config;
use latimer::base::net::Transport;
use latimer::settings::{Dialect, ImMode, NextHopTransport, Partner, PartnerKind, Room, Settings, SipDomain};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

/// How long an output may take, unless the flow says otherwise.
const WAIT_MS: u64 = 10_000;

/// Plays a flow, its preludes first.
pub fn run(flow: &Flow, flows: &BTreeMap<String, Flow>) -> Result<(), String> {
    log(flow, flows).map(|_| ())
}

/// Plays it, and gives the gateway's log.
pub fn log(flow: &Flow, flows: &BTreeMap<String, Flow>) -> Result<VecDeque<String>, String> {
    let mut chain = vec![flow];
    while let Some(before) = chain[0].prelude.as_ref().and_then(|name| flows.get(name)) {
        chain.insert(0, before);
    }
    let config: Vec<&(String, String)> = chain.iter().flat_map(|flow| &flow.config).collect();
    let strangers =
        chain.iter().flat_map(|flow| &flow.sections).filter_map(|section| section.attribute("authenticated-domain"));
    let (names, world, settings, transport) = world_of(&config, strangers.map(Into::into).collect())?;
    let mut play = Play {
        neighbours: Neighbours::new(names, settings.clone(), 1),
        world,
        settings,
        transport,
        bindings: Bindings::new(),
        done: Vec::new(),
        optional: Vec::new(),
        resends: Vec::new(),
        sip: VecDeque::new(),
        xmpp: VecDeque::new(),
    };
    for flow in chain {
        play.flow(flow)?;
    }
    Ok(play.neighbours.world.lines)
}

/// Who is who, the settings without the `set` lines and with them, and the way to the SIP peer.
type World = (Names, Settings, Settings, Transport);

fn world_of(config: &[&(String, String)], strangers: Vec<String>) -> Result<World, String> {
    let mut names = Names { xmpp: vec!["chat.example".into(), "raum.chat.example".into()], ..Names::usual() };
    let mut further = Vec::new();
    for (key, value) in config {
        match (&**key, &**value) {
            ("sip.transport", "tls") => names.transport = NextHopTransport::Tls,
            ("sip.transport", "tcp") => names.transport = NextHopTransport::Tcp,
            ("sip.transport", "udp") => names.transport = NextHopTransport::Udp,
            ("muc.sip-rooms", domains) => names.sip.extend(domains.split([',', ' ']).map(Into::into)),
            ("xmpp.domains", domains) => {
                further.extend(domains.split([',', ' ']).filter(|d| !d.is_empty()).map(String::from));
            }
            _ => {}
        }
    }
    names.strangers =
        strangers.into_iter().chain(further.iter().cloned()).filter(|d| !names.xmpp.contains(d)).collect();
    let mut settings = names.settings();
    for domain in &further {
        let mut partner = Partner::new(domain);
        partner.kind = PartnerKind::Federated;
        settings.partners.push(partner);
    }
    for (key, value) in config {
        let seconds = || parse_time(value).map(|ms| u32::try_from(ms / 1000).unwrap_or(u32::MAX));
        match &**key {
            "sip.dialect" => {
                let dialect = if value == "lync" { Dialect::Lync } else { Dialect::Standard };
                settings.sip_domains.iter_mut().for_each(|domain| domain.dialect = dialect);
            }
            "presence.expires" => settings.presence.expires_s = seconds()?,
            "presence.probe-before-refresh" => settings.presence.probe_before_refresh = value == "on",
            "partner.type" => {
                let kind = match &**value {
                    "public-verified" => PartnerKind::PublicVerified,
                    "public-unverified" => PartnerKind::PublicUnverified,
                    _ => PartnerKind::Federated,
                };
                settings.partners.iter_mut().for_each(|partner| partner.kind = kind);
            }
            "im.error-wait" => settings.message.error_wait_s = seconds()?,
            "im.late-errors" => settings.message.late_errors_notify = value == "notify",
            "im.mode" => {
                let mode = if value == "session" { ImMode::Session } else { ImMode::Pager };
                settings.sip_domains.iter_mut().for_each(|domain| domain.im_mode = Some(mode));
            }
            "im.session-idle" => {
                let idle = seconds()?;
                settings.sip_domains.iter_mut().for_each(|domain| domain.session_idle_s = idle);
            }
            "msrp.max-size" => settings.msrp.max_size = value.parse().map_err(|_| "msrp.max-size is no number")?,
            "msrp.tls" => settings.msrp.tls = value == "on",
            "muc.xmpp-rooms" | "muc.sip-rooms" => settings.rooms.extend(
                value.split([',', ' ']).map(|domain| Room { domain: domain.into(), on_sip: key == "muc.sip-rooms" }),
            ),
            _ => {}
        }
    }
    let world = settings.clone();
    let lines: Vec<&str> = config.iter().filter(|(key, _)| key == "set").map(|(_, value)| &**value).collect();
    if !lines.is_empty() {
        set(&mut settings, &lines)?;
    }
    let transport = names.transport.into();
    Ok((names, world, settings, transport))
}

/// Takes over what lines of the configuration language say, as far as the world leaves it
/// open: who is where stays as it is.
fn set(settings: &mut Settings, lines: &[&str]) -> Result<(), String> {
    let text: String = lines.iter().map(|line| format!("set {line}\n")).collect();
    let (loaded, _) = config::load(&format!("set system host-name gw.edge.example\n{text}"))
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
    let loaded = loaded.settings;
    for domain in loaded.sip_domains {
        match settings.sip_domains.iter_mut().find(|known| known.domain == domain.domain) {
            Some(known) => {
                let next_hop = known.next_hop.take();
                *known = SipDomain { next_hop, peers: core::mem::take(&mut known.peers), ..domain };
            }
            None => settings.sip_domains.push(domain),
        }
    }
    for partner in loaded.partners {
        match settings.partners.iter_mut().find(|known| known.domain == partner.domain) {
            Some(known) => known.kind = partner.kind,
            None => settings.partners.push(partner),
        }
    }
    (settings.policies, settings.users) = (loaded.policies, loaded.users);
    (settings.providers, settings.blocked) = (loaded.providers, loaded.blocked);
    settings.discovery_open = loaded.discovery_open;
    settings.discovery_verification = loaded.discovery_verification;
    settings.xmpp.log_message_bodies = loaded.xmpp.log_message_bodies;
    settings.message.archiving_notice = loaded.message.archiving_notice;
    Ok(())
}

/// The settings of the world, without what its `set` lines said, changed by these lines: `set`
/// ones, and `delete partner DOMAIN` or `delete sip domain DOMAIN`.
fn changed(world: &Settings, text: &str) -> Result<Settings, String> {
    let mut settings = world.clone();
    let mut lines = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match line.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["delete", "partner", gone] => settings.partners.retain(|partner| partner.domain != *gone),
            ["delete", "sip", "domain", gone] => settings.sip_domains.retain(|served| served.domain != *gone),
            _ => lines.push(line.strip_prefix("set ").ok_or_else(|| format!("neither set nor delete: {line}"))?),
        }
    }
    set(&mut settings, &lines)?;
    Ok(settings)
}

struct Play {
    neighbours: Neighbours,
    /// Before any `set` line.
    world: Settings,
    /// As they are now.
    settings: Settings,
    /// Towards the SIP peer, unless a section says otherwise.
    transport: Transport,
    bindings: Bindings,
    /// Sections of the flow that are settled.
    done: Vec<bool>,
    /// Sections that may still be met: optional ones that did not come yet.
    optional: Vec<usize>,
    /// Messages whose repetitions are ignored.
    resends: Vec<Vec<u8>>,
    sip: VecDeque<SipCame>,
    xmpp: VecDeque<Element>,
}

impl Play {
    fn flow(&mut self, flow: &Flow) -> Result<(), String> {
        self.done = vec![false; flow.sections.len()];
        self.optional.clear();
        for number in 0..flow.sections.len() {
            if !self.done[number] {
                self.section(flow, number).map_err(|problem| self.report(flow, number, &problem))?;
            }
        }
        self.neighbours.settle();
        self.collect(None);
        for lane in [Lane::Sip, Lane::Xmpp] {
            self.silent(flow, flow.sections.len(), lane)
                .map_err(|problem| self.report(flow, flow.sections.len().saturating_sub(1), &problem))?;
        }
        Ok(())
    }

    fn report(&self, flow: &Flow, number: usize, problem: &str) -> String {
        let mut out = String::new();
        if let Some(section) = flow.sections.get(number) {
            let _ = writeln!(out, "{}.flow:{}: --- {}", flow.name, section.line, section.head);
            for line in compare::known(&section.text, &self.bindings).lines() {
                let _ = writeln!(out, "  | {line}");
            }
        }
        let _ = writeln!(out, "{problem}");
        if !self.neighbours.faults.is_empty() {
            let _ = writeln!(out, "broken protocol: {:?}", self.neighbours.faults);
        }
        let _ = writeln!(out, "the gateway's log:");
        for line in self.neighbours.world.lines.iter().rev().take(25).rev() {
            let _ = writeln!(out, "  {line}");
        }
        out
    }

    fn section(&mut self, flow: &Flow, number: usize) -> Result<(), String> {
        let section = &flow.sections[number];
        match &section.what {
            What::Note => {}
            What::Send(Lane::Sip) => self.send_sip(section)?,
            What::Send(Lane::Xmpp) => self.send_xmpp(section)?,
            What::Send(Lane::Msrp) | What::Expect(Lane::Msrp) | What::MsrpLink => {
                return Err("MSRP is not played".into());
            }
            What::Expect(lane) => self.expect(flow, number, *lane)?,
            What::Advance(time, until) => self.pass(flow, number, *time, *until),
            What::Silence(lanes, time) => {
                self.pass(flow, number, *time, None);
                for lane in lanes {
                    self.silent(flow, number, *lane)?;
                }
            }
            What::Assert(lines) => {
                for (a, op, b) in lines {
                    self.assert(a, op, b)?;
                }
            }
            What::Restart => self.neighbours.restart(self.settings.clone()),
            What::Configure => {
                self.settings = changed(&self.world, &section.text)?;
                self.neighbours.advance(1);
                self.neighbours.world.configure(self.settings.clone());
                self.neighbours.settle();
                // Streams of a domain that goes may end with an error.
                self.neighbours.faults.retain(|fault| !fault.starts_with("the stream ended: "));
            }
        }
        self.done[number] = true;
        if self.neighbours.faults.is_empty() { Ok(()) } else { Err("the gateway broke a protocol".into()) }
    }

    // ---- Sending

    fn send_sip(&mut self, section: &Section) -> Result<(), String> {
        let bytes = self.sip_bytes(&section.text)?;
        // Each input takes a moment, as on any wire.
        self.neighbours.advance(1);
        if bytes.starts_with(b"SIP/2.0 ") {
            return self.neighbours.send_response(&bytes);
        }
        let transport = self.transport_of(section)?;
        self.neighbours.send_request(transport, section.attribute("peer-identity"), &bytes);
        Ok(())
    }

    fn transport_of(&self, section: &Section) -> Result<Transport, String> {
        match section.attribute("via") {
            None => Ok(self.transport),
            Some("tls") => Ok(Transport::Tls),
            Some("tcp") => Ok(Transport::Tcp),
            Some("udp") => Ok(Transport::Udp),
            Some(other) => Err(format!("via={other}")),
        }
    }

    fn sip_bytes(&self, text: &str) -> Result<Vec<u8>, String> {
        let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
        let content_type = head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| peers::full_name(name.trim()) == "content-type")
            .map_or("", |(_, value)| value);
        let mut bindings = self.bindings.clone();
        let body = if body.is_empty() { String::new() } else { compare::wire_body(body, content_type) };
        let body = compare::fill(&body, &bindings)?;
        bindings.insert("len".into(), body.len().to_string());
        let head = compare::fill(head, &bindings)?;
        let mut out = String::new();
        for line in head.lines() {
            out.push_str(line);
            out.push_str("\r\n");
        }
        out.push_str("\r\n");
        out.push_str(&body);
        Ok(out.into_bytes())
    }

    fn send_xmpp(&mut self, section: &Section) -> Result<(), String> {
        let escaped: Bindings =
            self.bindings.iter().map(|(name, value)| (name.clone(), peers::escape(value))).collect();
        let stanza = compare::fill(&section.text, &escaped)?;
        let element = peers::parse_element(&stanza, peers::SERVER)?;
        let of = |name: &str| peers::domain_of(element.attribute(name).unwrap_or_default()).to_string();
        let ours = section.attribute("authenticated-domain").map_or_else(|| of("from"), Into::into);
        // One stream to a domain that is served carries stanzas to any other one, too.
        let to = of("to");
        let theirs = if self.neighbours.names.sip.contains(&to) { to } else { self.neighbours.names.sip[0].clone() };
        self.neighbours.advance(1);
        self.neighbours.send_stanza(&ours, &theirs, &stanza)
    }

    // ---- Time

    fn pass(&mut self, flow: &Flow, number: usize, time: u64, until: Option<Lane>) {
        let end = self.neighbours.world.now + time;
        loop {
            self.collect(Some((flow, number)));
            let there = match until {
                Some(Lane::Sip) => !self.sip.is_empty(),
                Some(Lane::Xmpp) => !self.xmpp.is_empty(),
                _ => false,
            };
            if there || !self.neighbours.step(end) {
                break;
            }
        }
        self.collect(Some((flow, number)));
    }

    /// Takes over what came, without what need not be looked at.
    fn collect(&mut self, at: Option<(&Flow, usize)>) {
        while let Some(came) = self.neighbours.sip.pop_front() {
            if !self.resends.contains(&came.message.raw) {
                self.sip.push_back(came);
            }
        }
        while let Some(stanza) = self.neighbours.xmpp.pop_front() {
            let request = stanza.name == "iq" && matches!(stanza.attribute("type"), Some("get" | "set"));
            let expected = at.is_some_and(|(flow, number)| {
                flow.sections[number..].iter().any(|section| {
                    section.what == What::Expect(Lane::Xmpp)
                        && section.text.contains("<iq")
                        && (section.text.contains("'get'") || section.text.contains("'set'"))
                })
            });
            if request && !expected {
                self.neighbours.refuse_iq(&stanza);
            } else {
                self.xmpp.push_back(stanza);
            }
        }
    }

    // ---- Expecting

    fn expect(&mut self, flow: &Flow, number: usize, lane: Lane) -> Result<(), String> {
        let section = &flow.sections[number];
        let wait = section.attribute("within").map_or(Ok(WAIT_MS), parse_time)?;
        let end = self.neighbours.world.now + wait;
        self.neighbours.settle();
        loop {
            self.collect(Some((flow, number)));
            while self.waits(lane) {
                let problem = match self.try_section(flow, number, lane) {
                    Ok(()) => return Ok(()),
                    Err(problem) => problem,
                };
                if self.elsewhere(flow, number, lane) {
                    if self.done[number] {
                        return Ok(());
                    }
                    continue;
                }
                if section.has("optional") {
                    self.optional.push(number);
                    return Ok(());
                }
                return Err(format!("what came:\n{}which does not fit:\n  {problem}", self.head(lane)));
            }
            if section.has("optional") {
                self.optional.push(number);
                return Ok(());
            }
            if !self.neighbours.step(end) && !self.arrived(lane) {
                return Err(format!("nothing came within {wait} ms"));
            }
        }
    }

    fn arrived(&self, lane: Lane) -> bool {
        match lane {
            Lane::Sip => !self.neighbours.sip.is_empty() || !self.sip.is_empty(),
            _ => !self.neighbours.xmpp.is_empty() || !self.xmpp.is_empty(),
        }
    }

    fn waits(&self, lane: Lane) -> bool {
        match lane {
            Lane::Sip => !self.sip.is_empty(),
            Lane::Xmpp => !self.xmpp.is_empty(),
            Lane::Msrp => false,
        }
    }

    /// What waits on a lane, for people.
    fn head(&self, lane: Lane) -> String {
        let text = match lane {
            Lane::Sip => self.sip.front().map(|came| String::from_utf8_lossy(&came.message.raw).replace('\r', "")),
            Lane::Xmpp => self.xmpp.front().map(Element::to_xml),
            Lane::Msrp => None,
        };
        let text = text.unwrap_or_default();
        text.trim_end().lines().map(|line| format!("  > {line}\n")).collect()
    }

    /// May the message that waits be met by another section: an optional one passed
    /// before, a neighbour in an any-order group, or one that may come early?
    fn elsewhere(&mut self, flow: &Flow, number: usize, lane: Lane) -> bool {
        let is = |other: &usize| flow.sections.get(*other).is_some_and(|s| s.what == What::Expect(lane));
        let optional = self.optional.clone();
        let mut others: Vec<usize> = optional;
        let group = |n: &usize| flow.sections.get(*n).is_some_and(|s| s.has("any-order"));
        if group(&number) {
            others.extend((number + 1..flow.sections.len()).take_while(group));
            others.extend((0..number).rev().take_while(group));
        }
        others.extend((number..flow.sections.len()).filter(|n| flow.sections[*n].has("early")));
        for other in others {
            if other != number && is(&other) && !self.done[other] && self.try_section(flow, other, lane).is_ok() {
                self.optional.retain(|n| *n != other);
                return true;
            }
        }
        false
    }

    /// Holds the first message that waits against a section and takes it if it fits.
    fn try_section(&mut self, flow: &Flow, number: usize, lane: Lane) -> Result<(), String> {
        let section = &flow.sections[number];
        let mut problems = Vec::new();
        for alternative in section.alternatives() {
            let mut bindings = self.bindings.clone();
            match self.fits(section, alternative, lane, &mut bindings) {
                Ok(()) => {
                    self.bindings = bindings;
                    self.take(section, lane);
                    self.done[number] = true;
                    return Ok(());
                }
                Err(problem) => problems.push(problem),
            }
        }
        Err(problems.join("\n  or\n  "))
    }

    fn fits(&self, section: &Section, text: &str, lane: Lane, bindings: &mut Bindings) -> Result<(), String> {
        let rules = rules_of(section);
        if lane == Lane::Xmpp {
            let stanza = self.xmpp.front().ok_or("nothing is there")?;
            return compare::stanza(text, stanza, bindings, &rules);
        }
        let came = self.sip.front().ok_or("nothing is there")?;
        compare::sip(text, &came.message, bindings, &rules)?;
        let via = self.transport_of(section)?;
        if came.via != via {
            return Err(format!("it came over {}", came.via));
        }
        Ok(())
    }

    fn take(&mut self, section: &Section, lane: Lane) {
        if lane == Lane::Xmpp {
            self.xmpp.pop_front();
            return;
        }
        let Some(came) = self.sip.pop_front() else { return };
        if section.has("resends") {
            self.resends.push(came.message.raw.clone());
            let resends = &self.resends;
            self.sip.retain(|came| !resends.contains(&came.message.raw));
        }
        if section.has("auto-200") && came.message.method().is_some() {
            let response = came.message.response(200, "OK", "auto", "");
            if let Err(problem) = self.neighbours.send_response(&response) {
                self.neighbours.faults.push(problem);
            }
        }
    }

    /// Nothing waits on a lane that no other section may meet.
    fn silent(&mut self, flow: &Flow, number: usize, lane: Lane) -> Result<(), String> {
        while self.waits(lane) {
            if !self.elsewhere(flow, number, lane) {
                return Err(format!("something came on {} that was not wanted:\n{}", lane.name(), self.head(lane)));
            }
        }
        Ok(())
    }

    fn assert(&self, a: &str, op: &str, b: &str) -> Result<(), String> {
        let value = |side: &str| self.bindings.get(side).cloned().unwrap_or_else(|| side.to_string());
        let (left, right) = (value(a), value(b));
        let order = match (left.parse::<i128>(), right.parse::<i128>()) {
            (Ok(left), Ok(right)) => left.cmp(&right),
            _ => left.cmp(&right),
        };
        let holds = match op {
            "==" => order.is_eq(),
            "!=" => order.is_ne(),
            "<" => order.is_lt(),
            ">" => order.is_gt(),
            "<=" => order.is_le(),
            _ => order.is_ge(),
        };
        if holds { Ok(()) } else { Err(format!("{a} {op} {b} does not hold: {left:?}, {right:?}")) }
    }
}

fn rules_of(section: &Section) -> Rules {
    let list =
        |name: &str| section.attribute(name).map(|all| all.split(',').map(Into::into).collect()).unwrap_or_default();
    Rules {
        loose: section.has("loose"),
        alternative_conditions: list("alt"),
        html_loose: section.has("html-loose"),
        history: section.has("history"),
        muc_user_x: section.has("muc-user-x"),
        extra_status: section.has("extra-status"),
        paused_for_active: section.has("paused-for-active"),
        payload_echo: section.has("payload-echo"),
    }
}
