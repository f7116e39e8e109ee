//! Holds what came against what a flow expects: text patterns with placeholders, SIP
//! messages, XML as infoset. The rules are those of `README.md` beside this file.

use crate::peers::{self, Element, Node, SipMessage};
use regex::Regex;
use std::collections::BTreeMap;

/// What placeholders stand for so far.
pub type Bindings = BTreeMap<String, String>;

/// A piece of a text with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Literal(String),
    /// `{{name}}` or `{{name:PATTERN}}`; the name may be `*`, `?` or `...`.
    Placeholder {
        name: String,
        pattern: Option<String>,
    },
}

/// Takes a text with placeholders apart.
pub fn parts(text: &str) -> Result<Vec<Part>, String> {
    let mut all = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("{{") {
        if at > 0 {
            all.push(Part::Literal(rest[..at].into()));
        }
        let (inside, after) =
            placeholder(&rest[at + 2..]).ok_or_else(|| format!("stray braces: {:.60}", &rest[at..]))?;
        let (name, pattern) = match inside.split_once(':') {
            Some((name, pattern)) => (name, Some(pattern.to_string())),
            None => (inside, None),
        };
        let named = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !(named || matches!(name, "*" | "?" | "...")) {
            return Err(format!("a placeholder called {name:?}"));
        }
        if let Some(pattern) = &pattern {
            if pattern.contains("(?") {
                return Err(format!("look-around or flags in {pattern:?}"));
            }
            Regex::new(pattern).map_err(|error| format!("pattern {pattern:?}: {error}"))?;
        }
        all.push(Part::Placeholder { name: name.into(), pattern });
        rest = after;
    }
    if rest.contains("}}") {
        return Err(format!("stray braces: {rest:.60}"));
    }
    if !rest.is_empty() {
        all.push(Part::Literal(rest.into()));
    }
    Ok(all)
}

/// The inside of a placeholder whose `{{` was just read, and what follows it. Counts
/// such as `{3,31}` may stand in its pattern.
fn placeholder(text: &str) -> Option<(&str, &str)> {
    let mut depth = 0;
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'{' => depth += 1,
            b'}' if depth > 0 => depth -= 1,
            b'}' if bytes.get(at + 1) == Some(&b'}') => return Some((&text[..at], &text[at + 2..])),
            b'}' | b'\n' => return None,
            _ => {}
        }
        at += 1;
    }
    None
}

/// Puts the values of known names in.
pub fn fill(text: &str, bindings: &Bindings) -> Result<String, String> {
    parts(text)?
        .into_iter()
        .map(|part| match part {
            Part::Literal(text) => Ok(text),
            Part::Placeholder { name, .. } => {
                bindings.get(&name).cloned().ok_or_else(|| format!("{name} has no value yet"))
            }
        })
        .collect()
}

/// Does the whole of `actual` look like `template`? Captures are added on success.
pub fn text(template: &str, actual: &str, bindings: &mut Bindings) -> Result<(), String> {
    let mut pattern = String::from("^(?:");
    let mut groups: Vec<String> = Vec::new();
    for part in parts(template)? {
        match part {
            Part::Literal(text) => pattern.push_str(&regex::escape(&text)),
            Part::Placeholder { name, pattern: inner } => match (&*name, bindings.get(&name)) {
                ("*" | "?" | "...", _) => {
                    pattern.push_str("(?:");
                    pattern.push_str(inner.as_deref().unwrap_or(".*"));
                    pattern.push(')');
                }
                (_, Some(value)) => pattern.push_str(&regex::escape(value)),
                (_, None) => {
                    pattern.push_str(&format!("(?P<g{}>", groups.len()));
                    pattern.push_str(inner.as_deref().unwrap_or("[^\\s;<>\",]+"));
                    pattern.push(')');
                    groups.push(name);
                }
            },
        }
    }
    pattern.push_str(")$");
    let regex = Regex::new(&pattern).map_err(|error| format!("{template:?}: {error}"))?;
    let Some(found) = regex.captures(actual) else {
        return Err(format!("wanted {:?}\n    came {actual:?}", known(template, bindings)));
    };
    let mut new = Bindings::new();
    for (number, name) in groups.into_iter().enumerate() {
        let value = found.name(&format!("g{number}")).map_or("", |m| m.as_str()).to_string();
        if new.get(&name).is_some_and(|before| *before != value) {
            return Err(format!("{name} stands for {:?} and for {value:?}", new[&name]));
        }
        new.insert(name, value);
    }
    bindings.extend(new);
    Ok(())
}

