"""Reads the config.yaml that a run keeps: block maps, lists and flow values, nothing more of YAML.

Every value becomes one line of a flat table: topology.groups[0].ranks -> 2.
"""
import re

INDENT = re.compile(r"^( *)(- )?(.*)$")


def split_comment(line):
    quote = ""
    for i, c in enumerate(line):
        if quote:
            quote = "" if c == quote else quote
        elif c in "\"'" and (i == 0 or line[i - 1] in " [{,:"):
            quote = c
        elif c == "#" and (i == 0 or line[i - 1] == " "):
            return line[:i].rstrip(), line[i + 1:].strip()
    return line.rstrip(), ""


def split_flow(text):
    """The parts of a flow map or list, cut at commas outside of brackets and quotes."""
    parts, depth, quote, begin = [], 0, "", 0
    for i, c in enumerate(text):
        if quote:
            quote = "" if c == quote else quote
        elif c in "\"'":
            quote = c
        elif c in "[{":
            depth += 1
        elif c in "]}":
            depth -= 1
        elif c == "," and depth == 0:
            parts.append(text[begin:i].strip())
            begin = i + 1
    return [p for p in parts + [text[begin:].strip()] if p]


def unquoted(text):
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    return text


def key_and_value(text):
    """("key", "value") of `key: value` or `key:`, else None."""
    match = re.match(r"""^("[^"]*"|'[^']*'|[^\s:"'{\[][^:]*?)\s*:(?:\s+(.*))?$""", text)
    return (unquoted(match.group(1)), (match.group(2) or "").strip()) if match else None


def put(table, path, value):
    """A scalar, or what a flow value holds: maps by key, lists as they stand."""
    if value.startswith("{") and value.endswith("}"):
        for part in split_flow(value[1:-1]):
            pair = key_and_value(part) or (part, "")
            put(table, f"{path}.{pair[0]}", pair[1])
    else:
        table[path] = unquoted(value)


def note(table, known, comment, comments):
    """For the values that came after the first `known`."""
    if comments is not None and comment:
        comments.update({key: comment for key in list(table)[known:]})


def flat(text, comments=None):
    """The table; the comment behind each value, which says where it comes from, in `comments`."""
    table = {}
    stack = []  # (indent, path) of the maps and lists around
    counts = {}
    for line in text.splitlines():
        line, comment = split_comment(line)
        known = len(table)
        if not line.strip() or line.startswith(("---", "%")):
            continue
        spaces, dash, rest = INDENT.match(line).groups()
        indent = len(spaces)
        # The items of a list may stand as deep as its key.
        while stack and (stack[-1][0] > indent or (stack[-1][0] == indent and not dash) or
                         (stack[-1][0] == indent and stack[-1][2])):
            stack.pop()
        path = stack[-1][1] if stack else ""
        if dash:
            item = counts.get(path, 0)
            counts[path] = item + 1
            path = f"{path}[{item}]"
            pair = None if rest.startswith("{") else key_and_value(rest)
            if not pair:
                put(table, path, rest)
                note(table, known, comment, comments)
                continue
            stack.append((indent, path, True))
            indent += 2
        else:
            pair = key_and_value(rest)
        if not pair:
            continue
        key = f"{path}.{pair[0]}" if path else pair[0]
        if pair[1]:
            put(table, key, pair[1])
            note(table, known, comment, comments)
        else:
            stack.append((indent, key, False))
    return table


def group_names(table):
    names, i = [], 0
    while f"topology.groups[{i}].name" in table:
        names.append(table[f"topology.groups[{i}].name"])
        i += 1
    return names


def integer(text):
    try:
        return int(text)
    except (TypeError, ValueError):
        return None


def differences(tables):
    """Keys whose values differ, in the order of the files, each with its values (None: not there),
    and the number of keys that are equal in all."""
    keys = list(dict.fromkeys(key for table in tables for key in table))
    rows = [(key, [table.get(key) for table in tables]) for key in keys]
    differ = [row for row in rows if len(set(row[1])) > 1]
    return differ, len(rows) - len(differ)
