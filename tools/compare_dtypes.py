#!/usr/bin/env python3
"""Whether training in bf16 is as good as in f32: the held-out losses of both, over several seeds.

Trains a config as NAME-DTYPE-SEED for every dtype and seed; what is finished already stays as it is,
and what was stopped goes on. The losses are those that fomoe-eval finds for the last checkpoints, in
f32. Exit code 0 when the means differ by no more than the spread of the seeds in f32.

    tools/compare_dtypes.py configs/bench/quality.yaml [--set KEY=VALUE ...]
"""

import argparse
import json
import pathlib
import re
import statistics
import subprocess
import sys

from bench_runs import printed, settings_of

BUILD = pathlib.Path(__file__).resolve().parent.parent / "build"
DTYPES = ("f32", "bf16")


def finished(run, steps):
    return (run / "checkpoints" / f"step-{steps:08}").is_dir()


def loss_of(options, name, dtype, seed):
    run = pathlib.Path("runs") / f"{name}-{dtype}-{seed}"
    sets = settings_of([*options.set, f"name={run.name}", f"train.dtype={dtype}", f"seed={seed}"])
    words = [options.train, options.config, *sets]
    steps = int(re.search(r"^  steps: (\d+)", printed([*words, "--dump-config"]), re.M).group(1))
    if not finished(run, steps):
        subprocess.run(words, check=True)
    scores = json.loads(printed([options.eval, str(run), "--mode", "union", "--json"]))
    if scores["step"] != steps:
        sys.exit(f"{run} has come to step {scores['step']} of {steps}")
    return scores["union"]["pooled"]["loss"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("--set", action="append", default=[], help="as of fomoe-train")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--name", help="of the runs; default: that of the config")
    parser.add_argument("--train", default=str(BUILD / "fomoe-train"))
    parser.add_argument("--eval", default=str(BUILD / "fomoe-eval"))
    options = parser.parse_args()
    if len(options.seeds) < 2:
        parser.error("the spread takes two seeds at least")
    dump = printed([options.train, options.config, *settings_of(options.set), "--dump-config"])
    name = options.name or re.search(r"^name: (\S+)", dump, re.M).group(1)

    losses = {dtype: [] for dtype in DTYPES}
    for seed in options.seeds:
        for dtype in DTYPES:
            losses[dtype].append(loss_of(options, name, dtype, seed))
            print(f"{name}-{dtype}-{seed}: held-out loss {losses[dtype][-1]:.4f}", flush=True)
    mean = {dtype: statistics.mean(of_dtype) for dtype, of_dtype in losses.items()}
    for dtype, of_dtype in losses.items():
        print(f"{dtype}: mean {mean[dtype]:.4f}, spread {max(of_dtype) - min(of_dtype):.4f}, "
              f"standard deviation {statistics.stdev(of_dtype):.4f}")
    difference = mean["bf16"] - mean["f32"]
    spread = max(losses["f32"]) - min(losses["f32"])
    within = abs(difference) <= spread
    print(f"bf16 - f32: {difference:+.4f}, {'within' if within else 'beyond'} the spread of the "
          f"seeds in f32")
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
