//! TLS: which certificate we show, and what we find out about the peer's.
//!
//! A handshake completes whenever the peer proves that it holds the key of the
//! certificate it shows; whether that certificate is worth anything is judged after
//! it, against the reactor's clock, and handed to the protocols as a
//! [`PeerCertificate`]. So a peer whose chain is bad can still be told why in its own
//! protocol, and be let in by dialback where the operator allows it. The verdict is
//! formed anew for a resumed session too.
//!
//! The chain is judged for the *server* purpose in both directions: public CAs issue
//! nothing else, and a peer of ours is a server whichever side connected. Names are
//! read here and compared elsewhere (RFC 5922, RFC 6120 section 13.7).
//!
//! TLS 1.2 and 1.3, forward secrecy only, no early data, no renegotiation, no
//! compression: rustls has nothing weaker. Revocation is not looked up.

use crate::base::certificate::{CertificateFault, PeerCertificate};
use crate::base::outbox::TlsRole;
use crate::base::time::Wall;
use core::fmt;
use core::net::IpAddr;
use core::time::Duration;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, Connection, DigitallySignedStruct, DistinguishedName, ServerConfig,
    ServerConnection, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, TrustAnchor, UnixTime,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use webpki::{
    CertRevocationList, EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, OwnedCertRevocationList,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
};
use x509_parser::prelude::{
    CertificateRevocationList, FromDer, GeneralName, GeneralSubtree, NameConstraints, ParsedExtension, X509Certificate,
};

/// Plain octets a session buffers before it takes no more: one record.
const SESSION_BUFFER_OCTETS_MAX: usize = 16 * 1024;
/// Certificates of a peer's chain that are looked at; real chains have two to four,
/// and the search for a path grows with the factorial of their number.
const CHAIN_CERTIFICATES_MAX: usize = 7;
/// Servers whose sessions a client configuration remembers.
const RESUMABLE_SERVERS_MAX: usize = 64;

/// What the operator configured, as PEM texts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Material<'a> {
    /// `tls certificate NAME chain` and `key`: name, chain, key.
    pub certificates: &'a [(&'a str, &'a str, &'a str)],
    /// `tls trust NAME`: name, one or more certificates.
    pub trust: &'a [(&'a str, &'a str)],
    /// `tls revoked NAME`: name, one or more revocation lists.
    pub revoked: &'a [(&'a str, &'a str)],
    /// `tls public-roots`.
    pub public_roots: bool,
}

/// A configured text that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// The path of the setting.
    pub path: String,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.what)
    }
}

impl From<Unusable> for String {
    fn from(unusable: Unusable) -> Self {
        unusable.to_string()
    }
}

/// Our certificates, our trust, and the configurations made of them.
#[derive(Debug)]
pub struct Tls {
    provider: Arc<CryptoProvider>,
    certificates: Arc<[Ours]>,
    anchors: Vec<TrustAnchor<'static>>,
    /// The certificates of `tls trust` themselves: one of them may be a peer's own.
    trusted: Vec<CertificateDer<'static>>,
    /// What CAs took back.
    revoked: Vec<CertRevocationList<'static>>,
    /// A digest of the texts that these three were made of.
    belief: Vec<u8>,
    /// Subjects of `tls trust`: some SIP peers show no certificate unless its CA is
    /// among those asked for.
    hints: Arc<Verifier>,
    /// Asks for a certificate of any CA.
    any: Arc<Verifier>,
    clients: BTreeMap<(Option<usize>, &'static str), Arc<ClientConfig>>,
    servers: BTreeMap<(usize, &'static str, bool), Arc<ServerConfig>>,
}

/// One of our certificates.
#[derive(Debug)]
struct Ours {
    /// What the operator calls it.
    name: String,
    key: Arc<CertifiedKey>,
    names: PeerCertificate,
}

/// Days before its end in which one of our certificates is warned of.
const END_WARNED_DAYS: i64 = 21;
const DAY_MS: i64 = 86_400_000;

/// Why a handshake cannot even begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotBegun {
    /// We have no certificate to show.
    NoCertificate,
    /// rustls refused the configuration.
    Refused,
}

impl NotBegun {
    /// In words, for logs.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NoCertificate => "no certificate is configured: set tls certificate NAME chain and key",
            Self::Refused => "the TLS library refused the session",
        }
    }
}

impl Tls {
    /// Reads the configured texts.
    pub fn new(material: &Material<'_>) -> Result<Self, Unusable> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let certificates: Vec<Ours> = material
            .certificates
            .iter()
            .map(|(name, chain, key)| Ours::new(&provider, name, chain, key))
            .collect::<Result<_, _>>()?;
        let mut trusted = Vec::new();
        for (name, pem) in material.trust {
            let path = format!("tls trust {name}");
            for certificate in chain_of(pem).map_err(|what| Unusable { path: path.clone(), what })? {
                if let Err(e) = webpki::anchor_from_trusted_cert(&certificate) {
                    return Err(Unusable { path, what: format!("a certificate cannot be a trust anchor ({e})") });
                }
                trusted.push(certificate);
            }
        }
        let mut anchors: Vec<TrustAnchor<'static>> = Vec::new();
        if material.public_roots {
            anchors.extend_from_slice(webpki_roots::TLS_SERVER_ROOTS);
        }
        let mut subjects = Vec::new();
        for anchor in trusted.iter().filter_map(|certificate| webpki::anchor_from_trusted_cert(certificate).ok()) {
            subjects.push(DistinguishedName::in_sequence(&anchor.subject));
            anchors.push(anchor.to_owned());
        }
        let mut revoked = Vec::new();
        for (name, pem) in material.revoked {
            revoked.extend(lists_of(pem).map_err(|what| Unusable { path: format!("tls revoked {name}"), what })?);
        }
        // Of several lists of one CA only the first is looked at: the newest has to be it.
        revoked.sort_by_key(|(made, _)| core::cmp::Reverse(*made));
        let revoked = revoked.into_iter().map(|(_, list)| list).collect();
        let mut belief = ring::digest::Context::new(&ring::digest::SHA256);
        belief.update(&[u8::from(material.public_roots)]);
        for (kind, (_, pem)) in
            material.trust.iter().map(|one| (b"t", one)).chain(material.revoked.iter().map(|one| (b"r", one)))
        {
            belief.update(kind);
            belief.update(pem.as_bytes());
        }
        let belief = belief.finish().as_ref().to_vec();
        let algorithms = provider.signature_verification_algorithms;
        Ok(Self {
            certificates: certificates.into(),
            anchors,
            trusted,
            revoked,
            belief,
            hints: Arc::new(Verifier { algorithms, hints: subjects }),
            any: Arc::new(Verifier { algorithms, hints: Vec::new() }),
            clients: BTreeMap::new(),
            servers: BTreeMap::new(),
            provider,
        })
    }

    /// Begins a session. `local` is the domain that we are, `remote` the peer's (for
    /// SNI; `address` stands in when it is no name), `hints`: say which CAs' client
    /// certificates we like.
    pub fn begin(
        &mut self,
        role: TlsRole,
        local: &str,
        remote: &str,
        address: IpAddr,
        alpn: &'static str,
        hints: bool,
    ) -> Result<Connection, NotBegun> {
        let mine = self.certificate_for(local);
        let mut connection = match role {
            TlsRole::Client => {
                let config = self.client(mine, alpn).ok_or(NotBegun::Refused)?;
                let name = ascii(remote)
                    .and_then(|name| ServerName::try_from(name).ok())
                    .unwrap_or_else(|| ServerName::IpAddress(address.into()));
                Connection::from(ClientConnection::new(config, name).map_err(|_| NotBegun::Refused)?)
            }
            TlsRole::Server => {
                let mine = mine.ok_or(NotBegun::NoCertificate)?;
                let config = self.server(mine, alpn, hints).ok_or(NotBegun::Refused)?;
                Connection::from(ServerConnection::new(config).map_err(|_| NotBegun::Refused)?)
            }
        };
        connection.set_buffer_limit(Some(SESSION_BUFFER_OCTETS_MAX));
        Ok(connection)
    }

