#!/usr/bin/env python3
"""Tells and draws what a training step asks of a GPU, from timelines of the replacement runtime.

Record one as tests/cudaemu/README.md says (CUDAEMU_TIMELINE). Prints for each step how much is
launched and copied, where the host waits, what the queues do and which work may run while a transfer
does: what no stream, event or wait of the host orders before or after it. --svg draws it.
--self-test reads a small timeline that was written by hand and fails unless all is found.
"""
import argparse
import json
import pathlib
import sys
import textwrap

import timeline_model as model
import timeline_svg


def runs(titles):
    """a a b -> [(a, 2), (b, 1)]"""
    found = []
    for title in titles:
        if found and found[-1][0] == title:
            found[-1][1] += 1
        else:
            found.append([title, 1])
    return found


def count(what, n, plural=None):
    return f"{n} {what if n == 1 else plural or what + 's'}"


def size(n):
    for unit in ("B", "KB", "MB", "GB"):
        if n < 10000 or unit == "GB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000


def wrapped(label, words):
    return textwrap.fill(" ".join(words), 100, initial_indent=f"  {label}: ",
                         subsequent_indent="    ", break_on_hyphens=False)


def times(title, n):
    return title.replace(" ", "_") + (f" x{n}" if n > 1 else "")


def neighbours(calls, i):
    """The titles of the work before and after the i-th call."""
    before = next((c.title for c in reversed(calls[:i]) if c.works), "nothing")
    after = next((c.title for c in calls[i + 1:] if c.works), "nothing more of the step")
    return before, after


def waits(calls):
    """Host waits as (between the first and the last launch?, text)."""
    launches = [i for i, c in enumerate(calls) if c.computes]
    found = []
    for i, c in enumerate(calls):
        if c.do != "host wait":
            continue
        inside = bool(launches) and launches[0] < i < launches[-1]
        before, after = neighbours(calls, i)
        found.append((inside, f"{c.name} after {before}, before {after}"))
    return found


def dependencies(calls, names):
    found = []
    for i, c in enumerate(calls):
        if c.do != "stream wait" or c.source[0] == c.stream:
            continue
        source = [x for x in calls if x.works and x.stream == c.source[0]
                  and x.number <= c.source[1]]
        target = next((x for x in calls[i:] if x.works and x.stream == c.stream), None)
        found.append(f"{names[c.stream]} waits before {target.title if target else 'nothing'} for "
                     f"{source[-1].title if source else 'what came before the step'} on "
                     f"{names[c.source[0]]}")
    return found


def transfers(calls, names):
    """Lines about each kind of transfer, and how many of how many have work beside them."""
    kinds = {}
    for i, c in enumerate(calls):
        if not c.transfers:
            continue
        beside = model.covers(c, calls)
        parts = tuple((title, n) for title, n in runs(x.title for x in beside))
        kinds.setdefault((c.name, names[c.stream], parts), []).append((c.bytes, i))
    lines, covered, total = [], 0, 0
    for (name, queue, parts), each in kinds.items():
        total += len(each)
        covered += len(each) if parts else 0
        beside = "may run beside " + ", ".join(times(*part) for part in parts) if parts else \
            "nothing may run beside it"
        before, after = neighbours(calls, each[0][1])
        first = "the first " if len(each) > 1 else ""
        lines.append(f"{name} x{len(each)}, {size(sum(n for n, _ in each))}, on {queue}, {first}"
                     f"after {before}, before {after}: {beside}")
    return lines, covered, total


def describe(step, calls, names):
    part = calls[step.begin:step.end]
    of = lambda *kinds: [c for c in part if c.do in kinds]
    copies = of("copy")
    ways = ", ".join(f"{n} {way} ({size(sum(c.bytes for c in copies if c.name == way))})"
                     for way, n in sorted(
                         {c.name: sum(x.name == c.name for x in copies) for c in copies}.items()))
    lines = [f"step {step.number}: {count('launch', len(of('launch')), 'launches')}, "
             f"{count('call', len(of('compute')))} of libraries, {count('fill', len(of('fill')))}, "
             f"{count('collective', len(of('transfer')))}, "
             f"{count('allocation', len(of('allocate')))}",
             f"  {count('copy', len(copies), 'copies')}: {ways or 'none'}"]
    lines.append("  phases: " + ", ".join(
        f"{phase} {sum(c.works for c in calls)}" for phase, calls in model.phases(part)) +
        " operations")
    all_waits = waits(part)
    inside = sum(x for x, _ in all_waits)
    lines.append(f"  host waits: {inside} between its first and last launch, "
                 f"{len(all_waits) - inside} outside of them")
    lines += [f"    {times(text, n).replace('_', ' ') if n == 1 else f'{text} x{n}'}"
              for text, n in runs(text for _, text in all_waits)]
    between = dependencies(part, names)
    lines.append(f"  dependencies between queues: {len(between)}")
    lines += [f"    {text}" + (f" x{n}" if n > 1 else "") for text, n in runs(between)]
    for stream in sorted({c.stream for c in part if c.works}):
        ops = []
        for c in part:
            if c.works and c.stream == stream and (not c.op or not ops or ops[-1][1] != c.call):
                ops.append((c.title, c.call))
        lines.append(wrapped(names[stream], [times(*run) for run in runs(t for t, _ in ops)]))
    about, covered, total = transfers(part, names)
    lines.append(f"  transfers with work beside them: {covered} of {total}")
    lines += [f"    {line}" for line in about]
    return "\n".join(lines)


class Names(dict):
    """By number of the stream."""
    def __missing__(self, stream):
        return f"stream {stream}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*", type=pathlib.Path, help="one a rank")
    parser.add_argument("--step", type=int, help="only this one, from 1")
    parser.add_argument("--names", default="", help="of streams: 1=compute,2=comm")
    parser.add_argument("--svg", type=pathlib.Path, help="draw the step (default: the last)")
    parser.add_argument("--times", type=pathlib.Path,
                        help="widths of the drawing: what tools/estimate.py --json wrote")
    parser.add_argument("--self-test", action="store_true")
    args = parser.parse_args()
    if args.self_test:
        import timeline_self_test
        return timeline_self_test.run()
    if not args.files:
        parser.error("which files?")
    names = Names()
    for pair in filter(None, args.names.split(",")):
        stream, name = pair.split("=")
        names[int(stream)] = name
    estimate = json.loads(args.times.read_text()) if args.times else None

    drawn = []
    for file in args.files:
        calls = model.parse(file.read_text())
        steps = model.steps_of(calls)
        if not any(c.op for c in calls):
            print(f"{file}: without names of ops: set NVTX_INJECTION64_PATH to the replacement "
                  "libcudart.so.13")
        if not steps:
            print(f"{file}: no training step; as a whole:")
            steps = [model.Step(1, 0, len(calls))]
        else:
            print(f"{file}: {count('step', len(steps))}, {count('call', len(calls))}")
        chosen = [s for s in steps if args.step in (None, s.number)]
        if not chosen:
            raise SystemExit(f"{file} has no step {args.step}")
        for step in chosen:
            print(describe(step, calls, names))
        last = chosen[-1]
        drawn.append((f"{file.name}, step {last.number}", calls[last.begin:last.end]))
    if args.svg:
        args.svg.write_text(timeline_svg.draw(drawn, names, estimate))
    return 0


if __name__ == "__main__":
    sys.exit(main())
