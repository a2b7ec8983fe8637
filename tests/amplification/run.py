#!/usr/bin/env python3
"""CPU and memory that hostile bytes cost an agent, beside those of honest ones.

    tests/amplification/run.py [AGENT]     default: target/debug/gateway-agent

Each attack is made on fresh connections, one after the other, for some seconds;
when one is closed, the next is opened. One line for each: bytes sent, how long a
connection lived, CPU for each byte, as a multiple of an honest request's, and how
RSS grew. Fails where CPU is 100 times an honest byte's or more, or RSS grew by
more than 64 MiB.
"""

import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

SECONDS = 2
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def string(text):
    length = len(text)
    if length < 127:
        return bytes([length]) + text
    out, rest = [127], length - 127
    while rest >= 128:
        out.append(rest % 128 | 128)
        rest //= 128
    return bytes(out + [rest]) + text


def field(first, name, value):
    return bytes([first]) + string(name) + string(value)


REQUEST = b"".join(
    field(0, name, value)
    for name, value in [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/")]
)
POST = REQUEST.replace(b"GET", b"PUT")


def streams():
    return range(1, 1 << 30, 2)


def each(one):
    for stream in streams():
        yield one(stream)


def repeated(start, again):
    yield start
    while True:
        yield again


def get(stream, block=REQUEST):
    return frame(1, 5, stream, block)


CANCEL = struct.pack(">I", 8)
BOMB = REQUEST + field(0x40, b"x", b"y" * 4000) + b"\xbe" * 3
ATTACKS = {
    "honest requests": lambda: each(get),
    "rapid reset": lambda: each(lambda s: get(s) + frame(3, 0, s, CANCEL)),
    "window update of zero": lambda: each(lambda s: frame(1, 4, s, POST) + frame(8, 0, s, bytes(4))),
    "data behind the end": lambda: each(lambda s: get(s) + frame(0, 1, s, b"more")),
    "CONTINUATION": lambda: repeated(frame(1, 0, 1, REQUEST), frame(9, 0, 1, field(0, b"x", b"y")) * 50),
    "empty DATA": lambda: repeated(frame(1, 4, 1, POST), frame(0, 0, 1) * 50),
    "PING": lambda: repeated(b"", frame(6, 0, 0, bytes(8)) * 50),
    "SETTINGS": lambda: repeated(b"", frame(4, 0, 0) * 50),
    "PRIORITY": lambda: repeated(b"", frame(2, 0, 3, bytes(4) + b"\x10") * 50),
    "WINDOW_UPDATE": lambda: repeated(b"", frame(8, 0, 0, b"\0\0\0\1") * 50),
    "HPACK references, too many": lambda: each(lambda s: get(s, BOMB + b"\xbe" * 10000)),
    "HPACK references, allowed": lambda: repeated(get(1, BOMB), b""),
    "cookie crumbs": lambda: each(lambda s: get(s, REQUEST + field(0x40, b"cookie", b"") + b"\xbe" * 16000)),
}


def references():
    """The table is filled once, and then each request is some bytes."""
    yield get(1, BOMB)
    for stream in range(3, 1 << 30, 2):
        yield get(stream, REQUEST + b"\xbe" * 3)


ATTACKS["HPACK references, allowed"] = references


def backend(listener):
    def serve(connection):
        while data := connection.recv(65536):
            count = data.count(b"\r\n\r\n")
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok" * count)

    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


def cpu(pid):
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss(pid):
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) / 1024


def one_connection(address, attack, end):
    """Sends until it is closed or the time is over; honest ones wait for answers."""
    client = socket.create_connection(address)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.sendall(PREFACE + frame(4, 0, 0, b"\0\4\0\0\0\0" if attack != "honest requests" else b""))
    client.settimeout(5)
    sent, started = 0, time.monotonic()
    try:
        for bytes_ in ATTACKS[attack]():
            client.sendall(bytes_)
            sent += len(bytes_)
            if attack == "honest requests":
                answer = b""
                while b"ok" not in answer:
                    answer += client.recv(65536)
            else:
                client.setblocking(False)
                try:
                    if not client.recv(1 << 20):
                        break
                except BlockingIOError:
                    pass
                client.settimeout(5)
            if time.monotonic() > end:
                break
    except OSError:
        pass
    client.close()
    return sent, time.monotonic() - started


def main():
    agent = sys.argv[1] if len(sys.argv) > 1 else "target/debug/gateway-agent"
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=backend, args=(listener,), daemon=True).start()
    with tempfile.TemporaryDirectory() as work:
        fleet = os.path.join(work, "fleet.yaml")
        with open(fleet, "w") as file:
            file.write(
                "pops: {p: {region_order: [r]}}\nservices:\n  s:\n    routes: [{path_prefix: /}]\n"
                f"    backends: {{r: {{endpoints: ['http://127.0.0.1:{listener.getsockname()[1]}']}}}}\n"
            )
        process = subprocess.Popen(
            [agent, "--config", fleet, "--pop", "p", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            port = int(re.search(r"listening on [0-9.]+:(\d+)", process.stdout.readline())[1])
            sys.exit(measure(process.pid, ("127.0.0.1", port)))
        finally:
            process.terminate()


def measure(pid, address):
    honest, failed = None, 0
    one_connection(address, "honest requests", time.monotonic() + 1)
    for attack in ATTACKS:
        before, memory = cpu(pid), rss(pid)
        end, sent, lives, grown = time.monotonic() + SECONDS, 0, [], 0.0
        while time.monotonic() < end:
            bytes_, life = one_connection(address, attack, end)
            sent += bytes_
            lives.append(life)
            grown = max(grown, rss(pid) - memory)
        each_byte = (cpu(pid) - before) / max(sent, 1) * 1e9
        honest = honest or each_byte
        times = each_byte / honest
        failed |= times >= 100 or grown > 64
        print(
            f"{attack}: {sent / 1e6:.2f} MB on {len(lives)} connections of {max(lives):.2f} s at most, "
            f"{each_byte:.0f} ns a byte = {times:.2f} x, RSS + {grown:.1f} MiB",
            flush=True,
        )
    return failed


if __name__ == "__main__":
    main()