    /// What the peer of a completed handshake proved, at the time `wall`.
    pub fn judge(&self, connection: &Connection, wall: Wall) -> PeerCertificate {
        let protocol = match (connection.protocol_version(), connection.negotiated_cipher_suite()) {
            (Some(version), Some(suite)) => format!("{version:?}/{:?}", suite.suite()),
            _ => String::new(),
        };
        let Some([own, rest @ ..]) = connection.peer_certificates() else {
            return PeerCertificate { protocol, ..PeerCertificate::default() };
        };
        let mut peer = names_of(own);
        peer.protocol = protocol;
        peer.verdict = Some(match self.verdict(own, rest, wall) {
            Ok(bounds) if keep_within(&bounds, &mut peer) => Ok(()),
            Ok(_) => Err(CertificateFault::NameConstraint),
            Err(fault) => Err(fault),
        });
        peer
    }

    /// What peers will not believe, or not for long, of our certificates on that day: sentences
    /// for the operator. `host` is what SIP peers reach us by, if they do by TLS; `domains` are
    /// those that we speak for on XMPP, as the settings have them.
    pub fn doubts(&self, host: Option<&str>, domains: &[&str], wall: Wall) -> Vec<String> {
        let mut doubts = Vec::new();
        for ours in self.certificates.iter() {
            let Some(own) = ours.key.cert.first() else { continue };
            let end = ours.names.expires.unwrap_or(wall);
            let days = (end.0 - wall.0) / DAY_MS;
            let fault = match pinned(own, wall) {
                Err(CertificateFault::Expired) => format!("it expired {} days ago", -days),
                Err(fault) => format!("it is {fault}"),
                Ok(()) if days <= END_WARNED_DAYS => format!("it expires in {days} days"),
                Ok(()) => continue,
            };
            doubts.push(format!("warning: tls certificate {}: {fault}: get another one and load it", ours.name));
        }
        if self.certificates.is_empty() {
            return doubts;
        }
        if let Some(host) = host
            && !self.certificates.iter().any(|ours| ours.names.names_sip_domain(host))
        {
            doubts.push(format!("warning: no tls certificate names {host}, the host-name: SIP peers cannot verify it"));
        }
        for domain in domains {
            let ascii = ascii(domain).unwrap_or_default();
            if !self.certificates.iter().any(|ours| ours.names.names_xmpp_domain(&ascii, domain)) {
                doubts.push(format!(
                    "warning: no tls certificate names {ascii}: XMPP servers that ask for one cannot verify us as it"
                ));
            }
        }
        doubts
    }

    /// Does it believe the same CAs as another, and hold the same for revoked?
    pub fn believes_like(&self, other: &Self) -> bool {
        self.belief == other.belief
    }

    /// Why the peer of a connection is believed no more, whom `before` believed.
    pub fn lost_belief(&self, before: &Self, connection: &Connection, wall: Wall) -> Option<CertificateFault> {
        let fault = self.judge(connection, wall).verdict?.err()?;
        before.judge(connection, wall).is_trusted().then_some(fault)
    }

    /// Is the chain good at the time `wall`? Then the domains its CAs may issue for.
    fn verdict(
        &self,
        own: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        wall: Wall,
    ) -> Result<Vec<Bounds>, CertificateFault> {
        if self.trusted.iter().any(|trusted| trusted.as_ref() == own.as_ref()) {
            return pinned(own, wall).map(|()| Vec::new());
        }
        let rest = rest.get(..CHAIN_CERTIFICATES_MAX - 1).unwrap_or(rest);
        let certificate = EndEntityCert::try_from(own).map_err(|_| CertificateFault::Bad)?;
        let time = UnixTime::since_unix_epoch(Duration::from_secs(wall.seconds().max(0) as u64));
        let algorithms = self.provider.signature_verification_algorithms.all;
        // Whoever is on a list is out; who is not, or whose CA has none here, is in. A list
        // that is out of date still says who is out.
        let lists: Vec<&CertRevocationList<'_>> = self.revoked.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options.with_depth(RevocationCheckDepth::Chain).with_status_policy(UnknownStatusPolicy::Allow).build()
        });
        match certificate.verify_for_usage(algorithms, &self.anchors, rest, time, ServerPurpose, revocation, None) {
            Ok(path) => Ok(bounds_of(&path)),
            Err(error) => Err(fault_of(&error, own, rest)),
        }
    }

    /// The place of the certificate to show as `domain`: the first that names it,
    /// else the first of all.
    fn certificate_for(&self, domain: &str) -> Option<usize> {
        if self.certificates.is_empty() {
            return None;
        }
        Some(find(&self.certificates, domain).unwrap_or(0))
    }

    fn client(&mut self, mine: Option<usize>, alpn: &'static str) -> Option<Arc<ClientConfig>> {
        if let Some(config) = self.clients.get(&(mine, alpn)) {
            return Some(Arc::clone(config));
        }
        let key = mine.and_then(|at| self.certificates.get(at)).map(|ours| Arc::clone(&ours.key));
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .ok()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&self.any) as _)
            .with_client_cert_resolver(Arc::new(ShowAlways(key)));
        config.resumption = Resumption::in_memory_sessions(RESUMABLE_SERVERS_MAX);
        config.enable_early_data = false;
        config.alpn_protocols = protocols(alpn);
        let config = Arc::new(config);
        self.clients.insert((mine, alpn), Arc::clone(&config));
        Some(config)
    }

    fn server(&mut self, mine: usize, alpn: &'static str, hints: bool) -> Option<Arc<ServerConfig>> {
        if let Some(config) = self.servers.get(&(mine, alpn, hints)) {
            return Some(Arc::clone(config));
        }
        let verifier = Arc::clone(if hints { &self.hints } else { &self.any });
        let chosen = ShowByName { certificates: Arc::clone(&self.certificates), otherwise: mine };
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .ok()?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(chosen));
        // Tickets keep the session at the client: nothing of strangers stays here.
        config.ticketer = rustls::crypto::ring::Ticketer::new().ok()?;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 1;
        config.max_early_data_size = 0;
        config.alpn_protocols = protocols(alpn);
        let config = Arc::new(config);
        self.servers.insert((mine, alpn, hints), Arc::clone(&config));
        Some(config)
    }
}

impl Ours {
    fn new(provider: &CryptoProvider, name: &str, chain: &str, key: &str) -> Result<Self, Unusable> {
        let unusable = |part: &str, what: String| Unusable { path: format!("tls certificate {name}{part}"), what };
        let chain = chain_of(chain).map_err(|what| unusable(" chain", what))?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|_| unusable(" key", "no private key in PEM form (PKCS#8, PKCS#1 or SEC1)".into()))?;
        let key = provider
            .key_provider
            .load_private_key(key)
            .map_err(|e| unusable(" key", format!("cannot be used ({e})")))?;
        let names = chain.first().map(names_of).unwrap_or_default();
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(_) => return Err(unusable("", "the key does not belong to the certificate".into())),
        }
        Ok(Self { name: name.into(), key: Arc::new(certified), names })
    }
}

/// The certificates of a PEM text, at least one.
fn chain_of(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| format!("not readable as PEM ({e})"))?;
    if chain.is_empty() {
        return Err("holds no certificate in PEM form".into());
    }
    for certificate in &chain {
        X509Certificate::from_der(certificate).map_err(|_| "holds a certificate that cannot be read")?;
    }
    Ok(chain)
}

