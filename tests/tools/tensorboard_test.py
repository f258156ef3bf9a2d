"""What tools/to_tensorboard.py writes, as the package reads it, which must be installed."""
import json
import math
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
import unittest

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

HERE = pathlib.Path(__file__).resolve().parent
TOOL = HERE.parents[1] / "tools" / "to_tensorboard.py"
sys.path.insert(0, str(HERE))

import synthetic


def read(folder, name):
    everything = {"scalars": 0, "histograms": 0, "tensors": 0}
    events = EventAccumulator(str(folder / name), size_guidance=everything)
    events.Reload()
    return events


def lines(path):
    return path.read_text().splitlines(keepends=True)


class EventFiles(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.out = self.folder / "events"

    def write(self, run, *words):
        done = subprocess.run([sys.executable, TOOL, run, "-o", self.out, *words], text=True,
                              capture_output=True, timeout=300)
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def losses(self, name="west"):
        if not any((self.out / name).glob("*")) or \
                "train/loss" not in read(self.out, name).Tags()["scalars"]:
            return []
        return [(e.step, e.value) for e in read(self.out, name).Scalars("train/loss")]

    def test_scalars_histograms_and_config(self):
        run = synthetic.write(self.folder / "run", nan_at=(5,), note="something happened")
        self.write(run)
        told = [json.loads(line) for line in lines(run / "metrics" / "west.jsonl")]
        losses = self.losses()
        self.assertEqual([s for s, _ in losses], list(range(1, 65)))
        for event in told:
            if event["event"] == "step" and event["step"] != 5:
                self.assertAlmostEqual(losses[event["step"] - 1][1], event["loss"], places=5)
        self.assertTrue(math.isnan(losses[4][1]))
        west = read(self.out, "west")
        self.assertEqual(west.Scalars("train/loss")[0].wall_time, told[1]["time"])
        rounds = [e for e in told if e["event"] == "round"]
        self.assertEqual([(e.step, e.value) for e in west.Scalars("round/sent/shared")],
                         [(e["step"], e["sent"]["shared"]) for e in rounds])
        loads = west.Histograms("expert_load/layer_1")
        self.assertEqual([e.step for e in loads], [e["step"] for e in rounds])
        for load, event in zip(loads, rounds):
            self.assertEqual(list(load.histogram_value.bucket), event["tokens_by_expert"][1])
            self.assertEqual(list(load.histogram_value.bucket_limit), [e + 0.5 for e in range(8)])
        self.assertEqual(len(west.Scalars("router_entropy/layer_0")), 8)
        self.assertEqual(west.Tensors("notes")[0].tensor_proto.string_val[0], b"something happened")
        config = read(self.out, "east").Tensors("config")[0].tensor_proto.string_val[0].decode()
        self.assertIn("n_experts: 8", config)
        union = read(self.out, "union_model").Scalars("eval/bits_per_byte/two")
        self.assertEqual([(e.step, round(e.value, 4)) for e in union],
                         [(e["step"], round(e["union"]["domains"]["two"]["bits_per_byte"], 4))
                          for e in told if e["event"] == "eval"])

    def test_a_second_call_replaces_the_first_and_leaves_others_files(self):
        run = synthetic.write(self.folder / "run", steps=16)
        (self.out / "west").mkdir(parents=True)
        other = self.out / "west" / "events.out.tfevents.1.other"
        other.write_text("")
        for _ in range(2):
            self.write(run)
        self.assertEqual(len(list((self.out / "west").iterdir())), 2)
        self.assertTrue(other.exists())
        other.unlink()
        self.assertEqual(len(self.losses()), 16)

    def test_an_old_run(self):
        self.write(synthetic.write(self.folder / "run", steps=16, new_keys=False))
        self.assertEqual(len(self.losses()), 16)

    def test_strange_values_make_no_trouble(self):
        run = synthetic.write(self.folder / "run", steps=16)
        path = run / "metrics" / "west.jsonl"
        made_up = random.Random(1)
        path.write_text("".join(json.dumps(synthetic.spoilt(json.loads(line), made_up)) + "\n"
                                for line in 8 * lines(path)))
        self.write(run)
        self.assertGreater(len(self.losses()), 0)

    def wait_for(self, what):
        for _ in range(3000):
            if what():
                return
            time.sleep(0.1)
        self.fail(f"still waiting; the losses are {self.losses()}")

    def test_following_a_run_that_is_cut_off_and_resumed(self):
        run = synthetic.write(self.folder / "run", steps=40, groups=["west"], evaluate_every=0)
        path = run / "metrics" / "west.jsonl"
        whole = lines(path)
        by_step = [json.loads(line)["step"] for line in whole]
        path.write_text("".join(whole[:20]) + whole[20][:30])  # a line that is being written
        tool = subprocess.Popen([sys.executable, TOOL, run, "-o", self.out, "--follow",
                                 "--every", "0.05"], stderr=subprocess.PIPE, text=True)
        self.addCleanup(tool.wait)
        self.addCleanup(tool.kill)
        last = max(by_step[:20])
        self.wait_for(lambda: self.losses()[-1:] and self.losses()[-1][0] == last)
        self.assertIsNone(tool.poll())
        # Resumed behind step 10: what was later is gone, and comes again with other figures.
        kept = [line for line, step in zip(whole, by_step) if step <= 10]
        start = json.dumps({"event": "start", "step": 10, "group": "west", "resumed": True}) + "\n"
        path.write_text("".join(kept) + start)
        again = []
        for line in whole[len(kept):]:
            event = json.loads(line)
            if "loss" in event:
                event["loss"] += 100
            again.append(json.dumps(event) + "\n")
        with open(path, "a") as file:
            for line in again:
                file.write(line)
                file.flush()
        self.assertEqual(tool.wait(timeout=300), 0, tool.stderr.read())
        tool.stderr.close()
        losses = self.losses()
        self.assertEqual([s for s, _ in losses], list(range(1, 41)))
        self.assertEqual([v > 100 for _, v in losses], [s > 10 for s, _ in losses])

    def test_an_interrupt_ends_it_well(self):
        run = synthetic.write(self.folder / "run", steps=16, end=None)
        tool = subprocess.Popen([sys.executable, TOOL, run, "-o", self.out, "--follow"],
                                stderr=subprocess.PIPE, text=True)
        self.addCleanup(tool.kill)
        self.wait_for(lambda: len(self.losses()) == 16)
        os.kill(tool.pid, signal.SIGINT)
        self.assertEqual(tool.wait(timeout=300), 0)
        self.assertEqual(tool.stderr.read(), "")
        tool.stderr.close()


if __name__ == "__main__":
    unittest.main()
