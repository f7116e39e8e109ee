//! Session descriptions (RFC 8866) as far as sessions of instant messages need them: which
//! media are offered, and an answer that takes one of them and refuses the others (RFC 3264
//! section 6).
//!
//! A session of messages that travel as SIP requests is one media line
//! `m=message PORT sip WHATEVER`; its port and address mean nothing, for no media flows.

use crate::limits::{SDP_MEDIA_MAX, SDP_OCTETS_MAX, SDP_WORD_OCTETS_MAX};

/// One media line and what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Media<'a> {
    /// `message`, `audio`, `video`.
    pub kind: &'a str,
    /// The port as it stands, with the number of ports if there is one; `0`: refused.
    pub port: &'a str,
    /// The protocol: `sip`, `TCP/MSRP`, `RTP/AVP`.
    pub protocol: &'a str,
    /// The formats.
    pub formats: &'a str,
    /// `a=accept-types`, the types of bodies that are taken; empty: nothing is said.
    pub accept_types: &'a str,
}

impl Media<'_> {
    /// Is this a session of messages that travel as SIP requests?
    pub fn is_instant_messages(&self) -> bool {
        let kind = ["message", "x-ms-message"].iter().any(|kind| self.kind.eq_ignore_ascii_case(kind));
        kind && self.protocol.eq_ignore_ascii_case("sip") && self.port != "0"
    }

    /// Is it sound or picture?
    pub fn is_audio_or_video(&self) -> bool {
        ["audio", "video"].iter().any(|kind| self.kind.eq_ignore_ascii_case(kind))
    }

    /// Is a body of that type taken at the other end?
    pub fn takes(&self, media_type: &str) -> bool {
        let kind = media_type.split('/').next().unwrap_or_default();
        self.accept_types.split_ascii_whitespace().any(|taken| {
            let (wanted, subtype) = taken.split_once('/').unwrap_or((taken, "*"));
            taken.eq_ignore_ascii_case(media_type)
                || taken == "*"
                || (subtype == "*" && wanted.eq_ignore_ascii_case(kind))
        })
    }
}

/// All media of a session, in their order.
pub type AllMedia<'a> = heapless::Vec<Media<'a>, SDP_MEDIA_MAX>;

/// Reads a description. `None`: it is none, or is larger than any that makes sense.
pub fn read(octets: &[u8]) -> Option<AllMedia<'_>> {
    if octets.len() > SDP_OCTETS_MAX {
        return None;
    }
    let text = core::str::from_utf8(octets).ok()?;
    let mut all = AllMedia::new();
    let mut is_first = true;
    for line in text.lines().filter(|line| !line.is_empty()) {
        let (letter, value) = line.split_once('=').filter(|(letter, _)| letter.len() == 1)?;
        if core::mem::take(&mut is_first) && letter != "v" {
            return None;
        }
        match letter {
            "m" => {
                let mut words = value.splitn(4, ' ').map(str::trim);
                let (kind, port, protocol) = (words.next()?, words.next()?, words.next()?);
                let formats = words.next().unwrap_or_default();
                let fits = |word: &str| (1..=SDP_WORD_OCTETS_MAX).contains(&word.len());
                if !port.starts_with(|c: char| c.is_ascii_digit()) || !fits(kind) || !fits(protocol) {
                    return None;
                }
                all.push(Media { kind, port, protocol, formats, accept_types: "" }).ok()?;
            }
            "a" => {
                if let (Some(media), Some(types)) = (all.last_mut(), value.strip_prefix("accept-types:")) {
                    media.accept_types = types.trim();
                }
            }
            _ => {}
        }
    }
    (!is_first).then_some(all)
}

/// Who describes a session.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// Our host name: for `o=` and `c=`.
    pub host: &'a str,
    /// Number of the session; it stays the same while the session lives.
    pub session: u32,
    /// The URI of whom we speak for, as the format of the media line; `null` in an offer.
    pub format: &'a str,
    /// The types of bodies that we take, for `a=accept-types`.
    pub accept_types: &'a str,
}