/// The revocation lists of a PEM text, at least one, and when each was made, in seconds.
fn lists_of(pem: &str) -> Result<Vec<(i64, CertRevocationList<'static>)>, String> {
    let lists = CertificateRevocationListDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| format!("not readable as PEM ({e})"))?;
    if lists.is_empty() {
        return Err("holds no revocation list in PEM form".into());
    }
    let read = |list: &CertificateRevocationListDer<'_>| {
        let made = CertificateRevocationList::from_der(list).map(|(_, list)| list.last_update().timestamp());
        let list = OwnedCertRevocationList::from_der(list);
        list.map(|list| (made.unwrap_or_default(), CertRevocationList::from(list)))
            .map_err(|e| format!("holds a revocation list that cannot be read ({e})"))
    };
    lists.iter().map(read).collect()
}

fn protocols(alpn: &'static str) -> Vec<Vec<u8>> {
    if alpn.is_empty() { Vec::new() } else { vec![alpn.as_bytes().to_vec()] }
}

/// The place of the certificate that names `domain`.
fn find(certificates: &[Ours], domain: &str) -> Option<usize> {
    let domain = ascii(domain)?;
    certificates.iter().position(|ours| {
        ours.names.names_sip_domain(&domain)
            || ours.names.names_xmpp_domain(&domain, &idna::domain_to_unicode(&domain).0)
    })
}

/// A domain in A-labels, lower case, without a trailing dot.
fn ascii(domain: &str) -> Option<String> {
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    if domain.is_empty() {
        return None;
    }
    idna::domain_to_ascii(domain).ok()
}

