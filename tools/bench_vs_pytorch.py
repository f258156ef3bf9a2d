#!/usr/bin/env python3
"""Times a training step of a config on this CPU against the same model in PyTorch.

The peer is transformers' Qwen3-MoE and a model by hand (tokens sorted by expert; a matmul for each
expert, or a grouped one), each eager and compiled, in f32 and under autocast to bf16. All start from
the same weights and read the same random tokens, so that the losses of the first step must agree.
They run one after the other, several times over, on the same threads; a step's time is the median.

    tools/bench_vs_pytorch.py configs/bench/s.yaml      with a Python that has torch, transformers
"""

import argparse
import array
import json
import os
import pathlib
import random
import re
import statistics
import struct
import subprocess
import sys
import tempfile

MIB = 1 << 20
HERE = pathlib.Path(__file__).resolve().parent
LOSS_TOLERANCE = {"f32": 1e-4, "bf16": 1e-2}  # relative


def load_config(options):
    import yaml

    words = [options.program, options.config, "--dump-config"]
    for setting in options.set:
        words += ["--set", setting]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return yaml.safe_load(done.stdout)


def write_tokens(place, batch, length, vocabulary):
    """As many sequences as a step has, so that every step of every trainer reads all of them."""
    draw = random.Random(1)
    tokens = [draw.randrange(vocabulary) for _ in range(batch * length + 1)]
    for part in ("train", "valid"):
        pathlib.Path(place, f"random.{part}.bin").write_bytes(array.array("i", tokens).tobytes())
        index = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 4, 1, 2)
        index += struct.pack("<iqqq", len(tokens), 0, 0, 1)
        pathlib.Path(place, f"random.{part}.idx").write_bytes(index)
    rows = [tokens[i * length:(i + 1) * length + 1] for i in range(batch)]
    pathlib.Path(place, "rows.json").write_text(json.dumps(rows))


def write_model(place, config):
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    model, moe = config["model"], config["model"]["moe"]
    torch.manual_seed(1)
    Qwen3MoeForCausalLM(Qwen3MoeConfig(
        vocab_size=model["vocab_size"], hidden_size=model["d_model"],
        intermediate_size=moe["d_expert"], moe_intermediate_size=moe["d_expert"],
        num_hidden_layers=model["n_layers"], num_attention_heads=model["n_heads"],
        num_key_value_heads=model["n_kv_heads"],
        head_dim=model["d_head"] or model["d_model"] // model["n_heads"],
        num_experts=moe["n_experts"], num_experts_per_tok=moe["top_k"], norm_topk_prob=True,
        rms_norm_eps=float(model["norm_eps"]), max_position_embeddings=config["data"]["seq_len"],
        rope_parameters={"rope_type": "default", "rope_theta": float(model["rope_theta"])},
        router_aux_loss_coef=float(moe["aux_loss"]), tie_word_embeddings=model["tie_embeddings"],
    )).save_pretrained(place)


