//! What survives a restart, on the disk: the files `contacts.0` and `contacts.1` in the
//! state folder, of which one counts; what stands in them knows `base::journal`.
//!
//! - A record is written before anything goes out that was sent after it, so a kill loses
//!   nothing anybody heard of. It is synced at most once a second, and only then told as
//!   stored: that is what a power cut may not take.
//! - When the file has grown, all there is is written to the other one, a slice a turn,
//!   while new records go to both; when that is complete and synced it counts, and the
//!   old one goes.
//! - What fails is never tried again on the same file: after a failed fsync the kernel may
//!   call the next one a success although the octets are lost. A new file is begun by the
//!   same way, again and again until one is safe; the last complete one stays until then.
//! - A file that cannot be opened or is of a newer program is left alone, and nothing is
//!   stored: better a gateway that forgets than one that destroys.

use super::log::Quoted;
use super::store;
use crate::base::counters::Counter;
use crate::base::journal::{self, Fault, Loss, Writer};
use crate::base::outbox::Level;
use crate::base::time::Instant;
use crate::gateway::input::Input;
use crate::limits::{
    JOURNAL_COMPACT_FACTOR, JOURNAL_COMPACT_OCTETS_MIN, JOURNAL_OCTETS_MAX, JOURNAL_RETRY_PAUSE_S, JOURNAL_SAY_PAUSE_S,
    JOURNAL_SYNC_PAUSE_MS,
};
use core::ops::Range;
use core::time::Duration;
use rustix::fs::{FlockOperation, OFlags, flock};
use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

const IN_USE: &str = "is being used by another program";
const SYNC_PAUSE: Duration = Duration::from_millis(JOURNAL_SYNC_PAUSE_MS);
const RETRY_PAUSE: Duration = Duration::from_secs(JOURNAL_RETRY_PAUSE_S);
const SAY_PAUSE: Duration = Duration::from_secs(JOURNAL_SAY_PAUSE_S);

/// All there is, a slice at a time: see `Gateway::snapshot`.
pub type Snapshot<'a> = dyn FnMut(u32, &mut dyn FnMut(&[u8])) -> Option<u32> + 'a;

/// The journal.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    state: State,
    /// The file that is being begun.
    next: Option<Next>,
    /// The highest generation seen or used.
    generation: u64,
    /// Records given since the start, as the outbox numbers them.
    given: u64,
    /// Those that are safe.
    safe: u64,
    /// Those that were told to be safe.
    told_safe: u64,
    /// Those that were told to have failed; `None`: nothing was since it last worked.
    told_failed: Option<u64>,
    synced_at: Option<Instant>,
    /// When a file was last begun.
    begun_at: Option<Instant>,
    /// When one is to be begun because of a failure.
    retry_at: Option<Instant>,
    /// When a failure was last logged.
    said_at: Option<Instant>,
    /// Was it, and nothing good since?
    in_trouble: bool,
    /// What failed since the last look.
    faults: Vec<String>,
    notes: VecDeque<Note>,
}

/// Where records go.
#[derive(Debug)]
enum State {
    /// Nowhere: nothing is promised.
    Off,
    /// To this file.
    Good(Opened),
    /// Nowhere, until a new file is complete. That of the place, if any, counts until then.
    Failed { kept: Option<usize> },
    /// Nowhere: there is a file that is not ours to replace, for this reason.
    Refused(String),
}

/// A file that is written.
#[derive(Debug)]
struct Opened {
    /// 0 or 1, the end of its name.
    place: usize,
    file: File,
    writer: Writer,
    /// Octets up to the end of its snapshot.
    snapshot_octets: u64,
}

/// A file that is begun: the snapshot is at `from`.
#[derive(Debug)]
struct Next {
    opened: Opened,
    from: u32,
}

/// A line for the log, and what is to be counted.
#[derive(Debug)]
pub struct Note {
    /// How grave it is.
    pub level: Level,
    /// The code of the line; empty for none.
    pub code: &'static str,
    /// The fields of the line.
    pub text: String,
    /// What is counted.
    pub counter: Option<Counter>,
}

/// What was kept by an earlier run.
#[derive(Debug, Default)]
pub struct Found {
    file: Vec<u8>,
    records: Vec<Range<usize>>,
}

impl Found {
    /// The records, oldest first.
    pub fn records(&self) -> impl Iterator<Item = &[u8]> {
        self.records.iter().map(|at| self.file.get(at.clone()).unwrap_or_default())
    }
}

impl Journal {
    /// A journal that keeps nothing, and says that everything is stored: where nothing
    /// is promised.
    pub fn none() -> Self {
        Self::with(PathBuf::new(), State::Off)
    }

