#!/usr/bin/env python3
"""Recomputes tests/vectors/cookie.toml without any of synwall's code.

    pip install blake3          # optional: without it the derived keys are taken as given
    python3 tests/vectors/check_cookie_vectors.py

SipHash-2-4 is written out below from its paper and first tried against the paper's own example. Needs Python 3.11.
"""

import ipaddress
import pathlib
import sys
import tomllib

try:
    import blake3
except ImportError:
    blake3 = None

CONTEXT = "synwall cookie epoch key v1"
WSCALE = [None, 0, 2, 4, 6, 7, 8, 10]
MSS = {
    4: [48, 536, 960, 1220, 1360, 1440, 1460, 8960],
    6: [48, 536, 1220, 1280, 1360, 1420, 1440, 8940],
}
# With timestamps.
MSS_FINE = [48, *range(68, 1220, 36), *sorted([*range(1220, 1460, 20), 1432, 1452]), *sorted([*range(1460, 8961, 500), 8940])]
MASK = (1 << 64) - 1


def rotl(word, count):
    return (word << count | word >> (64 - count)) & MASK


def siphash_2_4(key, message):
    k0, k1 = int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def rounds(count):
        for _ in range(count):
            v[0] = (v[0] + v[1]) & MASK
            v[2] = (v[2] + v[3]) & MASK
            v[1] = rotl(v[1], 13) ^ v[0]
            v[3] = rotl(v[3], 16) ^ v[2]
            v[0] = rotl(v[0], 32)
            v[2] = (v[2] + v[1]) & MASK
            v[0] = (v[0] + v[3]) & MASK
            v[1] = rotl(v[1], 17) ^ v[2]
            v[3] = rotl(v[3], 21) ^ v[0]
            v[2] = rotl(v[2], 32)

    padded = message + bytes(7 - len(message) % 8) + bytes([len(message) % 256])
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def epoch_key(master, epoch):
    material = bytes.fromhex(master) + epoch.to_bytes(8, "little")
    return blake3.blake3(material, derive_key_context=CONTEXT).digest()[:16]


def version_of(vector):
    return ipaddress.ip_address(vector["source"]).version


def message_of(vector, options):
    return b"".join(
        [
            ipaddress.ip_address(vector["source"]).packed,
            ipaddress.ip_address(vector["destination"]).packed,
            vector["source_port"].to_bytes(2, "big"),
            vector["destination_port"].to_bytes(2, "big"),
            vector["client_iss"].to_bytes(4, "big"),
            bytes(options),
        ]
    )


def place(table, value):
    """Of the largest entry that is not above, or the first."""
    return max([i for i, entry in enumerate(table) if entry is not None and entry <= value], default=0)


def options_of(version, epoch, mss, wscale, sack, timestamps, ecn):
    """The octets flags, extra and scale."""
    flags, extra = (epoch & 1) << 7 | sack << 6, 0x20 | (timestamps and ecn) << 1 | timestamps
    if timestamps:
        return flags | place(MSS_FINE, mss), extra, 0 if wscale is None else min(wscale, 14) + 1
    scale = 0 if wscale is None else place(WSCALE, min(wscale, 14))
    return flags | scale << 3 | place(MSS[version], mss), extra, 0


def fold(clock):
    return clock & 0xFF ^ clock >> 8 & 0xFF ^ clock >> 16


def tsval_of(h, unix_nanos, extra, scale):
    clock = (unix_nanos >> 22) % 2**19
    return clock << 13 | (extra >> 1 & 1) << 12 | scale << 8 | h & 0xFF ^ fold(clock)


def check_mint(vector):
    if blake3:
        assert epoch_key(vector["master"], vector["epoch"]).hex() == vector["key"]
    fields = ("epoch", "mss", "wscale", "sack", "timestamps", "ecn")
    options = flags, extra, scale = options_of(version_of(vector), *(vector.get(field) for field in fields))
    assert options == (vector["flags"], vector["extra"], vector["scale"])
    message = message_of(vector, options)
    assert message.hex() == vector["message"]
    h = siphash_2_4(bytes.fromhex(vector["key"]), message)
    assert f"{h:016x}" == vector["h"]
    mac24 = h >> 40
    assert mac24 << 8 | (flags ^ mac24 >> 16) == vector["isn"]
    assert (tsval_of(h, vector["unix_nanos"], extra, scale) if vector["timestamps"] else 0) == vector["tsval"]


def check_check(vector, keys):
    isn, tsecr, newest = vector["isn"], vector.get("tsecr"), vector["ring_epoch"]
    flags = isn & 0xFF ^ isn >> 24
    epoch = next((e for e in (newest, newest - 1) if e >= 0 and e & 1 == flags >> 7), None)
    key = keys(vector["master"], epoch) if epoch is not None else None
    if epoch is not None and key is None:
        return False
    accepted = False
    if key is not None:
        has_ts = tsecr is not None
        ecn, scale = (bool(tsecr >> 12 & 1), tsecr >> 8 & 15) if has_ts else (False, 0)
        h = siphash_2_4(key, message_of(vector, (flags, 0x20 | ecn << 1 | has_ts, scale)))
        accepted = h >> 40 == isn >> 8 and (not has_ts or h & 0xFF == tsecr & 0xFF ^ fold(tsecr >> 13))
    assert accepted == vector["accept"]
    if accepted:
        mss, wscale = MSS[version_of(vector)][flags & 7], WSCALE[flags >> 3 & 7]
        if has_ts:
            mss, wscale = MSS_FINE[flags & 63], scale - 1 if scale else None
        carried = (epoch, mss, wscale, bool(flags & 0x40), has_ts, ecn)
        assert carried == tuple(vector.get(f) for f in ("epoch", "mss", "wscale", "sack", "timestamps", "ecn"))
    return True


def main():
    paper = siphash_2_4(bytes(range(16)), bytes(range(15)))
    assert paper == 0xA129CA6149BE45E5, "SipHash paper, appendix A"

    path = pathlib.Path(__file__).with_name("cookie.toml")
    vectors = tomllib.loads(path.read_text())
    given = {(v["master"], v["epoch"]): bytes.fromhex(v["key"]) for v in vectors["mint"]}
    keys = epoch_key if blake3 else lambda master, epoch: given.get((master, epoch))

    skipped = 0
    for vector in vectors["mint"]:
        try:
            check_mint(vector)
        except AssertionError:
            sys.exit(f"mint {vector['name']}: wrong")
    for vector in vectors["check"]:
        try:
            skipped += not check_check(vector, keys)
        except AssertionError:
            sys.exit(f"check {vector['name']}, {vector['what']}: wrong")
    print(f"{len(vectors['mint'])} mint and {len(vectors['check']) - skipped} check vectors agree")
    if not blake3:
        print(f"derived keys taken as given, {skipped} check vectors skipped: the blake3 module is not installed")


if __name__ == "__main__":
    main()
