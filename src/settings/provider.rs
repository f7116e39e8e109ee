//! Public IM providers: services for everybody that a Lync or Skype for Business site
//! reached over SIP through one proxy a provider. The four that there were are known
//! here with what was published of them; any other can be described in full.
//!
//! All of the four have ended. Whoever runs something in the place of one sets another
//! `end-of-life`, or stands in for it with XMPP partners (`provider NAME partner`).

use super::Verification;
use crate::base::time::Wall;
use core::fmt;
use serde::{Deserialize, Serialize};

/// `provider NAME ...`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    /// The operator's name for it, or that of a built-in profile.
    pub name: String,
    /// `enabled`: without it nothing goes there, whatever else is set.
    pub enabled: bool,
    /// `proxy HOST[:PORT]`, by TLS: where its own domains are.
    pub proxy: Option<(String, Option<u16>)>,
    /// `verification` of what comes from it.
    pub verification: Verification,
    /// `im`: does it carry messages?
    pub im: bool,
    /// `presence`: does it carry presence?
    pub presence: bool,
    /// `audio`: may calls go there?
    pub audio: bool,
    /// `video`: may calls with pictures?
    pub video: bool,
    /// `domain`: its own domains, whose addresses are used as they are.
    pub domains: Vec<String>,
    /// `partner`: XMPP domains that SIP users reach by this provider.
    pub partners: Vec<String>,
    /// `routing-domain`: the domain of decorated addresses, `user(domain)@routing-domain`.
    pub routing_domain: Option<String>,
    /// `excluded-domain`: addresses of these domains are never decorated.
    pub excluded_domains: Vec<String>,
    /// `licence-needed`: does each user need one?
    pub licence_needed: bool,
    /// `licences`: how many there are; `None`: they are not counted.
    pub licences: Option<u32>,
    /// `end-of-life`: the first day on which it is refused.
    pub end_of_life: Option<Day>,
    /// `description`.
    pub description: Option<String>,
}

/// A day of the calendar, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Day {
    /// Year of the Gregorian calendar.
    pub year: u16,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
}

impl Day {
    const fn new(year: u16, month: u8, day: u8) -> Self {
        Self { year, month, day }
    }

    /// Reads `YYYY-MM-DD`; `None` if there is no such day.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = |from: usize, to: usize| {
            let digits = text.get(from..to).filter(|digits| digits.bytes().all(|octet| octet.is_ascii_digit()))?;
            digits.parse::<u16>().ok()
        };
        let is_whole = text.len() == 10 && text.get(4..5) == Some("-") && text.get(7..8) == Some("-");
        let day = Self {
            year: digits(0, 4)?,
            month: u8::try_from(digits(5, 7)?).ok()?,
            day: u8::try_from(digits(8, 10)?).ok()?,
        };
        (is_whole && Wall::from_civil(day.year.into(), day.month, day.day, 0, 0, 0).is_some()).then_some(day)
    }

    /// Its beginning.
    pub fn begins(self) -> Wall {
        Wall::from_civil(self.year.into(), self.month, self.day, 0, 0, 0).unwrap_or_default()
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

/// Days before its end in which a provider is warned of.
pub const END_WARNED_DAYS: i64 = 90;
const DAY_MS: i64 = 86_400_000;

/// How near the end of a provider is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// No end is known, or it is far.
    Good,
    /// It ends in so many days.
    Ending(i64),
    /// It has ended.
    Ended,
}

/// What was published of a provider.
struct Profile {
    name: &'static str,
    proxy: &'static str,
    audio: bool,
    video: bool,
    domains: &'static [&'static str],
    routing_domain: Option<&'static str>,
    excluded_domains: &'static [&'static str],
    licence_needed: bool,
    end_of_life: Day,
}

/// Domains of Microsoft accounts, whose addresses are used as they are.
const MICROSOFT: &[&str] = &["msn.com", "outlook.com", "live.com", "hotmail.com"];

const PROFILES: &[Profile] = &[
    Profile {
        name: "aol",
        proxy: "sip.oscar.aol.com",
        audio: false,
        video: false,
        domains: &["aol.com"],
        routing_domain: None,
        excluded_domains: &[],
        licence_needed: false,
        end_of_life: Day::new(2014, 6, 30),
    },
    Profile {
        name: "windows-live",
        proxy: "federation.messenger.msn.com",
        audio: true,
        video: true,
        domains: MICROSOFT,
        routing_domain: Some("msn.com"),
        excluded_domains: MICROSOFT,
        licence_needed: false,
        end_of_life: Day::new(2013, 3, 15),
    },
    Profile {
        name: "yahoo",
        proxy: "lcsap.msg.yahoo.com",
        audio: false,
        video: false,
        domains: &["yahoo.com"],
        routing_domain: None,
        excluded_domains: &[],
        licence_needed: true,
        end_of_life: Day::new(2014, 6, 30),
    },
    Profile {
        name: "skype",
        proxy: "federation.messenger.msn.com",
        audio: true,
        video: true,
        domains: MICROSOFT,
        routing_domain: Some("msn.com"),
        excluded_domains: MICROSOFT,
        licence_needed: false,
        end_of_life: Day::new(2025, 5, 5),
    },
];