    fn with(folder: PathBuf, state: State) -> Self {
        Self {
            folder,
            state,
            next: None,
            generation: 0,
            given: 0,
            safe: 0,
            told_safe: 0,
            told_failed: None,
            synced_at: None,
            begun_at: None,
            retry_at: None,
            said_at: None,
            in_trouble: false,
            faults: Vec::new(),
            notes: VecDeque::new(),
        }
    }

    /// The journal in `folder`, and what it holds. Whatever is wrong with it is noted. If
    /// it [`is_compacting`](Self::is_compacting) after this, that is best done before
    /// anything else happens.
    pub fn open(folder: &Path, now: Instant) -> (Self, Found) {
        let mut it = Self::with(folder.into(), State::Failed { kept: None });
        let found = it.load(now).unwrap_or_else(|why| {
            it.faults.push(why.clone());
            it.state = State::Refused(why);
            Found::default()
        });
        it.settle(now);
        (it, found)
    }

    /// Chooses between the two files; the error says why they are to be left alone.
    fn load(&mut self, now: Instant) -> Result<Found, String> {
        let paths = [self.path(0), self.path(1)];
        let cannot = |place: usize, why: &dyn core::fmt::Display| format!("{}: {why}", paths[place].display());
        let mut files = [Vec::new(), Vec::new()];
        let mut broken = [false; 2];
        for (place, file) in files.iter_mut().enumerate() {
            let fault = read_file(&paths[place], file).map_err(|e| match e.kind() {
                ErrorKind::WouldBlock => cannot(place, &IN_USE),
                _ => cannot(place, &format!("cannot be opened: {e}")),
            })?;
            if let Some(e) = fault {
                // A block of the flash went bad: what could be read before it counts.
                broken[place] = true;
                self.note_damaged(place, &format!("cannot be read to its end: {e}"));
            }
            self.generation = self.generation.max(journal::generation_of(file).unwrap_or(0));
        }
        let readings = [journal::read(&files[0]), journal::read(&files[1])];
        for (place, reading) in readings.iter().enumerate() {
            if let Err(fault @ Fault::NewerVersion { .. }) = reading {
                return Err(cannot(place, fault));
            }
        }
        let faults = [readings[0].as_ref().err().copied(), readings[1].as_ref().err().copied()];
        let [a, b] = readings;
        let Ok((place, chosen)) = journal::choose(a, b) else {
            for (place, fault) in faults.into_iter().enumerate() {
                if let Some(fault @ (Fault::Incomplete { .. } | Fault::Damaged)) = fault {
                    self.note_damaged(place, &fault.to_string());
                }
            }
            self.begin(now);
            return Ok(Found::default());
        };
        // The other one was on its way in or out, unless it does not even begin well.
        if faults[1 - place] == Some(Fault::Damaged) {
            self.note_damaged(1 - place, &Fault::Damaged.to_string());
        }
        match chosen.loss {
            None => {}
            Some(Loss::Torn { octets }) => self.notes.push_back(Note {
                level: Level::Warn,
                code: "state.torn",
                text: format!(
                    "side=ours path={} octets={octets} cause=the-last-write-did-not-get-through",
                    Quoted(&paths[place].display().to_string())
                ),
                counter: None,
            }),
            Some(Loss::Damaged { octets }) => self.note_damaged(place, &format!("the last {octets} octets are lost")),
        }
        self.state = State::Failed { kept: Some(place) };
        if chosen.loss.is_some() || broken[place] {
            self.begin(now);
        } else {
            match self.go_on(place, &chosen) {
                Ok(opened) => self.state = State::Good(opened),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    return Err(cannot(place, &IN_USE));
                }
                Err(e) => self.fault(place, &e),
            }
        }
        let [a, b] = files;
        Ok(Found { file: if place == 0 { a } else { b }, records: chosen.records })
    }

    /// Opens a whole file to append to it, and makes sure that it is safe: an earlier run
    /// may have been killed before its last sync. Then the other one is needed no more.
    fn go_on(&self, place: usize, chosen: &journal::Journal) -> io::Result<Opened> {
        let file = OpenOptions::new().read(true).write(true).open(self.path(place))?;
        lock(&file)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.sync_all()?;
        sync_folder(&self.folder)?;
        self.forget(1 - place);
        let writer = Writer::behind(chosen);
        Ok(Opened { place, file, writer, snapshot_octets: chosen.snapshot_octets as u64 })
    }

    /// Takes a record in.
    pub fn add(&mut self, record: &[u8]) {
        self.given += 1;
        if let State::Off = self.state {
            self.safe = self.given;
        }
        let mut fits = true;
        if let State::Good(opened) = &mut self.state {
            fits &= opened.writer.record(record);
        }
        if let Some(next) = &mut self.next {
            fits &= next.opened.writer.record(record);
        }
        if !fits {
            // What bounds the records of the gateway is far below.
            let e = too_large();
            self.fail(&e);
            self.fail_next(&e);
        }
    }

    /// Writes what was taken in.
    pub fn write(&mut self) {
        if let State::Good(opened) = &mut self.state
            && let Err(e) = opened.write()
        {
            self.fail(&e);
        }
        if let Some(next) = &mut self.next
            && let Err(e) = next.opened.write()
        {
            self.fail_next(&e);
        }
    }

    /// Syncs, begins a new file, or says what is wrong, whatever is due.
    pub fn tend(&mut self, now: Instant) {
        self.write();
        if self.sync_at().is_some_and(|at| at <= now) {
            self.sync(now);
        }
        let grown = match &self.state {
            State::Good(opened) => {
                let bound = (opened.snapshot_octets * JOURNAL_COMPACT_FACTOR)
                    .max(JOURNAL_COMPACT_OCTETS_MIN)
                    .min(JOURNAL_OCTETS_MAX as u64 * 3 / 4);
                opened.writer.octets() > bound
            }
            _ => false,
        };
        let retry = self.retry_at.is_some_and(|at| at <= now);
        if self.next.is_none() && (retry || (grown && self.retry_at.is_none())) {
            self.begin(now);
        }
        if let State::Refused(why) = &self.state
            && self.said_at.is_some_and(|said| said.after(SAY_PAUSE) <= now)
        {
            self.faults.push(why.clone());
        }
        self.settle(now);
    }

    /// When [`Self::tend`] is next due; nothing is to wait while it [`Self::is_busy`].
    pub fn deadline(&self) -> Option<Instant> {
        let again = match self.state {
            State::Refused(_) => self.said_at.map(|said| said.after(SAY_PAUSE)),
            _ => None,
        };
        let retry = self.retry_at.filter(|_| self.next.is_none());
        [self.sync_at(), retry, again].into_iter().flatten().min()
    }

    /// Is there something to tell, or to do without delay?
    pub fn is_busy(&self) -> bool {
        let news = self.safe > self.told_safe || self.has_failed_news();
        news || self.next.is_some() || !self.faults.is_empty() || !self.notes.is_empty()
    }

    /// Is a new file being written? Then [`Self::compact`] is wanted.
    pub fn is_compacting(&self) -> bool {
        self.next.is_some()
    }

    /// What the gateway has to know, once.
    pub fn news(&mut self) -> Option<Input<'static>> {
        if self.safe > self.told_safe {
            self.told_safe = self.safe;
            return Some(Input::Stored { number: self.safe });
        }
        if self.has_failed_news() {
            self.told_failed = Some(self.given);
            return Some(Input::StoreFailed);
        }
        None
    }

    fn has_failed_news(&self) -> bool {
        let failed = match self.state {
            State::Off | State::Good(_) => false,
            // The first file of all is no failure as long as nothing went wrong.
            State::Failed { .. } => self.retry_at.is_some(),
            State::Refused(_) => true,
        };
        failed && self.told_failed.is_none_or(|told| told < self.given)
    }

    /// What the log and the counters have to know, once.
    pub fn note(&mut self) -> Option<Note> {
        self.notes.pop_front()
    }

    /// Writes one slice of all there is to the file that is begun; the last one makes it
    /// count.
    pub fn compact(&mut self, now: Instant, snapshot: &mut Snapshot<'_>) {
        let Some(next) = &mut self.next else { return };
        let writer = &mut next.opened.writer;
        let mut fits = true;
        let rest = snapshot(next.from, &mut |record| fits &= writer.record(record));
        if let Some(from) = rest {
            next.from = from;
        } else {
            writer.complete();
        }
        let mut result = next.opened.write();
        if !fits {
            result = Err(too_large());
        }
        if rest.is_none() && result.is_ok() {
            result = next.opened.file.sync_all().and_then(|()| sync_folder(&self.folder));
        }
        match result {
            Err(e) => self.fail_next(&e),
            Ok(()) if rest.is_none() => self.complete(now),
            Ok(()) => {}
        }
        self.settle(now);
    }

    /// The new file is safe, so it counts.
    fn complete(&mut self, now: Instant) {
        let Some(Next { mut opened, .. }) = self.next.take() else { return };
        opened.snapshot_octets = opened.writer.octets();
        self.forget(1 - opened.place);
        let path = self.path(opened.place);
        self.state = State::Good(opened);
        self.safe = self.given;
        self.synced_at = Some(now);
        self.retry_at = None;
        if core::mem::take(&mut self.in_trouble) {
            self.notes.push_back(Note {
                level: Level::Info,
                code: "state.stored",
                text: format!("path={} effect=all-is-stored-again", Quoted(&path.display().to_string())),
                counter: None,
            });
        }
    }

    /// Writes and syncs what there is: the program ends.
    pub fn finish(&mut self, now: Instant) {
        self.write();
        if let Some(next) = self.next.take() {
            self.forget(next.opened.place);
        }
        if self.sync_at().is_some() {
            self.sync(now);
        }
        self.settle(now);
    }

    /// When a sync is due, if something is not safe.
    fn sync_at(&self) -> Option<Instant> {
        let wanted = matches!(self.state, State::Good(_)) && self.given > self.safe;
        wanted.then(|| self.synced_at.map_or(Instant::ZERO, |last| last.after(SYNC_PAUSE)))
    }

    fn sync(&mut self, now: Instant) {
        let State::Good(opened) = &self.state else { return };
        match opened.file.sync_data() {
            Ok(()) => {
                self.safe = self.given;
                self.synced_at = Some(now);
            }
            Err(e) => self.fail(&e),
        }
    }

    /// Begins the other file.
    fn begin(&mut self, now: Instant) {
        let place = match &self.state {
            State::Off | State::Refused(_) => return,
            State::Good(opened) => 1 - opened.place,
            State::Failed { kept } => kept.map_or(0, |kept| 1 - kept),
        };
        self.begun_at = Some(now);
        // Generations are 64 bits wide: they do not run out.
        self.generation = self.generation.saturating_add(1);
        match create(&self.folder, &self.path(place)) {
            Ok(file) => {
                let opened = Opened { place, file, writer: Writer::new(self.generation), snapshot_octets: 0 };
                self.next = Some(Next { opened, from: 0 });
            }
            Err(e) => self.fault(place, &e),
        }
    }

    /// The file that counts can be trusted no more; what is in it stays.
    fn fail(&mut self, e: &io::Error) {
        let State::Good(opened) = &self.state else { return };
        let place = opened.place;
        self.state = State::Failed { kept: Some(place) };
        self.told_failed = None;
        self.fault(place, e);
    }

    /// The file that was begun is given up, and leaves its room.
    fn fail_next(&mut self, e: &io::Error) {
        let Some(next) = self.next.take() else { return };
        self.forget(next.opened.place);
        self.fault(next.opened.place, e);
    }

    fn fault(&mut self, place: usize, e: &io::Error) {
        self.faults.push(format!("{}: {e}", self.path(place).display()));
    }

    /// Counts what failed, says it if that was not done just now, and sets the time of
    /// the next attempt.
    fn settle(&mut self, now: Instant) {
        for fault in core::mem::take(&mut self.faults) {
            let said = self.said_at.is_some_and(|said| now < said.after(SAY_PAUSE));
            let (code, effect) = match self.state {
                State::Good(_) => ("state.failed", "the-old-file-stays"),
                State::Refused(_) => ("state.failed", "nothing-is-stored-until-a-restart"),
                _ => ("state.failed", "what-changes-is-forgotten-by-a-restart"),
            };
            self.notes.push_back(Note {
                level: Level::Error,
                code: if said { "" } else { code },
                text: format!("side=ours cause={} effect={effect}", Quoted(&fault)),
                counter: Some(Counter::StoreFailed),
            });
            if !said {
                self.said_at = Some(now);
                self.in_trouble = true;
            }
            if !matches!(self.state, State::Refused(_) | State::Off) {
                // At once the first time, so that one bad file costs nobody anything.
                let again = self.begun_at.map_or(now, |begun| begun.after(RETRY_PAUSE));
                self.retry_at = Some(again.max(now));
            }
        }
    }

    fn note_damaged(&mut self, place: usize, cause: &str) {
        let text =
            format!("side=ours path={} cause={}", Quoted(&self.path(place).display().to_string()), Quoted(cause));
        let counter = Some(Counter::StoreDamaged);
        self.notes.push_back(Note { level: Level::Error, code: "state.damaged", text, counter });
    }

    fn path(&self, place: usize) -> PathBuf {
        self.folder.join(if place == 0 { "contacts.0" } else { "contacts.1" })
    }

    /// Removes a file that does not count; if it stays, it still does not.
    fn forget(&self, place: usize) {
        let _ = fs::remove_file(self.path(place));
    }
}

