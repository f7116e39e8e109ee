//! Who may talk to whom by the rights of the SIP user: `policy`, `user`, and what a public
//! provider carries, how long it lives and how many licences there are. Which domains
//! there are at all is left to `route.rs`.
//!
//! A user's policy is his own, else that of his SIP domain, else `policy default`. With no
//! policy at all everybody may do everything. XMPP partners need `xmpp` and `federation`;
//! whoever is reached by a public provider needs `public-cloud` instead, and calls need
//! `public-cloud-audio-video` too. An XMPP partner whose addresses a provider decorates is
//! reached by it when the user may not talk to partners directly.

use super::Gateway;
use super::uas::Answer;
use crate::base::counters::Counter;
use crate::base::cx::Cx;
use crate::base::outbox::Level;
use crate::base::text::Escaped;
use crate::base::time::{Instant, Wall};
use crate::limits::LICENCES_MAX;
use crate::settings::provider::{Life, Provider};
use crate::settings::{DEFAULT_POLICY, Policy, Settings};
use crate::sip::diagnostics::cause;
use crate::xmpp::jid::Jid;
use crate::xmpp::stanza::{Condition, StanzaError};
use core::time::Duration;
use ring::digest;
use std::collections::BTreeMap;

/// What two users want of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Messages, single or in sessions.
    Im,
    /// To see each other's presence.
    Presence,
    /// A call.
    Audio,
    /// A call with pictures.
    Video,
}

/// Why they may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The SIP user may not talk to XMPP partners.
    Xmpp,
    /// The SIP user may not talk to anybody outside.
    Federation,
    /// The SIP user may not talk to users of public providers.
    PublicCloud,
    /// The SIP user may not call users of public providers.
    PublicCloudCalls,
    /// The provider carries no such thing, or nobody does.
    NotCarried,
    /// The provider is at the end of its life.
    Ended,
    /// All licences of the provider are taken.
    NoLicence,
}

impl Denial {
    /// The answer to a SIP request.
    pub const fn status(self) -> u16 {
        match self {
            Self::NotCarried => 488,
            _ => 403,
        }
    }

    /// The answer to a stanza.
    pub const fn condition(self) -> Condition {
        match self {
            Self::NotCarried => Condition::NotAcceptable,
            _ => Condition::Forbidden,
        }
    }

    /// In words, as a reason phrase, a stanza's text and in logs.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Xmpp => "The SIP User May Not Talk To XMPP Partners",
            Self::Federation => "The SIP User May Not Talk To Other Organizations",
            Self::PublicCloud => "The SIP User May Not Talk To Public Providers",
            Self::PublicCloudCalls => "The SIP User May Not Call Users Of Public Providers",
            Self::NotCarried => "This Is Not Carried There",
            Self::Ended => "The Public Provider Has Ended",
            Self::NoLicence => "No Licence Is Left For This Public Provider",
        }
    }

    /// What a Lync administrator reads in `ms-diagnostics-public`.
    pub const fn diagnostic(self) -> &'static str {
        match self {
            Self::Xmpp | Self::Federation => cause::FEDERATION,
            Self::PublicCloud | Self::PublicCloudCalls => cause::PUBLIC_CLOUD,
            Self::NotCarried => cause::NOT_CARRIED,
            Self::Ended => cause::PROVIDER_ENDED,
            Self::NoLicence => cause::NO_LICENCE,
        }
    }

    /// What counts it.
    pub const fn counter(self) -> Counter {
        match self {
            Self::NotCarried | Self::Ended => Counter::ProviderRefused,
            Self::NoLicence => Counter::LicenceRefused,
            _ => Counter::PolicyRefused,
        }
    }

    /// As the answer to a SIP request.
    pub(super) fn answer(self) -> Answer {
        Answer::new(self.status(), self.reason(), self.counter()).because(Some(self.diagnostic()))
    }

    /// As the answer to a stanza.
    pub(super) fn error(self) -> StanzaError<'static> {
        StanzaError::new(self.condition()).with_text(self.reason())
    }
}

