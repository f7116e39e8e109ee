//! The configuration: read from `set` lines once, into what cannot be wrong, and
//! shown as the lines that would make it again.
//!
//! The lines are the truth: they are what is kept on flash and shown, and everything
//! typed is made from them by the rows of [`super::table`]. So what is shown is what
//! was set, and a later version reads it whatever its structs look like.

use super::check;
use super::grammar::{self, Fault, Quoted, Verb};
use super::slots;
use super::table::{ROWS, Row, Word};
use super::value::{self, Kind, SECRET_MASK, Syslog};
use crate::base::outbox::Level;
use crate::base::text::{Escaped, cut};
use crate::limits;
use crate::settings::provider::Provider;
use crate::settings::{Component, Listener, ListenerKind, Partner, Policy, Room, Settings, SipDomain, UserPolicy};
use core::fmt;
use core::net::{Ipv4Addr, SocketAddr};
use std::collections::BTreeMap;

/// All that the operator decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// For `io`: logs and metrics.
    pub system: System,
    /// For `io`: who we are in TLS, and whom we believe.
    pub tls: Tls,
    /// For the gateway.
    pub settings: Settings,
    /// The lines it was made from, sorted as they are shown.
    statements: Vec<Statement>,
}

/// `system ...`, as far as the gateway has no part in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct System {
    /// `log level`.
    pub log_level: Level,
    /// `log syslog`.
    pub syslog: Option<Syslog>,
    /// `metrics listen`.
    pub metrics_listen: Option<SocketAddr>,
}

/// `tls ...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// `certificate NAME ...`; each has its chain and its key.
    pub certificates: Vec<NamedCertificate>,
    /// `trust NAME`.
    pub trust: Vec<Trust>,
    /// `revoked NAME`.
    pub revoked: Vec<Revoked>,
    /// `public-roots`.
    pub public_roots: bool,
}

impl Default for Tls {
    fn default() -> Self {
        Self { certificates: Vec::new(), trust: Vec::new(), revoked: Vec::new(), public_roots: true }
    }
}

/// A certificate of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedCertificate {
    /// The operator's name for it.
    pub name: String,
    /// PEM of the certificate and its intermediates.
    pub chain: String,
    /// PEM of its private key.
    pub key: String,
}

/// A further CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// The operator's name for it.
    pub name: String,
    /// PEM of its certificates.
    pub certificates: String,
}

/// What CAs took back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoked {
    /// The operator's name for it.
    pub name: String,
    /// PEM of one or more revocation lists (RFC 5280 section 5).
    pub lists: String,
}

/// One `set` line in canonical form.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Statement {
    /// The path with its name.
    path: String,
    /// The value; empty where the path has none.
    value: String,
    /// The place of its row in the table.
    row: usize,
}

/// Why a text is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The line, from 1; of something missing the last one.
    pub line: usize,
    /// What is wrong there.
    pub fault: Fault,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.fault)
    }
}

/// What is allowed and may still not be meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The line, from 1; of something missing the last one.
    pub line: usize,
    /// What it leads to.
    pub text: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: warning: {}", self.line, self.text)
    }
}

/// Are secrets shown?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrets {
    /// As `"<secret>"`.
    Masked,
    /// As they are.
    Shown,
}

/// Errors told at once; more would scroll the first one away.
const ERRORS_MAX: usize = 20;

/// Reads a text of `set` and `delete` lines that begins with nothing set.
pub fn load(text: &str) -> Result<(Config, Vec<Warning>), Vec<Error>> {
    let mut lines = Lines::default();
    let mut errors = Vec::new();
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    for (number, line) in (1..).zip(text.lines()) {
        lines.last = number;
        if let Err(fault) = lines.take(line.trim_end_matches('\r')) {
            let unreadable = fault == grammar::unclosed();
            errors.push(Error { line: number, fault });
            if unreadable || errors.len() >= ERRORS_MAX {
                break;
            }
        }
    }
    if errors.is_empty() { lines.build() } else { Err(errors) }
}

/// Makes a configuration of the pairs of path and value that were kept on flash.
pub(super) fn restore<'a>(kept: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Config, Error> {
    let mut lines = Lines::default();
    for (number, (path, value)) in (1..).zip(kept) {
        lines.last = number;
        let mut words: Vec<String> = path.split(' ').map(String::from).collect();
        // A path without value has an empty one; so may text have.
        if !matches!(find(&words), Ok(Found { row: Row { kind: Kind::Nothing(_), .. }, .. })) {
            words.push(value.into());
        }
        lines.set(words).map_err(|fault| Error { line: number, fault })?;
    }
    match lines.build() {
        Ok((config, _)) => Ok(config),
        Err(errors) => Err(errors.into_iter().next().unwrap_or_else(|| Error {
            line: 0,
            fault: Fault::new("unreadable", "a configuration this program wrote", "latimer config load TEXT"),
        })),
    }
}

/// The `set` lines that would make `config`, sorted.
pub fn show(config: &Config, secrets: Secrets) -> String {
    let mut text = String::new();
    for statement in &config.statements {
        text.push_str(&statement.line(secrets));
        text.push('\n');
    }
    text
}

