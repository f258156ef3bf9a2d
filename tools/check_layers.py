#!/usr/bin/env python3
"""Holds the include order of the rooms, the homes of foreign headers and the length of files.

Prints one line per violation, file:line: what and what is allowed, and exits with 1 if there is any.
--self-test plants each kind of violation in a temporary tree and fails unless every one is reported.
"""
import argparse
import pathlib
import re
import sys
import tempfile

# A file includes its own room and rooms of earlier lines; rooms on one line are strangers.
ORDER = """
base
config tensor
topology ops comm
device
data model
optim
federation
checkpoint
eval plan
train
apps
"""
LAYERS = [line.split() for line in ORDER.strip().splitlines()]
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}
CUDA_SEES = {"base", "tensor", "ops", "comm"}

# Header pattern -> where it may be included (a file, or a folder with a slash at its end). `others`
# are places outside src/ and cuda/ that may have it too.
HOMES = [
    (r"mpi\.h$|mpi/", ["src/comm/mpi_communicator.cpp"]),
    (r"yaml-cpp/", ["src/config/"]),
    (r"CLI/", ["src/apps/", "tools/"]),
    (r"sentencepiece", ["src/data/sentencepiece.cpp"]),
    (r"spdlog/", ["src/base/log.cpp"]),
    (r"(oneapi/)?dnnl|oneapi/", ["src/ops/cpu/", "tests/cudaemu/blas/"]),
    (r"catch2/", ["tests/"]),
    (r"(cuda|cublas|nccl|nvml|curand|cudnn|cub/|cutlass/|mma\.h)", ["cuda/", "tests/cudaemu/"]),
]
CUDA_OWN = re.compile(r"^cuda/")

SUFFIXES = {".h", ".cpp", ".cu", ".cuh", ".py", ".c", ".cc", ".hpp"}
MAX_LINES = 400
REASON_LINES = 5  # within which a longer file says why, after the word "long:"
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^">]+)[">]')


def allowed_rooms(room):
    return [r for level in LAYERS[: LEVEL[room]] for r in level] + [room]


def check_include(path, header, root):
    """What is wrong with `header` in the file `path` (relative to the root), or None."""
    place = path.as_posix()
    first = header.split("/")[0]
    in_src, in_cuda = path.parts[0] == "src", path.parts[0] == "cuda"

    # Our own headers are named from src/, from cuda/ in cuda/, from tests/ in tests and tools.
    own = (root / "src" / header).is_file()
    if in_src:
        if CUDA_OWN.match(header) or ((root / "cuda" / header).is_file() and not own):
            return f"includes \"{header}\"; nothing in src/ sees cuda/"
        if (root / "tests" / header).is_file() and not own:
            return f"includes \"{header}\"; nothing in src/ sees tests/"
        room = path.parts[1]
        if len(path.parts) < 3 or room not in LEVEL:
            return "lies in no room: src/ has " + ", ".join(LEVEL)
        if first in LEVEL and "/" in header and first not in allowed_rooms(room):
            return f'includes "{header}"; {room}/ sees {", ".join(allowed_rooms(room))}'
        if first in LEVEL and "/" in header:
            return None
    if in_cuda and first in LEVEL and "/" in header:
        if first not in CUDA_SEES:
            return f'includes "{header}"; cuda/ sees {", ".join(sorted(CUDA_SEES))}'
        return None
    if own or (root / "cuda" / header).is_file() or (root / "tests" / header).is_file():
        return None

    for pattern, homes in HOMES:
        if not re.match(pattern, header):
            continue
        if any(place == home or (home.endswith("/") and place.startswith(home)) for home in homes):
            return None
        return f'includes <{header}>; its home is {" and ".join(homes)}'
    return None


def check_file(path, root):
    """(line, what) of every violation in one file."""
    lines = (root / path).read_text(encoding="utf-8", errors="replace").splitlines()
    found = []
    in_comment = False
    for number, line in enumerate(lines, 1):
        if in_comment:
            if "*/" not in line:
                continue
            line, in_comment = line.split("*/", 1)[1], False
        match = INCLUDE.match(line)
        if match and path.suffix != ".py":
            what = check_include(path, match.group(1), root)
            if what:
                found.append((number, what))
        elif path.suffix != ".py" and "/*" in line.split("//")[0]:
            in_comment = "*/" not in line.split("/*", 1)[1]
    if len(lines) > MAX_LINES and not any("long:" in line for line in lines[:REASON_LINES]):
        found.append((MAX_LINES + 1, f"has {len(lines)} lines; {MAX_LINES} are allowed, or a reason "
                      f"after the word \"long:\" in its first {REASON_LINES} lines"))
    return found


def check_tree(root):
    report = []
    for top in ("src", "cuda", "tools", "tests"):
        for file in sorted((root / top).rglob("*")):
            if file.is_file() and file.suffix in SUFFIXES:
                path = file.relative_to(root)
                report += [f"{path.as_posix()}:{line}: {what}" for line, what in check_file(path, root)]
    return report


