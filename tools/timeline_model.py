"""A timeline of the replacement CUDA runtime: its calls, its steps, and what is ordered how.

tests/cudaemu/README.md says what the lines of the file are.
"""
import dataclasses
import json


@dataclasses.dataclass
class Call:
    """A line: an operation of a stream where `number` is not 0, else something the host did."""
    do: str
    name: str = ""
    stream: int = -1
    number: int = 0  # of its stream, from 1
    before: list = dataclasses.field(default_factory=list)  # by stream, how many come before it
    until: list = dataclasses.field(default_factory=list)  # likewise, what the host waits for
    source: tuple = ()  # of a stream wait: stream and number of what recorded the event
    event: int = 0
    bytes: float = 0
    op: str = ""
    call: int = 0  # which call of the op

    @property
    def works(self):
        """Whether a device would take time for it."""
        return self.number > 0 and self.do != "record"

    @property
    def transfers(self):
        return self.do == "transfer" or (self.do == "copy" and self.name != "copy on the device")

    @property
    def computes(self):
        return self.works and not self.transfers

    @property
    def title(self):
        return self.op or self.name or self.do


def parse(text):
    calls = []
    asked = None  # what the host has asked for last
    for number, line in enumerate(text.splitlines(), 1):
        try:
            fields = json.loads(line)
            if fields.get("do") == "host asks":
                # Asking until it is done is one wait.
                again = asked == fields["until"]
                asked = None if fields["done"] else fields["until"]
                if again or not any(fields["until"]):
                    continue
                fields |= {"do": "host wait", "name": "polling"}
            else:
                asked = None
            known = {k: fields[k] for k in Call.__dataclass_fields__ if k in fields}
            calls.append(Call(source=tuple(fields.get("for", ())), **known))
        except (ValueError, TypeError) as error:
            raise SystemExit(f"line {number} is not of a timeline: {error}") from error
    return calls


def comes_before(a, b):
    """Whether the operation a is done when b begins, on any device."""
    return a.stream < len(b.before) and a.number <= b.before[a.stream]


def covers(transfer, calls):
    """The computing operations among `calls` that may run while the transfer does."""
    return [c for c in calls if c.computes and c.stream != transfer.stream
            and not comes_before(c, transfer) and not comes_before(transfer, c)]


@dataclasses.dataclass
class Step:
    number: int
    begin: int  # calls[begin:end]
    end: int


def passes(calls):
    """Where forward passes begin: the first call of each embedding."""
    begins, last = [], None
    for i, c in enumerate(calls):
        if c.op == "embedding" and c.works and c.call != last:
            begins.append(i)
            last = c.call
    return begins


def steps_of(calls):
    """Training steps, told by their ops. A step begins with the fills and uploads before its first
    forward pass that has a backward pass, and ends with AdamW and the host's next wait."""
    begins = passes(calls)
    bounds = begins[1:] + [len(calls)]
    trains = [any(c.op.endswith("_backward") for c in calls[a:b]) for a, b in zip(begins, bounds)]

    def prepared(i):
        for what in ("copy to the device", "fill"):
            while i > 0 and not calls[i - 1].op and calls[i - 1].name == what:
                i -= 1
        return i

    steps, begin = [], None
    for i, (first, bound) in enumerate(zip(begins, bounds)):
        if not trains[i]:
            continue
        if begin is None:
            begin = prepared(first)
        updates = [j for j in range(first, bound) if calls[j].op == "adamw"]
        if not updates:
            continue
        end = updates[-1] + 1
        limit = prepared(bound) if bound < len(calls) else bound
        waits = [j for j in range(end, limit) if calls[j].do == "host wait"]
        steps.append(Step(len(steps) + 1, begin, waits[0] + 1 if waits else max(end, limit)))
        begin = None
    return steps


PHASES = {"embedding": "forward", "linear_cross_entropy": "backward", "sum_squares": "update",
          "clip_scale": "update", "adamw": "update"}


def phases(calls):
    """(phase, calls), in order: prepare, forward and backward for each micro-batch, update."""
    found = [("prepare", [])]
    for c in calls:
        phase = PHASES.get(c.op, found[-1][0])
        again = c.op == "embedding" and phase == "forward" and found[-1][1] and \
            found[-1][1][-1].op != "embedding"
        if phase != found[-1][0] or again:
            found.append((phase, []))
        found[-1][1].append(c)
    return [(phase, part) for phase, part in found if part]


def launches_by_op(calls):
    """By op: its calls, and the launches and matmuls of a call on average."""
    ids, launches = {}, {}
    for c in calls:
        if c.op and c.do in ("launch", "compute"):
            ids.setdefault(c.op, set()).add(c.call)
            launches[c.op] = launches.get(c.op, 0) + 1
    return {op: (len(ids[op]), launches[op] / len(ids[op])) for op in launches}
