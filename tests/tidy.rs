//! Reads `src/` as text and holds it to the house rules that the compiler does not know:
//! which folder may use which, the words that only `io/` may say, pages and sizes.

use std::fs;
use std::path::{Path, PathBuf};

/// Each folder and those it may use besides itself, `limits` and `settings`.
const ARROWS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("limits", &["base"]),
    ("settings", &["base"]),
    ("dns", &["base"]),
    ("sip", &["base"]),
    ("xmpp", &["base"]),
    ("gateway", &["base", "dns", "sip", "xmpp"]),
    ("appliance", &["base", "dns", "sip", "xmpp", "gateway"]),
    ("io", &["base", "dns", "sip", "xmpp", "gateway", "appliance"]),
];

/// Words of the outside world: sockets, files, clocks, threads, chance.
const WORLDLY: &[&str] = &[
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::os",
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "std::time",
    "std::io",
    "SystemTime",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "HashMap",
    "HashSet",
    "RandomState",
    "mio::",
    "rustix::",
    "rustls::",
    "println!",
    "eprintln!",
];

/// What is unfinished, or stops the program where an answer was due.
const NOWHERE: &[&str] =
    &["TODO", "FIXME", "XXX", "HACK", "todo!", "unimplemented!", "dbg!", ".unwrap()", "for now", "#[ignore"];

/// Longest file in lines, without the tests at its foot.
const LINES_MAX: usize = 1000;

struct File {
    /// Below `src/`, such as `sip/uri.rs`.
    name: String,
    text: String,
}

impl File {
    /// The first folder, or the file's own name at the top.
    fn folder(&self) -> &str {
        self.name.split(['/', '.']).next().unwrap_or_default()
    }

    fn is_worldly(&self) -> bool {
        matches!(self.folder(), "io" | "main")
    }

    fn before_tests(&self) -> &str {
        let tests = ["#[cfg(test)]\nmod tests", "#[cfg(test)]\npub(crate) mod tests"];
        let end = tests.iter().find_map(|tests| self.text.find(tests));
        &self.text[..end.unwrap_or(self.text.len())]
    }

    /// The lines of code with their numbers: no comments, no strings, no tests.
    fn code(&self) -> Vec<(usize, String)> {
        self.before_tests()
            .lines()
            .enumerate()
            .map(|(number, line)| (number + 1, without_strings(line)))
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
            .map(|(number, line)| (number, line.split("// ").next().unwrap_or_default().to_string()))
            .collect()
    }
}

fn without_strings(line: &str) -> String {
    let mut out = String::new();
    let (mut quoted, mut escaped) = (false, false);
    for c in line.chars() {
        if c == '"' && !escaped {
            quoted = !quoted;
        } else if !quoted {
            out.push(c);
        }
        escaped = c == '\\' && !escaped;
    }
    out
}

fn files() -> Vec<File> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut all = Vec::new();
    collect(&root, &root, &mut all);
    assert!(all.len() > 10, "src/ was not found");
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn collect(root: &Path, folder: &Path, all: &mut Vec<File>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(root, &path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).expect("below src").to_string_lossy().into_owned();
            all.push(File { name, text: fs::read_to_string(&path).expect("a text") });
        }
    }
}

fn check(what: &str, problems: Vec<String>) {
    assert!(problems.is_empty(), "{what}:\n{}", problems.join("\n"));
}

#[test]
fn folders_use_only_those_before_them() {
    let mut problems = Vec::new();
    for file in files() {
        let Some((_, allowed)) = ARROWS.iter().find(|(folder, _)| *folder == file.folder()) else { continue };
        for (number, line) in file.code() {
            for other in line.split("crate::").skip(1) {
                let other = other.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
                let known = ARROWS.iter().any(|(folder, _)| *folder == other);
                let fine = other == file.folder() || matches!(other, "limits" | "settings") || allowed.contains(&other);
                if known && !fine {
                    problems.push(format!("src/{}:{number}: {} may not use {other}", file.name, file.folder()));
                }
                if other.is_empty() && file.folder() != "io" {
                    problems.push(format!("src/{}:{number}: a list behind crate:: hides its folders", file.name));
                }
            }
        }
    }
    check("arrows", problems);
}

#[test]
fn only_io_speaks_of_the_outside_world() {
    let mut problems = Vec::new();
    for file in files().iter().filter(|file| !file.is_worldly()) {
        for (number, line) in file.code() {
            for word in WORLDLY.iter().filter(|word| line.contains(**word)) {
                problems.push(format!("src/{}:{number}: {word}", file.name));
            }
        }
    }
    check("words for io/ alone", problems);
}

#[test]
fn nothing_is_left_unfinished() {
    let mut problems = Vec::new();
    for file in files() {
        for (number, line) in file.code() {
            for word in NOWHERE.iter().filter(|word| line.contains(**word)) {
                problems.push(format!("src/{}:{number}: {word}", file.name));
            }
        }
        for (number, line) in file.text.lines().enumerate().filter(|(_, line)| line.trim_start().starts_with("//")) {
            for word in ["TODO", "FIXME", "XXX", "HACK"].iter().filter(|word| line.contains(**word)) {
                problems.push(format!("src/{}:{}: {word}", file.name, number + 1));
            }
        }
    }
    check("words for nowhere", problems);
}

#[test]
fn every_file_begins_with_its_page() {
    let bare = files().into_iter().filter(|file| !file.text.starts_with("//! ")).map(|file| file.name).collect();
    check("no page", bare);
}

#[test]
fn no_file_outgrows_a_reader() {
    let long = files()
        .iter()
        .map(|file| (&file.name, file.before_tests().lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(name, lines)| format!("src/{name}: {lines} lines"))
        .collect();
    check("too long", long);
}
