//! The language of the configuration, line by line: `set PATH... VALUE` and
//! `delete PATH...`, blanks between words, `#` before a comment, double quotes
//! around what holds blanks. Which paths there are is none of its business.

use crate::base::text::Escaped;
use core::fmt;

/// What a line wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// `set`: give a path a value.
    Set,
    /// `delete`: take a path away with all that lies below it.
    Delete,
}

/// Why a line is refused, in the three parts every such message has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong.
    pub what: String,
    /// What is allowed instead.
    pub allowed: String,
    /// A line that would be taken.
    pub example: String,
}

impl Fault {
    /// A fault from its three parts.
    pub fn new(what: impl Into<String>, allowed: impl Into<String>, example: impl Into<String>) -> Self {
        Self { what: what.into(), allowed: allowed.into(), example: example.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; allowed: {}; example: {}", self.what, self.allowed, self.example)
    }
}

const EXAMPLE: &str = "set system host-name gw.example";
const QUOTED_EXAMPLE: &str = r#"set partner xmpp.example description "our \"first\" partner""#;

/// The verb and the words of a line, unquoted; `None` for an empty line or one with
/// nothing but a comment.
pub fn parse(line: &str) -> Result<Option<(Verb, Vec<String>)>, Fault> {
    let mut words = words(line)?.into_iter();
    let verb = match words.next().as_deref() {
        None => return Ok(None),
        Some("set") => Verb::Set,
        Some("delete") => Verb::Delete,
        // Quoted up to the first blank only: a value pasted without its command may
        // be a secret.
        Some(other) => {
            let what = format!("'{}' is no command", Escaped(crate::base::text::cut(other, 24)));
            return Err(Fault::new(what, "set PATH... VALUE, delete PATH..., # comment", EXAMPLE));
        }
    };
    let words: Vec<String> = words.collect();
    if words.is_empty() {
        return Err(Fault::new("a path is missing", "set PATH... VALUE, delete PATH...", EXAMPLE));
    }
    Ok(Some((verb, words)))
}

/// Splits a line into words.
fn words(line: &str) -> Result<Vec<String>, Fault> {
    let mut words = Vec::new();
    let mut rest = line.chars().peekable();
    loop {
        while rest.next_if(|c| is_blank(*c)).is_some() {}
        match rest.peek() {
            None | Some('#') => return Ok(words),
            Some('"') => {
                rest.next();
                words.push(quoted(&mut rest)?);
                if rest.peek().is_some_and(|c| !is_blank(*c)) {
                    return Err(Fault::new(
                        "text follows a closing quote without a blank",
                        "a blank or the end of the line; a quote inside a value is written \\\"",
                        QUOTED_EXAMPLE,
                    ));
                }
            }
            Some(_) => words.push(plain(&mut rest)?),
        }
    }
}

fn plain(rest: &mut core::iter::Peekable<core::str::Chars<'_>>) -> Result<String, Fault> {
    let mut word = String::new();
    while let Some(c) = rest.next_if(|c| !is_blank(*c)) {
        match c {
            // Taking the rest for a comment would cut a secret short without a word.
            '#' => {
                return Err(Fault::new(
                    "'#' within a word",
                    "a blank before a comment, or quotes around a value that holds '#'",
                    "set xmpp dialback-secret \"a#b\"",
                ));
            }
            '"' => {
                return Err(Fault::new(
                    "a quote within a word",
                    "quotes around the whole value, inside it \\\"",
                    QUOTED_EXAMPLE,
                ));
            }
            c if c.is_control() => return Err(control_character()),
            c => word.push(c),
        }
    }
    Ok(word)
}

/// Reads up to the closing quote, the opening one being used up.
fn quoted(rest: &mut core::iter::Peekable<core::str::Chars<'_>>) -> Result<String, Fault> {
    let mut word = String::new();
    loop {
        match rest.next() {
            Some('"') => return Ok(word),
            Some('\\') => match rest.next() {
                Some('n') => word.push('\n'),
                Some(c @ ('"' | '\\')) => word.push(c),
                _ => {
                    return Err(Fault::new(
                        "a backslash in quotes before something else",
                        "\\n, \\\" and \\\\",
                        QUOTED_EXAMPLE,
                    ));
                }
            },
            Some(c) if c.is_control() && c != '\t' => return Err(control_character()),
            Some(c) => word.push(c),
            None => return Err(unclosed()),
        }
    }
}

/// The fault of a quote that is not closed; what follows in the text cannot be told
/// from values then.
pub fn unclosed() -> Fault {
    Fault::new(
        "a quote is not closed on this line",
        "one value in quotes on one line, each line break in it written \\n (also those of a PEM)",
        r#"set tls trust ours "-----BEGIN CERTIFICATE-----\nMIIB...\n-----END CERTIFICATE-----\n""#,
    )
}

fn control_character() -> Fault {
    Fault::new("a control character", "printable text; a line break in quotes is written \\n", QUOTED_EXAMPLE)
}

const fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

/// A word as the language writes it: bare where it can be, else in quotes.
#[derive(Clone, Copy, Debug)]
pub struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bare =
            |c: char| c.is_alphanumeric() || matches!(c, '.' | ':' | '/' | '-' | '_' | '[' | ']' | '@' | '%' | '+');
        if !self.0.is_empty() && self.0.chars().all(bare) {
            return f.write_str(self.0);
        }
        f.write_str("\"")?;
        for c in self.0.chars() {
            match c {
                '\n' => f.write_str("\\n")?,
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                c => fmt::Write::write_char(f, c)?,
            }
        }
        f.write_str("\"")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    fn set(line: &str) -> Vec<String> {
        let (verb, words) = parse(line).expect("a good line").expect("not empty");
        assert_eq!(verb, Verb::Set);
        words
    }

