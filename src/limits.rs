//! Every bound of the program in one place, with the memory they add up to. Full is
//! an ordinary answer everywhere: 503 with Retry-After, `resource-constraint`,
//! `policy-violation`; never an abort (promise P4).

/// Largest SIP message on a stream, headers and body, in octets: 64 KiB of headers
/// (the torture message with the longest legal values has 5 KiB) and a body.
pub const SIP_MESSAGE_OCTETS_MAX: usize = 80 * 1024;
/// Longest SIP start-line, in octets; beyond it 414.
pub const SIP_START_LINE_OCTETS_MAX: usize = 8 * 1024;
/// Longest SIP header field after unfolding, in octets.
pub const SIP_HEADER_OCTETS_MAX: usize = 8 * 1024;
/// Longest header field that holds the first message of an IM session, in octets: what
/// somebody pastes has tens of KiB of markup, and base64 makes a third more of it.
pub const SIP_FIRST_MESSAGE_HEADER_OCTETS_MAX: usize = 48 * 1024;
/// All header fields of a SIP message together, in octets.
pub const SIP_HEADERS_OCTETS_MAX: usize = 64 * 1024;
/// Most header lines in a SIP message.
pub const SIP_HEADER_LINES_MAX: usize = 256;
/// Largest body of a MESSAGE we take, in octets; beyond it 413.
pub const SIP_BODY_OCTETS_MAX: usize = 16 * 1024;
/// Largest HTML or RTF of the first message of an IM session, in octets, out of a header
/// field: what one of [`SIP_FIRST_MESSAGE_HEADER_OCTETS_MAX`] holds as base64, less its name
/// and parameters. The plain text has the bound of a body.
pub const FIRST_MESSAGE_OCTETS_MAX: usize = SIP_FIRST_MESSAGE_HEADER_OCTETS_MAX / 4 * 3 - 256;
/// Largest presence document (RFC 3863), in octets, read or written: what a message of
/// [`SIP_MESSAGE_OCTETS_MAX`] has room for beside its header fields.
pub const PIDF_OCTETS_MAX: usize = 64 * 1024;
/// Deepest nesting in a presence document; rich presence needs six.
pub const PIDF_DEPTH_MAX: usize = 16;
/// Most tuples of a presence document: clients of one user.
pub const PIDF_TUPLES_MAX: usize = 64;
/// Most elements of a presence document: sixteen a tuple, which with its status, show,
/// contact, notes and rich presence has about ten.
pub const PIDF_ELEMENTS_MAX: usize = 16 * PIDF_TUPLES_MAX;
/// Most texts kept of one client's presence, one a language.
pub const PRESENCE_STATUSES_MAX: usize = 4;
/// Longest text kept of one client's presence, in octets.
pub const PRESENCE_STATUS_OCTETS_MAX: usize = 1024;
/// Longest name kept that somebody gives himself, in octets.
pub const DISPLAY_NAME_OCTETS_MAX: usize = 128;
/// Largest MESSAGE we send, whole, in octets (RFC 3428 section 8).
pub const SIP_PAGER_OCTETS_MAX: usize = 1300;
/// Server transactions at one time.
pub const SIP_SERVER_TRANSACTIONS_MAX: usize = 4096;
/// Client transactions at one time.
pub const SIP_CLIENT_TRANSACTIONS_MAX: usize = 2048;
/// All octets the SIP transactions keep for retransmission.
pub const SIP_TRANSACTION_OCTETS_MAX: usize = 8 * 1024 * 1024;
/// SIP connections at one time, in and out.
pub const SIP_LINKS_MAX: usize = 256;
/// SIP connections from one address that has not proved anything yet.
pub const SIP_LINKS_UNPROVEN_PER_ADDRESS_MAX: usize = 16;
/// Share of the SIP connections that strangers may hold, in percent.
pub const SIP_LINKS_UNPROVEN_PERCENT: usize = 50;
/// Destinations of SIP requests remembered at one time.
pub const SIP_ROUTES_MAX: usize = 256;
/// Client transactions to one destination at one time, so that a dead one leaves room.
pub const SIP_CLIENT_TRANSACTIONS_PER_ROUTE_MAX: usize = SIP_CLIENT_TRANSACTIONS_MAX / 4;
/// A SIP message on a stream must be whole this many seconds after its first octet.
pub const SIP_MESSAGE_TIME_MAX_S: u64 = 32;
/// Seconds a TLS handshake may take on a SIP connection.
pub const SIP_HANDSHAKE_TIME_MAX_S: u64 = 10;

