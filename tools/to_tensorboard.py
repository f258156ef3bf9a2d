#!/usr/bin/env python3
"""Writes the metrics of a run of fomoe-train as event files for TensorBoard.

  tools/to_tensorboard.py runs/quickstart             what is there
  tools/to_tensorboard.py runs/quickstart --follow    and what comes, until the run is done
  tensorboard --logdir runs/quickstart/tensorboard

Each group is a run of TensorBoard, the union model another. Scalars have the names of the metrics;
a histogram expert_load/layer_N has the tokens of each expert over its id. What an earlier call has
written is replaced. Exit codes: 0 written, 2 usage or the package tensorboard is missing, 3 a
folder that is no run, or one that cannot be written.
"""
import argparse
import pathlib
import sys
import time

import report_data

UNION = "union_model"
SUFFIX = ".fomoe"  # at the end of the names of the files that are ours to replace
MISSING = """to_tensorboard.py: the Python package tensorboard is missing. Install it with
  python3 -m venv build/venv && build/venv/bin/pip install -r tools/requirements.txt
and start this with build/venv/bin/python (on Debian, venv is in the package python3-venv)"""

# Figures of an event that are of interest for a layer, with lists by MoE layer.
BY_LAYER = ("load_imbalance", "load_entropy", "router_entropy", "skip")
LEFT_OUT = {"step", "time", "round", "hash", "groups_total"}


class Output:
    """The event files; a SessionLog tells TensorBoard to forget what a resume has made void."""
    def __init__(self, folder):
        from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, types_pb2
        from tensorboard.plugins.text import metadata
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
        self.event, self.summary, self.tensor = event_pb2, summary_pb2, tensor_pb2
        self.string, self.metadata, self.make = types_pb2.DT_STRING, metadata, EventFileWriter
        self.folder, self.writers = folder, {}
        for old in folder.glob(f"*/events.out.tfevents.*{SUFFIX}"):
            old.unlink()

    def add(self, name, step, when, values=(), **fields):
        if name not in self.writers:
            self.writers[name] = self.make(str(self.folder / name), filename_suffix=SUFFIX)
        if values:
            fields["summary"] = self.summary.Summary(value=values)
        self.writers[name].add_event(self.event.Event(step=int(step), wall_time=when, **fields))

    def scalar(self, tag, value):
        """A figure that is not finite is shown as such."""
        return self.summary.Summary.Value(
            tag=tag, simple_value=float("nan") if value is None else value)

    def by_expert(self, tag, counts):
        """A bucket an expert, at its id."""
        total = sum(counts)
        return self.summary.Summary.Value(tag=tag, histo=self.summary.HistogramProto(
            min=-0.5, max=len(counts) - 0.5, num=total,
            sum=sum(e * n for e, n in enumerate(counts)),
            sum_squares=sum(e * e * n for e, n in enumerate(counts)),
            bucket_limit=[e + 0.5 for e in range(len(counts))], bucket=counts))

    def text(self, tag, words):
        return self.summary.Summary.Value(
            tag=tag, metadata=self.metadata.create_summary_metadata(tag, ""),
            tensor=self.tensor.TensorProto(dtype=self.string, string_val=[words.encode()]))

    def forget_from(self, name, step, when):
        self.add(name, step, when, session_log=self.event.SessionLog(
            status=self.event.SessionLog.START))

    def flush(self):
        for writer in self.writers.values():
            writer.flush()

    def close(self):
        for writer in self.writers.values():
            writer.close()


def scalars(event, prefix, output):
    """The numbers of an event; of its objects one level down, such as sent/shared."""
    values = []
    for key, value in event.items():
        if key in LEFT_OUT or isinstance(value, (str, bool, list)):
            continue
        if isinstance(value, dict):
            values += [output.scalar(f"{prefix}/{key}/{k}", report_data.number(v))
                       for k, v in value.items() if v is None or
                       isinstance(v, (int, float)) and not isinstance(v, bool)]
        else:
            values.append(output.scalar(f"{prefix}/{key}", report_data.number(value)))
    return values


def layers(event, output, places):
    values = []
    for key in BY_LAYER:
        for i, value in enumerate(report_data.numbers(event.get(key))):
            values.append(output.scalar(f"{key}/layer_{places(i)}", value))
    told = event.get("tokens_by_expert")
    for i, counts in enumerate(told if isinstance(told, list) else ()):
        counts = [c or 0 for c in report_data.numbers(counts)]
        if counts:
            values.append(output.by_expert(f"expert_load/layer_{places(i)}", counts))
    return values