/// A template with the known values put in, for people.
pub fn known(template: &str, bindings: &Bindings) -> String {
    let Ok(parts) = parts(template) else { return template.into() };
    parts
        .into_iter()
        .map(|part| match part {
            Part::Literal(text) => text,
            Part::Placeholder { name, pattern } => match (bindings.get(&name), pattern) {
                (Some(value), _) => value.clone(),
                (None, Some(pattern)) => format!("{{{{{name}:{pattern}}}}}"),
                (None, None) => format!("{{{{{name}}}}}"),
            },
        })
        .collect()
}

/// What a section's attributes allow.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    pub loose: bool,
    pub alternative_conditions: Vec<String>,
    pub html_loose: bool,
    pub history: bool,
    pub muc_user_x: bool,
    pub extra_status: bool,
    pub paused_for_active: bool,
    pub payload_echo: bool,
}

// ---- SIP

/// Headers whose values are lists.
const LISTS: &[&str] = &[
    "via",
    "route",
    "record-route",
    "contact",
    "accept",
    "allow",
    "allow-events",
    "supported",
    "unsupported",
    "require",
    "accept-encoding",
    "accept-language",
    "content-encoding",
    "content-language",
    "in-reply-to",
    "proxy-require",
    "warning",
];

/// Is `message` what `template` describes?
pub fn sip(template: &str, message: &SipMessage, bindings: &mut Bindings, rules: &Rules) -> Result<(), String> {
    let (head, body) = match template.split_once("\n\n") {
        Some((head, body)) => (head, Some(body)),
        None => (template, None),
    };
    let mut lines = unfold(head).into_iter();
    let start = lines.next().unwrap_or_default();
    let mut new = bindings.clone();
    new.insert("len".into(), message.body.len().to_string());
    let mut problems = Vec::new();
    if let Err(problem) = text(&start, &message.start, &mut new) {
        problems.push(format!("start-line: {problem}"));
    }
    let mut wanted: Vec<(String, Vec<String>)> = Vec::new();
    for line in lines {
        if let Some(name) = line.strip_prefix('!') {
            let name = peers::full_name(name.trim());
            if message.header(&name).is_some() {
                problems.push(format!("{name}: must be missing"));
            }
            continue;
        }
        let Some((name, value)) = line.split_once(':') else {
            problems.push(format!("the flow's line {line:?} is no header"));
            continue;
        };
        let name = peers::full_name(name.trim());
        match wanted.iter_mut().find(|(n, _)| *n == name) {
            Some((_, values)) => values.push(value.trim().into()),
            None => wanted.push((name, vec![value.trim().into()])),
        }
    }
    for (name, values) in &wanted {
        if let Err(problem) = header(name, values, message, &mut new) {
            problems.push(format!("{name}: {problem}"));
        }
    }
    if let Err(problem) = sip_body(body.unwrap_or_default(), message, &mut new, rules) {
        problems.push(format!("body: {problem}"));
    }
    new.remove("len");
    if problems.is_empty() {
        *bindings = new;
        return Ok(());
    }
    Err(problems.join("\n  "))
}

fn unfold(head: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in head.lines() {
        match lines.last_mut() {
            Some(last) if line.starts_with([' ', '\t']) => {
                last.push(' ');
                last.push_str(line.trim());
            }
            _ => lines.push(line.into()),
        }
    }
    lines
}

