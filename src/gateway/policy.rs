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
use core::hash::{Hash, Hasher};
use core::time::Duration;
use std::collections::BTreeMap;
use std::hash::DefaultHasher;

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
    licences: Licences,
    /// When providers near their end are next told of; `None`: there is none.
    alarm: Option<Instant>,
}

impl Rights {
    pub(super) fn new(settings: &Settings) -> Self {
        let mut rights = Self::default();
        rights.configure(settings);
        rights
    }

    /// Goes by other settings; whose licence counts is kept.
    pub(super) fn configure(&mut self, settings: &Settings) {
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
    if let Some(at) = settings.providers.iter().position(is_at)
        && let Some(provider) = settings.providers.get(at)
    {
        return by_provider(policy, provider, what, now).map(|()| Way::Provider(at));
    }
    direct(policy, what).map(|()| Way::Direct).or_else(|denial| {
        if denial == Denial::NotCarried {
            return Err(denial);
        }
        let decorates = |p: &&Provider| p.enabled && p.decorates(xmpp_domain);
        let decorating = settings.providers.iter().find(decorates);
        let may = |p: &&Provider| by_provider(policy, p, what, now).is_ok();
        let found = decorating.filter(may).and_then(|p| settings.providers.iter().position(|q| q.name == p.name));
        found.map(Way::Provider).ok_or(denial)
    })
}

impl Gateway {
    /// May this SIP user have this of users of that XMPP domain, which he wants himself?
    /// Asked before anything of it passes; which domains there are at all is judged by the
    /// routes. It takes a licence where one is needed.
    pub fn may_talk(&mut self, cx: &Cx<'_>, sip: &Jid, xmpp_domain: &str, what: What) -> Result<Way, Denial> {
        let way = way(&self.rights, &self.settings, sip, xmpp_domain, what, cx.wall)?;
        self.licensed(cx.now, sip, way, true)
    }

    /// The same when it is the other side that begins. A licence has to be left for him, but is
    /// not taken: or whoever writes to names that he makes up would take them all.
    pub fn may_be_reached(&mut self, cx: &Cx<'_>, sip: &Jid, xmpp_domain: &str, what: What) -> Result<Way, Denial> {
        let way = way(&self.rights, &self.settings, sip, xmpp_domain, what, cx.wall)?;
        self.licensed(cx.now, sip, way, false)
    }

    /// A SIP user took what an XMPP user sent him: he is there, and counts.
    pub(super) fn was_reached(&mut self, cx: &Cx<'_>, sip: &str, xmpp_domain: &str, what: What) {
        if self.settings.providers.iter().any(|provider| provider.enabled && provider.licences.is_some())
            && let Ok(sip) = Jid::parse(sip)
        {
            // What he has is not taken back, should another have been faster.
            let _ = self.may_talk(cx, &sip, xmpp_domain, what);
        }
    }

    /// The same for a SIP user who wrote to an address that this provider decorated.
    pub(super) fn may_talk_by(&mut self, cx: &Cx<'_>, sip: &Jid, place: usize, what: What) -> Result<Way, Denial> {
        let Some(provider) = self.settings.providers.get(place) else { return Err(Denial::NotCarried) };
        by_provider(self.rights.of(&self.settings, sip), provider, what, cx.wall)?;
        self.licensed(cx.now, sip, Way::Provider(place), true)
    }

    /// May they, as far as nothing changes by the question?
    pub(super) fn could_talk(&self, now: Wall, sip: &Jid, xmpp_domain: &str, what: What) -> Result<Way, Denial> {
        way(&self.rights, &self.settings, sip, xmpp_domain, what, now)
    }

    /// Is there a licence for this way? `is_taken`: then it is his.
    fn licensed(&mut self, now: Instant, sip: &Jid, way: Way, is_taken: bool) -> Result<Way, Denial> {
        if let Way::Provider(at) = way
            && let Some(provider) = self.settings.providers.get(at)
            && provider.licence_needed
            && let Some(licences) = provider.licences
            && !self.rights.licences.has(now, &provider.name, sip.bare(), licences as usize, is_taken)
        {
            return Err(Denial::NoLicence);
        }
        Ok(way)
    }

    /// Says which enabled providers are near their end or beyond it, once a day.
    pub(super) fn provider_alarms(&mut self, cx: &mut Cx<'_>) {
        if self.rights.alarm.is_none_or(|due| due > cx.now) {
            return;
        }
        self.rights.alarm = Some(cx.now.after(ALARM_TIME));
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

/// Who used a provider of late, by hash. It is not kept over a restart: then the count
/// begins anew.
#[derive(Debug, Default)]
struct Licences(BTreeMap<(u64, u64), Instant>);

impl Licences {
    /// Is there one for a user of a provider? False: he would be one too many. `is_taken`: he
    /// counts from now on.
    fn has(&mut self, now: Instant, provider: &str, user: &str, max: usize, is_taken: bool) -> bool {
        let key = (hash(provider), hash(user));
        if let Some(seen) = self.0.get_mut(&key)
            && now.since(*seen) < LICENCE_TIME
        {
            if is_taken {
                *seen = now;
            }
            return true;
        }
        let of_provider = |table: &Self| table.0.range((key.0, 0)..=(key.0, u64::MAX)).count();
        if of_provider(self) >= max || self.0.len() >= LICENCES_MAX {
            self.0.retain(|_, seen| now.since(*seen) < LICENCE_TIME);
            if of_provider(self) >= max || self.0.len() >= LICENCES_MAX {
                return false;
            }
        }
        if is_taken {
            self.0.insert(key, now);
        }
        true
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
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

    fn take(licences: &mut Licences, now: Instant, provider: &str, user: &str, max: usize) -> bool {
        licences.has(now, provider, user, max, true)
    }

    #[test]
    fn who_is_written_to_takes_no_licence_but_needs_one() {
        let mut licences = Licences::default();
        let now = Instant::ZERO;
        for user in ["a@x", "b@x", "c@x"] {
            assert!(licences.has(now, "harbour", user, 1, false));
        }
        assert!(take(&mut licences, now, "harbour", "d@x", 1));
        assert!(licences.has(now, "harbour", "d@x", 1, false) && !licences.has(now, "harbour", "a@x", 1, false));
    }

    #[test]
    fn one_user_more_than_there_are_licences_is_refused_until_another_stays_away() {
        let mut licences = Licences::default();
        let day = |n: u64| Instant::ZERO.after(Duration::from_secs(n * 86_400));
        assert!(take(&mut licences, day(0), "harbour", "a@x", 2));
        assert!(take(&mut licences, day(1), "harbour", "b@x", 2));
        assert!(take(&mut licences, day(1), "harbour", "a@x", 2));
        assert!(!take(&mut licences, day(2), "harbour", "c@x", 2));
        assert!(take(&mut licences, day(2), "other", "c@x", 2));
        assert!(take(&mut licences, day(20), "harbour", "b@x", 2));
        assert!(take(&mut licences, day(31), "harbour", "c@x", 2), "the first one was last seen 30 days ago");
        assert!(!take(&mut licences, day(32), "harbour", "a@x", 2));
        assert!(!take(&mut licences, day(32), "harbour", "a@x", 0));
    }

    #[test]
    fn licences_that_are_counted_have_a_bound() {
        let mut licences = Licences::default();
        for n in 0..LICENCES_MAX + 10 {
            let taken = take(&mut licences, Instant::ZERO, "harbour", &n.to_string(), usize::MAX);
            assert_eq!(taken, n < LICENCES_MAX);
        }
        assert_eq!(licences.0.len(), LICENCES_MAX);
    }
}
