//! `latimer console`: this terminal at a console of the running gateway, whose language
//! is that of [`super::control`].
//!
//! On a terminal it prompts, tells what was refused and goes on. Otherwise it runs the
//! lines it reads, shows nothing but their answers and stops at the first refusal.

use crate::appliance::console::leaves;
use std::io::{self, BufRead, BufReader, ErrorKind, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Where the gateway of the image and of the packages has its state.
pub const CONTROL_DEFAULT: &str = "/var/lib/latimer/latimer.sock";

const PROMPT: &str = "latimer> ";

/// What stands behind `console` on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `--control`: the gateway's socket.
    pub control: PathBuf,
}

/// How standard input is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// Somebody types.
    Terminal,
    /// A file or a pipe: all or nothing.
    Script,
}

/// Runs until the input ends or says so. The error is a sentence for standard error.
pub fn run(options: &Options) -> Result<(), String> {
    let stream = connect(&options.control)?;
    let manner = if io::stdin().is_terminal() { Manner::Terminal } else { Manner::Script };
    converse(&stream, manner, &mut io::stdin().lock(), &mut io::stdout().lock(), &mut io::stderr().lock())
}

/// Asks one thing and shows the answer while it comes. The error is a sentence for
/// standard error: what the gateway refused, or what its answer came to.
pub fn run_line(options: &Options, line: &str) -> Result<(), String> {
    let stream = connect(&options.control)?;
    ask(&stream, format!("{line}\n").as_bytes())?;
    take_answer(&mut BufReader::new(&stream), &mut io::stdout().lock())?
}

fn connect(control: &Path) -> Result<UnixStream, String> {
    UnixStream::connect(control).map_err(|e| {
        let advice = match e.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                "; is the gateway running? --control names its socket"
            }
            ErrorKind::PermissionDenied => "; only the gateway's own user may",
            _ => "",
        };
        format!("cannot reach the gateway at {}: {e}{advice}", control.display())
    })
}

fn converse(
    stream: &UnixStream,
    manner: Manner,
    input: &mut dyn BufRead,
    out: &mut dyn Write,
    complaints: &mut dyn Write,
) -> Result<(), String> {
    let mut answers = BufReader::new(stream);
    let mut line = Vec::new();
    for number in 1.. {
        if manner == Manner::Terminal {
            show(out, PROMPT.as_bytes())?;
        }
        line.clear();
        let length = input.read_until(b'\n', &mut line).map_err(|e| format!("cannot read standard input: {e}"))?;
        if length == 0 {
            break;
        }
        if line.last() != Some(&b'\n') {
            line.push(b'\n');
        }
        if core::str::from_utf8(&line).is_ok_and(leaves) {
            return Ok(());
        }
        ask(stream, &line)?;
        match take_answer(&mut answers, out)? {
            Ok(()) => {}
            Err(sentence) if manner == Manner::Script => return Err(format!("line {number}: {sentence}")),
            // Without standard error there is nobody to tell.
            Err(sentence) => drop(writeln!(complaints, "{sentence}")),
        }
    }
    // The shell's own prompt begins on a line of its own.
    if manner == Manner::Terminal { show(out, b"\n") } else { Ok(()) }
}

fn ask(mut stream: &UnixStream, line: &[u8]) -> Result<(), String> {
    match stream.write_all(line) {
        // It hung up, and may have said why before.
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(format!("cannot ask the gateway: {e}")),
        _ => Ok(()),
    }
}