fn header(name: &str, wanted: &[String], message: &SipMessage, bindings: &mut Bindings) -> Result<(), String> {
    let lines: Vec<&str> = message.headers.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str()).collect();
    if lines.is_empty() {
        return Err("missing".into());
    }
    if let [wanted] = wanted {
        // One line that describes the whole list, whatever its parts are.
        let mut new = bindings.clone();
        if (name != "via" || lines.len() == 1) && value(name, wanted, &lines.join(", "), &mut new).is_ok() {
            *bindings = new;
            return Ok(());
        }
    }
    if !LISTS.contains(&name) {
        let [wanted] = wanted else { return Err("the flow wants it twice".into()) };
        if lines.len() > 1 {
            return Err(format!("came {} times", lines.len()));
        }
        return value(name, wanted, lines[0], bindings);
    }
    let wanted: Vec<String> = wanted.iter().flat_map(|line| split(line, ',')).collect();
    let came: Vec<String> = lines.iter().flat_map(|line| split(line, ',')).collect();
    if name == "via" && wanted.len() != came.len() {
        return Err(format!("wanted {} values, came {}: {came:?}", wanted.len(), came.len()));
    }
    let mut left = came.iter();
    for one in &wanted {
        let mut problem = format!("wanted {:?}, and nothing is left", known(one, bindings));
        let found = left.by_ref().any(|came| match value(name, one, came, bindings) {
            Ok(()) => true,
            Err(why) => {
                problem = why;
                false
            }
        });
        if !found {
            return Err(problem);
        }
    }
    Ok(())
}

/// Splits at a character outside of quotes, angle brackets and placeholders.
fn split(line: &str, at: char) -> Vec<String> {
    let mut all = vec![String::new()];
    let (mut quoted, mut angled, mut braced) = (false, 0, 0);
    let mut escaped = false;
    for c in line.chars() {
        match c {
            '{' => braced += 1,
            '}' if braced > 0 => braced -= 1,
            '"' if braced == 0 && !escaped => quoted = !quoted,
            '<' if !quoted && braced == 0 => angled += 1,
            '>' if !quoted && braced == 0 && angled > 0 => angled -= 1,
            _ => {}
        }
        escaped = quoted && c == '\\' && !escaped;
        if c == at && !quoted && angled == 0 && braced == 0 {
            all.push(String::new());
        } else if let Some(last) = all.last_mut() {
            last.push(c);
        }
    }
    all.into_iter().map(|piece| piece.trim().to_string()).collect()
}

fn value(name: &str, wanted: &str, came: &str, bindings: &mut Bindings) -> Result<(), String> {
    let Err(problem) = text(wanted, came, bindings) else { return Ok(()) };
    let ordered = match name {
        "from" | "to" | "contact" | "route" | "record-route" => {
            let came = Address::parse(came);
            if text(wanted, &came.plain(), bindings).is_ok() {
                return Ok(());
            }
            address(&Address::parse(wanted), &came, bindings)
        }
        "event" | "subscription-state" | "content-type" => parameters(&split(wanted, ';'), &split(came, ';'), bindings),
        "via" => text(&squeeze(wanted), &squeeze(came), bindings),
        _ => Err(String::new()),
    };
    ordered.map_err(|why| if why.is_empty() { problem } else { format!("{problem}\n    ({why})") })
}

/// White space beside the separators of a Via means nothing.
fn squeeze(text: &str) -> String {
    text.replace(" ;", ";").replace("; ", ";")
}

/// From, To, Contact: the address apart from its parameters.
#[derive(Debug)]
struct Address {
    uri: String,
    parameters: Vec<String>,
    /// A `{{*}}` behind the brackets lets further parameters follow.
    open: bool,
}

