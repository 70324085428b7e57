"""An HBONE client of its own, on OpenSSL and h2, that shares no code with the waypoint.

Usage: hbone_client.py HOST:PORT CHAIN KEY BUNDLE CASES

CASES is a JSON list. Each case opens one stream on the one connection: `headers` as they are, then `send`, if the answer was
200, and END_STREAM. Tells what became of each: status, headers, body, whether the end was clean, and the code of a reset.
"""

import json
import socket
import ssl
import sys
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset

from report import tell

DEADLINE_SECONDS = 20


def dial(target: str, chain: str, key: str, bundle: str) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(bundle)
    context.load_cert_chain(chain, key)
    context.set_alpn_protocols(["h2"])
    host, port = target.rsplit(":", 1)
    return context.wrap_socket(socket.create_connection((host, int(port)), DEADLINE_SECONDS))


class Stream:
    """What is known of one stream."""

    def __init__(self) -> None:
        self.headers: list[list[str]] = []
        self.body = b""
        self.clean = False
        self.reset: int | None = None

    @property
    def over(self) -> bool:
        return self.clean or self.reset is not None

    def report(self) -> dict[str, Any]:
        status = dict(self.headers).get(":status")
        rest = [header for header in self.headers if header[0] != ":status"]
        return {"status": status, "headers": rest, "body": self.body.decode(), "clean": self.clean, "reset": self.reset}


class Client:
    """One connection."""

    def __init__(self, tls: ssl.SSLSocket) -> None:
        self.tls = tls
        # Odd heads are sent as they are: to send them is the point.
        config = H2Configuration(
            header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.h2 = H2Connection(config)
        self.h2.initiate_connection()
        self.streams: dict[int, Stream] = {}
        self.flush()

    def flush(self) -> None:
        self.tls.sendall(self.h2.data_to_send())

    def pump(self) -> None:
        """Reads once and notes what came."""
        data = self.tls.recv(65536)
        if not data:
            raise ConnectionError("the waypoint closed the connection")
        for event in self.h2.receive_data(data):
            stream = self.streams.get(getattr(event, "stream_id", 0))
            match event:
                case ResponseReceived() if stream:
                    stream.headers = [list(header) for header in event.headers]
                case DataReceived() if stream:
                    stream.body += event.data
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case StreamEnded() if stream:
                    stream.clean = True
                case StreamReset() if stream:
                    stream.reset = int(event.error_code)
        self.flush()

    def run(self, case: dict[str, Any]) -> dict[str, Any]:
        number = self.h2.get_next_available_stream_id()
        stream = self.streams[number] = Stream()
        self.h2.send_headers(number, [tuple(header) for header in case["headers"]])
        self.flush()
        while not stream.headers and not stream.over:
            self.pump()
        if "send" in case and not stream.over:
            self.h2.send_data(number, case["send"].encode(), end_stream=True)
            self.flush()
        while not stream.over:
            self.pump()
        return stream.report()


def main(target: str, chain: str, key: str, bundle: str, cases: str) -> None:
    with dial(target, chain, key, bundle) as tls:
        names = tls.getpeercert()["subjectAltName"]
        client = Client(tls)
        answers = [client.run(case) for case in json.loads(cases)]
        tell({"tls": tls.version(), "alpn": tls.selected_alpn_protocol(), "server": names, "answers": answers})


main(*sys.argv[1:])
