#!/usr/bin/env python3
"""As much of a front end with its Edge as a real client of the dialect (prpl-sipe) needs to
sign in and to write to users of other domains. Standard library only.

    client  <-- TCP -->  frontend  <-- mutual TLS -->  the gateway

REGISTER is answered without a challenge; what a client subscribes to for itself, and
SERVICE, get 200 and empty documents. Everything else is passed on, with a Record-Route,
between two clients or to the gateway and back.

    frontend.py --listen 127.0.7.61:5060 --edge 127.0.7.61:5061 --name sip.sip.example
                --next 127.0.7.40:5061 --next-name gw.example --ca CA --cert CHAIN --key KEY
                [--trace FILE]

--trace gets every message as it passed: what a real client says.
"""
import argparse
import os
import re
import selectors
import socket
import ssl
import time

OWN_EVENTS = ("vnd-microsoft-roaming-contacts", "vnd-microsoft-roaming-acl", "vnd-microsoft-roaming-self",
              "vnd-microsoft-provisioning", "vnd-microsoft-provisioning-v2", "presence.wpending")
SHORT = {"v": "via", "f": "from", "t": "to", "i": "call-id", "m": "contact", "l": "content-length",
         "c": "content-type", "o": "event", "s": "subject", "k": "supported"}


def address(text):
    host, _, port = text.rpartition(":")
    return host, int(port)


def user_of(value):
    found = re.search(r"sip:([^;>?\s]+)", value or "")
    return found.group(1).lower() if found else ""