/// Shows an answer while it comes; the inner error is the gateway's refusal.
fn take_answer(answers: &mut BufReader<impl Read>, out: &mut dyn Write) -> Result<Result<(), String>, String> {
    let mut line = Vec::new();
    loop {
        line.clear();
        answers.read_until(b'\n', &mut line).map_err(|e| format!("cannot hear the gateway: {e}"))?;
        match line.split_first() {
            Some((b' ', text)) if text.ends_with(b"\n") => show(out, text)?,
            Some((b'+', b"\n")) => {
                out.flush().map_err(|e| unwritable(&e))?;
                return Ok(Ok(()));
            }
            Some((b'-', sentence)) if sentence.ends_with(b"\n") => {
                out.flush().map_err(|e| unwritable(&e))?;
                return Ok(Err(String::from_utf8_lossy(sentence).trim_end().to_owned()));
            }
            // Nothing, or a line cut short.
            _ if !line.ends_with(b"\n") => return Err("the gateway ended the connection".into()),
            _ => return Err("what answers there is no gateway, or of another version".into()),
        }
    }
}

fn show(out: &mut dyn Write, text: &[u8]) -> Result<(), String> {
    out.write_all(text).and_then(|()| out.flush()).map_err(|e| unwritable(&e))
}

fn unwritable(error: &io::Error) -> String {
    format!("cannot write to standard output: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a console shows and complains of, and how it ends, when a gateway says
    /// `answers` to what it sends, which comes last.
    fn conversation(manner: Manner, input: &str, answers: &str) -> (String, String, Result<(), String>, String) {
        let (ours, mut gateways) = UnixStream::pair().expect("a pair");
        gateways.write_all(answers.as_bytes()).expect("room");
        gateways.shutdown(std::net::Shutdown::Write).expect("a shutdown");
        let (mut out, mut complaints) = (Vec::new(), Vec::new());
        let end = converse(&ours, manner, &mut input.as_bytes(), &mut out, &mut complaints);
        drop(ours);
        let mut asked = String::new();
        gateways.read_to_string(&mut asked).expect("text");
        let text = |octets| String::from_utf8(octets).expect("text");
        (text(out), text(complaints), end, asked)
    }

    #[test]
    fn a_script_shows_answers_alone_and_stops_at_the_first_refusal() {
        let (out, complaints, end, asked) =
            conversation(Manner::Script, "a\n\nb\nc", " one\n  two\n \n+\n+\n-no; allowed: a\n");
        assert_eq!((out.as_str(), complaints.as_str(), asked.as_str()), ("one\n two\n\n", "", "a\n\nb\n"));
        assert_eq!(end, Err("line 3: no; allowed: a".into()));
        let (out, _, end, asked) = conversation(Manner::Script, "a\nb", "+\n x\n+\n");
        assert_eq!((out.as_str(), asked.as_str(), end), ("x\n", "a\nb\n", Ok(())));
    }

    #[test]
    fn a_terminal_is_prompted_and_hears_of_refusals() {
        let (out, complaints, end, _) = conversation(Manner::Terminal, "a\nb\n", "-no; allowed: b\n x\n+\n");
        assert_eq!((out.as_str(), complaints.as_str()), ("latimer> latimer> x\nlatimer> \n", "no; allowed: b\n"));
        assert_eq!(end, Ok(()));
    }

    #[test]
    fn leaving_asks_nobody() {
        for word in ["exit", "quit", "q # bye"] {
            let (_, _, end, asked) = conversation(Manner::Script, &format!("{word}\nb\n"), "");
            assert_eq!((end, asked.as_str()), (Ok(()), ""));
        }
    }

    #[test]
    fn a_gateway_that_hangs_up_is_told_from_one_that_refuses() {
        for answers in ["", " half", " a whole line\n", "+"] {
            let (_, _, end, _) = conversation(Manner::Terminal, "a\n", answers);
            assert_eq!(end, Err("the gateway ended the connection".into()), "{answers:?}");
        }
        let (_, _, end, _) = conversation(Manner::Terminal, "a\n", "HTTP/1.1 400 Bad Request\n");
        assert!(end.is_err_and(|e| e.starts_with("what answers there is no gateway")));
        let error = connect(Path::new("/nonexistent/latimer.sock")).expect_err("nobody");
        assert!(error.contains("/nonexistent/latimer.sock") && error.contains("is the gateway running?"), "{error}");
    }
}
