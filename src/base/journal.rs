//! The journal's file format: what makes records survive a kill, a power cut at any octet
//! and damaged flash. No I/O: `io` writes what [`Writer`] gives it, and hands what it
//! read to [`read`].
//!
//! A file: a head (magic word, 8 octets; format version, 4; generation, 8; check, 8), then
//! frames (kind, 1; length, 4; check, 8; payload). Numbers are little-endian; the head is
//! the same in every format version, so that a newer one can be told from a damaged one.
//! A check is the beginning of a SHA-256 of all it stands for; that of a frame covers the
//! generation and the frame's place, too, so that neither what the flash still holds of
//! an older file nor a frame that was moved is taken for one of this file.
//!
//! The first frames are a snapshot of all that is kept, mixed with what changed while it
//! was written; a frame of its own says that it is complete. A file without that frame is
//! no journal: the one before it counts. Behind it stands what changed since, appended.
//! Records are whole states, of which a later one replaces an earlier one, so the first
//! frames of a journal are always what was true at some time.
//!
//! An append-only file of our own and no database (redb): it is 0.4 MB less of program,
//! and one appended record wears the flash less than the pages a tree writes anew.

use crate::limits::JOURNAL_RECORD_OCTETS_MAX;
use core::fmt;
use core::ops::Range;
use ring::digest;

/// The format this program writes.
pub const FORMAT_VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"LATIMERj";
const CHECK_OCTETS: usize = 8;
const HEAD_OCTETS: usize = 8 + 4 + 8 + CHECK_OCTETS;
const FRAME_HEAD_OCTETS: usize = 1 + 4 + CHECK_OCTETS;
/// A frame with a record. No kind is 0, which is what unwritten flash is made of.
const RECORD: u8 = b'r';
/// The frame behind a snapshot.
const COMPLETE: u8 = b'c';

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    /// How many files were begun up to this one.
    pub generation: u64,
    /// Where in the file the records lie, oldest first.
    pub records: Vec<Range<usize>>,
    /// How many of them stand before the end of the snapshot.
    pub snapshot_records: usize,
    /// Octets up to the end of the snapshot.
    pub snapshot_octets: usize,
    /// Octets that count: what is appended belongs behind them.
    pub octets: usize,
    /// What stands behind them and does not count.
    pub loss: Option<Loss>,
}

/// What was dropped at the end of a file. Which of the two it is, is a guess good enough
/// for a log line: a power cut may also leave a later frame whole and an earlier one not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The last write did not get through.
    Torn {
        /// How much was dropped.
        octets: usize,
    },
    /// There are whole frames behind one that is not.
    Damaged {
        /// How much was dropped, the whole frames among it.
        octets: usize,
    },
}

/// Why a file is no journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There is nothing in it.
    Empty,
    /// Its snapshot does not come to its end: it was never finished, or is damaged.
    Incomplete {
        /// The generation it says it has.
        generation: u64,
    },
    /// It does not begin as a journal does.
    Damaged,
    /// A newer program wrote it.
    NewerVersion {
        /// Its format version.
        found: u32,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the file is empty"),
            Self::Incomplete { .. } => f.write_str("the snapshot it begins with was not finished or is damaged"),
            Self::Damaged => f.write_str("the beginning of the file is damaged"),
            Self::NewerVersion { found } => write!(
                f,
                "the file has format version {found}, newer than {FORMAT_VERSION}, the newest this program knows: \
                 it was written by a newer program"
            ),
        }
    }
}

/// What a file holds. Frames count up to the first that is not whole.
pub fn read(file: &[u8]) -> Result<Journal, Fault> {
    let generation = read_head(file)?;
    let mut records = Vec::new();
    let mut snapshot = None;
    let mut at = HEAD_OCTETS;
    while let Some((kind, payload)) = read_frame(file, generation, at) {
        let end = payload.end;
        match kind {
            RECORD => records.push(payload),
            // It comes once and says no more than that.
            _ if snapshot.is_none() && payload.is_empty() => snapshot = Some((records.len(), end)),
            _ => break,
        }
        at = end;
    }
    let Some((snapshot_records, snapshot_octets)) = snapshot else { return Err(Fault::Incomplete { generation }) };
    let octets = file.len() - at;
    let whole_behind = || (at + 1..file.len()).any(|at| read_frame(file, generation, at).is_some());
    let loss = match octets {
        0 => None,
        _ if whole_behind() => Some(Loss::Damaged { octets }),
        _ => Some(Loss::Torn { octets }),
    };
    Ok(Journal { generation, records, snapshot_records, snapshot_octets, octets: at, loss })
}

