#!/usr/bin/env python3
"""What checkpoints cost: bytes, how long training stands, and what the steps behind one lose.

Trains a config three times for a few steps, on random tokens and in a directory that goes away:
without checkpoints in between, with them, and with them behind training. Beside them stand dd,
which writes as many bytes into the same directory, and one copy of as many bytes in memory.

    tools/bench_checkpoint.py build/fomoe-train configs/moe_190m.yaml [--set KEY=VALUE ...]
"""

import argparse
import ctypes
import os
import statistics
import subprocess
import tempfile
import time

from bench_runs import step_seconds, train, write_tokens

MIB = 1 << 20


def checkpoints(events):
    """Without the one at the end, which always waits."""
    return [event for event in events if event["event"] == "checkpoint"][:-1]


def starts(options):
    """The steps behind which a checkpoint begins."""
    return range(options.every, options.steps, options.every)


def dd_seconds(place, count):
    path = os.path.join(place, "dd")
    words = ["dd", "if=/dev/zero", f"of={path}", f"bs={8 * MIB}", f"count={count}",
             "iflag=count_bytes", "conv=fsync", "status=none"]
    begin = time.monotonic()
    subprocess.run(words, check=True)
    seconds = time.monotonic() - begin
    os.remove(path)
    return seconds


def copy_seconds(count):
    """One copy of so many bytes, in pieces that no cache holds; memory that has been touched."""
    piece = min(count, 512 * MIB)
    source, target = ctypes.create_string_buffer(piece), ctypes.create_string_buffer(piece)
    ctypes.memset(source, 1, piece)
    ctypes.memset(target, 2, piece)
    begin = time.monotonic()
    for at in range(0, count, piece):
        ctypes.memmove(target, source, min(piece, count - at))
    return time.monotonic() - begin


def several(seconds):
    return ", ".join(f"{s:.2f}" for s in seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("config")
    parser.add_argument("--set", action="append", default=[], help="as of fomoe-train")
    parser.add_argument("--steps", type=int, default=13)
    parser.add_argument("--every", type=int, default=4, help="steps between checkpoints")
    parser.add_argument("--below", default=".", help="where the directory is made")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(dir=options.below, prefix="bench_checkpoint.") as place:
        place = os.path.abspath(place)
        write_tokens(os.path.join(place, "random"))
        none = train(options, place, "none", ["checkpoint.every=0"])
        every = [f"checkpoint.every={options.every}", "checkpoint.keep=1"]
        waiting = train(options, place, "waiting", [*every, "checkpoint.async=false"])
        size = checkpoints(waiting)[0]["bytes"]
        dd = [dd_seconds(place, size) for _ in range(3)]
        behind = train(options, place, "behind", [*every, "checkpoint.async=true"])
    copies = [copy_seconds(size) for _ in range(3)]

    parameters = next(event for event in none if event["event"] == "start")["parameters"]["total"]
    print(f"{parameters / 1e6:.1f}M parameters, {size / MIB:.0f} MiB a checkpoint: "
          f"{size / parameters:.2f} bytes written for each")
    print(f"dd of as many bytes, conv=fsync: {several(dd)} s")
    stall = [event["stall_seconds"] for event in checkpoints(waiting)]
    print(f"training waits for a checkpoint: {several(stall)} s; median over dd's "
          f"{statistics.median(stall) / statistics.median(dd):.2f}")
    print(f"one copy of as many bytes in memory: {several(copies)} s")
    events = checkpoints(behind)
    stall = [event["stall_seconds"] for event in events]
    print(f"written behind training it waits: {several(stall)} s, the first time for new memory, "
          f"too; median of the others over the copy's "
          f"{statistics.median(stall[1:]) / statistics.median(copies):.2f}")
    print(f"  complete after {several(event['seconds'] for event in events)} s")
    plain = statistics.median(step_seconds(none).values())
    beside = [seconds for step, seconds in step_seconds(behind).items()
              if any(at < step <= event["step"] for at, event in zip(starts(options), events))]
    print(f"a step: {plain:.2f} s without checkpoints, {several(beside)} s while one is written; "
          f"median {100 * (statistics.median(beside) / plain - 1):+.1f} %")


if __name__ == "__main__":
    main()
