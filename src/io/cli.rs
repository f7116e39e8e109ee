//! The command line: what is asked for, and the exit code. Results go to standard
//! output, everything else to standard error. 0 is good, 1 refused or failed, 2 wrong
//! usage.

use super::tls::Unusable;
use super::{console, demo, reactor, serve, store};
use crate::appliance::commands;
use crate::appliance::config::{self, Secrets};
use crate::appliance::grammar::{self, Verb};
use crate::settings::{ListenerKind, Partner};
use core::net::SocketAddr;
use lexopt::prelude::{Long, Short, Value, ValueExt};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const USAGE: &str = "\
usage: latimer serve --config FILE [--state DIR] [--control SOCKET]
       latimer console [--control SOCKET]
       latimer test partner DOMAIN [OURS] [--control SOCKET]
       latimer test user A to B [--control SOCKET]
       latimer config load TEXT --config FILE
       latimer config show --config FILE [--secrets]
       latimer config check TEXT
       latimer demo [--sip ADDR:PORT] [--xmpp ADDR:PORT] [--once]
       latimer --version

TEXT is a file of `set` lines, or - for standard input; FILE is the configuration
that `config load` makes of it; SOCKET is where consoles reach the running gateway:
latimer.sock in DIR for `serve`, in /var/lib/latimer for the others. `test` asks the
running gateway to walk to a partner or a SIP domain, as one of our domains, or to send a
message from one user to another; its exit code is 0 if all is green.
";

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Serve(serve::Options),
    Load {
        text: PathBuf,
        config: PathBuf,
    },
    Show {
        config: PathBuf,
        secrets: Secrets,
    },
    Check {
        text: PathBuf,
    },
    Console(console::Options),
    /// The line that a console would ask.
    Test(console::Options, String),
    Demo(demo::Options),
    Version,
    Help,
}

/// Does what the arguments ask for.
pub fn run(arguments: lexopt::Parser) -> ExitCode {
    let command = match parse(arguments) {
        Ok(command) => command,
        Err(e) => {
            complain(&format!("latimer: {e}\n{USAGE}"));
            return ExitCode::from(2);
        }
    };
    match carry_out(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            complain(&message);
            ExitCode::FAILURE
        }
    }
}

fn parse(mut arguments: lexopt::Parser) -> Result<Command, lexopt::Error> {
    let mut words: Vec<String> = Vec::new();
    let (mut config, mut state, mut control) = (None, None, None);
    let (mut sip, mut xmpp) = (None, None);
    let (mut secrets, mut once) = (false, false);
    // Which options were given, to be held against those the command has.
    let mut given: Vec<&'static str> = Vec::new();
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("help") | Short('h') => return Ok(Command::Help),
            Long("version") | Short('V') => return Ok(Command::Version),
            Long("config") => (config, _) = (Some(PathBuf::from(arguments.value()?)), given.push("--config")),
            Long("state") => (state, _) = (Some(PathBuf::from(arguments.value()?)), given.push("--state")),
            Long("control") => (control, _) = (Some(PathBuf::from(arguments.value()?)), given.push("--control")),
            Long("sip") => (sip, _) = (Some(arguments.value()?.parse::<SocketAddr>()?), given.push("--sip")),
            Long("xmpp") => (xmpp, _) = (Some(arguments.value()?.parse::<SocketAddr>()?), given.push("--xmpp")),
            Long("once") => (once, _) = (true, given.push("--once")),
            Long("secrets") => (secrets, _) = (true, given.push("--secrets")),
            Value(word) => words.push(word.string()?),
            other => return Err(other.unexpected()),
        }
    }
    let needs_config = || config.clone().ok_or_else(|| lexopt::Error::from("--config FILE is missing"));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (command, known): (Command, &[&str]) = match words.as_slice() {
        ["serve"] => {
            let config = needs_config()?;
            let state = state.unwrap_or_else(|| store::folder_of(&config));
            let control = control.unwrap_or_else(|| state.join("latimer.sock"));
            (Command::Serve(serve::Options { config, state, control }), &["--config", "--state", "--control"])
        }
        ["config", "load", text] => (Command::Load { text: text.into(), config: needs_config()? }, &["--config"]),
        ["config", "show"] => {
            let secrets = if secrets { Secrets::Shown } else { Secrets::Masked };
            (Command::Show { config: needs_config()?, secrets }, &["--config", "--secrets"])
        }
        ["config", "check", text] => (Command::Check { text: text.into() }, &[]),
        ["demo"] => (Command::Demo(demo::Options { sip, xmpp, once }), &["--sip", "--xmpp", "--once"]),
        ["console"] => {
            let control = control.unwrap_or_else(|| console::CONTROL_DEFAULT.into());
            (Command::Console(console::Options { control }), &["--control"])
        }
        ["test", "partner", _] | ["test", "partner", _, _] | ["test", "user", _, "to", _] => {
            // Each word has to be one for the console too.
            if words.iter().any(|word| word.is_empty() || word.contains(char::is_whitespace) || word.starts_with('#')) {
                return Err("test: a domain or an address is a word without blanks".into());
            }
            let control = control.unwrap_or_else(|| console::CONTROL_DEFAULT.into());
            (Command::Test(console::Options { control }, words.join(" ")), &["--control"])
        }
        ["test", ..] => return Err("test: partner DOMAIN, or user A to B, is missing".into()),
        [] => return Err("a command is missing".into()),
        ["config"] => return Err("config: load, show or check is missing".into()),
        ["config", "load" | "check"] => return Err("the TEXT to read is missing".into()),
        other => return Err(format!("no such command: {}", other.join(" ")).into()),
    };
    match given.iter().find(|option| !known.contains(option)) {
        Some(option) => Err(format!("{option} does not belong to this command").into()),
        None => Ok(command),
    }
}

