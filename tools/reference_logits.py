#!/usr/bin/env python3
"""Writes small random models of Hugging Face's transformers, each as the directory that save_pretrained
makes, with what transformers and torch's autograd compute of them in reference.safetensors: logits of
fixed tokens, the mean loss of the next token, and gradients of it. The tests hold the import against
them; tests/reference is what

    tools/reference_logits.py tests/reference

wrote. Needs the packages torch, transformers and safetensors."""
import argparse
import pathlib
import re
import sys

try:
    import torch
    import transformers
    from safetensors.torch import save_file
except ImportError as missing:
    sys.exit(f"{missing}: pip install torch transformers safetensors")

SHAPE = dict(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, num_experts_per_tok=2)
DENSE = {key: value for key, value in SHAPE.items() if key != "num_experts_per_tok"}
SEQUENCES, LENGTH = 2, 16
EMBEDDINGS = 20  # tokens are below, and gradients of no other embeddings are kept

# Directory -> class of its config, what it says, type of the weights in the files, largest file.
MODELS = {
    "mixtral": ("MixtralConfig", dict(SHAPE, num_local_experts=4, intermediate_size=16,
                                      rope_theta=1e6), "float32", "60KB"),
    "olmoe": ("OlmoeConfig", dict(SHAPE, num_experts=8, intermediate_size=12, num_key_value_heads=4,
                                  norm_topk_prob=False, eos_token_id=2), "bfloat16", "1MB"),
    "qwen3_moe": ("Qwen3MoeConfig", dict(SHAPE, num_experts=4, moe_intermediate_size=16, head_dim=16,
                                         intermediate_size=24, mlp_only_layers=[0],
                                         norm_topk_prob=True), "float16", "1MB"),
    "glm4_moe": ("Glm4MoeConfig", dict(SHAPE, n_routed_experts=4, n_shared_experts=2, head_dim=8,
                                       moe_intermediate_size=12, intermediate_size=24,
                                       first_k_dense_replace=1, routed_scaling_factor=1.5,
                                       use_qk_norm=True, partial_rotary_factor=0.5), "float32",
                 "1MB"),
    "llama": ("LlamaConfig", dict(DENSE, intermediate_size=24, tie_word_embeddings=True),
              "bfloat16", "1MB"),
    "qwen3": ("Qwen3Config", dict(DENSE, intermediate_size=24, head_dim=8), "float32", "1MB"),
}

# Parameters whose gradients are kept.
KEPT = re.compile(r"embed_tokens|lm_head|^model\.norm|layers\.0\.(input_layernorm|self_attn\.[vo]_proj|"
                  r"mlp\.down_proj)|layers\.1\.(post_attention_layernorm|self_attn\.[qk]_(proj|norm)|"
                  r"mlp\.(gate|gate_proj|up_proj|down_proj)\.|mlp\.shared_experts\.up_proj|"
                  r"mlp\.experts\.[02]\.)")


def random_model(config):
    """One whose norms, biases and routing are no special case."""
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.dim() == 1:
                tensor.uniform_(0.5, 1.5)
            else:
                tensor.normal_(0, 0.2)
        for name, tensor in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                tensor.uniform_(-0.2, 0.2)
    return model


def gradients(model):
    """By the names that the files have for Qwen3-MoE: those of fused experts one by one."""
    found = {}
    for name, tensor in model.named_parameters():
        fused = re.fullmatch(r"(.*\.experts)\.(gate_up_proj|down_proj)", name)
        if not fused:
            found[name] = tensor.grad
            continue
        for expert, grad in enumerate(tensor.grad):
            at = f"{fused[1]}.{expert}"
            if fused[2] == "down_proj":
                found[f"{at}.down_proj.weight"] = grad
            else:
                found[f"{at}.gate_proj.weight"], found[f"{at}.up_proj.weight"] = grad.chunk(2)
    return found


def write(name, directory, seed):
    kind, values, dtype, shard = MODELS[name]
    torch.manual_seed(seed)
    made = random_model(getattr(transformers, kind)(**values)).to(getattr(torch, dtype))
    made.save_pretrained(directory, max_shard_size=shard)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager")
    tokens = torch.randint(0, EMBEDDINGS, (SEQUENCES, LENGTH))
    logits = model(tokens).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    out = {"tokens": tokens, "logits": logits.detach(), "loss": loss.detach().reshape(1)}
    for parameter, grad in gradients(model).items():
        if KEPT.search(parameter):
            rows = EMBEDDINGS if "embed_tokens" in parameter and not values.get(
                "tie_word_embeddings") else len(grad)
            out[f"gradient.{parameter}"] = grad[:rows].contiguous()
    save_file(out, directory / "reference.safetensors")
    size = sum(file.stat().st_size for file in directory.iterdir())
    print(f"{name}: {type(model).__name__}, {dtype}, {sum(p.numel() for p in model.parameters())} "
          f"weights, loss {loss.item():.6f}, {len(out) - 3} gradients, {size} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path, help="directory that gets one for each model")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    for name in MODELS:
        write(name, options.out / name, options.seed)


if __name__ == "__main__":
    main()
