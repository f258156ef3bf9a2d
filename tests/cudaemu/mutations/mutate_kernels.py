#!/usr/bin/env python3
"""Damages the plugin's kernels on purpose and fails unless the cases of the ops notice every time.

The .toml files in kernels/ list the mutants: a name, a file of cuda/, a text that the file has
exactly once, what takes its place, and the ops whose cases must fail: the small ones, or other
`cases` of kernels/cases.cpp. A mutant's source is compiled to PTX alone and linked with the
plugin's other objects. Prints a line per mutant: what caught it, and how.
"""
import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys

from mutants import Failure, damaged, folder_of, load, run, try_all

TIMEOUT = 300  # seconds for the cases of one op


def build(source, directory, arguments):
    """Compiles directory/cuda/source and links the plugin with it."""
    compiled = directory / "mutant.o"
    run([*arguments.launcher, arguments.nvcc, "-c", "-std=c++20", "-O0", "-lineinfo",
         "--compress-mode=none", "-Xcompiler=-fPIC", "-gencode", "arch=compute_80,code=compute_80",
         f"-I{directory}", f"-I{arguments.root}/src", str(directory / "cuda" / source), "-o",
         str(compiled)], "does not compile")
    objects = [o for o in arguments.objects if pathlib.Path(o).name != source + ".o"]
    if len(objects) + 1 != len(arguments.objects):
        raise Failure(f"the plugin has no object of {source}")
    plugin = directory / "libfomoe_cuda.so"
    run([arguments.cxx, "-shared", "-o", str(plugin), str(compiled), *objects,
         f"-L{arguments.libraries}", "-l:libcudart.so.13"], "does not link")
    return plugin


def how(output):
    """What the tests say of the first failure, in a line."""
    failed = re.search(r"FAILED:\n(.*?)\n(?:\n|=====)", output, re.S)
    text = " ".join((failed.group(1) if failed else output[-400:]).split())
    if "findings()" in text:
        finding = re.search(r'with expansion: "(.*?)" == ""', text)
        text = finding.group(1) if finding else text
    return text[:300]


def try_cases(cases, plugin, arguments):
    """How these cases fail on the plugin; None if they pass."""
    environment = dict(os.environ, FOMOE_TEST_PLUGIN=str(plugin), OMP_NUM_THREADS="1",
                       LD_LIBRARY_PATH=arguments.libraries)
    try:
        result = subprocess.run([arguments.cases, cases, "--abort"],
                                env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return "does not end"
    if "No test cases matched" in result.stdout:
        raise Failure(f"no such cases: {cases}")
    return how(result.stdout + result.stderr) if result.returncode else None


def try_mutant(mutant, arguments):
    """What catches the mutant."""
    directory = folder_of(mutant, arguments.work)
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(arguments.root / "cuda", directory / "cuda")
    text = damaged(mutant, arguments.root / "cuda" / mutant["file"])
    (directory / "cuda" / mutant["file"]).write_text(text)
    plugin = build(mutant.get("source", mutant["file"]), directory, arguments)
    for op in mutant["ops"]:
        found = try_cases(f"{mutant.get('cases', 'small')} cases - {op}", plugin, arguments)
        if found:
            shutil.rmtree(directory)
            return f"{op} ({found})"
    raise Failure(f"SURVIVED {', '.join(mutant['ops'])}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=pathlib.Path, required=True, help="of the source tree")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for the variants")
    parser.add_argument("--nvcc", required=True)
    parser.add_argument("--launcher", nargs="*", default=[], help="what the compiler runs under")
    parser.add_argument("--cxx", required=True)
    parser.add_argument("--cases", required=True, help="the program with the small cases")
    parser.add_argument("--libraries", required=True, help="folder of the replacement libraries")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--only", default="", help="mutants whose name has this in it")
    parser.add_argument("--objects", nargs="+", required=True, help="of the plugin")
    arguments = parser.parse_args()
    mutants = [m for m in load("kernels") if arguments.only in m["name"]]
    return try_all(mutants, lambda mutant: try_mutant(mutant, arguments), arguments.jobs)


if __name__ == "__main__":
    sys.exit(main())
