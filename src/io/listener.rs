//! Sockets that take connections or datagrams.
//!
//! An IPv6 listener takes IPv6 alone, so that `0.0.0.0` and `[::]` can stand side by
//! side and an address never comes in two forms.

use crate::base::net::ListenerId;
use crate::settings::{Listener, ListenerKind};
use core::net::SocketAddr;
use mio::net::{TcpListener, UdpSocket};
use mio::{Interest, Registry, Token};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::io;

/// Connections the kernel completes ahead of us.
const BACKLOG: i32 = 1024;

/// All open listeners. Each has a place of its own for as long as it is open, which
/// does not change when others come and go; [`ListenerId`]s follow the settings.
#[derive(Debug, Default)]
pub struct Listeners {
    places: Vec<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    id: ListenerId,
    kind: ListenerKind,
    address: SocketAddr,
    socket: Socket,
    /// May there be something to take?
    ready: bool,
}

/// A listening socket.
#[derive(Debug)]
pub enum Socket {
    /// It takes connections.
    Tcp(TcpListener),
    /// It takes datagrams.
    Udp(UdpSocket),
}

impl Listeners {
    /// Opens what is new, keeps what stays, closes the rest. On an error all is as
    /// before. Event sources count from `first_token` on.
    pub fn change(&mut self, registry: &Registry, first_token: usize, wanted: &[Listener]) -> Result<(), String> {
        let stays = |open: &Open| wanted.iter().any(|w| is_udp(w.kind) == open.is_udp() && w.address == open.address);
        // One that leaves may hold the port that a new one wants.
        let mut leaving: Vec<Open> = Vec::new();
        for place in &mut self.places {
            if let Some(open) = place.take_if(|open| !stays(open)) {
                leaving.push(open);
            }
        }
        let left: Vec<(ListenerId, Listener)> = leaving.iter().map(|open| (open.id, open.settings())).collect();
        drop(leaving);
        let opened = match self.open_new(wanted) {
            Ok(opened) => opened,
            Err(cause) => {
                self.restore(registry, first_token, &left);
                return Err(cause);
            }
        };
        for (id, listener) in numbered(wanted) {
            if let Some(open) = self.find(listener) {
                (open.id, open.kind) = (id, listener.kind);
            }
        }
        for open in opened {
            self.enter(registry, first_token, open).map_err(|e| format!("cannot watch a listener: {e}"))?;
        }
        Ok(())
    }

    fn open_new(&mut self, wanted: &[Listener]) -> Result<Vec<Open>, String> {
        let mut opened = Vec::new();
        for (id, listener) in numbered(wanted) {
            if self.find(listener).is_none() {
                let open = Open::new(id, listener)
                    .map_err(|e| format!("cannot listen on {} ({}): {e}", listener.address, listener.name))?;
                opened.push(open);
            }
        }
        Ok(opened)
    }

    /// Opens again what was closed for a change that failed. Nobody took the ports
    /// in between but for bad luck, which leaves that listener closed.
    fn restore(&mut self, registry: &Registry, first_token: usize, left: &[(ListenerId, Listener)]) {
        for (id, listener) in left {
            if let Ok(open) = Open::new(*id, listener) {
                let _ = self.enter(registry, first_token, open);
            }
        }
    }

    /// Closes those that take connections.
    pub fn close_streams(&mut self) {
        for place in &mut self.places {
            drop(place.take_if(|open| !open.is_udp()));
        }
    }

    fn find(&mut self, wanted: &Listener) -> Option<&mut Open> {
        self.places
            .iter_mut()
            .flatten()
            .find(|open| open.is_udp() == is_udp(wanted.kind) && open.address == wanted.address)
    }

    fn enter(&mut self, registry: &Registry, first_token: usize, mut open: Open) -> io::Result<()> {
        let place = self.places.iter().position(Option::is_none).unwrap_or(self.places.len());
        let token = Token(first_token + place);
        match &mut open.socket {
            Socket::Tcp(socket) => registry.register(socket, token, Interest::READABLE)?,
            Socket::Udp(socket) => registry.register(socket, token, Interest::READABLE)?,
        }
        if place == self.places.len() {
            self.places.push(None);
        }
        if let Some(free) = self.places.get_mut(place) {
            *free = Some(open);
        }
        Ok(())
    }

    /// Places, open or not.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Is there no place?
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Notes that there may be something to take at `place`.
    pub fn set_ready(&mut self, place: usize) {
        if let Some(Some(open)) = self.places.get_mut(place) {
            open.ready = true;
        }
    }

    /// Notes that there is nothing to take at `place`.
    pub fn set_idle(&mut self, place: usize) {
        if let Some(Some(open)) = self.places.get_mut(place) {
            open.ready = false;
        }
    }

    /// The listener at `place`, if there may be something to take.
    pub fn ready(&self, place: usize) -> Option<(ListenerId, &Socket)> {
        let open = self.places.get(place)?.as_ref()?;
        open.ready.then_some((open.id, &open.socket))
    }

    /// May there be something to take anywhere?
    pub fn any_ready(&self) -> bool {
        self.places.iter().flatten().any(|open| open.ready)
    }

    /// The socket of a UDP listener.
    pub fn udp(&self, id: ListenerId) -> Option<&UdpSocket> {
        self.places.iter().flatten().find_map(|open| match &open.socket {
            Socket::Udp(socket) if open.id == id => Some(socket),
            _ => None,
        })
    }

    /// Is SIP spoken there?
    pub fn is_sip(&self, id: ListenerId) -> bool {
        let sip = |kind| matches!(kind, ListenerKind::SipUdp | ListenerKind::SipTcp | ListenerKind::SipTls);
        self.places.iter().flatten().any(|open| open.id == id && sip(open.kind))
    }

    /// The address a listener really has.
    pub fn local_address(&self, id: ListenerId) -> Option<SocketAddr> {
        self.places.iter().flatten().find(|open| open.id == id).and_then(|open| match &open.socket {
            Socket::Tcp(socket) => socket.local_addr().ok(),
            Socket::Udp(socket) => socket.local_addr().ok(),
        })
    }
}

impl Open {
    fn new(id: ListenerId, listener: &Listener) -> io::Result<Self> {
        let socket = if is_udp(listener.kind) {
            Socket::Udp(udp(listener.address)?)
        } else {
            Socket::Tcp(tcp(listener.address)?)
        };
        // What came before it was watched is taken in the first turn.
        Ok(Self { id, kind: listener.kind, address: listener.address, socket, ready: true })
    }

    fn is_udp(&self) -> bool {
        is_udp(self.kind)
    }

    fn settings(&self) -> Listener {
        Listener { name: String::new(), kind: self.kind, address: self.address }
    }
}

/// The settings' listeners with their numbers; there are no more than numbers.
fn numbered(wanted: &[Listener]) -> impl Iterator<Item = (ListenerId, &Listener)> {
    (0..=u8::MAX).map(ListenerId).zip(wanted)
}

fn is_udp(kind: ListenerKind) -> bool {
    kind == ListenerKind::SipUdp
}

fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = bare(address, SocketType::STREAM)?;
    // Connections of a run that ended a moment ago must not keep the port.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from_std(socket.into()))
}

fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = bare(address, SocketType::DGRAM)?;
    rustix::net::bind(&socket, &address)?;
    Ok(UdpSocket::from_std(socket.into()))
}

fn bare(address: SocketAddr, kind: SocketType) -> io::Result<rustix::fd::OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    Ok(socket)
}