impl Opened {
    fn write(&mut self) -> io::Result<()> {
        if self.writer.pending().is_empty() {
            return Ok(());
        }
        self.file.write_all_at(self.writer.pending(), self.writer.offset())?;
        self.writer.written();
        Ok(())
    }
}

/// Reads a file that need not be there. The error is one of opening it; what stops the
/// reading is given with what was read before.
fn read_file(path: &Path, into: &mut Vec<u8>) -> io::Result<Option<io::Error>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(e) => return Err(e),
    };
    lock(&file)?;
    Ok(file.take(JOURNAL_OCTETS_MAX as u64).read_to_end(into).err())
}

/// An empty file of ours alone.
fn create(folder: &Path, path: &Path) -> io::Result<File> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    // The folder may be new itself. Who may not look into the one above it did not make it.
    let _ = sync_folder(&store::folder_of(folder));
    let no_link = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).custom_flags(no_link).open(path)?;
    lock(&file)?;
    file.set_len(0)?;
    // The umask may have taken more away than it should, or it was there before.
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

/// Two programs that write one journal would destroy it.
fn lock(file: &File) -> io::Result<()> {
    Ok(flock(file, FlockOperation::NonBlockingLockExclusive)?)
}

fn too_large() -> io::Error {
    io::Error::new(ErrorKind::FileTooLarge, "a record is larger than any that would be read again")
}

