//! SIP messages as octets: what an Edge reads, kept as it was written.

use std::time::Instant;

/// A SIP message: first line, header fields in their order, body.
#[derive(Clone, Debug)]
pub struct Message {
    pub first: String,
    /// Lower-case long name, and the value as it stood there.
    pub fields: Vec<(String, String)>,
    pub body: String,
    /// The number of the connection it came on.
    pub link: usize,
    pub at: Instant,
}

/// What stands at the beginning of a buffer.
pub enum Framed {
    Partial,
    /// A line end between messages.
    LineEnd,
    Whole(Box<Message>),
}

impl Message {
    /// Takes what is whole from the beginning of a buffer.
    pub fn take(buffer: &mut Vec<u8>, link: usize) -> Result<Framed, String> {
        if buffer.starts_with(b"\r\n") {
            buffer.drain(..2);
            return Ok(Framed::LineEnd);
        }
        let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") else { return Ok(Framed::Partial) };
        let head = std::str::from_utf8(&buffer[..end]).map_err(|e| format!("a head that is not UTF-8: {e}"))?;
        let mut lines = head.split("\r\n");
        let first = lines.next().unwrap_or("").to_string();
        let mut fields = Vec::new();
        for line in lines {
            let (name, value) = line.split_once(':').ok_or_else(|| format!("a line without colon: {line:?}"))?;
            if name != name.trim() || name.is_empty() {
                return Err(format!("an odd name: {line:?}"));
            }
            fields.push((long_name(name), value.trim().to_string()));
        }
        let mut message = Self { first, fields, body: String::new(), link, at: Instant::now() };
        // RFC 3261 section 18.3: over a stream there must be one.
        let length: usize = message.field("content-length").parse().map_err(|_| "no Content-Length".to_string())?;
        if message.all("content-length").len() != 1 {
            return Err("Content-Length is there twice".into());
        }
        let Some(body) = buffer.get(end + 4..end + 4 + length) else { return Ok(Framed::Partial) };
        message.body = String::from_utf8_lossy(body).into_owned();
        buffer.drain(..end + 4 + length);
        Ok(Framed::Whole(Box::new(message)))
    }

    /// The value of a header field, or nothing.
    pub fn field(&self, name: &str) -> &str {
        self.fields.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }

    /// The values of a header field, each line one.
    pub fn all(&self, name: &str) -> Vec<String> {
        self.fields.iter().filter(|(n, _)| n == name).map(|(_, value)| value.clone()).collect()
    }

    /// The values of a header field of which each line may hold several.
    pub fn list(&self, name: &str) -> Vec<String> {
        self.all(name).iter().flat_map(|line| parts(line)).collect()
    }

    /// The status of a response; 0 of a request.
    pub fn status(&self) -> u16 {
        self.first.strip_prefix("SIP/2.0 ").and_then(|rest| rest.get(..3)?.parse().ok()).unwrap_or(0)
    }

    /// The method of a request, or the one that a response answers.
    pub fn method(&self) -> &str {
        match self.status() {
            0 => self.first.split(' ').next().unwrap_or(""),
            _ => self.field("cseq").split_whitespace().nth(1).unwrap_or(""),
        }
    }

    /// The Request-URI.
    pub fn target(&self) -> &str {
        self.first.split(' ').nth(1).unwrap_or("")
    }

    pub fn cseq(&self) -> u32 {
        self.field("cseq").split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
    }

    pub fn branch(&self) -> &str {
        parameter(self.field("via"), "branch")
    }

    /// The tag of `from` or `to`, or nothing.
    pub fn tag(&self, name: &str) -> &str {
        parameter(self.field(name).rsplit('>').next().unwrap_or(""), "tag")
    }

    /// The URI in a field such as From or Contact.
    pub fn uri(&self, name: &str) -> &str {
        let value = self.field(name);
        match value.split_once('<') {
            Some((_, rest)) => rest.split('>').next().unwrap_or(""),
            None => value.split(';').next().unwrap_or(""),
        }
    }
}

/// The value of a parameter, or nothing.
pub fn parameter<'a>(value: &'a str, name: &str) -> &'a str {
    value.split(';').skip(1).find_map(|p| p.trim().strip_prefix(name)?.strip_prefix('=')).unwrap_or("")
}

/// The parts of a list: a comma in quotes or angle brackets parts nothing.
fn parts(line: &str) -> Vec<String> {
    let (mut quoted, mut bracketed, mut begin, mut found) = (false, false, 0, Vec::new());
    for (place, character) in line.char_indices() {
        match character {
            '"' => quoted = !quoted,
            '<' if !quoted => bracketed = true,
            '>' if !quoted => bracketed = false,
            ',' if !quoted && !bracketed => {
                found.push(line[begin..place].trim().to_string());
                begin = place + 1;
            }
            _ => {}
        }
    }
    found.push(line[begin..].trim().to_string());
    found
}

fn long_name(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    match name.as_str() {
        "v" => "via",
        "f" => "from",
        "t" => "to",
        "i" => "call-id",
        "l" => "content-length",
        "c" => "content-type",
        "s" => "subject",
        "m" => "contact",
        "o" => "event",
        "k" => "supported",
        other => other,
    }
    .to_string()
}
