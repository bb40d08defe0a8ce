#!/usr/bin/env python3
"""Recomputes the packet vectors, as far as formulas tell them, without any of synwall's code.

    python3 tests/vectors/check_packet_vectors.py

What is checked: the checksums of every frame that leaves; each SYN-ACK field by field, its cookie with the keys of
cookie.toml's formulas; each translated segment from its flow's delta and scales; that what crosses is unchanged; that each
drop says which. Python has no BLAKE3: the key of the epoch is taken as given (tests/packet_vectors.rs derives it). Needs
Python 3.11.
"""

import pathlib
import struct
import sys
import tomllib

from check_cookie_vectors import options_of as cookie_options_of, siphash_2_4, tsval_of

TAGS = (0x8100, 0x88A8, 0x9100)
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
WORD = (1 << 32) - 1


class Frame:
    """A frame with a TCP segment in it, or not."""

    def __init__(self, octets):
        self.octets = octets
        at, tags = 12, 0
        while tags < 2 and int.from_bytes(octets[at : at + 2]) in TAGS:
            at, tags = at + 4, tags + 1
        self.kind = int.from_bytes(octets[at : at + 2])
        self.ip = at + 2
        self.link = octets[: self.ip]
        packet = octets[self.ip :]
        self.is_tcp = False
        if self.kind == 0x0800 and len(packet) >= 20 and packet[0] >> 4 == 4 and packet[9] == 6:
            self.version, self.header_len = 4, (packet[0] & 15) * 4
            self.total_len = int.from_bytes(packet[2:4])
            self.source, self.destination = packet[12:16], packet[16:20]
        elif self.kind == 0x86DD and len(packet) >= 40 and packet[6] == 6:
            self.version, self.header_len = 6, 40
            self.total_len = 40 + int.from_bytes(packet[4:6])
            self.source, self.destination = packet[8:24], packet[24:40]
        else:
            return
        segment = packet[self.header_len : self.total_len]
        if len(segment) < 20 or not 20 <= segment[12] >> 4 << 2 <= len(segment):
            return
        self.is_tcp = True
        self.segment, self.offset = segment, segment[12] >> 4 << 2
        self.sport, self.dport, self.seq, self.ack = struct.unpack("!HHII", segment[:12])
        self.flags, self.window, self.checksum, self.urgent = struct.unpack("!xBHHH", segment[12:20])
        self.options, self.payload = segment[20 : self.offset], segment[self.offset :]

    def has_good_checksums(self):
        """Of the IP header, and of the segment with its pseudo-header."""
        if self.version == 4 and total(self.octets[self.ip : self.ip + self.header_len]) != 0xFFFF:
            return False
        pseudo = self.source + self.destination + struct.pack("!IHH", len(self.segment), 0, 6)
        return total(pseudo + self.segment) == 0xFFFF


def total(octets):
    octets += b"\0" * (len(octets) % 2)
    summed = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while summed >> 16:
        summed = (summed & 0xFFFF) + (summed >> 16)
    return summed


def options_of(octets):
    """Kind, offset and body of each option, up to the end of the list or a broken length."""
    at, found = 0, []
    while at < len(octets) and octets[at] != 0:
        if octets[at] == 1:
            at += 1
            continue
        length = octets[at + 1] if at + 1 < len(octets) else 0
        if length < 2 or at + length > len(octets):
            break
        found.append((octets[at], at, octets[at + 2 : at + length]))
        at += length
    return found


def offer_of(frame):
    """MSS, window scale, SACK and timestamps as the SYN has them: the last of each counts."""
    offer = {"mss": None, "wscale": None, "sack": False, "timestamps": None}
    for kind, _, body in options_of(frame.options):
        if (kind, len(body)) == (2, 2):
            offer["mss"] = int.from_bytes(body)
        elif (kind, len(body)) == (3, 1):
            offer["wscale"] = min(body[0], 14)
        elif (kind, len(body)) == (4, 0):
            offer["sack"] = True
        elif (kind, len(body)) == (8, 8):
            offer["timestamps"] = int.from_bytes(body[:4])
    return offer


