"""The sections of one run: what is drawn from its metrics, and what they say in words."""
import statistics

import report_charts as charts
import report_heat as heat
import report_scale as scale
from report_charts import FULL, HALF, THIRD, Series
from report_data import number, numbers

# The colour of each class.
TRAFFIC = {"shared": 0, "router": 2, "expert": 1, "copies": 3, "control": 5, "evaluations": 4}
MOST_OPEN = 12  # heat maps of layers that stand open


def section(title, words, body):
    body = "".join(body) if isinstance(body, list) else body
    return f"<section><h2>{charts.escape(title)}</h2>" + \
        (f"<p>{charts.escape(words)}</p>" if words else "") + body + "</section>" if body else ""


def grid(figures):
    figures = [f for f in figures if f]
    return f'<div class="grid">{"".join(figures)}</div>' if figures else ""


def of_groups(run, kind, key, x="step", points=None):
    found = []
    for i, group in enumerate(run.groups):
        xs, ys = group.column(kind, key, x)
        if xs:
            found.append(Series(group.name, xs, ys, i,
                                len(xs) <= 40 if points is None else points))
    return found


def marks_of(run):
    marks = []
    for event in run.rounds():
        took, of = event.get("groups"), event.get("groups_total")
        failed = number(took) is not None and number(of) is not None and took < of
        words = f"round {event['round']}, step {event['step']}"
        marks.append(charts.Mark(event["step"], "failed" if failed else "round",
                                 words + (f": {took} of {of} groups" if failed else "")))
    for event in run.first.of("start")[1:]:
        marks.append(charts.Mark(event["step"], "resume", f"resumed behind step {event['step']}"))
    return marks


def loss(run):
    noisy, note = charts.with_means(of_groups(run, "step", "loss", points=False))
    union = [(e["step"], number(pooled(e, "union").get("loss"))) for e in run.evaluations()]
    if union:
        noisy = noisy + [Series("union, held out", *map(list, zip(*union)), "union", True)]
    words = "Training loss of each group on its own data" + \
        (", and of the union model, with every expert, on held-out text of all domains."
         if union else "; the union model has not been evaluated in this run "
         "(federation.evaluate_every).")
    marks = marks_of(run)
    parts = [charts.line_chart("Loss", noisy, "nats per token", marks=marks, note=note)]
    # The first steps fall so far that what comes later looks flat.
    begin = run.step // 10
    late = [s.behind(begin) for s in noisy]
    if begin and spread(late) < 0.5 * spread(noisy):
        parts.append(charts.line_chart(
            "The same, later", late, f"nats per token, behind step {begin}", height=260,
            marks=[m for m in marks if m.x > begin]))
    return section("Loss", words, parts)


def spread(series):
    values = [v for s in series for v in s.y if v is not None]
    return max(values) - min(values) if values else 0


def pooled(event, model):
    found = event.get(model)
    found = found.get("pooled") if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def domain_bits(event, model, domain):
    found = event.get(model)
    found = found.get("domains") if isinstance(found, dict) else None
    found = found.get(domain) if isinstance(found, dict) else None
    return number(found.get("bits_per_byte")) if isinstance(found, dict) else None


