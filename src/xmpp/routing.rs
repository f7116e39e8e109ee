//! How the stanzas of a pair of domains come to a stream: the part of [`Server`] that
//! brings routes and streams together.
//!
//! [`Server::advance`] looks at one route and does the next thing for it; whatever
//! changes a route calls it, and calling it once too often does no harm.

use super::management::Stanza;
use super::route::{Route, STANZA_WAIT_MAX, Stage, Suspended};
use super::server::{CONNECT_MAX, Event, Refused, Server, Timer, Undelivered, route_of_side};
use super::stream::{Delivery, Ended, Pair, Side, Stream, Without};
use crate::base::counters::Counter;
use crate::base::cx::{Cx, Ticket};
use crate::base::net::{NotLocated, Target, Transport};
use crate::base::outbox::{Action, Writer};
use crate::base::slab::Key;
use crate::base::text::Escaped;
use crate::base::time::{Instant, Wall};
use crate::base::trail::{Side as AtFault, Step};
use crate::limits;

impl Server {
    /// Sends one stanza, which `write` writes without declaring its namespace: that of the
    /// stream holds. If no stream carries the pair it waits for one. With `Ok` a ticket
    /// gets its outcome by [`Self::poll`]; with `Err` it never does.
    pub fn send(
        &mut self,
        cx: &mut Cx<'_>,
        ticket: Option<Ticket>,
        from_domain: &str,
        to_domain: &str,
        write: impl FnOnce(&mut Writer<'_>),
    ) -> Result<(), Refused> {
        let theirs = self.far_end(from_domain, to_domain);
        if !theirs.is_empty() && self.route_of(from_domain, to_domain).is_none() && !self.policy.may_open(theirs) {
            return Err(Refused::NotPartner);
        }
        self.submit(cx, ticket, from_domain, theirs, write)
    }

    /// Sends an answer of ours: an error, or the result of a query. It goes to strangers
    /// too, who proved their domain on a stream and shall hear why they are refused;
    /// its outcome is told to nobody.
    pub fn answer(
        &mut self,
        cx: &mut Cx<'_>,
        from_domain: &str,
        to_domain: &str,
        write: impl FnOnce(&mut Writer<'_>),
    ) -> Result<(), Refused> {
        let theirs = self.far_end(from_domain, to_domain);
        self.submit(cx, None, from_domain, theirs, write)
    }

    /// Whom a stanza goes to: the partner's domain, or nobody by name if the server of a
    /// component takes it.
    fn far_end<'b>(&self, from_domain: &str, to_domain: &'b str) -> &'b str {
        if self.policy.component_of(from_domain).is_some() { "" } else { to_domain }
    }