/// How two users reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As partners.
    Direct,
    /// By the public provider at this place of `Settings::providers`.
    Provider(usize),
}

/// A user counts as one of a provider for so long after he was seen.
const LICENCE_TIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// Providers near their end are told of once in that time.
const ALARM_TIME: Duration = Duration::from_secs(24 * 3600);

/// What is kept of the rules from one event to the next.
#[derive(Debug, Default)]
pub(super) struct Rights {
    /// Users that have a policy of their own, and its place in `Settings::policies`, sorted.
    users: Vec<(Box<str>, Option<usize>)>,
    /// The policy of those who have no other.
    default: Option<usize>,
    pub(super) licences: Licences,
    /// When providers near their end are next told of; `None`: there is none.
    alarm: Option<Instant>,
}

impl Rights {
    pub(super) fn new(settings: &Settings) -> Self {
        let mut rights = Self::default();
        rights.configure(settings);
        rights
    }

    /// Goes by other settings; who has a licence is kept.
    pub(super) fn configure(&mut self, settings: &Settings) {
        self.licences.allot(settings);
        let users = settings.users.iter().map(|user| (user.address.as_str().into(), place_of(settings, &user.policy)));
        self.users = users.collect();
        self.users.sort_unstable();
        self.default = place_of(settings, DEFAULT_POLICY);
        let ends = |provider: &Provider| provider.enabled && provider.end_of_life.is_some();
        self.alarm = settings.providers.iter().any(ends).then_some(Instant::ZERO);
    }

    /// When [`Gateway::provider_alarms`] is next due.
    pub(super) const fn deadline(&self) -> Option<Instant> {
        self.alarm
    }

    /// The policy of a SIP user; the error: he may do everything, since there is none.
    fn of<'s>(&self, settings: &'s Settings, sip: &Jid) -> Option<&'s Policy> {
        if settings.policies.is_empty() {
            return None;
        }
        let own = self.users.binary_search_by(|(address, _)| (**address).cmp(sip.bare())).ok();
        let place = match own.and_then(|at| self.users.get(at)) {
            Some((_, place)) => *place,
            None => {
                let domain = settings.sip_domains.iter().find(|served| served.domain == sip.domain());
                match domain.and_then(|served| served.policy.as_deref()) {
                    Some(name) => place_of(settings, name),
                    None => self.default,
                }
            }
        };
        // `default` may be named and not set.
        Some(place.and_then(|place| settings.policies.get(place)).unwrap_or(&NOTHING))
    }
}

/// `policy default` where it is not set and others are.
static NOTHING: Policy =
    Policy { name: String::new(), xmpp: false, public_cloud: false, public_cloud_audio_video: false, federation: true };

fn place_of(settings: &Settings, name: &str) -> Option<usize> {
    settings.policies.iter().position(|policy| policy.name == name)
}

/// May a user of this policy talk to an XMPP partner?
fn direct(policy: Option<&Policy>, what: What) -> Result<(), Denial> {
    match policy {
        _ if matches!(what, What::Audio | What::Video) => Err(Denial::NotCarried),
        Some(policy) if !policy.federation => Err(Denial::Federation),
        Some(policy) if !policy.xmpp => Err(Denial::Xmpp),
        _ => Ok(()),
    }
}

/// May he talk to a user of that provider?
fn by_provider(policy: Option<&Policy>, provider: &Provider, what: What, now: Wall) -> Result<(), Denial> {
    let is_call = matches!(what, What::Audio | What::Video);
    let carries = match what {
        What::Im => provider.im,
        What::Presence => provider.presence,
        What::Audio => provider.audio,
        What::Video => provider.video,
    };
    match policy {
        Some(policy) if !policy.public_cloud => Err(Denial::PublicCloud),
        _ if provider.life(now) == Life::Ended => Err(Denial::Ended),
        _ if !carries => Err(Denial::NotCarried),
        Some(policy) if is_call && !policy.public_cloud_audio_video => Err(Denial::PublicCloudCalls),
        _ => Ok(()),
    }
}

