"""Runs of fomoe-train that tools measure: on random tokens, in a directory that goes away."""

import json
import os
import pathlib
import random
import re
import struct
import subprocess
import sys


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


def settings_of(sets):
    return [word for setting in sets for word in ("--set", setting)]


def printed(words):
    """What a program prints; where it fails, what it says."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout


def sources(options):
    """The names that the config gives its sources of text: all of them become the random tokens."""
    text = printed([options.program, options.config, "--dump-config"])
    return re.findall(r"(\S+): [^,}]+", re.search(r"sources: {(.*)}", text).group(1))


def metrics(run):
    """The events of the first group of a run."""
    path = sorted(pathlib.Path(run, "metrics").glob("*.jsonl"))[0]
    return [json.loads(line) for line in path.read_text().splitlines()]


def train(options, place, name, sets, environment=None):
    """The metrics of a run on the random tokens in `place`, which starts its ranks itself."""
    words = [os.path.abspath(options.program), os.path.abspath(options.config), *settings_of([
        f"name={name}", *(f"data.sources.{key}={place}/random" for key in sources(options)),
        "train.optimizer.warmup=1", "train.log_every=1", f"train.steps={options.steps}",
        "data.valid_sequences=2", *sets, *options.set])]
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, check=False,
                          env={**os.environ, **(environment or {})})
    if done.returncode != 0:
        sys.exit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stderr}")
    return metrics(pathlib.Path(place, "runs", name))


def step_seconds(events):
    """Of every step but the first, which touches memory for the first time."""
    start = next(event for event in events if event["event"] == "start")
    return {event["step"]: start["tokens_per_step"] / event["tokens_per_second"]
            for event in events if event["event"] == "step" and event["step"] > 1}
