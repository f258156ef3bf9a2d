#!/usr/bin/env python3
"""Compares the logits that `fomoe-eval --logits` wrote with those of Hugging Face's transformers on
the same model: the `model` directory of a checkpoint, or what `fomoe-eval --export` wrote. Needs the packages torch, transformers and safetensors.
Ends with 1 where they differ by more than --bound, relative to the largest logit."""
import argparse
import sys

try:
    import torch
    import transformers
    from safetensors.torch import load_file
except ImportError as missing:
    sys.exit(f"{missing}: pip install torch transformers safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="the directory of the model")
    parser.add_argument("logits", help="the .safetensors file")
    parser.add_argument("--bound", type=float, default=1e-4)
    options = parser.parse_args()

    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        options.model, dtype=torch.float32, output_loading_info=True)
    model.eval()
    unread = {kind: names for kind, names in loading.items() if names}
    tensors = load_file(options.logits)
    worst, agree, n = 0.0, 0, 0
    for i in range(len(tensors) // 2):
        tokens, ours = tensors[f"tokens.{i}"], tensors[f"logits.{i}"]
        with torch.no_grad():
            theirs = model(tokens[None]).logits[0]
        worst = max(worst, ((ours - theirs).abs().max() / theirs.abs().max()).item())
        agree += (ours.argmax(-1) == theirs.argmax(-1)).sum().item()
        n += len(tokens)
    print(f"{type(model).__name__}, transformers {transformers.__version__}: {n} tokens, largest "
          f"difference {worst:.1e} of the largest logit, {agree} of {n} likeliest tokens equal")
    for kind, names in unread.items():
        print(f"{kind}: {sorted(map(str, names))}")
    return 0 if worst <= options.bound and not unread else 1


if __name__ == "__main__":
    sys.exit(main())
