"""The page: head, figures at a glance, comparison of runs, their sections, facts and events."""
import datetime
import pathlib

import report_charts as charts
import report_config
import report_scale as scale
import report_sections as sections
from report_charts import HALF, Series, escape
from report_data import number, time_of

HERE = pathlib.Path(__file__).resolve().parent
MOST_EVENTS = 400


def moment(seconds):
    return datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")


def state(run):
    kind = run.state
    words = "saved and stopped" if kind == "stopped" else kind
    css = kind if kind in ("done", "stopped", "failed") else "open"
    return f'<span class="state {css}">{escape(words)}</span>'


def last_evaluation(run):
    events = run.evaluations()
    return number(sections.pooled(events[-1], "union").get("bits_per_byte")) if events else None


def steps_text(run):
    planned = run.fact("steps", "train.steps")
    return f"{run.step} of {planned}" if planned is not None else str(run.step)


def against(run):
    """Ratios of the baselines to what was sent; None where there is nothing to compare."""
    last = run.rounds()[-1] if run.rounds() else {}
    sent = run.sent()
    return [value / sent if sent and value else None
            for value in map(number, (last.get("data_parallel_bytes"),
                                      last.get("full_replica_bytes")))]


def tiles(run):
    """(what, value, more) of the figures at a glance."""
    found = []
    bits = last_evaluation(run)
    if bits is not None:
        gap = number(run.evaluations()[-1].get("gap"))
        found.append(("union, held out", f"{bits:.4f}", "bits per byte" + (
            f"; {gap:+.3f} to the own models" if gap is not None else "")))
    training = run.training_loss()
    if training is not None:
        found.append(("training loss", f"{training:.4f}", "nats per token, mean of the last 5 %"))
    rounds = len(run.rounds())
    more = [f"{rounds} round{'' if rounds == 1 else 's'}"] if rounds else []
    if run.tokens():
        more.append(f"{scale.short(run.tokens(), 3)} tokens")
    found.append(("step", steps_text(run), ", ".join(more)))
    sent = run.sent()
    if sent:
        parallel = against(run)[0]
        found.append(("sent between groups", scale.bytes_text(sent),
                      f"data-parallel training: {scale.ratio(parallel)}" if parallel else ""))
    rate = run.tokens_per_second()
    if rate:
        seconds = run.seconds()
        found.append(("tokens per second", scale.short(rate, 3), "all groups, medians" + (
            f"; {scale.duration(seconds)} in all" if seconds else "")))
    return '<div class="tiles">' + "".join(
        f"<div><span>{escape(what)}</span><b>{escape(value)}</b><small>{escape(more)}</small></div>"
        for what, value, more in found) + "</div>"


def rows_of(pairs):
    return "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in pairs
                   if v not in (None, ""))


def parameters(run, kinds, digits=4):
    told = run.fact("parameters")
    return ", ".join(f"{scale.short(told[k], digits)} {k.replace('_', ' ')}" for k in kinds
                     if number(told.get(k)) is not None) if isinstance(told, dict) else ""


def model(run):
    experts, top_k = run.fact("n_experts", "model.moe.n_experts"), \
        run.fact("top_k", "model.moe.top_k")
    count = parameters(run, ("total", "active"), 3)
    return ", ".join(filter(None, (
        f"{run.fact('n_layers', 'model.n_layers') or '?'} layers" if experts else "",
        f"{experts} experts, {top_k} of them for a token" if experts else "",
        f"parameters: {count}" if count else "")))