impl Address {
    fn parse(text: &str) -> Self {
        // The bracket that counts stands outside of quotes and placeholders.
        let mut start = None;
        let (mut quoted, mut braced) = (false, 0);
        for (at, c) in text.char_indices() {
            match c {
                '{' => braced += 1,
                '}' if braced > 0 => braced -= 1,
                '"' if braced == 0 => quoted = !quoted,
                '<' if !quoted && braced == 0 => {
                    start = Some(at);
                    break;
                }
                _ => {}
            }
        }
        let (uri, rest) = match start {
            Some(start) => {
                let mut braced = 0;
                let end = text[start..].char_indices().find(|(_, c)| {
                    match c {
                        '{' => braced += 1,
                        '}' if braced > 0 => braced -= 1,
                        _ => {}
                    }
                    *c == '>' && braced == 0
                });
                match end {
                    Some((end, _)) => (&text[start + 1..start + end], &text[start + end + 1..]),
                    None => (&text[start + 1..], ""),
                }
            }
            None => {
                let pieces = split(text, ';');
                let parameters = pieces[1..].to_vec();
                return Self { uri: pieces[0].clone(), parameters, open: false };
            }
        };
        let mut pieces = split(rest, ';');
        let first = pieces.remove(0);
        Self { uri: uri.into(), parameters: pieces, open: first.starts_with("{{*") }
    }

    fn plain(&self) -> String {
        let mut all = format!("<{}>", self.uri);
        for parameter in &self.parameters {
            all.push(';');
            all.push_str(parameter);
        }
        all
    }
}

fn address(wanted: &Address, came: &Address, bindings: &mut Bindings) -> Result<(), String> {
    let mut new = bindings.clone();
    text(&wanted.uri, &came.uri, &mut new)?;
    // A value behind `{{*}}` that has no brackets may still end in one.
    set(&wanted.parameters, &came.parameters, wanted.open, &mut new)?;
    *bindings = new;
    Ok(())
}

/// A value with parameters in any order.
fn parameters(wanted: &[String], came: &[String], bindings: &mut Bindings) -> Result<(), String> {
    let mut new = bindings.clone();
    let (Some(first_wanted), Some(first_came)) = (wanted.first(), came.first()) else { return Err("empty".into()) };
    let open = first_wanted.ends_with("{{*}}");
    text(&first_wanted.to_ascii_lowercase(), &first_came.to_ascii_lowercase(), &mut new)?;
    set(&wanted[1..], &came[1..], open, &mut new)?;
    *bindings = new;
    Ok(())
}

/// Each wanted parameter is there, and no other one unless `open`.
fn set(wanted: &[String], came: &[String], open: bool, bindings: &mut Bindings) -> Result<(), String> {
    let mut left: Vec<&String> = came.iter().collect();
    let mut open = open;
    for one in wanted {
        let place = left.iter().position(|came| {
            let lower = |text: &str| match text.split_once('=') {
                Some((name, value)) => format!("{}={}", name.trim().to_ascii_lowercase(), value.trim()),
                None => text.trim().to_ascii_lowercase(),
            };
            text(one, &lower(came), bindings).is_ok()
        });
        match place {
            Some(place) => drop(left.remove(place)),
            None => return Err(format!("no parameter {:?} in {came:?}", known(one, bindings))),
        }
        open |= one.ends_with("{{*}}") && !one.ends_with("={{*}}");
    }
    if open || left.is_empty() { Ok(()) } else { Err(format!("not wanted: {left:?}")) }
}

/// How a body of this type stands on the wire (`README.md`, "Line ends").
pub fn wire_body(body: &str, content_type: &str) -> String {
    let media = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media.as_str() {
        "application/sdp" | "message/sipfrag" => format!("{}\r\n", body.replace('\n', "\r\n")),
        "message/cpim" => body.replace('\n', "\r\n"),
        _ => body.into(),
    }
}

