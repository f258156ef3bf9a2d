"""What both programs that damage the plugin share: the lists of mutants, and trying them."""
import concurrent.futures
import pathlib
import re
import subprocess
import tomllib


class Failure(Exception):
    """A mutant that was not caught, or could not be tried."""


def load(folder):
    """The mutants of the .toml files in a folder beside this file."""
    mutants = [mutant for path in sorted((pathlib.Path(__file__).parent / folder).glob("*.toml"))
               for mutant in tomllib.loads(path.read_text())["mutant"]]
    names = [mutant["name"] for mutant in mutants]
    if len(set(names)) != len(names):
        raise SystemExit("two mutants have one name")
    return mutants


def damaged(mutant, file):
    """The text of the mutant's file with the damage done."""
    text = file.read_text()
    count = text.count(mutant["text"])
    if count != 1:
        raise Failure(f"{file.name} has the text {count} times:\n{mutant['text']}")
    return text.replace(mutant["text"], mutant["by"])


def folder_of(mutant, work):
    """A folder of its own: the same every time, so that a compiler cache knows it again."""
    return work / re.sub(r"\W+", "_", mutant["name"])


def run(command, what, **options):
    result = subprocess.run(command, capture_output=True, text=True, **options)
    if result.returncode != 0:
        raise Failure(f"{what}:\n{(result.stdout + result.stderr)[-2000:]}")
    return result.stdout


def try_all(mutants, try_mutant, jobs):
    """Prints a line per mutant, in their order: what try_mutant says caught it, or its Failure.
    Returns the exit code."""
    def caught(mutant):
        try:
            return True, try_mutant(mutant)
        except Failure as failure:
            return False, str(failure)

    failed = 0
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for mutant, (good, text) in zip(mutants, pool.map(caught, mutants)):
            failed += not good
            breaks = f" | {mutant['breaks']}" if "breaks" in mutant else ""
            print(f"{mutant['name']}{breaks} | {'caught by ' if good else ''}{text}", flush=True)
    print(f"{len(mutants)} mutants, {len(mutants) - failed} caught")
    return 1 if failed or not mutants else 0