def evaluations(run):
    events = run.evaluations()
    names = []
    for event in events:
        union = event.get("union")
        domains = union.get("domains") if isinstance(union, dict) else None
        names += [n for n in domains if n not in names] if isinstance(domains, dict) else []
    if not names:
        return ""
    figures = []
    for domain in names:
        lines = [Series("union", [e["step"] for e in events],
                        [domain_bits(e, "union", domain) for e in events], "union", True)]
        for i, group in enumerate(run.groups):
            told = [e for e in group.of("eval") if "own" in e]
            lines.append(Series(group.name, [e["step"] for e in told],
                                [domain_bits(e, "own", domain) for e in told], i, True))
        figures.append(charts.line_chart(domain, lines, "bits per byte", HALF))
    last = run.evaluations()[-1]
    rows = [("union", last, "union")] + [
        (f"own {g.name}", g.of("eval")[-1], "own") for g in run.groups
        if g.of("eval") and "own" in g.of("eval")[-1]]
    head = "".join(f"<th>{charts.escape(n)}</th>" for n in names) + "<th>pooled</th>"
    body = []
    columns = names + [None]
    table = [[domain_bits(e, m, n) if n else number(pooled(e, m).get("bits_per_byte"))
              for n in columns] for _, e, m in rows]
    for (name, _, _), values in zip(rows, table):
        cells = []
        for column, value in enumerate(values):
            known = [r[column] for r in table if r[column] is not None]
            best = ' class="best"' if value is not None and len(known) > 1 and \
                value == min(known) else ""
            cells.append(f"<td{best}>{'' if value is None else f'{value:.4f}'}</td>")
        body.append(f"<tr><th>{charts.escape(name)}</th>{''.join(cells)}</tr>")
    gap = number(last.get("gap"))
    words = "Held-out text, by domain: the union model has every expert; an own model is the " \
        "same weights with the experts of one group only." + \
        (f" At step {last['step']} the union stands {abs(gap):.4f} bits per byte "
         f"{'above' if gap > 0 else 'below'} the mean of the own models (lower is better)."
         if gap is not None else "")
    return section("Evaluations", words, [
        f'<p class="note">Bits per byte after round {charts.escape(last["round"])}, step '
        f'{last["step"]}; the lowest of each column is bold.</p><div class="scroll">'
        f'<table class="numbers"><tr><th></th>{head}</tr>{"".join(body)}</table></div>',
        grid(figures)])


def loads(run):
    """For each MoE layer: rows by expert of multiples of an even share, by round; the rounds."""
    told = [{e["round"]: e["tokens_by_expert"] for e in g.of("round")
             if isinstance(e.get("tokens_by_expert"), list)}
            for g in run.groups]
    rounds = sorted(set.intersection(*map(set, told))) if told else []
    layers = []
    depth = min((len(by[r]) for by in told for r in rounds), default=0)
    for layer in range(depth):
        columns = []
        for r in rounds:
            counts = [numbers(by[r][layer]) for by in told]
            experts = max(map(len, counts))
            total = [sum(c[e] or 0 for c in counts if e < len(c)) for e in range(experts)]
            whole = sum(total)
            columns.append([n * experts / whole if whole else None for n in total])
        experts = max(map(len, columns))
        layers.append([[c[e] if e < len(c) else None for c in columns] for e in range(experts)])
    return layers, rounds


def experts(run):
    layers, rounds = loads(run)
    places = run.fact("moe_layers")
    if not isinstance(places, list) or len(places) != len(layers):
        places = list(range(len(layers)))
    figures = []
    width = HALF if len(layers) <= 6 else THIRD
    names = [g.name for g in run.groups]
    for i, values in enumerate(layers):
        holders = run.residents(i) if len(names) > 1 else None
        owners = [holders.get(e, []) for e in range(len(values))] if holders else None
        figures.append(heat.heat_map(f"Layer {places[i]}", values, rounds, ("expert", None), width,
                                     owners, names, words="an even load"))
    worst, told = imbalance(run)
    parts = []
    if figures:
        parts.append(heat.scale_bar("load of an expert, in multiples of an even load"))
        if len(names) <= 8 and len(names) > 1 and run.residents(0):
            keys = "".join(f'<span class="key"><i class="box c{i}"></i>{charts.escape(n)}</span>'
                           for i, n in enumerate(names))
            parts.append(f'<div class="legend">held by {keys}</div>')
        parts.append(grid(figures[:MOST_OPEN]))
        if figures[MOST_OPEN:]:
            parts.append(f"<details><summary>{len(figures) - MOST_OPEN} more layers"
                         f"</summary>{grid(figures[MOST_OPEN:])}</details>")
    small = []
    if worst:
        if not figures:
            parts.append(heat.scale_bar("largest over mean load"))
        small.append(heat.heat_map("Largest over mean load, by layer", worst, told,
                                   ("layer", places if len(places) == len(worst) else None), HALF,
                                   unit="of the group where it is largest", words="the mean load",
                                   height=190))
    for key, title, unit, form in (
            ("router_entropy", "Router entropy", "nats, mean over layers", "number"),
            ("load_entropy", "Evenness of the loads", "entropy, 1 is even; mean over layers",
             "number"),
            ("skip", "Absent choices", "share, mean over layers", "percent")):
        lines = layer_means(run, key)
        if key == "skip":
            lines = [s for s in lines if any(s.y)]
            if lines:
                chance = layer_means(run, "chance")
                lines += [Series("if all were chosen alike", s.x, s.y, "reference")
                          for s in chance[:1]]
        small.append(charts.line_chart(title, lines, unit, HALF, 250, form, log=False))
    words = "Where the tokens of all groups went: choices that were executed, by expert and " \
        "round." + (f" A column is the mean of {-(-len(rounds) // heat.MOST_COLUMNS)} rounds."
         if len(rounds) > heat.MOST_COLUMNS else "")
    return section("Experts", words if figures else
                   "This run's metrics do not tell the load of each expert.", parts + [grid(small)])


