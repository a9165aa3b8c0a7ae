"""Delays and loses what hosts send; tools/machines/hosts.py puts it between them and the bridge.

    python relay.py DELAY LOSS HOST...      (seconds, a share of 1, names of interfaces)

Not every kernel has the netem that `tc` would need for this, but most have TAP devices. For each
host the relay makes one, named after it with `-far`, which is to be a port of the bridge in place
of the host's own interface, and passes frames on between the two. Frames go through with their
offloads, up to 64 kB each, so that it keeps up with a gigabit a second.
"""

import collections
import contextlib
import fcntl
import os
import random
import select
import socket
import struct
import sys
import time

TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 2, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6 = 1, 2, 4
ETH_P_ALL, SOL_PACKET = 3, 263
PACKET_ADD_MEMBERSHIP, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 1, 15, 23
PACKET_MR_PROMISC = 1
LARGEST = 10 + 65536 + 64  # offload header, payload, headers


def tap(name):
    """Makes a TAP device; returns its file descriptor."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    fcntl.ioctl(descriptor, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6)
    return descriptor


def port(name):
    """Opens an interface for all frames that come in at it; returns its file descriptor."""
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    packets.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    packets.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    packets.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
    packets.bind((name, 0))
    member = struct.pack("iHH8s", socket.if_nametoindex(name), PACKET_MR_PROMISC, 0, b"")
    packets.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, member)
    packets.setblocking(False)
    return packets.detach()


def main(delay, loss, *names):
    delay, loss = float(delay), float(loss)
    draw = random.Random(0)
    targets, slow = {}, set()
    for name in names:
        host, bridge = port(name), tap(f"{name}-far")
        targets |= {host: bridge, bridge: host}
        slow.add(host)
    print("ready", flush=True)
    waiting = collections.deque()  # (when it is due, target, frame), the next first
    while True:
        left = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        for source in select.select(list(targets), [], [], left)[0]:
            # A frame may be dropped on the way, as in any network.
            with contextlib.suppress(OSError):
                frame = os.read(source, LARGEST)
                if source not in slow:
                    os.write(targets[source], frame)
                elif draw.random() >= loss:
                    waiting.append((time.monotonic() + delay, targets[source], frame))
        while waiting and waiting[0][0] <= time.monotonic():
            _, target, frame = waiting.popleft()
            with contextlib.suppress(OSError):
                os.write(target, frame)


if __name__ == "__main__":
    main(*sys.argv[1:])
