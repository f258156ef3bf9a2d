#!/usr/bin/env python3
"""What the kernels of libfomoe_cuda.so move for each op, and whether that is more than it should be.

    kernel_metrics.py METRICS... [--check TABLE | --write TABLE]

The files are those that the hidden test "metrics of every op" writes. A bound that is broken is an
error, with the source line, whatever the table says; --check also fails on any difference from a table
that was written earlier.
"""
import argparse
import collections
import json
import re
import sys

from kernel_formulas import EXCEPTIONS, FORMULAS, STREAMING, Tile
from kernel_table import readable

STREAM_BOUND, TILE_BOUND, SECTOR_BOUND = 1.2, 1.1, 1.1
BULK = 0.05   # share of a kernel's sectors, or bank passes, from which on a line is looked at
LOOP = 8      # a line that warps execute more often than this is of a main loop
SMALL = 0.05  # share of an op's bytes below which a kernel needs no formula

LEGEND = f"""\
What the kernels of each op move, counted on the interpreter (tests/cudaemu/README.md says how).
must: every operand of the op once, += once each way, of tables only the rows asked for.
moved: sectors that get past a first-level cache of 16 KiB a block. memory: distinct sectors of each
launch. Both over all kernels, copies and fills of the op, and without cuBLASLt.
A streaming op moves at most {STREAM_BOUND} x must. A kernel with tiles moves at most {TILE_BOUND} x the formula of its
tiles. A line with {BULK:.0%} of its kernel's sectors touches at most {SECTOR_BOUND} x the sectors that its bytes fill.
A line that warps execute more than {LOOP} times, with {BULK:.0%} of its kernel's passes over the banks of
shared memory, has no conflict. sectors, banks: the worst such line of the kernel, as a ratio.
(e): an exception, listed at the end with its own bound.
"""

Launches = collections.namedtuple("Launches", "header kernels transfers")


class Kernel:
    """All launches of a kernel in one case."""

    def __init__(self, name):
        self.name, self.launches, self.moved, self.memory = name, 0, 0, 0
        self.warps, self.passes, self.sectors, self.lines = 0, 0, 0, []

    def add(self, launch):
        self.launches += 1
        self.moved += sum(launch["second_level"].values())
        self.memory += sum(launch["device_memory"].values())
        self.warps += launch["warps"]
        self.passes += launch["shared_passes"]
        self.sectors += launch["requested_sectors"]
        self.lines += launch["lines"]

    def bulk_lines(self):
        for line in self.lines:
            counts = line.get("global")
            if counts and counts["sectors"] >= BULK * self.sectors:
                yield line, counts["sectors"] / counts["ideal"]

    def loop_lines(self):
        for line in self.lines:
            counts = line.get("shared")
            if (counts and counts["passes"] >= BULK * self.passes
                    and line["executed"] > LOOP * self.warps / self.launches):
                yield line, counts["passes"] / counts["ideal"]


def read(paths):
    cases = []
    for path in paths:
        for row in map(json.loads, open(path)):
            if "op" in row:
                cases.append(Launches(row, {}, []))
            elif "transfer" in row:
                cases[-1].transfers.append(row)
            else:
                kernels = cases[-1].kernels
                kernels.setdefault(row["kernel"], Kernel(row["kernel"])).add(row)
    names = readable(sorted({name for case in cases for name in case.kernels}))
    for case in cases:
        for kernel in case.kernels.values():
            kernel.name = names[kernel.name]
    return cases


class Judge:
    """Holds ratios against bounds; an exception has a bound of its own."""

    def __init__(self):
        self.errors, self.used = [], set()

    def check(self, kind, ratio, bound, op, kernel, where, message):
        """The ratio as it stands in the table."""
        for i, exception in enumerate(EXCEPTIONS):
            if exception.fits(kind, op, kernel, where) and ratio > bound:
                self.used.add(i)
                if ratio > exception.bound:
                    self.errors.append(f"{message}: {ratio:.2f} x, the exception allows "
                                       f"{exception.bound}")
                return f"{ratio:.2f}(e)"
        if ratio > bound:
            self.errors.append(f"{message}: {ratio:.2f} x, at most {bound} x")
        return f"{ratio:.2f}"

    def unused(self):
        return [e for i, e in enumerate(EXCEPTIONS) if i not in self.used]


def place(line):
    return " in ".join(line["at"]) + " " + line["kind"]