/// Largest stanza, in octets (RFC 6120 section 13.12 wants 10,000 at least).
pub const STANZA_OCTETS_MAX: usize = 64 * 1024;
/// Largest first-level element before a stream is authenticated, in octets.
pub const STANZA_OCTETS_UNPROVEN_MAX: usize = 10 * 1024;
/// Deepest nesting in a stanza.
pub const STANZA_DEPTH_MAX: usize = 32;
/// Most attributes of one element, `xmlns` ones among them.
pub const STANZA_ATTRIBUTES_MAX: usize = 64;
/// Most elements in one stanza.
pub const STANZA_ELEMENTS_MAX: usize = 512;
/// Most namespace declarations in force at one place of a stanza, those of the stream
/// header among them: each prefix is looked up in all of them.
pub const STANZA_BINDINGS_MAX: usize = 64;
/// Most namespace declarations of a stream header.
pub const STREAM_BINDINGS_MAX: usize = 16;
/// Octets of all namespace declarations of a stream header together.
pub const STREAM_BINDINGS_OCTETS_MAX: usize = 1024;
/// Most `xml:lang`, id and version octets kept of a stream header.
pub const STREAM_ATTRIBUTE_OCTETS_MAX: usize = 256;
/// Streams at one time; `xmpp connection-limit` may set less.
pub const STREAMS_MAX: usize = 1000;
/// Share of the streams that strangers may hold, in percent.
pub const STREAMS_UNPROVEN_PERCENT: usize = 25;
/// Streams from one address that has not proved anything yet.
pub const STREAMS_UNPROVEN_PER_ADDRESS_MAX: usize = 32;
/// Domain pairs that stanzas are sent for, or wait for, at one time.
pub const ROUTES_MAX: usize = 2048;
/// Dialback keys of partners that are being confirmed at one time.
pub const VERIFICATIONS_MAX: usize = 256;
/// Those of one stream.
pub const VERIFICATIONS_PER_STREAM_MAX: usize = 16;
/// Longest dialback key of a partner, in octets.
pub const DIALBACK_KEY_OCTETS_MAX: usize = 1024;
/// Domain pairs proved on one stream by dialback.
pub const STREAM_PAIRS_MAX: usize = 64;
/// Stanzas that wait for a stream of one domain pair to open.
pub const STREAM_QUEUE_STANZAS_MAX: usize = 128;
/// Octets that wait for a stream of one domain pair to open, or to be acknowledged.
pub const STREAM_QUEUE_OCTETS_MAX: usize = 256 * 1024;
/// Octets of all such queues.
pub const STREAM_QUEUES_OCTETS_MAX: usize = 8 * 1024 * 1024;
/// Stanzas received on one stream whose handling is not finished (XEP-0198).
pub const STREAM_UNHANDLED_MAX: usize = 256;

/// Messages on their way through the gateway at one time, both directions.
pub const PENDING_MAX: usize = 4096;
/// Messages that wait behind another one of the same pair.
pub const PENDING_PER_PAIR_MAX: usize = 512;
/// Octets of all messages that wait behind another one.
pub const PENDING_OCTETS_MAX: usize = 4 * 1024 * 1024;
/// Delivered messages remembered so that a late stanza error finds its sender.
pub const DELIVERED_REMEMBERED_MAX: usize = 2048;

