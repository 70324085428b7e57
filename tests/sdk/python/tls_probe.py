"""Tries one way of TLS and tells whether HTTP/2 was served on it.

Usage: tls_probe.py HOST:PORT BUNDLE OPTIONS    OPTIONS: {"version": "1.2"|"1.3", "alpn": [...]|null, "chain": …, "key": …}
"""

import json
import socket
import ssl
import sys
from typing import Any

from report import tell

DEADLINE_SECONDS = 20
# The preface and an empty SETTINGS frame (RFC 9113 §3.4): a server that is content answers with its own.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


def context(bundle: str, options: dict[str, Any]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(bundle)
    version = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[options["version"]]
    context.minimum_version = context.maximum_version = version
    if options.get("alpn"):
        context.set_alpn_protocols(options["alpn"])
    if options.get("chain"):
        context.load_cert_chain(options["chain"], options["key"])
    return context


def main(target: str, bundle: str, options: str) -> None:
    host, port = target.rsplit(":", 1)
    tcp = socket.create_connection((host, int(port)), DEADLINE_SECONDS)
    try:
        with context(bundle, json.loads(options)).wrap_socket(tcp) as tls:
            tls.sendall(PREFACE)
            # A client certificate is judged after the client's side of the handshake is done: the verdict is read here.
            served = len(tls.recv(9)) > 0
            tell({"served": served, "why": None if served else "closed"})
    except (ssl.SSLError, ConnectionError) as error:
        tell({"served": False, "why": str(error)})


main(*sys.argv[1:])