    #[test]
    fn words_stand_between_blanks_and_comments_end_a_line() {
        assert_eq!(set(" set\ta  b c # d \" e"), ["a", "b", "c"]);
        assert_eq!(parse("  # set a b"), Ok(None));
        assert_eq!(parse(""), Ok(None));
        assert!(matches!(parse("delete a b"), Ok(Some((Verb::Delete, words))) if words == ["a", "b"]));
    }

    #[test]
    fn escapes_stand_in_quotes_only() {
        assert_eq!(set(r#"set a "b \"c\" \\ #\nd""#), ["a", "b \"c\" \\ #\nd"]);
        assert_eq!(set(r#"set a """#), ["a", ""]);
        assert_eq!(set(r"set a b\n"), ["a", r"b\n"]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_reason() {
        for (line, reason) in [
            (r#"set a "b"#, "not closed"),
            (r#"set a "b\"#, "backslash"),
            (r#"set a "b\t""#, "backslash"),
            (r#"set a "b"c"#, "closing quote"),
            (r#"set a b"c""#, "quote within"),
            ("set a b#c", "within a word"),
            ("set a \u{1b}[2J", "control character"),
            ("get a", "no command"),
            ("set", "path is missing"),
            ("set # x", "path is missing"),
        ] {
            let fault = parse(line).expect_err(line);
            assert!(fault.what.contains(reason), "{line}: {fault}");
        }
    }

    #[test]
    fn any_text_comes_back_as_it_was_quoted() {
        let mut rng = Rng::from_number(11);
        let alphabet: Vec<char> = "ab \"\\\n#.:/ü\u{1F600}'<>\t".chars().collect();
        for _ in 0..5000 {
            let text: String =
                (0..rng.below(12)).map(|_| alphabet[rng.below(alphabet.len() as u64) as usize]).collect();
            assert_eq!(set(&format!("set {}", Quoted(&text))), [text.as_str()], "{text:?}");
        }
    }
}
