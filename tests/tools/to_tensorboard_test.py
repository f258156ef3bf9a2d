"""tools/to_tensorboard.py without the package: how it follows a file, and what it says."""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
TOOL = HERE.parents[1] / "tools" / "to_tensorboard.py"
sys.path[:0] = [str(TOOL.parent), str(HERE)]

import synthetic
import to_tensorboard


class Written:
    """Takes down what Output would write."""
    def __init__(self):
        self.writers, self.steps, self.forgotten, self.values = {}, [], [], []

    def add(self, name, step, when, values=()):
        self.writers[name] = True
        if any(tag == "train/loss" for tag, _ in values):
            self.steps.append((name, step))
        self.values += [(name, step, *v) for v in values]

    def scalar(self, tag, value):
        return tag, value

    by_expert = text = scalar

    def forget_from(self, name, step, when):
        self.forgotten.append((name, step))
        self.steps = [(n, s) for n, s in self.steps if n != name or s < step]


class Following(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        run = synthetic.write(self.folder / "run", groups=["west"], steps=24, evaluate_every=0)
        self.path = run / "metrics" / "west.jsonl"
        self.whole = self.path.read_text()
        self.written = Written()
        self.source = to_tensorboard.Source(self.path, self.written, "", leads=True)

    def steps(self):
        self.source.poll()
        return [step for _, step in self.written.steps]

    def test_a_file_that_grows_byte_by_byte_is_read_once(self):
        for end in range(0, len(self.whole), 501):
            self.path.write_text(self.whole[:end])
            steps = self.steps()
            self.assertEqual(steps, list(range(1, len(steps) + 1)))
        self.assertFalse(self.source.ended)
        self.path.write_text(self.whole)
        self.assertEqual(self.steps(), list(range(1, 25)))
        self.assertTrue(self.source.ended)

    def test_a_file_that_was_cut_and_has_grown_again(self):
        self.assertEqual(len(self.steps()), 24)
        lines = self.whole.splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line)["step"] <= 12]
        start = json.dumps({"event": "start", "step": 12, "group": "west"}) + "\n"
        # Longer than before, with another line where it had been read to.
        self.path.write_text("".join(kept) + start + "".join(lines[len(kept):]))
        self.assertEqual(self.steps(), list(range(1, 25)))
        self.assertEqual(self.written.forgotten, [("west", 1), ("west", 13)])

    def test_a_file_that_was_cut_and_not_gone_on_with(self):
        self.steps()
        lines = self.whole.splitlines(keepends=True)
        self.path.write_text("".join(lines[:10]))
        self.steps()
        self.path.write_text(self.whole)
        self.assertEqual(len(set(self.steps())), 24)

    def test_another_run_in_the_same_place(self):
        self.steps()
        other = synthetic.write(self.folder / "other", groups=["west"], steps=8, seed=2)
        self.path.write_text((other / "metrics" / "west.jsonl").read_text())
        self.assertEqual(self.steps(), list(range(1, 9)))

    def test_values(self):
        self.steps()
        told = {(step, tag): value for _, step, tag, value in self.written.values}
        self.assertEqual(told[(8, "round/sent/shared")], 600000)
        self.assertEqual(len(told[(8, "expert_load/layer_1")]), 8)
        self.assertNotIn((8, "round/time"), told)


class Calls(unittest.TestCase):
    def test_what_is_wrong_is_said_in_one_message(self):
        with tempfile.TemporaryDirectory() as folder:
            synthetic.write(pathlib.Path(folder) / "run", steps=16)
            # Without site packages tensorboard is missing wherever this runs.
            for words, code, part in ((["run"], 2, "pip install -r tools/requirements.txt"),
                                      (["none"], 3, "no such folder"), ([], 2, "usage")):
                done = subprocess.run([sys.executable, "-S", TOOL, *words], cwd=folder, text=True,
                                      capture_output=True)
                self.assertEqual(done.returncode, code)
                self.assertIn(part, done.stderr)
                self.assertNotIn("Traceback", done.stderr)


if __name__ == "__main__":
    unittest.main()
