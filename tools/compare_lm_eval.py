#!/usr/bin/env python3
"""Compares acc and acc_norm of `fomoe-eval --tasks FILE... --json` with those of lm-evaluation-harness
on the model that `fomoe-eval --export` wrote, with its own definitions of the tasks. Needs the
packages lm_eval, accelerate, torch and transformers. Ends with 1 where they differ.

    compare_lm_eval.py DIR SCORES.json FILE...
"""
import argparse
import json
import os
import pathlib
import sys
import tempfile

os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
try:
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
except ImportError as missing:
    sys.exit(f"{missing}: pip install lm_eval accelerate torch transformers")

TASKS = pathlib.Path(lm_eval.__file__).parent / "tasks"
FORMATS = {"endings": "hellaswag/hellaswag.yaml", "answerKey": "arc/arc_easy.yaml",
           "goal": "piqa/piqa.yaml"}
FIGURES = {"acc": "acc,none", "acc_norm": "acc_norm,none", "acc_stderr": "acc_stderr,none",
           "acc_norm_stderr": "acc_norm_stderr,none"}


def task_of(file):
    """A task of lm-evaluation-harness that reads this file."""
    first = json.loads(file.read_text().splitlines()[0])
    definition = next(path for key, path in FORMATS.items() if key in first)
    return (f"include: {TASKS / definition}\ntask: {file.stem}\ndataset_path: json\n"
            f"dataset_name: null\ndataset_kwargs: {{data_files: {{test: {file.resolve()}}}}}\n"
            "training_split: null\nvalidation_split: null\ntest_split: test\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="the exported directory")
    parser.add_argument("scores", help="what fomoe-eval --tasks --json printed")
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    options = parser.parse_args()
    ours = json.loads(pathlib.Path(options.scores).read_text())["union"]

    with tempfile.TemporaryDirectory() as folder:
        for file in options.files:
            (pathlib.Path(folder) / f"{file.stem}.yaml").write_text(task_of(file))
        results = lm_eval.simple_evaluate(
            model=HFLM(pretrained=options.model, dtype="float32", batch_size=8, device="cpu"),
            tasks=[file.stem for file in options.files],
            task_manager=TaskManager(include_path=folder, include_defaults=False))["results"]
    same = True
    for file in options.files:
        for name, key in FIGURES.items():
            mine, theirs = ours[file.stem][name], results[file.stem][key]
            equal = abs(mine - theirs) < 1e-12
            same = same and equal
            print(f"{file.stem:<16} {name:<16} fomoe-eval {mine:.6f}  lm_eval {theirs:.6f}"
                  f"{'' if equal else '  different'}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
