#!/usr/bin/env python3
"""Estimates how long a training step takes on GPUs, by the roofline of each op.

    build/tools/step_counts configs/moe_1b.yaml > counts.json
    tools/estimate.py counts.json

An op takes the longer of its arithmetic at the device's rate and its traffic at the memory's, and a
launch; a step is the sum of its ops and collectives. Nothing is measured: caches, tails, buffers
inside ops, kernels that are slower than the device and a host that is too slow are all left out.
--self-test holds the formulas against numbers computed by hand.
"""
import argparse
import json
import pathlib
import sys

import timeline_model

# Rates a second: dense tensor-core FLOPs in bf16, FLOPs of f32 outside of tensor cores, bytes of
# memory, bytes to other GPUs of the node in one direction. From NVIDIA's data sheets: A100 80GB SXM,
# H100 SXM, H200 SXM, B200 (dense is half of what they print with sparsity). `mma`: the part of the
# tensor rate that mma.sync reaches, which the plugin's own kernels use. On A100 it is the only way
# and reaches all; on Hopper about 62 % of wgmma is what published microbenchmarks find; for B200, as
# much per SM and clock as on H100 is assumed.
DEVICES = {
    "A100": {"tensor": 312e12, "mma": 1.0, "f32": 19.5e12, "memory": 2.04e12, "link": 300e9},
    "H100": {"tensor": 989e12, "mma": 0.62, "f32": 67e12, "memory": 3.35e12, "link": 450e9},
    "H200": {"tensor": 989e12, "mma": 0.62, "f32": 67e12, "memory": 4.8e12, "link": 450e9},
    "B200": {"tensor": 2250e12, "mma": 0.3, "f32": 75e12, "memory": 8.0e12, "link": 900e9},
}
LAUNCH = 2.5e-6  # seconds; 2 to 3 us are usual
HOST_LINK = 25e9  # bytes a second to and from the host; about what PCIe 4.0 x16 carries
MMA_OPS = {"attention", "attention_backward", "experts_forward", "experts_backward"}
HOST_OPS = {"copy_to_host", "copy_from_host"}


def rate(row, device):
    """FLOPs a second and what they are called."""
    if row["dtype"] == "f32":
        return device["f32"], "f32"
    if row["op"] in MMA_OPS:
        return device["tensor"] * device["mma"], "mma.sync"
    return device["tensor"], "tensor cores"


def time_of(row, device, launches):
    """Seconds of one call, and what bounds it."""
    flops, name = rate(row, device)
    arithmetic = row["flops"] / flops
    traffic = row["bytes"] / (HOST_LINK if row["op"] in HOST_OPS else device["memory"])
    overhead = launches * LAUNCH
    bound = max((arithmetic, name), (traffic, "memory"), (overhead, "launches"))[1]
    return max(arithmetic, traffic) + overhead, bound


class Op:
    """The sum over the calls of an op."""
    def __init__(self, name):
        self.name, self.calls, self.flops, self.bytes = name, 0, 0.0, 0.0
        self.seconds, self.bounds = {}, {}  # by device; bounds: seconds by what bounds


def estimate(counts, devices, launches):
    """Ops, the longest on the first device first. `launches`: a call, by op; 1 where not known."""
    ops = {}
    for row in counts["rows"]:
        op = ops.setdefault(row["op"], Op(row["op"]))
        op.calls += row["calls"]
        op.flops += row["calls"] * row["flops"]
        op.bytes += row["calls"] * row["bytes"]
        for name, device in devices.items():
            one, bound = time_of(row, device, launches.get(row["op"], 1))
            op.seconds[name] = op.seconds.get(name, 0) + row["calls"] * one
            bounds = op.bounds.setdefault(name, {})
            bounds[bound] = bounds.get(bound, 0) + row["calls"] * one
    for sent in counts["sent"]:
        op = ops[sent["call"]] = Op(sent["call"])
        op.calls, op.bytes = sent["calls"], sent["bytes"]
        for name, device in devices.items():
            traffic, overhead = sent["bytes"] / device["link"], sent["calls"] * LAUNCH
            op.seconds[name] = traffic + overhead
            op.bounds[name] = {"link" if traffic > overhead else "launches": op.seconds[name]}
    order = next(iter(devices))
    return sorted(ops.values(), key=lambda op: -op.seconds[order])