/// Domains that stand for decorated addresses with a built-in provider, whether or not
/// it is set: nothing is ever sent to them because an address was not understood.
pub fn built_in_routing_domains() -> impl Iterator<Item = &'static str> {
    PROFILES.iter().filter_map(|profile| profile.routing_domain)
}

impl Provider {
    /// A provider of that name, not enabled: with what its profile says but its lists, or
    /// with every setting at its default.
    pub fn new(name: &str) -> Self {
        let blank = Self {
            name: name.into(),
            enabled: false,
            proxy: None,
            verification: Verification::Always,
            im: true,
            presence: true,
            audio: false,
            video: false,
            domains: Vec::new(),
            partners: Vec::new(),
            routing_domain: None,
            excluded_domains: Vec::new(),
            licence_needed: false,
            licences: None,
            end_of_life: None,
            description: None,
        };
        let Some(profile) = PROFILES.iter().find(|profile| profile.name == name) else { return blank };
        Self {
            proxy: Some((profile.proxy.into(), None)),
            audio: profile.audio,
            video: profile.video,
            routing_domain: profile.routing_domain.map(str::to_owned),
            licence_needed: profile.licence_needed,
            end_of_life: Some(profile.end_of_life),
            ..blank
        }
    }

    /// Puts the lists of the profile where none was set. Once, when all that is set is in.
    pub fn complete(&mut self) {
        let Some(profile) = PROFILES.iter().find(|profile| profile.name == self.name) else { return };
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        if self.domains.is_empty() {
            self.domains = owned(profile.domains);
        }
        if self.excluded_domains.is_empty() {
            self.excluded_domains = owned(profile.excluded_domains);
        }
    }

    /// Is the domain one of its own?
    pub fn has_domain(&self, domain: &str) -> bool {
        self.domains.iter().any(|own| own == domain)
    }

    /// Is the XMPP domain reached by this provider?
    pub fn has_partner(&self, domain: &str) -> bool {
        self.partners.iter().any(|partner| partner == domain)
    }

    /// Are addresses of the domain decorated with this provider?
    pub fn decorates(&self, domain: &str) -> bool {
        self.routing_domain.as_deref().is_some_and(|routing| routing != domain)
            && !self.excluded_domains.iter().any(|excluded| excluded == domain)
    }

    /// How near its end is.
    pub fn life(&self, now: Wall) -> Life {
        let Some(end) = self.end_of_life else { return Life::Good };
        let left_ms = end.begins().0 - now.0;
        match left_ms {
            ..=0 => Life::Ended,
            _ if left_ms <= END_WARNED_DAYS * DAY_MS => Life::Ending((left_ms + DAY_MS - 1) / DAY_MS),
            _ => Life::Good,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_read_as_it_is_written() {
        for text in ["2014-06-30", "2028-02-29", "1999-12-31"] {
            assert_eq!(Day::parse(text).expect("a day").to_string(), text);
        }
        for text in [
            "2014-6-30",
            "2014-06-31",
            "2027-02-29",
            "2014-06-30 ",
            "20140630",
            "+014-06-30",
            "\u{fc}\u{fc}\u{fc}\u{fc}\u{fc}",
        ] {
            assert_eq!(Day::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_end_of_a_provider_is_told_before_it_comes() {
        let mut provider = Provider::new("harbour");
        let at = |text: &str| Day::parse(text).expect("a day").begins();
        assert_eq!(provider.life(at("2030-01-01")), Life::Good);
        provider.end_of_life = Day::parse("2030-06-01");
        assert_eq!(provider.life(at("2030-01-01")), Life::Good);
        assert_eq!(provider.life(at("2030-03-03")), Life::Ending(90));
        assert_eq!(provider.life(at("2030-05-31")), Life::Ending(1));
        assert_eq!(provider.life(at("2030-06-01")), Life::Ended);
    }

    #[test]
    fn a_built_in_provider_is_off_and_what_is_set_overrides_it() {
        let mut skype = Provider::new("skype");
        assert!(!skype.enabled && skype.audio && skype.im);
        skype.domains.push("calls.example".into());
        skype.complete();
        assert_eq!(skype.domains, ["calls.example"]);
        assert!(!skype.decorates("outlook.com") && skype.decorates("calls.example"));
        let mut other = Provider::new("harbour");
        other.complete();
        assert_eq!(other, Provider::new("harbour"));
        assert!(!other.decorates("calls.example"));
    }
}
