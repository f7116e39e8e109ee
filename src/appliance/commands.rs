//! The bodies of `latimer config load`, `show` and `check`: text and octets in, text
//! and octets out. Reading and writing files is left to `io`.

use super::check;
use super::config::{self, Config, Error, Secrets, Warning};
use super::slots::{self, SlotError};
use crate::base::time::Wall;
use core::fmt::{Display, Write};

/// What `config load` does when the text is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// Where in the file to write.
    pub offset: u64,
    /// What to write there, durably, mode 0600.
    pub octets: Vec<u8>,
    /// Warnings, a line each, for standard error.
    pub warnings: String,
}

/// `config load`: checks a text and says what to write into `file`, whose octets may
/// be none. The error is for standard error.
pub fn load(text: &[u8], file: &[u8]) -> Result<Load, String> {
    let (config, warnings) = parse(text)?;
    if slots::is_text(file) {
        // The two names were mixed up: what somebody wrote by hand is not overwritten.
        return Err("latimer: --config: the file holds a text of `set` lines and is left alone; name another\n".into());
    }
    let (offset, octets) = slots::write_next(file, &config);
    Ok(Load { offset, octets, warnings: lines(&warnings) })
}

/// `config show`: the lines that would make what `file` holds, for standard output.
pub fn show(file: &[u8], secrets: Secrets) -> Result<String, SlotError> {
    Ok(config::show(&slots::choose(file)?.config, secrets))
}

/// `config check`: the warnings of a good text, or its errors.
pub fn check(text: &[u8]) -> Result<String, String> {
    Ok(lines(&parse(text)?.1))
}

/// What of a good text may not be meant on that day, a line each, for standard error.
pub fn dated(text: &[u8], now: Wall) -> String {
    parse(text).map(|(config, _)| lines(&check::dated_warnings(&config, now))).unwrap_or_default()
}

fn parse(text: &[u8]) -> Result<(Config, Vec<Warning>), String> {
    let text = core::str::from_utf8(text).map_err(|error| {
        let line = 1 + text.iter().take(error.valid_up_to()).filter(|octet| **octet == b'\n').count();
        lines(&[Error {
            line,
            fault: super::grammar::Fault::new("not UTF-8", "UTF-8 text", "set system host-name gw.example"),
        }])
    })?;
    config::load(text).map_err(|errors| lines(&errors))
}

fn lines(all: &[impl Display]) -> String {
    let mut text = String::new();
    for one in all {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{one}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "set system host-name gw.example\nset sip domain sip.example\nset partner xmpp.example\n\
                        set xmpp dialback-secret canary\n";

    #[test]
    fn what_was_loaded_is_shown() {
        let load = load(TEXT.as_bytes(), &[]).expect("a good text");
        assert_eq!(load.offset, 0);
        let shown = show(&load.octets, Secrets::Shown).expect("a good file");
        let mut expected: Vec<&str> = TEXT.lines().collect();
        expected.sort_unstable();
        assert_eq!(shown.lines().collect::<Vec<_>>(), expected);
        let masked = show(&load.octets, Secrets::Masked).expect("a good file");
        assert!(!masked.contains("canary"));
        assert!(masked.contains("set xmpp dialback-secret \"<secret>\""));
        let error = check(masked.as_bytes()).expect_err("a mask is no secret");
        assert!(error.starts_with("line 4: "), "{error}");
    }

    #[test]
    fn the_errors_name_line_cause_choice_and_example() {
        let error = check(b"set system host-name gw.example\n\nset partner xmpp.example tls maybe\n").expect_err("bad");
        assert_eq!(
            error,
            "line 3: partner xmpp.example tls 'maybe': not one of its values; allowed: required, optional, \
             not-supported; example: set partner xmpp.example tls required\n"
        );
        assert!(check(b"set a\n\xff").expect_err("no text").starts_with("line 2: not UTF-8"));
    }

    #[test]
    fn a_damaged_file_is_never_shown_as_defaults() {
        let text = b"set system host-name gw.example\n";
        assert!(load(text, b"rubbish").is_ok());
        assert!(load(text, text).is_err_and(|error| error.contains("left alone")));
        assert_eq!(show(&[], Secrets::Masked), Err(SlotError::Empty));
        assert_eq!(show(b"LATIMERc", Secrets::Masked), Err(SlotError::Damaged));
    }
}
