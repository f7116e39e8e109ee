//! `latimer serve` between a real XMPP server and the Edge of a Lync or Skype for Business
//! site, played over real TLS sockets: `README.md` beside this file says which requirement
//! is where. One line of result for each scenario; what fails prints the end of the
//! gateway's log. Needs Debian and root; elsewhere it says so and passes.
//!
//! Each scenario has a SIP domain, a gateway and an Edge of its own, so some run at once.
//!
//! `cargo test --test edge -- WORD...` runs the scenarios whose name contains one of the
//! words; `KEEP=1` leaves logs and state behind; `AT_ONCE=1` runs one after the other.

#![allow(unreachable_pub)] // The modules of one test are public to each other and to nobody else.

mod client;
mod documents;
mod im;
mod message;
mod old;
mod partners;
mod player;
mod presence;
#[allow(dead_code)] // Shared with the interop tests.
#[path = "../interop/sip.rs"]
mod sip;
mod wire;
#[allow(dead_code)] // Shared with the interop tests.
#[path = "../interop/world.rs"]
mod world;
#[allow(dead_code)] // Shared with the interop tests.
#[path = "../interop/xmpp.rs"]
mod xmpp;

use player::Edge;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use wire::Papers;
use world::{Latimer, World, quoted};
use xmpp::Client;

/// What a step gives, or what went wrong in words.
type Outcome<T = ()> = Result<T, String>;

/// A scenario, by name.
type Scenario = (&'static str, fn(&Site) -> Outcome);

const TABLES: &[&[Scenario]] = &[presence::SCENARIOS, client::SCENARIOS, partners::SCENARIOS, im::SCENARIOS];

/// Scenarios that run at the same time: most of them wait most of the time.
const AT_ONCE: usize = 6;

pub(crate) const PROSODY: &str = "xmpp.example";
pub(crate) const EJABBERD: &str = "ej.example";

/// What is to happen "within one second": twice and a half that, since the machine has
/// other things to do.
pub(crate) const ONE_SECOND: Duration = Duration::from_millis(2500);
/// What takes no waiting.
pub(crate) const SOON: Duration = Duration::from_secs(8);
/// How long nothing may come where nothing is to come.
pub(crate) const QUIET: Duration = Duration::from_millis(1200);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    if let Some(reason) = unable() {
        println!("edge: skipped, {reason}");
        return ExitCode::SUCCESS;
    }
    let all: Vec<&Scenario> = TABLES.iter().copied().flatten().collect();
    let world = match start(all.len()) {
        Ok(world) => world,
        Err(why) => {
            println!("edge: the peers did not start: {why}");
            return ExitCode::FAILURE;
        }
    };
    let chosen: Vec<(usize, &Scenario)> = all.into_iter().enumerate().filter(|(_, (name, _))| wanted(name)).collect();
    let (next, failed, certificates) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(()));
    let at_once = std::env::var("AT_ONCE").ok().and_then(|n| n.parse().ok()).unwrap_or(AT_ONCE);
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some((number, (name, scenario))) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let begun = Instant::now();
                    let site = Site::new(&world, number + 1, name, &certificates);
                    let outcome = scenario(&site).and_then(|()| site.honest());
                    let took = begun.elapsed().as_secs_f32();
                    let Err(why) = outcome else {
                        println!("ok    {name} ({took:.1} s)");
                        continue;
                    };
                    failed.fetch_add(1, Ordering::Relaxed);
                    let log = site.log();
                    let lines: Vec<&str> = log.lines().collect();
                    let end = lines[lines.len().saturating_sub(20)..].join("\n      | ");
                    println!("FAIL  {name} ({took:.1} s): {why}\n      | {end}");
                }
            });
        }
    });
    let failed = failed.into_inner();
    println!("edge: {} passed, {failed} failed", chosen.len() - failed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The peers, with names for so many sites.
fn start(sites: usize) -> Outcome<World> {
    let world = World::start_with(&["prosody", "ejabberd"], 100)?;
    let mut zone = std::fs::read_to_string(world.run.join("zone.txt")).map_err(|e| e.to_string())?;
    for number in 1..=sites {
        let names = Names::new(number);
        let (sip, gw, edge) = (&names.domain, names.gateway(), names.edge());
        let (at, edge_at) = (world.host(names.gateway_host()), world.host(names.edge_host()));
        let (far, near, old, six) = (names.far(), names.discovered(), names.old(), names.v6());
        zone.push_str(&format!(
            "{gw} A {at}\n{edge} A {edge_at}\n_sipfederationtls._tcp.{sip} SRV 0 0 5061 {edge}\n\
             _xmpp-server._tcp.{sip} SRV 0 0 5269 {gw}\n\
             sip.{near} A {edge_at}\n_sipfederationtls._tcp.{near} SRV 10 0 5062 sip.{near}\n\
             _sipfederationtls._tcp.{near} SRV 0 0 5099 sip.{near}\n_xmpp-server._tcp.{near} SRV 0 0 5269 {gw}\n\
             _sipfederationtls._tcp.{far} SRV 0 0 5061 {edge}\n_xmpp-server._tcp.{far} SRV 0 0 5269 {gw}\n\
             {old} A {edge_at}\nsip.{six} AAAA ::1\n"
        ));
    }
    let (path, new) = (world.run.join("zone.txt"), world.run.join("zone.new"));
    std::fs::write(&new, zone).and_then(|()| std::fs::rename(&new, path)).map_err(|e| e.to_string())?;
    let pid = std::fs::read_to_string(world.run.join("dns.pid")).map_err(|e| e.to_string())?;
    let status = Command::new("kill").args(["-s", "HUP", pid.trim()]).status().map_err(|e| e.to_string())?;
    ensure(status.success(), || format!("kill: {status}"))?;
    std::thread::sleep(Duration::from_millis(200));
    Ok(world)
}

/// The names and addresses of one scenario's site.
#[derive(Clone)]
struct Names {
    number: usize,
    domain: String,
}

impl Names {
    fn new(number: usize) -> Self {
        Self { number, domain: format!("mill{number:02}.example") }
    }

    fn gateway(&self) -> String {
        format!("gw.{}", self.domain)
    }

    fn edge(&self) -> String {
        format!("sip.{}", self.domain)
    }

    /// A domain that is found by its SRV records alone, the second of which is good.
    fn discovered(&self) -> String {
        format!("weir{:02}.example", self.number)
    }

    /// A domain whose SRV record leads into another one.
    fn far(&self) -> String {
        format!("lock{:02}.example", self.number)
    }

    fn old(&self) -> String {
        format!("old{:02}.example", self.number)
    }

    fn v6(&self) -> String {
        format!("six{:02}.example", self.number)
    }

    fn gateway_host(&self) -> u8 {
        60 + u8::try_from(self.number).expect("fewer sites than addresses")
    }

    fn edge_host(&self) -> u8 {
        150 + u8::try_from(self.number).expect("fewer sites than addresses")
    }
}

/// Where one scenario takes place.
pub(crate) struct Site<'a> {
    pub(crate) world: &'a World,
    names: Names,
    dir: PathBuf,
    edges: Mutex<Vec<Arc<Edge>>>,
    certificates: &'a Mutex<()>,
}