impl Side<'_> {
    /// An offer of a session of instant messages.
    pub fn offer(&self) -> String {
        let mut text = self.head();
        self.media("message", &mut text);
        text
    }

    /// The answer to an offer: its first line of instant messages is taken, every other
    /// refused. `None`: there is no such line.
    pub fn answer(&self, offer: &AllMedia<'_>) -> Option<String> {
        let taken = offer.iter().position(Media::is_instant_messages)?;
        let mut text = self.head();
        for (place, media) in offer.iter().enumerate() {
            if place == taken {
                self.media(media.kind, &mut text);
            } else {
                // Of what is refused the first format stands for all (RFC 3264 section 6).
                let format = media.formats.split(' ').next().filter(|format| !format.is_empty());
                let format = format.filter(|format| format.len() <= SDP_WORD_OCTETS_MAX).unwrap_or("0");
                for piece in ["m=", media.kind, " 0 ", media.protocol, " ", format, "\r\n"] {
                    text.push_str(piece);
                }
            }
        }
        Some(text)
    }

    fn head(&self) -> String {
        let (host, session) = (self.host, self.session);
        let family = if host.contains(':') { "IP6" } else { "IP4" };
        format!("v=0\r\no=- {session} 1 IN {family} {host}\r\ns=session\r\nc=IN {family} {host}\r\nt=0 0\r\n")
    }

    fn media(&self, kind: &str, text: &mut String) {
        for piece in ["m=", kind, " 5060 sip ", self.format, "\r\na=accept-types:", self.accept_types, "\r\n"] {
            text.push_str(piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Side<'_> = Side {
        host: "gw.edge.example",
        session: 7,
        format: "sip:lena@chat.example",
        accept_types: "text/plain text/html",
    };

    fn offer(lines: &str) -> String {
        format!("v=0\r\no=- 0 0 IN IP4 192.0.2.9\r\ns=x\r\nc=IN IP4 192.0.2.9\r\nt=0 0\r\n{lines}")
    }

    #[test]
    fn a_line_of_messages_is_taken_and_others_are_refused_in_their_places() {
        let text = offer(
            "m=audio 49170 RTP/AVP 0 8\r\na=rtpmap:0 PCMU/8000\r\nm=x-ms-message 5060 sip null\r\na=accept-types:text/plain image/*\r\n",
        );
        let media = read(text.as_bytes()).expect("an offer");
        assert!(media[0].is_audio_or_video() && !media[0].is_instant_messages());
        assert!(media[1].is_instant_messages() && media[1].takes("image/gif") && !media[1].takes("text/html"));
        let answer = US.answer(&media).expect("an answer");
        assert!(answer.ends_with(
            "m=audio 0 RTP/AVP 0\r\nm=x-ms-message 5060 sip sip:lena@chat.example\r\na=accept-types:text/plain text/html\r\n"
        ));
        assert!(read(answer.as_bytes()).is_some());
    }

    #[test]
    fn an_offer_of_ours_reads_as_one_of_messages() {
        let text = Side { format: "null", ..US }.offer();
        let media = read(text.as_bytes()).expect("an offer");
        assert_eq!((media.len(), media[0].formats, media[0].accept_types), (1, "null", "text/plain text/html"));
        assert!(media[0].is_instant_messages());
    }

    #[test]
    fn what_is_no_session_of_messages_is_not_taken() {
        for lines in ["", "m=message 0 sip null\r\n", "m=message 2855 TCP/MSRP *\r\n", "m=audio 1 sip null\r\n"] {
            let text = offer(lines);
            assert_eq!(US.answer(&read(text.as_bytes()).expect("a description")), None, "{lines}");
        }
    }

    #[test]
    fn what_is_no_description_is_refused() {
        let many = offer(&"m=audio 1 RTP/AVP 0\r\n".repeat(SDP_MEDIA_MAX + 1));
        let large = offer(&format!("a={}\r\n", "x".repeat(SDP_OCTETS_MAX)));
        let long = offer(&format!("m={} 1 sip x\r\n", "x".repeat(SDP_WORD_OCTETS_MAX + 1)));
        for text in [
            &long,
            "",
            "hello",
            "m=message 1 sip null",
            "v=0\r\nm=message\r\n",
            "v=0\r\nm=message x sip\r\n",
            &many,
            &large,
        ] {
            assert_eq!(read(text.as_bytes()), None, "{text:.40}");
        }
        assert_eq!(read(b"v=0\r\n\xff"), None);
    }
}
