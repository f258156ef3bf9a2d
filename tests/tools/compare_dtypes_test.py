#!/usr/bin/env python3
"""tools/compare_dtypes.py on a tiny model: it trains what is missing, leaves what is finished, and its exit
code says whether bf16 lies within the spread. usage: compare_dtypes_test.py BUILD_DIRECTORY"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile

TOOLS = pathlib.Path(__file__).resolve().parent.parent.parent / "tools"
sys.path.insert(0, str(TOOLS))
from bench_runs import write_tokens  # noqa: E402

CONFIG = """
name: tiny
model: {d_model: 32, n_layers: 1, n_heads: 2, n_kv_heads: 2, tokenizer: bytes,
        moe: {n_experts: 4, top_k: 2, d_expert: 32}}
data: {sources: {random: random}, seq_len: 32, valid_sequences: 2}
train: {steps: 3, batch: 2, micro_batch: 2, optimizer: {warmup: 1}}
topology: {groups: [{name: solo}]}
"""
LINE = re.compile(r"tiny-(f32|bf16)-([12]): held-out loss ([\d.]+)")


def compare(build, place):
    done = subprocess.run([sys.executable, TOOLS / "compare_dtypes.py", "tiny.yaml", "--seeds", "1", "2",
                           "--train", f"{build}/fomoe-train", "--eval", f"{build}/fomoe-eval"],
                          cwd=place, capture_output=True, text=True, check=False)
    losses = {(dtype, seed): float(loss) for dtype, seed, loss in LINE.findall(done.stdout)}
    assert len(losses) == 4, done.stdout + done.stderr
    return done, losses


def check(build, place):
    pathlib.Path(place, "tiny.yaml").write_text(CONFIG)
    write_tokens(os.path.join(place, "random"), documents=4, length=256)
    first, losses = compare(build, place)
    assert first.stderr.count("done at step 3") == 4, first.stderr
    f32 = [losses["f32", seed] for seed in "12"]
    bf16 = [losses["bf16", seed] for seed in "12"]
    assert f32[0] != f32[1] and abs(sum(bf16) - sum(f32)) < 0.02, losses
    assert all(5 < loss < 6 for loss in losses.values()), losses  # of 256 equally likely bytes: 5.55
    spread = max(f32) - min(f32)
    assert f"spread {spread:.4f}" in first.stdout, first.stdout
    within = abs(sum(bf16) - sum(f32)) / 2 <= spread
    assert first.returncode == (0 if within else 1), first.stdout

    os.rename(pathlib.Path(place, "runs/tiny-f32-2"), pathlib.Path(place, "runs/elsewhere"))
    again, same = compare(build, place)
    assert same == losses, (same, losses)
    assert again.stderr.count("done at step 3") == 1, again.stderr

    # Two runs of one model have no spread: bf16 lies beyond it.
    for run in ("checkpoints", "metrics"):
        subprocess.run(["rm", "-r", f"{place}/runs/tiny-f32-2/{run}"], check=True)
        subprocess.run(["cp", "-r", f"{place}/runs/tiny-f32-1/{run}", f"{place}/runs/tiny-f32-2"],
                       check=True)
    alike, losses = compare(build, place)
    assert losses["f32", "1"] == losses["f32", "2"], losses
    assert alike.returncode == 1 and "beyond the spread" in alike.stdout, alike.stdout


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        check(os.path.abspath(sys.argv[1]), directory)
    print("compare_dtypes: ok")