def facts(run):
    by_ranks = {}
    for group in run.groups:
        by_ranks.setdefault(str(group.start.get("ranks", "?")), []).append(group.name)
    groups = "; ".join(f"{', '.join(names)}: {ranks} rank{'' if ranks == '1' else 's'}" +
                       (" each" if len(names) > 1 else "") for ranks, names in by_ranks.items())
    times = [t for g in run.groups for t in map(time_of, g.events)
             if t is not None]
    starts = run.first.of("start")
    bad = sum(g.bad for g in run.groups)
    torn = [g.name for g in run.groups if g.torn]
    pairs = [
        ("folder", run.path), ("version", run.fact("version")),
        ("state", f"{run.state}, step {steps_text(run)}"),
        ("begun", moment(min(times)) if times else None),
        ("last line written", moment(max(times) if times else run.changed)),
        ("starts", f"{len(starts)}, the last behind step {starts[-1]['step']}"
         if len(starts) > 1 else None),
        ("groups", groups),
        ("parameters", parameters(run, ("total", "active", "shared", "router", "expert",
                                        "per_rank"))), ("dtype, backend", ", ".join(
            str(v) for v in (run.fact("dtype", "train.dtype"), run.fact("backend")) if v)),
        ("local steps of a round", run.fact("local_steps", "federation.local_steps")),
        ("placement, replication", ", ".join(
            run.config[k] for k in ("federation.placement", "federation.replication")
            if k in run.config)),
        ("absent choices", run.config.get("federation.absent")),
        ("tokens of a step", ", ".join(f"{g.name} {g.start['tokens_per_step']}"
                                       for g in run.groups if "tokens_per_step" in g.start)),
        ("lines that are not events", f"{bad}, left out" if bad else None),
        ("line not complete yet", ", ".join(torn) if torn else None)]
    config = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td>" +
                     (f'<td class="none">{escape(run.origins.get(k, ""))}</td>'
                      if run.origins else "") + "</tr>" for k, v in run.config.items())
    return sections.section("Facts", "", [
        f"<table>{rows_of(pairs)}</table>",
        f"<details><summary>the config it runs with, {len(run.config)} values</summary>"
        f"<table>{config}</table></details>" if config else ""])


def words_of(event):
    kind = event["event"]
    if kind == "start":
        again = event.get("resumed") or event["step"] > 0
        return "resumed" if again else "started"
    if kind == "end":
        return f"ended: {event.get('reason', '?')}" + \
            (f": {event['text']}" if event.get("text") else "")
    if kind == "checkpoint":
        seconds = number(event.get("seconds"))
        return f"checkpoint {event.get('path', '')}" + \
            (f", {seconds:.2f} s" if seconds is not None else "")
    if kind == "note":
        return str(event.get("text", ""))
    if kind == "round":
        return f"round {event['round']} with {event.get('groups')} of " \
            f"{event.get('groups_total')} groups"
    return f"calibrated {event.get('steps', '?')} steps: {event.get('path', '')}"


def events(run):
    """Starts, notes, rounds that lacked a group, checkpoints and ends; equal ones once."""
    seen = {}
    for group in run.groups:
        for event in group.events:
            kind = event["event"]
            lacked = kind == "round" and number(event.get("groups")) is not None and \
                event["groups"] < (number(event.get("groups_total")) or 0)
            if kind in ("start", "end", "checkpoint", "note", "calibration_end") or lacked:
                key = (event["step"], words_of(event), kind)
                seen.setdefault(key, []).append((time_of(event), group.name))
    rows = []
    order = {"start": 0, "round": 2, "note": 3, "checkpoint": 4, "end": 6}
    listed = sorted(seen.items(), key=lambda i: (i[0][0], i[1][0][0] or 0, order.get(i[0][2], 5)))
    for (step, words, kind), told in listed[-MOST_EVENTS:]:
        who = "all" if len(told) == len(run.groups) else ", ".join(dict.fromkeys(
            name for _, name in told))
        when = moment(told[0][0]) if told[0][0] is not None else ""
        attention = kind == "round" or kind == "end" and words.startswith("ended: failed")
        css = ' class="attention"' if attention else ""
        rows.append(f"<tr{css}><td>{step}</td><td>{when}</td><td>{escape(who)}</td>"
                    f"<td>{escape(words)}</td></tr>")
    left_out = len(listed) - len(rows)
    return sections.section("Events", f"The {left_out} before these are left out." if left_out
                            else "", "<table><tr><th>step</th><th>time</th><th>group</th><th>what"
                            f"</th></tr>{''.join(rows)}</table>" if rows else "")


