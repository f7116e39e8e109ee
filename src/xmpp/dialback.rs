//! Server Dialback (XEP-0220): the keys (XEP-0185) and what of it is decided without
//! looking at a stream.
//!
//! A key is bound to the receiving domain, the originating domain and the stream id,
//! so the authoritative server need not remember which streams it opened: it makes
//! the key again and compares. Who knows one key can make no other.

use crate::base::text::{hex_lower, hex_value};
use ring::{digest, hmac};

/// Makes and checks the keys of all our domains.
#[derive(Clone)]
pub(super) struct Keys(hmac::Key);

impl core::fmt::Debug for Keys {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Keys(secret)")
    }
}

impl Keys {
    /// Keys from the secret; the HMAC key is the hex text of its SHA-256.
    pub(super) fn new(secret: &[u8]) -> Self {
        let text = hex_lower(digest::digest(&digest::SHA256, secret).as_ref());
        Self(hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes()))
    }

    /// The key for a stream with the given id from `originating` to `receiving`.
    pub(super) fn key(&self, receiving: &str, originating: &str, id: &str) -> String {
        hex_lower(hmac::sign(&self.0, text(receiving, originating, id).as_bytes()).as_ref())
    }

    /// Is `key` the one we gave out for that stream? Takes the same time for every
    /// wrong key.
    pub(super) fn is_ours(&self, key: &str, receiving: &str, originating: &str, id: &str) -> bool {
        let mut tag = [0; 32];
        let digits = key.as_bytes();
        if digits.len() != 2 * tag.len() {
            return false;
        }
        for (octet, pair) in tag.iter_mut().zip(digits.chunks_exact(2)) {
            let (Some(high), Some(low)) = (hex_value(pair[0]), hex_value(pair[1])) else { return false };
            *octet = high << 4 | low;
        }
        hmac::verify(&self.0, text(receiving, originating, id).as_bytes(), &tag).is_ok()
    }
}

/// What is signed: `receiving SP originating SP stream-id`.
fn text(receiving: &str, originating: &str, id: &str) -> String {
    [receiving, originating, id].join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_xep_0185_comes_out() {
        let keys = Keys::new(b"s3cr3tf0rd14lb4ck");
        let key = keys.key("xmpp.example.com", "example.org", "D60000229F");
        assert_eq!(key, "37c69b1cf07a3f67c04a5ef5902fa5114f2c76fe4a2686482ba5b89323075643");
        assert!(keys.is_ours(&key, "xmpp.example.com", "example.org", "D60000229F"));
    }

    #[test]
    fn a_key_fits_one_pair_one_id_and_one_secret() {
        let keys = Keys::new(b"one");
        let key = keys.key("a.example", "b.example", "1");
        assert!(!keys.is_ours(&key, "b.example", "a.example", "1"));
        assert!(!keys.is_ours(&key, "a.example", "b.example", "2"));
        assert!(!Keys::new(b"two").is_ours(&key, "a.example", "b.example", "1"));
        assert!(!keys.is_ours("", "a.example", "b.example", "1"));
        assert!(!keys.is_ours(&key[1..], "a.example", "b.example", "1"));
    }

    #[test]
    fn the_secret_shows_nowhere() {
        assert_eq!(format!("{:?}", Keys::new(b"one")), "Keys(secret)");
    }
}
