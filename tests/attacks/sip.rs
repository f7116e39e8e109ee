//! What the gateway writes towards SIP, read by a reader that forgives nothing.

/// A SIP message as it was understood.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sip {
    pub(crate) start: String,
    /// Name as written, or the long form of a compact one; value.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Sip {
    pub(crate) fn get(&self, name: &str) -> &str {
        self.fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }

    pub(crate) fn is_response(&self) -> bool {
        self.start.starts_with("SIP/2.0 ")
    }

    pub(crate) fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn body(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The names of all header fields in order.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.fields.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// A response of a neighbour's to this request.
    pub(crate) fn response(&self, status: u16) -> String {
        let mut out = format!("SIP/2.0 {status} Answer\r\n");
        for (name, value) in &self.fields {
            match name.to_ascii_lowercase().as_str() {
                "to" | "t" => out.push_str(&format!("To: {value};tag=far\r\n")),
                "via" | "v" | "from" | "f" | "call-id" | "i" | "cseq" => out.push_str(&format!("{name}: {value}\r\n")),
                _ => {}
            }
        }
        out + "Content-Length: 0\r\n\r\n"
    }

    /// Reads one message from the front. `Ok(None)`: it is not whole yet.
    pub(crate) fn read(bytes: &[u8]) -> Result<Option<(Self, usize)>, String> {
        let Some(head) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
        let text = std::str::from_utf8(&bytes[..head]).map_err(|_| "the head is not UTF-8")?;
        let mut lines = text.split("\r\n");
        let start = lines.next().unwrap_or_default().to_string();
        if !start.starts_with("SIP/2.0 ") && !start.ends_with(" SIP/2.0") || start.split(' ').count() < 3 {
            return Err(format!("start line {start:?}"));
        }
        let mut fields = Vec::new();
        for line in std::iter::once(start.as_str()).chain(lines.clone()) {
            if line.chars().any(|c| c != '\t' && c.is_control()) {
                return Err(format!("a control character in {line:?}"));
            }
        }
        for line in lines {
            let (name, value) = line.split_once(':').ok_or_else(|| format!("no field: {line:?}"))?;
            // Only what is written short does without the blank.
            let (name, value) = match (long_name(name), value.strip_prefix(' ')) {
                (Some(long), _) => (long, value.trim_start()),
                (None, Some(value)) => (name, value),
                (None, None) => return Err(format!("no field: {line:?}")),
            };
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
                return Err(format!("no field name: {line:?}"));
            }
            // A refusal repeats what it was given.
            let is_ours = !start.starts_with("SIP/2.0 4");
            if is_ours && matches!(name.to_ascii_lowercase().as_str(), "from" | "to" | "f" | "t") {
                check_address(value)?;
            }
            fields.push((name.to_string(), value.to_string()));
        }
        let lengths: Vec<&(String, String)> =
            fields.iter().filter(|(name, _)| matches!(&*name.to_ascii_lowercase(), "content-length" | "l")).collect();
        let [(_, length)] = lengths[..] else { return Err("not one Content-Length".into()) };
        let length: usize = length.parse().map_err(|_| "Content-Length")?;
        let end = head + 4 + length;
        if bytes.len() < end {
            return Ok(None);
        }
        Ok(Some((Self { start, fields, body: bytes[head + 4..end].to_vec() }, end)))
    }
}

/// The name that a compact form stands for (RFC 3261 section 7.3.3).
fn long_name(name: &str) -> Option<&'static str> {
    Some(match name {
        "v" => "Via",
        "f" => "From",
        "t" => "To",
        "i" => "Call-ID",
        "l" => "Content-Length",
        "c" => "Content-Type",
        "m" => "Contact",
        "o" => "Event",
        "k" => "Supported",
        _ => return None,
    })
}

/// One `name-addr` with parameters, quotes closed.
fn check_address(value: &str) -> Result<(), String> {
    let bad = || format!("address {value:?}");
    let mut rest = value;
    if rest.starts_with('"') {
        let mut escaped = false;
        let end = rest.char_indices().skip(1).find(|(_, c)| {
            let ends = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        });
        rest = rest[end.ok_or_else(bad)?.0 + 1..].trim_start();
    }
    let inner = rest.trim_start().strip_prefix('<').ok_or_else(bad)?;
    let (uri, params) = inner.split_once('>').ok_or_else(bad)?;
    if uri.contains(['<', '"', ' ']) || params.contains(['<', '>', ',', '"']) {
        return Err(bad());
    }
    Ok(())
}