/// Pairs of a SIP user and an XMPP user who have each other as contacts, one way or both.
pub const CONTACTS_MAX: usize = 50_000;
/// Contacts of one user, those who watch him among them.
pub const CONTACTS_PER_USER_MAX: usize = 5000;
/// Dialogs in which we watch SIP users.
pub const SUBSCRIBERS_MAX: usize = CONTACTS_MAX + 2048;
/// Dialogs in which SIP users watch somebody of XMPP: some have two phones.
pub const NOTIFIERS_MAX: usize = CONTACTS_MAX + 10_000;
/// Those of one SIP user for one XMPP user.
pub const NOTIFIERS_PER_CONTACT_MAX: usize = 8;
/// Clients of one user whose presence is kept; what is said of more is dropped.
pub const RESOURCES_MAX: usize = 16;
/// Octets of the addresses and routes of one presence dialog; Lync's have about 2000.
pub const DIALOG_OCTETS_MAX: usize = 4096;
/// Octets of route sets that are kept whole before anybody looks how many dialogs share
/// them.
pub const ROUTE_SETS_OCTETS_MIN: usize = 64 * 1024;
/// Octets of shared route sets for each dialog that has one; with more, what differs is
/// kept with the dialog, and counted there.
pub const ROUTE_SET_OCTETS_PER_DIALOG: usize = 48;
/// Octets of all texts that contacts and their dialogs hold: 503 for each contact.
pub const PRESENCE_OCTETS_MAX: usize = 24 * 1024 * 1024;
/// Memory of the fixed parts of a contact with one dialog, and of what leads to them.
pub const CONTACT_OCTETS: usize = 680;
/// Shortest life of a presence dialog that is granted, in seconds; below it 423.
pub const SUBSCRIBE_EXPIRES_MIN_S: u32 = 60;
/// Pairs of users remembered whom SIP refused.
pub const REFUSALS_REMEMBERED_MAX: usize = 4096;
/// Tags of subscriptions under which a notifier may have forgotten the wrong one.
pub const SUSPICIONS_MAX: usize = 1024;
/// Deadlines of presence that are served in one turn of the loop.
pub const PRESENCE_TURN_MAX: usize = 64;
/// Contacts, or sessions, that are looked at in one turn of the loop when rights changed.
pub const SWEEP_TURN_MAX: u32 = 512;
/// Those among them of which something is ended, or begun again.
pub const SWEEP_CHANGES_MAX: usize = 64;
/// SIP domains remembered that are served no more, for the end of what ran there.
pub const DEPARTED_DOMAINS_MAX: usize = 64;

/// Sessions of instant messages at one time.
pub const SESSIONS_MAX: usize = 2048;
/// Sessions of one pair of users: both may have opened one, from several clients.
pub const SESSIONS_PER_PAIR_MAX: usize = 4;
/// Octets of the fixed parts of a session, and of its texts: those of its dialog, whose route
/// set may be nobody else's, and a description that nobody acknowledged yet.
pub const SESSION_OCTETS: usize = 1024 + DIALOG_OCTETS_MAX;
/// Octets of all texts that came in header fields of INVITEs and wait to be sent again.
pub const SESSION_FIRSTS_OCTETS_MAX: usize = 1024 * 1024;
/// Call-IDs of INVITEs of ours that are remembered.
pub const SESSION_CALL_IDS_MAX: usize = 1024;
/// Pairs of users whose SIP side takes no session, remembered.
pub const PAGER_PEERS_MAX: usize = 4096;
/// Largest session description read, in octets.
pub const SDP_OCTETS_MAX: usize = 16 * 1024;
/// Longest kind of media, protocol or format in one that is read or repeated, in octets.
pub const SDP_WORD_OCTETS_MAX: usize = 32;
/// Most media lines of a session description.
pub const SDP_MEDIA_MAX: usize = 16;
/// Deadlines of sessions that are served in one turn of the loop.
pub const SESSION_TURN_MAX: usize = 64;
/// Largest text of a MESSAGE inside a session that we send, in octets: no more than we take.
pub const SESSION_BODY_OCTETS_MAX: usize = SIP_BODY_OCTETS_MAX;

/// Texts that the loop guard remembers.
pub const LOOP_ENTRIES_MAX: usize = 1024;
/// Pairs of users that the loop guard remembers.
pub const LOOP_PAIRS_MAX: usize = 1024;

/// SIP and XMPP domains that nobody configured and that are remembered, while discovery is
/// open.
pub const DISCOVERED_MAX: usize = 256;
/// Different users whom such a domain may address: 8 octets each are kept.
pub const DISCOVERED_ADDRESSEES_MAX: usize = 1000;
/// SIP users remembered for not existing: 40 octets each.
pub const UNKNOWN_USERS_MAX: usize = 4096;

