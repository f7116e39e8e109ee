//! The configuration file: two slots of fixed size, of which the newer valid one
//! counts. A new configuration goes into the other slot, so whatever part of it
//! reaches the flash, the old one is still whole.
//!
//! A slot: magic word (8 octets), format version (4), generation (8), length (4),
//! SHA-256 (32) of all that and of what follows, then the postcard octets; numbers
//! are little-endian. This head is the same in every format version, so that a newer
//! one can be told from a damaged one. The postcard octets hold pairs of path and
//! value, not structs: a struct may change without a word, a path may not.

use super::config::{self, Config};
use crate::limits::CONFIG_SLOT_OCTETS;
use core::fmt;
use ring::digest;

/// The format this program writes.
pub const FORMAT_VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"LATIMERc";
const HEAD_OCTETS: usize = 8 + 4 + 8 + 4 + DIGEST_OCTETS;
const DIGEST_OCTETS: usize = 32;

/// Path and value of each line that was kept.
type Kept = Vec<(String, String)>;

/// Turns what one format version kept into what the next one keeps.
type Migration = fn(&mut Kept);

/// The migration at place `n` leads from format version `n + 1` to `n + 2`.
const MIGRATIONS: &[Migration] = &[];

const _: () = assert!(MIGRATIONS.len() + 1 == FORMAT_VERSION as usize);

/// Why a file gives no configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotError {
    /// Nothing was ever written.
    Empty,
    /// Neither slot is whole.
    Damaged,
    /// It is a text, most likely the one that was to be loaded.
    Text,
    /// The newest slot was written by a newer program.
    NewerVersion {
        /// Its format version.
        found: u32,
    },
    /// The newest slot is whole, and what it says is refused.
    Refused(String),
}

impl fmt::Display for SlotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the configuration file is empty"),
            Self::Damaged => f.write_str("the configuration file is damaged: neither of its two slots is whole"),
            Self::Text => f.write_str(
                "this is a text and no configuration file: `latimer config load TEXT --config FILE` makes one of it",
            ),
            Self::NewerVersion { found } => write!(
                f,
                "the configuration file has format version {found}, newer than {FORMAT_VERSION}, the newest this \
                 program knows: it was written by a newer program"
            ),
            Self::Refused(why) => write!(f, "the configuration file is whole, but what it says is refused: {why}"),
        }
    }
}

/// What a file holds that gives a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// The configuration.
    pub config: Config,
    /// How many times one was written.
    pub generation: u64,
    /// The format version it was kept in; older than [`FORMAT_VERSION`]: migrated.
    pub version: u32,
    /// Is the other slot damaged? Worth an alarm: the next write repairs it.
    pub other_damaged: bool,
}

/// The configuration of the newest whole slot. An older slot never stands in for a
/// newer whole one: it could bring back a partner that was taken away.
pub fn choose(file: &[u8]) -> Result<Chosen, SlotError> {
    choose_with(file, FORMAT_VERSION, MIGRATIONS)
}

/// Is it the text somebody wrote, of `set` lines? No damage makes that of a slot, whose
/// head is full of zeros.
pub fn is_text(file: &[u8]) -> bool {
    core::str::from_utf8(file)
        .is_ok_and(|text| !text.contains('\0') && text.lines().any(|line| line.trim_start().starts_with("set ")))
}

fn choose_with(file: &[u8], known: u32, migrations: &[Migration]) -> Result<Chosen, SlotError> {
    let slots = [0, 1].map(|place| read(file, place));
    let newest = slots.iter().flatten().max_by_key(|slot| slot.generation);
    let Some(slot) = newest else {
        return Err(match file {
            [] => SlotError::Empty,
            _ if is_text(file) => SlotError::Text,
            _ => SlotError::Damaged,
        });
    };
    if slot.version > known {
        return Err(SlotError::NewerVersion { found: slot.version });
    }
    let other_damaged = slots.iter().any(Option::is_none) && slot.generation > 1;
    let mut kept: Kept = postcard::from_bytes(slot.payload)
        .map_err(|_| SlotError::Refused("it holds something else than configuration lines".into()))?;
    let from = usize::try_from(slot.version).unwrap_or(usize::MAX).saturating_sub(1);
    for migration in migrations.get(from..).unwrap_or_default() {
        migration(&mut kept);
    }
    let config = config::restore(kept.iter().map(|(path, value)| (path.as_str(), value.as_str())))
        .map_err(|error| SlotError::Refused(error.to_string()))?;
    Ok(Chosen { config, generation: slot.generation, version: slot.version, other_damaged })
}

