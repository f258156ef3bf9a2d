"""page_test.py BUILD: the report of a real run in headless Chromium: it is drawn, its script runs,
no text overlaps or is cut. The screenshots stay in BUILD/page/ to be looked at."""
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))

import browser
import synthetic

BUILD = pathlib.Path(sys.argv.pop(1) if len(sys.argv) > 1 else ROOT / "build").resolve()
SHOTS = BUILD / "page"

CONFIG = """\
name: small
model:
  d_model: 32
  n_layers: 3
  n_heads: 2
  n_kv_heads: 2
  tokenizer: bytes
  moe: {n_experts: 8, top_k: 2, d_expert: 16}
data: {sources: {one: one, two: two}, seq_len: 32, valid_sequences: 8}
train:
  steps: 96
  batch: 4
  micro_batch: 4
  log_every: 2
  optimizer: {lr: 3.0e-3, warmup: 4}
topology:
  groups:
    - {name: west}
    - {name: east, data: {one: 0.8, two: 0.2}}
federation: {local_steps: 8, evaluate_every: 2}
"""

# What a reader does and sees, told as JSON in an attribute of the page.
PROBE = """<script>
addEventListener("load", () => {
    const told = {ready: document.documentElement.dataset.ready, tips: [], cut: [], over: []};
    const hover = (figure, x, y) => {
        const plot = figure.querySelector(".plot"), box = plot.querySelector("svg")
            .getBoundingClientRect();
        plot.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + x * box.width,
                                                            clientY: box.top + y * box.height}));
        const tip = plot.querySelector(".tip");
        return tip && !tip.hidden ? tip.textContent : "";
    };
    for (const figure of document.querySelectorAll("figure.chart"))
        if (figure.querySelector("script")) told.tips.push([
            JSON.parse(figure.querySelector("script").textContent).kind, hover(figure, 0.5, 0.3)]);
    const loss = document.querySelector(".plot [data-s=west]").closest("figure");
    const button = document.querySelector("button[data-s=west]");
    button.click();
    told.off = getComputedStyle(loss.querySelector(".plot [data-s=west]")).display;
    told.offTip = hover(loss, 0.5, 0.3);
    button.click();
    told.on = getComputedStyle(loss.querySelector(".plot [data-s=west]")).display;
    told.wide = document.scrollingElement.scrollWidth - innerWidth;
    for (const svg of document.querySelectorAll("svg")) {
        const frame = svg.getBoundingClientRect();
        const texts = [...svg.querySelectorAll("text")].map(t => [t, t.getBoundingClientRect()]);
        texts.forEach(([text, a], i) => {
            if (a.width && (a.left < frame.left - 1 || a.right > frame.right + 1 ||
                            a.top < frame.top - 1 || a.bottom > frame.bottom + 3))
                told.cut.push(text.textContent);
            for (const [other, b] of texts.slice(i + 1))
                if (a.left < b.right && b.left < a.right && a.top + 3 < b.bottom &&
                    b.top + 3 < a.bottom)
                    told.over.push(text.textContent + " / " + other.textContent);
        });
    }
    told.height = document.scrollingElement.scrollHeight;
    document.documentElement.dataset.told = JSON.stringify(told);
});
</script>"""


def environment():
    told = dict(os.environ)
    told |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
             "OMPI_MCA_mpi_yield_when_idle": "1", "OMPI_MCA_rmaps_base_oversubscribe": "1"}
    return told