impl Config {
    /// Pairs of path and value, to be kept on flash.
    pub(super) fn kept(&self) -> impl Iterator<Item = (&str, &str)> {
        self.statements.iter().map(|statement| (statement.path.as_str(), statement.value.as_str()))
    }

    // What the setters of the table find or make.

    pub(super) fn sip_domain(&mut self, domain: &str) -> &mut SipDomain {
        entry(&mut self.settings.sip_domains, |d| d.domain == domain, || SipDomain::new(domain))
    }

    pub(super) fn partner(&mut self, domain: &str) -> &mut Partner {
        entry(&mut self.settings.partners, |p| p.domain == domain, || Partner::new(domain))
    }

    /// A component; what was not set yet is empty, and checked for in the end.
    pub(super) fn component(&mut self, name: &str) -> &mut Component {
        entry(
            &mut self.settings.components,
            |c| c.name == name,
            || Component {
                name: name.into(),
                server: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
                secret: String::new(),
                domain: String::new(),
            },
        )
    }

    pub(super) fn policy(&mut self, name: &str) -> &mut Policy {
        entry(&mut self.settings.policies, |p| p.name == name, || Policy::new(name))
    }

    pub(super) fn provider(&mut self, name: &str) -> &mut Provider {
        entry(&mut self.settings.providers, |p| p.name == name, || Provider::new(name))
    }

    pub(super) fn user(&mut self, address: &str, policy: String) {
        self.settings.users.push(UserPolicy { address: address.into(), policy });
    }

    pub(super) fn room(&mut self, domain: &str) -> &mut Room {
        entry(&mut self.settings.rooms, |r| r.domain == domain, || Room { domain: domain.into(), on_sip: false })
    }

    pub(super) fn listen(&mut self, name: &str, kind: ListenerKind, address: SocketAddr) {
        self.settings.listeners.push(Listener { name: name.into(), kind, address });
    }
}

impl Tls {
    pub(super) fn certificate(&mut self, name: &str) -> &mut NamedCertificate {
        entry(
            &mut self.certificates,
            |c| c.name == name,
            || NamedCertificate { name: name.into(), ..NamedCertificate::default() },
        )
    }

    pub(super) fn add_trust(&mut self, name: &str, certificates: String) {
        self.trust.push(Trust { name: name.into(), certificates });
    }

    pub(super) fn add_revoked(&mut self, name: &str, lists: String) {
        self.revoked.push(Revoked { name: name.into(), lists });
    }
}

fn entry<T>(all: &mut Vec<T>, is_it: impl Fn(&T) -> bool, make: impl FnOnce() -> T) -> &mut T {
    let at = all.iter().position(is_it).unwrap_or_else(|| {
        all.push(make());
        all.len() - 1
    });
    &mut all[at]
}

impl Statement {
    fn line(&self, secrets: Secrets) -> String {
        let secret = ROWS[self.row].kind.is_secret() && secrets == Secrets::Masked;
        match (secret, ROWS[self.row].kind) {
            (_, Kind::Nothing(_)) => format!("set {}", self.path),
            (true, _) => format!("set {} {}", self.path, Quoted(SECRET_MASK)),
            (false, _) => format!("set {} {}", self.path, Quoted(&self.value)),
        }
    }
}

/// Statements while they are collected, each with the line it came from.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// By path and, where a path may have several, by value.
    statements: BTreeMap<(String, String), (Statement, usize)>,
    /// Lines that another one below made void.
    overridden: Vec<(usize, String)>,
    /// The line at hand.
    last: usize,
}

impl Lines {
    fn take(&mut self, line: &str) -> Result<(), Fault> {
        match grammar::parse(line)? {
            None => Ok(()),
            Some((Verb::Set, words)) => self.set(words),
            Some((Verb::Delete, words)) => self.delete(&words),
        }
    }

    fn set(&mut self, words: Vec<String>) -> Result<(), Fault> {
        let Found { row, name, rest } = find(&words)?;
        let path = row.path_of(&name);
        let value = match (rest, row.kind) {
            ([], Kind::Nothing(_)) => "",
            ([value], kind) if !matches!(kind, Kind::Nothing(_)) => value,
            ([], kind) => {
                return Err(Fault::new(format!("{path}: its value is missing"), kind.allowed(), row.example));
            }
            (more, kind) => {
                let what = format!("{path}: {} words where one value belongs", more.len());
                return Err(Fault::new(what, format!("{}; quotes around blanks", kind.allowed()), row.example));
            }
        };
        // A scratch configuration: what is set here may be deleted by a later line.
        let value = row
            .kind
            .read(&mut Config::default(), &name, value)
            .map_err(|what| row.kind.fault(&path, value, &what, row.example))?;
        self.put(Statement { path, value, row: place(row) }, row.several)
    }

