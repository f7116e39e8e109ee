//! The demo's user on the SIP side: a phone on a UDP socket that sends MESSAGE requests
//! and answers those that come, 404 when they are for somebody else.

use crate::sip::framer;
use crate::sip::message::Message;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

/// The user's name and domain.
pub(super) const USER: &str = "marta";
pub(super) const DOMAIN: &str = "voip.example";

/// What the phone heard.
#[derive(Debug)]
pub(super) enum Heard {
    /// A request, and how it was answered.
    Request { line: String, from: String, text: String, octets: usize, status: u16, answer_octets: usize },
    /// A response to a request of its own.
    Response { line: String, status: u16, octets: usize },
}

#[derive(Debug)]
pub(super) struct Phone {
    socket: UdpSocket,
    gateway: SocketAddr,
    sent: u32,
}

impl Phone {
    pub(super) fn new(gateway: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, gateway, sent: 0 })
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Sends a message; gives the octets of the request.
    pub(super) fn send(&mut self, to: &str, text: &str) -> io::Result<usize> {
        self.sent += 1;
        let (here, number) = (self.address()?, self.sent);
        let request = format!(
            "MESSAGE sip:{to} SIP/2.0\r\nVia: SIP/2.0/UDP {here};branch=z9hG4bKdemo{port}n{number};rport\r\n\
             Max-Forwards: 70\r\nFrom: <sip:{USER}@{DOMAIN}>;tag=demo{number}\r\nTo: <sip:{to}>\r\n\
             Call-ID: demo{number}@{here}\r\nCSeq: 1 MESSAGE\r\nContent-Type: text/plain;charset=UTF-8\r\n\
             Content-Length: {length}\r\n\r\n{text}",
            port = here.port(),
            length = text.len()
        );
        self.socket.send_to(request.as_bytes(), self.gateway)
    }

    /// Takes in one datagram, if there is one.
    pub(super) fn poll(&mut self) -> io::Result<Option<Heard>> {
        let mut buffer = [0; 8192];
        let (octets, from) = match self.socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(None),
            Err(error) => return Err(error),
        };
        let datagram = buffer.get_mut(..octets).unwrap_or_default();
        let Ok((skip, head, length)) = framer::datagram(datagram) else { return Ok(None) };
        let datagram = datagram.get_mut(skip..skip + length).unwrap_or_default();
        let Ok(message) = Message::parse(datagram, head) else { return Ok(None) };
        if !message.is_request() {
            let line = format!("{} {}", message.status(), message.reason());
            return Ok(Some(Heard::Response { line, status: message.status(), octets }));
        }
        let ours = message.uri().starts_with(&format!("sip:{USER}@"));
        let (status, reason) = if ours { (200, "OK") } else { (404, "Not Found") };
        let answer = answer(&message, status, reason);
        self.socket.send_to(answer.as_bytes(), from)?;
        Ok(Some(Heard::Request {
            line: format!("{} {}", message.method().as_str(), message.uri()),
            from: message.from().uri.to_owned(),
            text: String::from_utf8_lossy(message.body()).into_owned(),
            octets,
            status,
            answer_octets: answer.len(),
        }))
    }
}

fn answer(request: &Message<'_>, status: u16, reason: &str) -> String {
    let mut answer = format!("SIP/2.0 {status} {reason}\r\n");
    for via in request.vias() {
        answer.push_str(&format!("Via: {via}\r\n"));
    }
    for name in ["From", "To", "Call-ID", "CSeq"] {
        let tag = if name == "To" { ";tag=demo" } else { "" };
        answer.push_str(&format!("{name}: {}{tag}\r\n", request.header(name).unwrap_or_default()));
    }
    answer + "Content-Length: 0\r\n\r\n"
}