def service_of(policy, frame):
    names = {4: "web", 6: "web6"}
    return next(service for service in policy["services"] if service["name"] == names[frame.version])


def cookie(keys, frame, offer, ecn):
    """ISN and TSval for the SYN."""
    # An MSS of 0 is none.
    mss = offer["mss"] or {4: 536, 6: 1220}[frame.version]
    has_ts = offer["timestamps"] is not None
    options = cookie_options_of(frame.version, keys["epoch"], mss, offer["wscale"], offer["sack"], has_ts, ecn)
    flags, extra, scale = options
    message = frame.source + frame.destination + struct.pack("!HHI", frame.sport, frame.dport, frame.seq)
    h = siphash_2_4(bytes.fromhex(keys["key"]), message + bytes(options))
    return (h >> 40) << 8 | flags ^ h >> 56, tsval_of(h, keys["unix_millis"] * 10**6, extra, scale)


def expected_options(frame, offer, service, tsval):
    octets = b""
    if offer["mss"] is not None:
        limit = {4: 1460, 6: 1440}[frame.version]
        octets += struct.pack("!BBH", 2, 4, min(service.get("mss", limit), limit))
    has_ts = offer["timestamps"] is not None
    octets += {(1, 1): b"\4\2", (1, 0): b"\1\1\4\2", (0, 1): b"\1\1", (0, 0): b""}[offer["sack"], has_ts]
    if has_ts:
        octets += struct.pack("!BBII", 8, 10, tsval, offer["timestamps"])
    if offer["wscale"] is not None:
        octets += bytes([1, 3, 3, service.get("wscale", 7)])
    return octets


def check_syn_ack(file, vector, syn, answer):
    service = service_of(file["policy"][vector["policy"]], syn)
    offer = offer_of(syn)
    had_ts = offer["timestamps"] is not None
    if service.get("wscale", 7) == -1:
        offer["wscale"] = None
    offer["sack"] = offer["sack"] and service.get("sack", True)
    if not service.get("timestamps", True):
        offer["timestamps"] = None
    ecn = syn.flags & (ECE | CWR) == ECE | CWR and service.get("ecn", False) and offer["timestamps"] is not None
    isn, tsval = cookie(file["keys"], syn, offer, ecn)
    assert had_ts or offer["timestamps"] is None
    station = syn.link[:6] if not syn.link[0] & 1 else bytes([syn.link[0] & ~1 | 2]) + syn.link[1:6]
    assert answer.link == syn.link[6:12] + station + syn.link[12:], "link header"
    assert (answer.source, answer.destination) == (syn.destination, syn.source), "addresses"
    assert (answer.sport, answer.dport) == (syn.dport, syn.sport), "ports"
    assert (answer.seq, answer.ack) == (isn, syn.seq + 1 & WORD), "numbers"
    assert answer.flags == SYN | ACK | (ECE if ecn else 0), "flags"
    assert (answer.window, answer.urgent) == (service.get("early_data", 14600), 0), "window"
    assert answer.options == expected_options(syn, offer, service, tsval), "options"
    assert answer.payload == b"" and len(answer.octets) <= len(syn.octets), "length"
    packet = answer.octets[answer.ip :]
    if answer.version == 4:
        assert packet[:2] + packet[4:10] == bytes([0x45, 0, 0, 0, 0x40, 0, 64, 6]), "IP header"
    else:
        assert packet[:4] + packet[6:8] == bytes([0x60, 0, 0, 0, 6, 64]), "IP header"


def rescaled(window, scales):
    return min(max(window << scales[0] >> scales[1], min(window, 1)), 0xFFFF)