def layer_means(run, key):
    """For each group the mean over layers of a figure of its rounds."""
    found = []
    for i, group in enumerate(run.groups):
        x, y = [], []
        for event in group.of("round"):
            values = [v for v in numbers(event.get(key)) if v is not None]
            if values:
                x.append(event["step"])
                y.append(statistics.fmean(values))
        if x:
            found.append(Series(group.name, x, y, i, len(x) <= 40))
    return found


def imbalance(run):
    """Rows by layer, columns by round: the largest over the groups; the rounds."""
    worst = {}
    for group in run.groups:
        for event in group.of("round"):
            values = numbers(event.get("load_imbalance"))
            if values:
                kept = worst.setdefault(event["round"], [None] * len(values))
                for i, v in enumerate(values[:len(kept)]):
                    kept[i] = max(filter(None, (kept[i], v)), default=None)
    rounds = sorted(worst)
    depth = max((len(v) for v in worst.values()), default=0)
    return [[worst[r][i] if i < len(worst[r]) else None for r in rounds]
            for i in range(depth)], rounds


def agreement(run):
    if len(run.groups) < 2:
        return ""
    cosine = []
    for name in ("shared", "router", "expert"):
        x, y = run.first.column("round", f"cosine.{name}")
        if x:
            cosine.append(Series(name, x, y, TRAFFIC[name], len(x) <= 40))
    x, y = run.first.column("round", "agree")
    return section("How alike the groups are", "Before each exchange: equal expert choices of two "
                   "groups on held-out text; the distance of a group's shared weights from the "
                   "anchor, relative to it; the cosine between the directions in which two groups "
                   "moved.", grid([
                       charts.line_chart("Routing agreement", [Series("agree", x, y, 0,
                                                                      len(x) <= 40)],
                                         "share of choices", THIRD, format="percent", low=0,
                                         high=1, log=False),
                       charts.line_chart("Drift", of_groups(run, "round", "drift"),
                                         "of shared weights", THIRD, low=0, log=False),
                       charts.line_chart("Cosine of pseudo-gradients", cosine, "mean over pairs",
                                         THIRD, log=False)]))


def traffic(run):
    rounds = run.rounds()
    sent = run.sent_by_class()
    total = run.sent()
    if len(run.groups) < 2 or not rounds or not total:
        return ""
    others = [(words, number(rounds[-1].get(key)))
              for key, words in (("full_replica_bytes", "full replicas"),
                                 ("data_parallel_bytes", "data-parallel"))]
    ordered = [n for n in TRAFFIC if sent.get(n)]
    rows = [("this run", total, scale.bytes_text(total),
             [(sent[n], f"c{TRAFFIC[n]}") for n in ordered])]
    rows += [(name, value, f"{scale.bytes_text(value)}: {scale.ratio(value / total)} this run",
              [(value, "reference")]) for name, value in others if value]
    by_class = ", ".join(f"{n} {scale.bytes_text(sent[n])}" for n in ordered)
    off = [e for e in rounds if number(e.get("predicted_bytes")) is not None and
           e["predicted_bytes"] != e.get("sent_bytes")]
    predicted = "In every round the bytes counted are the bytes predicted." if not off else \
        f"In {len(off)} of {len(rounds)} rounds the bytes counted differ from those predicted."
    notes = [f"By class: {by_class}."]
    evaluated = sent.get("evaluations", 0)
    if 0 < evaluated < total and others[1][1]:
        notes.append(f"Without the evaluations {scale.bytes_text(total - evaluated)}: "
                     f"data-parallel {scale.ratio(others[1][1] / (total - evaluated))}.")
    known = sum(sent.values())
    if known < total:
        notes.append(f"The class is known of {scale.bytes_text(known)}; the metrics lack the "
                     "rounds before.")
    columns = [e["round"] for e in rounds]
    parts = {n: [number(e["sent"].get(n)) or 0 if isinstance(e.get("sent"), dict) else 0
                 for e in rounds] for n in TRAFFIC}
    evaluated = {e["round"]: number(e.get("sent_bytes")) or 0 for e in run.evaluations()}
    parts["evaluations"] = [evaluated.get(c, 0) for c in columns]
    lines = [Series("this run", *run.first.column("round", "sent_total"), 0),
             Series("full replicas", *run.first.column("round", "full_replica_bytes"), 1),
             Series("data-parallel", *run.first.column("round", "data_parallel_bytes"), 3)]
    same = lines[0].y == lines[1].y
    return section("Bytes between groups", "What left the groups, all together, against two other "
                   "ways of training the same model on the same steps: data-parallel training, and "
                   "full replicas that meet as often. " + predicted, [
                       charts.totals("Sent since step 1, to scale", rows, note=" ".join(notes)),
                       grid([charts.stacked_bars("Each round, by class", columns, parts, TRAFFIC,
                                                 width=HALF),
                             charts.line_chart("Since step 1", [s for s in lines if any(s.y)],
                                               "on a logarithmic scale", HALF, 266, "bytes",
                                               log=True, note="This run and full replicas are one "
                                               "line." if same else "")])])


