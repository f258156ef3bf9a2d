#!/usr/bin/env python3
"""Damages the host code around the GPU on purpose and fails unless a test notices every time.

The .toml files in host/ list the mutants: a name, what it breaks, a file of src/ or cuda/, a text
that the file has exactly once, what takes its place, and the test that must fail. The file is
compiled as the build does it, without optimisation, and linked in place of its object: one of
cuda/ into a plugin, one of src/ into fomoe-train. Then test_cuda runs the test with these; it must
have passed with those of the build. A test that does not end counts only where `hangs` says after
how many seconds. Prints a line per mutant: what it breaks, what caught it, and how.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys

from mutants import Failure, damaged, folder_of, load, run, try_all

TIMEOUT = 120  # seconds for one test
PLUGIN = "libfomoe_cuda.so"
# Target -> its folder in the build, and the name of its file.
TARGETS = {"fomoe_cuda": ("cuda", PLUGIN), "fomoe-train": (".", "fomoe-train")}


def target_of(mutant):
    return "fomoe_cuda" if mutant["file"].startswith("cuda/") else "fomoe-train"


def compile_mutant(mutant, directory, arguments):
    """Returns the object, and which one of the build it stands for."""
    source = str(arguments.root / mutant["file"])
    mine = [entry for entry in arguments.compilations if entry["file"] == source]
    if target_of(mutant) == "fomoe_cuda":
        mine = [entry for entry in mine if "fomoe_cuda.dir" in entry["command"]]
    if len(mine) != 1:
        raise Failure(f"{mutant['file']} is compiled {len(mine)} times")
    changed = directory / pathlib.Path(source).name
    changed.write_text(damaged(mutant, pathlib.Path(source)))
    words = shlex.split(mine[0]["command"])
    out = words.index("-o") + 1
    replaced = words[out]
    words[out] = str(directory / "mutant.o")
    words[words.index(source)] = str(changed)
    run([*arguments.launcher, *words, "-O0", "-w"], "does not compile", cwd=mine[0]["directory"])
    return directory / "mutant.o", replaced


def link_command(target, build):
    """What the build links a target with, and where."""
    folder, file = TARGETS[target]
    if (build / "build.ninja").exists():
        text = run(["ninja", "-t", "commands", "-s", file], "ninja", cwd=build)
        return next(part for part in text.split(" && ") if " -o " in part), build
    where = build / folder
    return (where / f"CMakeFiles/{target}.dir/link.txt").read_text(), where


def link(mutant, directory, arguments):
    """Makes directory/NAME of the target that has the mutant's file in it."""
    compiled, replaced = compile_mutant(mutant, directory, arguments)
    target = target_of(mutant)
    text, where = link_command(target, arguments.build)
    words = shlex.split(text)
    own = [i for i, word in enumerate(words) if word.endswith(replaced)]
    if target == "fomoe_cuda" and len(own) != 1:
        raise Failure(f"{target} has {replaced} {len(own)} times")
    # A file of a room lies in an archive, whose object is left alone when this one comes first.
    for i in own:
        words[i] = str(compiled)
    out = words.index("-o") + 1
    words[out] = str(directory / TARGETS[target][1])
    if not own:
        words.insert(out + 1, str(compiled))
    run(words, "does not link", cwd=where)


def end(process):
    """Kills a process and all that it has started."""
    def below(pid):
        for file in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                children = file.read_text().split()
            except OSError:
                continue
            for child in children:
                yield from below(int(child))
                yield int(child)

    for pid in [*below(process.pid), process.pid]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.communicate()


def how(output):
    """What a failed test says, in a line: the first finding, error, or check that failed."""
    for sign in ("cudaemu: ", "exception with message:", "error: ", "FAILED:"):
        at = output.find(sign)
        if at >= 0:
            said = output[at:].removeprefix("exception with message:")
            said = re.split(r"\n\s*\n|with messages?:|={40}", said)[0]
            return " ".join(said.split())[:200]
    return " ".join(output[-200:].split()) or "it said nothing"


def try_test(test, directory, limit, arguments):
    """How the test fails with the programs and the plugin in `directory`; None if it passes."""
    environment = dict(os.environ, OMP_NUM_THREADS="1", LD_LIBRARY_PATH=arguments.libraries,
                       FOMOE_TEST_PLUGIN=str(directory / PLUGIN),
                       FOMOE_TEST_PROGRAMS=str(directory))
    process = subprocess.Popen([arguments.build / "tests/test_cuda", test, "--abort"],
                               env=environment, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT)
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        end(process)
        return f"does not end in {limit} seconds"
    if "No test cases matched" in output:
        raise Failure(f"no such test: {test}")
    if arguments.verbose and process.returncode:
        print(output)
    return how(output) if process.returncode else None


def try_mutant(mutant, arguments):
    """What catches the mutant."""
    directory = folder_of(mutant, arguments.work)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    link(mutant, directory, arguments)
    # fomoe-train takes the plugin beside it.
    for name in ("fomoe-train", "fomoe-data", PLUGIN):
        if not (directory / name).exists():
            os.link(arguments.build / name, directory / name)
    limit = mutant.get("hangs", TIMEOUT)
    found = try_test(mutant["test"], directory, limit, arguments)
    if found is None:
        raise Failure(f"SURVIVED {mutant['test']}")
    if found.startswith("does not end") and "hangs" not in mutant:
        raise Failure(f"{mutant['test']} {found}")
    shutil.rmtree(directory)
    return f"{mutant['test']} ({found})"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=pathlib.Path, required=True, help="of the source tree")
    parser.add_argument("--build", type=pathlib.Path, required=True, help="folder of the build")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for the variants")
    parser.add_argument("--launcher", nargs="*", default=[], help="what the compiler runs under")
    parser.add_argument("--libraries", required=True, help="folder of the replacement libraries")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--only", default="", help="mutants whose name has this in it")
    parser.add_argument("--verbose", action="store_true", help="print what failed tests print")
    arguments = parser.parse_args()
    arguments.compilations = json.loads((arguments.build / "compile_commands.json").read_text())
    mutants = [m for m in load("host") if arguments.only in m["name"]]

    # A failure says something only where the undamaged code has none.
    tests = sorted({mutant["test"] for mutant in mutants})
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        undamaged = pool.map(lambda t: try_test(t, arguments.build, TIMEOUT, arguments), tests)
        for test, found in zip(tests, undamaged):
            if found is not None:
                sys.exit(f"{test} fails without any damage: {found}")
    return try_all(mutants, lambda mutant: try_mutant(mutant, arguments), arguments.jobs)


if __name__ == "__main__":
    sys.exit(main())