/// Shows one certificate whatever CAs the server names: it may be wrong about them,
/// and without one we are nobody.
#[derive(Debug)]
struct ShowAlways(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for ShowAlways {
    fn resolve(&self, _root_hint_subjects: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.as_ref().filter(|ours| ours.key.choose_scheme(schemes).is_some()).map(Arc::clone)
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

/// Shows the certificate that names the domain asked for by SNI, else a given one.
#[derive(Debug)]
struct ShowByName {
    certificates: Arc<[Ours]>,
    otherwise: usize,
}

impl ResolvesServerCert for ShowByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let asked = hello.server_name().and_then(|name| find(&self.certificates, name));
        let ours = self.certificates.get(asked.unwrap_or(self.otherwise))?;
        Some(Arc::clone(&ours.key))
    }
}

/// Checks the proof of possession and nothing else; the chain is judged after the
/// handshake by [`Tls::judge`].
#[derive(Debug)]
struct Verifier {
    algorithms: WebPkiSupportedAlgorithms,
    hints: Vec<DistinguishedName>,
}

impl Verifier {
    fn tls12(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn tls13(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.tls12(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.tls13(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.tls12(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.tls13(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Key purposes that let a certificate stand for a server, as dotted numbers:
/// serverAuth, anyExtendedKeyUsage, and id-kp-sipDomain (RFC 5924).
const SERVER_PURPOSES: [&[usize]; 3] = [&[1, 3, 6, 1, 5, 5, 7, 3, 1], &[2, 5, 29, 37, 0], SIP_DOMAIN_PURPOSE];
const SIP_DOMAIN_PURPOSE: &[usize] = &[1, 3, 6, 1, 5, 5, 7, 3, 20];

/// Takes a certificate without extended key usage, or with one of [`SERVER_PURPOSES`].
#[derive(Clone, Copy, Debug)]
struct ServerPurpose;

impl ExtendedKeyUsageValidator for ServerPurpose {
    fn validate(&self, purposes: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        let mut present = Vec::new();
        for purpose in purposes {
            let purpose = purpose?.to_decoded_oid();
            if SERVER_PURPOSES.contains(&purpose.as_slice()) {
                return Ok(());
            }
            present.push(purpose);
        }
        if present.is_empty() {
            return Ok(());
        }
        let required = webpki::KeyUsage::server_auth();
        Err(webpki::Error::RequiredEkuNotFoundContext(webpki::RequiredEkuNotFoundContext { required, present }))
    }
}

/// The domains that one CA of a chain may issue for, by its name constraints. webpki
/// holds dNSNames to them; a CA bound to its own domains must not get around that by
/// an SRVName, an XmppAddr, a `sip:` URI or a CN either.
#[derive(Debug, Default)]
struct Bounds {
    permitted: Vec<String>,
    excluded: Vec<String>,
}

impl Bounds {
    fn new(constraints: &NameConstraints<'_>) -> Self {
        let domains = |subtrees: &Option<Vec<GeneralSubtree<'_>>>| {
            subtrees
                .iter()
                .flatten()
                .filter_map(|subtree| match subtree.base {
                    GeneralName::DNSName(name) => Some(name.trim_start_matches('.').to_ascii_lowercase()),
                    _ => None,
                })
                .collect()
        };
        Self { permitted: domains(&constraints.permitted_subtrees), excluded: domains(&constraints.excluded_subtrees) }
    }

    fn allow(&self, domain: &str) -> bool {
        let within = |subtree: &String| {
            subtree.is_empty()
                || domain.strip_suffix(subtree.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        (self.permitted.is_empty() || self.permitted.iter().any(within)) && !self.excluded.iter().any(within)
    }
}

/// The bounds of all CAs of a path, its anchor's among them.
fn bounds_of(path: &VerifiedPath<'_>) -> Vec<Bounds> {
    let mut all = Vec::new();
    for issuer in path.intermediate_certificates() {
        if let Ok((_, certificate)) = X509Certificate::from_der(&issuer.der())
            && let Ok(Some(constraints)) = certificate.name_constraints()
        {
            all.push(Bounds::new(constraints.value));
        }
    }
    // Of an anchor the content is kept without the SEQUENCE around it.
    if let Some(content) = &path.anchor().name_constraints
        && let Ok(length) = u16::try_from(content.len())
    {
        let der = [&[0x30, 0x82][..], &length.to_be_bytes(), content].concat();
        if let Ok((_, constraints)) = NameConstraints::from_der(&der) {
            all.push(Bounds::new(&constraints));
        }
    }
    all
}

/// Takes the names away that a CA of the chain may not issue. `false`: there were
/// names, and none is left.
fn keep_within(bounds: &[Bounds], peer: &mut PeerCertificate) -> bool {
    if bounds.is_empty() {
        return true;
    }
    let allowed = |name: &str| {
        let domain = if name.starts_with('_') { name.split_once('.').map_or(name, |(_, domain)| domain) } else { name };
        // An address in U-labels is bound by its A-labels.
        let domain = ascii(domain.rsplit('@').next().unwrap_or(domain)).unwrap_or_default();
        bounds.iter().all(|bounds| bounds.allow(&domain))
    };
    peer.sip_hosts.retain(|name| allowed(name));
    peer.srv_names.retain(|name| allowed(name));
    peer.xmpp_addresses.retain(|name| allowed(name));
    peer.common_name = peer.common_name.take().filter(|name| allowed(name));
    let lists = [&peer.dns_names, &peer.sip_hosts, &peer.srv_names, &peer.xmpp_addresses];
    lists.into_iter().any(|names| !names.is_empty()) || peer.common_name.is_some()
}

/// Judges a certificate that the operator trusts by itself: only time and purpose.
fn pinned(own: &CertificateDer<'_>, wall: Wall) -> Result<(), CertificateFault> {
    let (_, certificate) = X509Certificate::from_der(own).map_err(|_| CertificateFault::Bad)?;
    let validity = certificate.validity();
    if wall.seconds() < validity.not_before.timestamp() {
        return Err(CertificateFault::NotYetValid);
    }
    if wall.seconds() > validity.not_after.timestamp() {
        return Err(CertificateFault::Expired);
    }
    match certificate.extended_key_usage() {
        Ok(Some(purposes)) => {
            let purposes = purposes.value;
            let sip = purposes.other.iter().any(|oid| oid.to_id_string() == "1.3.6.1.5.5.7.3.20");
            if purposes.any || purposes.server_auth || sip { Ok(()) } else { Err(CertificateFault::NotForServers) }
        }
        Ok(None) => Ok(()),
        Err(_) => Err(CertificateFault::Bad),
    }
}

/// The cause behind webpki's error.
fn fault_of(error: &webpki::Error, own: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> CertificateFault {
    match error {
        webpki::Error::CertExpired { .. } => CertificateFault::Expired,
        webpki::Error::CertNotValidYet { .. } => CertificateFault::NotYetValid,
        webpki::Error::RequiredEkuNotFoundContext(_) | webpki::Error::EmptyEkuExtension => {
            CertificateFault::NotForServers
        }
        webpki::Error::NameConstraintViolation => CertificateFault::NameConstraint,
        webpki::Error::CertRevoked | webpki::Error::CertDistrusted => CertificateFault::Revoked,
        webpki::Error::UnknownIssuer | webpki::Error::CaUsedAsEndEntity => no_path(own, rest),
        _ => CertificateFault::Bad,
    }
}

/// Why no path leads from `own` to a root of ours.
fn no_path(own: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> CertificateFault {
    let Ok((_, own)) = X509Certificate::from_der(own) else { return CertificateFault::Bad };
    if own.issuer().as_raw() == own.subject().as_raw() {
        return CertificateFault::SelfSigned;
    }
    if own.is_ca() {
        return CertificateFault::Bad;
    }
    let sent = |certificate: &CertificateDer<'_>| {
        X509Certificate::from_der(certificate).is_ok_and(|(_, c)| c.subject().as_raw() == own.issuer().as_raw())
    };
    if rest.iter().any(sent) {
        return CertificateFault::UnknownIssuer;
    }
    // The issuer was not sent. A root need not be; an intermediate has to be. Which
    // of the two it is, the certificate alone does not tell, but it leaves traces.
    let fetchable = own.extensions().iter().any(|extension| {
        matches!(extension.parsed_extension(), ParsedExtension::AuthorityInfoAccess(access)
            if access.accessdescs.iter().any(|d| d.access_method.to_id_string() == CA_ISSUERS))
    });
    let called = own.issuer().iter_common_name().filter_map(|name| name.as_str().ok()).any(|name| {
        let name = name.to_ascii_lowercase();
        INTERMEDIATE_WORDS.iter().any(|word| name.contains(word))
    });
    if fetchable || called || !rest.is_empty() {
        CertificateFault::MissingIntermediate
    } else {
        CertificateFault::UnknownIssuer
    }
}

/// id-ad-caIssuers: where the issuer's certificate may be fetched; certificates
/// issued by an intermediate carry it.
const CA_ISSUERS: &str = "1.3.6.1.5.5.7.48.2";
/// Words in the names of CAs that are no roots.
const INTERMEDIATE_WORDS: [&str; 5] = ["intermediate", "issuing", "sub ca", "subca", "sub-ca"];

/// The name of the issuer of the peer's certificate, for logs: what is missing when
/// the chain breaks.
pub fn issuer_of(connection: &Connection) -> Option<String> {
    let own = connection.peer_certificates()?.first()?;
    let (_, certificate) = X509Certificate::from_der(own).ok()?;
    Some(certificate.issuer().to_string())
}

/// Reads the names out of a certificate; the verdict stays open.
fn names_of(own: &CertificateDer<'_>) -> PeerCertificate {
    let mut peer = PeerCertificate { verdict: Some(Err(CertificateFault::Bad)), ..PeerCertificate::default() };
    let digest = ring::digest::digest(&ring::digest::SHA256, own);
    if let Ok(fingerprint) = digest.as_ref().try_into() {
        peer.fingerprint = fingerprint;
    }
    let Ok((_, certificate)) = X509Certificate::from_der(own) else { return peer };
    peer.expires = certificate.validity().not_after.timestamp().checked_mul(1000).map(Wall);
    match certificate.subject_alternative_name() {
        Ok(Some(names)) => names.value.general_names.iter().for_each(|name| read_name(name, &mut peer)),
        Ok(None) => {
            let mut common_names = certificate.subject().iter_common_name();
            if let (Some(name), None) = (common_names.next(), common_names.next()) {
                peer.common_name = name.as_str().ok().and_then(host);
            }
        }
        Err(_) => {}
    }
    peer.sip_only = match certificate.extended_key_usage() {
        Ok(Some(purposes)) => {
            let purposes = purposes.value;
            !purposes.any
                && !purposes.server_auth
                && purposes.other.iter().any(|oid| oid.to_id_string() == "1.3.6.1.5.5.7.3.20")
        }
        _ => false,
    };
    peer
}

/// Adds one subjectAltName entry, if it is one of those that name a domain.
fn read_name(name: &GeneralName<'_>, peer: &mut PeerCertificate) {
    match name {
        GeneralName::DNSName(name) => peer.dns_names.extend(host(name)),
        GeneralName::URI(uri) => peer.sip_hosts.extend(sip_host(uri)),
        GeneralName::OtherName(oid, value) => match oid.to_id_string().as_str() {
            // id-on-dnsSRV.
            "1.3.6.1.5.5.7.8.7" => peer.srv_names.extend(other_name(value).and_then(host)),
            // id-on-xmppAddr; it may hold more than ASCII.
            "1.3.6.1.5.5.7.8.5" => peer
                .xmpp_addresses
                .extend(other_name(value).filter(|name| !name.contains(char::is_control)).map(str::to_lowercase)),
            _ => {}
        },
        _ => {}
    }
}

/// A host name in lower case; `None` if it holds anything a host name cannot (NUL,
/// other characters than ASCII, a trailing dot).
fn host(name: &str) -> Option<String> {
    let fits = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.' | b'*');
    (!name.is_empty() && !name.ends_with('.') && name.bytes().all(fits)).then(|| name.to_ascii_lowercase())
}

/// The host of a `sip:` URI without a user part (RFC 5922 section 7.1).
fn sip_host(uri: &str) -> Option<String> {
    let (scheme, rest) = uri.split_once(':')?;
    if !scheme.eq_ignore_ascii_case("sip") || rest.contains('@') {
        return None;
    }
    host(rest.split([';', '?', ':']).next()?)
}

/// The text in the value of an otherName: `[0] EXPLICIT` around a UTF8String or an
/// IA5String; tools mix the two up.
fn other_name(value: &[u8]) -> Option<&str> {
    let string = der_content(value, 0xA0)?;
    core::str::from_utf8(der_content(string, 0x0C).or_else(|| der_content(string, 0x16))?).ok()
}

/// The content of one DER element with the tag `tag` that fills `der` whole.
fn der_content(der: &[u8], tag: u8) -> Option<&[u8]> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, content) = match first {
        0..=0x7F => (usize::from(first), rest),
        0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
        0x82 => (usize::from(*rest.first()?) << 8 | usize::from(*rest.get(1)?), rest.get(2..)?),
        _ => return None,
    };
    (found == tag && content.len() == length).then_some(content)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use rcgen::{
        BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
        OtherNameValue, SanType, date_time_ymd,
    };

    /// 2026-01-15.
    const NOW: Wall = Wall(1_768_435_200_000);
    const ADDRESS: IpAddr = IpAddr::V4(core::net::Ipv4Addr::LOCALHOST);
    const SRV_NAME: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 8, 7];
    const XMPP_ADDRESS: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 8, 5];

    /// A certificate with its key, and what it takes to issue others with it.
    pub(crate) struct Made {
        params: CertificateParams,
        key: KeyPair,
        pub(crate) pem: String,
    }

    impl Made {
        fn key_pem(&self) -> String {
            self.key.serialize_pem()
        }
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.not_before = date_time_ymd(2025, 1, 1);
        params.not_after = date_time_ymd(2027, 1, 1);
        params.distinguished_name.push(DnType::CommonName, name);
        params
    }

    fn sign(params: CertificateParams, issuer: Option<&Made>) -> Made {
        let key = KeyPair::generate().expect("a key");
        let certificate = match issuer {
            Some(issuer) => params.signed_by(&key, &Issuer::from_params(&issuer.params, &issuer.key)),
            None => params.self_signed(&key),
        };
        let pem = certificate.expect("a certificate").pem();
        Made { params, key, pem }
    }

    fn ca(name: &str, issuer: Option<&Made>) -> Made {
        let mut params = params(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        sign(params, issuer)
    }

    fn leaf(issuer: Option<&Made>, change: impl FnOnce(&mut CertificateParams)) -> Made {
        let mut params = params("leaf");
        params.subject_alt_names.push(SanType::DnsName("chat.example".try_into().expect("a name")));
        change(&mut params);
        sign(params, issuer)
    }

    /// A `Tls` that shows `chain` and trusts `trust`.
    pub(crate) fn side(chain: &[&Made], trust: &[&Made]) -> Tls {
        let pem: String = chain.iter().map(|made| made.pem.as_str()).collect();
        let key = chain.first().map(|made| made.key_pem()).unwrap_or_default();
        let certificates = [("ours", pem.as_str(), key.as_str())];
        let trust: Vec<_> = trust.iter().map(|made| ("ca", made.pem.as_str())).collect();
        let certificates = if chain.is_empty() { &[] } else { &certificates[..] };
        Tls::new(&Material { certificates, trust: &trust, public_roots: true, ..Material::default() })
            .expect("good material")
    }

    /// One CA, a certificate for each side from it, and both sides.
    pub(crate) fn believers() -> (Tls, Tls) {
        let (a, b, _) = three_believers();
        (a, b)
    }

    /// The same, and one side more.
    pub(crate) fn three_believers() -> (Tls, Tls, Tls) {
        let ca = ca("Root", None);
        let one = || side(&[&leaf(Some(&ca), |_| {})], &[&ca]);
        (one(), one(), one())
    }

    fn carry(from: &mut Connection, to: &mut Connection) -> Result<(), rustls::Error> {
        let mut octets = Vec::new();
        while from.wants_write() {
            from.write_tls(&mut octets).expect("a Vec takes all");
        }
        let mut rest = octets.as_slice();
        while !rest.is_empty() {
            to.read_tls(&mut rest).expect("room");
            to.process_new_packets()?;
        }
        Ok(())
    }

    fn shake(client: &mut Tls, server: &mut Tls) -> Result<(Connection, Connection), rustls::Error> {
        let mut c = client
            .begin(TlsRole::Client, "chat.example", "chat.example", ADDRESS, "", false)
            .expect("a client session");
        let mut s =
            server.begin(TlsRole::Server, "chat.example", "chat.example", ADDRESS, "", true).expect("a server session");
        for _ in 0..4 {
            carry(&mut c, &mut s)?;
            carry(&mut s, &mut c)?;
        }
        assert!(!c.is_handshaking() && !s.is_handshaking());
        Ok((c, s))
    }

    /// What each side thinks of a peer that shows `chain`, when it trusts `trust`:
    /// once as the server that was connected to, once as the client that connects.
    fn judged(chain: &[&Made], trust: &[&Made]) -> PeerCertificate {
        let mut judge = side(chain, trust);
        let mut shown = side(chain, &[]);
        let (c, _) = shake(&mut judge, &mut shown).expect("a handshake");
        let as_server = judge.judge(&c, NOW);
        let (_, s) = shake(&mut shown, &mut judge).expect("a handshake");
        let as_client = judge.judge(&s, NOW);
        assert_eq!(as_server, as_client, "one judgement whichever side connects");
        as_client
    }

    fn verdict(chain: &[&Made], trust: &[&Made]) -> Result<(), CertificateFault> {
        judged(chain, trust).verdict.expect("a certificate was shown")
    }

    #[test]
    fn what_peers_will_not_believe_of_our_certificates_is_doubted() {
        let good = leaf(None, |_| {});
        let day = |year, month, day| Wall::from_civil(year, month, day, 0, 0, 0).expect("a day");
        let doubts = |made: &Made, host, domains: &[&str], wall| side(&[made], &[]).doubts(Some(host), domains, wall);
        assert_eq!(doubts(&good, "chat.example", &["chat.example"], day(2026, 1, 1)), [""; 0]);
        assert_eq!(side(&[], &[]).doubts(Some("chat.example"), &["chat.example"], day(2026, 1, 1)), [""; 0]);
        for (wall, said) in [
            (day(2024, 12, 31), "ours: it is not yet valid"),
            (day(2026, 12, 22), "ours: it expires in 10 days"),
            (day(2027, 1, 5), "ours: it expired 4 days ago"),
        ] {
            let said_then = doubts(&good, "chat.example", &[], wall);
            assert!(said_then.len() == 1 && said_then[0].contains(said), "{said_then:?}");
        }
        let said = doubts(&good, "gw.example", &["chat.example", "b\u{fc}cher.example"], day(2026, 1, 1));
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].contains("names gw.example") && said[1].contains("names xn--bcher-kva.example"), "{said:?}");
    }

    #[test]
    fn the_purpose_counts_as_that_of_a_server_in_both_directions() {
        let root = ca("Root", None);
        let with = |purposes: &[ExtendedKeyUsagePurpose]| {
            let made = leaf(Some(&root), |p| p.extended_key_usages = purposes.to_vec());
            verdict(&[&made], &[&root])
        };
        use ExtendedKeyUsagePurpose::{Any, ClientAuth, CodeSigning, Other, ServerAuth};
        assert_eq!(with(&[]), Ok(()));
        assert_eq!(with(&[ServerAuth]), Ok(()));
        assert_eq!(with(&[ServerAuth, ClientAuth]), Ok(()));
        assert_eq!(with(&[Any]), Ok(()));
        assert_eq!(with(&[ClientAuth]), Err(CertificateFault::NotForServers));
        assert_eq!(with(&[CodeSigning]), Err(CertificateFault::NotForServers));
        let sip_domain = Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 20]);
        assert_eq!(with(&[sip_domain.clone(), ClientAuth]), Ok(()));
        let made = leaf(Some(&root), |p| p.extended_key_usages = vec![sip_domain]);
        let peer = judged(&[&made], &[&root]);
        assert!(peer.names_sip_domain("chat.example") && !peer.names_xmpp_domain("chat.example", "chat.example"));
    }

    #[test]
    fn time_is_that_of_the_reactor_and_each_way_of_missing_it_has_its_fault() {
        let root = ca("Root", None);
        let expired = leaf(Some(&root), |p| p.not_after = date_time_ymd(2026, 1, 1));
        assert_eq!(verdict(&[&expired], &[&root]), Err(CertificateFault::Expired));
        let early = leaf(Some(&root), |p| p.not_before = date_time_ymd(2026, 2, 1));
        assert_eq!(verdict(&[&early], &[&root]), Err(CertificateFault::NotYetValid));
    }

    #[test]
    fn a_chain_that_leads_nowhere_says_where_it_breaks() {
        let (root, wrong) = (ca("Root", None), ca("Wrong", None));
        let middle = ca("Intermediate 1", Some(&root));
        let deep = ca("Intermediate 2", Some(&middle));
        let from_root = leaf(Some(&root), |_| {});
        let from_middle = leaf(Some(&middle), |_| {});
        let from_deep = leaf(Some(&deep), |_| {});
        let itself = leaf(None, |_| {});
        let ca_itself = leaf(None, |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
        for (chain, trust, expected) in [
            (vec![&from_root], &root, Ok(())),
            (vec![&from_root, &root], &root, Ok(())),
            (vec![&from_middle, &middle], &root, Ok(())),
            (vec![&from_deep, &deep, &middle], &root, Ok(())),
            // Out of order, and with a certificate that has nothing to do with it.
            (vec![&from_deep, &middle, &wrong, &deep], &root, Ok(())),
            (vec![&from_root], &wrong, Err(CertificateFault::UnknownIssuer)),
            (vec![&from_root, &root], &wrong, Err(CertificateFault::UnknownIssuer)),
            (vec![&from_middle, &middle], &wrong, Err(CertificateFault::UnknownIssuer)),
            (vec![&from_middle], &root, Err(CertificateFault::MissingIntermediate)),
            (vec![&from_middle, &root], &root, Err(CertificateFault::MissingIntermediate)),
            (vec![&itself], &root, Err(CertificateFault::SelfSigned)),
            (vec![&ca_itself], &root, Err(CertificateFault::SelfSigned)),
            // The operator trusts this very certificate.
            (vec![&itself], &itself, Ok(())),
            (vec![&ca_itself], &ca_itself, Ok(())),
        ] {
            let names: Vec<_> = chain.iter().map(|made| made.params.distinguished_name.clone()).collect();
            assert_eq!(verdict(&chain, &[trust]), expected, "{names:?}");
        }
    }

    /// The list of a CA, with the certificate of that serial number on it.
    fn list(of: &Made, serial: u64) -> String {
        list_of_day(of, serial, 2)
    }

    /// The same, made on that day.
    fn list_of_day(of: &Made, serial: u64, day: u8) -> String {
        let entry = rcgen::RevokedCertParams {
            serial_number: serial.into(),
            revocation_time: date_time_ymd(2025, 6, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let list = rcgen::CertificateRevocationListParams {
            this_update: date_time_ymd(2025, 6, day),
            // Out of date by now: who was on it still is.
            next_update: date_time_ymd(2025, 7, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: vec![entry],
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        let signed = list.signed_by(&Issuer::from_params(&of.params, &of.key)).expect("a list");
        signed.pem().expect("PEM")
    }

    #[test]
    fn what_is_on_a_list_of_its_ca_is_revoked_and_nothing_else() {
        let (root, other) = (ca("Root", None), ca("Other", None));
        let middle = ca("Intermediate", Some(&root));
        let seven = leaf(Some(&root), |p| p.serial_number = Some(7.into()));
        let eight = leaf(Some(&root), |p| p.serial_number = Some(8.into()));
        let below = leaf(Some(&middle), |p| p.serial_number = Some(7.into()));
        let verdict = |chain: &[&Made], lists: &str| {
            let trust = [("root", root.pem.as_str())];
            let revoked = [("lists", lists)];
            let tls = Tls::new(&Material { trust: &trust, revoked: &revoked, ..Material::default() }).expect("good");
            let chain: Vec<_> = chain.iter().flat_map(|made| chain_of(&made.pem).expect("a certificate")).collect();
            tls.verdict(&chain[0], &chain[1..], NOW).map(drop)
        };
        let of_root = list(&root, 7);
        assert_eq!(verdict(&[&seven], &of_root), Err(CertificateFault::Revoked));
        assert_eq!(verdict(&[&eight], &of_root), Ok(()));
        assert_eq!(verdict(&[&below, &middle], &of_root), Ok(()), "a list of another CA");
        assert_eq!(verdict(&[&seven], &list(&other, 7)), Ok(()), "a list of a stranger");
        assert_eq!(verdict(&[&seven], &(list(&other, 7) + &of_root)), Err(CertificateFault::Revoked));
        let newer = list_of_day(&root, 8, 3);
        for lists in [newer.clone() + &of_root, of_root + &newer] {
            assert_eq!(verdict(&[&eight], &lists), Err(CertificateFault::Revoked), "the newest list of a CA counts");
        }
    }

    #[test]
    fn a_trusted_certificate_of_a_peer_still_has_its_time_and_purpose() {
        let late = leaf(None, |p| p.not_after = date_time_ymd(2026, 1, 1));
        assert_eq!(verdict(&[&late], &[&late]), Err(CertificateFault::Expired));
        let client = leaf(None, |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]);
        assert_eq!(verdict(&[&client], &[&client]), Err(CertificateFault::NotForServers));
    }

    /// A CA that may issue for `other.example` alone.
    fn bound_ca(issuer: Option<&Made>) -> Made {
        let mut bound = params("Bound");
        bound.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        bound.name_constraints = Some(rcgen::NameConstraints {
            permitted_subtrees: vec![rcgen::GeneralSubtree::DnsName("other.example".into())],
            excluded_subtrees: vec![rcgen::GeneralSubtree::DnsName("secret.other.example".into())],
        });
        sign(bound, issuer)
    }

    #[test]
    fn a_ca_stays_within_its_name_constraints() {
        let bound = bound_ca(None);
        let made = leaf(Some(&bound), |_| {});
        assert_eq!(verdict(&[&made], &[&bound]), Err(CertificateFault::NameConstraint));
    }

    #[test]
    fn a_bound_ca_gains_nothing_by_other_kinds_of_names() {
        let root = ca("Root", None);
        for (bound, chain) in [(bound_ca(None), false), (bound_ca(Some(&root)), true)] {
            let other =
                |oid: &[u64], name: &str| SanType::OtherName((oid.to_vec(), OtherNameValue::Utf8String(name.into())));
            let uri = |name: &str| SanType::URI(name.try_into().expect("ASCII"));
            let made = leaf(Some(&bound), |p| {
                p.subject_alt_names = vec![
                    other(SRV_NAME, "_xmpp-server.chat.example"),
                    other(SRV_NAME, "_xmpp-server.a.other.example"),
                    other(XMPP_ADDRESS, "chat.example"),
                    other(XMPP_ADDRESS, "x.secret.other.example"),
                    uri("sip:chat.example"),
                    uri("sip:other.example"),
                    uri("sip:another.example"),
                ];
            });
            let peer = if chain { judged(&[&made, &bound], &[&root]) } else { judged(&[&made], &[&bound]) };
            assert!(peer.is_trusted());
            assert_eq!(peer.srv_names, ["_xmpp-server.a.other.example"]);
            assert_eq!(peer.sip_hosts, ["other.example"]);
            assert!(peer.xmpp_addresses.is_empty());
            let foreign = leaf(Some(&bound), |p| p.subject_alt_names = vec![uri("sip:chat.example")]);
            let judgement =
                if chain { verdict(&[&foreign, &bound], &[&root]) } else { verdict(&[&foreign], &[&bound]) };
            assert_eq!(judgement, Err(CertificateFault::NameConstraint));
        }
    }

    #[test]
    fn every_kind_of_name_is_read_and_nothing_that_is_none() {
        let root = ca("Root", None);
        let made = leaf(Some(&root), |p| {
            let other =
                |oid: &[u64], name: &str| SanType::OtherName((oid.to_vec(), OtherNameValue::Utf8String(name.into())));
            let dns = |name: &str| SanType::DnsName(name.try_into().expect("ASCII"));
            let uri = |name: &str| SanType::URI(name.try_into().expect("ASCII"));
            p.subject_alt_names = vec![
                dns("*.Rooms.Example"),
                dns("xn--bcher-kva.example"),
                dns("chat.example\0.evil.example"),
                dns("dot.example."),
                SanType::IpAddress(ADDRESS),
                other(SRV_NAME, "_xmpp-server.srv.example"),
                other(XMPP_ADDRESS, "Bücher.example"),
                other(XMPP_ADDRESS, "nul\0.example"),
                uri("sip:voip.example"),
                uri("SIP:port.example:5061;transport=tls"),
                uri("sip:alice@user.example"),
                uri("sips:secure.example"),
            ];
        });
        let peer = judged(&[&made], &[&root]);
        assert_eq!(peer.dns_names, ["*.rooms.example", "xn--bcher-kva.example"]);
        assert_eq!(peer.srv_names, ["_xmpp-server.srv.example"]);
        assert_eq!(peer.xmpp_addresses, ["bücher.example"]);
        assert_eq!(peer.sip_hosts, ["voip.example", "port.example"]);
        assert_eq!(peer.common_name, None);
        assert!(peer.names_xmpp_domain("a.rooms.example", "a.rooms.example"));
        assert!(peer.names_xmpp_domain("srv.example", "srv.example"));
        assert!(!peer.names_xmpp_domain("chat.example", "chat.example"));
    }

    #[test]
    fn an_srv_name_is_read_as_the_ia5_string_it_should_be() {
        let root = ca("Root", None);
        let made = leaf(Some(&root), |p| {
            p.subject_alt_names.clear();
            let name = b"_xmpp-server.srv.example";
            let mut string = vec![0x16, name.len() as u8];
            string.extend_from_slice(name);
            let mut inner = vec![0x06, 8, 0x2B, 6, 1, 5, 5, 7, 8, 7, 0xA0, string.len() as u8];
            inner.extend_from_slice(&string);
            let mut content = vec![0x30, inner.len() as u8 + 2, 0xA0, inner.len() as u8];
            content.extend_from_slice(&inner);
            p.custom_extensions.push(CustomExtension::from_oid_content(&[2, 5, 29, 17], content));
        });
        assert_eq!(judged(&[&made], &[&root]).srv_names, ["_xmpp-server.srv.example"]);
    }

    #[test]
    fn the_common_name_is_read_only_where_there_is_no_alternative_name() {
        let root = ca("Root", None);
        let bare = leaf(Some(&root), |p| {
            p.subject_alt_names.clear();
            p.distinguished_name.push(DnType::CommonName, "Voip.example");
        });
        assert_eq!(judged(&[&bare], &[&root]).common_name.as_deref(), Some("voip.example"));
        assert_eq!(judged(&[&leaf(Some(&root), |_| {})], &[&root]).common_name, None);
    }

    #[test]
    fn a_client_without_a_certificate_is_let_in_with_no_verdict() {
        let root = ca("Root", None);
        let made = leaf(Some(&root), |_| {});
        let (mut client, mut server) = (side(&[], &[&root]), side(&[&made], &[&root]));
        let (c, s) = shake(&mut client, &mut server).expect("a handshake");
        assert_eq!(server.judge(&s, NOW).verdict, None);
        assert!(client.judge(&c, NOW).is_trusted());
        assert!(client.judge(&c, NOW).protocol.starts_with("TLSv1_3/"));
        let mut nobody = side(&[], &[]);
        let refused = nobody.begin(TlsRole::Server, "", "", ADDRESS, "", false);
        assert_eq!(refused.err(), Some(NotBegun::NoCertificate));
    }

    #[test]
    fn a_resumed_session_is_judged_again() {
        let (mut a, mut b) = believers();
        let (first, _) = shake(&mut a, &mut b).expect("a handshake");
        assert_eq!(first.handshake_kind(), Some(rustls::HandshakeKind::Full));
        let (second, other) = shake(&mut a, &mut b).expect("a handshake");
        assert_eq!(second.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
        assert!(a.judge(&second, NOW).is_trusted() && b.judge(&other, NOW).is_trusted());
        let later = Wall(NOW.0 + 400 * 86_400_000);
        assert_eq!(b.judge(&other, later).verdict, Some(Err(CertificateFault::Expired)));
    }

    #[test]
    fn the_certificate_shown_is_the_one_that_names_what_was_asked_for() {
        let root = ca("Root", None);
        let named = |name: &str| {
            leaf(Some(&root), |p| p.subject_alt_names = vec![SanType::DnsName(name.try_into().expect("a name"))])
        };
        let made = [named("first.example"), named("*.second.example"), named("third.example")];
        let keys: Vec<String> = made.iter().map(Made::key_pem).collect();
        let certificates: Vec<_> =
            made.iter().zip(&keys).map(|(made, key)| ("name", made.pem.as_str(), key.as_str())).collect();
        let mut server =
            Tls::new(&Material { certificates: &certificates, ..Material::default() }).expect("good material");
        let mut client = side(&[], &[&root]);
        let mut shown = |asked: &str, local: &str| {
            let mut c = client.begin(TlsRole::Client, "", asked, ADDRESS, "", false).expect("a session");
            let mut s = server.begin(TlsRole::Server, local, "", ADDRESS, "", false).expect("a session");
            for _ in 0..3 {
                carry(&mut c, &mut s).expect("no alert");
                carry(&mut s, &mut c).expect("no alert");
            }
            client.judge(&c, NOW).dns_names.concat()
        };
        assert_eq!(shown("a.second.example", "third.example"), "*.second.example");
        assert_eq!(shown("unknown.example", "third.example"), "third.example");
        assert_eq!(shown("unknown.example", "unknown.example"), "first.example");
        assert_eq!(shown("", "third.example"), "third.example");
    }

    #[test]
    fn the_cas_asked_for_are_the_configured_ones_alone() {
        let root = ca("Root", None);
        let made = leaf(Some(&root), |_| {});
        let tls = side(&[&made], &[&root]);
        assert_eq!(ClientCertVerifier::root_hint_subjects(&*tls.hints).len(), 1);
        assert!(ClientCertVerifier::root_hint_subjects(&*tls.any).is_empty());
    }

    #[test]
    fn alpn_is_agreed_or_the_handshake_fails() {
        let (mut a, mut b) = believers();
        let mut c = a.begin(TlsRole::Client, "", "chat.example", ADDRESS, "xmpp-server", false).expect("a session");
        let mut s = b.begin(TlsRole::Server, "", "", ADDRESS, "xmpp-server", false).expect("a session");
        for _ in 0..3 {
            carry(&mut c, &mut s).expect("no alert");
            carry(&mut s, &mut c).expect("no alert");
        }
        assert_eq!(s.alpn_protocol(), Some(&b"xmpp-server"[..]));
        let mut c = a.begin(TlsRole::Client, "", "chat.example", ADDRESS, "h2", false).expect("a session");
        let mut s = b.begin(TlsRole::Server, "", "", ADDRESS, "xmpp-server", false).expect("a session");
        assert!(carry(&mut c, &mut s).is_err());
    }

    #[test]
    fn unusable_texts_are_refused_with_the_setting_that_holds_them() {
        let root = ca("Root", None);
        let (a, b) = (leaf(Some(&root), |_| {}), leaf(Some(&root), |_| {}));
        let of = |chain: &str, key: &str, trust: &str| {
            let certificates = [("main", chain, key)];
            let trust = [("house", trust)];
            Tls::new(&Material { certificates: &certificates, trust: &trust, ..Material::default() })
                .expect_err("unusable")
                .to_string()
        };
        assert!(of("", &a.key_pem(), &root.pem).starts_with("tls certificate main chain: holds no certificate"));
        assert!(of(&a.pem, "no key", &root.pem).starts_with("tls certificate main key: no private key"));
        assert!(of(&a.pem, &b.key_pem(), &root.pem).contains("does not belong"));
        assert!(of(&a.pem, &a.key_pem(), "nothing").starts_with("tls trust house: "));
        let revoked = [("ours", a.pem.as_str())];
        let fault = Tls::new(&Material { revoked: &revoked, ..Material::default() }).map(drop).expect_err("no list");
        assert!(fault.path == "tls revoked ours" && fault.what.contains("no revocation list"), "{fault:?}");
    }

    #[test]
    fn weak_signatures_are_no_proof() {
        let later = Wall(1_900_000_000_000);
        for (own, ca) in [(SHA1_LEAF, STRONG_CA), (LEAF_OF_RSA_1024, RSA_1024_CA)] {
            let tls = Tls::new(&Material { trust: &[("ca", ca)], ..Material::default() }).expect("good material");
            let own = chain_of(own).expect("a certificate");
            assert_eq!(tls.verdict(&own[0], &[], later).err(), Some(CertificateFault::Bad));
        }
    }

    // Made with openssl, which still signs so.
    const STRONG_CA: &str = "-----BEGIN CERTIFICATE-----
MIIBbjCCARWgAwIBAgIUInZhZl/L1gAkyJz4kxYUx14DV4owCgYIKoZIzj0EAwIw
DDEKMAgGA1UEAwwBUjAgFw0yNjExMjMwMTE1MTdaGA8yMTI2MTAzMDAxMTUxN1ow
DDEKMAgGA1UEAwwBUjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABLyuWeOTyl0P
7nhZDQOVUbcO0Gj2rCOHSAQQ8Gg5oK400XW+oyoIzauI4f6efhtPuF1zQFqzhaQz
wB7hcDGSzDSjUzBRMB0GA1UdDgQWBBQHBkQz64+i6yT9nBlltmpA/ribZTAfBgNV
HSMEGDAWgBQHBkQz64+i6yT9nBlltmpA/ribZTAPBgNVHRMBAf8EBTADAQH/MAoG
CCqGSM49BAMCA0cAMEQCIFPQT5I93lWjqsZthE1n1U/ETkKrCETT5hfLwPaB/Z2w
AiBTCQ/3qmE8Su8IWcN0jRD4W0qupQqm4jkEQQvLpVqWAg==
-----END CERTIFICATE-----";

    const SHA1_LEAF: &str = "-----BEGIN CERTIFICATE-----
MIIBYzCCAQmgAwIBAgIBAjAJBgcqhkjOPQQBMAwxCjAIBgNVBAMMAVIwIBcNMjYx
MTIzMDExNTE4WhgPMjEyNjEwMzAwMTE1MThaMAwxCjAIBgNVBAMMAWwwWTATBgcq
hkjOPQIBBggqhkjOPQMBBwNCAAR0DTItDQnBhvPaQL73NLIs8cmSbcLVLU3JVhrT
sb5zBQuzzMdjT5KAtsr1io63iBr1Lp2i74wiyttLULda4NLZo1swWTAXBgNVHREE
EDAOggxjaGF0LmV4YW1wbGUwHQYDVR0OBBYEFM+fp85CjbIclDWdmlwavjVJc3cU
MB8GA1UdIwQYMBaAFAcGRDPrj6LrJP2cGWW2akD+uJtlMAkGByqGSM49BAEDSQAw
RgIhAOukoRBzwiMN5kL9TrHiAEm+o+D6Y56Ux03l2WFxwTORAiEAknGJ2B1vizOC
rSQwNA0ur8JG48CSfhqOPSnDg2YOkVc=
-----END CERTIFICATE-----";

    const RSA_1024_CA: &str = "-----BEGIN CERTIFICATE-----
MIIB9jCCAV+gAwIBAgIUP9dd5Z8yP1kt8QLRaLbQsfXvvLQwDQYJKoZIhvcNAQEL
BQAwDDEKMAgGA1UEAwwBVzAgFw0yNjExMjMwMTE1MThaGA8yMTI2MTAzMDAxMTUx
OFowDDEKMAgGA1UEAwwBVzCBnzANBgkqhkiG9w0BAQEFAAOBjQAwgYkCgYEAptoc
A5nJH2KYKhi3GYrk7tt/6FwjYPU85F9i5KXfIK382C0UPDQfI1sCf7An8z+IoNEg
0SLK/hJDhQf9A1Aaq3K8CdYEMG8fJ7HAivwzssMqOQEnuaUbaL4J42vdFYKfNJgC
0wm8bvDmaj0wk5Dz3HFNlAqqJrJit1D5H3svansCAwEAAaNTMFEwHQYDVR0OBBYE
FFPDl/mcPDPv2RJp7mIHeIk2ochCMB8GA1UdIwQYMBaAFFPDl/mcPDPv2RJp7mIH
eIk2ochCMA8GA1UdEwEB/wQFMAMBAf8wDQYJKoZIhvcNAQELBQADgYEAJjg7IaeY
jSJCF2uSjwkIT4Qg1dVwWOsvM91CxMhv7uwLtCfUhXpENe/owyPLW0PvGTo1k6Tn
AjgddV6AYtbvhyGxM4CuNVc+KFL9oGgxdkgsjjSVN3uR+1pMU4wgMXuodOBchIP+
cHk0xo4r0+z0sjYgUKMuyG9X54LNQX6E1TU=
-----END CERTIFICATE-----";

    const LEAF_OF_RSA_1024: &str = "-----BEGIN CERTIFICATE-----
MIIBpDCCAQ2gAwIBAgIBAzANBgkqhkiG9w0BAQsFADAMMQowCAYDVQQDDAFXMCAX
DTI2MTEyMzAxMTUxOFoYDzIxMjYxMDMwMDExNTE4WjAMMQowCAYDVQQDDAFsMFkw
EwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEdA0yLQ0JwYbz2kC+9zSyLPHJkm3C1S1N
yVYa07G+cwULs8zHY0+SgLbK9YqOt4ga9S6dou+MIsrbS1C3WuDS2aNbMFkwFwYD
VR0RBBAwDoIMY2hhdC5leGFtcGxlMB0GA1UdDgQWBBTPn6fOQo2yHJQ1nZpcGr41
SXN3FDAfBgNVHSMEGDAWgBRTw5f5nDwz79kSae5iB3iJNqHIQjANBgkqhkiG9w0B
AQsFAAOBgQCmMJOe/mszxSW5dfgqzNMNMJbfD3LxI27QgO3I4wH7YYpyS/wgo+F0
ggRwJ8YI/CjsZReUa7UwX1y3lZjOJq8VekGghqTHMTFclTJrJ0nlLMhL1dDeQrw6
DMGjbOL9xVv9eocaPSQAozjj94pvYn9Wg0y2KIRRL1EZuuDg/3OkbQ==
-----END CERTIFICATE-----";

    #[test]
    fn der_that_lies_about_its_length_holds_no_name() {
        for der in [&[][..], &[0xA0], &[0xA0, 5, 0x0C, 1], &[0xA0, 0x84, 0, 0, 0, 1], &[0xA0, 3, 0x0C, 2, b'a']] {
            assert_eq!(other_name(der), None, "{der:?}");
        }
        assert_eq!(other_name(&[0xA0, 3, 0x0C, 1, b'a']), Some("a"));
        assert_eq!(other_name(&[0xA0, 0x81, 3, 0x0C, 1, b'a']), Some("a"));
    }
}