    fn submit(
        &mut self,
        cx: &mut Cx<'_>,
        ticket: Option<Ticket>,
        ours: &str,
        theirs: &str,
        write: impl FnOnce(&mut Writer<'_>),
    ) -> Result<(), Refused> {
        if self.is_shut {
            return Err(Refused::Overload);
        }
        let key = self.route_or_new(cx, ours, theirs).ok_or(Refused::Overload)?;
        let now = cx.now;
        let Some(route) = self.routes.get_mut(key) else { return Err(Refused::Overload) };
        let blocked = route.blocked.filter(|_| route.carrier.is_none() && route.stage == Stage::Idle);
        if let Some((_, why)) = blocked.filter(|(until, _)| now < *until) {
            return Err(Refused::Failed(why));
        }
        let carrier = route.carrier.filter(|_| route.queue.is_empty());
        let mut w = cx.out.begin();
        write(&mut w);
        let span = w.finish();
        let octets = span.len();
        if let Some(stream) = carrier {
            if let Some(limit) = self.streams.get(stream).and_then(|s| s.offers.max_bytes).filter(|max| octets > *max) {
                return Err(Refused::TooLarge { limit });
            }
            if self.has_room(stream, octets) {
                let bytes = if self.keeps_octets(stream) { cx.out.bytes(&span).into() } else { Box::default() };
                let Some(link) = self.streams.get(stream).map(|stream| stream.link) else {
                    return Err(Refused::Overload);
                };
                cx.out.push(Action::Send { link, bytes: span });
                let stanza = Stanza { ticket, bytes, since: now, wall: cx.wall, again: false };
                self.went_out(cx, stream, stanza, octets);
                return Ok(());
            }
        }
        // What is not sent now may lie in the arena until the turn ends.
        let is_full = self.queued_octets + octets > limits::STREAM_QUEUES_OCTETS_MAX;
        let Some(route) = self.routes.get_mut(key).filter(|route| !is_full && route.has_room(octets)) else {
            cx.refuse(
                Counter::StanzaUndelivered,
                "xmpp.queue.full",
                format_args!("partner={} ours={} side=partner", Escaped(theirs), Escaped(ours)),
            );
            return Err(Refused::Overload);
        };
        let bytes: Box<[u8]> = cx.out.bytes(&span).into();
        route.octets += octets;
        self.queued_octets += octets;
        route.queue.push_back(Stanza { ticket, bytes, since: now, wall: cx.wall, again: false });
        self.advance(cx, key);
        Ok(())
    }

    /// Where the servers of a domain are, in the order they are to be tried.
    pub fn located(&mut self, cx: &mut Cx<'_>, place: Key, targets: Result<&[Target], NotLocated>) {
        let Some(route) = self.routes.get_mut(place).filter(|route| route.stage == Stage::Locating) else { return };
        route.stage = Stage::Idle;
        note_located(cx, &route.theirs, targets);
        match targets {
            Ok(targets) => {
                route.targets = targets.iter().copied().take(limits::DNS_TARGETS_MAX).collect();
                route.next = 0;
                route.without = Without::default();
                self.connect(cx, place);
            }
            Err(fault) => {
                route.note(match fault {
                    NotLocated::NoSuchDomain => Undelivered::NotFound,
                    NotLocated::NoAnswer => Undelivered::Timeout,
                    NotLocated::NoAddress | NotLocated::ForeignTarget => Undelivered::Unreachable,
                });
                self.route_failed(cx, place);
            }
        }
    }

    // ---- Finding routes -----------------------------------------------------------

    /// The route of a pair, if there is one.
    pub(super) fn route_of(&self, ours: &str, theirs: &str) -> Option<Key> {
        let theirs = self.far_end(ours, theirs);
        let keys = self.routes_to.get(theirs)?;
        keys.iter().copied().find(|key| self.routes.get(*key).is_some_and(|route| route.ours == ours))
    }

    /// The route of a pair; `None` if the table is full.
    pub(super) fn route_or_new(&mut self, cx: &mut Cx<'_>, ours: &str, theirs: &str) -> Option<Key> {
        if let Some(key) = self.route_of(ours, theirs) {
            return Some(key);
        }
        let key = self.routes.insert(Route::new(ours, theirs, cx.now)).ok()?;
        self.routes_to.entry(theirs.into()).or_default().push(key);
        Some(key)
    }

    /// Routes for all components that have none; they connect at once.
    pub(super) fn add_components(&mut self, now: Instant) {
        for place in 0..self.policy.components.len() {
            let Some(domain) = self.policy.components.get(place).map(|c| c.domain.clone()) else { continue };
            if self.route_of(&domain, "").is_some() {
                continue;
            }
            if let Ok(key) = self.routes.insert(Route::new(&domain, "", now)) {
                self.routes_to.entry(String::new()).or_default().push(key);
                self.set_route_timer(key, Some(now));
            }
        }
    }

    /// Forgets a route that nothing waits for.
    pub(super) fn forget_route(&mut self, key: Key) {
        self.set_route_timer(key, None);
        let Some(route) = self.routes.remove(key) else { return };
        if let Some(keys) = self.routes_to.get_mut(&route.theirs) {
            keys.retain(|other| *other != key);
            if keys.is_empty() {
                self.routes_to.remove(&route.theirs);
            }
        }
    }

    // ---- Driving a route ----------------------------------------------------------

    /// Does the next thing for a route.
    pub(super) fn advance(&mut self, cx: &mut Cx<'_>, key: Key) {
        self.flush(cx, key);
        let Some(route) = self.routes.get(key) else { return };
        match route.stage {
            Stage::Ready(stream) => {
                self.send_verifications(cx, key, stream);
                self.authenticate(cx, key, stream);
            }
            Stage::Idle if route.wants_stream() && !self.is_shut => {
                let joins = route.verifications.is_empty() && self.join(cx, key);
                if !joins && self.routes.get(key).is_some_and(|route| route.is_component() || route.wants_stream()) {
                    self.start(cx, key);
                }
            }
            _ => {}
        }
        self.arm_route(cx, key);
    }

    /// Sets the route's deadline, or forgets the route.
    fn arm_route(&mut self, cx: &mut Cx<'_>, key: Key) {
        let establishment = self.establishment();
        let Some(route) = self.routes.get_mut(key) else { return };
        if route.blocked.is_some_and(|(until, _)| until <= cx.now) {
            route.blocked = None;
        }
        if route.is_spent() {
            self.forget_route(key);
            return;
        }
        let at = route.deadline(establishment);
        self.set_route_timer(key, at);
    }

    /// Begins to look for the partner's servers.
    fn start(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(route) = self.routes.get_mut(key) else { return };
        let is_component = route.is_component();
        if is_component && route.blocked.is_some_and(|(until, _)| cx.now < until) {
            return;
        }
        (route.since, route.worst, route.next, route.without) = (cx.now, None, 0, Without::default());
        if is_component {
            let Some(component) = self.policy.component_of(&route.ours) else { return };
            let target = Target { transport: Transport::Tcp, address: component.server };
            route.targets = core::iter::once(target).collect();
            self.connect(cx, key);
            return;
        }
        route.stage = Stage::Locating;
        let domain = route.theirs.clone();
        let proxy = self.policy.rules_for(&domain).proxy.clone();
        self.outcomes.push_back(Event::Locate { place: key, domain, proxy });
    }

    /// Connects to the next address that may be tried; without one the route failed.
    fn connect(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(route) = self.routes.get(key) else { return };
        let theirs = route.theirs.clone();
        let has_time = cx.now < route.since.after(self.establishment());
        let has_place = self.streams.len() < self.policy.streams_max()
            && (theirs.is_empty() || self.streams_with(&theirs) < self.policy.partner_streams_max(&theirs));
        let Some(route) = self.routes.get_mut(key) else { return };
        while let Some(target) = route.targets.get(route.next).filter(|_| has_time && has_place) {
            if self.policy.is_own_listener(target.address) {
                cx.refuse(
                    Counter::StreamFailed,
                    "xmpp.target.ourselves",
                    format_args!("partner={} address={} side=dns", Escaped(&theirs), target.address),
                );
                cx.out.trail.failed(
                    &[&theirs],
                    Step::Tcp,
                    AtFault::Dns,
                    format_args!("{} is this gateway itself", target.address),
                    "the records of the partner's domain must name the partner's server",
                );
                route.note(Undelivered::Refused);
                route.next += 1;
                continue;
            }
            let link = cx.out.connect(Transport::Tcp, target.address);
            let side = if theirs.is_empty() {
                Side::Component { route: key }
            } else {
                Side::Initiator { route: key, direct_tls: target.transport == Transport::Tls }
            };
            let mut stream = Stream::new(link, side, &route.ours, &theirs, cx.now);
            stream.without = route.without;
            let suspended = route.suspended.as_ref().and_then(|s| self.sessions.get(s.session));
            stream.resume = suspended.and_then(|session| {
                let resumption = session.management.resumption.as_ref()?;
                Some((resumption.id.clone(), session.management.handled()))
            });
            cx.debug(
                "xmpp.stream.connecting",
                format_args!("partner={} address={} transport={}", Escaped(&theirs), target.address, target.transport),
            );
            let Ok(stream) = self.streams.insert(stream) else {
                cx.out.abort(link);
                break;
            };
            route.stage = Stage::Opening(stream);
            self.links.insert(link, stream);
            self.set(stream, Timer::Progress, cx.now.after(CONNECT_MAX));
            self.arm_route(cx, key);
            return;
        }
        if !has_place {
            cx.refuse(
                Counter::StreamLimit,
                "xmpp.stream.limit",
                format_args!("partner={} cause=connection-limit side=ours", Escaped(&theirs)),
            );
            route.worst = Some(Undelivered::Overload);
        } else if route.worst.is_none() {
            route.note(if has_time { Undelivered::Unreachable } else { Undelivered::Timeout });
        }
        self.route_failed(cx, key);
    }

    /// No address worked: everything that waits is told, and the partner is left alone
    /// for a moment.
    fn route_failed(&mut self, cx: &mut Cx<'_>, key: Key) {
        let Some(route) = self.routes.get_mut(key) else { return };
        let why = route.worst.take().unwrap_or(Undelivered::Unreachable);
        route.stage = Stage::Idle;
        route.restarted = false;
        route.targets.clear();
        route.blocked = Some((cx.now.after(route.back_off(cx)), why));
        let side = match why {
            Undelivered::NotFound => "dns",
            Undelivered::Overload => "ours",
            _ => "partner",
        };
        cx.refuse(
            Counter::StreamFailed,
            "xmpp.route.failed",
            format_args!(
                "partner={} ours={} reason={why:?} waiting={} side={side}",
                Escaped(&route.theirs),
                Escaped(&route.ours),
                route.queue.len()
            ),
        );
        self.give_up(cx, key, why);
        self.arm_route(cx, key);
    }

    /// Tells everything that waits on a route that it waits in vain.
    pub(super) fn give_up(&mut self, cx: &mut Cx<'_>, key: Key, why: Undelivered) {
        let Some(route) = self.routes.get_mut(key) else { return };
        let (queue, suspended) = (core::mem::take(&mut route.queue), route.suspended.take());
        let verifications = core::mem::take(&mut route.verifications);
        self.queued_octets -= core::mem::take(&mut route.octets);
        // Those of the lost stream are older.
        if let Some(Suspended { session, .. }) = suspended {
            self.lose_session(cx, session);
        }
        for stanza in queue {
            self.undelivered(cx, stanza.ticket, why);
        }
        for verification in verifications {
            self.verification_failed(cx, verification, why);
        }
    }

    /// Shows our key for this pair on a stream to the same domain that another pair was
    /// proved on by dialback. A stream proved by a certificate is left alone: a pair that
    /// could have that proof too is not given a weaker one.
    fn join(&mut self, cx: &mut Cx<'_>, key: Key) -> bool {
        let Some(route) = self.routes.get(key).filter(|route| !route.alone && !route.is_component()) else {
            return false;
        };
        let fits = |stream: &Stream| {
            matches!(stream.side, Side::Initiator { .. })
                && stream.carries()
                && stream.theirs == route.theirs
                && !stream.external
                && stream.offers.dialback_errors
                && stream.proved.len() + stream.asked.len() < limits::STREAM_PAIRS_MAX
        };
        let Some(stream) = self.streams.iter().find(|(_, stream)| fits(stream)).map(|(key, _)| key) else {
            return false;
        };
        let pair = Pair { ours: route.ours.clone(), theirs: route.theirs.clone() };
        if let Some(route) = self.routes.get_mut(key) {
            route.joining = Some((stream, cx.now));
        }
        if let Some(stream) = self.streams.get_mut(stream) {
            stream.show_key(cx, &self.policy, pair);
        }
        true
    }

    /// The partner judged our key for a further pair of a stream.
    pub(super) fn on_judged(&mut self, cx: &mut Cx<'_>, key: Key, pair: &Pair, valid: bool) {
        let Some(place) = self.route_of(&pair.ours, &pair.theirs) else { return };
        let Some(route) = self.routes.get_mut(place) else { return };
        if route.joining.is_some_and(|(stream, _)| stream == key) {
            route.joining = None;
            route.alone = !valid;
            if valid && route.carrier.is_none() {
                route.carrier = Some(key);
            }
        }
        self.advance(cx, place);
    }

    /// Proves ourselves on a negotiated stream once something waits to be carried.
    fn authenticate(&mut self, cx: &mut Cx<'_>, key: Key, stream: Key) {
        let wants = self.routes.get(key).is_some_and(Route::wants_carrier);
        let Some(stream_state) = self.streams.get_mut(stream).filter(|stream| wants && stream.can_authenticate())
        else {
            return;
        };
        stream_state.authenticate(cx, &self.policy);
        let within = super::server::NEGOTIATION_MAX.min(self.establishment());
        self.set(stream, Timer::Progress, cx.now.after(within));
    }

    pub(super) fn route_timed_out(&mut self, cx: &mut Cx<'_>, key: Key) {
        let establishment = self.establishment();
        let Some(route) = self.routes.get_mut(key) else { return };
        let mut late = Vec::new();
        while route.queue.front().is_some_and(|stanza| cx.now >= stanza.since.after(STANZA_WAIT_MAX)) {
            late.extend(route.queue.pop_front());
        }
        let octets: usize = late.iter().map(|stanza| stanza.bytes.len()).sum();
        route.octets -= octets;
        let stuck = matches!(route.stage, Stage::Locating) && cx.now >= route.since.after(establishment);
        if stuck {
            route.note(Undelivered::Timeout);
        }
        if route.joining.is_some() && route.deadline(establishment).is_some_and(|at| at <= cx.now) {
            (route.joining, route.alone) = (None, true);
        }
        let over = route.suspended.as_ref().is_some_and(|suspended| suspended.until <= cx.now);
        let suspended = route.suspended.take_if(|_| over);
        // An attempt under way shall not take up what is given up now.
        if let (true, Stage::Opening(stream) | Stage::Ready(stream)) = (over, route.stage)
            && let Some(stream) = self.streams.get_mut(stream)
        {
            stream.resume = None;
        }
        let opening = match route.stage {
            Stage::Opening(stream) if cx.now >= route.since.after(establishment) => Some(stream),
            _ => None,
        };
        self.queued_octets -= octets;
        if let Some(Suspended { session, .. }) = suspended {
            self.lose_session(cx, session);
        }
        for stanza in late {
            self.undelivered(cx, stanza.ticket, Undelivered::Timeout);
        }
        if let Some(stream) = opening {
            self.end_stream(cx, stream, Ended::new(Undelivered::Timeout));
        } else if stuck {
            self.route_failed(cx, key);
        }
        self.advance(cx, key);
    }

    // ---- Sending ------------------------------------------------------------------

    /// Sends what waits, as far as there is room.
    fn flush(&mut self, cx: &mut Cx<'_>, key: Key) {
        while let Some(route) = self.routes.get_mut(key) {
            let (Some(carrier), Some(stanza)) = (route.carrier, route.queue.front()) else { return };
            let octets = stanza.bytes.len();
            if !self.has_room(carrier, octets) {
                if let Some(stream) = self.streams.get_mut(carrier) {
                    stream.stalled = true;
                }
                return;
            }
            let Some(stanza) = self.routes.get_mut(key).and_then(|route| {
                route.octets -= octets;
                route.queue.pop_front()
            }) else {
                return;
            };
            self.queued_octets -= octets;
            self.transmit(cx, carrier, stanza);
        }
    }

    /// Sends a stanza that has waited.
    pub(super) fn transmit(&mut self, cx: &mut Cx<'_>, key: Key, stanza: Stanza) {
        let Some(stream) = self.streams.get_mut(key) else {
            self.undelivered(cx, stanza.ticket, Undelivered::StreamLost);
            return;
        };
        if stream.offers.max_bytes.is_some_and(|max| stanza.bytes.len() > max) {
            self.undelivered(cx, stanza.ticket, Undelivered::TooLarge);
            return;
        }
        let mut w = cx.out.begin();
        if stanza.again {
            emit_delayed(&mut w, &stanza.bytes, stanza.wall);
        } else {
            w.bytes(&stanza.bytes);
        }
        let bytes = w.finish();
        let octets = bytes.len();
        cx.out.push(Action::Send { link: stream.link, bytes });
        if stanza.again {
            cx.count(Counter::StanzaResent);
        }
        self.went_out(cx, key, stanza, octets);
    }

    /// Notes a stanza whose octets were just given to the link.
    fn went_out(&mut self, cx: &mut Cx<'_>, key: Key, stanza: Stanza, octets: usize) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.sent += octets as u64;
        stream.last_out = cx.now;
        match stream.session.and_then(|session| self.sessions.get_mut(session)) {
            Some(session) => {
                session.management.sent(stanza);
                if session.management.should_ask() {
                    self.ask(cx, key);
                }
            }
            None => {
                stream.deliveries.push_back(Delivery { end: stream.sent, ticket: stanza.ticket, since: cx.now });
            }
        }
        self.arm_outcome(key);
    }

    /// May a stream take so many octets more now?
    fn has_room(&self, key: Key, octets: usize) -> bool {
        let Some(stream) = self.streams.get(key) else { return false };
        let waiting = (stream.sent - stream.drained.min(stream.sent)) as usize;
        let session = stream.session.and_then(|session| self.sessions.get(session));
        stream.carries()
            && waiting + octets <= limits::LINK_SEND_OCTETS_MAX * 3 / 4
            && stream.deliveries.len() < limits::STREAM_QUEUE_STANZAS_MAX
            && session.is_none_or(|session| session.management.has_room(octets))
    }

    /// Are stanzas kept after they went out, to be sent again on a resumed stream?
    fn keeps_octets(&self, key: Key) -> bool {
        let session = self.streams.get(key).and_then(|stream| self.sessions.get(stream.session?));
        session.is_some_and(|session| session.management.resumption.is_some())
    }

    /// There is room again on a stream.
    pub(super) fn unstall(&mut self, cx: &mut Cx<'_>, key: Key) {
        if let Some(stream) = self.streams.get_mut(key) {
            stream.stalled = false;
        }
        for route in self.routes_on(key) {
            self.advance(cx, route);
        }
    }

    // ---- When a stream goes -------------------------------------------------------

    fn routes_on(&self, key: Key) -> Vec<Key> {
        self.routes.iter().filter(|(_, route)| route.carrier == Some(key)).map(|(key, _)| key).collect()
    }

    /// Nothing new goes out on a stream any more.
    pub(super) fn detach_routes(&mut self, cx: &mut Cx<'_>, key: Key) {
        let touched: Vec<Key> = self.routes_touching(key);
        for place in &touched {
            let Some(route) = self.routes.get_mut(*place) else { continue };
            detach(route, key);
            if route.stage.is(key) {
                route.stage = Stage::Idle;
            }
        }
        for place in touched {
            self.advance(cx, place);
        }
    }

    fn routes_touching(&self, key: Key) -> Vec<Key> {
        let touches = |route: &Route| {
            route.carrier == Some(key) || route.stage.is(key) || route.joining.is_some_and(|(joined, _)| joined == key)
        };
        self.routes.iter().filter(|(_, route)| touches(route)).map(|(key, _)| key).collect()
    }

    /// A stream is gone: the routes it carried look for another, and one that was being
    /// opened for a route was an attempt that failed.
    pub(super) fn release_routes(&mut self, cx: &mut Cx<'_>, key: Key, stream: &Stream, ended: Ended) {
        for place in self.routes_touching(key) {
            let Some(route) = self.routes.get_mut(place) else { continue };
            detach(route, key);
            if !route.stage.is(key) {
                self.advance(cx, place);
                continue;
            }
            let was_ready = matches!(route.stage, Stage::Ready(_));
            let was_lost = matches!(ended.why, Undelivered::Unreachable | Undelivered::Timeout);
            route.stage = Stage::Idle;
            // A component that was connected is left alone for a moment too.
            if route.is_component() && route_of_side(stream.side) == Some(place) && !self.is_shut {
                route.note(ended.why);
                self.route_failed(cx, place);
            } else if was_ready && was_lost && ended.retry.is_none() && !route.restarted {
                // It worked and may have been dead for long: that says nothing of the address.
                route.restarted = true;
                self.advance(cx, place);
            } else if stream.proved.is_empty() && route.wants_stream() && !self.is_shut {
                route.note(ended.why);
                match ended.retry {
                    Some(without) => route.without = without,
                    None => {
                        route.without = Without::default();
                        route.next += 1;
                    }
                }
                self.connect(cx, place);
            } else {
                self.advance(cx, place);
            }
        }
    }
}

/// Tells whoever asks where a partner is.
fn note_located(cx: &mut Cx<'_>, theirs: &str, targets: Result<&[Target], NotLocated>) {
    let (text, advice) = match targets {
        Ok(targets) => {
            let places: Vec<String> = targets
                .iter()
                .map(|target| match target.transport {
                    Transport::Tls => format!("{} (direct TLS)", target.address),
                    _ => target.address.to_string(),
                })
                .collect();
            cx.out.trail.passed(&[theirs], Step::Dns, format_args!("{}", places.join(", ")));
            return;
        }
        Err(NotLocated::NoSuchDomain) => (
            "the domain does not exist, or says that it has no XMPP service",
            "check how the domain is written; its owner has to publish SRV _xmpp-server._tcp",
        ),
        Err(NotLocated::NoAnswer) => {
            ("no server of the DNS answered in time", "check system dns server, and whether the domain's servers work")
        }
        Err(NotLocated::NoAddress | NotLocated::ForeignTarget) => (
            "there is no address that may be used",
            "its owner has to publish A or AAAA records for the hosts that its SRV records name",
        ),
    };
    cx.out.trail.failed(&[theirs], Step::Dns, AtFault::Dns, format_args!("{text}"), advice);
}

fn detach(route: &mut Route, key: Key) {
    if route.carrier == Some(key) {
        route.carrier = None;
    }
    if route.joining.is_some_and(|(joined, _)| joined == key) {
        route.joining = None;
    }
}

/// Writes a stanza that is sent again with `<delay/>` (XEP-0203) before its end tag. An
/// iq stays as it is: its child is all it may have.
fn emit_delayed(w: &mut Writer<'_>, bytes: &[u8], wall: Wall) {
    let is_iq = bytes.starts_with(b"<iq");
    let (head, tail) = match bytes {
        [head @ .., b'/', b'>'] => (head, None),
        _ => match bytes.iter().rposition(|octet| *octet == b'<') {
            Some(at) => bytes.split_at_checked(at).map_or((bytes, None), |(head, tail)| (head, Some(tail))),
            None => (bytes, None),
        },
    };
    if is_iq || head.is_empty() {
        w.bytes(bytes);
        return;
    }
    let civil = wall.civil();
    let stamp = format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        civil.year, civil.month, civil.day, civil.hour, civil.minute, civil.second
    );
    w.bytes(head);
    if tail.is_none() {
        w.str(">");
    }
    crate::base::xml::Tag::begin(w, "delay").namespace(super::ns::DELAY).attribute("stamp", &stamp).empty();
    match tail {
        Some(tail) => w.bytes(tail),
        None => w.str(if bytes.starts_with(b"<presence") { "</presence>" } else { "</message>" }),
    };
}
