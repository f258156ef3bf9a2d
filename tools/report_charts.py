"""Charts as inline SVG: lines, stacked bars and totals; what they show for hovering as JSON."""
import dataclasses
import html
import json

import report_scale as scale

FULL, HALF, THIRD = 1160, 564, 366  # widths in CSS pixels
LEFT, RIGHT, TOP, BOTTOM = 62, 22, 10, 38
MOST_POINTS = 2400  # of a chart; of longer lines each stretch keeps its lowest and highest value
MOST_NAMES = 8  # in a chart's own legend; of more there is one legend for all charts of a run
MOST_ROUNDS = 120  # that are marked


@dataclasses.dataclass
class Series:
    name: str
    x: list
    y: list  # None: not finite
    style: object = 0  # a colour of the palette, or a name: "union", "reference"
    points: bool = False  # mark every value, as where there are few
    faint: bool = False  # behind its own mean, below

    def behind(self, begin):
        """What comes later than an x."""
        kept = [i for i, x in enumerate(self.x) if x > begin]
        return dataclasses.replace(self, x=[self.x[i] for i in kept], y=[self.y[i] for i in kept])

    @property
    def css(self):
        if isinstance(self.style, int):
            return f"c{self.style % 8}" + (" dashed" if self.style // 8 % 3 == 1 else
                                           " dotted" if self.style // 8 % 3 == 2 else "")
        return self.style


@dataclasses.dataclass
class Mark:
    """What happened at a place on the x axis: "round", "failed", "resume"."""
    x: float
    kind: str
    text: str


def escape(text):
    return html.escape(str(text), quote=True)


def embedded(value):
    """JSON that may stand inside a <script>."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def text(x, y, words, anchor="middle", css="tick"):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{css}">' \
        f"{escape(words)}</text>"


def thinned(x, y, most):
    """At most about `most` points: of each stretch the first, the lowest, the highest and the
    last, and a value that is not finite. Returns x, y and how many points a stretch had."""
    if len(x) <= most:
        return x, y, 1
    size = -(-4 * len(x) // most)
    kept = []
    for begin in range(0, len(x), size):
        stretch = range(begin, min(begin + size, len(x)))
        finite = [i for i in stretch if y[i] is not None]
        chosen = {stretch[0], stretch[-1]}
        if finite:
            chosen |= {min(finite, key=lambda i: y[i]), max(finite, key=lambda i: y[i])}
        if len(finite) < len(stretch):
            chosen.add(next(i for i in stretch if y[i] is None))
        kept += sorted(chosen)
    return [x[i] for i in kept], [y[i] for i in kept], size


def running_mean(y, window):
    """Over `window` values, fewer at the ends; what is not finite stays out and stays None."""
    half, sums, counts = window // 2, [0.0], [0]
    for value in y:
        sums.append(sums[-1] + (value or 0))
        counts.append(counts[-1] + (value is not None))
    means = []
    for i, value in enumerate(y):
        low, high = max(0, i - half), min(len(y), i + half + 1)
        means.append(None if value is None else
                     (sums[high] - sums[low]) / (counts[high] - counts[low]))
    return means


def path_of(x, y, at_x, at_y):
    parts, pen_up = [], True
    for a, b in zip(x, y):
        if b is None:
            pen_up = True
        else:
            parts.append(f"{'M' if pen_up else 'L'}{at_x(a):.1f} {at_y(b):.1f}")
            pen_up = False
    return "".join(parts)


def axes(at_x, at_y, width, height, x_label):
    out = []
    for value, label in at_y.ticks:
        y = at_y(value)
        out.append(f'<line x1="{LEFT}" x2="{width - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" '
                   'class="grid"/>' + text(LEFT - 8, y + 4, label, "end"))
    bottom = height - BOTTOM
    out.append(f'<line x1="{LEFT}" x2="{width - RIGHT}" y1="{bottom}" y2="{bottom}" '
               'class="axis"/>')
    for value, label in at_x.ticks:
        x = at_x(value)
        out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}" '
                   'class="axis"/>' + text(x, bottom + 17, label))
    out.append(text(width - RIGHT, height - 5, x_label, "end", "label"))
    return out


def marks_svg(marks, at_x, height):
    out, bottom = [], height - BOTTOM
    for mark in marks:
        x = at_x(mark.x)
        out.append(f'<g class="mark {mark.kind}"><line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" '
                   f'y2="{bottom}"/>')
        if mark.kind != "round":
            out.append(f'<path d="M{x - 5:.1f} {TOP - 4}h10l-5 8z"/>')
        out.append(f"<title>{escape(mark.text)}</title></g>")
    return out


def buttons(series):
    """A button for each name, which switches its lines off and on."""
    names = {}
    for one in series:
        names.setdefault(one.name, one)
    return [f'<button type="button" data-s="{escape(n)}" class="{one.css}" aria-pressed="true">'
            f'<svg width="22" height="10" aria-hidden="true"><path d="M1 5H21" class="line '
            f'{one.css}"/></svg>{escape(n)}</button>' for n, one in names.items()]


def legend(series, marks=()):
    """For one line there is nothing to tell apart."""
    items = buttons(series)
    if len(items) > MOST_NAMES:
        items = buttons([s for s in series if not isinstance(s.style, int)])
    elif len(items) == 1:
        items = []
    told = {"round": "a round", "failed": "a round that not all groups took part in",
            "resume": "resumed"}
    for kind, words in told.items():
        if any(m.kind == kind for m in marks):
            items.append(f'<span class="key mark {kind}"><svg width="12" height="12" '
                         'aria-hidden="true"><line x1="6" x2="6" y1="0" y2="12"/>' +
                         ('<path d="M1 0h10l-5 8z"/>' if kind != "round" else "") +
                         f"</svg>{words}</span>")
    return f'<div class="legend">{"".join(items)}</div>' if items else ""


def figure(title, unit, body, width, data=None, before="", note=""):
    title = f'<b>{escape(title)}</b>' + (f" <i>{escape(unit)}</i>" if unit else "")
    script = f'<script type="application/json">{embedded(data)}</script>' if data else ""
    size = {FULL: "full", HALF: "half", THIRD: "third"}[width]
    return f'<figure class="chart {size}"><figcaption>{title}</figcaption>{before}' \
        f'<div class="plot">{body}</div>{script}' + \
        (f'<p class="note">{escape(note)}</p>' if note else "") + "</figure>"


def svg(width, height, parts, label):
    return f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" ' \
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'


def line_chart(title, series, unit="", width=FULL, height=None, format="number", log=None,
               low=None, high=None, marks=(), x_label="step", note="", x_range=None):
    """Nothing if no series has a finite value."""
    named, series = series, [s for s in series if s.x]
    if not any(v is not None for s in series for v in s.y):
        return ""
    height = height or (330 if width == FULL else 240 if width == HALF else 210)
    values = [v for s in series for v in s.y]
    at_y = scale.y_scale(values, height - BOTTOM, TOP, format, log, low, high,
                         6 if height > 300 else 4)
    begin, end = x_range or (min(s.x[0] for s in series), max(s.x[-1] for s in series))
    at_x = scale.Linear(begin, end, LEFT, width - RIGHT, integers=True, fixed=True,
                        ticks=width // 70)
    notes = [note] if note else []
    rounds = sum(m.kind == "round" for m in marks)
    if rounds > MOST_ROUNDS:
        marks = [m for m in marks if m.kind != "round"]
        notes.append(f"There were {rounds} rounds, too many to mark each.")
    parts = axes(at_x, at_y, width, height, x_label) + marks_svg(marks, at_x, height)
    told, stretch, lost = [], 1, 0
    for s in series:
        x, y, size = thinned(s.x, s.y, max(200, MOST_POINTS // max(4, len(series))))
        stretch = max(stretch, size)
        parts += line_svg(s, x, y, at_x, at_y, x_label)
        # Of values behind their own mean hovering tells the values.
        if s.faint or not any(o.faint and o.name == s.name for o in series):
            told.append({"name": s.name, "css": s.css, "x": x, "y": [rounded(v) for v in y]})
            lost += sum(v is None for v in s.y)
    if lost:
        notes.append(f"{lost} values are not finite: a cross at the top.")
    if stretch > 1:
        notes.append(f"Thinned: of {stretch} values in a row the first, the last, the lowest and "
                     "the highest are drawn.")
    return figure(title, unit, svg(width, height, parts, title), width,
                  hover("lines", x_label, format, at_x, at_y, height, told),
                  legend(named, marks), " ".join(notes))


def line_svg(s, x, y, at_x, at_y, x_label):
    faint = " faint" if s.faint else ""
    parts = [f'<g data-s="{escape(s.name)}"><path d="{path_of(x, y, at_x, at_y)}" '
             f'class="line {s.css}{faint}"/>']
    for i, (a, b) in enumerate(zip(x, y)):
        alone = b is not None and (i == 0 or y[i - 1] is None) and \
            (i + 1 == len(y) or y[i + 1] is None)
        if b is None:
            parts.append(f'<path d="M{at_x(a) - 4:.1f} {TOP}l8 8m0 -8l-8 8" class="nan {s.css}">'
                         f"<title>{escape(s.name)}: not finite at {x_label} {a}</title></path>")
        elif alone or (s.points and len(x) <= 40):
            parts.append(f'<circle cx="{at_x(a):.1f}" cy="{at_y(b):.1f}" r="3" '
                         f'class="dot {s.css}"/>')
    return parts + ["</g>"]


def rounded(value):
    return None if value is None else float(f"{value:.5g}")


def hover(kind, x_label, format, at_x, at_y, height, series):
    """What the page's script needs to tell the values below the pointer."""
    def ends(axis):
        return [axis.low, axis.high, round(axis.begin, 2), round(axis.end, 2)]
    return {"kind": kind, "x": x_label, "format": format, "sx": ends(at_x), "sy": ends(at_y),
            "base": getattr(at_y, "base", 0), "top": TOP, "bottom": height - BOTTOM,
            "series": series}


def with_means(series, from_points=80):
    """Noisy lines faint with their running mean before them, and the note that says so."""
    longest = max((len(s.y) for s in series), default=0)
    if longest < from_points:
        return series, ""
    window = 2 * max(2, longest // 100) + 1
    means = [dataclasses.replace(s, y=running_mean(s.y, window)) for s in series]
    return [dataclasses.replace(s, faint=True) for s in series] + means, \
        f"Bold: the running mean of {window} values; faint behind it: the values."


def stacked_bars(title, columns, parts_of, styles, unit="", width=FULL, height=240,
                 format="bytes", x_label="round", note="", most=160):
    """`columns`: x of each bar; `parts_of`: {name: heights}; neighbours are averaged above
    `most` bars."""
    per_bar = -(-len(columns) // most) if columns else 1
    names = [n for n in parts_of if any(parts_of[n])]
    if not names:
        return ""

    def mean(values, i):
        near = values[i:i + per_bar]
        return sum(near) / len(near)
    starts = range(0, len(columns), per_bar)
    bars = [{n: mean(parts_of[n], i) for n in names} for i in starts]
    at_y = scale.y_scale([sum(b.values()) for b in bars], height - BOTTOM, TOP, format,
                         log=False, low=0, ticks=4)
    at_x = scale.Linear(columns[0] - 0.5, columns[-1] + 0.5, LEFT, width - RIGHT, integers=True,
                        fixed=True, ticks=width // 70)
    out = axes(at_x, at_y, width, height, x_label)
    told = {n: {"name": n, "css": f"c{styles[n]}", "x": [], "y": []} for n in names}
    labels = []
    gap = min(3, (width - LEFT - RIGHT) / len(bars) * 0.2)
    for i, bar in zip(starts, bars):
        last = columns[min(i + per_bar, len(columns)) - 1]
        labels.append(str(last) if per_bar == 1 else f"{columns[i]} to {last}")
        left, right = at_x(columns[i] - 0.5) + gap / 2, at_x(last + 0.5) - gap / 2
        base = 0
        for n in names:
            top = at_y(base + bar[n])
            out.append(f'<rect x="{left:.1f}" y="{top:.1f}" width="{max(0.5, right - left):.1f}" '
                       f'height="{max(0, at_y(base) - top):.1f}" class="fill c{styles[n]}"/>')
            base += bar[n]
            told[n]["x"].append((columns[i] + last) / 2)
            told[n]["y"].append(rounded(bar[n]))
    if per_bar > 1:
        note += f" A bar is the mean of {per_bar} rounds."
    keys = "".join(f'<span class="key"><i class="box c{styles[n]}"></i>{escape(n)}</span>'
                   for n in names)
    data = hover("bars", x_label, format, at_x, at_y, height, list(told.values()))
    return figure(title, unit, svg(width, height, out, title), width, data | {"labels": labels},
                  f'<div class="legend">{keys}</div>', note.strip())


def totals(title, rows, width=FULL, note=""):
    """Horizontal bars, to scale: (name, bytes, text behind it, [(bytes, colour)])."""
    line, left, behind = 34, 150, 190
    height = line * len(rows) + 6
    most = max(r[1] for r in rows) or 1
    room = width - left - behind
    out = []
    for i, (name, value, words, parts) in enumerate(rows):
        y, x = i * line + 6, float(left)
        out.append(text(left - 10, y + 16, name, "end", "name"))
        for count, colour in parts:
            wide = room * count / most
            out.append(f'<rect x="{x:.2f}" y="{y}" width="{wide:.2f}" height="22" '
                       f'class="fill {colour}"/>')
            x += wide
        # A bar that is too thin to be seen still shows where it is.
        if room * value / most < 1.5:
            out.append(f'<rect x="{left}" y="{y}" width="1.5" height="22" '
                       f'class="fill {parts[0][1] if parts else "reference"}"/>')
        out.append(text(max(x, left + 1.5) + 8, y + 16, words, "start", "value"))
    return figure(title, "", svg(width, height, out, title), width, note=note)