/// How a SIP user and a user of the XMPP domain reach each other, if they may.
fn way(
    rights: &Rights,
    settings: &Settings,
    sip: &Jid,
    xmpp_domain: &str,
    what: What,
    now: Wall,
) -> Result<Way, Denial> {
    let policy = rights.of(settings, sip);
    let is_at = |p: &Provider| {
        p.enabled && (p.has_domain(sip.domain()) || p.has_domain(xmpp_domain) || p.has_partner(xmpp_domain))
    };
    let mut at = settings.providers.iter().enumerate().filter(|(_, provider)| is_at(provider));
    let judged = |(at, provider)| by_provider(policy, provider, what, now).map(|()| Way::Provider(at));
    if let Some(first) = at.next().map(judged) {
        // Of several that have the domain, one that carries it will do.
        return first.or_else(|denial| at.find_map(|other| judged(other).ok()).ok_or(denial));
    }
    direct(policy, what).map(|()| Way::Direct).or_else(|denial| {
        if denial == Denial::NotCarried {
            return Err(denial);
        }
        let may = |p: &Provider| p.enabled && p.decorates(xmpp_domain) && by_provider(policy, p, what, now).is_ok();
        let found = settings.providers.iter().position(may);
        found.map(Way::Provider).ok_or(denial)
    })
}

/// The provider of this way and how many licences it has, if each of its users needs one.
fn licences_of(settings: &Settings, way: Way) -> Option<(&str, usize)> {
    let Way::Provider(at) = way else { return None };
    let provider = settings.providers.get(at).filter(|provider| provider.licence_needed)?;
    Some((&provider.name, provider.licences? as usize))
}

impl Gateway {
    /// May this SIP user have this of users of that XMPP domain, which he wants himself?
    /// Asked before anything of it passes; which domains there are at all is judged by the
    /// routes. It takes a licence where one is needed.
    pub fn may_talk(&mut self, cx: &mut Cx<'_>, sip: &Jid, xmpp_domain: &str, what: What) -> Result<Way, Denial> {
        let way = way(&self.rights, &self.settings, sip, xmpp_domain, what, cx.wall)?;
        self.licensed(cx, sip, way, true)
    }

    /// The same when it is the other side that begins. A licence has to be left for him, but is
    /// not taken: or whoever writes to names that he makes up would take them all.
    pub fn may_be_reached(&mut self, cx: &mut Cx<'_>, sip: &Jid, xmpp_domain: &str, what: What) -> Result<Way, Denial> {
        let way = way(&self.rights, &self.settings, sip, xmpp_domain, what, cx.wall)?;
        self.licensed(cx, sip, way, false)
    }

    /// A SIP user took what an XMPP user sent him: he is there, and counts.
    pub(super) fn was_reached(&mut self, cx: &mut Cx<'_>, sip: &str, xmpp_domain: &str, what: What) {
        if self.settings.providers.iter().any(|provider| provider.enabled && provider.licences.is_some())
            && let Ok(sip) = Jid::parse(sip)
        {
            // What he has is not taken back, should another have been faster.
            let _ = self.may_talk(cx, &sip, xmpp_domain, what);
        }
    }

    /// The same for a SIP user who wrote to an address that this provider decorated.
    pub(super) fn may_talk_by(&mut self, cx: &mut Cx<'_>, sip: &Jid, place: usize, what: What) -> Result<Way, Denial> {
        let Some(provider) = self.settings.providers.get(place) else { return Err(Denial::NotCarried) };
        by_provider(self.rights.of(&self.settings, sip), provider, what, cx.wall)?;
        self.licensed(cx, sip, Way::Provider(place), true)
    }