    fn put(&mut self, statement: Statement, several: bool) -> Result<(), Fault> {
        let key = (statement.path.clone(), if several { statement.value.clone() } else { String::new() });
        if let Some((old, line)) = self.statements.get_mut(&key) {
            let void = core::mem::replace(line, self.last);
            let what = if *old == statement { "says the same as" } else { "is overridden by" };
            self.overridden.push((void, format!("{what} line {}", self.last)));
            *old = statement;
            return Ok(());
        }
        if self.statements.len() >= limits::CONFIG_STATEMENTS_MAX {
            let allowed = format!("at most {} lines", limits::CONFIG_STATEMENTS_MAX);
            return Err(Fault::new("too many lines", allowed, "delete partner old.example"));
        }
        self.statements.insert(key, (statement, self.last));
        Ok(())
    }

    /// Takes away the path `words`, all paths below it, or one value of several.
    fn delete(&mut self, words: &[String]) -> Result<(), Fault> {
        let (path, row) = canonical(words)?;
        let before = self.statements.len();
        self.statements.retain(|(held, _), _| !is_below(held, &path));
        if before == self.statements.len()
            && let Some(Found { row, name, rest: [value] }) = row
            && let Ok(value) = row.kind.read(&mut Config::default(), &name, value)
        {
            let path = row.path_of(&name);
            self.statements.retain(|_, (statement, _)| statement.path != path || statement.value != value);
        }
        if before == self.statements.len() {
            let what = format!(
                "nothing is set at '{}'",
                path.split(' ').map(|word| Escaped(cut(word, 80)).to_string()).collect::<Vec<_>>().join(" ")
            );
            return Err(Fault::new(what, "a path that was set above", "delete partner xmpp.example"));
        }
        Ok(())
    }

    /// Makes the configuration and judges it as a whole.
    fn build(self) -> Result<(Config, Vec<Warning>), Vec<Error>> {
        let mut config = Config::default();
        for (statement, line) in self.statements.values() {
            let row = &ROWS[statement.row];
            let name = find_name(row, &statement.path);
            if let Err(what) = row.kind.read(&mut config, name, &statement.value) {
                return Err(vec![Error {
                    line: *line,
                    fault: row.kind.fault(&statement.path, &statement.value, &what, row.example),
                }]);
            }
        }
        config.settings.complete();
        let mut errors = check::errors(&config, &self);
        let warnings = check::warnings(&config, &self);
        let last = self.last.max(1);
        config.statements = self.statements.into_values().map(|(statement, _)| statement).collect();
        config.statements.sort_by_cached_key(|statement| statement.line(Secrets::Shown));
        if errors.is_empty() && slots::encoded_len(&config) > limits::CONFIG_SLOT_OCTETS {
            errors.push(Error {
                line: last,
                fault: Fault::new(
                    "the whole configuration is too large",
                    format!("{} octets", limits::CONFIG_SLOT_OCTETS),
                    "delete tls trust old",
                ),
            });
        }
        if errors.is_empty() { Ok((config, warnings)) } else { Err(errors) }
    }

    /// The line that set `path` or something below it; the last line if none did.
    pub(super) fn line_of(&self, path: &str) -> usize {
        let mut onwards = self.statements.range((path.to_string(), String::new())..);
        match onwards.next() {
            Some(((held, _), (_, line))) if is_below(held, path) => *line,
            _ => self.last.max(1),
        }
    }

    /// The line that gave `path`, which may have several values, this one.
    pub(super) fn line_of_value(&self, path: &str, value: &str) -> usize {
        let found = self.statements.get(&(path.to_string(), value.to_string()));
        found.map_or_else(|| self.line_of(path), |(_, line)| *line)
    }

    /// Of each statement: the path of its row, its own path, its line.
    pub(super) fn each(&self) -> impl Iterator<Item = (&'static str, &str, usize)> {
        self.statements.values().map(|(s, line)| (ROWS[s.row].path, s.path.as_str(), *line))
    }

    /// Lines that another one below made void, and how.
    pub(super) fn overridden(&self) -> &[(usize, String)] {
        &self.overridden
    }
}

/// Is `path` the path `above` or one below it?
fn is_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
}

/// The row that words belong to, and what they say beyond its path.
struct Found<'a> {
    row: &'static Row,
    /// In canonical form; empty where the path has none.
    name: String,
    /// The words behind the path.
    rest: &'a [String],
}

fn place(row: &'static Row) -> usize {
    ROWS.iter().position(|other| core::ptr::eq(other, row)).unwrap_or_default()
}

/// The name within `path`, which is one of `row`'s.
fn find_name<'a>(row: &Row, path: &'a str) -> &'a str {
    let named = |(_, word): &(&str, Word)| !matches!(word, Word::Fixed(_));
    path.split(' ').zip(row.words()).find(named).map_or("", |(name, _)| name)
}

/// Finds the row whose path `words` begin with, the longest that fits.
fn find(words: &[String]) -> Result<Found<'_>, Fault> {
    let walk = walk(words)?;
    match walk.complete {
        // A path without value takes nothing: what follows must be a mistyped word.
        Some(row) if !(matches!(row.kind, Kind::Nothing(_)) && words.len() > walk.depth) => {
            Ok(Found { row, name: walk.name, rest: words.get(walk.depth..).unwrap_or_default() })
        }
        _ => {
            let known = walk.path.join(" ");
            let what = match words.get(walk.depth) {
                Some(word) if known.is_empty() => format!("'{}' is not known", Escaped(cut(word, 40))),
                Some(word) => format!("{known}: '{}' is not known there", Escaped(cut(word, 40))),
                None => format!("{known}: the path goes on"),
            };
            let example = walk.candidates.first().map_or(ROWS[0].example, |row| row.example);
            Err(Fault::new(what, walk.next_words().join(", "), example))
        }
    }
}