/// Makes the entries of new files durable.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::process::Command;
    use std::sync::{PoisonError, RwLock, RwLockReadGuard};

    /// A child holds copies of all our files, and so their locks, until it has become
    /// another program: who starts one is alone.
    static FORKS: RwLock<()> = RwLock::new(());

    fn no_forks() -> RwLockReadGuard<'static, ()> {
        FORKS.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A folder that is gone after the test.
    struct Folder(PathBuf, #[expect(dead_code, reason = "held")] Option<RwLockReadGuard<'static, ()>>);

    impl Folder {
        fn new(name: &str) -> Self {
            Self::with(name, Some(no_forks()))
        }

        fn with(name: &str, guard: Option<RwLockReadGuard<'static, ()>>) -> Self {
            let path = std::env::temp_dir().join(format!("latimer-journal-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(&path).expect("a folder");
            Self(path, guard)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// A gateway that knows contacts, each with a state, and its journal.
    struct Bench {
        journal: Journal,
        contacts: BTreeMap<String, String>,
        now: Instant,
        told: Vec<String>,
        said: Vec<&'static str>,
        counted: Vec<Counter>,
    }

    impl Bench {
        fn start(folder: &Path) -> Self {
            let (journal, found) = Journal::open(folder, Instant::ZERO);
            let contacts = state(found.records());
            let (told, said, counted) = (Vec::new(), Vec::new(), Vec::new());
            let mut it = Self { journal, contacts, now: Instant::ZERO, told, said, counted };
            while it.slice() {}
            it
        }

        fn slice(&mut self) -> bool {
            let contacts: Vec<String> = self.contacts.iter().map(|(name, state)| format!("{name}={state}")).collect();
            self.journal.compact(self.now, &mut |from, record| {
                let from = from as usize;
                let end = (from + 2).min(contacts.len());
                contacts[from..end].iter().for_each(|contact| record(contact.as_bytes()));
                (end < contacts.len()).then_some(end as u32)
            });
            self.journal.is_compacting()
        }

        fn store(&mut self, name: &str, state: &str) {
            self.contacts.insert(name.into(), state.into());
            self.journal.add(format!("{name}={state}").as_bytes());
            self.journal.write();
        }

        /// The end of one turn and the beginning of the next.
        fn turn(&mut self, later_ms: u64) {
            self.now = self.now.after(Duration::from_millis(later_ms));
            self.journal.tend(self.now);
            while let Some(note) = self.journal.note() {
                self.said.extend(Some(note.code).filter(|code| !code.is_empty()));
                self.counted.extend(note.counter);
            }
            if let Some(news) = self.journal.news() {
                self.told.push(match news {
                    Input::Stored { number } => format!("stored {number}"),
                    Input::StoreFailed => "failed".into(),
                    _ => panic!("no news of the journal"),
                });
            }
            self.slice();
        }

        fn told(&mut self) -> Vec<String> {
            core::mem::take(&mut self.told)
        }
    }

    fn state<'a>(records: impl Iterator<Item = &'a [u8]>) -> BTreeMap<String, String> {
        records
            .map(|record| core::str::from_utf8(record).expect("text").split_once('=').expect("a contact"))
            .map(|(name, state)| (name.to_string(), state.to_string()))
            .collect()
    }

    /// What a start would find in a copy of the folder as it is now.
    fn found(folder: &Path) -> BTreeMap<String, String> {
        let files = [0, 1].map(|n| fs::read(folder.join(format!("contacts.{n}"))).unwrap_or_default());
        match journal::choose(journal::read(&files[0]), journal::read(&files[1])) {
            Ok((place, journal)) => state(journal.records.into_iter().map(|at| &files[place][at])),
            Err(_) => BTreeMap::new(),
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder").flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Puts another file behind the one that counts, to which it cannot be written, or
    /// which cannot be synced.
    fn break_with(bench: &mut Bench, device: &str) {
        let device = OpenOptions::new().write(true).open(device).expect("a device");
        let State::Good(opened) = &mut bench.journal.state else { panic!("no good file") };
        opened.file = device;
    }

    #[test]
    fn a_killed_program_finds_all_it_wrote_when_it_starts_again() {
        let folder = Folder::new("kill");
        let mut bench = Bench::start(&folder.0);
        for (name, state) in [("a", "1"), ("b", "1"), ("a", "2")] {
            bench.store(name, state);
        }
        let before = bench.contacts.clone();
        drop(bench);
        let mut bench = Bench::start(&folder.0);
        assert_eq!(bench.contacts, before);
        bench.store("c", "1");
        let before = bench.contacts.clone();
        drop(bench);
        assert_eq!(Bench::start(&folder.0).contacts, before);
        assert_eq!(names(&folder.0), ["contacts.0"]);
    }

    #[test]
    fn files_are_private_whatever_they_were() {
        let folder = Folder::new("mode");
        let mode = || {
            let metadata = fs::metadata(folder.0.join("contacts.0")).expect("a file");
            metadata.permissions().mode() & 0o777
        };
        drop(Bench::start(&folder.0));
        assert_eq!(mode(), 0o600);
        fs::set_permissions(folder.0.join("contacts.0"), Permissions::from_mode(0o666)).expect("a mode");
        drop(Bench::start(&folder.0));
        assert_eq!(mode(), 0o600);
        // A link in its place is not followed.
        fs::remove_file(folder.0.join("contacts.0")).expect("a file");
        std::os::unix::fs::symlink(folder.0.join("elsewhere"), folder.0.join("contacts.0")).expect("a link");
        drop(Bench::start(&folder.0));
        assert!(!folder.0.join("elsewhere").exists());
    }

    #[test]
    fn records_are_stored_when_they_are_synced_which_is_once_a_second_at_most() {
        let folder = Folder::new("sync");
        let mut bench = Bench::start(&folder.0);
        assert_eq!(bench.journal.deadline(), None, "nothing to do, nothing to wake for");
        bench.turn(5000);
        bench.store("a", "1");
        bench.store("b", "1");
        assert_eq!(bench.journal.deadline(), Some(Instant::from_millis(1000)));
        bench.turn(0);
        assert_eq!(bench.told(), ["stored 2"]);
        bench.store("a", "2");
        assert_eq!(bench.journal.deadline(), Some(Instant::from_millis(6000)));
        bench.turn(999);
        assert!(bench.told().is_empty());
        bench.turn(1);
        assert_eq!(bench.told(), ["stored 3"]);
        assert_eq!(bench.journal.deadline(), None);
        bench.turn(10_000);
        assert!(bench.told().is_empty() && bench.said.is_empty());
    }

    #[test]
    fn where_nothing_is_promised_all_is_stored_at_once() {
        let mut journal = Journal::none();
        journal.add(b"a");
        assert!(journal.is_busy());
        assert!(matches!(journal.news(), Some(Input::Stored { number: 1 })));
        assert!(journal.news().is_none() && !journal.is_busy() && journal.deadline().is_none());
    }

    #[test]
    fn a_file_that_has_grown_is_replaced_and_a_kill_at_any_step_loses_nothing() {
        let folder = Folder::new("compact");
        let mut bench = Bench::start(&folder.0);
        let large = "x".repeat(40_000);
        let mut compacted = 0;
        for n in 0..120 {
            bench.store(&format!("contact{}", n % 7), &format!("{n}{large}"));
            assert_eq!(found(&folder.0), bench.contacts);
            let before = bench.journal.is_compacting();
            bench.turn(100);
            assert_eq!(found(&folder.0), bench.contacts);
            compacted += u32::from(before && !bench.journal.is_compacting());
            let size: u64 =
                names(&folder.0).iter().map(|name| fs::metadata(folder.0.join(name)).expect("a file").len()).sum();
            assert!(size < 2 * JOURNAL_COMPACT_OCTETS_MIN, "{size}");
        }
        assert!(compacted >= 3, "{compacted}");
        let before = bench.contacts.clone();
        bench.turn(1000);
        assert_eq!(bench.told().last().map(String::as_str), Some("stored 120"));
        bench.journal.finish(bench.now);
        drop(bench);
        let bench = Bench::start(&folder.0);
        assert_eq!(bench.contacts, before);
        assert_eq!(names(&folder.0).len(), 1);
    }

    #[test]
    fn a_torn_end_is_replaced_at_once_and_never_appended_to() {
        let folder = Folder::new("torn");
        let mut bench = Bench::start(&folder.0);
        bench.store("a", "1");
        bench.store("b", "1");
        drop(bench);
        let path = folder.0.join("contacts.0");
        let whole = fs::read(&path).expect("a file");
        let last = whole.len() - 16;
        for cut in last..whole.len() {
            let _ = fs::remove_file(folder.0.join("contacts.1"));
            fs::write(&path, &whole[..cut]).expect("written");
            let mut bench = Bench::start(&folder.0);
            let torn = cut > last;
            assert_eq!(bench.contacts.len(), 1);
            bench.store("c", "1");
            bench.turn(0);
            assert_eq!(bench.said, if torn { vec!["state.torn"] } else { vec![] });
            assert_eq!(names(&folder.0), [if torn { "contacts.1" } else { "contacts.0" }]);
            drop(bench);
            assert_eq!(found(&folder.0).len(), 2);
        }
        // Damage in the middle is an error, and counted.
        let _ = fs::remove_file(folder.0.join("contacts.1"));
        let mut rotten = whole;
        rotten[last - 1] ^= 1;
        fs::write(&path, &rotten).expect("written");
        let mut bench = Bench::start(&folder.0);
        bench.turn(0);
        assert_eq!((bench.said, bench.counted), (vec!["state.damaged"], vec![Counter::StoreDamaged]));
    }

    #[test]
    fn a_file_that_is_rubbish_is_told_and_replaced() {
        let folder = Folder::new("rubbish");
        fs::write(folder.0.join("contacts.1"), b"rubbish").expect("written");
        let mut bench = Bench::start(&folder.0);
        bench.store("a", "1");
        bench.turn(0);
        bench.turn(1000);
        assert_eq!(bench.said, ["state.damaged"]);
        assert_eq!(bench.told(), ["stored 1"]);
        assert_eq!(names(&folder.0), ["contacts.0"]);
    }

    #[test]
    fn a_full_disk_or_a_failed_sync_leads_to_a_new_file() {
        for (name, device) in [("write-fails", "/dev/full"), ("sync-fails", "/dev/null")] {
            let folder = Folder::new(name);
            let mut bench = Bench::start(&folder.0);
            bench.store("a", "1");
            bench.turn(20_000);
            assert_eq!(bench.told(), ["stored 1"]);
            break_with(&mut bench, device);
            bench.store("b", "1");
            bench.turn(1000);
            assert_eq!(bench.told(), ["failed"], "{name}");
            assert_eq!(bench.said, ["state.failed"]);
            assert_eq!(bench.counted, [Counter::StoreFailed]);
            bench.turn(0);
            bench.turn(0);
            assert_eq!(bench.told(), ["stored 2"], "{name}");
            assert_eq!(bench.said, ["state.failed", "state.stored"]);
            assert_eq!(names(&folder.0), ["contacts.1"]);
            assert_eq!(found(&folder.0), bench.contacts);
            // It goes on failing, so it is tried again, but not more often than promised.
            break_with(&mut bench, device);
            bench.store("b", "2");
            bench.turn(1000);
            assert_eq!(bench.told(), ["failed"]);
            bench.turn(8000);
            assert!(!bench.journal.is_compacting());
            bench.store("b", "3");
            bench.turn(0);
            assert_eq!(bench.told(), ["failed"], "what is given meanwhile does not wait either");
            bench.turn(1000);
            bench.turn(0);
            bench.turn(0);
            assert_eq!(bench.told(), ["stored 4"]);
            assert_eq!(found(&folder.0), bench.contacts);
        }
    }

    #[test]
    fn a_new_file_that_fails_leaves_the_old_one_at_work() {
        let folder = Folder::new("next");
        let mut bench = Bench::start(&folder.0);
        for name in ["a", "b", "c", "d"] {
            bench.store(name, "1");
        }
        bench.turn(2000);
        bench.journal.begin(bench.now);
        let next = bench.journal.next.as_mut().expect("begun");
        next.opened.file = OpenOptions::new().write(true).open("/dev/full").expect("a device");
        bench.store("a", "2");
        assert!(!bench.journal.is_compacting());
        bench.turn(2000);
        assert_eq!(bench.told(), ["stored 4", "stored 5"]);
        assert_eq!(bench.said, ["state.failed"]);
        assert_eq!(names(&folder.0), ["contacts.0"]);
        bench.turn(10_000);
        for _ in 0..3 {
            bench.turn(0);
        }
        assert_eq!(bench.said, ["state.failed", "state.stored"]);
        assert_eq!(names(&folder.0), ["contacts.1"]);
        assert_eq!(found(&folder.0), bench.contacts);
    }

    #[test]
    fn without_a_folder_it_starts_says_so_once_a_minute_and_heals() {
        let folder = Folder::new("missing");
        let state = folder.0.join("state");
        fs::write(&state, b"a file where the folder should be").expect("written");
        let mut bench = Bench::start(&state);
        bench.store("a", "1");
        bench.turn(0);
        assert_eq!(bench.told(), ["failed"]);
        for _ in 0..70 {
            bench.turn(1000);
        }
        assert!(bench.told().is_empty());
        assert_eq!(bench.said, ["state.failed", "state.failed"]);
        assert_eq!(bench.counted.len(), 8);
        fs::remove_file(&state).expect("removed");
        for _ in 0..12 {
            bench.turn(1000);
        }
        assert_eq!(bench.told(), ["stored 1"]);
        assert_eq!(bench.said.last(), Some(&"state.stored"));
        assert_eq!(found(&state), bench.contacts);
    }

    #[test]
    fn what_a_newer_program_wrote_is_left_alone() {
        let folder = Folder::new("newer");
        drop(Bench::start(&folder.0));
        let path = folder.0.join("contacts.0");
        let mut file = fs::read(&path).expect("a file");
        let mut head = b"LATIMERj".to_vec();
        head.extend_from_slice(&(journal::FORMAT_VERSION + 1).to_le_bytes());
        head.extend_from_slice(&7_u64.to_le_bytes());
        let digest = ring::digest::digest(&ring::digest::SHA256, &head);
        head.extend_from_slice(&digest.as_ref()[..8]);
        file[..head.len()].copy_from_slice(&head);
        fs::write(&path, &file).expect("written");
        let mut bench = Bench::start(&folder.0);
        assert!(bench.contacts.is_empty());
        bench.turn(0);
        for n in 0..3 {
            bench.store("a", &n.to_string());
            bench.turn(25_000);
            assert_eq!(bench.told().last().map(String::as_str), Some("failed"));
        }
        assert_eq!(bench.said, ["state.failed", "state.failed"]);
        bench.journal.finish(bench.now);
        drop(bench);
        assert_eq!(names(&folder.0), ["contacts.0"]);
        assert_eq!(fs::read(&path).expect("a file"), file);
    }

    #[test]
    fn a_second_program_leaves_the_first_ones_files_alone() {
        let folder = Folder::new("second");
        let mut first = Bench::start(&folder.0);
        first.store("a", "1");
        let mut second = Bench::start(&folder.0);
        second.store("b", "1");
        second.turn(0);
        assert_eq!((second.told(), second.said.clone()), (vec!["failed".to_string()], vec!["state.failed"]));
        first.store("a", "2");
        first.turn(1000);
        assert_eq!(first.told(), ["stored 2"]);
        assert_eq!(found(&folder.0), first.contacts);
    }

    /// A small file system of its own, unless this machine does not let us.
    fn mounted(folder: &Path, options: &str) -> bool {
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(folder).output();
        mount.is_ok_and(|output| output.status.success())
    }

    fn remount(folder: &Path, options: &str) {
        let status = Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(folder).status();
        assert!(status.is_ok_and(|status| status.success()));
    }

    #[test]
    fn a_real_disk_that_is_full_or_read_only_heals_when_there_is_room() {
        let _alone = FORKS.write().unwrap_or_else(PoisonError::into_inner);
        let folder = Folder::with("tmpfs", None);
        if !mounted(&folder.0, "size=64k") {
            let _ = io::Write::write_all(&mut io::stderr(), b"skipped: no file system can be mounted here\n");
            return;
        }
        let mut bench = Bench::start(&folder.0);
        bench.store("a", "1");
        bench.turn(1000);
        assert_eq!(bench.told(), ["stored 1"]);
        // More than fits: the last write is a short one.
        for n in 0..20 {
            bench.store(&format!("b{n}"), &"x".repeat(5000));
        }
        let safe = found(&folder.0);
        assert!(safe.len() < bench.contacts.len());
        for _ in 0..40 {
            bench.turn(1000);
        }
        assert_eq!(bench.told(), ["failed"]);
        assert_eq!(bench.said, ["state.failed"]);
        assert_eq!(found(&folder.0), safe, "the last good one stays");
        remount(&folder.0, "size=1m");
        for _ in 0..30 {
            bench.turn(1000);
        }
        assert_eq!(bench.told(), ["stored 21"]);
        assert_eq!(found(&folder.0), bench.contacts);
        let before = bench.contacts.clone();
        drop(bench);
        // And a start on a disk that cannot be written.
        remount(&folder.0, "ro");
        let mut bench = Bench::start(&folder.0);
        assert_eq!(bench.contacts, before);
        bench.store("c", "1");
        bench.turn(0);
        assert_eq!(bench.told(), ["failed"]);
        remount(&folder.0, "rw");
        for _ in 0..30 {
            bench.turn(1000);
        }
        assert_eq!(bench.told(), ["stored 1"]);
        assert_eq!(found(&folder.0), bench.contacts);
        drop(bench);
        let _ = Command::new("umount").arg(&folder.0).status();
    }
}
