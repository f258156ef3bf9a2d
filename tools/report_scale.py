"""Axes: scales, ticks at round numbers, and numbers in words."""
import math

BYTE_UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]


def short(value, digits=4):
    """1234567 -> 1.235M; at most `digits` digits that count."""
    if value is None:
        return "not finite"
    if value == 0:
        return "0"
    size = abs(value)
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            return f"{trimmed(value / (1e3 if unit == 'k' else limit), digits)}{unit}"
    if size < 1e-4:
        return f"{value:.{min(2, digits - 1)}e}".replace("e-0", "e-")
    return trimmed(value, digits)


def trimmed(value, digits):
    text = f"{value:.{digits}g}"
    if "e" in text:
        text = f"{value:.0f}"
    return text


def bytes_text(value):
    """In the unit that fits, three digits."""
    if value is None:
        return "not finite"
    power = 0
    while abs(value) >= 1024 and power < len(BYTE_UNITS) - 1:
        value, power = value / 1024, power + 1
    digits = 0 if value == int(value) or abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f} {BYTE_UNITS[power]}"


def duration(seconds):
    s = round(max(0, seconds))
    if s < 60:
        return f"{s} s"
    if s < 3600:
        return f"{s // 60} min {s % 60:02} s"
    if s < 86400:
        return f"{s // 3600} h {s % 3600 // 60:02} min"
    return f"{s // 86400} d {s % 86400 // 3600:02} h"


def ratio(value):
    """How many times: 359x, 11.2x, 2.03x."""
    return f"{value:.0f}\u00d7" if value >= 100 else f"{value:.1f}\u00d7" if value >= 10 \
        else f"{value:.2f}\u00d7"


FORMATS = {"number": short, "bytes": bytes_text, "percent": lambda v: f"{short(100 * v, 3)} %"
           if v is not None else "not finite"}


def nice_step(span, most, bases=(1, 2, 2.5, 5, 10)):
    """The smallest 1, 2, 2.5 or 5 times a power of ten with at most `most` steps in the span."""
    rough = span / max(1, most)
    power = 10 ** math.floor(math.log10(rough))
    return next(b * power for b in bases if b * power >= rough * (1 - 1e-9))


class Linear:
    def __init__(self, low, high, begin, end, format="number", ticks=5, integers=False,
                 fixed=False):
        if high <= low:
            room = abs(low) * 0.1 or 1
            low, high = (low, low + room) if integers or low == 0 else (low - room, high + room)
        self.format = format
        unit = 1.0
        if format == "bytes":
            while high / unit >= 1024 and unit < 1024 ** 6:
                unit *= 1024
        step = nice_step((high - low) / unit, ticks) * unit
        if integers:
            step = max(1, nice_step(high - low, ticks))
            if step != int(step):
                step = nice_step(high - low, ticks, (1, 2, 5, 10))
        if not fixed:
            low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        self.low, self.high, self.begin, self.end = low, high, begin, end
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        self.ticks = [(n * step, self.label(n * step, step)) for n in range(first, last + 1)]

    def label(self, value, step):
        if abs(value) < step * 1e-6:
            return "0"
        if self.format == "bytes":
            power = min(6, int(math.log2(max(self.high, 1)) / 10))
            return f"{trimmed(value / 1024 ** power, 4)} {BYTE_UNITS[power]}"
        if self.format == "percent":
            value, step = 100 * value, 100 * step
        if abs(value) >= 1e4 or step >= 1e3:
            text = short(value)
        else:
            # As many decimals as the step needs, equal on the whole axis.
            decimals = max(0, -math.floor(math.log10(step) + 1e-9))
            if abs(step * 10 ** decimals - round(step * 10 ** decimals)) > 1e-6:
                decimals += 1
            text = f"{value:.{decimals}f}" if decimals < 6 else short(value)
        return text + (" %" if self.format == "percent" else "")

    def __call__(self, value):
        return self.begin + (value - self.low) / (self.high - self.low) * (self.end - self.begin)


class Log:
    def __init__(self, low, high, begin, end, format="number", ticks=5):
        base = 2 if format == "bytes" else 10
        first = math.floor(math.log(low, base) + 1e-9)
        last = max(first + 1, math.ceil(math.log(high, base) - 1e-9))
        every = max(1, math.ceil((last - first) / ticks))
        if format == "bytes" and every > 1:
            every = math.ceil(every / 5) * 5 if every > 2 else 2
        last = first + math.ceil((last - first) / every) * every
        self.low, self.high, self.begin, self.end = first, last, begin, end
        self.base = base
        name = bytes_text if format == "bytes" else short
        powers = [base ** n if n >= 0 else base ** float(n)
                  for n in range(first, last + 1, every)]
        if format == "number" and last - first <= 2:
            powers = [m * 10.0 ** n for n in range(first, last + 1) for m in (1, 2, 5)
                      if m * 10.0 ** n <= 10.0 ** last * 1.001]
        self.ticks = [(p, name(p)) for p in powers]

    def __call__(self, value):
        value = max(value, self.base ** float(self.low))
        part = (math.log(value, self.base) - self.low) / (self.high - self.low)
        return self.begin + part * (self.end - self.begin)


def y_scale(values, begin, end, format="number", log=None, low=None, high=None, ticks=5):
    """From below to above; log: None decides by how far apart the values are."""
    values = [v for v in values if v is not None]
    positive = [v for v in values if v > 0]
    if log is None:
        log = len(positive) == len(values) and positive and max(positive) > 50 * min(positive)
    if log and positive:
        return Log(min(positive), max(positive), begin, end, format, ticks)
    bottom = min(values, default=0) if low is None else low
    top = max(values, default=1) if high is None else high
    return Linear(bottom, max(top, bottom), begin, end, format, ticks)
