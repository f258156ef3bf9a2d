#!/usr/bin/env python3
"""Times one rank with all threads against as many ranks of one thread each, on this machine's cores.

The ranks once share the data alone (EP 1) and once the experts, too (EP = ranks). All train the same
config on the same random tokens, one after the other, several times over, so that the losses of the
first step must agree.

    tools/bench_ranks.py configs/bench/s.yaml [--set KEY=VALUE ...]
"""

import argparse
import os
import pathlib
import statistics
import sys
import tempfile

from bench_runs import step_seconds, train, write_tokens

LEAST = 0.9  # of the tokens a second of one rank
LOSS_TOLERANCE = {"f32": 1e-4, "bf16": 1e-2}  # relative
DTYPES = ("f32", "bf16")


def ways(cores):
    """name: (ranks, expert_parallel, threads of a rank)"""
    return {f"1 rank, {cores} threads": (1, 1, cores),
            f"{cores} ranks, EP 1": (cores, 1, 1),
            f"{cores} ranks, EP {cores}": (cores, cores, 1)}


def run(options, place, dtype, way):
    ranks, parallel, threads = way
    name = f"{dtype}-{ranks}-{parallel}"
    events = train(options, place, name, [
        f"topology.groups=[{{name: solo, ranks: {ranks}, expert_parallel: {parallel}}}]",
        f"train.dtype={dtype}", "checkpoint.every=0", "checkpoint.keep=1"],
        {"OMP_NUM_THREADS": str(threads), "OMPI_ALLOW_RUN_AS_ROOT": "1",
         "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"})
    os.rename(pathlib.Path(place, "runs"), tempfile.mkdtemp(dir=place) + "/done")
    steps = [event for event in events if event["event"] == "step"]
    tokens = next(event for event in events if event["event"] == "start")["tokens_per_step"]
    return {"loss": steps[0]["loss"], "mfu": statistics.median(e["mfu"] for e in steps[1:]),
            "rates": [tokens / seconds for seconds in step_seconds(events).values()]}


def measure(options, place, dtype):
    runs = {name: [] for name in ways(options.cores)}
    for turn in range(options.turns):
        for name, way in ways(options.cores).items():
            runs[name].append(run(options, place, dtype, way))
            print(f"{turn + 1}/{options.turns} {dtype}, {name}: "
                  f"{statistics.median(runs[name][-1]['rates']):.0f} tokens/s", file=sys.stderr)
    return runs


def report(dtype, runs):
    """Whether the losses agree and every way is fast enough."""
    first, *_ = runs
    rates = {name: statistics.median(rate for turn in turns for rate in turn["rates"])
             for name, turns in runs.items()}
    fine = True
    for name, turns in runs.items():
        ratio = rates[name] / rates[first]
        loss = turns[0]["loss"]
        agrees = abs(loss / runs[first][0]["loss"] - 1) <= LOSS_TOLERANCE[dtype]
        fine = fine and agrees and ratio >= LEAST
        mfu = statistics.median(turn["mfu"] for turn in turns)
        print(f"{dtype:6}{name:22}{loss:9.4f}{rates[name]:10.0f}{100 * mfu:6.0f} %{ratio:8.2f}"
              f"{'' if agrees else '  the loss is another'}")
    return fine


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="of one group")
    parser.add_argument("--set", action="append", default=[], help="as of fomoe-train")
    parser.add_argument("--program", default=str(pathlib.Path(__file__).resolve().parent.parent /
                                                 "build" / "fomoe-train"))
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--steps", type=int, default=8, help="of a run; the first is not timed")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--dtype", action="append", choices=DTYPES, help="default: both")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="fomoe.") as place:
        write_tokens(os.path.join(place, "random"))
        runs = {dtype: measure(options, place, dtype) for dtype in options.dtype or DTYPES}
    print(f"{options.config}: medians of {options.turns * (options.steps - 1)} steps; "
          f"at least {LEAST} of one rank is asked")
    print(f"{'':28}{'loss':>9}{'tokens/s':>10}{'MFU':>8}{'ratio':>8}")
    fine = [report(dtype, of_dtype) for dtype, of_dtype in runs.items()]
    return 0 if all(fine) else 1


if __name__ == "__main__":
    sys.exit(main())