class Message:
    """First line, header fields as pairs, body as octets."""

    def __init__(self, first, fields, body=b""):
        self.first, self.fields, self.body = first, list(fields), body

    @classmethod
    def parse(cls, octets):
        head, _, body = octets.partition(b"\r\n\r\n")
        lines = head.decode("utf-8", "replace").split("\r\n")
        fields = []
        for line in lines[1:]:
            if line[:1] in " \t" and fields:
                fields[-1] = (fields[-1][0], fields[-1][1] + " " + line.strip())
            else:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields.append((SHORT.get(name, name), value.strip()))
        return cls(lines[0], fields, body)

    def get(self, name, default=""):
        return next((v for n, v in self.fields if n == name), default)

    def all(self, name):
        return [v for n, v in self.fields if n == name]

    @property
    def is_response(self):
        return self.first.startswith("SIP/2.0 ")

    @property
    def method(self):
        return self.first.split()[0]

    def octets(self):
        lines = [self.first] + [f"{n}: {v}" for n, v in self.fields if n != "content-length"]
        lines.append(f"Content-Length: {len(self.body)}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + self.body


class Connection:
    def __init__(self, sock, side):
        self.sock, self.side, self.buffer, self.user = sock, side, b"", None


class Frontend:
    def __init__(self, args):
        self.args = args
        self.selector = selectors.DefaultSelector()
        self.inner, self.outer = address(args.listen), address(args.edge)
        self.listen(self.inner, "client")
        self.listen(self.outer, "gateway")
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.load_cert_chain(args.cert, args.key)
        self.server.load_verify_locations(args.ca)
        self.server.verify_mode = ssl.CERT_REQUIRED
        self.client = ssl.create_default_context(cafile=args.ca)
        self.client.load_cert_chain(args.cert, args.key)
        self.users = {}              # address -> its connection
        self.back = {}               # our branch -> where the request came from
        self.gateway = None          # the connection that we opened to it
        self.count = 0
        self.log = open(args.trace, "a", buffering=1, encoding="utf-8") if args.trace else None

    def listen(self, where, side):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(where)
        sock.listen(16)
        self.selector.register(sock, selectors.EVENT_READ, ("accept", side))

    def adopt(self, sock, side):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(sock, side)
        self.selector.register(sock, selectors.EVENT_READ, ("read", connection))
        return connection

    def to_gateway(self):
        if self.gateway is None:
            sock = socket.create_connection(address(self.args.next), 5, source_address=(self.outer[0], 0))
            self.gateway = self.adopt(self.client.wrap_socket(sock, server_hostname=self.args.next_name), "gateway")
        return self.gateway

    def trace(self, arrow, connection, octets):
        if self.log:
            text = octets.decode("utf-8", "replace").replace("\r\n", "\n")
            self.log.write(f"{arrow} {connection.side} {connection.user or ''} {time.time():.3f}\n{text}\n\n")

    def send(self, connection, message):
        octets = message.octets()
        self.trace("-->", connection, octets)
        connection.sock.sendall(octets)

    def reply(self, connection, request, status, reason, fields=(), body=b""):
        kept = [(n, v) for n, v in request.fields if n in ("via", "record-route", "from", "call-id", "cseq")]
        to = request.get("to")
        if ";tag=" not in to:
            self.count += 1
            to += f";tag=fe{self.count}"
        self.send(connection, Message(f"SIP/2.0 {status} {reason}", kept + [("To", to)] + list(fields), body))

    def on_request(self, connection, request):
        method, event = request.method, request.get("event").split(";")[0].strip().lower()
        sender, target = user_of(request.get("from")), user_of(request.first.split()[1])
        if connection.side == "client":
            ours = f"<sip:{self.inner[0]}:{self.inner[1]};transport=tcp>"
            if method == "REGISTER":
                return self.register(connection, request, sender)
            if method == "SUBSCRIBE" and "adhoclist" in " ".join(request.all("require")):
                # The client's own pool takes the list; nobody outside is asked.
                return self.reply(connection, request, 200, "OK", [("Expires", "600"), ("Contact", ours)])
            if method == "SUBSCRIBE" and (event in OWN_EVENTS or target == sender):
                return self.subscribe(connection, request, event, ours)
            if method in ("SERVICE", "OPTIONS"):
                return self.reply(connection, request, 200, "OK")
        self.forward(connection, request, target)

    def register(self, connection, request, sender):
        connection.user = sender
        self.users[sender] = connection
        contact, expires = request.get("contact"), request.get("expires", "600")
        device = re.search(r"urn:uuid:([0-9A-Fa-f-]+)", contact)
        gruu = f"sip:{sender};opaque=user:epid:{device.group(1) if device else 'x'};gruu"
        self.reply(connection, request, 200, "OK", [
            ("Contact", f'{contact.split(";expires")[0]};expires={expires};gruu="{gruu}"'), ("Expires", expires),
            ("Allow-Events", ",".join(OWN_EVENTS) + ",presence"),
            ("Supported", "adhoclist"), ("Supported", "msrtc-event-categories"), ("Server", "RTC/5.0")])

    def subscribe(self, connection, request, event, ours):
        kind, body = "", b""
        if event == "vnd-microsoft-roaming-contacts":
            kind = "application/vnd-microsoft-roaming-contacts+xml"
            body = b'<contactList deltaNum="1"><group id="1" name="~" externalURI=""/></contactList>'
        if event == "vnd-microsoft-roaming-self":
            kind = "application/vnd-microsoft-roaming-self+xml"
            body = b"<roamingData xmlns='http://schemas.microsoft.com/2006/09/sip/roaming-self'/>"
        fields = [("Expires", request.get("expires", "600")), ("Contact", ours), ("Event", event),
                  ("Subscription-State", "active;expires=600")]
        if body:
            fields += [("Content-Type", kind), ("ms-piggyback-cseq", "1")]
        self.reply(connection, request, 200, "OK", fields, body)

    def forward(self, connection, request, target):
        mine = (f"{self.inner[0]}:{self.inner[1]}", f"{self.args.name}:{self.outer[1]}")
        routes = [part.strip() for line in request.all("route") for part in line.split(",")]
        while routes and any(name in routes[0] for name in mine):
            routes.pop(0)
        to = self.users.get(target.split(";")[0])
        if connection.side == "client" and to is None:
            try:
                to = self.to_gateway()
            except OSError as why:
                print(f"no way to the gateway: {why}", flush=True)
        if to is None:
            if request.method != "ACK":
                self.reply(connection, request, 504 if connection.side == "client" else 404, "Not Found")
            return
        self.count += 1
        branch = f"z9hG4bKfe{self.count}x{os.getpid()}"
        if request.method != "ACK":
            self.back[branch] = connection
        if to.side == "gateway":
            host, port = to.sock.getsockname()[:2]
            via = f"SIP/2.0/TLS {host}:{port};branch={branch};branched=FALSE"
        else:
            via = f"SIP/2.0/TCP {mine[0]};branch={branch}"
        fields = [("Via", via)]
        if request.method in ("INVITE", "SUBSCRIBE") and ";tag=" not in request.get("to"):
            fields.append(("Record-Route", f"<sip:{mine[1]};transport=tls;lr;ms-key-info={'A' * 200}>;tag=FE"))
        fields += [(n, v) for n, v in request.fields if n not in ("route", "proxy-authorization", "authorization")]
        fields += [("Route", route) for route in routes]
        self.send(to, Message(request.first, fields, request.body))

    def on_response(self, response):
        top = response.get("via")
        branch = re.search(r"branch=([^;,\s]+)", top)
        to = self.back.get(branch.group(1)) if branch else None
        if to is None:
            return
        fields, seen = [], False
        for name, value in response.fields:
            if name == "via" and not seen:
                seen = True
                value = value.partition(",")[2].strip()
                if not value:
                    continue
            fields.append((name, value))
        self.send(to, Message(response.first, fields, response.body))

    def on_octets(self, connection):
        try:
            octets = connection.sock.recv(65536)
            while isinstance(connection.sock, ssl.SSLSocket) and connection.sock.pending():
                octets += connection.sock.recv(65536)
        except OSError:
            octets = b""
        if not octets:
            self.selector.unregister(connection.sock)
            connection.sock.close()
            if connection is self.gateway:
                self.gateway = None
            if self.users.get(connection.user) is connection:
                del self.users[connection.user]
            return
        connection.buffer += octets
        while True:
            connection.buffer = connection.buffer.lstrip(b"\r\n")
            head, end, rest = connection.buffer.partition(b"\r\n\r\n")
            if not end:
                return
            size = int(Message.parse(head + end).get("content-length", "0"))
            if len(rest) < size:
                return
            whole, connection.buffer = head + end + rest[:size], rest[size:]
            self.trace("<--", connection, whole)
            message = Message.parse(whole)
            try:
                if message.is_response:
                    self.on_response(message)
                else:
                    self.on_request(connection, message)
            except OSError as why:
                print(f"lost a message: {why}", flush=True)

    def accept(self, listener, side):
        sock, _ = listener.accept()
        if side == "gateway":
            try:
                sock.settimeout(5)
                sock = self.server.wrap_socket(sock, server_side=True)
                sock.settimeout(None)
            except OSError as why:
                print(f"TLS: {why}", flush=True)
                return
        self.adopt(sock, side)

    def run(self):
        print("ready", flush=True)
        while True:
            for key, _ in self.selector.select():
                what, of = key.data
                if what == "accept":
                    self.accept(key.fileobj, of)
                else:
                    self.on_octets(of)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("listen", "edge", "name", "next", "next-name", "ca", "cert", "key"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--trace")
    Frontend(parser.parse_args()).run()


if __name__ == "__main__":
    main()