    /// May they, as far as nothing changes by the question?
    pub(super) fn could_talk(&self, now: Wall, sip: &Jid, xmpp_domain: &str, what: What) -> Result<Way, Denial> {
        let way = way(&self.rights, &self.settings, sip, xmpp_domain, what, now)?;
        match licences_of(&self.settings, way) {
            Some((provider, _)) if self.rights.licences.is_lost(provider, sip.bare()) => Err(Denial::NoLicence),
            _ => Ok(way),
        }
    }

    /// Is there a licence for this way? `is_taken`: then it is his.
    fn licensed(&mut self, cx: &mut Cx<'_>, sip: &Jid, way: Way, is_taken: bool) -> Result<Way, Denial> {
        let Some((provider, max)) = licences_of(&self.settings, way) else { return Ok(way) };
        let was_lost = self.rights.licences.is_lost(provider, sip.bare());
        if !self.rights.licences.has(cx, provider, sip.bare(), max, is_taken) {
            return Err(Denial::NoLicence);
        }
        if was_lost && is_taken {
            // Who watches him may do so again.
            self.review_rights(cx);
        }
        Ok(way)
    }

    /// Says which enabled providers are near their end or beyond it, once a day and when one
    /// ends: then what still goes by it ends, too.
    pub(super) fn provider_alarms(&mut self, cx: &mut Cx<'_>) {
        if self.rights.alarm.is_none_or(|due| due > cx.now) {
            return;
        }
        let ends = self.settings.providers.iter().filter(|provider| provider.enabled);
        let left_ms = ends.filter_map(|provider| Some(provider.end_of_life?.begins().0 - cx.wall.0));
        let next = left_ms.filter_map(|left| u64::try_from(left).ok()).filter(|left| *left > 0).min();
        let next = next.map_or(ALARM_TIME, |left| ALARM_TIME.min(Duration::from_millis(left)));
        self.rights.alarm = Some(cx.now.after(next));
        if self.settings.providers.iter().any(|provider| provider.enabled && provider.life(cx.wall) == Life::Ended) {
            self.review_rights(cx);
        }
        for provider in self.settings.providers.iter().filter(|provider| provider.enabled) {
            let Some(end) = provider.end_of_life else { continue };
            let name = Escaped(&provider.name);
            match provider.life(cx.wall) {
                Life::Good => {}
                Life::Ending(days) => {
                    cx.out.log(
                        Level::Warn,
                        "provider.ending",
                        format_args!("side=ours provider={name} end={end} days={days}"),
                    );
                }
                Life::Ended => {
                    cx.out.log(
                        Level::Warn,
                        "provider.ended",
                        format_args!("side=ours provider={name} end={end} all=refused"),
                    );
                }
            }
        }
    }
}

/// Who uses a provider: a user who was seen has his licence for 30 days. Where there are fewer
/// licences than users who have one, those keep theirs who were seen last.
///
/// Each is stored, once a day at most, so that nobody loses his place by a restart.
#[derive(Debug, Default)]
pub(super) struct Licences(BTreeMap<Holder, Licence>);

/// A provider and a user of it, as hashes of their names.
type Holder = (u64, u64);

#[derive(Clone, Copy, Debug)]
struct Licence {
    /// Whoever is not seen until then has none any more.
    until: Instant,
    /// Is it one too many, since there are fewer now?
    is_lost: bool,
}

/// The first octet of a licence's record: no version of a contact's.
const RECORD: u8 = b'L';
/// Provider, user, and until when in seconds since 1970, each little-endian.
const RECORD_OCTETS: usize = 1 + 3 * 8;
/// A licence is extended, and stored, when so much of its time is over.
const EXTEND_AFTER: Duration = Duration::from_secs(24 * 3600);