def speed(run):
    lines, note = charts.with_means(of_groups(run, "step", "tokens_per_second", points=False))
    figures = [charts.line_chart("Throughput", lines, "tokens per second of a group", THIRD,
                                 low=0, log=False, note=note),
               charts.line_chart("MFU", of_groups(run, "step", "mfu", points=False),
                                 "of what a matmul reaches", THIRD, format="percent", low=0,
                                 log=False),
               charts.line_chart("Time of a round's exchange", of_groups(run, "round", "seconds"),
                                 "seconds", THIRD, low=0, log=False)
               if len(run.groups) > 1 else ""]
    return section("Speed", "", grid(figures))


def optimisation(run):
    figures = []
    for key, title, unit, more in (
            ("learning_rate", "Learning rate", "", {"low": 0, "log": False}),
            ("grad_norm", "Norm of the gradient", "before clipping", {"log": True}),
            ("aux_loss", "Balancing loss", "1 is even", {}),
            ("imbalance", "Imbalance", "largest over mean load", {}),
            ("skipped_share", "Skipped choices", "share", {"format": "percent", "log": False}),
            ("proxy_share", "Choices served by copies", "share",
             {"format": "percent", "log": False}),
            ("z_loss", "Router's squared log-sum-exp", "", {}),
            ("affinity", "Affinity", "-log of the mass on own experts", {})):
        lines = of_groups(run, "step", key, points=False)
        if key == "learning_rate" and lines and all(s.y == lines[0].y for s in lines):
            lines = [Series("all groups", lines[0].x, lines[0].y, 0)]
        if key == "affinity" and run.config.get("federation.affinity_loss") in (None, "0"):
            continue
        if any(v for s in lines for v in s.y):
            figures.append(charts.line_chart(title, lines, unit, THIRD, **more))
    return section("Training", "", grid(figures))


def calibration(run):
    lines = []
    for i, group in enumerate(run.groups):
        x, y = group.column("calibration_step", "loss", "calibration_step")
        for at in range(len(x) - 1, 0, -1):
            if x[at] <= x[at - 1]:  # an earlier calibration of the same run
                x, y = x[at:], y[at:]
                break
        if x:
            lines.append(Series(group.name, x, y, i))
    end = run.first.last("calibration_end")
    words = ""
    if end:
        words = f"{end.get('steps', '?')} steps of the union model on all groups' data; " \
            f"{scale.bytes_text(number(end.get('sent_bytes')) or 0)} were sent."
    return section("Calibration", words, charts.line_chart(
        "Loss", lines, "nats per token", x_label="calibration step"))


def all_of(run):
    """Each of the sections that there is something to show in."""
    return "".join((loss(run), evaluations(run), experts(run), agreement(run), traffic(run),
                    speed(run), optimisation(run), calibration(run)))