def peak_of(counts, device):
    return device["f32"] if counts["dtype"] == "f32" else device["tensor"]


def step(counts, ops, name, device):
    """Seconds of a step, tokens a second of the group, and MFU against the dense peak."""
    seconds = sum(op.seconds[name] for op in ops)
    mfu = counts["flops_per_token"] * counts["tokens"] / seconds / peak_of(counts, device)
    return seconds, counts["tokens"] * counts["ranks"] / seconds, mfu


def launches_of(calls, counts):
    """By op, from the last step of a timeline, which must have the calls that were counted."""
    steps = timeline_model.steps_of(calls)
    if not steps:
        raise SystemExit("the timeline has no training step")
    found = timeline_model.launches_by_op(calls[steps[-1].begin:steps[-1].end])
    counted = {}
    for row in counts["rows"]:
        counted[row["op"]] = counted.get(row["op"], 0) + row["calls"]
    for op, (n, _) in found.items():
        if op != "adamw" and n > counted.get(op, 0):  # its runs depend on how sizes are padded
            raise SystemExit(f"the timeline is of another config: {op} is called {n} times a step "
                             f"there, {counted.get(op, 0)} times in the counts")
    return {op: launches for op, (_, launches) in found.items()}


def lines(counts, devices, launches, known):
    """The report; each line says that it is an estimate."""
    ops = estimate(counts, devices, launches)
    model = counts["flops_per_token"] * counts["tokens"]
    out = [f"{counts['name']}, {counts['dtype']}, {counts['tokens']} tokens a step and rank, "
           f"{counts['ranks']} ranks, expert parallelism {counts['expert_parallel']}, even routing; "
           "nothing here is measured",
           f"the ops have {100 * sum(op.flops for op in ops) / model:.1f} % of the FLOPs that the "
           "model's sizes say",
           "assumed: time = max(FLOPs / rate, bytes / memory) + launches, summed over the ops; "
           f"{1e6 * LAUNCH:g} us a launch, {known}; collectives beside nothing; host "
           f"{HOST_LINK / 1e9:g} GB/s"]
    for name, d in devices.items():
        out.append(f"assumed of {name}: cuBLAS {d['tensor'] / 1e12:g} TFLOP/s, mma.sync "
                   f"{100 * d['mma']:g} % of it ({', '.join(sorted(MMA_OPS))}), f32 "
                   f"{d['f32'] / 1e12:g} TFLOP/s, memory {d['memory'] / 1e12:g} TB/s, NVLink "
                   f"{d['link'] / 1e9:g} GB/s")
    out.append(f"{'op':<21} {'calls':>6} {'GFLOP':>10} {'MB':>9}" +
               "".join(f" {name + ' ms':>9} {'bound by':<12}" for name in devices))
    for op in ops:
        text = f"{op.name:<21} {op.calls:>6} {op.flops / 1e9:>10.1f} {op.bytes / 1e6:>9.1f}"
        for name in devices:
            bound = max(op.bounds[name], key=op.bounds[name].get)
            text += f" {1e3 * op.seconds[name]:>9.3f} {bound:<12}"
        out.append(text)
    for name, device in devices.items():
        seconds, tokens, mfu = step(counts, ops, name, device)
        out.append(f"{name}: step {1e3 * seconds:.1f} ms, {tokens:.0f} tokens/s, MFU "
                   f"{100 * mfu:.1f} % of {peak_of(counts, device) / 1e12:g} TFLOP/s")
    return [f"estimate | {text.rstrip()}" for text in out]


def for_drawing(counts, name, device, launches):
    """What tools/timeline.py --times takes: seconds of a call, by op."""
    ops = estimate(counts, {name: device}, launches)
    return {"device": name, "launch": LAUNCH, "memory": device["memory"], "link": device["link"],
            "ops": {op.name: op.seconds[name] / op.calls for op in ops}}