impl Licences {
    /// Is there one for a user of a provider? False: he would be one too many. `is_taken`: he
    /// counts from now on.
    fn has(&mut self, cx: &mut Cx<'_>, provider: &str, user: &str, max: usize, is_taken: bool) -> bool {
        let holder = (hash(provider), hash(user));
        let held = self.0.get(&holder).filter(|licence| licence.until > cx.now && !licence.is_lost).copied();
        if held.is_none() {
            let is_full = |table: &Self| table.held(holder.0) >= max || table.0.len() >= LICENCES_MAX;
            if is_full(self) {
                self.0.retain(|_, licence| licence.until > cx.now);
            }
            if is_full(self) {
                return false;
            }
        }
        let until = cx.now.after(LICENCE_TIME);
        if is_taken && held.is_none_or(|licence| until.since(licence.until) >= EXTEND_AFTER) {
            self.0.insert(holder, Licence { until, is_lost: false });
            cx.out.store(&record(holder, until, cx.now, cx.wall));
        }
        true
    }

    /// Those of a provider that count.
    fn held(&self, provider: u64) -> usize {
        self.0.range((provider, 0)..=(provider, u64::MAX)).filter(|(_, licence)| !licence.is_lost).count()
    }

    /// Had he one that is one too many now?
    fn is_lost(&self, provider: &str, user: &str) -> bool {
        self.0.get(&(hash(provider), hash(user))).is_some_and(|licence| licence.is_lost)
    }

    /// Goes by other numbers of licences.
    pub(super) fn allot(&mut self, settings: &Settings) {
        for provider in &settings.providers {
            let max = provider.licences.filter(|_| provider.licence_needed).map_or(usize::MAX, |max| max as usize);
            let name = hash(&provider.name);
            let of_provider = || (name, 0)..=(name, u64::MAX);
            let mut holders: Vec<(Instant, u64)> =
                self.0.range(of_provider()).map(|((_, user), licence)| (licence.until, *user)).collect();
            holders.sort_unstable_by(|a, b| b.cmp(a));
            let first_lost = holders.get(max).copied();
            for ((_, user), licence) in self.0.range_mut(of_provider()) {
                licence.is_lost = first_lost.is_some_and(|first| (licence.until, *user) <= first);
            }
        }
    }

    /// Takes in a record. False: it is none of a licence.
    pub(super) fn restore(&mut self, now: Instant, wall: Wall, octets: &[u8]) -> bool {
        let Some((&RECORD, rest)) = octets.split_first() else { return false };
        let (numbers, more) = rest.as_chunks::<8>();
        let ([provider, user, until], []) = (numbers, more) else { return false };
        let left = i64::from_le_bytes(*until).saturating_sub(wall.seconds());
        let left = Duration::from_secs(u64::try_from(left).unwrap_or(0)).min(LICENCE_TIME);
        let holder = (u64::from_le_bytes(*provider), u64::from_le_bytes(*user));
        // A later record of the same licence finds its place.
        if self.0.len() < LICENCES_MAX || self.0.contains_key(&holder) {
            self.0.insert(holder, Licence { until: now.after(left), is_lost: false });
        }
        true
    }

    /// Gives the records of those whose user's hash begins with that octet. False: there is no
    /// licence at all.
    pub(super) fn snapshot(&self, octet: u8, now: Instant, wall: Wall, give: &mut dyn FnMut(&[u8])) -> bool {
        for (holder, licence) in self.0.iter().filter(|((_, user), _)| user.to_be_bytes()[0] == octet) {
            give(&record(*holder, licence.until, now, wall));
        }
        !self.0.is_empty()
    }
}

fn record((provider, user): Holder, until: Instant, now: Instant, wall: Wall) -> [u8; RECORD_OCTETS] {
    let left = i64::try_from(until.since(now).as_secs()).unwrap_or(i64::MAX);
    let until = wall.seconds().saturating_add(left);
    let mut octets = [RECORD; RECORD_OCTETS];
    let (numbers, _) = octets[1..].as_chunks_mut::<8>();
    numbers.copy_from_slice(&[provider.to_le_bytes(), user.to_le_bytes(), until.to_le_bytes()]);
    octets
}