def self_test():
    """Plants violations and what is allowed; returns the exit code."""
    long_file = "// A file.\n" + "int x;\n" * MAX_LINES
    # path -> (content, line to be reported or None)
    planted = {
        "src/base/error.h": ("// Fine.\n#include <string>\n", None),
        "src/base/log.cpp": ('#include <spdlog/spdlog.h>\n#include "base/error.h"\n', None),
        "src/base/up.h": ('// Text.\n#include "tensor/tensor.h"\n', 2),
        "src/base/chatty.cpp": ("#include <spdlog/spdlog.h>\n", 1),
        "src/tensor/tensor.h": ('#include "base/error.h"\n', None),
        "src/tensor/stranger.h": ('#include "config/config.h"\n', 1),
        "src/config/load.cpp": ('#include <yaml-cpp/yaml.h>\n#include "base/error.h"\n', None),
        "src/config/config.h": ("", None),
        "src/ops/op.h": ('#include "tensor/tensor.h"\n', None),
        "src/ops/stranger.h": ('#include "comm/communicator.h"\n', 1),
        "src/ops/knows_config.h": ('#include "config/config.h"\n', None),
        "src/ops/above.cpp": ('#include "model/parameters.h"\n', 1),
        "src/ops/knows_cuda.cpp": ('\n\n#include "cuda/device.cuh"\n', 3),
        "src/ops/knows_cuda_by_file.cpp": ('#include "device.cuh"\n', 1),
        "src/ops/knows_runtime.cpp": ("#include <cuda_runtime.h>\n", 1),
        "src/ops/onednn.cpp": ("#include <oneapi/dnnl/dnnl.hpp>\n", 1),
        "src/ops/cpu/onednn.cpp": ("#include <oneapi/dnnl/dnnl.hpp>\n#include <dnnl.hpp>\n", None),
        "src/ops/knows_tests.cpp": ('#include "support/cases.h"\n', 1),
        "src/comm/communicator.h": ('#include "tensor/tensor.h"\n', None),
        "src/comm/mpi_communicator.cpp": ("#include <mpi.h>\n", None),
        "src/comm/thread.cpp": ("  #  include <mpi.h>\n", 1),
        "src/device/plugin.cpp": ("#include <dlfcn.h>\n#include <nccl.h>\n", 2),
        "src/model/parameters.h": ('#include "ops/op.h"\n#include "comm/communicator.h"\n', None),
        "src/model/stranger.h": ('#include "data/loader.h"\n', 1),
        "src/data/loader.h": ("", None),
        "src/data/yaml.cpp": ("#include <yaml-cpp/yaml.h>\n", 1),
        "src/eval/eval.cpp": ('#include "plan/bytes.h"\n', 1),
        "src/plan/bytes.h": ("", None),
        "src/train/step.cpp": ('#include "apps/usage.h"\n', 1),
        "src/train/cli.cpp": ("#include <CLI/CLI.hpp>\n", 1),
        "src/train/comment.cpp": ("/* as in\n#include <mpi.h>\n*/\n// #include <mpi.h>\n", None),
        "src/apps/usage.h": ("#include <CLI/CLI.hpp>\n", None),
        "src/apps/fomoe_train.cpp": ('#include "train/step.h"\n', None),
        "src/stray/file.h": ('#include "base/error.h"\n', 1),
        "src/train/long.cpp": (long_file, MAX_LINES + 1),
        "src/train/reasoned.cpp": ("// A table. long: one row per key.\n" + long_file, None),
        "cuda/device.cuh": ('#include <cuda_runtime.h>\n#include "ops/op.h"\n', None),
        "cuda/nccl_communicator.cpp": ('#include <nccl.h>\n#include "comm/communicator.h"\n', None),
        "cuda/knows_config.cu": ('#include "config/config.h"\n', 1),
        "cuda/knows_model.cu": ('#include "device.cuh"\n#include "model/parameters.h"\n', 2),
        "cuda/knows_mpi.cu": ("#include <mpi.h>\n", 1),
        "tools/bench.cpp": ('#include <CLI/CLI.hpp>\n#include "support/cases.h"\n', None),
        "tools/bench_mpi.cpp": ("#include <mpi.h>\n", 1),
        "tools/long.py": ("x = 1\n" * (MAX_LINES + 1), MAX_LINES + 1),
        "tests/support/cases.h": ('#include "ops/op.h"\n', None),
        "tests/ops/op_test.cpp": ("#include <catch2/catch.hpp>\n", None),
        "tests/ops/yaml_test.cpp": ("#include <yaml-cpp/yaml.h>\n", 1),
    }
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for path, (content, _) in planted.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(content)
        report = check_tree(root)
    reported = {":".join(line.split(":")[:2]) for line in report}
    expected = {f"{path}:{line}" for path, (_, line) in planted.items() if line}
    for missing in sorted(expected - reported):
        print(f"self-test: {missing}: planted violation was not reported")
    for wrong in sorted(reported - expected):
        print(f"self-test: {wrong}: reported, but is allowed")
    if reported == expected:
        print(f"self-test: all {len(expected)} planted violations were reported, nothing else was")
    return 0 if reported == expected else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", nargs="?", type=pathlib.Path,
                        default=pathlib.Path(__file__).resolve().parent.parent)
    parser.add_argument("--self-test", action="store_true", help="check the checker")
    arguments = parser.parse_args()
    if arguments.self_test:
        return self_test()
    if not (arguments.root / "src").is_dir():
        print(f"{arguments.root}: has no src/", file=sys.stderr)
        return 2
    report = check_tree(arguments.root)
    for line in report:
        print(line)
    return 1 if report else 0


if __name__ == "__main__":
    sys.exit(main())