def compared(runs):
    """Curves of all runs in one chart, their figures in one table, and how their configs differ."""
    def lines(of):
        return [Series(run.name, *of(run), i) for i, run in enumerate(runs)]

    def mean_loss(run):
        by_step = {}
        for group in run.groups:
            for x, y in zip(*group.column("step", "loss")):
                by_step.setdefault(x, []).append(y)
        steps = sorted(s for s, v in by_step.items() if len(v) == len(run.groups))
        return steps, [None if None in by_step[s] else sum(by_step[s]) / len(by_step[s])
                       for s in steps]

    def bits(run):
        return [e["step"] for e in run.evaluations()], \
            [number(sections.pooled(e, "union").get("bits_per_byte"))
             for e in run.evaluations()]
    noisy, note = charts.with_means(lines(mean_loss))
    evaluated = lines(bits)
    for one in evaluated:
        one.points = True
    sent = lines(lambda run: run.first.column("round", "sent_total"))
    if not any(v for s in sent for v in s.y):
        sent = []
    figures = charts.line_chart("Training loss", noisy, "nats per token, mean over groups",
                                note=note) + sections.grid([
        charts.line_chart("Union, held out", evaluated, "bits per byte, pooled", HALF),
        charts.line_chart("Sent between groups", sent, "since step 1", HALF,
                          format="bytes", log=False, low=0)])
    head = ("run", "state", "step", "training loss", "union, bits/byte", "sent",
            "data-parallel", "full replicas", "tokens/s")
    rows = []
    for run in runs:
        bits_now, training, rate = last_evaluation(run), run.training_loss(), \
            run.tokens_per_second()
        total = run.sent()
        cells = [state(run), escape(steps_text(run)),
                 f"{training:.4f}" if training is not None else "",
                 f"{bits_now:.4f}" if bits_now is not None else "",
                 scale.bytes_text(total) if total else ""]
        cells += [scale.ratio(r) if r else "" for r in against(run)]
        cells.append(scale.short(rate, 3) if rate else "")
        rows.append(f'<tr><th><a href="#{anchor(runs, run)}">{escape(run.name)}</a></th>' +
                    "".join(f"<td>{c}</td>" for c in cells) + "</tr>")
    table = '<div class="scroll"><table class="numbers"><tr>' \
        f'{"".join(f"<th>{h}</th>" for h in head)}</tr>{"".join(rows)}</table></div>'
    return sections.section("The runs side by side", "data-parallel, full replicas: how many times "
                            "as many bytes they would have sent on the same steps.",
                            [table, figures]) + config_table(runs)


def config_table(runs):
    known = [run for run in runs if run.config]
    if len(known) < 2:
        return ""
    differ, equal = report_config.differences([run.config for run in known])
    rows = []
    for key, values in differ:
        cells = "".join('<td class="none">not there</td>' if v is None else f"<td>{escape(v)}</td>"
                        for v in values)
        rows.append(f"<tr><th>{escape(key)}</th>{cells}</tr>")
    head = "".join(f"<th>{escape(run.name)}</th>" for run in known)
    return sections.section("How their configs differ", f"{len(differ)} values differ; {equal} are "
                            "equal.", f'<div class="scroll"><table><tr><th>key</th>{head}</tr>'
                            f'{"".join(rows)}</table></div>' if rows else " ")


def anchor(runs, run):
    return f"run-{runs.index(run) + 1}"


def article(runs, run):
    names = [Series(g.name, [], [], i) for i, g in enumerate(run.groups)]
    key = f'<nav class="legend">{"".join(charts.buttons(names))}</nav>' \
        if len(names) > charts.MOST_NAMES - 1 else ""
    sizes = f"{len(run.groups)} group{'' if len(run.groups) == 1 else 's'}: " + \
        ", ".join(g.name for g in run.groups)
    if model(run):
        sizes += f". {model(run)}"
    return f'<article id="{anchor(runs, run)}"><header><h1>{escape(run.name)} ' \
        f"{state(run)}</h1><p>{escape(sizes)}</p></header>{tiles(run)}{key}" \
        f"{sections.all_of(run)}{facts(run)}{events(run)}</article>"


def page(runs, now):
    title = ", ".join(run.name for run in runs)
    body = compared(runs) if len(runs) > 1 else ""
    body += "".join(article(runs, run) for run in runs)
    css, script = ((HERE / name).read_text() for name in ("report.css", "report.js"))
    return f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">' \
        '<meta name="viewport" content="width=device-width, initial-scale=1">' \
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title>' \
        f"<style>{css}</style></head><body><main>{body}" \
        f"<footer>Written by tools/report.py of fomoe at {moment(now)}.</footer></main>" \
        f"<script>{script}</script></body></html>\n"
