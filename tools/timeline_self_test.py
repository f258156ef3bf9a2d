"""A timeline written by hand, and what must be found in it."""
import json
import xml.etree.ElementTree

import timeline
import timeline_model as model
import timeline_svg

# Stream 1 computes, stream 2 carries. all_to_all waits for router and has shared experts beside it;
# reduce waits for the backward pass, and AdamW for it. The host waits for the router's counts.
CALLS = [
    ("fill", 1, [0, 0, 0], {}),
    ("launch", 1, [0, 1, 0], {"op": "embedding", "call": 1}),
    ("launch", 1, [0, 2, 0], {"op": "router", "call": 2}),
    ("record", 1, [0, 3, 0], {"event": 7}),
    {"do": "stream wait", "stream": 2, "event": 7, "for": [1, 4]},
    ("copy", 2, [0, 4, 0], {"name": "copy to the host", "bytes": 16}),
    {"do": "host wait", "name": "cudaStreamSynchronize", "until": [0, 4, 1]},
    ("transfer", 2, [0, 4, 1], {"name": "all_to_all", "bytes": 4096}),
    ("record", 2, [0, 4, 2], {"event": 8}),
    ("launch", 1, [0, 4, 1], {"op": "shared", "call": 3}),
    ("launch", 1, [0, 5, 1], {"op": "shared", "call": 3}),
    {"do": "stream wait", "stream": 1, "event": 8, "for": [2, 3]},
    ("launch", 1, [0, 6, 3], {"op": "experts_forward", "call": 4}),
    ("launch", 1, [0, 7, 3], {"op": "linear_cross_entropy", "call": 5}),
    ("launch", 1, [0, 8, 3], {"op": "linear_backward", "call": 6}),
    ("record", 1, [0, 9, 3], {"event": 9}),
    {"do": "stream wait", "stream": 2, "event": 9, "for": [1, 10]},
    ("transfer", 2, [0, 10, 3], {"name": "reduce", "bytes": 8192}),
    ("record", 2, [0, 10, 4], {"event": 10}),
    {"do": "stream wait", "stream": 1, "event": 10, "for": [2, 5]},
    ("launch", 1, [0, 10, 5], {"op": "adamw", "call": 7}),
    ("copy", 1, [0, 11, 5], {"name": "copy to the host", "bytes": 8}),
    {"do": "host asks", "until": [0, 12, 5], "done": False},
    {"do": "host asks", "until": [0, 12, 5], "done": False},
    {"do": "host asks", "until": [0, 12, 5], "done": True},
]


def lines():
    numbers = {}
    for entry in CALLS:
        if isinstance(entry, tuple):
            do, stream, before, more = entry
            numbers[stream] = numbers.get(stream, 0) + 1
            entry = {"do": do, "name": do, "stream": stream, "number": numbers[stream],
                     "before": before, **more}
        yield json.dumps(entry)


def check(what, found, wanted):
    if found == wanted:
        return 0
    print(f"{what}: found {found}, wanted {wanted}")
    return 1


def run():
    # Twice, and an evaluation after it: a forward pass that is no step.
    once = model.parse("\n".join(lines()))
    evaluation = [model.Call("copy", "copy to the device", 1, 99, [0, 98]),
                  model.Call("launch", "e", 1, 100, [0, 99], op="embedding", call=99),
                  model.Call("launch", "l", 1, 101, [0, 100], op="linear_cross_entropy", call=100)]
    failed = check("steps", [(s.begin, s.end) for s in model.steps_of(once + evaluation)],
                   [(0, len(once))])
    by_name = {c.name: c for c in once if c.transfers}
    failed += check("beside all_to_all", [c.op for c in model.covers(by_name["all_to_all"], once)],
                    ["shared", "shared"])
    failed += check("beside reduce", model.covers(by_name["reduce"], once), [])
    failed += check("host waits", timeline.waits(once), [
        (True, "cudaStreamSynchronize after copy to the host, before all_to_all"),
        (False, "polling after copy to the host, before nothing more of the step")])
    failed += check("phases", [(p, sum(c.works for c in part)) for p, part in model.phases(once)],
                    [("prepare", 1), ("forward", 7), ("backward", 3), ("update", 2)])
    names = timeline.Names({1: "compute", 2: "comm"})
    failed += check("dependencies", timeline.dependencies(once, names), [
        "comm waits before copy to the host for router on compute",
        "compute waits before experts_forward for all_to_all on comm",
        "comm waits before reduce for linear_backward on compute",
        "compute waits before adamw for reduce on comm"])
    failed += check("launches", model.launches_by_op(once)["shared"], (1, 2.0))
    text = timeline.describe(model.Step(1, 0, len(once)), once, names)
    for part in ("1 between its first and last launch, 1 outside", "beside them: 1 of 4",
                 "all_to_all x1, 4096 B, on comm, after copy to the host, before shared: may run "
                 "beside shared x2",
                 "reduce x1, 8192 B, on comm, after linear_backward, before adamw: nothing may run"):
        failed += check(part, part in text, True)

    # Units: fill 0-1, embedding -2, router -3, copy -4 and the host's wait, all_to_all 4-5 beside
    # shared 4-5, experts -6, loss -7, backward -8, reduce -9, AdamW -10, copy -11.
    plan = timeline_svg.Schedule(once, None)
    ends = {box[1]: (box[2], box[3]) for box in plan.boxes}
    failed += check("shared is drawn beside all_to_all", ends["shared"], ends["all_to_all"])
    failed += check("the host's waits", [w[:2] for w in plan.waits], [(0.0, 4.0), (4.0, 11.0)])
    failed += check("arrows", len(plan.arrows), 4)
    estimate = {"device": "X", "ops": {"shared": 6.0}, "launch": 1.0, "link": 4096.0,
                "memory": 1.0}
    boxes = {box[1]: box[3] - box[2] for box in timeline_svg.Schedule(once, estimate).boxes}
    failed += check("width of shared", boxes["shared"], 6.0)
    failed += check("width of all_to_all", boxes["all_to_all"], 2.0)
    svg = timeline_svg.draw([("a<b", once)], names, estimate)
    drawn = xml.etree.ElementTree.fromstring(svg)
    failed += check("boxes", svg.count("<g>"), len(boxes) + 1)  # two copies to the host
    failed += check("root", drawn.tag.endswith("svg"), True)
    failed += check("says that it is an estimate", "Widths: estimate for X" in svg, True)
    print("the timeline tool " + ("fails its self-test" if failed else "finds what it must"))
    return 1 if failed else 0
