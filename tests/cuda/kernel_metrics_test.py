#!/usr/bin/env python3
"""tools/kernel_metrics.py: each bound that is broken is an error that says where."""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

TOOL = pathlib.Path(__file__).parents[2] / "tools" / "kernel_metrics.py"

STREAM = {"op": "cast", "case": "plain", "dtype": "-", "must": 2000, "sizes": {}}
TILED = {"op": "linear", "case": "square", "dtype": "f32", "must": 3 * 128 * 128 * 4,
         "sizes": {"N": 128, "I": 128, "O": 128}}
DUE = 4 * 128 * 128 * 4 + 128 * 128 * 4  # of the four tiles of TILED


def launch(kernel, moved, lines):
    return {"kernel": kernel, "warps": 4, "second_level": {"read": moved, "written": 0},
            "device_memory": {"read": moved, "written": 0},
            "requested_sectors": sum(l.get("global", {}).get("sectors", 0) for l in lines),
            "shared_passes": sum(l.get("shared", {}).get("passes", 0) for l in lines),
            "lines": lines}


def load(sectors):
    return {"at": ["cast.cuh:7", "cast.cu:12"], "kind": "ld.global.f32", "executed": 4,
            "global": {"requests": 4, "bytes": 512, "sectors": sectors, "ideal": 16}}


def fetch(passes, executed=100):
    return {"at": ["tile.cuh:5"], "kind": "ld.shared.f32", "executed": executed,
            "shared": {"requests": executed, "bytes": 128 * executed, "passes": passes,
                       "ideal": executed}}


def run(rows, *options):
    """(exit status, output) of the tool for these rows."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.write("\n".join(map(json.dumps, rows)))
        file.flush()
        result = subprocess.run([sys.executable, TOOL, file.name, *options], capture_output=True,
                                text=True)
    assert not result.stderr, result.stderr
    errors = [line for line in result.stdout.splitlines()
              if line.startswith("error: ") and "exception that is not needed" not in line]
    return result.returncode, errors


class Bounds(unittest.TestCase):
    def errors(self, *rows):
        return run(rows)[1]

    def test_within(self):
        self.assertEqual(self.errors(STREAM, launch("copy", 2400, [load(17)]), TILED,
                                     launch("plain_matmul<float, float>", DUE, [fetch(100)])), [])

    def test_a_streaming_op_that_moves_too_much(self):
        (error,) = self.errors(STREAM, launch("copy", 2401, [load(16)]))
        self.assertIn("cast plain", error)
        (error,) = self.errors(STREAM, launch("copy", 2000, []), {"transfer": "fill", "read": 0,
                                                                  "written": 500})
        self.assertIn("cast plain: 1.25 x, at most 1.2 x", error)

    def test_a_line_with_too_many_sectors(self):
        (error,) = self.errors(STREAM, launch("copy", 2000, [load(18)]))
        self.assertIn("cast.cuh:7 in cast.cu:12 ld.global.f32: sectors: 1.12 x", error)

    def test_a_line_of_few_sectors(self):
        many = load(1000)
        many["global"]["ideal"] = 1000
        small = load(40)
        self.assertEqual(self.errors(STREAM, launch("copy", 2000, [many, small])), [])

    def test_a_bank_conflict_in_a_loop(self):
        (error,) = self.errors(TILED, launch("plain_matmul<float, float>", DUE, [fetch(200)]))
        self.assertIn("tile.cuh:5 ld.shared.f32: banks: 2.00 x", error)
        self.assertEqual(self.errors(TILED, launch("plain_matmul<float, float>", DUE,
                                                   [fetch(64, executed=32)])), [])

    def test_a_tile_that_moves_too_much(self):
        (error,) = self.errors(TILED, launch("plain_matmul<float, float>", int(1.2 * DUE), []))
        self.assertIn("linear square f32, plain_matmul<float, float>: 1.20 x, at most 1.1 x", error)

    def test_a_kernel_without_a_formula(self):
        (error,) = self.errors(TILED, launch("plain_matmul<float, float>", DUE, []),
                               launch("other", DUE // 10, []))
        self.assertIn("other: 9% of the bytes and no formula", error)

    def test_a_difference_from_the_table(self):
        rows = [STREAM, launch("copy", 2000, [load(16)])]
        with tempfile.NamedTemporaryFile("w") as table:
            run(rows, "--write", table.name)
            before = pathlib.Path(table.name).read_text()
            self.assertIn("copy", before)
            run(rows, "--check", table.name)
            changed = [STREAM, launch("copy", 2100, [load(16)])]
            with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
                file.write("\n".join(map(json.dumps, changed)))
                file.flush()
                result = subprocess.run([sys.executable, TOOL, file.name, "--check", table.name],
                                        capture_output=True, text=True)
        self.assertEqual(result.returncode, 1)
        self.assertIn("is not what was counted", result.stdout)


if __name__ == "__main__":
    unittest.main()