def worst(judge, kind, lines, bound, op, kernel):
    """The worst line's ratio."""
    shown = [(ratio, judge.check(kind, ratio, bound, op, kernel.name, place(line),
                                 f"{op}, {kernel.name}, {place(line)}: {kind}"))
             for line, ratio in lines]
    return max(shown)[1] if shown else "-"


def formula_of(header, kernel):
    """(text, bytes), or None."""
    name = re.match(r"\w+", kernel.name)[0]
    formula = FORMULAS.get((header["op"], name)) or FORMULAS.get(name)
    if not formula:
        return None
    arguments = re.match(r"\w+(?:<(.*)>)?$", kernel.name)[1] or ""
    return formula(Tile(header, [a.strip() for a in arguments.split(",")]))


def table(cases, judge):
    rows = [f"{'op and case, or kernel':<64}{'bytes due':>12}{'moved':>12}{'ratio':>9}"
            f"{'memory':>12}{'sectors':>9}{'banks':>9}"]
    for case in cases:
        header, op = case.header, case.header["op"]
        title = f"{op} {header['case']} {header['dtype']}".removesuffix(" -")
        kernels = list(case.kernels.values())
        transfers = sum(t["read"] + t["written"] for t in case.transfers)
        moved = transfers + sum(k.moved for k in kernels)
        memory = transfers + sum(k.memory for k in kernels)
        ratio = moved / header["must"]
        if op in STREAMING:
            shown = judge.check("moved", ratio, STREAM_BOUND, op, "", header["case"], title)
        else:
            shown = f"{ratio:.2f}"
        rows.append(f"{title:<64}{header['must']:>12}{moved:>12}{shown:>9}{memory:>12}")
        for kernel in kernels:
            formula = formula_of(header, kernel)
            due, share = "-", "-"
            if formula:
                due = formula[1]
                share = judge.check("tiles", kernel.moved / due, TILE_BOUND, op, kernel.name, "",
                                    f"{title}, {kernel.name}")
            elif op not in STREAMING and kernel.moved > SMALL * moved:
                judge.errors.append(f"{title}, {kernel.name}: {kernel.moved / moved:.0%} of the "
                                    "bytes and no formula in tools/kernel_formulas.py")
            sectors = worst(judge, "sectors", kernel.bulk_lines(), SECTOR_BOUND, op, kernel)
            banks = worst(judge, "banks", kernel.loop_lines(), 1, op, kernel)
            rows.append(f"    {kernel.name:<60}{due:>12}{kernel.moved:>12}{share:>9}"
                        f"{kernel.memory:>12}{sectors:>9}{banks:>9}")
        if transfers:
            rows.append(f"    {'copies and fills':<60}{'-':>12}{transfers:>12}{'-':>9}"
                        f"{transfers:>12}{'-':>9}{'-':>9}")
    return rows


def formulas(cases):
    texts = {}
    for case in cases:
        for kernel in case.kernels.values():
            formula = formula_of(case.header, kernel)
            if formula:
                texts[re.match(r"\w+", kernel.name)[0] + ", " + case.header["op"]] = formula[0]
    return [f"{name}: {text}" for name, text in sorted(texts.items())]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("metrics", nargs="+")
    parser.add_argument("--check")
    parser.add_argument("--write")
    options = parser.parse_args()
    cases, judge = read(sorted(options.metrics)), Judge()
    rows = LEGEND.splitlines() + [""] + table(cases, judge)
    rows += ["", "Bytes due of tiles, size: of an element:"] + formulas(cases)
    rows += ["", "Exceptions:"] + [str(e) for e in EXCEPTIONS]
    problems = [f"error: {e}" for e in dict.fromkeys(judge.errors)]
    problems += [f"error: an exception that is not needed: {e}" for e in judge.unused()]
    if options.write:
        open(options.write, "w").write("\n".join(rows) + "\n")
    elif options.check:
        expected = open(options.check).read().splitlines()
        differences = [f"- {row}" for row in expected if row not in set(rows)]
        differences += [f"+ {row}" for row in rows if row not in set(expected)]
        if differences:
            problems += [f"{options.check} is not what was counted (- table, + counted):"]
            problems += differences + ["If that is meant, write it again with --write."]
    else:
        print("\n".join(rows))
    if problems:
        print("\n".join(problems))
        return 1
    print(f"{len(cases)} cases within their bounds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
