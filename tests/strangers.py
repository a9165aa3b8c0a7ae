"""Sends a port a hundred things that nobody who belongs there would send.

    python tests/strangers.py HOST PORT...

It needs nothing but Python, so any machine can be the stranger.
"""

import json
import random
import socket
import sys
import threading
import time
from collections.abc import Callable

MOST = 64 << 20  # bytes that can be on their way to a listener that reads none of them
_REPORT = {"rank": 1, "count": 4, "pid": 1, "host": "h", "doing": "", "waits": False}


def kinds(token: str, patience: float) -> dict[str, Callable[[tuple[str, int]], None]]:
    """Returns functions that each send one kind of nonsense to an address, by name.

    Each returns when the other end has closed the connection, and fails if it keeps it open for
    more than `patience` seconds. Some know the token of a watchdog's, and then send no report.
    """
    numbers, hello = random.Random(0), f"{token}\n".encode()
    report = json.dumps(_REPORT).encode() + b"\n"
    binary = numbers.randbytes
    unknown = {
        "an empty line": b"\n" * 33,
        "zeros": b"\0" * 33,
        "text": b"x" * 100,
        "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n",
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + binary(500),
        "SSH": b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u10\r\n",
        "SMB": b"\x00\x00\x00\x85\xffSMBr\x00\x00\x00\x00\x18S\xc8" + binary(120),
        "a pickle": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R." + b"\n" * 20,
        "Unicode": "\N{SNOWMAN}".encode() * 50,
        "deep brackets": b"[" * 100_000,
        "a report without the token": report,
        "the token backwards": hello[::-1] + report,
        "the token after a space": b" " + hello + report,
        "the token but for its last digit": hello[:-2] + b"x\n" + report,
        "the token in capitals": b"A" + hello[1:].upper() + report,
        "the token without its line's end": hello[:-1] + report,
        "half a token": hello[:16] + b"\n" + report,
        "the old protocol": json.dumps({"token": "0" * 32, **_REPORT}).encode() + b"\n",
    }
    for number in range(18):
        unknown[f"wrong token {number}"] = binary(16).hex().encode() + b"\n" + report
        unknown[f"random bytes {number}"] = binary(numbers.randrange(33, 5000))
    lines = [b"", b"{}", b"[]", b"1", b'"rank"', b"null", b"{", b"}", b"\xff\xfe", b"nonsense"]
    lines += [b"[" * 100_000, b'{"rank":' * 10_000, b"9" * 10_000, b"\0" * 64, b"1e999"]
    lines += [b'{"rank": 1}', b'{"rank": 1, "count": ', b'{"count": 1}', report[:-9]]
    lines += [binary(100).replace(b"\n", b"") for _ in range(8)]
    ranks = [-1, 3, 128, 10**30, 0.5, "1", "", None, [1], {"rank": 1}, float("nan"), float("inf")]
    lines += [json.dumps({**_REPORT, "rank": rank}).encode() for rank in ranks]
    known = {f"no report {i}: {line[:20]!r}": line for i, line in enumerate(lines)}

    def sends(*pieces, pause=0.0):
        def stranger(address):
            with socket.create_connection(address, timeout=patience) as connection:
                sent = 0
                try:
                    for piece in pieces:
                        connection.sendall(piece)
                        sent += len(piece)
                        assert sent < MOST, "it reads on and on"
                        time.sleep(pause)
                    while connection.recv(1 << 16):
                        pass
                except ConnectionError:
                    pass

        return stranger

    def leaves(address):
        socket.create_connection(address, timeout=patience).close()

    return {
        **{name: sends(text) for name, text in unknown.items()},
        **{name: sends(hello + line + b"\n") for name, line in known.items()},
        "a gigabyte without a line's end": sends(*[b"z" * 2**20] * 1024),
        "the token and a gigabyte": sends(hello, *[b"z" * 2**20] * 1024),
        "the token and a gigabyte of lines": sends(hello, *[b"\n" * 2**20] * 1024),
        "a slow drip": sends(*(bytes([byte]) for byte in hello[:20]), pause=patience / 100),
        "silence": sends(),
        "the token and silence": sends(hello),
        "the token and half a report": sends(hello + report[:20]),
        "a connection and no more": leaves,
    }


def flood(address: tuple[str, int], count: int, patience: float) -> None:
    """Holds many connections open at once, as far as the other end lets it."""
    held = []
    for _ in range(count):
        try:
            held.append(socket.create_connection(address, timeout=patience))
        except OSError:
            pass
    for connection in held:
        connection.close()


def send_all(address: tuple[str, int], token: str = "0" * 32, patience: float = 30.0) -> list[str]:
    """Sends all kinds, twenty at the same time, and two floods; returns what went wrong."""
    waiting, errors = list(kinds(token, patience).items()), []

    def work():
        while waiting:
            name, stranger = waiting.pop()
            try:
                stranger(address)
            except (OSError, AssertionError) as error:
                errors.append(f"{name}: {error!r}")

    threads = [threading.Thread(target=work) for _ in range(20)]
    threads += [threading.Thread(target=flood, args=(address, 500, patience)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


if __name__ == "__main__":
    host, *ports = sys.argv[1:]
    for port in ports:
        for error in send_all((host, int(port))):
            print(f"{host}:{port}: {error}", flush=True)