/// What to write into `file` and where, so that `config` counts from then on: always
/// over the slot that does not count now. The file is good at every moment of the
/// write, which is durable only after the caller made it so (fsync).
pub fn write_next(file: &[u8], config: &Config) -> (u64, Vec<u8>) {
    let generations = [0, 1].map(|place| read(file, place).map(|slot| slot.generation));
    let newest = generations.into_iter().flatten().max().unwrap_or(0);
    // Generations are 64 bits wide: they do not run out.
    let octets = encode(config, FORMAT_VERSION, newest.saturating_add(1));
    let place = if generations[0].is_some() && generations[0] == Some(newest) { CONFIG_SLOT_OCTETS as u64 } else { 0 };
    (place, octets)
}

/// Octets that [`write_next`] would write.
pub(super) fn encoded_len(config: &Config) -> usize {
    encode(config, FORMAT_VERSION, 0).len()
}

fn encode(config: &Config, version: u32, generation: u64) -> Vec<u8> {
    let kept: Vec<(&str, &str)> = config.kept().collect();
    // Text in memory always has a postcard form.
    let payload = postcard::to_allocvec(&kept).unwrap_or_default();
    let mut octets = Vec::with_capacity(HEAD_OCTETS + payload.len());
    octets.extend_from_slice(MAGIC);
    octets.extend_from_slice(&version.to_le_bytes());
    octets.extend_from_slice(&generation.to_le_bytes());
    octets.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    let digest = checksum(&octets, &payload);
    octets.extend_from_slice(digest.as_ref());
    octets.extend_from_slice(&payload);
    octets
}

fn checksum(head: &[u8], payload: &[u8]) -> digest::Digest {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(head);
    context.update(payload);
    context.finish()
}

/// A whole slot.
struct Slot<'a> {
    version: u32,
    generation: u64,
    payload: &'a [u8],
}

