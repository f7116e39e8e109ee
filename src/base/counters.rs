//! What is counted: one list, one array. Whatever is refused or lost has a counter
//! with its reason in the name (promise P8).

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// One thing that is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(usize)]
        pub enum Counter { $($(#[$doc])* $variant,)* }

        impl Counter {
            /// Every counter, in the order they are shown.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The stable name, as logs and metrics have it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

counters! {
    // The balance of promise P8: for each direction in = out + error + refused.
    /// Messages taken in from SIP: new MESSAGE transactions.
    SipMessageIn = "sip.message.in",
    /// Messages from SIP that XMPP took.
    SipMessageDelivered = "sip.message.delivered",
    /// Messages from SIP answered with a failure after they were tried on XMPP.
    SipMessageFailed = "sip.message.failed",
    /// Messages from SIP refused before anything was sent to XMPP.
    SipMessageRefused = "sip.message.refused",
    /// Messages from SIP that were taken and hold nothing to pass on.
    SipMessageNothing = "sip.message.nothing",
    /// Messages taken in from XMPP: `<message/>` of another type than `error`.
    XmppMessageIn = "xmpp.message.in",
    /// Messages from XMPP that SIP answered with 2xx.
    XmppMessageDelivered = "xmpp.message.delivered",
    /// Messages from XMPP answered with a stanza error after they were tried on SIP.
    XmppMessageFailed = "xmpp.message.failed",
    /// Messages from XMPP refused before anything was sent to SIP.
    XmppMessageRefused = "xmpp.message.refused",
    /// Messages from XMPP that hold nothing to pass on (no body).
    XmppMessageNothing = "xmpp.message.nothing",
    /// Stanza errors that came after the 200 and were told to the SIP sender.
    LateErrorNotified = "late-error.notified",
    /// Stanza errors that came after the 200 and were only logged.
    LateErrorLogged = "late-error.logged",
    /// Stanza errors that belong to nothing we sent.
    StrayError = "xmpp.error.stray",
    /// Iq requests answered with a result.
    IqAnswered = "xmpp.iq.answered",
    /// Iq requests answered with an error.
    IqRefused = "xmpp.iq.refused",
    /// Presence stanzas taken in.
    XmppPresenceIn = "xmpp.presence.in",
    /// Presence stanzas given to the XMPP side.
    XmppPresenceOut = "xmpp.presence.out",
    /// Presence stanzas refused: no right, no such user, no room.
    PresenceRefused = "xmpp.presence.refused",
    /// Presence stanzas that nobody on SIP watches for.
    PresenceUnwatched = "xmpp.presence.unwatched",
    /// Presence stanzas of type `error`.
    PresenceErrorIn = "xmpp.presence.error-in",
    /// Presence stanzas that did not arrive; what they said is said again.
    PresenceUndelivered = "xmpp.presence.undelivered",
    /// Changes and probes that were merged with later ones.
    PresenceCoalesced = "presence.coalesced",
    /// Presence put off or refused because a table had no room.
    PresenceOverload = "presence.overload",
    /// SUBSCRIBE requests taken in.
    SubscribeIn = "sip.subscribe.in",
    /// SUBSCRIBE requests answered 200.
    SubscribeTaken = "sip.subscribe.taken",
    /// SUBSCRIBE requests refused.
    SubscribeRefusedIn = "sip.subscribe.refused",
    /// SUBSCRIBE requests sent.
    SubscribeOut = "sip.subscribe.out",
    /// SUBSCRIBE requests of ours that SIP refused.
    SubscribeRefused = "sip.subscribe.refused-by-peer",
    /// Attempts to watch a SIP user that came to nothing and are made again.
    SubscribeFailed = "sip.subscribe.failed",
    /// NOTIFY requests taken in.
    NotifyIn = "sip.notify.in",
    /// NOTIFY requests answered 200.
    NotifyTaken = "sip.notify.taken",
    /// NOTIFY requests refused for what they say.
    NotifyRefused = "sip.notify.refused",
    /// NOTIFYs that came in the answer to a SUBSCRIBE.
    NotifyPiggybacked = "sip.notify.piggybacked",
    /// BENOTIFY requests taken in; none is ever answered.
    BenotifyIn = "sip.benotify.in",
    /// BENOTIFY requests that told something.
    BenotifyTaken = "sip.benotify.taken",
    /// BENOTIFY requests dropped: no such dialog, no right, or nothing to be read.
    BenotifyDropped = "sip.benotify.dropped",
    /// NOTIFY requests sent.
    NotifyOut = "sip.notify.out",
    /// NOTIFY requests of ours that failed.
    NotifyFailed = "sip.notify.failed",
    /// Sessions that SIP users wanted to open: new INVITEs.
    SessionIn = "sip.session.in",
    /// INVITEs refused: no messages offered, no right, no room.
    SessionRefusedIn = "sip.session.refused",
    /// INVITEs sent.
    SessionOut = "sip.session.out",
    /// INVITEs of ours that SIP refused.
    SessionRefused = "sip.session.refused-by-peer",
    /// Sessions that came about, both directions.
    SessionOpened = "sip.session.opened",
    /// Sessions that ended, or did not come about.
    SessionEnded = "sip.session.ended",
    /// Messages sent again in a new session, since the old one was dead.
    SessionRenewed = "sip.session.renewed",
    /// First messages that said again what the INVITE had said.
    SessionFirstRepeated = "sip.session.first-repeated",
    /// Notices that an XMPP user types, sent.
    TypingOut = "sip.typing.out",
    /// Chat states sent.
    ChatStateOut = "xmpp.chat-state.out",
    /// Receipts sent.
    ReceiptOut = "xmpp.receipt.out",
    /// Records of contacts that could not be read at the start.
    RecordRefused = "state.record-refused",

    // SIP
    /// Octets that are no SIP message, or one that breaks the grammar.
    SipMalformed = "sip.refused.malformed",
    /// Requests whose sender's domain the connection did not prove.
    SipForbidden = "sip.refused.forbidden",
    /// Requests of methods not served.
    SipMethodRefused = "sip.refused.method",
    /// Other requests refused (Require, Request-URI, hops, loops, body).
    SipRequestRefused = "sip.refused.request",
    /// Requests merged or looped (482).
    SipLoop = "sip.refused.loop",
    /// Requests refused because a table was full (503).
    SipOverload = "sip.refused.overload",
    /// Retransmitted requests, absorbed.
    SipRetransmissionIn = "sip.retransmission.in",
    /// Requests and responses sent again.
    SipRetransmissionOut = "sip.retransmission.out",
    /// Responses that match no transaction, dropped.
    SipStrayResponse = "sip.response.stray",
    /// Client transactions that got no answer.
    SipTimeout = "sip.timeout",
    /// Requests of calls that were sent on to the other side.
    SipRelayed = "sip.relay.request",
    /// Requests of calls that were not sent on: rights, hops, extensions, room.
    SipRelayRefused = "sip.relay.refused",
    /// Requests of calls that were sent on and came to nothing by no answer of the other side.
    SipRelayFailed = "sip.relay.failed",
    /// SIP connections refused or closed: limit, bad framing, slow sender, certificate.
    SipConnectionRefused = "sip.connection.refused",

    // XMPP
    /// Streams that were closed with a stream error of ours.
    StreamErrorSent = "xmpp.stream.error-sent",
    /// Streams that the partner closed with a stream error.
    StreamErrorReceived = "xmpp.stream.error-received",
    /// Streams that could not be opened.
    StreamFailed = "xmpp.stream.failed",
    /// Streams refused by a limit.
    StreamLimit = "xmpp.stream.limit",
    /// Streams opened and authenticated, both directions.
    StreamOpened = "xmpp.stream.opened",
    /// Stanzas whose sender's domain the stream did not prove.
    InvalidFrom = "xmpp.refused.invalid-from",
    /// Stanzas and streams to domains not served.
    HostUnknown = "xmpp.refused.host-unknown",
    /// XML refused: not well-formed, restricted, or beyond a limit.
    XmlRefused = "xmpp.refused.xml",
    /// Stanzas from domains that are no partner.
    NotPartner = "xmpp.refused.not-partner",
    /// Requests and stanzas of domains that were merely discovered, refused for their rate.
    DiscoveredHeld = "discovered.held",
    /// Those of such domains that addressed too many users.
    DiscoveredBlocked = "discovered.blocked",
    /// Messages and subscriptions for SIP users who did not exist a moment ago.
    UnknownUser = "sip.user-unknown",
    /// Servers that the DNS names for a SIP domain and that are outside of it.
    SrvForeignTarget = "dns.srv.foreign-target",
    /// Messages, presence and calls that the SIP user's policy does not allow.
    PolicyRefused = "policy.refused",
    /// Requests of SIP users who are not verified, for those who have them not as contacts.
    Unverified = "policy.unverified",
    /// Those that a public provider does not carry, or no more.
    ProviderRefused = "provider.refused",
    /// Those for which no licence of a public provider was left.
    LicenceRefused = "provider.refused.licence",
    /// Dialback keys that were wrong or came unasked.
    DialbackInvalid = "xmpp.dialback.invalid",
    /// Certificates not believed.
    CertificateRefused = "tls.certificate.refused",
    /// Stanzas sent again on a new or resumed stream.
    StanzaResent = "xmpp.stanza.resent",
    /// Stanzas given up: queue full, stream lost, timeout.
    StanzaUndelivered = "xmpp.stanza.undelivered",

    // DNS and the box
    /// DNS questions sent.
    DnsQuery = "dns.query",
    /// DNS answers that were forged, late, or not to the question.
    DnsRefused = "dns.refused",
    /// DNS questions that no server answered.
    DnsTimeout = "dns.timeout",
    /// Domains not looked up because too many were.
    DnsOverload = "dns.overload",
    /// Messages stopped because they ran in a circle.
    Loop = "gateway.loop",
    /// Connections accepted and closed at once: a table was full.
    AcceptRefused = "io.accept.refused",
    /// TLS handshakes that failed, and sessions that broke.
    TlsFailed = "tls.failed",
    /// Links closed because too much waited on them.
    LinkOverflow = "io.link.overflow",
    /// Datagrams the kernel did not take.
    DatagramLost = "io.datagram.lost",
    /// Attempts to make what must survive a restart safe that failed.
    StoreFailed = "state.failed",
    /// Files of what must survive a restart that were found damaged.
    StoreDamaged = "state.damaged",
    /// Log lines collapsed because they repeated, or dropped because of their rate.
    LogCollapsed = "log.collapsed",
}

/// The counters' values.
#[derive(Clone, Debug)]
pub struct Counters([u64; Counter::ALL.len()]);

impl Default for Counters {
    fn default() -> Self {
        Self([0; Counter::ALL.len()])
    }
}

impl Counters {
    /// Adds one.
    pub fn add(&mut self, counter: Counter) {
        self.0[counter as usize] += 1;
    }

    /// How often it was counted.
    pub fn of(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }
}