/// Users whose licences are counted, of all providers together: 24 octets each.
pub const LICENCES_MAX: usize = 20_000;

/// DNS questions under way at one time.
pub const DNS_QUERIES_MAX: usize = 64;
/// Answers kept, positive and negative.
pub const DNS_CACHE_MAX: usize = 512;
/// Addresses kept of one answer.
pub const DNS_TARGETS_MAX: usize = 16;
/// Records looked at in one answer.
pub const DNS_RECORDS_MAX: usize = 512;
/// Times one question is asked, each from a link of its own.
pub const DNS_ATTEMPTS_MAX: usize = 3;
/// Domains being located at one time.
pub const DNS_LOCATES_MAX: usize = 256;
/// Askers that wait for a domain to be located.
pub const DNS_WAITERS_MAX: usize = 4096;
/// Octets of all answers kept.
pub const DNS_CACHE_OCTETS_MAX: usize = 512 * 1024;
/// Longest CNAME chain followed.
pub const DNS_ALIASES_MAX: usize = 8;

/// Octets of one slot of the configuration file, its head included; the file has two.
pub const CONFIG_SLOT_OCTETS: usize = 256 * 1024;
/// Octets of one record of the journal: a contact has a few addresses and states.
pub const JOURNAL_RECORD_OCTETS_MAX: usize = 64 * 1024;
/// Octets of a file of the journal that are read; one is begun anew long before.
pub const JOURNAL_OCTETS_MAX: usize = 128 * 1024 * 1024;
/// Octets up to which a file of the journal only grows; beyond it is begun anew when most
/// of it is out of date.
pub const JOURNAL_COMPACT_OCTETS_MIN: u64 = 1024 * 1024;
/// How many times the octets of its snapshot a file of the journal may reach.
pub const JOURNAL_COMPACT_FACTOR: u64 = 3;
/// Contacts written to a new file of the journal before everything else has its turn.
pub const JOURNAL_CONTACTS_PER_TURN_MAX: usize = 256;
/// Milliseconds from one fdatasync of the journal to the next: each wears the flash.
pub const JOURNAL_SYNC_PAUSE_MS: u64 = 1000;
/// Seconds until the journal is tried again after it failed.
pub const JOURNAL_RETRY_PAUSE_S: u64 = 10;
/// Seconds until a journal that fails on is said to do so again.
pub const JOURNAL_SAY_PAUSE_S: u64 = 60;
/// Lines a configuration may have.
pub const CONFIG_STATEMENTS_MAX: usize = 8192;
/// Listeners of all kinds; their places are the numbers of `ListenerId`.
pub const LISTENERS_MAX: usize = 32;

/// Consoles at one time.
pub const CONSOLES_MAX: usize = 8;
/// Longest line a console may send, in octets, without its end.
pub const CONSOLE_LINE_OCTETS_MAX: usize = 4 * 1024;
/// Most octets of an answer that are made at once; the next are made when these have
/// left.
pub const CONSOLE_SLICE_OCTETS_MAX: usize = 16 * 1024;
/// Most contacts looked at for one slice of an answer: their rows, of some hundred
/// octets each, about fill it.
pub const CONSOLE_CONTACTS_PER_SLICE_MAX: usize = 128;
/// Most sessions of messages that a console shows: what it says is kept until it is fetched.
pub const CONSOLE_SESSIONS_MAX: usize = 500;
/// Longest address a console shows whole: the longest user part (RFC 7622) at the longest
/// domain of the DNS. A row of two, each octet escaped by four, fits into a slice.
pub const CONSOLE_ADDRESS_OCTETS_MAX: usize = 1023 + 1 + 253;

/// Requests of calls that were sent on and are not over.
pub const RELAYS_MAX: usize = 512;

/// Tests of a partner or of two users that consoles asked for at one time.
pub const PROBES_MAX: usize = 4;
/// Lines that one test may say.
pub const PROBE_LINES_MAX: usize = 64;
/// Names that are watched while tests run: a domain and the host that stands for it.
pub const TRAIL_NAMES_MAX: usize = 2 * PROBES_MAX;
/// What was said of them and not taken yet.
pub const TRAIL_MARKS_MAX: usize = 64;
/// Longest text of it, in octets.
pub const TRAIL_TEXT_OCTETS_MAX: usize = 1024;

