//! Reads `*.flow` files: head lines, sections, attributes, placeholders. The format is
//! described in `README.md` beside this file; whatever breaks it is an error here, also
//! in flows that are not run.

use crate::compare::{Part, parts};
use crate::peers;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// One side of the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    Sip,
    Xmpp,
    Msrp,
}

impl Lane {
    fn parse(name: &str) -> Option<Self> {
        match name {
            "sip" => Some(Self::Sip),
            "xmpp" => Some(Self::Xmpp),
            "msrp" => Some(Self::Msrp),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Sip => "sip",
            Self::Xmpp => "xmpp",
            Self::Msrp => "msrp",
        }
    }
}

/// What a section wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The harness sends this.
    Send(Lane),
    /// The gateway must send this.
    Expect(Lane),
    /// Nothing comes on these lanes for so many milliseconds.
    Silence(Vec<Lane>, u64),
    /// The clock moves on, perhaps only until something comes on a lane.
    Advance(u64, Option<Lane>),
    /// Comparisons of captures and literals.
    Assert(Vec<(String, String, String)>),
    /// The process is killed and started again.
    Restart,
    /// It gets other settings while it runs.
    Configure,
    /// A TCP connection for MSRP is opened or closed.
    MsrpLink,
    /// For the reader.
    Note,
}

/// One section.
#[derive(Clone, Debug)]
pub struct Section {
    pub line: usize,
    /// The line that begins it.
    pub head: String,
    pub what: What,
    pub attributes: BTreeMap<String, String>,
    pub text: String,
}

impl Section {
    pub fn has(&self, attribute: &str) -> bool {
        self.attributes.contains_key(attribute)
    }

    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.get(name).map(String::as_str)
    }

    /// The texts of which one has to come.
    pub fn alternatives(&self) -> Vec<&str> {
        self.text.split("\n-- or --\n").collect()
    }
}

/// One file.
#[derive(Clone, Debug, Default)]
pub struct Flow {
    pub name: String,
    pub title: String,
    pub covers: Vec<String>,
    pub config: Vec<(String, String)>,
    pub prelude: Option<String>,
    pub sections: Vec<Section>,
}

const ATTRIBUTES: &[&str] = &[
    "within",
    "optional",
    "any-order",
    "early",
    "last-of-group",
    "via",
    "resends",
    "conn",
    "bodiless-first",
    "auto-200",
    "loose",
    "alt",
    "html-loose",
    "history",
    "muc-user-x",
    "extra-status",
    "paused-for-active",
    "payload-echo",
    "authenticated-domain",
    "peer-identity",
    "broken-body",
    "sub",
];

const CONFIG: &[&str] = &[
    "set",
    "presence.expires",
    "presence.probe-before-refresh",
    "partner.type",
    "sip.transport",
    "sip.dialect",
    "im.mode",
    "im.session-idle",
    "im.error-wait",
    "im.late-errors",
    "msrp.max-size",
    "msrp.tls",
    "muc.xmpp-rooms",
    "muc.sip-rooms",
    "xmpp.domains",
];

/// All flows of a folder.
#[derive(Debug, Default)]
pub struct Folder {
    pub flows: BTreeMap<String, Flow>,
    /// What breaks the format, by flow.
    pub problems: BTreeMap<String, Vec<String>>,
}

/// Reads all flows of a folder and holds them against the format.
pub fn read_folder(folder: &Path) -> Folder {
    let mut problems: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut flows = BTreeMap::new();
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries.flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "flow") {
            continue;
        }
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        match std::fs::read_to_string(&path).map_err(|error| error.to_string()).and_then(|text| parse(&text)) {
            Ok(flow) => {
                if flow.name != stem {
                    problems.entry(stem.clone()).or_default().push(format!("%flow says {:?}", flow.name));
                }
                flows.insert(stem, flow);
            }
            Err(problem) => problems.entry(stem).or_default().push(problem),
        }
    }
    for (name, flow) in &flows {
        let more = check(flow, &flows);
        if !more.is_empty() {
            problems.entry(name.clone()).or_default().extend(more);
        }
    }
    Folder { flows, problems }
}

