//! Files: the configuration, the secret in the state folder, the resolver's servers.
//!
//! What has to survive a power cut is durable before anything says that it was
//! written. An error of the disk is told and never tried again: after a failed fsync
//! the kernel may call the next one a success although the octets are lost.

use crate::base::text::hex_lower;
use crate::limits::CONFIG_SLOT_OCTETS;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use rustix::fs::FlockOperation;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Two slots, and no file is larger.
const CONFIG_OCTETS_MAX: u64 = 2 * CONFIG_SLOT_OCTETS as u64;
/// The largest text of `set` lines that is read.
const TEXT_OCTETS_MAX: u64 = 4 * 1024 * 1024;
/// Octets of the secret that dialback keys are made from.
const SECRET_OCTETS: usize = 32;
/// Name servers taken from the resolver's file, as the C library does.
const RESOLVERS_MAX: usize = 3;

/// The octets of the configuration file.
pub fn read_config(path: &Path) -> Result<Vec<u8>, String> {
    File::open(path)
        .and_then(|file| read_at_most(file, CONFIG_OCTETS_MAX))
        .map_err(|e| format!("cannot read {}: {e}", path.display()))
}

/// The octets of the configuration file; none if there is no such file yet.
pub fn read_config_if_any(path: &Path) -> Result<Vec<u8>, String> {
    if path.exists() { read_config(path) } else { Ok(Vec::new()) }
}

/// A text of `set` lines; `-` is standard input.
pub fn read_text(path: &Path) -> Result<Vec<u8>, String> {
    if path == Path::new("-") {
        return read_at_most(io::stdin().lock(), TEXT_OCTETS_MAX)
            .map_err(|e| format!("cannot read standard input: {e}"));
    }
    File::open(path)
        .and_then(|file| read_at_most(file, TEXT_OCTETS_MAX))
        .map_err(|e| format!("cannot read {}: {e}", path.display()))
}

fn read_at_most(from: impl Read, octets_max: u64) -> io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    from.take(octets_max + 1).read_to_end(&mut octets)?;
    if octets.len() as u64 > octets_max {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("larger than {octets_max} octets")));
    }
    Ok(octets)
}

/// Changes the configuration file: `change` is given its octets and says what to
/// write where. All or, as far as the slots go, nothing: on an error the slot that
/// counted before still does.
pub fn update_config<T>(
    path: &Path,
    change: impl FnOnce(&[u8]) -> Result<(u64, Vec<u8>, T), String>,
) -> Result<T, String> {
    let failed =
        |what: &str, e: &io::Error| format!("{}: {what}: {e}; the configuration is what it was", path.display());
    let existed = path.exists();
    // What is refused leaves no empty file behind.
    if !existed {
        let (offset, octets, result) = change(&[])?;
        let file = create(path).map_err(|e| failed("cannot be created", &e))?;
        let written = write(&file, offset, &octets).and_then(|()| sync_folder(path));
        if let Err(e) = written {
            // Nothing counted before, and nothing does now.
            let _ = fs::remove_file(path);
            return Err(failed("cannot be written", &e));
        }
        return Ok(result);
    }
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(|e| failed("cannot be opened", &e))?;
    lock(&file).map_err(|e| failed("is being written by another program", &e))?;
    let octets = read_at_most(&file, CONFIG_OCTETS_MAX).map_err(|e| failed("cannot be read", &e))?;
    let (offset, octets, result) = change(&octets)?;
    file.set_permissions(Permissions::from_mode(0o600)).map_err(|e| failed("cannot be made private", &e))?;
    write(&file, offset, &octets).map_err(|e| failed("cannot be written", &e))?;
    Ok(result)
}

fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    lock(&file)?;
    // The umask may have taken more away than it should.
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(file)
}

fn lock(file: &File) -> io::Result<()> {
    Ok(rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive)?)
}

fn write(file: &File, offset: u64, octets: &[u8]) -> io::Result<()> {
    file.write_all_at(octets, offset)?;
    file.sync_all()
}

/// Makes the entry of a new file durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

/// The folder a file lies in.
pub fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder.into(),
        _ => PathBuf::from("."),
    }
}

/// A secret and how it came about.
#[derive(Debug)]
pub struct Secret {
    /// What dialback keys are made from.
    pub octets: Vec<u8>,
    /// Why it could not be kept, so that the next run has another one.
    pub fault: Option<String>,
}

/// The secret kept in `folder`; a new one from `fresh` if there is none yet or it is
/// damaged.
pub fn secret(folder: &Path, fresh: [u8; SECRET_OCTETS]) -> Secret {
    let path = folder.join("dialback-secret");
    match File::open(&path).and_then(|file| read_at_most(file, 4096)) {
        Ok(octets) if is_secret(&octets) => return Secret { octets, fault: None },
        Ok(_) => {}
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => {
            let fault = format!("cannot read {}: {e}", path.display());
            return Secret { octets: fresh.into(), fault: Some(fault) };
        }
    }
    let octets = format!("{}\n", hex_lower(&fresh)).into_bytes();
    let kept = DirBuilder::new().recursive(true).mode(0o700).create(folder).and_then(|()| replace(&path, &octets));
    let fault = kept.err().map(|e| format!("cannot write {}: {e}", path.display()));
    Secret { octets, fault }
}

