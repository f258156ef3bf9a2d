"""Run directories as fomoe-train writes them, with figures that are made up."""
import json
import math
import pathlib
import random

CONFIG = """\
name: {name}
seed: 1
model:
  n_layers: {layers}
  moe:
    n_experts: {experts}
    top_k: 2
data:
  sources: {{one: /data/one, two: /data/two}}
  seq_len: 128
train:
  steps: {steps}
  dtype: f32
  batch: 4
topology:
  groups:
{groups}federation:
  local_steps: {local_steps}
  replication: {replication}
"""

STRANGE = (None, "x", "", [], {}, 1e400, True, -1, 0, 1e300, [[1]], {"a": {}}, [None], "<b>")


def spoilt(value, made_up, depth=0):
    """With something else in about one place in eight."""
    if depth and made_up.random() < 0.12:
        return made_up.choice(STRANGE)
    if isinstance(value, dict):
        return {k: spoilt(v, made_up, depth + 1) for k, v in value.items()}
    if isinstance(value, list):
        return [spoilt(v, made_up, depth + 1) for v in value]
    return value


def write(folder, groups=("west", "east"), steps=64, local_steps=8, layers=2, experts=8,
          replication=1, log_every=1, new_keys=True, end="done", nan_at=(), failed=(),
          evaluate_every=2, seed=1, note=""):
    """A run; `failed`: rounds that lack a group; `new_keys`: as newer programs tell more."""
    folder = pathlib.Path(folder)
    (folder / "metrics").mkdir(parents=True)
    blocks = len(groups) // replication
    held = [[e for e in range(experts) if e * blocks // experts == g % blocks]
            for g in range(len(groups))]
    (folder / "config.yaml").write_text(CONFIG.format(
        name=folder.name, layers=layers, experts=experts, steps=steps, local_steps=local_steps,
        replication=replication, groups="".join(
            f"    - {{name: {n}, ranks: 1, expert_parallel: 1, data: {{}}}}\n" for n in groups)))
    for g, name in enumerate(groups):
        events = list(group_events(g, name, groups, held[g], steps, local_steps, layers, experts,
                                   log_every, new_keys, nan_at, failed, evaluate_every, seed))
        if note:
            events.append({"event": "note", "step": steps, "text": note})
        if end:
            events.append({"event": "end", "step": steps, "reason": end})
        lines = []
        for i, event in enumerate(events):
            event = {"event": event.pop("event"), "step": event.pop("step"), "group": name,
                     **event}
            if new_keys:
                event["time"] = 1790000000 + 0.25 * i
            lines.append(json.dumps(event))
        (folder / "metrics" / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def group_events(g, name, groups, held, steps, local_steps, layers, experts, log_every, new_keys,
                 nan_at, failed, evaluate_every, seed):
    made_up = random.Random(f"{seed} {name}")
    start = {"event": "start", "step": 0, "steps": steps, "ranks": 1}
    if new_keys:
        start |= {"run": "made-up", "version": "0.0", "groups": list(groups),
                  "tokens_per_step": 512, "n_layers": layers, "n_experts": experts, "top_k": 2,
                  "moe_layers": list(range(layers)), "residents": [held] * layers,
                  "local_steps": local_steps, "dtype": "f32", "backend": "cpu", "resumed": False,
                  "parameters": {"total": 1000000, "active": 400000, "shared": 300000,
                                 "router": 1000, "expert": 699000, "per_rank": 650000}}
    yield start
    for step in range(1, steps + 1):
        if step == 1 or step % log_every == 0:
            loss = 2 + 4 * math.exp(-step / (steps / 6)) + made_up.gauss(0, 0.08) + 0.1 * g
            event = {"event": "step", "step": step,
                     "loss": None if step in nan_at else loss, "aux_loss": 1.2, "z_loss": 3.0,
                     "affinity": 0.6, "grad_norm": 0.3 + 5 / step, "learning_rate": 1e-3,
                     "tokens_per_second": 9000 + 500 * made_up.random(), "mfu": 0.25,
                     "imbalance": 1.5, "skipped_share": 0.5, "proxy_share": 0.0,
                     "eta_seconds": 1.0}
            if new_keys:
                event["tokens"] = 512 * step
            yield event
        if step % local_steps == 0:
            number = step // local_steps
            yield round_event(number, step, g, groups, held, layers, experts, new_keys,
                              number in failed, made_up)
            if evaluate_every and number % evaluate_every == 0:
                yield evaluation(number, step, g, steps)


def round_event(number, step, g, groups, held, layers, experts, new_keys, failed, made_up):
    sent = {"shared": 600000, "router": 3000, "expert": 0, "copies": 0, "control": 500}
    event = {"event": "round", "step": step, "round": number,
             "groups": len(groups) - (1 if failed else 0), "groups_total": len(groups),
             "classes": ["shared", "router", "expert"], "sent_bytes": sum(sent.values()),
             "predicted_bytes": sum(sent.values()), "sent": sent,
             "sent_own": {k: v // len(groups) for k, v in sent.items()}, "seconds": 0.1,
             "drift": 0.2 / number, "cosine": {"shared": 0.5, "router": 0.1},
             "load_imbalance": [1.5] * layers, "load_entropy": [0.9] * layers,
             "skip": [0.5] * layers, "chance": [0.5] * layers, "hash": "00",
             "sent_total": number * sum(sent.values()), "data_parallel_bytes": step * 8000000,
             "full_replica_bytes": number * 8000000}
    if len(groups) > 1:
        event["agree"] = 1 - 1 / (1 + number)
    if new_keys:
        event["router_entropy"] = [1.5] * layers
        event["tokens_by_expert"] = [
            [int(100 * made_up.lognormvariate(0, 0.5 + layer / layers)) if e in held else 0
             for e in range(experts)] for layer in range(layers)]
    return event


def evaluation(number, step, g, steps):
    def model(bits):
        domain = {"loss": bits * 0.7, "perplexity": 2 ** bits, "bits_per_byte": bits,
                  "tokens": 4096, "flops_per_token": 1e6}
        return {"pooled": domain, "domains": {
            "one": domain, "two": {**domain, "bits_per_byte": bits + 0.2}}}
    bits = 2.5 + 2 * math.exp(-3 * step / steps)
    return {"event": "eval", "step": step, "round": number, "union": model(bits),
            "own": model(bits + 0.1 + 0.2 * g), "gap": -0.2, "sent_bytes": 1000000,
            "predicted_bytes": 1000000, "sent": {"shared": 0, "router": 0, "expert": 0,
                                                 "copies": 1000000, "control": 0},
            "seconds": 0.5}