/// The canonical form of a path that may be cut short, and of a value behind it.
fn canonical(words: &[String]) -> Result<(String, Option<Found<'_>>), Fault> {
    let walk = walk(words)?;
    let rest = words.get(walk.depth..).unwrap_or_default();
    let path = walk.path.iter().map(String::as_str).chain(rest.iter().map(String::as_str)).collect::<Vec<_>>();
    let found = walk.complete.map(|row| Found { row, name: walk.name.clone(), rest });
    Ok((path.join(" "), found))
}

/// How far words lead into the table.
struct Walk {
    /// The rows whose paths begin with the words used.
    candidates: Vec<&'static Row>,
    /// The row whose path the words used are.
    complete: Option<&'static Row>,
    /// How many words were used.
    depth: usize,
    /// The words used, in canonical form.
    path: Vec<String>,
    /// The name among them.
    name: String,
}

fn walk(words: &[String]) -> Result<Walk, Fault> {
    let mut walk =
        Walk { candidates: ROWS.iter().collect(), complete: None, depth: 0, path: Vec::new(), name: String::new() };
    for word in words {
        let at = |row: &&'static Row, depth: usize| row.words().nth(depth);
        let fixed: Vec<&'static Row> = (walk.candidates.iter().copied())
            .filter(|row| matches!(at(row, walk.depth), Some(Word::Fixed(fixed)) if fixed == word))
            .collect();
        let (candidates, canonical) = if fixed.is_empty() {
            let named: Vec<&'static Row> = (walk.candidates.iter().copied())
                .filter(|row| !matches!(at(row, walk.depth), None | Some(Word::Fixed(_))))
                .collect();
            let Some(row) = named.first() else { break };
            let kind = at(row, walk.depth).unwrap_or(Word::Name);
            let name = name(kind, word).map_err(|what| {
                let what = format!("'{}': {what}", Escaped(cut(word, 80)));
                Fault::new(what, allowed_name(kind), row.example)
            })?;
            walk.name.clone_from(&name);
            (named, name)
        } else {
            (fixed, word.clone())
        };
        walk.candidates = candidates;
        walk.path.push(canonical);
        walk.depth += 1;
        walk.complete = walk.candidates.iter().copied().find(|row| row.words().count() == walk.depth);
    }
    Ok(walk)
}

impl Walk {
    /// What may come next, for messages and completion.
    fn next_words(&self) -> Vec<String> {
        let mut words = Vec::new();
        for row in &self.candidates {
            let word = match row.path.split(' ').nth(self.depth) {
                Some(word) => word.to_string(),
                None => continue,
            };
            if !words.contains(&word) {
                words.push(word);
            }
        }
        words
    }
}

/// A name in canonical form.
fn name(kind: Word, text: &str) -> Result<String, String> {
    match kind {
        // In lower case it would read as the path's own word when it is shown.
        Word::Domain if ["discovery", "discovery-verification"].iter().any(|word| text.eq_ignore_ascii_case(word)) => {
            Err("a word of the language, not a domain".into())
        }
        Word::Domain => value::domain(text),
        Word::Name => value::name(text),
        Word::Address => value::user(text),
        Word::Fixed(_) => Ok(text.into()),
    }
}