fn sip_body(wanted: &str, message: &SipMessage, bindings: &mut Bindings, rules: &Rules) -> Result<(), String> {
    let content_type = message.header("content-type").unwrap_or_default();
    let media = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let came = core::str::from_utf8(&message.body).map_err(|_| "not UTF-8")?;
    if let Some(length) = message.header("content-length")
        && length.parse() != Ok(message.body.len())
    {
        return Err(format!("Content-Length is {length}, the body has {}", message.body.len()));
    }
    if wanted.is_empty() {
        return if came.is_empty() { Ok(()) } else { Err(format!("wanted none, came {came:?}")) };
    }
    if media == "application/sdp" {
        let mut left = came.lines();
        for line in wanted.lines() {
            if !left.by_ref().any(|came| text(line, came, bindings).is_ok()) {
                return Err(format!("no line {:?} in its place in\n{came}", known(line, bindings)));
            }
        }
        return Ok(());
    }
    if media.ends_with("+xml") || media.ends_with("/xml") {
        let wanted = template(wanted, "")?;
        let came = peers::parse_element(came, "")?;
        return xml(&wanted, &came, bindings, rules, false);
    }
    text(&wire_body(wanted, content_type), came, bindings)
}

// ---- XML

const CHAT_STATES: &str = "http://jabber.org/protocol/chatstates";
const MUC_USER: &str = "http://jabber.org/protocol/muc#user";
const XHTML: &str = "http://www.w3.org/1999/xhtml";

/// Placeholders are hidden in private characters while the template is read as XML.
const HIDE: u32 = 0xf_0000;

/// Reads a template as XML, placeholders and all.
pub fn template(text: &str, namespace: &str) -> Result<Element, String> {
    let mut hidden = Vec::new();
    let mut plain = String::new();
    for part in parts(text)? {
        match part {
            Part::Literal(text) => plain.push_str(&text),
            Part::Placeholder { name, pattern } => {
                let number = HIDE + u32::try_from(hidden.len()).unwrap_or(0);
                plain.push(char::from_u32(number).ok_or("too many placeholders")?);
                hidden.push(match pattern {
                    Some(pattern) => format!("{{{{{name}:{pattern}}}}}"),
                    None => format!("{{{{{name}}}}}"),
                });
            }
        }
    }
    let mut element = peers::parse_element(&plain, namespace)?;
    show(&mut element, &hidden);
    Ok(element)
}

fn show(element: &mut Element, hidden: &[String]) {
    let back = |text: &str| -> String {
        text.chars()
            .map(|c| match (c as u32).checked_sub(HIDE).and_then(|n| hidden.get(n as usize)) {
                Some(placeholder) => placeholder.clone(),
                None => c.to_string(),
            })
            .collect()
    };
    for (_, _, value) in &mut element.attributes {
        *value = back(value);
    }
    for node in &mut element.children {
        match node {
            Node::Text(text) => *text = back(text),
            Node::Element(element) => show(element, hidden),
        }
    }
}

/// The stanza namespaces count as one.
fn namespace(element: &Element) -> &str {
    match element.namespace.as_str() {
        peers::SERVER | "jabber:component:accept" => peers::CLIENT,
        other => other,
    }
}

/// Is the stanza what the template describes?
pub fn stanza(wanted: &str, came: &Element, bindings: &mut Bindings, rules: &Rules) -> Result<(), String> {
    let wanted = template(wanted, peers::CLIENT)?;
    xml(&wanted, came, bindings, rules, true)
}

fn xml(wanted: &Element, came: &Element, bindings: &mut Bindings, rules: &Rules, root: bool) -> Result<(), String> {
    let names_fit = wanted.name == came.name
        || (namespace(wanted) == peers::STANZAS && rules.alternative_conditions.contains(&came.name))
        || (rules.paused_for_active
            && namespace(wanted) == CHAT_STATES
            && matches!((&*wanted.name, &*came.name), ("active", "paused") | ("paused", "active")));
    if !names_fit || namespace(wanted) != namespace(came) {
        return Err(format!(
            "wanted <{} xmlns='{}'>, came <{} xmlns='{}'>",
            wanted.name, wanted.namespace, came.name, came.namespace
        ));
    }
    let mut new = bindings.clone();
    let here = |problem: String| format!("<{}>: {problem}", came.name);
    attributes(wanted, came, &mut new, rules, root).map_err(here)?;
    if rules.html_loose && came.name == "html" {
        html(wanted, came, &mut new).map_err(here)?;
    } else {
        children(wanted, came, &mut new, rules, root).map_err(here)?;
    }
    *bindings = new;
    Ok(())
}