/// Which of two files counts, 0 or 1, and what it holds: the newer one with a complete
/// snapshot. One of a newer program hides them both, as nobody knows which is the newest.
pub fn choose(a: Result<Journal, Fault>, b: Result<Journal, Fault>) -> Result<(usize, Journal), Fault> {
    match (a, b) {
        (Err(fault @ Fault::NewerVersion { .. }), _) | (_, Err(fault @ Fault::NewerVersion { .. })) => Err(fault),
        (Ok(a), Ok(b)) if b.generation > a.generation => Ok((1, b)),
        (Ok(a), _) => Ok((0, a)),
        (Err(_), Ok(b)) => Ok((1, b)),
        (Err(Fault::Empty), Err(fault)) | (Err(fault), Err(_)) => Err(fault),
    }
}

/// The generation a file says it has, whatever the rest of it is worth.
pub fn generation_of(file: &[u8]) -> Option<u64> {
    read_head(file).ok()
}

/// Turns records into the octets of one file, and knows where they belong.
#[derive(Debug)]
pub struct Writer {
    generation: u64,
    /// Where in the file `pending` belongs.
    offset: u64,
    /// What is still to be written.
    pending: Vec<u8>,
}

impl Writer {
    /// Begins a new file; its head is pending.
    pub fn new(generation: u64) -> Self {
        Self { generation, offset: 0, pending: head(FORMAT_VERSION, generation) }
    }

    /// Goes on behind what a file holds.
    pub fn behind(journal: &Journal) -> Self {
        Self { generation: journal.generation, offset: journal.octets as u64, pending: Vec::new() }
    }

    /// Adds a record, unless it is larger than any that is read back: says whether it did.
    #[must_use]
    pub fn record(&mut self, payload: &[u8]) -> bool {
        let fits = payload.len() <= JOURNAL_RECORD_OCTETS_MAX;
        if fits {
            self.frame(RECORD, payload);
        }
        fits
    }

    /// Says that the snapshot is complete.
    pub fn complete(&mut self) {
        self.frame(COMPLETE, &[]);
    }

    fn frame(&mut self, kind: u8, payload: &[u8]) {
        // A record's bound is far below what 32 bits hold.
        let length = (payload.len() as u32).to_le_bytes();
        let check = frame_check(self.generation, self.octets(), kind, length, payload);
        self.pending.push(kind);
        self.pending.extend_from_slice(&length);
        self.pending.extend_from_slice(&check);
        self.pending.extend_from_slice(payload);
    }

    /// What is still to be written.
    pub fn pending(&self) -> &[u8] {
        &self.pending
    }

    /// Where in the file that belongs.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Octets the file has when all is written.
    pub fn octets(&self) -> u64 {
        self.offset + self.pending.len() as u64
    }

    /// What was pending has been written.
    pub fn written(&mut self) {
        self.offset = self.octets();
        self.pending.clear();
    }
}

fn head(version: u32, generation: u64) -> Vec<u8> {
    let mut octets = Vec::with_capacity(HEAD_OCTETS);
    octets.extend_from_slice(MAGIC);
    octets.extend_from_slice(&version.to_le_bytes());
    octets.extend_from_slice(&generation.to_le_bytes());
    let check = check(&[&octets]);
    octets.extend_from_slice(&check);
    octets
}

fn read_head(file: &[u8]) -> Result<u64, Fault> {
    if file.is_empty() {
        return Err(Fault::Empty);
    }
    let whole = || {
        let said = file.get(..HEAD_OCTETS - CHECK_OCTETS)?;
        let (magic, rest) = file.split_first_chunk::<8>()?;
        let (version, rest) = rest.split_first_chunk::<4>()?;
        let (generation, rest) = rest.split_first_chunk::<8>()?;
        let (stands, _) = rest.split_first_chunk::<CHECK_OCTETS>()?;
        let whole = magic == MAGIC && *stands == check(&[said]);
        whole.then_some((u32::from_le_bytes(*version), u64::from_le_bytes(*generation)))
    };
    match whole() {
        Some((FORMAT_VERSION, generation)) => Ok(generation),
        Some((found, _)) if found > FORMAT_VERSION => Err(Fault::NewerVersion { found }),
        _ => Err(Fault::Damaged),
    }
}