def check_translated(flow, vector, before, after):
    """Every field from the flow's numbers; the rest is as it was."""
    delta, ts_delta = flow["delta"], flow["ts_delta"]
    from_client, options = vector["side"] == "client", bytearray(before.options)
    seq, ack, window = before.seq, before.ack, before.window

    def add(at, change):
        options[at : at + 4] = (int.from_bytes(options[at : at + 4]) + change & WORD).to_bytes(4)

    for kind, at, body in options_of(before.options):
        if from_client and kind == 5 and flow.get("strips_sack"):
            options[at : at + 2 + len(body)] = bytes([1]) * (2 + len(body))
        elif from_client and kind == 5 and len(body) in (8, 16, 24, 32):
            for edge in range(at + 2, at + 2 + len(body), 4):
                add(edge, delta)
        elif from_client and (kind, len(body)) == (8, 8) and before.flags & ACK:
            latest, reach = flow["ends"]["clock"]
            echo = int.from_bytes(body[4:]) + ts_delta & WORD
            # What the server never sent was a cookie's, and stands for its SYN-ACK's.
            if latest - echo & WORD > reach:
                echo = latest - reach & WORD
            options[at + 6 : at + 10] = echo.to_bytes(4)
        elif not from_client and (kind, len(body)) == (8, 8):
            add(at + 2, -ts_delta)
    if from_client:
        ack = ack + delta & WORD if before.flags & ACK else ack
        window = rescaled(window, flow["client_window"])
    else:
        seq = seq - delta & WORD
        window = rescaled(window, flow["server_window"])
    assert (after.seq, after.ack) == (seq, ack), "numbers"
    assert after.window == window, "window"
    assert after.options == bytes(options), "options"
    headers = bytearray(before.octets[: before.ip + before.header_len])
    found = bytearray(after.octets[: after.ip + after.header_len])
    if from_client and flow.get("strips_ecn"):
        headers[before.ip + 1] &= 0xFC if before.version == 4 else 0xCF
        if before.version == 4:
            # Checked with the other checksums.
            headers[before.ip + 10 : before.ip + 12] = found[after.ip + 10 : after.ip + 12]
    assert found == headers, "headers"
    assert (after.flags, after.urgent, after.payload) == (before.flags, before.urgent, before.payload), "the rest"


def is_first_fragment(frame):
    return frame.version == 4 and frame.octets[frame.ip + 6] & 0x20


def check(file, vector):
    frame = Frame(bytes.fromhex(vector["frame"]))
    out = [Frame(bytes.fromhex(sent["frame"])) for sent in vector.get("out", [])]
    other = {"client": "server", "server": "client"}[vector["side"]]
    for one in out:
        came_whole = not frame.is_tcp or not is_first_fragment(frame) and frame.has_good_checksums()
        assert not one.is_tcp or not came_whole or one.has_good_checksums(), "checksums"
    verdict = vector["verdict"].split()
    if verdict[0] == "drop":
        counts = vector["counters"]
        assert len(verdict) == 2 and any(name.endswith("drop." + verdict[1]) for name in counts), "reason"
        assert sum(count for name, count in counts.items() if ".drop." in name) == 1, "one reason"
    elif verdict[0] == "forward":
        assert len(out) == 1 and vector["out"][0]["side"] == other, "it leaves at the other port"
        if "flow" in vector and not file["flow"][vector["flow"]].get("is_direct"):
            check_translated(file["flow"][vector["flow"]], vector, frame, out[0])
        else:
            assert out[0].octets == frame.octets, "it crosses as it is"
    elif frame.is_tcp and frame.flags & (SYN | ACK) == SYN and out and vector["side"] == "client":
        check_syn_ack(file, vector, frame, out[0])
        return "SYN-ACKs"
    return verdict[0]


def main():
    counts = {}
    for theme in ("syn_ack", "cookie_ack", "translate", "drops", "foreign"):
        path = pathlib.Path(__file__).with_name(theme + ".toml")
        file = tomllib.loads(path.read_text())
        for vector in file["vector"]:
            try:
                kind = check(file, vector)
            except AssertionError as wrong:
                sys.exit(f"{theme}, {vector['name']}: {wrong}")
            counts[kind] = counts.get(kind, 0) + 1
    print(", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())), "agree")


if __name__ == "__main__":
    main()