fn attributes(
    wanted: &Element,
    came: &Element,
    bindings: &mut Bindings,
    rules: &Rules,
    root: bool,
) -> Result<(), String> {
    for (ns, name, value) in &wanted.attributes {
        let found = came.attributes.iter().find(|(n, a, _)| n == ns && a == name);
        match found {
            None if value.starts_with("{{?") => {}
            None => return Err(format!("attribute {name} is missing")),
            Some((_, _, actual)) => {
                let problem = match text(value, actual, bindings) {
                    Ok(()) => continue,
                    Err(problem) => problem,
                };
                // Addresses are compared as such: case means nothing before the slash.
                let jid =
                    root && matches!(name.as_str(), "from" | "to") && text(value, &folded(actual), bindings).is_ok();
                if !jid {
                    return Err(format!("attribute {name}: {problem}"));
                }
            }
        }
    }
    for (ns, name, value) in &came.attributes {
        let listed = wanted.attributes.iter().any(|(n, a, _)| n == ns && a == name);
        let free = root && (name == "id" || (name == "lang" && ns == peers::XML));
        if !(listed || free || rules.loose) {
            return Err(format!("attribute {name}={value:?} was not wanted"));
        }
    }
    Ok(())
}

fn folded(jid: &str) -> String {
    match jid.split_once('/') {
        Some((bare, resource)) => format!("{}/{resource}", bare.to_lowercase()),
        None => jid.to_lowercase(),
    }
}

/// The children without the white space between elements; `true`: more may follow.
fn nodes(element: &Element) -> (Vec<&Node>, bool) {
    let mut open = false;
    let elements = element.elements().next().is_some();
    let all = element
        .children
        .iter()
        .filter(|node| match node {
            Node::Element(_) => true,
            Node::Text(text) if text.trim() == "{{...}}" => {
                open = true;
                false
            }
            Node::Text(text) => !(elements && text.trim().is_empty()),
        })
        .collect();
    (all, open)
}

fn children(
    wanted: &Element,
    came: &Element,
    bindings: &mut Bindings,
    rules: &Rules,
    root: bool,
) -> Result<(), String> {
    let (wanted_nodes, open) = nodes(wanted);
    let (came_nodes, _) = nodes(came);
    let texts = |nodes: &[&Node]| nodes.iter().any(|node| matches!(node, Node::Text(_)));
    let elements = |nodes: &[&Node]| nodes.iter().any(|node| matches!(node, Node::Element(_)));
    if texts(&wanted_nodes) && elements(&wanted_nodes) {
        return mixed(&wanted_nodes, &came_nodes, bindings, rules);
    }
    let wanted_text = wanted.text();
    if !elements(&wanted_nodes) {
        let came_text = came.text();
        if wanted_text.trim() == "{{...}}"
            || (elements(&came_nodes) && wanted_text.is_empty() && came_text.trim().is_empty())
        {
            // Only elements to look at.
        } else {
            text_lines(&wanted_text, &came_text, bindings)?;
        }
    } else if texts(&came_nodes) {
        return Err(format!("text was not wanted: {:?}", came.text().trim()));
    }
    let wanted: Vec<&Element> = only_elements(&wanted_nodes);
    let came_elements: Vec<&Element> = only_elements(&came_nodes);
    let mut taken = vec![false; came_elements.len()];
    unordered(&wanted, &came_elements, &mut taken, bindings, rules)?;
    for (extra, _) in came_elements.iter().zip(&taken).filter(|(_, taken)| !**taken) {
        if !(open || rules.loose || may_be_extra(extra, came, rules, root)) {
            return Err(format!("not wanted: {}", extra.to_xml()));
        }
    }
    Ok(())
}

