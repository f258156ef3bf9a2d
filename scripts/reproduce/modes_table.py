#!/usr/bin/env python3
"""The table and the plot of modes.sh, from what its evaluations and metrics say.

usage: modes_table.py DIRECTORY    writes table.md and, where matplotlib is, plot.svg there
"""
import json
import pathlib
import statistics
import sys

ARMS = {
    "data_parallel": "data-parallel",
    "fedavg": "FedAvg, full replicas",
    "diloco": "DiLoCo, full replicas",
    "skip_r2": "skip, r=2",
    "skip_r1": "skip, r=1",
    "reroute_r2": "reroute, r=2",
    "reroute_r1": "reroute, r=1",
    "reroute_affinity_r2": "reroute, owners' rows, affinity, r=2",
    "renormalize_r2": "renormalize, r=2",
    "proxy_r2": "proxy, r=2",
    "skip_shared_r2": "skip, shared expert, r=2",
}
OWN_DOMAIN = {"north": "literature", "east": "dictionary", "south": "kernel", "west": "mathematics"}
MODELS = ("union", "calibrated", "own", "document")


def bits(score):
    return score["bits_per_byte"]


def own_bits(evaluation, data):
    """Mean over the groups of their own models: on all text, or on the domain each has trained on."""
    groups = evaluation.get("groups", {})
    if data == "same" or "all" in groups:
        return statistics.mean(bits(model["pooled"]) for model in groups.values())
    return statistics.mean(bits(groups[name]["domains"][domain]) for name, domain in OWN_DOMAIN.items())


def events(run, kind):
    found = []
    for file in sorted((run / "metrics").glob("*.jsonl")):
        lines = (json.loads(line) for line in file.open())
        found = [line for line in lines if line["event"] == kind] or found
    return found


def arm_figures(directory, data, arm):
    """Bits per byte by model, bytes sent in training and, besides, by the calibration."""
    file = directory / f"{data}_{arm}.json"
    if not file.exists():
        return None
    evaluation = json.loads(file.read_text())
    run = directory / "runs" / f"{data}_{arm}"
    rounds, ends = events(run, "round"), events(run, "calibration_end")
    figures = {
        "union": bits(evaluation["union"]["pooled"]),
        "calibrated": bits(evaluation["calibrated"]["pooled"]) if "calibrated" in evaluation else None,
        # Under proxy every choice is served: the own models are the union.
        "own": own_bits(evaluation, data) if evaluation.get("groups") else None,
        "document": bits(evaluation["document"]["pooled"]) if "document" in evaluation else None,
        "bytes": rounds[-1]["sent_total"] if rounds else None,
        "calibration_bytes": ends[-1]["sent_bytes"] if ends else 0,
    }
    if rounds:
        figures["data_parallel_bytes"] = rounds[-1]["data_parallel_bytes"]
    return figures


def read_all(directory):
    results = {}
    for data in ("same", "domains"):
        for arm in ARMS:
            figures = arm_figures(directory, data, arm)
            if figures:
                results[data, arm] = figures
        # What one group of four ranks would have sent, were they far apart.
        others = [r for (d, _), r in results.items() if d == data and "data_parallel_bytes" in r]
        if (data, "data_parallel") in results and others:
            results[data, "data_parallel"]["bytes"] = others[0]["data_parallel_bytes"]
    return results


def cell(value):
    return "" if value is None else f"{value:.3f}"


def table(results):
    lines = [
        "| arm | MiB sent | same: union | calibrated | own | document "
        "| domains: union | calibrated | own on own | document |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for arm, title in ARMS.items():
        row = [title]
        sent = next((results[d, arm]["bytes"] for d in ("same", "domains") if (d, arm) in results), None)
        row.append("" if sent is None else f"{sent / 2**20:.0f}")
        for data in ("same", "domains"):
            figures = results.get((data, arm), {})
            row += [cell(figures.get(model)) for model in MODELS]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def plot(results, path):
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    marks = {"union": "o", "calibrated": "s", "own": "x", "document": "^"}
    figure, axes = pyplot.subplots(1, 2, figsize=(13, 5.5), sharex=True)
    for axis, data, title in zip(axes, ("same", "domains"), ("one mixture for all groups", "a domain for each group")):
        for index, arm in enumerate(a for a in ARMS if (data, a) in results):
            figures = results[data, arm]
            if not figures["bytes"]:
                continue
            for model in MODELS:
                if figures[model] is None:
                    continue
                extra = figures["calibration_bytes"] if model == "calibrated" else 0
                label = ARMS[arm] if model == "union" and data == "same" else None
                axis.plot((figures["bytes"] + extra) / 2**20, figures[model], marks[model],
                          color=f"C{index % 10}", mfc="none" if index >= 10 else None, label=label)
        axis.set(xscale="log", title=title, xlabel="MiB sent between groups in training")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("bits per byte on held-out text")
    for model in MODELS:
        axes[1].plot([], [], marks[model], color="0.3", label=model)
    axes[1].legend(loc="upper right", fontsize=8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncol=4, fontsize=8)
    figure.tight_layout(rect=(0, 0.16, 1, 1))
    figure.savefig(path)


def main():
    directory = pathlib.Path(sys.argv[1])
    results = read_all(directory)
    text = table(results)
    (directory / "table.md").write_text(text)
    print(text)
    try:
        plot(results, directory / "plot.svg")
        print(f"plot: {directory / 'plot.svg'}")
    except ImportError:
        print("no plot: it needs matplotlib (python3-matplotlib); install it and run again", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main()
