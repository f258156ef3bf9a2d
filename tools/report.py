#!/usr/bin/env python3
"""Writes one self-contained HTML page about one or several runs of fomoe-train.

The runs may be going on: the page shows what is there. Exit codes: 0 written, 2 usage, 3 a folder
that is no run, or a page that cannot be written.
"""
import argparse
import pathlib
import sys
import time

import report_data
import report_page


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN",
                        help="a run's folder, such as runs/quickstart")
    parser.add_argument("-o", "--out", type=pathlib.Path, metavar="FILE",
                        help="the page (report.html in the folder of the first run)")
    arguments = parser.parse_args()
    try:
        runs = report_data.read_runs(arguments.runs)
    except report_data.NotARun as error:
        print(f"report.py: {error}", file=sys.stderr)
        return 3
    out = arguments.out or pathlib.Path(arguments.runs[0]) / "report.html"
    try:
        out.write_text(report_page.page(runs, time.time()), encoding="utf-8")
    except OSError as error:
        print(f"report.py: cannot write {out}: {error.strerror}", file=sys.stderr)
        return 3
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
