"""What tests/slowhttptest/run needs beside slowhttptest: a backend, a healthy
client that measures, and a look at who is still connected."""

import asyncio
import json
import os
import sys
import time

# More than sockets hold by themselves.
BIG = 3 << 20
PIECE = 32 << 10
# Requests a second of the healthy client, on as many connections as it needs.
RATE = 50
# It comes from an address of its own, so that attackers can be told from it.
OWN_ADDRESS = "127.0.0.2"


async def serve(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.lower().split(b"\r\n")
            for line in lines:
                if line.startswith(b"content-length:"):
                    await reader.readexactly(int(line.split(b":")[1]))
            size = BIG if b" /big " in lines[0] else 1024
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
            for start in range(0, size, PIECE):
                writer.write(b"x" * min(PIECE, size - start))
                await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def backend():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def one(host, port):
    """One request on a connection of its own: accepting is part of it."""
    started = time.monotonic()
    try:
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(
                host, port, local_addr=(OWN_ADDRESS, 0)
            )
            writer.write(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
            if not answer.startswith(b"HTTP/1.1 200"):
                print(answer[:200], file=sys.stderr)
            good = answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"x" * 1024)
    except (OSError, TimeoutError):
        good = False
    return good, time.monotonic() - started


async def ask(address, results, until):
    host, port = address.split(":")
    asked = []
    while not until():
        asked.append(asyncio.create_task(one(host, int(port))))
        await asyncio.sleep(1 / RATE)
    results.extend(await asyncio.gather(*asked))


def p99(results):
    times = sorted(seconds for _, seconds in results)
    return times[int(len(times) * 0.99)] * 1000


async def before(address):
    results = []
    end = time.monotonic() + 10
    await ask(address, results, lambda: time.monotonic() > end)
    print(json.dumps(p99(results)))


def attackers(port):
    """Connections that the agent holds, but not those of the healthy client."""
    wanted, own = f":{port:04X}", "0200007F"
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table.readlines()[1:]]
    return sum(
        row[1].endswith(wanted) and row[3] == "01" and not row[2].startswith(own)
        for row in rows
    )


def rss(pid):
    with open(f"/proc/{pid}/status") as status:
        line = next(line for line in status if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


async def watch(name, address, pid, base, patience, connections):
    patience, connections = float(patience), int(connections)
    port = int(address.split(":")[1])
    memory_before = memory = rss(pid)
    most, all_there, gone = 0, None, None
    results = []
    end = time.monotonic() + patience + 30
    asking = asyncio.create_task(
        ask(address, results, lambda: gone is not None or time.monotonic() > end)
    )
    while gone is None and time.monotonic() < end:
        now = attackers(port)
        if now > most:
            most, all_there = now, time.monotonic()
        elif now == 0 and most > 0.9 * connections:
            gone = time.monotonic()
        memory = max(memory, rss(pid))
        await asyncio.sleep(0.1)
    await asking
    with open(base) as file:
        allowed = json.load(file)
    good = sum(ok for ok, _ in results)
    lasted = gone - all_there if gone else float("inf")
    grown = memory - memory_before
    print(
        f"{name}: {most} attackers, gone after {lasted:.1f} s (time-out {patience:.0f} s); "
        f"healthy {good} of {len(results)}, p99 {p99(results):.1f} ms (before {allowed:.1f} ms); "
        f"RSS + {grown:.0f} MiB",
        flush=True,
    )
    right = (
        good == len(results)
        and p99(results) <= max(2 * allowed, allowed + 5)
        and lasted <= patience + 1
        and grown <= 256
    )
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    asyncio.run({"backend": backend, "before": before, "watch": watch}[what](*arguments))