/// The slot at a place, if it is whole.
fn read(file: &[u8], place: usize) -> Option<Slot<'_>> {
    let start = place * CONFIG_SLOT_OCTETS;
    let slot = file.get(start..)?;
    let slot = slot.get(..CONFIG_SLOT_OCTETS).unwrap_or(slot);
    let (head, rest) = slot.split_at_checked(HEAD_OCTETS - DIGEST_OCTETS)?;
    let (digest, rest) = rest.split_at_checked(DIGEST_OCTETS)?;
    let (magic, numbers) = head.split_first_chunk::<8>()?;
    let (version, numbers) = numbers.split_first_chunk::<4>()?;
    let (generation, length) = numbers.split_first_chunk::<8>()?;
    let length: [u8; 4] = length.try_into().ok()?;
    let payload = rest.get(..u32::from_le_bytes(length) as usize)?;
    if magic != MAGIC || checksum(head, payload).as_ref() != digest {
        return None;
    }
    Some(Slot { version: u32::from_le_bytes(*version), generation: u64::from_le_bytes(*generation), payload })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(partner: &str) -> Config {
        let text = format!("set system host-name gw.example\nset sip domain sip.example\nset partner {partner}\n");
        config::load(&text).expect("a good configuration").0
    }

    fn write(file: &mut Vec<u8>, (offset, octets): (u64, Vec<u8>)) {
        let (start, end) = (offset as usize, offset as usize + octets.len());
        if file.len() < end {
            file.resize(end, 0);
        }
        file[start..end].copy_from_slice(&octets);
    }

    /// A file after these configurations were written, one after the other.
    fn file_of(configs: &[&Config]) -> Vec<u8> {
        let mut file = Vec::new();
        for config in configs {
            let next = write_next(&file, config);
            write(&mut file, next);
        }
        file
    }

    #[test]
    fn the_newest_of_many_writes_counts() {
        let configs: Vec<Config> = (0..7).map(|n| config(&format!("p{n}.example"))).collect();
        let mut file = Vec::new();
        for (n, config) in configs.iter().enumerate() {
            let next = write_next(&file, config);
            write(&mut file, next);
            let chosen = choose(&file).expect("a configuration");
            assert_eq!((&chosen.config, chosen.generation), (config, n as u64 + 1));
            assert!(!chosen.other_damaged);
        }
    }

    #[test]
    fn a_write_torn_at_any_octet_gives_the_old_or_the_new_configuration() {
        let [a, b, c] = ["a.example", "b-longer.example", "c.example"].map(config);
        for before in [file_of(&[&a]), file_of(&[&a, &b])] {
            let old = choose(&before).expect("the old one").config;
            let (offset, octets) = write_next(&before, &c);
            for cut in 0..=octets.len() {
                let mut file = before.clone();
                write(&mut file, (offset, octets[..cut].to_vec()));
                let now = choose(&file).expect("one of them").config;
                let want = if cut == octets.len() { &c } else { &old };
                // The last octets may happen to be those that were there before.
                assert!(now == *want || now == c, "cut at {cut}");
                // The other way round: the end is written and the beginning is not.
                let mut file = before.clone();
                write(&mut file, (offset + cut as u64, octets[cut..].to_vec()));
                let now = choose(&file).expect("one of them").config;
                assert!(now == old || now == c, "begun at {cut}");
            }
        }
    }

    #[test]
    fn any_flipped_bit_in_a_slot_leaves_the_other_one() {
        let (a, b) = (config("a.example"), config("b.example"));
        let file = file_of(&[&a, &b]);
        let length = |config: &Config| encode(config, FORMAT_VERSION, 1).len();
        for (start, length, rest) in [(0, length(&a), &b), (CONFIG_SLOT_OCTETS, length(&b), &a)] {
            for at in start..start + length {
                for bit in 0..8 {
                    let mut file = file.clone();
                    file[at] ^= 1 << bit;
                    let chosen = choose(&file).expect("the other slot");
                    assert_eq!(&chosen.config, rest, "octet {at} bit {bit}");
                    assert!(chosen.other_damaged || chosen.generation == 1);
                }
            }
        }
    }

    #[test]
    fn a_text_is_told_from_a_damaged_file() {
        assert_eq!(choose(b"# ours\nset system host-name gw.example\n"), Err(SlotError::Text));
        assert_eq!(choose(b"rubbish"), Err(SlotError::Damaged));
    }

    #[test]
    fn a_file_cut_anywhere_gives_a_whole_configuration_or_none() {
        let (a, b) = (config("a.example"), config("b.example"));
        let file = file_of(&[&a, &b]);
        let first = encode(&a, FORMAT_VERSION, 1).len();
        let cuts = (0..first + 100).chain(CONFIG_SLOT_OCTETS - 5..=file.len());
        for cut in cuts {
            let expected = match cut {
                0 => Err(SlotError::Empty),
                cut if cut == file.len() => Ok(&b),
                cut if cut >= first => Ok(&a),
                _ => Err(SlotError::Damaged),
            };
            assert_eq!(choose(&file[..cut]).as_ref().map(|chosen| &chosen.config).map_err(Clone::clone), expected);
        }
    }

    #[test]
    fn swapped_slots_are_told_by_their_generation() {
        let (a, b) = (config("a.example"), config("b.example"));
        let mut file = file_of(&[&a, &b]);
        file.resize(2 * CONFIG_SLOT_OCTETS, 0);
        file.rotate_left(CONFIG_SLOT_OCTETS);
        assert_eq!(choose(&file).expect("the newer").config, b);
        assert_eq!(write_next(&file, &a).0, CONFIG_SLOT_OCTETS as u64, "the older one is overwritten");
    }

    #[test]
    fn a_newer_format_is_refused_and_can_be_replaced_on_purpose() {
        let (a, b) = (config("a.example"), config("b.example"));
        let mut file = file_of(&[&a]);
        write(&mut file, (CONFIG_SLOT_OCTETS as u64, encode(&b, FORMAT_VERSION + 1, 2)));
        let error = choose(&file).expect_err("a newer version");
        assert_eq!(error, SlotError::NewerVersion { found: FORMAT_VERSION + 1 });
        assert!(error.to_string().contains("newer"));
        let next = write_next(&file, &a);
        assert_eq!(next.0, 0);
        write(&mut file, next);
        assert_eq!(choose(&file).expect("ours").config, a);
    }

    #[test]
    fn an_older_format_is_migrated_step_by_step() {
        let old = config("old.example");
        let file = file_of(&[&old]);
        let rename: Migration = |kept| {
            for (path, _) in kept {
                *path = path.replace("partner old.", "partner new.");
            }
        };
        let add: Migration = |kept| kept.push(("partner discovery".into(), "open".into()));
        let chosen = choose_with(&file, 3, &[rename, add]).expect("migrated");
        assert_eq!(chosen.version, 1);
        assert_eq!(chosen.config.settings.partners[0].domain, "new.example");
        assert!(chosen.config.settings.discovery_open);
    }

    #[test]
    fn whole_but_refused_content_is_told_and_no_default_stands_in() {
        let mut octets = encode(&config("a.example"), FORMAT_VERSION, 1);
        let payload = postcard::to_allocvec(&vec![("partner a.example typo", "x")]).expect("octets");
        octets.truncate(HEAD_OCTETS - DIGEST_OCTETS - 4);
        octets.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        let digest = checksum(&octets, &payload);
        octets.extend_from_slice(digest.as_ref());
        octets.extend_from_slice(&payload);
        assert!(matches!(choose(&octets), Err(SlotError::Refused(why)) if why.contains("typo")));
    }

    #[test]
    fn arbitrary_octets_give_no_configuration() {
        let mut rng = crate::base::rng::Rng::from_number(5);
        for length in 0..600 {
            let mut file = vec![0; length];
            rng.fill(&mut file);
            assert!(choose(&file).is_err());
        }
    }
}
