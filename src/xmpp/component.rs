//! External components (XEP-0114): how we prove a secret to the server that serves one
//! of our domains for us. From then on that server vouches for every sender.

use crate::base::text::hex_lower;
use ring::digest;

/// What goes into `<handshake/>`: the SHA-1 of stream id and secret, in lower-case hex.
/// The standard knows no other hash; nothing depends on its collisions.
pub(super) fn handshake(id: &str, secret: &str) -> String {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(id.as_bytes());
    context.update(secret.as_bytes());
    hex_lower(context.finish().as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_is_the_sha1_of_id_and_secret() {
        // The value of `printf 3BF96D32secret | sha1sum`.
        assert_eq!(handshake("3BF96D32", "secret"), "b09ea9b3b7f586be8a08d0a3dd7466f110aeb136");
    }
}