/// Reads one file.
pub fn parse(text: &str) -> Result<Flow, String> {
    let mut flow = Flow::default();
    for (number, line) in text.lines().enumerate() {
        let number = number + 1;
        if let Some(head) = line.strip_prefix("--- ") {
            let (what, attributes) = parse_head(head.trim()).map_err(|problem| format!("line {number}: {problem}"))?;
            let head = head.trim().to_string();
            flow.sections.push(Section { line: number, head, what, attributes, text: String::new() });
        } else if let Some(section) = flow.sections.last_mut() {
            section.text.push_str(line);
            section.text.push('\n');
        } else if let Some(line) = line.strip_prefix('%') {
            let (key, value) = line.split_once(' ').unwrap_or((line, ""));
            match key {
                "flow" => flow.name = value.trim().into(),
                "title" => flow.title = value.into(),
                "covers" => flow.covers.extend(value.split_whitespace().map(Into::into)),
                "config" => {
                    let (key, value) =
                        value.split_once('=').ok_or_else(|| format!("line {number}: no value in {value:?}"))?;
                    if !CONFIG.contains(&key) {
                        return Err(format!("line {number}: unknown config key {key:?}"));
                    }
                    flow.config.push((key.into(), value.into()));
                }
                "note" => {}
                "prelude" if flow.prelude.is_none() => flow.prelude = Some(value.trim().into()),
                _ => return Err(format!("line {number}: unknown head line {line:?}")),
            }
        } else if !line.trim().is_empty() {
            return Err(format!("line {number}: text before the first section"));
        }
    }
    for section in &mut flow.sections {
        section.text = section.text.trim_matches('\n').to_string();
        if let What::Assert(lines) = &mut section.what {
            *lines = parse_assert(&section.text).map_err(|problem| format!("line {}: {problem}", section.line))?;
        }
    }
    // What the Lync dialect and the rights are held to has no numbers.
    if flow.title.is_empty() || (flow.covers.is_empty() && !flow.name.starts_with('R')) {
        return Err("title or covers missing".into());
    }
    Ok(flow)
}

fn parse_head(head: &str) -> Result<(What, BTreeMap<String, String>), String> {
    let mut words = head.split_whitespace();
    let first = words.next().ok_or("an empty section head")?;
    let rest: Vec<&str> = words.collect();
    let none = BTreeMap::new();
    let what = match first {
        "note" => return Ok((What::Note, none)),
        "assert" => return Ok((What::Assert(Vec::new()), none)),
        "admin" if rest == ["restart", "kill"] => return Ok((What::Restart, none)),
        "admin" if rest == ["configure"] => return Ok((What::Configure, none)),
        "none" => {
            let (time, lanes) = rest.split_last().ok_or("none without lanes and time")?;
            let lanes: Option<Vec<Lane>> = lanes.iter().map(|lane| Lane::parse(lane)).collect();
            let lanes = lanes.filter(|lanes| !lanes.is_empty()).ok_or("none wants lanes")?;
            return Ok((What::Silence(lanes, parse_time(time)?), none));
        }
        "advance" => {
            let (time, more) = rest.split_first().ok_or("advance without a time")?;
            let until = match more {
                [] => None,
                [until] => {
                    let lane = until.strip_prefix("until=").and_then(|lane| lane.strip_suffix('>'));
                    Some(lane.and_then(Lane::parse).ok_or("advance wants until=LANE>")?)
                }
                _ => return Err("too much behind advance".into()),
            };
            return Ok((What::Advance(parse_time(time)?, until), none));
        }
        "msrp-open" | "msrp-close" => What::MsrpLink,
        _ => {
            let lane = |suffix| first.strip_suffix(suffix).and_then(Lane::parse);
            match (lane('<'), lane('>')) {
                (Some(lane), _) => What::Send(lane),
                (_, Some(lane)) => What::Expect(lane),
                _ => return Err(format!("unknown section {first:?}")),
            }
        }
    };
    let mut attributes: BTreeMap<String, String> = BTreeMap::new();
    for word in rest {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let known = ATTRIBUTES.contains(&name) || (what == What::MsrpLink && matches!(name, "by" | "to"));
        if !known {
            return Err(format!("unknown attribute {name:?}"));
        }
        attributes.insert(name.into(), value.into());
    }
    if let Some(time) = attributes.get("within") {
        parse_time(time)?;
    }
    Ok((what, attributes))
}