/// The same in each version of the program, since it is stored.
fn hash(text: &str) -> u64 {
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    digest.as_ref().first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::counters::Counters;
    use crate::base::outbox::{Action, Outbox};
    use crate::base::rng::Rng;
    use crate::settings::provider::Day;
    use crate::settings::{Partner, SipDomain, UserPolicy};

    fn policy(name: &str, rights: &str) -> Policy {
        Policy {
            xmpp: rights.contains('x'),
            public_cloud: rights.contains('p'),
            public_cloud_audio_video: rights.contains('a'),
            federation: !rights.contains('-'),
            ..Policy::new(name)
        }
    }

    fn settings(policies: Vec<Policy>) -> Settings {
        let harbour = Provider {
            enabled: true,
            domains: vec!["harbour.example".into()],
            partners: vec!["quay.example".into()],
            routing_domain: Some("pier.example".into()),
            audio: true,
            ..Provider::new("harbour")
        };
        let mut office = SipDomain::new("office.example");
        office.policy = policies.iter().any(|policy| policy.name == "office").then(|| "office".into());
        Settings {
            sip_domains: vec![office, SipDomain::new("shop.example")],
            partners: vec![Partner::new("lake.example"), Partner::new("quay.example")],
            policies,
            providers: vec![harbour],
            ..Settings::default()
        }
    }

    fn ask(settings: &Settings, user: &str, domain: &str, what: What) -> Result<Way, Denial> {
        let user = Jid::parse(user).expect("an address");
        way(&Rights::new(settings), settings, &user, domain, what, Wall(1_800_000_000_000))
    }

    const HARBOUR: Result<Way, Denial> = Ok(Way::Provider(0));

    #[test]
    fn without_any_policy_everybody_may_do_everything_there_is() {
        let settings = settings(Vec::new());
        let user = "nora@office.example";
        assert_eq!(ask(&settings, user, "lake.example", What::Im), Ok(Way::Direct));
        assert_eq!(ask(&settings, user, "lake.example", What::Presence), Ok(Way::Direct));
        assert_eq!(ask(&settings, user, "lake.example", What::Audio), Err(Denial::NotCarried));
        assert_eq!(ask(&settings, user, "quay.example", What::Im), HARBOUR);
        assert_eq!(ask(&settings, user, "harbour.example", What::Audio), HARBOUR);
        assert_eq!(ask(&settings, user, "harbour.example", What::Video), Err(Denial::NotCarried));
    }

    #[test]
    fn the_users_policy_goes_before_the_domains_and_that_before_the_default() {
        let mut settings =
            settings(vec![policy("default", ""), policy("office", "x"), policy("chief", "xp"), policy("none", "-x")]);
        settings.users = [("otto@office.example", "none"), ("iris@office.example", "chief")]
            .map(|(address, policy)| UserPolicy { address: address.into(), policy: policy.into() })
            .into();
        let im = |user, domain| ask(&settings, user, domain, What::Im);
        assert_eq!(im("nora@office.example", "lake.example"), Ok(Way::Direct));
        assert_eq!(im("nora@office.example", "quay.example"), Err(Denial::PublicCloud));
        assert_eq!(im("iris@office.example", "quay.example"), HARBOUR);
        assert_eq!(im("otto@office.example", "lake.example"), Err(Denial::Federation));
        assert_eq!(im("paul@shop.example", "lake.example"), Err(Denial::Xmpp));
        assert_eq!(im("iris@office.example/desk", "lake.example"), Ok(Way::Direct));
    }

    #[test]
    fn a_default_that_is_not_set_allows_nothing() {
        let settings = settings(vec![policy("chief", "xpa")]);
        assert_eq!(ask(&settings, "paul@shop.example", "lake.example", What::Im), Err(Denial::Xmpp));
        assert_eq!(ask(&settings, "paul@shop.example", "quay.example", What::Im), Err(Denial::PublicCloud));
    }

    #[test]
    fn every_switch_alone() {
        for (rights, direct, cloud, call) in [
            ("", Err(Denial::Xmpp), Err(Denial::PublicCloud), Err(Denial::PublicCloud)),
            ("x", Ok(Way::Direct), Err(Denial::PublicCloud), Err(Denial::PublicCloud)),
            ("x-", Err(Denial::Federation), Err(Denial::PublicCloud), Err(Denial::PublicCloud)),
            ("xp", Ok(Way::Direct), HARBOUR, Err(Denial::PublicCloudCalls)),
            ("xa", Ok(Way::Direct), Err(Denial::PublicCloud), Err(Denial::PublicCloud)),
            ("xpa", Ok(Way::Direct), HARBOUR, HARBOUR),
            // By the address that the provider decorates.
            ("p-", HARBOUR, HARBOUR, Err(Denial::PublicCloudCalls)),
        ] {
            let settings = settings(vec![policy("default", rights)]);
            let ask = |domain, what| ask(&settings, "paul@shop.example", domain, what);
            assert_eq!(ask("lake.example", What::Im), direct, "{rights}");
            assert_eq!(ask("quay.example", What::Presence), cloud, "{rights}");
            assert_eq!(ask("harbour.example", What::Audio), call, "{rights}");
        }
    }

    #[test]
    fn a_provider_that_has_ended_carries_nothing() {
        let mut settings = settings(Vec::new());
        settings.providers[0].end_of_life = Day::parse("2020-01-01");
        assert_eq!(ask(&settings, "paul@shop.example", "quay.example", What::Im), Err(Denial::Ended));
        settings.providers[0].end_of_life = Day::parse("2090-01-01");
        assert_eq!(ask(&settings, "paul@shop.example", "quay.example", What::Im), HARBOUR);
        settings.providers[0].im = false;
        assert_eq!(ask(&settings, "paul@shop.example", "quay.example", What::Im), Err(Denial::NotCarried));
        settings.providers[0].enabled = false;
        assert_eq!(ask(&settings, "paul@shop.example", "quay.example", What::Im), Ok(Way::Direct));
    }

    /// Licences, and the world around them.
    struct Office {
        licences: Licences,
        out: Outbox,
        rng: Rng,
        count: Counters,
        records: Vec<Vec<u8>>,
    }

    impl Office {
        fn new() -> Self {
            let out = Outbox::with_capacity(4096, 16);
            let rng = Rng::from_number(7);
            Self { licences: Licences::default(), out, rng, count: Counters::default(), records: Vec::new() }
        }

        fn has(&mut self, day: u64, provider: &str, user: &str, max: usize, is_taken: bool) -> bool {
            let Self { licences, out, rng, count, .. } = self;
            let (now, wall) = at(day);
            let has = licences.has(&mut Cx { now, wall, rng, out, count }, provider, user, max, is_taken);
            for action in self.out.actions() {
                if let Action::Store { bytes } = action {
                    self.records.push(self.out.bytes(bytes).to_vec());
                }
            }
            self.out.clear();
            has
        }

        fn take(&mut self, day: u64, provider: &str, user: &str, max: usize) -> bool {
            self.has(day, provider, user, max, true)
        }
    }

    fn at(day: u64) -> (Instant, Wall) {
        let day = Duration::from_secs(day * 86_400);
        (Instant::ZERO.after(day), Wall(1_800_000_000_000 + day.as_millis() as i64))
    }

    #[test]
    fn who_is_written_to_takes_no_licence_but_needs_one() {
        let mut office = Office::new();
        for user in ["a@x", "b@x", "c@x"] {
            assert!(office.has(0, "harbour", user, 1, false));
        }
        assert!(office.take(0, "harbour", "d@x", 1));
        assert!(office.has(0, "harbour", "d@x", 1, false) && !office.has(0, "harbour", "a@x", 1, false));
    }

    #[test]
    fn one_user_more_than_there_are_licences_is_refused_until_another_stays_away() {
        let mut office = Office::new();
        assert!(office.take(0, "harbour", "a@x", 2));
        assert!(office.take(1, "harbour", "b@x", 2));
        assert!(office.take(1, "harbour", "a@x", 2));
        assert!(!office.take(2, "harbour", "c@x", 2));
        assert!(office.take(2, "other", "c@x", 2));
        assert!(office.take(20, "harbour", "b@x", 2));
        assert!(office.take(31, "harbour", "c@x", 2), "the first one was last seen 30 days ago");
        assert!(!office.take(32, "harbour", "a@x", 2));
        assert!(!office.take(32, "harbour", "a@x", 0));
    }

    #[test]
    fn licences_that_are_counted_have_a_bound() {
        let mut office = Office::new();
        for n in 0..LICENCES_MAX + 10 {
            let taken = office.take(0, "harbour", &n.to_string(), usize::MAX);
            assert_eq!(taken, n < LICENCES_MAX);
        }
        assert_eq!(office.licences.0.len(), LICENCES_MAX);
    }

    #[test]
    fn after_a_restart_everybody_has_the_place_he_had() {
        let mut office = Office::new();
        assert!(office.take(0, "harbour", "a@x", 2) && office.take(12, "harbour", "b@x", 2));
        for day in 13..20 {
            assert!(office.take(day, "harbour", "b@x", 2) && office.take(day, "harbour", "b@x", 2));
        }
        assert_eq!(office.records.len(), 9, "one a day");
        let mut kept: Vec<Vec<u8>> = Vec::new();
        for octet in 0..=u8::MAX {
            let (now, wall) = at(20);
            assert!(office.licences.snapshot(octet, now, wall, &mut |record| kept.push(record.to_vec())));
        }
        assert_eq!(kept.len(), 2);
        for records in [kept, office.records] {
            let mut after = Office::new();
            for record in &records {
                let (_, wall) = at(21);
                assert!(after.licences.restore(Instant::ZERO, wall, record));
            }
            assert!(!after.take(0, "harbour", "c@x", 2) && after.take(0, "harbour", "a@x", 2));
            let mut after = Office::new();
            records.iter().for_each(|record| _ = after.licences.restore(Instant::ZERO, at(31).1, record));
            assert!(after.take(0, "harbour", "c@x", 2) && !after.take(0, "harbour", "a@x", 2), "a@x stayed away");
        }
        let mut none = Licences::default();
        for octets in [&b""[..], b"L", b"L1234567", &[1; RECORD_OCTETS], &[b'L'; RECORD_OCTETS + 1]] {
            assert!(!none.restore(Instant::ZERO, Wall(0), octets));
        }
    }

    #[test]
    fn with_fewer_licences_those_keep_theirs_who_were_seen_last() {
        let mut office = Office::new();
        let mut settings = settings(Vec::new());
        for (day, user) in [(0, "a@x"), (2, "b@x"), (4, "c@x"), (6, "a@x")] {
            assert!(office.take(day, "harbour", user, 3));
        }
        let mut allot = |office: &mut Office, needed, licences| {
            (settings.providers[0].licence_needed, settings.providers[0].licences) = (needed, licences);
            office.licences.allot(&settings);
            ["a@x", "b@x", "c@x"].map(|user| office.licences.is_lost("harbour", user))
        };
        assert_eq!(allot(&mut office, true, Some(3)), [false, false, false]);
        assert_eq!(allot(&mut office, true, Some(1)), [false, true, true]);
        assert!(!office.take(7, "harbour", "b@x", 1) && office.take(7, "harbour", "a@x", 1));
        assert_eq!(allot(&mut office, true, Some(2)), [false, true, false]);
        assert_eq!(allot(&mut office, true, Some(0)), [true, true, true]);
        assert_eq!(allot(&mut office, false, Some(0)), [false, false, false]);
        assert_eq!(allot(&mut office, true, None), [false, false, false]);
        assert_eq!(allot(&mut office, true, Some(1)), [false, true, true]);
    }
}