impl<'a> Site<'a> {
    fn new(world: &'a World, number: usize, name: &str, certificates: &'a Mutex<()>) -> Self {
        let (names, dir) = (Names::new(number), world.run.join(name));
        Self { world, names, dir, edges: Mutex::default(), certificates }
    }

    pub(crate) fn number(&self) -> usize {
        self.names.number
    }

    /// The SIP domain.
    pub(crate) fn domain(&self) -> &str {
        &self.names.domain
    }

    pub(crate) fn discovered(&self) -> String {
        self.names.discovered()
    }

    pub(crate) fn far(&self) -> String {
        self.names.far()
    }

    /// The domain of an old XMPP server at the Edge's address.
    pub(crate) fn old(&self) -> String {
        self.names.old()
    }

    pub(crate) fn edge_address(&self) -> IpAddr {
        self.world.host(self.names.edge_host()).parse().expect("an address")
    }

    /// A name that is `::1`.
    pub(crate) fn edge_name_v6(&self) -> String {
        format!("sip.{}", self.names.v6())
    }

    /// Where the gateway's files are.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn edge_name(&self) -> String {
        self.names.edge()
    }

    /// The address of somebody of the SIP domain.
    pub(crate) fn at(&self, name: &str) -> String {
        format!("{name}@{}", self.domain())
    }

    pub(crate) fn gateway(&self, port: u16) -> SocketAddr {
        let ip: IpAddr = self.world.host(self.names.gateway_host()).parse().expect("an address");
        SocketAddr::new(ip, port)
    }

    /// A certificate of the CA `ca`, valid for so many days, or `expired`.
    pub(crate) fn papers(&self, what: &str, ca: &str, days: &str, names: &[&str]) -> Outcome<Papers> {
        let name = format!("{what}-{}", self.names.number);
        self.make_ca(&[&[&name, ca, days], names].concat())?;
        let pem = |file: &str| self.world.pem(file);
        Ok(Papers {
            chain: pem(&format!("{name}.pem"))?,
            key: pem(&format!("{name}.key"))?,
            ca: pem("ca.pem")?,
            shown: true,
        })
    }

    /// The revocation list of the CA that has a certificate made by [`Site::papers`] on it.
    pub(crate) fn revoke(&self, what: &str) -> Outcome<String> {
        let number = self.names.number;
        let list = format!("list-{number}");
        self.make_ca(&["--revoke", &format!("{what}-{number}"), "ca", &list])?;
        self.world.pem(&format!("{list}.pem"))
    }

    fn make_ca(&self, words: &[&str]) -> Outcome {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/ca/make-ca.sh");
        let _one_at_a_time = self.certificates.lock().expect("no scenario panics with it");
        let output = Command::new(script).arg(self.world.run.join("ca")).args(words).output();
        let output = output.map_err(|e| format!("make-ca.sh: {e}"))?;
        ensure(output.status.success(), || format!("make-ca.sh: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// The Edge of the SIP domain, with its good certificate.
    pub(crate) fn edge(&self) -> Outcome<Arc<Edge>> {
        let papers = self.papers("edge", "ca", "3650", &[&self.names.edge(), &format!("sip.{}", self.discovered())])?;
        self.edge_with(self.domain(), papers)
    }

    pub(crate) fn edge_with(&self, domain: &str, papers: Papers) -> Outcome<Arc<Edge>> {
        let address = self.edge_address();
        let host = format!("sip.{domain}");
        let edge = Edge::new(domain, &host, address, &[5061, 5062], papers, self.gateway(5061), &self.names.gateway())?;
        let edge = Arc::new(edge);
        self.edges.lock().expect("no scenario panics with it").push(edge.clone());
        Ok(edge)
    }

    /// A further Edge, which only opens connections.
    pub(crate) fn edge_beside(&self, domain: &str) -> Outcome<Arc<Edge>> {
        let host = format!("sip.{domain}");
        let papers = self.papers("beside", "ca", "3650", &[&host])?;
        let gateway = self.names.gateway();
        let edge = Edge::new(domain, &host, self.edge_address(), &[], papers, self.gateway(5061), &gateway)?;
        let edge = Arc::new(edge);
        self.edges.lock().expect("no scenario panics with it").push(edge.clone());
        Ok(edge)
    }

    /// The configuration of the gateway without SIP domains and partners.
    pub(crate) fn house(&self) -> Outcome<String> {
        let gw = self.names.gateway();
        let names = [&*gw, self.domain(), &self.discovered(), &self.far(), PROSODY, EJABBERD, &self.names.old()];
        let papers = self.papers("gw", "ca", "3650", &names)?;
        let (net, at) = (&self.world.net, self.world.host(self.names.gateway_host()));
        Ok(format!(
            "set system host-name {gw}\nset system dns server {net}.53:5353\nset tls public-roots false\n\
             set tls trust peers {}\nset tls certificate gw chain {}\nset tls certificate gw key {}\n\
             set sip listen tls tls:{at}:5061\nset xmpp listen s2s starttls:{at}:5269\n",
            quoted(&papers.ca),
            quoted(&papers.chain),
            quoted(&papers.key)
        ))
    }

    /// The configuration of a site whose Edge is named, with a federated XMPP partner.
    pub(crate) fn config(&self, partner: &str, more: &[&str]) -> Outcome<String> {
        let (house, domain, edge) = (self.house()?, self.domain(), self.names.edge());
        let mut text = format!(
            "{house}set sip domain {domain} next-hop tls:{edge}:5061\nset sip domain {domain} dialect lync\n\
             set partner {partner} type federated\n"
        );
        for line in more {
            text.push_str(&format!("set {}\n", line.replace("DOMAIN", domain)));
        }
        Ok(text)
    }

    /// The gateway with such a configuration.
    pub(crate) fn latimer(&self, text: &str) -> Outcome<Latimer> {
        Latimer::start_in(&self.dir, text)
    }

    /// Gateway and Edge of a site with a federated XMPP partner.
    pub(crate) fn open(&self, partner: &str, more: &[&str]) -> Outcome<(Latimer, Arc<Edge>)> {
        let edge = self.edge()?;
        Ok((self.latimer(&self.config(partner, more)?)?, edge))
    }

    /// An XMPP user whom nobody knows yet, logged in, with his bare address.
    pub(crate) fn guest(&self, domain: &str) -> Outcome<(Client, String)> {
        let name = self.world.guest();
        let mut client = self.world.client(&name, domain)?;
        client.roster("nobody")?;
        Ok((client, format!("{name}@{domain}")))
    }

    fn honest(&self) -> Outcome {
        self.edges.lock().expect("no scenario panics with it").iter().try_for_each(|edge| edge.honest())
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }
}

/// Why the peers cannot run here.
fn unable() -> Option<&'static str> {
    if !Path::new("/etc/debian_version").exists() {
        return Some("the peers are Debian's packages");
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let root = status.lines().any(|line| line.starts_with("Uid:\t0\t") || line == "Uid:\t0\t0\t0\t0");
    (!root).then_some("the peers need root")
}

/// Fails with the words when the condition does not hold.
fn ensure(holds: bool, words: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(words()) }
}

/// Fails unless both are equal.
fn equal<T: PartialEq + std::fmt::Debug>(what: &str, found: T, wanted: T) -> Outcome {
    ensure(found == wanted, || format!("{what} is {found:?}, wanted {wanted:?}"))
}
