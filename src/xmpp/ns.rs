//! One constant a namespace.

/// Stanzas between servers (RFC 6120 section 4.8.3).
pub const SERVER: &str = "jabber:server";
/// Stanzas between a client and its server: never on a stream of ours.
pub const CLIENT: &str = "jabber:client";
/// Stanzas of an external component (XEP-0114).
pub const COMPONENT: &str = "jabber:component:accept";
/// The stream element, its features and errors (RFC 6120 section 4.8.1).
pub const STREAMS: &str = "http://etherx.jabber.org/streams";
/// Conditions of stream errors.
pub const STREAM_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-streams";
/// Conditions of stanza errors.
pub const STANZA_ERRORS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";
/// STARTTLS.
pub const TLS: &str = "urn:ietf:params:xml:ns:xmpp-tls";
/// SASL.
pub const SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
/// Server dialback (XEP-0220).
pub const DIALBACK: &str = "jabber:server:dialback";
/// The stream feature of server dialback.
pub const DIALBACK_FEATURE: &str = "urn:xmpp:features:dialback";
/// Bidirectional streams (XEP-0288).
pub const BIDI: &str = "urn:xmpp:bidi";
/// The stream feature of bidirectional streams.
pub const BIDI_FEATURE: &str = "urn:xmpp:features:bidi";
/// Stream management (XEP-0198).
pub const MANAGEMENT: &str = "urn:xmpp:sm:3";
/// Stream limits (XEP-0478).
pub const STREAM_LIMITS: &str = "urn:xmpp:stream-limits:0";
/// Stream compression (XEP-0138): refused.
pub const COMPRESSION: &str = "http://jabber.org/protocol/compress";
/// Ping (XEP-0199).
pub const PING: &str = "urn:xmpp:ping";
/// Service discovery of an entity (XEP-0030).
pub const DISCO_INFO: &str = "http://jabber.org/protocol/disco#info";
/// Service discovery of what is found at an entity.
pub const DISCO_ITEMS: &str = "http://jabber.org/protocol/disco#items";
/// Entity capabilities (XEP-0115).
pub const CAPS: &str = "http://jabber.org/protocol/caps";
/// Software version (XEP-0092).
pub const VERSION: &str = "jabber:iq:version";
/// Entity time (XEP-0202).
pub const TIME: &str = "urn:xmpp:time";
/// Last activity (XEP-0012).
pub const LAST: &str = "jabber:iq:last";
/// The feature of escaped local parts (XEP-0106); it is no URI.
pub const JID_ESCAPING: &str = "jid\\20escaping";
/// Delayed delivery (XEP-0203).
pub const DELAY: &str = "urn:xmpp:delay";
/// Chat states (XEP-0085).
pub const CHAT_STATES: &str = "http://jabber.org/protocol/chatstates";
/// Delivery receipts (XEP-0184).
pub const RECEIPTS: &str = "urn:xmpp:receipts";
/// Chat markers (XEP-0333).
pub const MARKERS: &str = "urn:xmpp:chat-markers:0";
/// Message correction (XEP-0308).
pub const CORRECTION: &str = "urn:xmpp:message-correct:0";
/// Out-of-band data (XEP-0066).
pub const OOB: &str = "jabber:x:oob";
/// Stanza ids (XEP-0359).
pub const STANZA_ID: &str = "urn:xmpp:sid:0";
/// User nickname (XEP-0172).
pub const NICK: &str = "http://jabber.org/protocol/nick";
/// Idle time in presence (XEP-0319).
pub const IDLE: &str = "urn:xmpp:idle:1";
/// Formatted text (XEP-0071).
pub const XHTML_IM: &str = "http://jabber.org/protocol/xhtml-im";
/// XHTML itself.
pub const XHTML: &str = "http://www.w3.org/1999/xhtml";
/// Chat rooms: joining (XEP-0045).
pub const MUC: &str = "http://jabber.org/protocol/muc";
/// Chat rooms: what a room tells its occupants.
pub const MUC_USER: &str = "http://jabber.org/protocol/muc#user";
/// Direct invitation to a room (XEP-0249).
pub const CONFERENCE: &str = "jabber:x:conference";
/// Message carbons (XEP-0280).
pub const CARBONS: &str = "urn:xmpp:carbons:2";
/// Forwarded stanzas (XEP-0297).
pub const FORWARD: &str = "urn:xmpp:forward:0";
/// OMEMO (XEP-0384), the version most clients speak.
pub const OMEMO_LEGACY: &str = "eu.siacs.conversations.axolotl";
/// OMEMO (XEP-0384), current.
pub const OMEMO: &str = "urn:xmpp:omemo:2";
/// OpenPGP for XMPP (XEP-0373).
pub const OPENPGP: &str = "urn:xmpp:openpgp:0";
/// Explicit message encryption (XEP-0380).
pub const ENCRYPTION: &str = "urn:xmpp:eme:0";
/// Headers of other protocols (XEP-0131).
pub const SHIM: &str = "http://jabber.org/protocol/shim";
/// Rosters (RFC 6121).
pub const ROSTER: &str = "jabber:iq:roster";
/// In-band registration (XEP-0077).
pub const REGISTER: &str = "jabber:iq:register";
/// vCards (XEP-0054).
pub const VCARD: &str = "vcard-temp";
/// Jingle (XEP-0166).
pub const JINGLE: &str = "urn:xmpp:jingle:1";
