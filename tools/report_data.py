"""Reads run directories: metrics/GROUP.jsonl, as far as it is written, and config.yaml."""
import fcntl
import json
import math
import os
import pathlib
import statistics

import report_config

# What a run that goes on from an earlier step makes void.
SUPERSEDED = {"step", "round", "eval", "checkpoint", "end", "calibration_step", "calibration_end"}

MISSING = object()


class NotARun(Exception):
    """The message says which folder and what it lacks."""


def number(value):
    """A finite number, or None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if math.isfinite(value) else None


def time_of(event):
    """Unix seconds of a year below 3000, or None."""
    told = number(event.get("time"))
    return told if told is not None and 0 < told < 32503680000 else None


def numbers(values):
    return [number(v) for v in values] if isinstance(values, list) else []


def is_event(line):
    """Of a known form as far as events are told apart and ordered by it."""
    return isinstance(line, dict) and isinstance(line.get("event"), str) and \
        number(line.get("step")) is not None and 0 <= line["step"] < 2**53 and \
        (line["event"] not in ("round", "eval") or number(line.get("round")) is not None)


def parse(text):
    """Events, the number of lines that are none, and whether the last line is not complete yet."""
    events, bad = [], 0
    lines = text.split("\n")
    torn = lines.pop().strip() != ""
    for line in filter(str.strip, lines):
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            event = None
        if is_event(event):
            events.append(event)
        else:
            bad += 1
    return events, bad, torn


def settle(events):
    """Without what a later start at an earlier step has made void."""
    kept = []
    for event in events:
        if event["event"] == "start":
            kept = [e for e in kept
                    if e["event"] not in SUPERSEDED or e["step"] <= event["step"]]
            # The end of the part before it: the run has gone on.
            kept = [e for e in kept if e["event"] != "end"]
        kept.append(event)
    return kept


def is_locked(path):
    """Whether a job holds the lock."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


class Group:
    """One group's events; `of` by kind, columns with None where there is no finite number."""
    def __init__(self, name, events, bad=0, torn=False):
        self.name, self.bad, self.torn = name, bad, torn
        self.events = settle(events)
        self.by_kind = {}
        for event in self.events:
            self.by_kind.setdefault(event["event"], []).append(event)
        self.start = {}
        for event in self.of("start"):
            self.start.update(event)

    def of(self, kind):
        return self.by_kind.get(kind, [])

    def last(self, kind):
        return self.of(kind)[-1] if self.of(kind) else {}

    def column(self, kind, key, x="step"):
        """x and values of the events that have the key; a key inside an object after a dot."""
        xs, ys = [], []
        for event in self.of(kind):
            value = event
            for part in key.split("."):
                value = value.get(part, MISSING) if isinstance(value, dict) else MISSING
            if value is not MISSING and number(event.get(x)) is not None:
                xs.append(event[x])
                ys.append(number(value))
        return xs, ys

    def seconds(self):
        """From each start to the last line before the next one; None in files without times."""
        total, begin, last = 0, None, None
        for event in self.events:
            time = time_of(event)
            if time is None:
                continue
            if event["event"] == "start" or begin is None:
                total += last - begin if begin is not None else 0
                begin = time
            last = time
        return total + last - begin if begin is not None else None