def evaluated(model, output):
    """Figures of a model: pooled and by domain."""
    values, domains = [], model.get("domains")
    scored = [("pooled", model.get("pooled"))] + \
        (sorted(domains.items()) if isinstance(domains, dict) else [])
    for figure in ("loss", "bits_per_byte"):
        for name, scores in scored:
            if isinstance(scores, dict) and figure in scores:
                values.append(output.scalar(f"eval/{figure}/{name}",
                                            report_data.number(scores[figure])))
    return values


class Source:
    """The file of one group, read as it grows; what a resume cuts off is taken back."""
    def __init__(self, path, output, config, leads):
        self.path, self.output, self.config, self.leads = path, output, config, leads
        self.name = path.stem
        self.lines = []  # hashes of those that are written
        self.place = 0  # behind the last of them
        self.last = b""
        self.moe_layers = None
        self.ended = False

    def poll(self):
        with open(self.path, "rb") as file:
            file.seek(max(0, self.place - len(self.last)))
            if file.read(len(self.last)) != self.last:
                self.start_over(file)
            text = file.read()
        complete = text[:text.rfind(b"\n") + 1]
        if not complete:
            return 0
        when = self.path.stat().st_mtime  # of lines without a time of their own
        for line in complete.splitlines(keepends=True):
            self.lines.append(hash(line))
            self.last = line
            for event in report_data.parse(line.decode("utf-8", errors="replace"))[0]:
                self.put(event, report_data.time_of(event) or when)
        self.place += len(complete)
        return len(complete)

    def start_over(self, file):
        """The file is not the one that was read: goes to the first line that differs."""
        file.seek(0)
        same, self.place, self.last = 0, 0, b""
        for line in file:
            if same == len(self.lines) or hash(line) != self.lines[same]:
                break
            same, self.place, self.last = same + 1, self.place + len(line), line
        del self.lines[same:]
        file.seek(self.place)

    def put(self, event, when):
        kind, step = event["event"], event["step"]
        add, output = self.output.add, self.output
        self.ended = kind == "end" and event.get("reason") == "done" or \
            self.ended and kind != "start"
        if kind == "start":
            if isinstance(event.get("moe_layers"), list):
                self.moe_layers = event["moe_layers"]
            output.forget_from(self.name, step + 1, when)
            if self.leads and UNION in output.writers:
                output.forget_from(UNION, step + 1, when)
            if self.leads and self.config:
                add(self.name, step, when, [output.text("config", self.config)])
        elif kind == "step":
            add(self.name, step, when, scalars(event, "train", output))
        elif kind == "round":
            add(self.name, step, when, scalars(event, "round", output) +
                layers(event, output, self.layer))
        elif kind == "eval":
            own = event.get("own")
            if isinstance(own, dict):
                add(self.name, step, when, evaluated(own, output))
            if self.leads and isinstance(event.get("union"), dict):
                values = evaluated(event["union"], output)
                if "gap" in event:
                    values.append(output.scalar("eval/gap", report_data.number(event["gap"])))
                add(UNION, step, when, values)
        elif kind == "calibration_step":
            add(self.name, report_data.number(event.get("calibration_step")) or step, when,
                [output.scalar(f"calibration/{k}", report_data.number(event[k]))
                 for k in ("loss", "grad_norm", "learning_rate") if k in event])
        elif kind == "note":
            add(self.name, step, when, [output.text("notes", str(event.get("text", "")))])

    def layer(self, i):
        return self.moe_layers[i] if self.moe_layers and i < len(self.moe_layers) else i


def write(folder, output, follow, every):
    """Until there is nothing more to come."""
    config = folder / "config.yaml"
    config = "```\n" + config.read_text(errors="replace") + "```" if config.is_file() else ""
    sources = {}
    while True:
        for path in sorted((folder / "metrics").glob("*.jsonl")):
            if path not in sources:
                sources[path] = Source(path, output, config, leads=not sources)
        for source in sources.values():
            source.poll()
        output.flush()
        if not follow or all(source.ended for source in sources.values()):
            return
        time.sleep(max(0.05, every))


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path, metavar="RUN", help="the folder of a run")
    parser.add_argument("-o", "--out", type=pathlib.Path, metavar="DIR",
                        help="where the event files go (RUN/tensorboard)")
    parser.add_argument("--follow", action="store_true", help="go on until the run is done")
    parser.add_argument("--every", type=float, default=2, metavar="SECONDS",
                        help="between looks at the metrics with --follow (2)")
    arguments = parser.parse_args()
    try:
        report_data.read_run(arguments.run)
        write(arguments.run, Output(arguments.out or arguments.run / "tensorboard"),
              arguments.follow, arguments.every)
    except report_data.NotARun as error:
        print(f"to_tensorboard.py: {error}", file=sys.stderr)
        return 3
    except ModuleNotFoundError as error:
        print(MISSING if error.name.startswith("tensorboard") else
              f"to_tensorboard.py: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"to_tensorboard.py: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