def self_test():
    device = {"tensor": 100e12, "mma": 0.5, "f32": 10e12, "memory": 1e12, "link": 100e9}
    counts = {
        "name": "hand", "dtype": "bf16", "tokens": 1000, "ranks": 2, "expert_parallel": 2,
        "flops_per_token": 1e9,
        "rows": [
            # 1e9 / 100e12 = 10 us against 5e6 / 1e12 = 5 us.
            {"op": "linear", "dtype": "bf16", "calls": 2, "flops": 1e9, "bytes": 5e6},
            # The router's: 1e8 / 10e12 = 10 us against 2e7 / 1e12 = 20 us.
            {"op": "linear", "dtype": "f32", "calls": 1, "flops": 1e8, "bytes": 2e7},
            # 1e9 / 50e12 = 20 us; three launches.
            {"op": "experts_forward", "dtype": "bf16", "calls": 1, "flops": 1e9, "bytes": 5e6},
            {"op": "clip_scale", "dtype": "f32", "calls": 1, "flops": 0, "bytes": 100},
        ],
        "sent": [{"call": "all_to_all", "calls": 4, "bytes": 4e6}],  # 40 us and four launches
    }
    ops = {op.name: op for op in estimate(counts, {"X": device}, {"experts_forward": 3})}
    failed = 0

    def check(what, found, wanted):
        nonlocal failed
        same = abs(found - wanted) <= 1e-9 * abs(wanted) if isinstance(wanted, float) else \
            found == wanted
        if not same:
            print(f"{what}: found {found}, wanted {wanted}")
            failed = 1

    check("linear", ops["linear"].seconds["X"], 47.5e-6)
    check("what bounds linear", ops["linear"].bounds["X"],
          {"tensor cores": 2 * 12.5e-6, "memory": 22.5e-6})
    check("experts", ops["experts_forward"].seconds["X"], 27.5e-6)
    check("what bounds experts", list(ops["experts_forward"].bounds["X"]), ["mma.sync"])
    check("what bounds clip", list(ops["clip_scale"].bounds["X"]), ["launches"])
    check("all_to_all", ops["all_to_all"].seconds["X"], 50e-6)
    seconds, tokens, mfu = step(counts, ops.values(), "X", device)
    check("step", seconds, 47.5e-6 + 27.5e-6 + 2.5e-6 + 1e-10 + 50e-6)
    check("tokens", tokens, 2000 / seconds)
    check("MFU", mfu, 1e12 / seconds / 100e12)
    report = lines(counts, {"X": device}, {}, "one a call")
    check("each line says it", all("estimate" in text for text in report), True)
    check("lines", len(report), 3 + 1 + 1 + 4 + 1)
    check("for drawing", for_drawing(counts, "X", device, {})["ops"]["linear"], 47.5e-6 / 3)
    print("the estimate " + ("fails its self-test" if failed else "is what was computed by hand"))
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("counts", nargs="?", type=pathlib.Path, help="from build/tools/step_counts")
    parser.add_argument("--devices", default="A100,H100,B200", help=", ".join(DEVICES))
    parser.add_argument("--timeline", type=pathlib.Path,
                        help="a recorded timeline of the same layers and micro-batches, smaller in all "
                        "else: launches of each op")
    parser.add_argument("--json", type=pathlib.Path,
                        help="for tools/timeline.py --times; of the first device")
    parser.add_argument("--self-test", action="store_true")
    args = parser.parse_args()
    if args.self_test:
        return self_test()
    if not args.counts:
        parser.error("which counts? build/tools/step_counts CONFIG prints them")
    unknown = [name for name in args.devices.split(",") if name not in DEVICES]
    if unknown:
        parser.error(f"no device {unknown[0]}; there are {', '.join(DEVICES)}")
    devices = {name: DEVICES[name] for name in args.devices.split(",")}
    counts = json.loads(args.counts.read_text())
    launches, known = {}, "one a call"
    if args.timeline:
        launches = launches_of(timeline_model.parse(args.timeline.read_text()), counts)
        known = "as many a call as in the timeline, one where it has none"
    print("\n".join(lines(counts, devices, launches, known)))
    if args.json:
        first = next(iter(devices))
        args.json.write_text(json.dumps(for_drawing(counts, first, devices[first], launches)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