class Run:
    def __init__(self, path, name, groups, config, changed, origins=None):
        self.path, self.name, self.config, self.changed = path, name, config, changed
        self.origins = origins or {}  # of the config's values, where the file tells it
        order = groups[0].start.get("groups") if groups else None
        order = order if isinstance(order, list) else report_config.group_names(config)
        order = {n: i for i, n in enumerate(map(str, order))}
        self.groups = sorted(groups, key=lambda g: (order.get(g.name, len(order)), g.name))

    @property
    def first(self):
        return self.groups[0]

    def fact(self, key, config_key=None):
        """From the start event of the first group that tells it, else from the config."""
        for group in self.groups:
            if group.start.get(key) is not None:
                return group.start[key]
        return self.config.get(config_key) if config_key else None

    @property
    def step(self):
        return max((e["step"] for g in self.groups for e in g.events), default=0)

    @property
    def state(self):
        """"done", "stopped", "running" while a job holds the run's lock, else "no end yet": it
        was killed, or its directory is a copy."""
        reasons = [g.last("end").get("reason") for g in self.groups]
        if isinstance(reasons[0], str) and all(r == reasons[0] for r in reasons):
            return reasons[0]
        return "running" if is_locked(self.path / "lock") else "no end yet"

    def rounds(self):
        """The events of the group that has most of them: what they tell of all is the same."""
        return max((g.of("round") for g in self.groups), key=len)

    def evaluations(self):
        return max((g.of("eval") for g in self.groups), key=len)

    def residents(self, layer):
        """Group index by expert of the layer (a place in moe_layers): a list of owners, or None."""
        owners = {}
        for index, group in enumerate(self.groups):
            told = group.start.get("residents")
            if not isinstance(told, list) or layer >= len(told) or \
                    not isinstance(told[layer], list):
                return None
            for expert in numbers(told[layer]):
                owners.setdefault(expert, []).append(index)
        return owners

    def sent_by_class(self):
        """Bytes of the rounds in the file, all groups together, and of the evaluations."""
        total = {}
        for event in self.rounds():
            sent = event.get("sent")
            for name, count in sent.items() if isinstance(sent, dict) else ():
                if number(count):
                    total[name] = total.get(name, 0) + count
        evaluated = sum(number(e.get("sent_bytes")) or 0 for e in self.evaluations())
        if evaluated:
            total["evaluations"] = evaluated
        return total

    def sent(self):
        """All bytes since step 1; of a file that lacks the first rounds the figure of the last."""
        told = number(self.rounds()[-1].get("sent_total")) if self.rounds() else None
        return max(sum(self.sent_by_class().values()), told or 0)

    def training_loss(self):
        """Mean over the groups of the mean of the last 5 % of the logged losses, 5 at least."""
        means = []
        for group in self.groups:
            losses = [v for v in group.column("step", "loss")[1] if v is not None]
            last = losses[-max(5, len(losses) // 20):]
            if last:
                means.append(statistics.fmean(last))
        return statistics.fmean(means) if means else None

    def tokens(self):
        """Of all groups since step 1."""
        total = 0
        for group in self.groups:
            told = number(group.last("step").get("tokens"))
            per_step = number(group.start.get("tokens_per_step"))
            if told is None and per_step is not None:
                told = per_step * group.last("step").get("step", 0)
            if told is None:
                batch = report_config.integer(self.config.get("train.batch"))
                length = report_config.integer(self.config.get("data.seq_len"))
                if batch is None or length is None:
                    return None
                told = batch * length * group.last("step").get("step", 0)
            total += told
        return total

    def tokens_per_second(self):
        """Sum over the groups of their medians."""
        medians = [statistics.median(found) for found in
                   ([v for v in g.column("step", "tokens_per_second")[1] if v is not None]
                    for g in self.groups) if found]
        return sum(medians) if medians else None

    def seconds(self):
        found = [s for s in (g.seconds() for g in self.groups) if s is not None]
        return max(found) if found else None


def read_group(path):
    text = path.read_bytes().decode("utf-8", errors="replace")
    events, bad, torn = parse(text)
    return Group(path.stem, events, bad, torn)


def read_run(folder):
    path = pathlib.Path(folder)
    if not path.is_dir():
        raise NotARun(f"{folder}: there is no such folder; name a run's, such as runs/quickstart")
    files = sorted((path / "metrics").glob("*.jsonl"))
    if not files:
        raise NotARun(f"{folder}: not a run of fomoe-train: it has no metrics/GROUP.jsonl")
    try:
        groups = [read_group(file) for file in files]
        changed = max(os.stat(file).st_mtime for file in files)
        config_file = path / "config.yaml"
        origins = {}
        config = report_config.flat(config_file.read_text(errors="replace"), origins) \
            if config_file.is_file() else {}
    except OSError as error:
        raise NotARun(f"{error.filename}: cannot be read: {error.strerror}") from error
    groups = [g for g in groups if g.events]
    if not groups:
        raise NotARun(f"{folder}: its metrics have no event yet; try again once it trains")
    name = config.get("name") or path.resolve().name
    return Run(path, name, groups, config, changed, origins)


def read_runs(folders):
    """Runs with names that differ: where two have the same, the folder follows it."""
    runs = [read_run(folder) for folder in folders]
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1:
            run.name += f" ({run.path})"
    return runs
