"""Heat maps: a pixel a value as PNG, scaled up by an SVG that has the axes."""
import base64
import math
import struct
import zlib

import report_charts as charts
import report_scale as scale

# Values are multiples of an even share, from 1/8 to 8 on a logarithmic scale; what is equal to 1
# has the colour of the page. Index 0: nothing known, 1: zero.
STEPS = 240
LIGHT = [(8, 48, 107), (33, 113, 181), (158, 202, 225), (247, 247, 245), (253, 190, 120),
         (217, 95, 14), (127, 39, 4)]
DARK = [(200, 228, 255), (96, 170, 240), (38, 84, 130), (30, 33, 39), (130, 74, 22),
        (240, 140, 40), (255, 224, 178)]
NONE_LIGHT, NONE_DARK = (255, 255, 255), (22, 24, 29)
ZERO_LIGHT, ZERO_DARK = (4, 20, 50), (235, 246, 255)
MOST_COLUMNS = 240
LEFT, RIGHT, TOP, BOTTOM = 46, 16, 7, 34


def palette(stops, none, zero):
    colours = [none, zero]
    for i in range(STEPS + 1):
        at = i / STEPS * (len(stops) - 1)
        low = min(int(at), len(stops) - 2)
        colours.append(tuple(round(a + (b - a) * (at - low))
                             for a, b in zip(stops[low], stops[low + 1])))
    return colours


def index_of(value):
    if value is None:
        return 0
    if value <= 0:
        return 1
    return 2 + round((min(3, max(-3, math.log2(value))) + 3) / 6 * STEPS)


def png(rows, colours):
    """Rows of indices as a PNG of one byte a pixel."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + \
            struct.pack(">I", zlib.crc32(kind + data))
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 3, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + \
        chunk(b"PLTE", b"".join(bytes(c) for c in colours)) + \
        chunk(b"IDAT", zlib.compress(b"".join(b"\0" + bytes(r) for r in rows), 9)) + \
        chunk(b"IEND", b"")


def image(rows, x, y, width, height):
    out = []
    for theme, colours in (("light", palette(LIGHT, NONE_LIGHT, ZERO_LIGHT)),
                           ("dark", palette(DARK, NONE_DARK, ZERO_DARK))):
        data = base64.b64encode(png(rows, colours)).decode()
        out.append(f'<image class="{theme}" x="{x}" y="{y}" width="{width}" height="{height}" '
                   f'preserveAspectRatio="none" href="data:image/png;base64,{data}"/>')
    return "".join(out)


def merged(values, most):
    """Neighbouring columns averaged until there are at most `most`; how many make one."""
    size = -(-len(values[0]) // most)
    if size == 1:
        return values, 1

    def mean(near):
        known = [v for v in near if v is not None]
        return sum(known) / len(known) if known else None
    return [[mean(row[i:i + size]) for i in range(0, len(row), size)] for row in values], size


def heat_map(title, values, columns, row_word, width, owners=None, names=(), unit="", words="",
             height=None):
    """`values`: for each row its multiples of an even share by column, None where not known;
    `columns`: their rounds; `row_word`: what a row is, and the names of the rows unless they are
    numbers; `owners`: for each row the places in `names` of the groups that hold it."""
    values, size = merged(values, MOST_COLUMNS)
    shown = columns[::size]
    cell = max(2, min(11, 176 // len(values)))
    inner = height or max(44, cell * len(values))
    total = inner + TOP + BOTTOM
    strips = max(map(len, owners)) if owners and len(names) <= 8 else 0
    if strips > 4 or owners and all(len(o) == len(names) for o in owners):
        strips = 0
    left = LEFT + 5 * strips + (3 if strips else 0)
    wide = width - left - RIGHT
    out = [image([[index_of(v) for v in row] for row in values], left, TOP, wide, inner)]
    high = inner / len(values)
    for row, holders in enumerate(owners if strips else ()):
        for place, group in enumerate(sorted(holders)):
            out.append(f'<rect x="{LEFT + 5 * place}" y="{TOP + row * high:.2f}" width="4" '
                       f'height="{high:.2f}" class="fill c{group}"/>')
    every = max(1, math.ceil(len(values) / max(1, inner // 16)))
    every = next(n for n in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024) if n >= every)
    for row in range(0, len(values), every):
        out.append(charts.text(LEFT - 6, TOP + (row + 0.5) * high + 4, row_of(row, row_word),
                               "end"))
    bottom = TOP + inner
    axis = scale.Linear(columns[0], columns[-1], 0, 1, integers=True, fixed=True,
                        ticks=max(2, wide // 90))
    for value, label in axis.ticks:
        if value in columns:
            x = left + (columns.index(value) + 0.5) / len(columns) * wide
            out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}" '
                       'class="axis"/>' + charts.text(x, bottom + 16, label))
    out.append(charts.text(width - RIGHT, total - 3, "round", "end", "label"))
    out.append(charts.text(LEFT - 6, total - 3, row_word[0], "end", "label"))
    packed = b"".join(struct.pack("<H", 65535 if v is None else round(1000 * min(65, max(0, v))))
                      for row in values for v in row)
    data = {"kind": "heat", "left": left, "top": TOP, "wide": wide, "high": inner,
            "rows": [row_of(r, row_word) for r in range(len(values))], "row": row_word[0],
            "columns": shown, "size": size, "words": words,
            "held": [", ".join(names[g] for g in o) for o in owners] if owners else [],
            "values": base64.b64encode(packed).decode()}
    return charts.figure(title, unit, charts.svg(width, total, out, title), width, data)


def row_of(row, row_word):
    """The name of a row: its number, or what the second of the pair lists."""
    return str(row_word[1][row]) if row_word[1] else str(row)


def scale_bar(words):
    """The legend of all heat maps."""
    width, left = 300, 60
    cells = [[2 + i for i in range(STEPS + 1)]]
    out = [f'<g>{image([[1]], 0, 0, 16, 12)}</g>', charts.text(24, 11, "none", "start"),
           image(cells, left, 0, width, 12)]
    for value, label in ((1 / 8, "\u215b"), (1 / 4, "\u00bc"), (1 / 2, "\u00bd"), (1, "1"),
                         (2, "2"), (4, "4"), (8, "8\u00d7")):
        x = left + (math.log2(value) + 3) / 6 * width
        out.append(charts.text(x, 26, label))
    return f'<div class="scale">{charts.svg(left + width + 12, 30, out, words)}' \
        f"<span>{charts.escape(words)}</span></div>"
