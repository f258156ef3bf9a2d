#!/usr/bin/env python3
"""Brings README's tables of keys, configs/fomoe.schema.json and the line that names the schema in every
config up to what fomoe-train's table of keys says.

usage: config_docs.py FOMOE_TRAIN [--check]    --check changes nothing and fails if something is stale
"""
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"<!-- keys ([^ ]+) -->\n.*?<!-- end of keys -->\n", re.S)
MODELINE = "# yaml-language-server: $schema="


def printed(program, form):
    return subprocess.run([program, f"--help-config={form}"], check=True, capture_output=True,
                          text=True).stdout


def wanted(program):
    """path -> text, of every file that is made, in part or as a whole, from the table of keys."""
    tables = {match.group(1): match.group(0)
              for match in BLOCK.finditer(printed(program, "markdown"))}
    readme = (ROOT / "README.md").read_text()
    missing = set(tables) - {match.group(1) for match in BLOCK.finditer(readme)}
    if missing:
        sys.exit("README.md lacks the blocks <!-- keys SECTION --> ... <!-- end of keys --> of "
                 + ", ".join(sorted(missing)))
    schema = ROOT / "configs/fomoe.schema.json"
    files = {ROOT / "README.md": BLOCK.sub(lambda match: tables.get(match.group(1), ""), readme),
             schema: printed(program, "json")}
    for path in (ROOT / "configs").rglob("*.yaml"):
        line = MODELINE + os.path.relpath(schema, path.parent)
        old = [each for each in path.read_text().splitlines() if not each.startswith(MODELINE)]
        files[path] = "\n".join([line] + old) + "\n"
    return files


def validate():
    """Every shipped config against the schema, where the packages are there."""
    try:
        import json

        import jsonschema
        import yaml
    except ImportError:
        return []
    check = jsonschema.Draft7Validator(json.loads((ROOT / "configs/fomoe.schema.json").read_text()))
    return [f"{path.relative_to(ROOT)}: {error.json_path}: {error.message}"
            for path in (ROOT / "configs").rglob("*.yaml")
            for error in check.iter_errors(yaml.safe_load(path.read_text()))]


def main():
    if len(sys.argv) not in (2, 3) or sys.argv[2:] not in ([], ["--check"]):
        sys.exit(__doc__)
    stale = {path: text for path, text in wanted(sys.argv[1]).items()
             if not path.exists() or path.read_text() != text}
    if sys.argv[2:]:
        for path in sorted(stale):
            print(f"{path.relative_to(ROOT)} is stale; run tools/config_docs.py {sys.argv[1]}")
        errors = validate()
        print("\n".join(errors), end="\n" if errors else "")
        return 1 if stale or errors else 0
    for path, text in stale.items():
        path.write_text(text)
        print("wrote", path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