/// A time such as `2s`, in milliseconds.
pub fn parse_time(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "ms" => 1,
        "s" | "" => 1000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(format!("{text:?} is no time")),
    };
    Ok(number.parse::<u64>().map_err(|_| format!("{text:?} is no time"))? * factor)
}

fn parse_assert(text: &str) -> Result<Vec<(String, String, String)>, String> {
    text.lines()
        .map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
            [a, op @ ("==" | "!=" | "<" | ">" | "<=" | ">="), b] => Ok((a.into(), op.into(), b.into())),
            _ => Err(format!("{line:?} is no comparison")),
        })
        .collect()
}

/// What is wrong with a flow, its placeholders above all.
fn check(flow: &Flow, flows: &BTreeMap<String, Flow>) -> Vec<String> {
    let mut problems = Vec::new();
    let mut known = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut prelude = flow.prelude.as_ref();
    while let Some(name) = prelude {
        let Some(before) = flows.get(name).filter(|_| seen.insert(name)) else {
            problems.push(format!("no prelude {name:?}, or a circle"));
            break;
        };
        for section in before.sections.iter().filter(|s| matches!(s.what, What::Expect(_))) {
            known.extend(names(&section.text));
        }
        prelude = before.prelude.as_ref();
    }
    for section in &flow.sections {
        let mut bad = |problem: String| problems.push(format!("line {}: {}: {problem}", section.line, section.head));
        match &section.what {
            What::Send(lane) => {
                for part in parts(&section.text).unwrap_or_else(|problem| {
                    bad(problem);
                    Vec::new()
                }) {
                    if let Part::Placeholder { name, pattern } = part {
                        if pattern.is_some() || matches!(&*name, "*" | "?" | "...") {
                            bad(format!("a pattern in an input: {name}"));
                        } else if name != "len" && !known.contains(&name) {
                            bad(format!("{name} is not known yet"));
                        }
                    }
                }
                check_content(*lane, section).err().into_iter().for_each(bad);
            }
            What::Expect(lane) => {
                match parts(&section.text) {
                    Ok(_) => known.extend(names(&section.text)),
                    Err(problem) => bad(problem),
                }
                check_content(*lane, section).err().into_iter().for_each(bad);
            }
            What::Assert(lines) => {
                for (a, _, b) in lines {
                    for side in [a, b] {
                        if side.parse::<u64>().is_err() && !known.contains(side) {
                            bad(format!("{side} is not known"));
                        }
                    }
                }
            }
            _ => {}
        }
    }
    problems
}

/// The captures a text makes.
fn names(text: &str) -> Vec<String> {
    let parts = parts(text).unwrap_or_default();
    parts
        .into_iter()
        .filter_map(|part| match part {
            Part::Placeholder { name, .. } if !matches!(&*name, "*" | "?" | "...") => Some(name),
            _ => None,
        })
        .collect()
}

/// Is the text what its lane speaks?
fn check_content(lane: Lane, section: &Section) -> Result<(), String> {
    for text in section.alternatives() {
        let blank: String = parts(text)?
            .into_iter()
            .map(|part| match part {
                Part::Literal(text) => text,
                Part::Placeholder { name, .. } if name == "..." => String::new(),
                Part::Placeholder { .. } => "X".into(),
            })
            .collect();
        match lane {
            Lane::Xmpp => {
                let element = peers::parse_element(&blank, peers::CLIENT)?;
                if !element.is_stanza() {
                    return Err(format!("{} is no stanza", element.name));
                }
                if element.attribute("from").is_none() || element.attribute("to").is_none() {
                    return Err("a stanza wants from and to".into());
                }
            }
            Lane::Sip => {
                let start = blank.lines().next().unwrap_or_default();
                let words: Vec<&str> = start.split(' ').collect();
                let request = words.len() == 3 && words[2] == "SIP/2.0";
                let response = words.len() >= 3 && words[0] == "SIP/2.0";
                if !request && !response {
                    return Err(format!("bad start-line {start:?}"));
                }
            }
            Lane::Msrp => {
                if !blank.starts_with("MSRP ") {
                    return Err("an MSRP frame begins with MSRP".into());
                }
            }
        }
    }
    Ok(())
}