fn allowed_name(kind: Word) -> &'static str {
    match kind {
        Word::Domain => "a domain without wildcard and without a dot at its end",
        Word::Name => value::NAME_ALLOWED,
        Word::Address => "a user's address without a resource, such as marta@sip.example",
        Word::Fixed(word) => word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;
    use crate::settings::{PartnerKind, Peer, Requirement};

    const BASE: &str = "set system host-name gw.example\n";
    const PEM: &str = r"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    const KEY: &str = r"-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";

    fn good(text: &str) -> Config {
        load(&format!("{BASE}{text}")).unwrap_or_else(|errors| panic!("{errors:?}")).0
    }

    #[track_caller]
    fn refused(text: &str, line: usize, reason: &str) {
        let errors = load(&format!("{BASE}{text}")).expect_err(text);
        let error = &errors[0];
        assert_eq!(error.line, line, "{error}");
        assert!(error.fault.what.contains(reason), "{error}");
        assert!(error.to_string().contains("; allowed: ") && error.to_string().contains("; example: "), "{error}");
    }

    fn warned(text: &str) -> String {
        let (_, warnings) = load(&format!("{BASE}{text}")).expect("a good text");
        warnings.iter().map(|warning| format!("{warning}\n")).collect()
    }

    #[test]
    fn a_domain_that_would_be_shown_as_a_word_of_the_language_is_refused() {
        assert!(load("set system host-name gw.example\nset partner discOvery type federated").is_err());
    }

    #[test]
    fn one_line_makes_a_partner_and_one_a_sip_domain() {
        let config =
            good("set partner xmpp.example type federated\nset sip domain sip.example next-hop tls:edge.sip.example");
        let mut partner = Partner::new("xmpp.example");
        partner.kind = PartnerKind::Federated;
        assert_eq!(config.settings.partners, [partner]);
        let hop = config.settings.sip_domains[0].next_hop.as_ref().expect("a next hop");
        assert_eq!((hop.host.as_str(), hop.port), ("edge.sip.example", None));
    }

    #[test]
    fn the_host_name_is_required() {
        let errors = load("\n# nothing\n").expect_err("no host-name");
        assert_eq!((errors[0].line, errors.len()), (2, 1));
        assert!(errors[0].fault.what.contains("host-name"));
        assert_eq!(load("").expect_err("nothing")[0].line, 1);
    }

    #[test]
    fn later_lines_override_and_several_values_add() {
        let config = good(
            "set system dns server 192.0.2.2\nset system dns server 192.0.2.1:5353\nset system dns server 192.0.2.2:53\n\
             set partner A.example tls optional\nset partner a.example tls required\n\
             set sip domain sip.example peer a.example\nset sip domain sip.example peer 192.0.2.0/24",
        );
        let servers: Vec<String> = config.settings.dns_servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.1:5353", "192.0.2.2:53"]);
        assert_eq!(config.settings.partners.len(), 1);
        assert_eq!(config.settings.partners[0].tls, Requirement::Required);
        assert!(matches!(config.settings.sip_domains[0].peers.as_slice(), [Peer::Network(_), Peer::Host(_)]));
    }

    #[test]
    fn delete_takes_a_path_all_below_it_or_one_value() {
        let text = "set partner a.example type federated\nset partner a.example tls optional\n\
                    set partner a.example additional-domain b.example\nset partner a.example additional-domain c.example\n";
        assert_eq!(good(&format!("{text}delete partner a.example")).settings.partners, []);
        let one = good(&format!("{text}delete partner A.example additional-domain B.example"));
        assert_eq!(one.settings.partners[0].additional_domains, ["c.example"]);
        let all = good(&format!("{text}delete partner a.example additional-domain"));
        assert!(all.settings.partners[0].additional_domains.is_empty());
        let tls = good(&format!("{text}delete partner a.example tls"));
        assert_eq!(tls.settings.partners[0].tls, Requirement::Required);
        let errors = load("delete partner a.example\n").expect_err("nothing there");
        assert!(errors[0].fault.what.contains("nothing is set"), "{}", errors[0]);
        assert_eq!(good(&format!("{text}delete partner")).settings.partners, []);
    }

    #[test]
    fn providers_policies_and_users_are_read() {
        let config = good(
            "set provider skype enabled true\nset provider skype domain calls.example\n\
             set provider harbour proxy sip.harbour.example:5063\nset provider harbour end-of-life 2031-03-31\n\
             set policy staff xmpp true\nset policy default public-cloud true\n\
             set user Marta@Sip.example policy staff\nset sip domain sip.example policy staff\nset blocked spam.example",
        );
        let settings = &config.settings;
        let [harbour, skype] = settings.providers.as_slice() else { panic!("two providers") };
        assert!(skype.enabled && skype.audio && !harbour.enabled && !harbour.audio);
        assert_eq!(
            (skype.domains.as_slice(), skype.routing_domain.as_deref()),
            (&["calls.example".into()][..], Some("msn.com"))
        );
        assert!(!skype.decorates("hotmail.com"));
        let names: Vec<&str> = settings.policies.iter().map(|policy| policy.name.as_str()).collect();
        assert_eq!(names, ["default", "staff"]);
        assert!(settings.policies[0].federation && !settings.policies[0].xmpp && settings.policies[1].xmpp);
        assert_eq!(settings.users[0].address, "marta@sip.example");
        assert_eq!(settings.blocked, ["spam.example"]);
        // The provider's own domain is a SIP domain at its proxy, and only there.
        let domains: Vec<&str> = settings.sip_domains.iter().map(|sip| sip.domain.as_str()).collect();
        assert_eq!(domains, ["sip.example", "calls.example"]);
        assert_eq!(settings.sip_domains[1].peers, [Peer::Host("federation.messenger.msn.com".into())]);
    }

    #[test]
    fn policies_and_blocked_domains_that_cannot_be_meant_are_refused() {
        refused("set user marta@sip.example policy staff", 2, "there is no policy staff");
        refused("set sip domain sip.example policy staff", 2, "there is no policy staff");
        good("set user marta@sip.example policy default");
        refused("set user sip.example policy default", 2, "its user part is missing");
        refused("set user marta@sip.example/desk policy default", 2, "a resource");
        refused("set partner a.example\nset blocked a.example", 3, "a.example stands");
        refused("set provider harbour end-of-life 2031-02-30", 2, "not a day");
        refused("set policy staff chat true", 2, "'chat' is not known there");
        for (text, part) in [
            ("set policy staff xmpp true", "policy default is not set"),
            ("set user marta@far.example policy default", "far.example is no SIP domain here"),
            ("set partner a.example sasl required", "sasl required leaves dialback no place"),
            ("set policy default xmpp true\nset policy default federation false", "takes xmpp true back"),
            ("set policy default public-cloud-audio-video true", "needs public-cloud true"),
            ("set provider harbour enabled true", "nobody reaches anybody by it"),
            (
                "set provider harbour enabled true\nset provider harbour partner a.example",
                "a.example is no XMPP partner",
            ),
            (
                "set sip domain sip.example dialect lync\nset provider skype enabled true\nset provider skype domain sip.example",
                "sip.example is a domain of its own",
            ),
            ("set provider skype enabled true\nset provider windows-live enabled true", "has the same domains"),
        ] {
            let warnings = warned(text);
            assert!(warnings.contains(part), "{part}: {warnings}");
        }
    }

    #[test]
    fn a_provider_at_its_end_is_warned_of() {
        let dated = |text: &str, day: &str| {
            let now = crate::settings::provider::Day::parse(day).expect("a day").begins();
            check::dated_warnings(&good(text), now).join("\n")
        };
        assert!(dated("set provider yahoo enabled true", "2026-01-01").contains("it ended on 2014-06-30"));
        assert_eq!(dated("set provider yahoo enabled false", "2026-01-01"), "");
        let until = "set provider yahoo enabled true\nset provider yahoo end-of-life 2031-03-31";
        assert_eq!(dated(until, "2026-01-01"), "");
        assert!(dated(until, "2031-03-30").contains("it ends on 2031-03-31, in 1 days"));
    }

    #[test]
    fn a_wrong_path_is_told_with_what_goes_there() {
        let errors = load("set partner a.example typ federated").expect_err("a typo");
        assert!(errors[0].fault.what.contains("'typ' is not known there"), "{}", errors[0]);
        assert!(errors[0].fault.allowed.contains("type, tls, sasl"), "{}", errors[0]);
        refused("set sytem host-name a.example", 2, "'sytem' is not known");
        refused("set partner discovery", 2, "value is missing");
        refused("set partner", 2, "the path goes on");
        refused("set xmpp connection-limit 3 4", 2, "2 words");
        refused("set sip listen a/b udp:127.0.0.1:1", 2, "not a name");
        refused("set partner *.example type federated", 2, "wildcard");
        refused("set partner a.example. type federated", 2, "dot at the end");
        refused("set partner a.example tls \"open", 2, "not closed");
    }

    #[test]
    fn all_wrong_lines_are_told_at_once_up_to_a_bound() {
        let errors = load("set a\nset b\n\nset c").expect_err("three errors");
        assert_eq!(errors.iter().map(|error| error.line).collect::<Vec<_>>(), [1, 2, 4]);
        assert_eq!(load(&"set a\n".repeat(100)).expect_err("many").len(), ERRORS_MAX);
    }

    #[test]
    fn a_secret_is_never_repeated_in_an_error() {
        for text in [
            "set xmpp dialback-secret canary canary",
            "set xmpp dialback-secret \"canary",
            "set xmpp dialback-secret canary#canary",
            "set xmpp component a secret \"canary\\x\"",
            "set tls certificate a key canary",
            "set tls certificate a key \"-----BEGIN PRIVATE KEY-----\\ncanary\\n\"",
        ] {
            let errors = load(&format!("{BASE}{text}")).expect_err(text);
            assert!(!format!("{}", errors[0]).contains("canary"), "{}", errors[0]);
        }
    }

    #[test]
    fn a_partner_with_whom_no_stream_can_come_about_is_refused() {
        // The whole table: 3 x 3 x 2.
        let words = ["required", "optional", "not-supported"];
        let mut refused = 0;
        for tls in words {
            for sasl in words {
                for dialback in ["true", "false"] {
                    let text = format!(
                        "{BASE}set partner a.example tls {tls}\nset partner a.example sasl {sasl}\n\
                         set partner a.example dialback {dialback}\n"
                    );
                    let by_sasl = tls != "not-supported" && sasl != "not-supported";
                    let by_dialback = dialback == "true" && sasl != "required";
                    let result = load(&text);
                    assert_eq!(result.is_ok(), by_sasl || by_dialback, "{text}");
                    if let Err(errors) = result {
                        assert!(errors[0].fault.what.contains("no stream can come about"));
                        refused += 1;
                    }
                }
            }
        }
        assert_eq!(refused, 6);
    }

    #[test]
    fn a_domain_stands_once() {
        refused("set sip domain a.example\nset partner A.example type federated", 3, "a.example stands");
        refused("set partner a.example\nset partner b.example additional-domain a.example", 3, "stands at");
        refused(
            "set partner a.example additional-domain c.example\nset partner b.example additional-domain c.example",
            3,
            "c.example stands",
        );
        refused("set partner a.example additional-domain a.example", 2, "stands at");
    }

    #[test]
    fn listeners_need_addresses_of_their_own_and_certificates() {
        refused("set sip listen a tcp:127.0.0.1:5060\nset sip listen b tls:127.0.0.1:5060", 3, "one address");
        refused("set sip listen a tcp:0.0.0.0:5060\nset sip listen b tcp:127.0.0.1:5060", 3, "a and b cannot have");
        refused("set sip listen a udp:[::1]:5060\nset sip listen b udp:[::]:5060", 3, "a and b cannot have");
        good("set sip listen a tcp:127.0.0.1:5060\nset sip listen b udp:127.0.0.1:5060");
        refused("set sip listen a tls:127.0.0.1:5061", 2, "no certificate");
        refused("set xmpp listen a starttls:127.0.0.1:5269", 2, "no certificate");
        refused("set xmpp listen a direct-tls:127.0.0.1:5270", 2, "no certificate");
        good(&format!(
            "set tls certificate main chain \"{PEM}\"\nset tls certificate main key \"{KEY}\"\n\
             set xmpp listen a direct-tls:127.0.0.1:5270\nset xmpp listen b starttls:[::1]:5269"
        ));
        good("set xmpp listen a starttls:127.0.0.1:5269\nset partner old.example tls not-supported");
        refused(&format!("set tls certificate main chain \"{PEM}\""), 2, "its key is missing");
        refused(&format!("set tls certificate main key \"{KEY}\""), 2, "its chain is missing");
    }

    #[test]
    fn a_component_is_whole_and_serves_a_sip_domain_of_ours() {
        refused("set xmpp component a server 127.0.0.1:5347", 2, "its secret is missing");
        let whole = "set xmpp component a server 127.0.0.1:5347\nset xmpp component a secret s\n\
                     set xmpp component a domain sip.example\n";
        refused(whole, 4, "no SIP domain of ours");
        good(&format!("{whole}set sip domain sip.example"));
    }

    #[test]
    fn what_may_not_be_meant_is_warned_of() {
        let warnings = warned("");
        for part in ["no SIP domain", "no SIP listener", "no partner", "no XMPP listener"] {
            assert!(warnings.contains(part), "{part}: {warnings}");
        }
        for (text, part) in [
            ("set sip domain a.example next-hop udp:b.example", "line 2: warning: sip domain a.example next-hop"),
            ("set sip domain a.example next-hop tcp:b.example", "in the clear over tcp"),
            ("set sip domain a.example peer 0.0.0.0/0", "anybody may send"),
            ("set partner a.example tls optional", "in the clear"),
            ("set partner discovery open", "any XMPP domain"),
            ("set xmpp log-message-bodies true", "what people say"),
            ("set tls public-roots false", "no CA is believed"),
            ("set system log syslog udp:192.0.2.1:514", "leave this machine"),
            ("set system metrics listen 0.0.0.0:9090", "metrics can be read"),
            ("set msrp max-size 20000", "msrp max-size has no effect"),
            ("set system privacy full\nset system privacy hash", "line 2: warning: this line is overridden by line 3"),
            (
                "set sip domain a.example\nset xmpp component c server 192.0.2.1:5347\nset xmpp component c secret s\n\
                 set xmpp component c domain a.example",
                "line 3: warning: xmpp component c: everything goes to 192.0.2.1:5347 in the clear",
            ),
        ] {
            let warnings = warned(text);
            assert!(warnings.contains(part), "{part}: {warnings}");
        }
    }

    #[test]
    fn a_whole_usual_configuration_has_no_warning() {
        assert_eq!(
            warned(&format!(
                "set tls certificate main chain \"{PEM}\"\nset tls certificate main key \"{KEY}\"\n\
                 set sip listen edge tls:192.0.2.1:5061\nset xmpp listen main starttls:192.0.2.1:5269\n\
                 set sip domain sip.example next-hop tls:edge.sip.example\nset partner xmpp.example type federated"
            )),
            ""
        );
    }

    /// The lines that make the example of a row valid, whatever it is.
    fn fixture() -> String {
        format!(
            "{BASE}set tls certificate main chain \"{PEM}\"\nset tls certificate main key \"{KEY}\"\n\
             set sip domain sip.example\nset xmpp component local server 127.0.0.1:5347\n\
             set xmpp component local secret s\nset xmpp component local domain sip.example\n\
             set policy p xmpp true\nset provider p im true\n"
        )
    }

    #[test]
    fn the_example_of_every_row_is_taken_and_changes_something() {
        for row in ROWS {
            let example = row.example.replace("MIIB...", "MAMCAQE=").replace("MIIE...", "MAMCAQE=");
            let base = load(&fixture()).expect("the fixture").0;
            let with = load(&format!("{}{example}\n", fixture())).unwrap_or_else(|errors| panic!("{}", errors[0])).0;
            assert!(show(&with, Secrets::Shown).contains(&example), "{example}");
            let typed = |config: &Config| (config.settings.clone(), config.tls.clone(), config.system);
            let same_allowed = [
                "set sip domain sip.example",
                "set xmpp component local server 127.0.0.1:5347",
                "set xmpp component local domain sip.example",
                "set system host-name gw.example",
            ];
            assert!(typed(&base) != typed(&with) || same_allowed.contains(&example.as_str()), "{example}");
        }
    }

    #[test]
    fn the_defaults_named_in_the_table_are_the_defaults() {
        let base = "set partner a.example\nset sip domain b.example\nset policy a.example federation true\n\
                    set provider a.example im true\n";
        let default = good(base);
        let mut tried = 0;
        for row in ROWS {
            let value = match row.kind {
                Kind::Number(..) | Kind::Truth(_) | Kind::Choice(_) => row.default,
                _ => continue,
            };
            let name = if row.path.starts_with("sip domain") { "b.example" } else { "a.example" };
            let line = format!("set {} {value}\n", row.path_of(name));
            let Ok((explicit, _)) = load(&format!("{BASE}{base}{line}")) else {
                let in_words = [
                    "none",
                    "none; 20 where discovered",
                    "xmpp partner-connection-limit",
                    "pager; session with dialect lync",
                ];
                assert!(in_words.contains(&value), "{line}");
                continue;
            };
            assert_eq!(explicit.settings, default.settings, "{line}");
            assert_eq!(explicit.system, default.system, "{line}");
            assert_eq!(explicit.tls, default.tls, "{line}");
            tried += 1;
        }
        assert!(tried > 20, "{tried}");
    }

    /// A random good text: lines of the table with random names and values.
    fn random_text(rng: &mut Rng) -> String {
        let pick = |rng: &mut Rng, words: &[&str]| words[rng.below(words.len() as u64) as usize].to_string();
        let mut text = fixture();
        for _ in 0..rng.below(40) {
            let row = &ROWS[rng.below(ROWS.len() as u64) as usize];
            let domain_of = ["p1.example", "P2.example", "bücher.example", "xn--mnchen-3ya.example"];
            let name = match row.words().find(|word| !matches!(word, Word::Fixed(_))) {
                Some(Word::Domain) if row.path.starts_with("sip") => pick(rng, &["s1.example", "S2.example"]),
                Some(Word::Domain) => pick(rng, &domain_of),
                Some(Word::Address) => pick(rng, &["marta@s1.example", "Paul@s1.example"]),
                Some(_) => pick(rng, &["main", "a-b", "C.1", "skype"]),
                None => String::new(),
            };
            let value = match row.kind {
                Kind::Name(_) => "default".into(),
                Kind::Day(_) => format!("20{:02}-0{}-1{}", rng.below(99), 1 + rng.below(9), rng.below(10)),
                Kind::Nothing(_) => String::new(),
                Kind::Number(min, max, _) => (u64::from(min) + rng.below(u64::from(max - min) + 1)).to_string(),
                Kind::Truth(_) => pick(rng, &["true", "false"]),
                Kind::Choice(words) => words[rng.below(words.len() as u64) as usize].0.into(),
                Kind::Text(..) | Kind::Secret(_) => {
                    Quoted(&pick(rng, &["plain", "two words", "q\"\\#", "ü<&>", "'", ""])).to_string()
                }
                Kind::Certificates(_) => format!("\"{PEM}\""),
                Kind::RevocationLists(_) => format!("\"{}\"", PEM.replace("CERTIFICATE", "X509 CRL")),
                Kind::PrivateKey(_) => format!("\"{KEY}\""),
                Kind::Domain(_) => format!("d{}.example", rng.below(5)),
                Kind::HostName(_) => pick(rng, &["GW.example", "büro.example"]),
                Kind::HostPort(_) => pick(rng, &["h.example", "[::1]:5269", "H.example:1"]),
                Kind::Address(..) => pick(rng, &["192.0.2.1:53", "[2001:db8::1]:54"]),
                Kind::Scheme(all) => {
                    format!("{}:192.0.2.1:{}", all[rng.below(all.len() as u64) as usize].0, 1 + rng.below(60_000))
                }
                Kind::NextHop(_) => pick(rng, &["tls:H.example", "udp:[::1]:5060", "tcp:192.0.2.1"]),
                Kind::Peer(_) => pick(rng, &["H.example", "192.0.2.9/24", "::1"]),
            };
            text.push_str(&format!("set {} {value}\n", row.path_of(&name)));
        }
        text
    }

    #[test]
    fn what_is_shown_loads_to_the_same_and_is_shown_the_same() {
        let mut rng = Rng::from_number(23);
        let mut good = 0;
        for _ in 0..3000 {
            let Ok((config, _)) = load(&random_text(&mut rng)) else { continue };
            good += 1;
            let shown = show(&config, Secrets::Shown);
            assert!(shown.lines().is_sorted());
            let (again, _) = load(&shown).unwrap_or_else(|errors| panic!("{}\n{shown}", errors[0]));
            assert_eq!(again, config);
            assert_eq!(show(&again, Secrets::Shown), shown);
            let kept = restore(config.kept()).expect("what was kept");
            assert_eq!(kept, config);
        }
        assert!(good > 500, "{good}");
    }

    #[test]
    fn any_text_is_taken_or_refused_without_harm() {
        let mut rng = Rng::from_number(31);
        let words = [
            "set",
            "delete",
            "partner",
            "sip",
            "domain",
            "\"",
            "\\",
            "#",
            "a.example",
            "type",
            "tls",
            "\n",
            " ",
            "listen",
            "udp:1.2.3.4:5",
            "true",
            "xmpp",
            "component",
            "user",
            "ü",
            "\u{0}",
            "discovery",
            "server",
        ];
        for _ in 0..20_000 {
            let text: String =
                (0..rng.below(12)).map(|_| words[rng.below(words.len() as u64) as usize].to_string() + " ").collect();
            let _ = load(&text);
        }
    }
}
