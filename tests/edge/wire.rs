//! TLS connections as an Edge has them: both sides show a certificate, either side opens
//! one, and whatever comes is read by a thread of the connection's own.

use crate::Outcome;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A certificate with its key, and the CA that we believe, all PEM.
#[derive(Clone)]
pub struct Papers {
    pub chain: String,
    pub key: String,
    pub ca: String,
    /// Does a client show its certificate?
    pub shown: bool,
}

impl Papers {
    fn parts(&self) -> Outcome<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>, Arc<RootCertStore>)> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(self.chain.as_bytes()).collect();
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|e| e.to_string())?;
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(self.ca.as_bytes()) {
            roots.add(root.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
        }
        Ok((chain.map_err(|e| e.to_string())?, key, Arc::new(roots)))
    }

    pub fn client(&self) -> Outcome<Arc<ClientConfig>> {
        let (chain, key, roots) = self.parts()?;
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
        let builder = builder.with_root_certificates(roots);
        let config = match self.shown {
            true => builder.with_client_auth_cert(chain, key).map_err(|e| e.to_string())?,
            false => builder.with_no_client_auth(),
        };
        Ok(Arc::new(config))
    }

    pub fn server(&self) -> Outcome<Arc<ServerConfig>> {
        let (chain, key, roots) = self.parts()?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build();
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|e| e.to_string())?;
        let builder = builder.with_client_cert_verifier(verifier.map_err(|e| e.to_string())?);
        Ok(Arc::new(builder.with_single_cert(chain, key).map_err(|e| e.to_string())?))
    }
}

/// A connection that is up.
pub struct Link {
    pub number: usize,
    /// Did we open it?
    pub ours: bool,
    pub local: SocketAddr,
    tls: Mutex<Connection>,
    socket: TcpStream,
    /// Octets of plain text that came.
    pub heard: AtomicU64,
    closed: AtomicBool,
}

impl Link {
    /// Connects from `from`, whose port is ours to choose, and shakes hands.
    pub fn connect(
        from: SocketAddr,
        to: SocketAddr,
        name: &str,
        config: Arc<ClientConfig>,
        number: usize,
    ) -> Outcome<Arc<Self>> {
        // A thread at a time binds, so that the source address is the Edge's.
        let socket = bound(from, to).map_err(|e| format!("no connection from {from} to {to}: {e}"))?;
        let name = ServerName::try_from(name.to_string()).map_err(|e| e.to_string())?;
        let tls = ClientConnection::new(config, name).map_err(|e| e.to_string())?;
        Self::shake(socket, tls.into(), true, number)
    }

    /// Takes a connection.
    pub fn accept(socket: TcpStream, config: Arc<ServerConfig>, number: usize) -> Outcome<Arc<Self>> {
        let tls = ServerConnection::new(config).map_err(|e| e.to_string())?;
        Self::shake(socket, tls.into(), false, number)
    }

    fn shake(mut socket: TcpStream, mut tls: Connection, ours: bool, number: usize) -> Outcome<Arc<Self>> {
        socket.set_nodelay(true).map_err(|e| e.to_string())?;
        socket.set_read_timeout(Some(Duration::from_secs(5))).map_err(|e| e.to_string())?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket).map_err(|e| format!("TLS: {e}"))?;
        }
        socket.set_read_timeout(Some(Duration::from_millis(100))).map_err(|e| e.to_string())?;
        let local = socket.local_addr().map_err(|e| e.to_string())?;
        let (tls, heard) = (Mutex::new(tls), AtomicU64::new(0));
        Ok(Arc::new(Self { number, ours, local, tls, socket, heard, closed: AtomicBool::new(false) }))
    }

    pub fn send(&self, octets: &[u8]) -> Outcome {
        let mut tls = self.tls.lock().expect("no thread panics with a connection");
        tls.writer().write_all(octets).map_err(|e| e.to_string())?;
        while tls.wants_write() {
            tls.write_tls(&mut &self.socket).map_err(|e| format!("link {}: {e}", self.number))?;
        }
        Ok(())
    }

    /// Adds what came to a buffer; `false` when the connection is closed.
    pub fn read(&self, plain: &mut Vec<u8>) -> bool {
        // What came with the end of the handshake is there already.
        if self.drain(plain) {
            return true;
        }
        let mut cipher = [0; 16 * 1024];
        let count = match (&self.socket).read(&mut cipher) {
            Ok(0) => return self.close(),
            Ok(count) => count,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return !self.is_closed(),
            Err(_) => return self.close(),
        };
        let mut cipher = &cipher[..count];
        while !cipher.is_empty() {
            let mut tls = self.tls.lock().expect("no thread panics with a connection");
            let processed = tls.read_tls(&mut cipher).is_ok() && tls.process_new_packets().is_ok();
            while tls.wants_write() && tls.write_tls(&mut &self.socket).is_ok() {}
            drop(tls);
            if !processed {
                return self.close();
            }
            self.drain(plain);
        }
        true
    }

    /// Moves plain text to a buffer; was there any?
    fn drain(&self, plain: &mut Vec<u8>) -> bool {
        let (mut buffer, before) = ([0; 4096], plain.len());
        let mut tls = self.tls.lock().expect("no thread panics with a connection");
        while let Ok(count @ 1..) = tls.reader().read(&mut buffer) {
            plain.extend_from_slice(&buffer[..count]);
        }
        self.heard.fetch_add((plain.len() - before) as u64, Ordering::Relaxed);
        plain.len() > before
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Closes it at once; `false`, as [`Link::read`] says it.
    pub fn close(&self) -> bool {
        self.closed.store(true, Ordering::Relaxed);
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        false
    }
}

/// A TCP connection with a source address, which std does not offer.
fn bound(from: SocketAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
    let family = if to.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let descriptor = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&descriptor, &from)?;
    connect(&descriptor, &to)?;
    Ok(TcpStream::from(descriptor))
}

/// A listener that gives up waiting now and then.
pub fn listen(address: SocketAddr) -> Outcome<TcpListener> {
    let listener = TcpListener::bind(address).map_err(|e| format!("Edge on {address}: {e}"))?;
    listener.set_nonblocking(true).map_err(|e| e.to_string())?;
    Ok(listener)
}