fn carry_out(command: Command) -> Result<(), String> {
    match command {
        Command::Serve(options) => serve::run(&options).map_err(|e| format!("latimer: {e}\n")),
        Command::Load { text, config } => load(&text, &config),
        Command::Show { config, secrets } => show(&config, secrets),
        Command::Check { text } => check(&text),
        Command::Console(options) => console::run(&options).map_err(|e| format!("latimer: console: {e}\n")),
        Command::Test(options, line) => console::run_line(&options, &line).map_err(|e| format!("latimer: test: {e}\n")),
        Command::Demo(options) => {
            let arrived =
                serve::seed().and_then(|seed| demo::run(options, seed)).map_err(|e| format!("latimer: {e}\n"))?;
            if arrived { Ok(()) } else { Err("latimer: demo: not everything arrived\n".into()) }
        }
        Command::Version => print(&format!("latimer {}\n", serve::VERSION)),
        Command::Help => print(USAGE),
    }
}

fn load(text: &Path, config: &Path) -> Result<(), String> {
    let text = store::read_text(text).map_err(|e| format!("latimer: {e}\n"))?;
    let file = store::read_config_if_any(config).map_err(|e| format!("latimer: {e}\n"))?;
    // The errors of the text come without a word around them: `line N: ...`.
    let warnings = commands::load(&text, &file)?.warnings;
    let doubts = usable(&text)?;
    complain(&warnings);
    complain(&doubts);
    complain(&commands::dated(&text, reactor::wall()));
    store::update_config(config, |file| commands::load(&text, file).map(|load| (load.offset, load.octets, ())))
        .map_err(|e| format!("latimer: {e}\n"))
}

fn show(config: &Path, secrets: Secrets) -> Result<(), String> {
    let file = store::read_config(config).map_err(|e| format!("latimer: {e}\n"))?;
    let text = commands::show(&file, secrets).map_err(|e| format!("latimer: {}: {e}\n", config.display()))?;
    print(&text)
}

fn check(text: &Path) -> Result<(), String> {
    let text = store::read_text(text).map_err(|e| format!("latimer: {e}\n"))?;
    let warnings = commands::check(&text)?;
    let doubts = usable(&text)?;
    complain(&warnings);
    complain(&doubts);
    complain(&commands::dated(&text, reactor::wall()));
    Ok(())
}

/// Refuses what is good by the rules of the language and cannot be used by this
/// program, with the line that set it. Gives what its peers may not believe, a line each.
fn usable(text: &[u8]) -> Result<String, String> {
    let text = core::str::from_utf8(text).unwrap_or_default();
    let Ok((config, _)) = config::load(text) else { return Ok(String::new()) };
    match serve::usable(&config) {
        Ok((tls, _)) => {
            let settings = &config.settings;
            let is_by_tls = settings.listeners.iter().any(|listener| listener.kind == ListenerKind::SipTls);
            let shows_certificate = settings.discovery_open || settings.partners.iter().any(Partner::may_sasl);
            // A component's server speaks for its domain, and nobody for a provider's.
            let is_ours = |domain: &&str| {
                !settings.components.iter().any(|component| component.domain == *domain)
                    && !settings.providers.iter().any(|provider| provider.has_domain(domain))
            };
            let domains = settings.sip_domains.iter().map(|served| served.domain.as_str()).filter(is_ours);
            let domains: Vec<&str> = domains.filter(|_| shows_certificate).collect();
            let host = Some(settings.host_name.as_str()).filter(|_| is_by_tls);
            let doubts = tls.doubts(host, &domains, reactor::wall());
            Ok(doubts.into_iter().map(|doubt| doubt + "\n").collect())
        }
        Err(Unusable { path, what }) => {
            let (allowed, begin) = match path.rsplit(' ').next() {
                Some("key") => {
                    ("a private key in PEM form: RSA of 2048 bits or more, P-256, P-384, Ed25519", "PRIVATE KEY")
                }
                _ => ("certificates in PEM form, our own first, and the key of the first", "CERTIFICATE"),
            };
            let hint = if what.contains("; allowed: ") {
                String::new()
            } else {
                format!("; allowed: {allowed}; example: set {path} \"-----BEGIN {begin}-----\\n...\"")
            };
            Err(format!("line {}: {path}: {what}{hint}\n", line_of(text, &path)))
        }
    }
}

