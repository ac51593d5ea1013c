"""Zeroes the cubins in ELF shared objects that no Hopper card loads. fat.py FILE... (in place); prints what was found."""
import struct, sys, collections, os
MAGIC = struct.pack("<I", 0xBA55ED50)
def sections(b):
    shoff, = struct.unpack_from("<Q", b, 0x28); shentsize, shnum, shstrndx = struct.unpack_from("<HHH", b, 0x3A)
    hdr = lambda i: struct.unpack_from("<IIQQQQIIQQ", b, shoff + i * shentsize)
    st = hdr(shstrndx)
    for i in range(shnum):
        h = hdr(i); n = b[st[4] + h[0]: b.index(b"\0", st[4] + h[0])].decode()
        yield n, h[4], h[5]
for f in sys.argv[1:]:
    b = bytearray(open(f, "rb").read())
    if b[:4] != b"\x7fELF": continue
    kinds = collections.Counter(); zero = 0; bad = 0
    for name, off, size in list(sections(b)):
        if not name.startswith(".nv_fatbin"): continue
        p, end = off, off + size
        while p < end:
            if b[p:p+4] != MAGIC:
                q = b.find(MAGIC, p, end)
                if q < 0:
                    bad += any(b[p:end]); break
                bad += any(b[p:q]); p = q; continue
            ver, hs, fat = struct.unpack_from("<HHQ", b, p + 4)
            e, stop = p + hs, p + hs + fat
            assert stop <= end, (f, hex(p), fat)
            while e < stop:
                kind, _, ehs, esz = struct.unpack_from("<HHIQ", b, e)
                minor, major, arch = struct.unpack_from("<HHI", b, e + 24)
                if kind not in (1, 2, 16, 64) or ehs < 64 or ehs > 512 or e + ehs + esz > stop:
                    bad += 1; print("odd entry", f, hex(e), kind, ehs, esz, arch); e = stop; break
                kinds[(kind, arch)] += esz
                if kind == 2 and arch not in (90,):
                    b[e + ehs: e + ehs + esz] = bytes(esz); zero += esz
                e += ehs + esz
            bad += e != stop
            p = stop
    print(os.path.basename(f), len(b) >> 20, "MB; zeroed", zero >> 20, "MB; odd", bad, {k: v >> 10 for k, v in sorted(kinds.items())})
    if zero and not bad: open(f, "wb").write(b)