fn is_secret(octets: &[u8]) -> bool {
    let text = octets.strip_suffix(b"\n").unwrap_or_default();
    text.len() == 2 * SECRET_OCTETS && text.iter().all(u8::is_ascii_hexdigit)
}

/// Puts a file in the place of `path`, durably and whole or not at all.
fn replace(path: &Path, octets: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(octets)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync_folder(path)
}

/// The system's name servers; this machine if its file names none.
pub fn system_resolvers() -> Vec<SocketAddr> {
    let text = File::open("/etc/resolv.conf").and_then(|file| read_at_most(file, 64 * 1024)).unwrap_or_default();
    resolvers(&String::from_utf8_lossy(&text))
}

fn resolvers(text: &str) -> Vec<SocketAddr> {
    let servers: Vec<SocketAddr> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            // A scope behind the address is of no use to anybody else.
            if words.next()? == "nameserver" { words.next()?.parse::<IpAddr>().ok() } else { None }
        })
        .map(|address| SocketAddr::new(address, 53))
        .take(RESOLVERS_MAX)
        .collect();
    if servers.is_empty() { vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 53))] } else { servers }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that is gone after the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("latimer-store-{}-{name}", std::process::id()));
            fs::create_dir_all(&path).expect("a folder");
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("a file").permissions().mode() & 0o777
    }

    #[test]
    fn a_configuration_is_private_and_changed_in_place() {
        let folder = Folder::new("config");
        let path = folder.0.join("latimer.conf");
        let first = update_config(&path, |old| {
            assert!(old.is_empty());
            Ok((0, b"first".to_vec(), 1))
        });
        assert_eq!(first, Ok(1));
        assert_eq!(mode(&path), 0o600);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("a mode");
        let second = update_config(&path, |old| {
            assert_eq!(old, b"first");
            Ok((10, b"second".to_vec(), 2))
        });
        assert_eq!(second, Ok(2));
        assert_eq!(mode(&path), 0o600);
        assert_eq!(read_config(&path).expect("readable"), b"first\0\0\0\0\0second");
    }

    #[test]
    fn what_is_refused_leaves_everything_as_it_was() {
        let folder = Folder::new("refused");
        let path = folder.0.join("latimer.conf");
        assert_eq!(update_config::<()>(&path, |_| Err("no".into())), Err("no".into()));
        assert!(!path.exists());
        update_config(&path, |_| Ok((0, b"good".to_vec(), ()))).expect("written");
        assert_eq!(update_config::<()>(&path, |_| Err("no".into())), Err("no".into()));
        assert_eq!(read_config(&path).expect("readable"), b"good");
    }

    #[test]
    fn a_disk_that_fails_is_told_with_path_and_cause() {
        let missing = Path::new("/nonexistent/latimer.conf");
        let error = update_config(missing, |_| Ok((0, Vec::new(), ()))).expect_err("no folder");
        assert!(error.starts_with("/nonexistent/latimer.conf: cannot be created: "), "{error}");
        if Path::new("/dev/full").exists() {
            let full = OpenOptions::new().write(true).open("/dev/full").expect("a device");
            assert_eq!(write(&full, 0, b"x").expect_err("no space").kind(), ErrorKind::StorageFull);
        }
    }

    #[test]
    fn two_writers_do_not_meet() {
        let folder = Folder::new("lock");
        let path = folder.0.join("latimer.conf");
        update_config(&path, |_| Ok((0, b"x".to_vec(), ()))).expect("written");
        let inner = update_config(&path, |_| {
            let error = update_config(&path, |_| Ok((0, Vec::new(), ()))).expect_err("locked");
            assert!(error.contains("another program"), "{error}");
            Ok((0, b"y".to_vec(), ()))
        });
        assert_eq!(inner, Ok(()));
    }

    #[test]
    fn the_secret_stays_the_same_and_is_private() {
        let folder = Folder::new("secret");
        let state = folder.0.join("state");
        let first = secret(&state, [7; 32]);
        assert!(first.fault.is_none());
        assert_eq!(secret(&state, [8; 32]).octets, first.octets);
        assert_eq!(mode(&state.join("dialback-secret")), 0o600);
        fs::write(state.join("dialback-secret"), b"damaged").expect("written");
        assert_ne!(secret(&state, [8; 32]).octets, first.octets);
    }

    #[test]
    fn a_secret_that_cannot_be_kept_is_one_all_the_same() {
        let lost = secret(Path::new("/proc/nonexistent"), [7; 32]);
        assert!(lost.fault.is_some_and(|fault| fault.contains("/proc/nonexistent")));
        assert!(lost.octets.len() >= SECRET_OCTETS);
    }

    #[test]
    fn name_servers_are_read_from_the_resolvers_file() {
        let text = "# a comment\nsearch example\nnameserver 192.0.2.1\nnameserver\t2001:db8::1\nnameserver fe80::1%eth0\n\
                    options edns0\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n";
        let servers: Vec<String> = resolvers(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.2:53"]);
        assert_eq!(resolvers("").iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.1:53"]);
    }
}