/// The kind of the frame at a place, and where its payload lies, if it is whole.
fn read_frame(file: &[u8], generation: u64, at: usize) -> Option<(u8, Range<usize>)> {
    let (&kind, rest) = file.get(at..)?.split_first()?;
    if !matches!(kind, RECORD | COMPLETE) {
        return None;
    }
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (stands, rest) = rest.split_first_chunk::<CHECK_OCTETS>()?;
    let octets = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    if octets > JOURNAL_RECORD_OCTETS_MAX {
        return None;
    }
    let payload = rest.get(..octets)?;
    let whole = *stands == frame_check(generation, at as u64, kind, *length, payload);
    let start = at + FRAME_HEAD_OCTETS;
    whole.then_some((kind, start..start + octets))
}

fn frame_check(generation: u64, at: u64, kind: u8, length: [u8; 4], payload: &[u8]) -> [u8; CHECK_OCTETS] {
    check(&[&generation.to_le_bytes(), &at.to_le_bytes(), &[kind], &length, payload])
}

/// The first octets of the SHA-256: rot and torn writes are not clever.
fn check(parts: &[&[u8]]) -> [u8; CHECK_OCTETS] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let digest = context.finish();
    digest.as_ref().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes what is pending.
    fn take(writer: &mut Writer) -> (usize, Vec<u8>) {
        let taken = (writer.offset() as usize, writer.pending().to_vec());
        writer.written();
        taken
    }

    /// A whole file.
    fn file_of(generation: u64, snapshot: &[&str], behind: &[&str]) -> Vec<u8> {
        let mut writer = Writer::new(generation);
        for record in snapshot {
            assert!(writer.record(record.as_bytes()));
        }
        writer.complete();
        for record in behind {
            assert!(writer.record(record.as_bytes()));
        }
        take(&mut writer).1
    }

    fn records(file: &[u8], journal: &Journal) -> Vec<String> {
        journal.records.iter().map(|at| String::from_utf8(file[at.clone()].to_vec()).expect("text")).collect()
    }

    const SNAPSHOT: [&str; 3] = ["marta both", "", "lena to"];
    const BEHIND: [&str; 3] = ["paul from", "marta none", "r"];

    fn all() -> Vec<String> {
        SNAPSHOT.iter().chain(&BEHIND).map(ToString::to_string).collect()
    }

    #[test]
    fn what_was_written_is_read() {
        let file = file_of(7, &SNAPSHOT, &BEHIND);
        let journal = read(&file).expect("a journal");
        assert_eq!(records(&file, &journal), all());
        assert_eq!((journal.generation, journal.snapshot_records), (7, 3));
        assert_eq!((journal.octets, journal.loss), (file.len(), None));
        assert_eq!(journal.snapshot_octets, file_of(7, &SNAPSHOT, &[]).len());
        // Going on behind it is the same as writing it in one go.
        let mut longer = file.clone();
        let mut writer = Writer::behind(&journal);
        assert!(writer.record(b"more"));
        longer.extend_from_slice(writer.pending());
        assert_eq!(longer, file_of(7, &SNAPSHOT, &[BEHIND[0], BEHIND[1], BEHIND[2], "more"]));
    }

    #[test]
    fn a_file_made_by_other_hands_after_the_description_is_read() {
        let file = include_bytes!("../../tests/corpus/journal/whole");
        let journal = read(file).expect("a journal");
        assert_eq!((journal.generation, journal.snapshot_records, journal.loss), (3, 3, None));
        assert_eq!(records(file, &journal)[..4], ["marta both", "", "lena to", "paul from"]);
        let newer = include_bytes!("../../tests/corpus/journal/newer");
        assert_eq!(read(newer), Err(Fault::NewerVersion { found: 2 }));
    }

    #[test]
    fn a_file_cut_anywhere_gives_its_whole_frames() {
        let file = file_of(1, &SNAPSHOT, &BEHIND);
        let complete = read(&file).expect("a journal").snapshot_octets;
        for cut in 0..file.len() {
            match read(&file[..cut]) {
                Err(Fault::Empty) => assert_eq!(cut, 0),
                Err(Fault::Damaged) => assert!(cut < HEAD_OCTETS),
                Err(fault) => {
                    assert_eq!(fault, Fault::Incomplete { generation: 1 });
                    assert!((HEAD_OCTETS..complete).contains(&cut), "{cut}");
                }
                Ok(journal) => {
                    let found = records(&file, &journal);
                    assert_eq!(found, all()[..found.len()]);
                    let torn = cut - journal.octets;
                    assert_eq!(journal.loss, (torn > 0).then_some(Loss::Torn { octets: torn }), "{cut}");
                    assert!(torn < FRAME_HEAD_OCTETS + 10);
                }
            }
        }
    }

    #[test]
    fn any_flipped_bit_costs_records_and_never_changes_one() {
        let file = file_of(1, &SNAPSHOT, &BEHIND);
        let complete = read(&file).expect("a journal").snapshot_octets;
        for at in 0..file.len() {
            for bit in 0..8 {
                let mut rotten = file.clone();
                rotten[at] ^= 1 << bit;
                match read(&rotten) {
                    Ok(journal) => {
                        assert!(at >= complete, "octet {at} bit {bit}");
                        let found = records(&rotten, &journal);
                        assert_eq!(found, all()[..found.len()], "octet {at} bit {bit}");
                        let last = found.len() == SNAPSHOT.len() + BEHIND.len() - 1;
                        let octets = file.len() - journal.octets;
                        let want = if last { Loss::Torn { octets } } else { Loss::Damaged { octets } };
                        assert_eq!(journal.loss, Some(want), "octet {at} bit {bit}");
                    }
                    Err(fault) => {
                        assert!(at < complete);
                        let head = at < HEAD_OCTETS;
                        let want = if head { Fault::Damaged } else { Fault::Incomplete { generation: 1 } };
                        assert_eq!(fault, want);
                    }
                }
            }
        }
    }

    #[test]
    fn frames_that_were_moved_taken_out_or_left_over_do_not_count() {
        let file = file_of(2, &["a"], &["b", "c"]);
        let frame = FRAME_HEAD_OCTETS + 1;
        let complete = read(&file).expect("a journal").snapshot_octets;
        let count = |file: &[u8]| read(file).map(|journal| journal.records.len());
        let mut without = file.clone();
        drop(without.drain(complete..complete + frame));
        assert_eq!(count(&without), Ok(1));
        let mut swapped = file.clone();
        swapped[complete..].rotate_left(frame);
        assert_eq!(count(&swapped), Ok(1));
        let mut twice = file.clone();
        twice.extend_from_within(complete..);
        assert_eq!(count(&twice), Ok(3));
        // Flash may show what an older file had at the same place.
        let older = file_of(1, &["a"], &["x", "y"]);
        let mut mixed = file[..complete + frame].to_vec();
        mixed.extend_from_slice(&older[complete + frame..]);
        assert_eq!(count(&mixed), Ok(2));
    }

    #[test]
    fn a_second_end_of_the_snapshot_is_damage() {
        let mut writer = Writer::new(1);
        writer.complete();
        assert!(writer.record(b"a"));
        writer.complete();
        assert!(writer.record(b"b"));
        let file = take(&mut writer).1;
        assert_eq!(read(&file).expect("a journal").records.len(), 1);
    }

    #[test]
    fn a_record_beyond_the_bound_is_not_written() {
        let mut writer = Writer::new(1);
        let before = writer.octets();
        assert!(!writer.record(&vec![0; JOURNAL_RECORD_OCTETS_MAX + 1]));
        assert_eq!(writer.octets(), before);
        let largest = vec![b'r'; JOURNAL_RECORD_OCTETS_MAX];
        assert!(writer.record(&largest));
        writer.complete();
        let file = take(&mut writer).1;
        assert_eq!(&file[read(&file).expect("a journal").records[0].clone()], &largest);
    }

    #[test]
    fn a_newer_format_is_refused_by_that_reason_whatever_stands_beside_it() {
        let mut newer = file_of(1, &SNAPSHOT, &[]);
        newer[..HEAD_OCTETS].copy_from_slice(&head(FORMAT_VERSION + 1, 1));
        let fault = Fault::NewerVersion { found: FORMAT_VERSION + 1 };
        assert_eq!(read(&newer), Err(fault));
        assert!(fault.to_string().contains("newer program"));
        let ours = file_of(9, &SNAPSHOT, &[]);
        assert_eq!(choose(read(&newer), read(&ours)), Err(fault));
        assert_eq!(choose(read(&ours), read(&newer)), Err(fault));
        // A version that never was is none.
        newer[..HEAD_OCTETS].copy_from_slice(&head(0, 1));
        assert_eq!(read(&newer), Err(Fault::Damaged));
    }

    #[test]
    fn of_two_files_the_newer_complete_one_counts_wherever_it_lies() {
        let (old, new) = (file_of(4, &["old"], &[]), file_of(5, &["new"], &[]));
        let cut = &new[..new.len() - 1];
        let chosen = |a: &[u8], b: &[u8]| choose(read(a), read(b)).map(|(place, journal)| (place, journal.generation));
        assert_eq!(chosen(&old, &new), Ok((1, 5)));
        assert_eq!(chosen(&new, &old), Ok((0, 5)));
        assert_eq!(chosen(&old, cut), Ok((0, 4)));
        assert_eq!(chosen(cut, &old), Ok((1, 4)));
        assert_eq!(chosen(&[], &old), Ok((1, 4)));
        assert_eq!(chosen(b"rubbish", &old), Ok((1, 4)));
        assert_eq!(chosen(&[], &[]), Err(Fault::Empty));
        assert_eq!(chosen(&[], b"rubbish"), Err(Fault::Damaged));
        assert_eq!(chosen(cut, &[]), Err(Fault::Incomplete { generation: 5 }));
        assert_eq!((generation_of(cut), generation_of(b"rubbish")), (Some(5), None));
    }

    #[test]
    fn arbitrary_octets_are_no_journal() {
        let mut rng = crate::base::rng::Rng::from_number(5);
        for length in 0..600 {
            let mut file = vec![0; length];
            rng.fill(&mut file);
            assert!(read(&file).is_err());
            // Nor is anything behind a good one.
            let mut behind = file_of(1, &SNAPSHOT, &BEHIND);
            behind.extend_from_slice(&file);
            assert_eq!(records(&behind, &read(&behind).expect("a journal")), all());
        }
    }

    /// A file as the flash has it, and what is on its way there.
    #[derive(Clone, Default)]
    struct Flash {
        /// What a power cut leaves for certain; `None`: no such file.
        safe: Option<Vec<u8>>,
        /// Was it begun anew, or removed, since?
        fresh: bool,
        /// Written and not synced.
        writes: Vec<(usize, Vec<u8>)>,
    }

    impl Flash {
        fn put(file: &mut Vec<u8>, at: usize, octets: &[u8]) {
            file.resize(file.len().max(at + octets.len()), 0);
            file[at..at + octets.len()].copy_from_slice(octets);
        }

        /// What a kill of the program leaves: all of it.
        fn now(&self) -> Vec<u8> {
            let mut file = if self.fresh { Vec::new() } else { self.safe.clone().unwrap_or_default() };
            for (at, octets) in &self.writes {
                Self::put(&mut file, *at, octets);
            }
            file
        }

        fn sync(&mut self) {
            *self = Self { safe: Some(self.now()), ..Self::default() };
        }

        /// All that a power cut may leave: any of the writes lost or zeros instead, the
        /// last one cut at any octet, from either side.
        fn images(&self) -> Vec<Vec<u8>> {
            let safe = self.safe.clone().unwrap_or_default();
            let base = if self.fresh { Vec::new() } else { safe.clone() };
            let mut all = vec![safe, base.clone()];
            for kept in 0..1_u32 << self.writes.len() {
                let (mut lost, mut zeros) = (base.clone(), base.clone());
                for (n, (at, octets)) in self.writes.iter().enumerate() {
                    let keep = kept & 1 << n != 0;
                    if keep {
                        Self::put(&mut lost, *at, octets);
                    }
                    Self::put(&mut zeros, *at, if keep { octets.clone() } else { vec![0; octets.len()] }.as_slice());
                    if keep && n + 1 == self.writes.len() {
                        for cut in 0..octets.len() {
                            let mut torn = lost.clone();
                            torn.truncate(at + cut);
                            all.push(torn);
                            let mut holed = zeros.clone();
                            holed[*at..at + cut].fill(0);
                            all.push(holed);
                        }
                    }
                }
                all.extend([lost, zeros]);
            }
            all
        }
    }

    /// Two files, written as `io` writes them, judged after every step.
    struct World {
        files: [Flash; 2],
        current: usize,
        writer: Writer,
        next: Option<Writer>,
        /// All records ever given, and how many of them were said to be safe.
        given: Vec<String>,
        safe: usize,
        judged: usize,
    }

    impl World {
        fn found(a: &[u8], b: &[u8]) -> Vec<String> {
            match choose(read(a), read(b)) {
                Ok((place, journal)) => records([a, b][place], &journal),
                Err(_) => Vec::new(),
            }
        }

        /// The state that records leave behind: the last of each name.
        fn state(records: &[String]) -> Vec<String> {
            let mut last: Vec<String> = Vec::new();
            for record in records {
                last.retain(|other| other.split(' ').next() != record.split(' ').next());
                last.push(record.clone());
            }
            last.sort();
            last
        }

        /// Whatever happens now, what is found is the state after some record, which is
        /// none before the last that was said to be safe.
        fn judge(&mut self) {
            let allowed: Vec<Vec<String>> =
                (self.safe..=self.given.len()).map(|end| Self::state(&self.given[..end])).collect();
            let killed = Self::state(&Self::found(&self.files[0].now(), &self.files[1].now()));
            assert_eq!(Some(&killed), allowed.last(), "a kill loses nothing");
            let read_all = |flash: &Flash| -> Vec<_> {
                let mut images = flash.images();
                images.sort();
                images.dedup();
                images.into_iter().map(|image| (read(&image), image)).collect()
            };
            let (a, b) = (read_all(&self.files[0]), read_all(&self.files[1]));
            for (journal_a, a) in &a {
                for (journal_b, b) in &b {
                    self.judged += 1;
                    let found = match choose(journal_a.clone(), journal_b.clone()) {
                        Ok((place, journal)) => records([a, b][place], &journal),
                        Err(_) => Vec::new(),
                    };
                    let state = Self::state(&found);
                    assert!(allowed.contains(&state), "{found:?} of {:?}, safe {}", self.given, self.safe);
                }
            }
        }

        fn write(&mut self) {
            let written = take(&mut self.writer);
            self.files[self.current].writes.push(written);
            self.judge();
            if let Some(next) = &mut self.next {
                let written = take(next);
                self.files[1 - self.current].writes.push(written);
                self.judge();
            }
        }

        fn store(&mut self, record: &str) {
            for writer in [Some(&mut self.writer), self.next.as_mut()].into_iter().flatten() {
                assert!(writer.record(record.as_bytes()));
            }
            self.given.push(record.into());
            // Up to here only the program knows of it, so nothing was sent behind it.
            self.write();
        }

        fn sync(&mut self) {
            self.files[self.current].sync();
            self.safe = self.given.len();
            self.judge();
        }

        fn begin(&mut self) {
            let place = 1 - self.current;
            self.files[place] = Flash { safe: self.files[place].safe.take(), fresh: true, writes: Vec::new() };
            self.next = Some(Writer::new(self.writer.generation + 1));
            self.judge();
        }

        fn slice(&mut self, records: &[&str]) {
            let next = self.next.as_mut().expect("begun");
            for record in records {
                assert!(next.record(record.as_bytes()));
            }
            let written = take(next);
            self.files[1 - self.current].writes.push(written);
            self.judge();
        }

        fn complete(&mut self) {
            let mut next = self.next.take().expect("begun");
            next.complete();
            let place = 1 - self.current;
            self.files[place].writes.push(take(&mut next));
            self.judge();
            self.files[place].sync();
            self.judge();
            self.safe = self.given.len();
            let old = self.current;
            self.files[old] = Flash { safe: self.files[old].safe.take(), fresh: true, writes: Vec::new() };
            (self.current, self.writer) = (place, next);
            self.judge();
        }
    }

    #[test]
    fn no_crash_at_any_step_loses_what_was_safe_or_makes_up_what_was_not() {
        let mut writer = Writer::new(1);
        writer.complete();
        let mut first = Flash::default();
        first.writes.push(take(&mut writer));
        first.sync();
        let mut world = World {
            files: [first, Flash::default()],
            current: 0,
            writer,
            next: None,
            given: Vec::new(),
            safe: 0,
            judged: 0,
        };
        world.store("a 1");
        world.store("b 1");
        world.sync();
        world.store("a 2");
        world.begin();
        world.slice(&["a 2"]);
        // What changes during a compaction is written to both.
        world.store("c 1");
        world.store("a 3");
        world.sync();
        world.slice(&["b 1", "c 1"]);
        world.store("b 2");
        world.complete();
        world.store("d 1");
        world.sync();
        world.store("a 4");
        // And back into the first file, whose old octets may still be there.
        world.begin();
        world.slice(&["a 4", "b 2"]);
        world.sync();
        world.slice(&["c 1", "d 1"]);
        world.complete();
        world.store("e 1");
        world.store("e 2");
        world.store("e 3");
        world.sync();
        assert!(world.judged > 10_000, "{} states", world.judged);
    }
}