/// Text is compared octet by octet; `.` in a pattern stays on its line.
fn text_lines(wanted: &str, came: &str, bindings: &mut Bindings) -> Result<(), String> {
    text(wanted, came, bindings)
}

fn only_elements<'a>(nodes: &[&'a Node]) -> Vec<&'a Element> {
    nodes
        .iter()
        .filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
        .collect()
}

/// Finds for each wanted element another one that came, in any order.
fn unordered(
    wanted: &[&Element],
    came: &[&Element],
    taken: &mut Vec<bool>,
    bindings: &mut Bindings,
    rules: &Rules,
) -> Result<(), String> {
    let Some((first, rest)) = wanted.split_first() else { return Ok(()) };
    let mut problem = format!("missing: {}", first.to_xml());
    for number in 0..came.len() {
        if taken[number] {
            continue;
        }
        let mut new = bindings.clone();
        match xml(first, came[number], &mut new, rules, false) {
            Err(why) => {
                if came[number].name == first.name {
                    problem = why;
                }
            }
            Ok(()) => {
                let mut then = taken.clone();
                then[number] = true;
                match unordered(rest, came, &mut then, &mut new, rules) {
                    Ok(()) => {
                        *taken = then;
                        *bindings = new;
                        return Ok(());
                    }
                    Err(why) => problem = why,
                }
            }
        }
    }
    Err(problem)
}

fn mixed(wanted: &[&Node], came: &[&Node], bindings: &mut Bindings, rules: &Rules) -> Result<(), String> {
    if wanted.len() != came.len() {
        return Err(format!("wanted {} pieces of mixed content, came {}", wanted.len(), came.len()));
    }
    for (wanted, came) in wanted.iter().zip(came) {
        match (wanted, came) {
            (Node::Text(wanted), Node::Text(came)) => text(wanted, came, bindings)?,
            (Node::Element(wanted), Node::Element(came)) => xml(wanted, came, bindings, rules, false)?,
            _ => return Err("text and elements stand elsewhere".into()),
        }
    }
    Ok(())
}

/// Elements that no flow lists and that may be there.
fn may_be_extra(extra: &Element, parent: &Element, rules: &Rules, root: bool) -> bool {
    let ns = extra.namespace.as_str();
    if root {
        let always = matches!(
            (ns, &*extra.name),
            ("http://jabber.org/protocol/caps", "c")
                | ("urn:xmpp:delay", "delay")
                | ("http://jabber.org/protocol/nick", "nick")
                | ("urn:xmpp:sid:0" | "urn:xmpp:hints", _)
        );
        let state = ns == CHAT_STATES && extra.name == "active" && parent.child("body").is_some();
        let echo = rules.payload_echo && parent.attribute("type") == Some("error");
        let muc = rules.muc_user_x && ns == MUC_USER && extra.name == "x" && extra.children.is_empty();
        return always || state || echo || muc;
    }
    match (&*parent.name, ns, &*extra.name) {
        ("error", peers::STANZAS, "text") => true,
        ("x", _, "history") => rules.history,
        ("x", MUC_USER, "status") => rules.extra_status,
        // PIDF: what need not be listed.
        ("tuple" | "presence", _, "timestamp") => true,
        ("tuple", _, "contact") => extra.attribute("priority").is_none(),
        _ => false,
    }
}

/// Of HTML only the text counts, and that nothing dangerous is left.
fn html(wanted: &Element, came: &Element, bindings: &mut Bindings) -> Result<(), String> {
    harmless(came)?;
    let words = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    text(&words(wanted.whole_text()), &words(came.whole_text()), bindings)
}

