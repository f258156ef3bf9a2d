#!/usr/bin/env python3
"""What checkpoints cost: bytes, how long training stands, and what the steps behind one lose.

Trains a config three times for a few steps, on random tokens and in a directory that goes away:
without checkpoints in between, with them, and with them behind training. Beside them stand dd,
which writes as many bytes into the same directory, and one copy of as many bytes in memory.

    tools/bench_checkpoint.py build/fomoe-train configs/moe_190m.yaml [--set KEY=VALUE ...]
"""

import argparse
import ctypes
import json
import os
import pathlib
import random
import re
import statistics
import struct
import subprocess
import sys
import tempfile
import time

MIB = 1 << 20


def write_tokens(prefix, documents=64, length=4096):
    """A Megatron token file of random bytes as tokens: u16, documents of one sequence each."""
    draw = random.Random(1)
    for part in ("train", "valid"):
        tokens = [draw.randrange(256) for _ in range(documents * length)]
        pathlib.Path(f"{prefix}.{part}.bin").write_bytes(struct.pack(f"<{len(tokens)}H", *tokens))
        index = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, documents, documents + 1)
        index += struct.pack(f"<{documents}i", *[length] * documents)
        index += struct.pack(f"<{documents}q", *[2 * length * i for i in range(documents)])
        index += struct.pack(f"<{documents + 1}q", *range(documents + 1))
        pathlib.Path(f"{prefix}.{part}.idx").write_bytes(index)


def sources(options):
    """The names that the config gives its sources of text: all of them become the random tokens."""
    words = [options.program, options.config, "--dump-config"]
    text = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return re.findall(r"(\S+): [^,}]+", re.search(r"sources: {(.*)}", text).group(1))


def train(options, place, name, sets):
    """The metrics of the first group."""
    words = [os.path.abspath(options.program), os.path.abspath(options.config)]
    fixed = [f"name={name}", *(f"data.sources.{key}={place}/random" for key in sources(options)),
             "train.optimizer.warmup=1", "train.log_every=1", f"train.steps={options.steps}",
             "data.valid_sequences=2", *sets, *options.set]
    for setting in fixed:
        words += ["--set", setting]
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr}")
    path = sorted(pathlib.Path(place, "runs", name, "metrics").glob("*.jsonl"))[0]
    return [json.loads(line) for line in path.read_text().splitlines()]


def step_seconds(events):
    """Of every step but the first, which touches memory for the first time."""
    start = next(event for event in events if event["event"] == "start")
    return {event["step"]: start["tokens_per_step"] / event["tokens_per_second"]
            for event in events if event["event"] == "step" and event["step"] > 1}


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