def run(folder, *words):
    done = subprocess.run([str(w) for w in words], cwd=folder, env=environment(), text=True,
                          capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done


def train(folder):
    """A small run of two groups."""
    for name in ("one", "two"):
        made_up = random.Random(name)
        words = ["".join(made_up.choice("abcdefghij") for _ in range(2 + i % 6)) for i in range(50)]
        (folder / f"{name}.txt").write_text("\n\n".join(
            " ".join(made_up.choice(words) for _ in range(60)) for _ in range(200)))
        run(folder, BUILD / "fomoe-data", "tokenize", "--tokenizer", "bytes", "--out", name,
            "--split-on", "blank-line", "--valid-fraction", "0.2", f"{name}.txt")
    (folder / "small.yaml").write_text(CONFIG)
    run(folder, BUILD / "fomoe-train", "small.yaml")
    return folder / "runs" / "small"


class Pages(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        SHOTS.mkdir(exist_ok=True)

    def told(self, page, width=1280):
        """What the probe in a copy of the page tells; nothing may be logged."""
        probed = self.folder / "probed.html"
        text = page.read_text()
        self.assertIn("</body>", text)
        probed.write_text(text.replace("</body>", PROBE + "</body>"))
        dom, logged = browser.chromium(probed, "--dump-dom", f"--window-size={width},1000")
        self.assertEqual(logged, [])
        found = re.search(r'<html[^>]*data-told="([^"]*)"', dom)
        self.assertTrue(found, "the page's script did not end")
        return json.loads(found.group(1).replace("&quot;", '"').replace("&lt;", "<")
                          .replace("&gt;", ">").replace("&amp;", "&"))

    def shot(self, page, name, height, *options, width=1280):
        file = SHOTS / name
        file.unlink(missing_ok=True)
        _, logged = browser.chromium(page, f"--screenshot={file}",
                                     f"--window-size={width},{height}", *options)
        self.assertEqual(logged, [])
        return browser.Picture(file)

    def check_drawn(self, picture, height):
        """Many colours, and something to see everywhere from its head to its end."""
        self.assertEqual((picture.width, picture.height), (1280, height))
        counts = picture.colours()
        self.assertGreater(len(counts), 100)
        background = max(counts, key=counts.get)
        for top in range(0, height - 300, 300):
            band = picture.colours(top, top + 300)
            self.assertGreater(len(band), 8, f"nothing to see at {top}")
        return background

    def test_the_report_of_a_real_run(self):
        real = train(self.folder)
        page = self.folder / "report.html"
        run(ROOT, sys.executable, ROOT / "tools" / "report.py", real, "-o", page)
        told = self.told(page)
        kinds = [kind for kind, _ in told["tips"]]
        self.assertEqual(int(told["ready"]), len(kinds))
        self.assertGreaterEqual(kinds.count("lines"), 12)
        self.assertEqual(kinds.count("bars"), 1)
        for kind, tip in told["tips"]:
            self.assertRegex(tip, r"(step|round) \d", kind)
        self.assertRegex(told["tips"][0][1], r"step \d+west\d\.\d+east\d\.\d+")
        self.assertEqual((told["off"], told["on"]), ("none", "inline"))
        self.assertNotIn("west", told["offTip"])
        self.assertEqual((told["cut"], told["over"]), ([], []))
        self.assertLessEqual(told["wide"], 0)
        light = self.check_drawn(self.shot(page, "report.png", told["height"]), told["height"])
        dark = self.check_drawn(self.shot(page, "report_dark.png", told["height"],
                                          "--force-dark-mode"), told["height"])
        self.assertGreater(min(light), 240)
        self.assertLess(max(dark), 40)

    def test_reports_of_other_shapes(self):
        many = ["west"] + [f"site{i}" for i in range(1, 16)]
        long = synthetic.write(self.folder / "long", groups=many, steps=1600, local_steps=4,
                               layers=13, experts=32, replication=2, nan_at=(700, 701, 1000),
                               failed=(100,), end=None, evaluate_every=20)
        old = synthetic.write(self.folder / "old", new_keys=False)
        solo = synthetic.write(self.folder / "solo", groups=["west"])
        for runs in ([long], [old, solo]):
            page = self.folder / "report.html"
            run(ROOT, sys.executable, ROOT / "tools" / "report.py", *runs, "-o", page)
            for width in (1280, 700):
                told = self.told(page, width)
                self.assertEqual((told["cut"], told["over"]), ([], []), (runs, width))
                self.assertLessEqual(told["wide"], 0, (runs, width))


if __name__ == "__main__":
    unittest.main()