fn harmless(element: &Element) -> Result<(), String> {
    if element.name == "script" || (element.namespace == XHTML && matches!(&*element.name, "object" | "iframe")) {
        return Err(format!("<{}> is left", element.name));
    }
    for (_, name, value) in &element.attributes {
        let value = value.to_ascii_lowercase();
        let bad = name.starts_with("on")
            || value.trim_start().starts_with("javascript:")
            || (name == "style" && value.contains("position"));
        if bad {
            return Err(format!("attribute {name}={value:?} is left"));
        }
    }
    element.elements().try_for_each(harmless)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_in_a_pattern_does_not_end_the_placeholder() {
        let mut bindings = Bindings::new();
        text("a {{t:[0-9]{3,5}}} b", "a 1234 b", &mut bindings).expect("it fits");
        assert_eq!(bindings["t"], "1234");
        text("{{t}}{{t}}", "12341234", &mut bindings).expect("a known value comes again");
        text("{{t}}", "1235", &mut bindings).expect_err("another value");
    }

    #[test]
    fn parameters_may_stand_in_any_order() {
        let message = SipMessage::parse(
            b"SIP/2.0 200 OK\r\nTo: \"M\" <sip:m@voip.example>;x=1;tag=q\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n",
        )
        .expect("a message");
        let rules = Rules::default();
        let mut bindings = Bindings::new();
        for (template, fits) in [
            ("SIP/2.0 200 {{*}}\nTo: <sip:m@voip.example>;tag={{t}};x=1", true),
            ("SIP/2.0 200 {{*}}\nTo: <sip:m@voip.example>{{*}}", true),
            ("SIP/2.0 200 {{*}}\nTo: <sip:m@voip.example>;tag=q", false),
            ("SIP/2.0 200 {{*}}\nTo: {{*}}sip:m@voip.example{{*}};tag=q;x=1", true),
            ("SIP/2.0 200 {{*}}\nc: text/plain;charset=utf-8\n!Contact", true),
            ("SIP/2.0 200 {{*}}\nc: text/plain{{*}}\n!To", false),
            ("SIP/2.0 200 {{*}}\nContact: x", false),
        ] {
            assert_eq!(sip(template, &message, &mut bindings, &rules).is_ok(), fits, "{template}");
        }
    }

    #[test]
    fn stanzas_are_compared_as_infosets() {
        let came = peers::parse_element(
            "<m:message xmlns:m='jabber:server' to='A@x.example/R' from='b' id='7'><m:body>hi <b xmlns='u'/></m:body>\
             <delay xmlns='urn:xmpp:delay' stamp='2020-01-01T00:00:00Z'/></m:message>",
            "",
        )
        .expect("a stanza");
        let rules = Rules::default();
        for (template, fits) in [
            ("<message from='b' to='a@x.example/R'><body>hi <b xmlns='u'/></body></message>", true),
            (
                "<message from='b' to='a@x.example/R' type='{{?:normal}}'><body>{{*:hi }}<b xmlns='u'/></body></message>",
                true,
            ),
            ("<message from='b' to='a@x.example/R' type='normal'><body>hi <b xmlns='u'/></body></message>", false),
            ("<message from='b' to='a@x.example/r'><body>hi <b xmlns='u'/></body></message>", false),
            ("<message from='b' to='a@x.example/R'/>", false),
            ("<message from='b' to='a@x.example/R'>{{...}}</message>", true),
        ] {
            let result = stanza(template, &came, &mut Bindings::new(), &rules);
            assert_eq!(result.is_ok(), fits, "{template}: {result:?}");
        }
    }

    #[test]
    fn loose_html_keeps_its_text_and_nothing_dangerous() {
        let rules = Rules { html_loose: true, ..Rules::default() };
        let wanted = "<message from='a' to='b'><html xmlns='h'><body><p>x <b>y</b></p></body></html></message>";
        for (came, fits) in [
            ("<html xmlns='h'><body>x<i> y</i></body></html>", true),
            ("<html xmlns='h'><body onload='x'>x y</body></html>", false),
            ("<html xmlns='h'><body><a href='JavaScript:x'>x</a> y</body></html>", false),
        ] {
            let came = peers::parse_element(&format!("<message from='a' to='b'>{came}</message>"), peers::CLIENT);
            let result = stanza(wanted, &came.expect("a stanza"), &mut Bindings::new(), &rules);
            assert_eq!(result.is_ok(), fits, "{result:?}");
        }
    }
}
