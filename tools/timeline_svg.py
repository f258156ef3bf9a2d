"""Draws timelines as SVG: a lane for the host and one for each queue."""
import bisect
import html
import zlib

import timeline_model as model

LANE, GAP, LEFT, TOP = 34, 14, 90, 46
UNIT_WIDTH = 58  # pixels of a box, on average
COLORS = ["#bcd7f0", "#c8e6c9", "#d9cdee", "#f3d6e4", "#cfe8ea", "#e3e2b4", "#d3d9e6", "#dfe9c2"]
TRANSFER, FILL, WAIT = "#f6b26b", "#dddddd", "#d64545"


def durations(calls, estimate):
    """Seconds of each call by its identity; without an estimate each op is one unit."""
    parts = {}
    for c in calls:
        if c.works and c.op:
            parts[c.call] = parts.get(c.call, 0) + 1
    seconds = {}
    for c in calls:
        if not c.works:
            seconds[id(c)] = 0.0
        elif not estimate:
            seconds[id(c)] = 1 / parts[c.call] if c.op else 1.0
        elif c.op and not c.transfers:
            seconds[id(c)] = estimate["ops"].get(c.op, estimate["launch"]) / parts[c.call]
        else:
            rate = estimate["link"] if c.transfers else estimate["memory"]
            seconds[id(c)] = estimate["launch"] + c.bytes / rate
    return seconds


class Schedule:
    """When all happens if every operation begins as soon as what comes before it is done."""
    def __init__(self, calls, estimate):
        self.boxes = []  # [stream, title, begin, end, color, names of its operations]
        self.waits = []  # (begin, end, title), of the host
        self.arrows = []  # (stream, time, stream, time)
        seconds = durations(calls, estimate)
        done, host = {}, 0.0  # done: by (stream, number)
        latest, pending, last = {}, [], {}

        def after(clock):
            return max((latest_until(s, n) for s, n in enumerate(clock)), default=0.0)

        def latest_until(stream, number):
            ends = latest.get(stream, [])
            i = bisect.bisect_right(ends, (number, float("inf")))
            return ends[i - 1][1] if i else 0.0

        for c in calls:
            if c.do == "host wait":
                end = max(host, after(c.until))
                self.waits.append((host, end, c.name))
                host = end
            elif c.do == "stream wait" and c.source[0] != c.stream:
                pending.append((c.stream, c.source))
            elif c.number:
                begin = max(host, after(c.before))
                end = begin + seconds[id(c)]
                done[(c.stream, c.number)] = end
                latest.setdefault(c.stream, []).append((c.number, end))
                if not c.works:
                    continue
                for stream, source in [p for p in pending if p[0] == c.stream]:
                    if tuple(source) in done:
                        self.arrows.append((source[0], done[tuple(source)], stream, begin))
                pending = [p for p in pending if p[0] != c.stream]
                box = last.get(c.stream)
                if box and c.op and box[6] == c.call:
                    box[3] = end
                    box[5].append(c.name)
                else:
                    color = TRANSFER if c.transfers else FILL if not c.op else \
                        COLORS[zlib.crc32(c.op.encode()) % len(COLORS)]
                    box = [c.stream, c.title, begin, end, color, [c.name], c.call]
                    last[c.stream] = box
                    self.boxes.append(box)
        self.end = max([b[3] for b in self.boxes] + [w[1] for w in self.waits] + [1e-12])


def text(x, y, words, anchor="start", size=11):
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">' \
        f"{html.escape(words)}</text>"


def draw_one(title, calls, names, estimate, y):
    """SVG elements, the width and the next y."""
    plan = Schedule(calls, estimate)
    scale = UNIT_WIDTH * max(1, len(plan.boxes)) / plan.end if estimate else UNIT_WIDTH
    at = lambda time: LEFT + time * scale
    out = [text(8, y + 16, title, size=13)]
    y += 26
    streams = sorted({b[0] for b in plan.boxes})
    lane = {stream: y + (i + 1) * (LANE + GAP) for i, stream in enumerate(streams)}
    bottom = y + (len(streams) + 1) * (LANE + GAP)
    out.append(text(8, y + LANE / 2 + 4, "host"))
    for stream in streams:
        out.append(text(8, lane[stream] + LANE / 2 + 4, names[stream]))
        out.append(f'<line x1="{LEFT}" x2="{at(plan.end):.1f}" y1="{lane[stream] + LANE + 4}" '
                   f'y2="{lane[stream] + LANE + 4}" stroke="#ccc"/>')
    for phase, part in model.phases(calls):
        first = next((c for c in part if c.works), None)
        box = first and next((b for b in plan.boxes if b[0] == first.stream and
                              b[6] == first.call and b[1] == first.title), None)
        if box:
            out.append(text(at(box[2]), y + 10, phase))
    for stream, name, begin, end, color, inside, _ in plan.boxes:
        width = max(1.0, (end - begin) * scale - 1)
        tip = f"{name}: {', '.join(inside)}" + (
            f"; estimate {1e6 * (end - begin):.1f} us" if estimate else "")
        out.append(f'<g><rect x="{at(begin):.1f}" y="{lane[stream]}" width="{width:.1f}" '
                   f'height="{LANE}" fill="{color}" stroke="#888" stroke-width="0.5"/>'
                   f"<title>{html.escape(tip)}</title>")
        fits = int(width / 6)
        if fits >= 3:
            name = name.replace("copy to the ", "to ")
            shown = name if len(name) <= fits else name[:fits - 1] + "\u2026"
            out.append(text(at(begin) + 2, lane[stream] + LANE / 2 + 4, shown, size=10))
        out.append("</g>")
    for source, begin, target, end in plan.arrows:
        down = lane[target] > lane[source]
        out.append(f'<line x1="{at(begin):.1f}" y1="{lane[source] + (LANE if down else 0)}" '
                   f'x2="{at(end):.1f}" y2="{lane[target] + (0 if down else LANE)}" '
                   'stroke="#333" marker-end="url(#arrow)"/>')
    for begin, end, name in plan.waits:
        width = max(3.0, (end - begin) * scale)
        out.append(f'<rect x="{at(begin):.1f}" y="{y + 16}" width="{width:.1f}" '
                   f'height="{LANE - 16}" fill="{WAIT}" fill-opacity="0.25" stroke="{WAIT}"/>')
        out.append(f'<line x1="{at(end):.1f}" x2="{at(end):.1f}" y1="{y + 16}" y2="{bottom}" '
                   f'stroke="{WAIT}" stroke-dasharray="4 3"/>')
        out.append(text(at(end) - 4, y + LANE - 4, f"host waits: {name}", "end", 10))
    return out, at(plan.end) + 20, bottom + GAP


def draw(timelines, names, estimate=None):
    """`timelines`: (title, calls) for each rank. `estimate`: what tools/estimate.py --json wrote."""
    width_of = f"estimate for {estimate['device']}, nothing measured" if estimate else \
        "one unit an op, no times"
    body, width, y = [], 900, TOP
    for title, calls in timelines:
        out, right, y = draw_one(title, calls, names, estimate, y)
        body += out
        width = max(width, right)
    head = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{y:.0f}" '
            'font-family="sans-serif">', '<rect width="100%" height="100%" fill="white"/>',
            '<defs><marker id="arrow" markerWidth="8" markerHeight="8" refX="7" refY="4" '
            'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#333"/></marker></defs>',
            text(8, 20, f"Widths: {width_of}. Each operation begins when what comes before it is "
                        "done. Arrows: dependencies between queues; red: the host waits.")]
    return "\n".join(head + body + ["</svg>\n"])