/// The last line that sets `path` or something below it; else the last of all.
fn line_of(text: &str, path: &str) -> usize {
    let wanted: Vec<&str> = path.split(' ').collect();
    let sets = |line: &str| match grammar::parse(line) {
        Ok(Some((Verb::Set, words))) => {
            words.len() >= wanted.len()
                && words.iter().zip(&wanted).all(|(word, wanted)| word.eq_ignore_ascii_case(wanted))
        }
        _ => false,
    };
    let last = text.lines().count();
    text.lines().enumerate().filter(|(_, line)| sets(line)).last().map_or(last, |(at, _)| at + 1)
}

fn print(text: &str) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| format!("latimer: cannot write to standard output: {e}\n"))
}

fn complain(text: &str) {
    // There is nobody left to tell if standard error is gone.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        parse(lexopt::Parser::from_args(line.split_ascii_whitespace())).map_err(|e| e.to_string())
    }

    #[test]
    fn each_command_has_its_options() {
        let config = PathBuf::from("etc/latimer.conf");
        let serve = |state: &str, control: &str| {
            Command::Serve(serve::Options { config: config.clone(), state: state.into(), control: control.into() })
        };
        assert_eq!(parsed("serve --config etc/latimer.conf"), Ok(serve("etc", "etc/latimer.sock")));
        assert_eq!(parsed("serve --state=/var --config etc/latimer.conf"), Ok(serve("/var", "/var/latimer.sock")));
        assert_eq!(parsed("serve --state=/var --config etc/latimer.conf --control s"), Ok(serve("/var", "s")));
        let console = |control: &str| Command::Console(console::Options { control: control.into() });
        assert_eq!(parsed("console"), Ok(console("/var/lib/latimer/latimer.sock")));
        assert_eq!(parsed("console --control s"), Ok(console("s")));
        assert_eq!(
            parsed("config load - --config etc/latimer.conf"),
            Ok(Command::Load { text: "-".into(), config: config.clone() })
        );
        assert_eq!(
            parsed("config show --secrets --config etc/latimer.conf"),
            Ok(Command::Show { config, secrets: Secrets::Shown })
        );
        assert_eq!(parsed("config check x"), Ok(Command::Check { text: "x".into() }));
        let test = |control: &str, line: &str| Command::Test(console::Options { control: control.into() }, line.into());
        let default = "/var/lib/latimer/latimer.sock";
        assert_eq!(parsed("test partner chat.example"), Ok(test(default, "test partner chat.example")));
        assert_eq!(parsed("test partner a b --control s"), Ok(test("s", "test partner a b")));
        assert_eq!(parsed("test user a@b to c@d"), Ok(test(default, "test user a@b to c@d")));
        assert_eq!(parsed("--version"), Ok(Command::Version));
    }

    #[test]
    fn wrong_usage_is_named() {
        for (line, what) in [
            ("", "a command is missing"),
            ("serve", "--config FILE is missing"),
            ("console --config x", "--config does not belong"),
            ("console now", "no such command: console now"),
            ("dance", "no such command: dance"),
            ("test", "test: partner DOMAIN, or user A to B, is missing"),
            ("test user a b", "test: partner DOMAIN, or user A to B, is missing"),
            ("test partner #x", "a word without blanks"),
            ("test partner a --config x", "--config does not belong"),
            ("config", "load, show or check is missing"),
            ("config check", "TEXT to read is missing"),
            ("config check x --secrets", "--secrets does not belong"),
            ("serve --config", "missing argument"),
            ("serve --frob", "--frob"),
        ] {
            let error = parsed(line).expect_err(line);
            assert!(error.contains(what), "{line}: {error}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_told_with_the_last_line_that_sets_it() {
        let text = "set system host-name gw.example\nset tls certificate main key \"a\"\n\
                    set tls certificate main key \"b\"\n# set tls certificate main key\n";
        assert_eq!(line_of(text, "tls certificate main key"), 3);
        assert_eq!(line_of(text, "tls certificate main"), 3);
        assert_eq!(line_of(text, "tls trust house"), 4);
    }
}