/// Octets that may wait to be sent on one link; beyond it the peer does not read.
pub const LINK_SEND_OCTETS_MAX: usize = 512 * 1024;
/// Octets that may wait to be read from one link.
pub const LINK_RECEIVE_OCTETS_MAX: usize =
    if SIP_MESSAGE_OCTETS_MAX > STANZA_OCTETS_MAX + 1024 { SIP_MESSAGE_OCTETS_MAX } else { STANZA_OCTETS_MAX + 1024 };
/// Links of all kinds at one time.
pub const LINKS_MAX: usize = STREAMS_MAX + SIP_LINKS_MAX + DNS_QUERIES_MAX * DNS_ATTEMPTS_MAX;
/// All octets that may wait on all links in both directions.
pub const LINK_OCTETS_TOTAL_MAX: usize = 16 * 1024 * 1024;
/// Octets read from one link before the others have their turn.
pub const LINK_TURN_OCTETS_MAX: usize = 64 * 1024;
/// Datagrams read from one listener before the others have their turn.
pub const DATAGRAMS_PER_TURN_MAX: usize = 64;
/// Connections accepted on one listener before the others have their turn.
pub const ACCEPTS_PER_TURN_MAX: usize = 16;
/// TLS handshakes carried on in one turn; each may cost a millisecond.
pub const HANDSHAKES_PER_TURN_MAX: usize = 8;
/// Seconds a connection may take to come up; the protocols may have less patience.
pub const LINK_CONNECT_TIME_MAX_S: u64 = 30;
/// Seconds a closed link may take to send what waits and to hear the other end close.
pub const LINK_LINGER_TIME_MAX_S: u64 = 4;
/// Log lines written in one second; those beyond it are counted.
pub const LOG_LINES_PER_SECOND_MAX: u32 = 200;
/// Log lines remembered so that their repeats are counted instead of written.
pub const LOG_REMEMBERED_MAX: usize = 64;
/// Octets that may wait to be sent to one syslog collector.
pub const LOG_SYSLOG_OCTETS_MAX: usize = 64 * 1024;
/// Memory of one TLS session at rest, measured: 17 KiB for a mutually authenticated pair.
pub const TLS_SESSION_OCTETS: usize = 17 * 1024;

/// Memory all tables and buffers may reach together, if a full load of every kind
/// came at once.
pub const MEMORY_MAX: usize = SIP_TRANSACTION_OCTETS_MAX
    + STREAM_QUEUES_OCTETS_MAX
    + PENDING_OCTETS_MAX
    + LINK_OCTETS_TOTAL_MAX
    + (STREAMS_MAX + SIP_LINKS_MAX) * TLS_SESSION_OCTETS
    + DNS_CACHE_OCTETS_MAX
    + PRESENCE_OCTETS_MAX
    + CONTACTS_MAX * CONTACT_OCTETS
    + ROUTE_SETS_OCTETS_MIN
    + (SUBSCRIBERS_MAX + NOTIFIERS_MAX) * ROUTE_SET_OCTETS_PER_DIALOG
    + SESSIONS_MAX * SESSION_OCTETS
    + SESSION_FIRSTS_OCTETS_MAX
    + DISCOVERED_MAX * DISCOVERED_ADDRESSEES_MAX * 8
    + (UNKNOWN_USERS_MAX + LICENCES_MAX) * 40
    + CONSOLES_MAX * (2 * CONSOLE_LINE_OCTETS_MAX + 3 * CONSOLE_SLICE_OCTETS_MAX)
    + (SIP_SERVER_TRANSACTIONS_MAX + SIP_CLIENT_TRANSACTIONS_MAX + PENDING_MAX + DELIVERED_REMEMBERED_MAX) * 512;

/// A board with 256 MiB carries all of it and leaves the system nearly half. On
/// one with 128 MiB, which has room for about 64 MiB of this, a site may have ten thousand
/// contacts: what a table may reach is taken as it fills, not at the start.
const _: () = assert!(MEMORY_MAX <= 152 * 1024 * 1024);
