#!/usr/bin/env python3
"""Registers, shared memory and theoretical occupancy of every kernel in libfomoe_cuda.so.

    kernel_table.py LIBRARY [--launches FILE...] [--check TABLE | --write TABLE]

Reads the machine code that the library holds for each architecture; no tool of the CUDA toolkit is
needed. The files have lines "mangled-name count threads dynamic-shared-bytes", as the tests of the
plugin write them: a kernel's largest launch counts. Without one its launch bounds do, and no dynamic
shared memory. --check compares with a table written earlier and
fails on a kernel that is new, gone or different.
"""
import argparse
import collections
import re
import struct
import subprocess
import sys

FATBIN = struct.pack("<I", 0xBA55ED50)
ELF_ENTRY = 2
MAX_THREADS, REGISTER_COUNT = 0x05, 0x2F  # attributes of .nv.info

# Of a multiprocessor: registers, threads, blocks, bytes of shared memory (CUDA C++ Programming
# Guide, technical specifications per compute capability).
Limits = collections.namedtuple("Limits", "registers threads blocks shared")
LIMITS = {
    80: Limits(65536, 2048, 32, 164 * 1024),
    90: Limits(65536, 2048, 32, 228 * 1024),
    100: Limits(65536, 2048, 32, 228 * 1024),
}
SYSTEM_SHARED = 1024  # bytes of each block that the system keeps

Kernel = collections.namedtuple("Kernel", "registers static_shared max_threads")


def machine_codes(library):
    """(architecture, ELF image) of every embedded machine code."""
    at = library.find(FATBIN)
    while at >= 0:
        header, size = struct.unpack_from("<HQ", library, at + 6)
        entry, end = at + header, at + header + size
        while entry < end:
            kind, _, header, payload = struct.unpack_from("<HHIQ", library, entry)
            (architecture,) = struct.unpack_from("<I", library, entry + 28)
            body = entry + header
            if kind == ELF_ENTRY:
                yield architecture, library[body:body + payload]
            entry = body + payload
        at = library.find(FATBIN, end)


def sections(elf):
    """Name -> (header fields, content offset) in order."""
    (table,) = struct.unpack_from("<Q", elf, 40)
    entry_size, count, names_index = struct.unpack_from("<HHH", elf, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", elf, table + i * entry_size) for i in range(count)]
    names = headers[names_index][4]
    return [(text(elf, names + h[0]), h) for h in headers]


def text(data, at):
    return data[at:data.index(b"\0", at)].decode()


def attributes(data):
    """(attribute, payload) of a .nv.info section."""
    at = 0
    while at < len(data):
        form, attribute, value = struct.unpack_from("<BBH", data, at)
        at += 4
        if form == 4:  # the value is the payload's size
            yield attribute, data[at:at + value]
            at += value


def kernels_of(elf):
    found = sections(elf)
    by_name = dict(found)
    content = lambda h: elf[h[4]:h[4] + h[5]]
    strings = by_name[".strtab"][4]
    symbols = by_name[".symtab"]
    symbol = lambda i: text(elf, strings + struct.unpack_from("<I", elf, symbols[4] + 24 * i)[0])

    registers = {}
    for attribute, payload in attributes(content(by_name[".nv.info"])):
        if attribute == REGISTER_COUNT:
            index, count = struct.unpack("<II", payload)
            registers[symbol(index)] = count
    kernels = {}
    for name, header in found:
        if not name.startswith(".nv.info."):
            continue
        mangled = name[len(".nv.info."):]
        threads = 1024
        for attribute, payload in attributes(content(header)):
            if attribute == MAX_THREADS:
                x, y, z = struct.unpack("<III", payload)
                threads = x * y * z
        shared = by_name.get(".nv.shared." + mangled)
        kernels[mangled] = Kernel(registers[mangled], shared[5] if shared else 0, threads)
    return kernels


def readable(names):
    """Mangled -> demangled without return type, parameters and this project's namespaces."""
    out = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True,
                         check=True).stdout.splitlines()
    short = {}
    for mangled, name in zip(names, out):
        name = re.sub(r"\(anonymous namespace\)::|fomoe::|_GLOBAL__N_\w+::", "", name)
        depth = 0
        for i, c in enumerate(name):
            depth += (c in "<(") - (c in ">)") if name[i - 1:i + 1] != "->" else 0
            if c == "(" and depth == 1 and not name[:i].endswith("<"):
                name = name[:i]
                break
        short[mangled] = re.sub(r"^void ", "", name).replace("__nv_bfloat16", "bf16")
    return short


def occupancy(limits, kernel, threads, dynamic):
    """Warps in flight on a multiprocessor, as a share of the most it can hold."""
    up = lambda x, unit: (x + unit - 1) // unit * unit
    warps = (threads + 31) // 32
    by_registers = limits.registers // (up(kernel.registers * 32, 256) * warps)
    shared = up(kernel.static_shared + dynamic + SYSTEM_SHARED, 128)
    blocks = min(by_registers, limits.shared // shared, limits.threads // (32 * warps),
                 limits.blocks)
    return blocks * warps * 32 / limits.threads


def table(library, launches):
    rows = []
    for architecture, elf in machine_codes(library):
        kernels = kernels_of(elf)
        names = readable(list(kernels))
        for mangled, kernel in kernels.items():
            threads, dynamic = launches.get(names[mangled], (kernel.max_threads, 0))
            share = occupancy(LIMITS[architecture], kernel, threads, dynamic)
            rows.append(f"{names[mangled]:<64} {architecture:>4} {kernel.registers:>9} "
                        f"{threads:>7} {kernel.static_shared:>7} {dynamic:>8} {share:>9.0%}")
    head = (f"{'kernel':<64} {'sm':>4} {'registers':>9} {'threads':>7} {'static':>7} {'dynamic':>8} "
            f"{'occupancy':>9}")
    return [head] + sorted(set(rows))


def read_launches(paths):
    """Readable name -> (threads, dynamic shared bytes) of the launch with the most of the latter."""
    launches = [line.split() for path in paths for line in open(path)]
    names = readable([words[0] for words in launches])
    largest = {}
    for mangled, _, threads, dynamic in launches:
        shape = (int(threads), int(dynamic))
        name = names[mangled]
        largest[name] = max(largest.get(name, shape), shape, key=lambda s: (s[1], s[0]))
    return largest


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library")
    parser.add_argument("--launches", nargs="*", default=[])
    parser.add_argument("--check")
    parser.add_argument("--write")
    options = parser.parse_args()
    rows = table(open(options.library, "rb").read(), read_launches(options.launches))
    if options.write:
        open(options.write, "w").write("\n".join(rows) + "\n")
    elif options.check:
        expected = open(options.check).read().splitlines()
        differences = [f"- {row}" for row in expected if row not in set(rows)]
        differences += [f"+ {row}" for row in rows if row not in set(expected)]
        if differences:
            print("\n".join([f"{options.check} is not what the library holds (- table, + library):"]
                            + differences + ["If that is meant, write it again with --write."]))
            return 1
        print(f"{len(rows) - 1} kernels as in {options.check}")
    else:
        print("\n".join(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
