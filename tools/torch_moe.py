"""The peer of bench_vs_pytorch.py: one way of training a Qwen3-MoE in PyTorch, timed step by step.

A process of its own for each way, so that peaks of memory are its own. Takes one JSON object as its
argument, writes one to stdout.
"""

import json
import pathlib
import sys
import time

import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM


def status(field):
    """A line of /proc/self/status, in bytes."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


class Attention(nn.Module):
    def __init__(self, c, weights, prefix):
        super().__init__()
        names = ("q_proj", "k_proj", "v_proj")
        take = lambda name: weights[f"{prefix}.{name}.weight"]
        self.c = c
        self.qkv = nn.Parameter(torch.cat([take(name) for name in names]))
        self.out = nn.Parameter(take("o_proj"))
        self.q_norm, self.k_norm = nn.Parameter(take("q_norm")), nn.Parameter(take("k_norm"))

    def forward(self, x, cos, sin):
        c, (batch, length, _) = self.c, x.shape
        heads, shared, size = c.num_attention_heads, c.num_key_value_heads, c.head_dim
        q, k, v = F.linear(x, self.qkv).view(batch, length, heads + 2 * shared, size).split(
            [heads, shared, shared], 2)
        q = F.rms_norm(q, (size,), self.q_norm.to(q.dtype), c.rms_norm_eps).transpose(1, 2)
        k = F.rms_norm(k, (size,), self.k_norm.to(k.dtype), c.rms_norm_eps).transpose(1, 2)

        def turned(x):
            low, high = x.chunk(2, -1)
            return x * cos.to(x.dtype) + torch.cat([-high, low], -1) * sin.to(x.dtype)

        y = F.scaled_dot_product_attention(turned(q), turned(k), v.transpose(1, 2),
                                           is_causal=True, enable_gqa=heads != shared)
        return F.linear(y.transpose(1, 2).reshape(batch, length, heads * size), self.out)


class Experts(nn.Module):
    """Tokens sorted by expert, then a matmul for each expert, or one grouped matmul for all."""

    def __init__(self, c, weights, prefix, grouped):
        super().__init__()
        one = lambda e, name: weights[f"{prefix}.experts.{e}.{name}.weight"]
        every = range(c.num_experts)
        self.c, self.grouped = c, grouped
        self.router = nn.Parameter(weights[f"{prefix}.gate.weight"])
        self.w_in = nn.Parameter(torch.stack(
            [torch.cat([one(e, "gate_proj"), one(e, "up_proj")]) for e in every]))
        self.w_out = nn.Parameter(torch.stack([one(e, "down_proj") for e in every]))

    def forward(self, x):
        c, rows = self.c, x.reshape(-1, x.shape[-1])
        chances = F.linear(rows, self.router).float().softmax(-1)
        gates, chosen = chances.topk(c.num_experts_per_tok)
        gates = gates / gates.sum(-1, keepdim=True)
        order = chosen.reshape(-1).argsort(stable=True)
        token = order // c.num_experts_per_tok
        counts = torch.bincount(chosen.reshape(-1), minlength=c.num_experts)
        inputs = rows[token]
        if self.grouped:
            ends = counts.cumsum(0).to(torch.int32)
            product = lambda x, w: torch._grouped_mm(
                x.bfloat16(), w.bfloat16().transpose(1, 2), offs=ends)
            gate, up = product(inputs, self.w_in).chunk(2, -1)
            outputs = product(F.silu(gate) * up, self.w_out)
        else:
            parts = []
            for e, part in enumerate(inputs.split(counts.tolist())):
                gate, up = F.linear(part, self.w_in[e]).chunk(2, -1)
                parts.append(F.linear(F.silu(gate) * up, self.w_out[e]))
            outputs = torch.cat(parts)
        outputs = outputs * gates.reshape(-1)[order, None].to(outputs.dtype)
        y = torch.zeros_like(rows, dtype=outputs.dtype).index_add(0, token, outputs)
        balance = (chances.mean(0) * counts / counts.sum()).sum() * c.num_experts
        return y.view(x.shape), balance


class Model(nn.Module):
    def __init__(self, c, weights, grouped):
        super().__init__()
        layers = [f"model.layers.{i}" for i in range(c.num_hidden_layers)]
        norms = [f"{layer}.{name}" for layer in layers
                 for name in ("input_layernorm", "post_attention_layernorm")]
        self.c = c
        self.embedding = nn.Parameter(weights["model.embed_tokens.weight"])
        self.head = nn.Parameter(weights["lm_head.weight"])
        self.norms = nn.ParameterList(weights[f"{name}.weight"] for name in [*norms, "model.norm"])
        self.attention = nn.ModuleList(
            Attention(c, weights, f"{layer}.self_attn") for layer in layers)
        self.experts = nn.ModuleList(
            Experts(c, weights, f"{layer}.mlp", grouped) for layer in layers)
        theta = c.rope_parameters["rope_theta"]
        slow = theta ** (-torch.arange(0, c.head_dim, 2) / c.head_dim)
        angle = torch.outer(torch.arange(c.max_position_embeddings).float(), slow)
        self.register_buffer("cos", angle.cos().repeat(1, 2))
        self.register_buffer("sin", angle.sin().repeat(1, 2))

    def forward(self, tokens, targets):
        norm = lambda x, i: F.rms_norm(x, x.shape[-1:], self.norms[i].to(x.dtype),
                                       self.c.rms_norm_eps)
        cos, sin = self.cos[:tokens.shape[1]], self.sin[:tokens.shape[1]]
        x, balance = F.embedding(tokens, self.embedding), 0
        for i, (attention, experts) in enumerate(zip(self.attention, self.experts)):
            x = x + attention(norm(x, 2 * i), cos, sin)
            y, part = experts(norm(x, 2 * i + 1))
            x, balance = x + y, balance + part
        logits = F.linear(norm(x, -1), self.head).float()
        loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))
        return loss, balance / len(self.experts)


def build(job):
    """The model and what gives (loss, balancing loss) of a batch."""
    if job["way"] == "transformers":
        model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32,
                                                     attn_implementation="sdpa")
        model.train()

        def losses(tokens, targets):
            out = model(input_ids=tokens, output_router_logits=True, labels=tokens,
                        shift_labels=targets)
            return out.loss - job["aux_loss"] * out.aux_loss, out.aux_loss

        if job["compile"]:
            model.forward = torch.compile(model.forward)
        return model, losses
    weights = safetensors.torch.load_file(pathlib.Path(job["model"], "model.safetensors"))
    model = Model(AutoConfig.from_pretrained(job["model"]), weights, job["way"] == "grouped")
    return model, torch.compile(model) if job["compile"] else model


def main():
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    rows = torch.tensor(json.loads(pathlib.Path(job["tokens"]).read_text()))
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    model, losses = build(job)
    step = torch.optim.AdamW(model.parameters(), lr=job["lr"], betas=(0.9, 0.95),
                             weight_decay=0.1, fused=True)
    seconds, first = [], None
    for _ in range(job["steps"]):
        begin = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=job["dtype"] == "bf16"):
            loss, balance = losses(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())
        (loss + job["aux_loss"] * balance).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        step.step()
        step.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - begin)
        first = loss.item() if first is None else first
    print(json.dumps({"seconds": seconds, "loss": first, "peak": status("VmHWM") - before,
                      "torch": torch.__version__}))


if __name__ == "__main__":
    main()
