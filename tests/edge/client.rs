//! A real client of the dialect: libpurple with the SIPE plug-in, behind a small front end
//! (`tests/peers/lync`).

use crate::{Outcome, PROSODY, SOON, Scenario, Site, ensure, equal};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

pub const SCENARIOS: &[Scenario] = &[("client-pidgin-sipe", pidgin)];

/// A program that speaks by lines.
struct Program {
    child: Child,
    input: ChildStdin,
    lines: Arc<(Mutex<Vec<String>>, Condvar)>,
}

impl Program {
    fn start(command: &mut Command) -> Outcome<Self> {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|e| format!("{command:?}: {e}"))?;
        let (input, output) = (child.stdin.take().ok_or("no input")?, child.stdout.take().ok_or("no output")?);
        let lines: Arc<(Mutex<Vec<String>>, Condvar)> = Arc::default();
        let heard = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                heard.0.lock().expect("no panic with it").push(line);
                heard.1.notify_all();
            }
        });
        Ok(Self { child, input, lines })
    }

    fn say(&mut self, line: &str) -> Outcome {
        writeln!(self.input, "{line}").map_err(|e| e.to_string())
    }

    /// Waits for a line that holds this, and takes it.
    fn wait(&self, words: &str, within: Duration) -> Outcome<String> {
        let end = Instant::now() + within;
        let mut lines = self.lines.0.lock().expect("no panic with it");
        loop {
            if let Some(place) = lines.iter().position(|line| line.contains(words)) {
                return Ok(lines.remove(place));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("the client did not say {words:?}; it said {lines:?}"));
            }
            lines = self.lines.1.wait_timeout(lines, left).expect("no panic with it").0;
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until the front end has passed this on, and after it that.
fn passed(trace: &Path, this: &str, that: &str) -> Outcome {
    let end = Instant::now() + SOON;
    loop {
        let said = std::fs::read_to_string(trace).unwrap_or_default();
        if said.split_once(this).is_some_and(|(_, rest)| rest.contains(that)) {
            return Ok(());
        }
        ensure(Instant::now() < end, || format!("{this:?} did not pass, or was not answered"))?;
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn pidgin(site: &Site) -> Outcome {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/lync");
    let (dir, run) = (site.dir().join("client"), &site.world.run);
    let _latimer = site.latimer(&site.config(PROSODY, &[])?)?;
    std::fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
    let program = dir.join("purple-script");
    let mut prepare = Command::new(folder.join("prepare"));
    let prepared = prepare.arg(&program).env("PEERS_RUN", run).env("PEERS_NET", &site.world.net).output();
    let prepared = prepared.map_err(|e| format!("prepare: {e}"))?;
    let told = String::from_utf8_lossy(&prepared.stderr).into_owned();
    if prepared.status.code() == Some(3) {
        println!("SKIP  client-pidgin-sipe: the packages cannot be had here: {told}");
        return Ok(());
    }
    ensure(prepared.status.success(), || format!("purple-script cannot be built: {told}"))?;

    site.papers("edge", "ca", "3650", &[&site.edge_name()])?;
    let (ca, certificate) = (run.join("ca"), format!("edge-{}", site.number()));
    let at = site.edge_address();
    let trace = dir.join("trace.txt");
    let frontend = Program::start(
        Command::new(folder.join("frontend.py"))
            .args(["--listen", &format!("{at}:5060"), "--edge", &format!("{at}:5061"), "--name", &site.edge_name()])
            .args(["--next", &site.gateway(5061).to_string(), "--next-name", &format!("gw.{}", site.domain())])
            .arg("--ca")
            .arg(ca.join("ca.pem"))
            .arg("--cert")
            .arg(ca.join(format!("{certificate}.pem")))
            .arg("--key")
            .arg(ca.join(format!("{certificate}.key")))
            .arg("--trace")
            .arg(&trace),
    )?;
    frontend.wait("ready", SOON)?;
    let odile = site.at("odile");
    let mut client = Program::start(
        Command::new(&program)
            .arg(dir.join("purple"))
            .args(["prpl-sipe", &format!("{odile},odile"), "secret", &format!("server={at}:5060")])
            .args(["transport=tcp", "dont-publish=true"])
            .env("HOME", &dir),
    )?;
    client.wait("online", Duration::from_secs(20))?;
    let (mut guest, bare) = site.guest(PROSODY)?;
    let text = "Zażółć gęślą jaźń";
    client.say(&format!("im sip:{bare} {text}"))?;
    let came = guest.wait("the text", |m| m.text_of("body").trim_end() == text)?;
    equal("from", came.attribute("from").split('/').next().unwrap_or(""), &*odile)?;
    let again = crate::im::texts(&mut guest, Duration::from_secs(6));
    ensure(again.is_empty(), || format!("it came again: {again:?}"))?;

    // Whoever shows no chat states is told none (XEP-0085 section 5.1).
    guest.send(&format!(
        "<message to='{odile}' type='chat'><body>ręka w rękę</body><active xmlns='http://jabber.org/protocol/chatstates'/></message>"
    ))?;
    client.wait("ręka w rękę", SOON)?;
    client.say(&format!("typing sip:{bare} 1"))?;
    guest.wait("composing", |m| m.child("composing").is_some())?;
    guest.send(&format!(
        "<message to='{odile}' type='chat'><composing xmlns='http://jabber.org/protocol/chatstates'/></message>"
    ))?;
    // The client shows no typing to who drives it: that it takes the INFO has to do.
    passed(&trace, "\nINFO sip:odile", "SIP/2.0 200 OK")?;
    client.say(&format!("im sip:{bare} and another"))?;
    guest.wait("the second text", |m| m.text_of("body").trim_end() == "and another")?;
    let said = std::fs::read_to_string(&trace).unwrap_or_default();
    equal("INVITEs of the client", said.matches("\nINVITE ").count(), 2)?;
    ensure(said.contains("SIP/2.0/tcp") || said.contains("SIP/2.0/TCP"), || "no Via of the client".into())?;

    client.say("quit")?;
    passed(&trace, "\nBYE sip:", "SIP/2.0 200 OK")?;
    let more = crate::im::texts(&mut guest, Duration::from_secs(1));
    ensure(more.is_empty(), || format!("more came: {more:?}"))
}
