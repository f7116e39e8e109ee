//! PEM (RFC 7468): text around DER. Read strictly enough that what is accepted here
//! is what the TLS side will find in it; whether a certificate is any good is for
//! others to say.

use base64ct::{Base64, Encoding};

/// One `-----BEGIN LABEL-----` block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Such as `CERTIFICATE`.
    pub label: String,
    /// What the base64 text held: one DER value.
    pub der: Vec<u8>,
}

/// All blocks of a text, in their order. Text between blocks is a comment, as tools
/// write it. The error says what is wrong, never what stood there.
pub fn blocks(text: &str) -> Result<Vec<Block>, String> {
    let mut blocks = Vec::new();
    let mut open: Option<(&str, String)> = None;
    for line in text.lines().map(str::trim) {
        let begin = boundary(line, "-----BEGIN ");
        let end = boundary(line, "-----END ");
        match (&mut open, begin, end) {
            (None, Some(label), _) => open = Some((label, String::new())),
            (None, None, None) => {}
            (None, None, Some(label)) => return Err(format!("PEM: END {label} without BEGIN")),
            (Some((label, _)), Some(_), _) => return Err(format!("PEM: BEGIN within {label}")),
            (Some((label, body)), None, Some(ended)) => {
                if *label != ended {
                    return Err(format!("PEM: BEGIN {label} ends with END {ended}"));
                }
                let der = Base64::decode_vec(body).map_err(|_| format!("PEM: {label} is not base64"))?;
                if !is_one_der_sequence(&der) {
                    return Err(format!("PEM: {label} holds no whole DER value"));
                }
                blocks.push(Block { label: ended.into(), der });
                open = None;
            }
            (Some((label, _)), None, None) if line.contains(':') => {
                return Err(format!("PEM: {label} has headers, as encrypted keys do; the plain form is wanted"));
            }
            (Some((_, body)), None, None) => body.push_str(line),
        }
    }
    match open {
        Some((label, _)) => Err(format!("PEM: {label} has no END line")),
        None => Ok(blocks),
    }
}

fn boundary<'a>(line: &'a str, start: &str) -> Option<&'a str> {
    let label = line.strip_prefix(start)?.strip_suffix("-----")?;
    let good = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == ' ';
    (!label.is_empty() && label.len() <= 40 && label.chars().all(good)).then_some(label)
}

/// Is it a SEQUENCE whose length is exactly what follows?
fn is_one_der_sequence(der: &[u8]) -> bool {
    let Some((&0x30, rest)) = der.split_first() else { return false };
    let Some((&first, rest)) = rest.split_first() else { return false };
    if first < 0x80 {
        return usize::from(first) == rest.len();
    }
    let count = usize::from(first & 0x7f);
    if count == 0 || count > 4 || rest.len() < count {
        return false;
    }
    let (length, body) = rest.split_at(count);
    length.iter().fold(0usize, |sum, octet| sum << 8 | usize::from(*octet)) == body.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_among_comments() {
        let text = "Bag Attributes\n-----BEGIN CERTIFICATE-----\r\nMAMC\nAQE=\n-----END CERTIFICATE-----\n\n\
                    -----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----";
        let found = blocks(text).expect("two blocks");
        assert_eq!(found.len(), 2);
        assert_eq!(found[0], Block { label: "CERTIFICATE".into(), der: vec![0x30, 3, 2, 1, 1] });
        assert_eq!(found[1].der, [0x30, 0]);
    }

    #[test]
    fn broken_blocks_are_refused() {
        for (text, reason) in [
            ("-----BEGIN CERTIFICATE-----\nMAA=", "no END"),
            ("-----END CERTIFICATE-----", "without BEGIN"),
            ("-----BEGIN A-----\nMAA=\n-----END B-----", "ends with"),
            ("-----BEGIN A-----\n-----BEGIN A-----", "BEGIN within"),
            ("-----BEGIN A-----\nMA*=\n-----END A-----", "not base64"),
            ("-----BEGIN A-----\nMAMC\n-----END A-----", "whole DER"),
            ("-----BEGIN A-----\n-----END A-----", "whole DER"),
            ("-----BEGIN A-----\nProc-Type: 4,ENCRYPTED\n-----END A-----", "headers"),
        ] {
            let error = blocks(text).expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