def run_peer(options, config, place, way, compiled, dtype):
    job = {"way": way, "compile": compiled, "dtype": dtype, "model": place,
           "tokens": f"{place}/rows.json", "steps": options.steps + options.warmup,
           "threads": options.threads, "lr": float(config["train"]["optimizer"]["lr"]),
           "aux_loss": float(config["model"]["moe"]["aux_loss"])}
    done = subprocess.run([sys.executable, HERE / "torch_moe.py", json.dumps(job)],
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return {"error": (done.stderr.strip().splitlines() or ["?"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def run_fomoe(options, config, place, dtype):
    words = [os.path.abspath(options.program), os.path.abspath(options.config)]
    steps = options.steps + options.warmup
    for setting in [*options.set, "name=bench", f"train.dtype={dtype}", f"model.from_hf={place}",
                    f"train.steps={steps}", "train.log_every=1", "train.optimizer.warmup=0",
                    "checkpoint.every=0", "checkpoint.keep=0", "data.valid_sequences=1",
                    *(f"data.sources.{name}={place}/random" for name in config["data"]["sources"])]:
        words += ["--set", setting]
    environment = dict(os.environ, OMP_NUM_THREADS=str(options.threads))
    done = subprocess.run([*words, "--resume", "never"], cwd=place, env=environment,
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(done.stderr)
    events = [json.loads(line) for path in pathlib.Path(place, "runs/bench/metrics").glob("*")
              for line in path.read_text().splitlines()]
    subprocess.run(["rm", "-r", f"{place}/runs"], check=True)
    tokens = next(event for event in events if event["event"] == "start")["tokens_per_step"]
    timed = [event for event in events if event["event"] == "step"]
    peak, plan = re.search(r"memory of rank 0: ([\d.]+) MiB .* above the start(?:, ([\d.]+))?",
                           done.stderr).groups()
    return {"seconds": [tokens / event["tokens_per_second"] for event in timed],
            "loss": timed[0]["loss"], "mfu": statistics.median(event["mfu"] for event in timed),
            "peak": float(peak) * MIB, "plan": float(plan) if plan else None}


def name_of(variant):
    way, compiled, dtype = variant
    if way == "fomoe":
        return f"fomoe, {dtype}"
    return f"{way}, {'compiled' if compiled else 'eager'}, {dtype}"


def variants_of(options):
    peers = [(way, compiled, dtype) for way in ("transformers", "sorted", "grouped")
             for compiled in (False, True) for dtype in ("f32", "bf16")
             if way != "grouped" or dtype == "bf16"]  # torch's grouped matmul has no f32
    every = peers + [("fomoe", False, dtype) for dtype in ("f32", "bf16")]
    return [v for v in every if not options.only or any(part in name_of(v) for part in options.only)]


def measure(options, config, place):
    """The runs of each variant; all variants take turns."""
    runs = {variant: [] for variant in variants_of(options)}
    for turn in range(options.turns):
        for variant in runs:
            way, compiled, dtype = variant
            result = (run_fomoe(options, config, place, dtype) if way == "fomoe"
                      else run_peer(options, config, place, way, compiled, dtype))
            runs[variant].append(result)
            if "error" in result:
                print(f"{name_of(variant)} fails: {result['error']}", file=sys.stderr)
            else:
                print(f"{turn + 1}/{options.turns} {name_of(variant)}: loss {result['loss']:.4f}, "
                      f"{statistics.median(result['seconds'][options.warmup:]):.3f} s a step",
                      file=sys.stderr)
    return {variant: results for variant, results in runs.items()
            if all("error" not in result for result in results)}


def report(options, config, runs, parameters):
    tokens = config["train"]["batch"] * config["data"]["seq_len"]
    seconds = {v: statistics.median(s for result in results
                                    for s in result["seconds"][options.warmup:])
               for v, results in runs.items()}
    best = min((s for v, s in seconds.items() if v[0] != "fomoe"), default=None)
    best_f32 = min((s for v, s in seconds.items() if v[0] != "fomoe" and v[2] == "f32"),
                   default=None)
    print(f"{options.config}: {parameters / 1e6:.1f}M parameters, {tokens} tokens a step, "
          f"{options.threads} threads, medians of {options.turns * options.steps} steps")
    print(f"{'':32}{'loss':>9}{'ms':>9}{'tokens/s':>10}{'MiB':>8}{'above 16 B':>12}{'MFU':>7}")
    for variant, results in sorted(runs.items(), key=lambda item: -seconds[item[0]]):
        peak = max(result["peak"] for result in results) / MIB
        mfu = f"{100 * results[0]['mfu']:.0f} %" if "mfu" in results[0] else ""
        print(f"{name_of(variant):32}{results[0]['loss']:9.4f}{1e3 * seconds[variant]:9.0f}"
              f"{tokens / seconds[variant]:10.0f}{peak:8.0f}"
              f"{peak - 16 * parameters / MIB:12.0f}{mfu:>7}")
    for dtype in ("f32", "bf16"):
        own = ("fomoe", False, dtype)
        if own in runs and best:
            text = f"fomoe, {dtype}: {best / seconds[own]:.2f}x the peer's best"
            if dtype == "f32" and best_f32:
                text += f", {best_f32 / seconds[own]:.2f}x its best in f32"
            if runs[own][0]["plan"]:
                text += f"; memory {runs[own][0]['plan']:.2f} of the plan"
            print(text)
    check_losses(runs)


def check_losses(runs):
    """All the same in f32; those of bf16 near them."""
    exact = [r[0]["loss"] for v, r in runs.items() if v[2] == "f32"]
    middle = statistics.median(exact or [r[0]["loss"] for r in runs.values()])
    wrong = [name_of(v) for v, r in runs.items()
             if abs(r[0]["loss"] / middle - 1) > LOSS_TOLERANCE[v[2]]]
    if wrong:
        sys.exit(f"the losses of the first step do not agree: {', '.join(wrong)}")
    print("the losses of the first step agree")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("--set", action="append", default=[], help="as of fomoe-train")
    parser.add_argument("--program", default=str(HERE.parent / "build" / "fomoe-train"))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--steps", type=int, default=5, help="timed, of each turn")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them")
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--only", action="append", help="variants with this in their name")
    options = parser.parse_args()
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        sys.exit(f"{error.name} is not installed, and without it there is nothing to compare with: "
                 "pip install torch transformers, best in a virtual environment, and run this with "
                 "its python")
    config = load_config(options)
    with tempfile.TemporaryDirectory(prefix="fomoe.") as place:
        write_tokens(place, config["train"]["batch"], config["data"]["seq_len"],
                     config["model"]["vocab_size"])
        write_model(place, config)
        from safetensors import safe_open

        with safe_open(f"{place}/model.safetensors", "pt") as file:
            parameters = sum(int(file.get_tensor(name).numel()) for name in file.keys())
        report(options, config, measure(options, config, place), parameters)


if __name__ == "__main__":
    main()
