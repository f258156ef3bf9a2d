"""What tools/report.py makes of runs: whole, torn, resumed, old, going on, large."""
import contextlib
import fcntl
import html.parser
import io
import json
import pathlib
import random
import re
import sys
import tempfile
import unittest
import unittest.mock

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests" / "tools")]

import report
import report_charts as charts
import report_config
import report_data
import report_heat as heat
import report_page
import report_scale as scale
import report_sections as sections
import synthetic

VOID = {"meta", "line", "path", "rect", "image", "circle", "br", "link"}


class Page(html.parser.HTMLParser):
    """Fails on tags that do not match, collects what the page asks for, says and carries."""
    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.scripts, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [v for k, v in attributes.items() if k in ("href", "src", "xlink:href")]
        if tag not in VOID:
            self.open.append((tag, attributes))

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        assert self.open and self.open[-1][0] == tag, f"</{tag}> within {self.open[-1:]}"
        self.open.pop()

    def handle_startendtag(self, tag, attributes):
        self.links += [v for k, v in attributes if k in ("href", "src", "xlink:href")]

    def handle_data(self, data):
        inside = self.open[-1] if self.open else ("", {})
        if inside[0] == "script" and inside[1].get("type") == "application/json":
            self.scripts.append(json.loads(data))
        elif inside[0] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(self.words)


class WithFolder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def page(self, *folders):
        runs = report_data.read_runs(folders)
        return Page(report_page.page(runs, 1790000000))

    def called(self, *words):
        """Exit code and what went to stderr."""
        with unittest.mock.patch.object(sys, "argv", ["report.py", *map(str, words)]), \
                contextlib.redirect_stderr(io.StringIO()) as said, \
                contextlib.redirect_stdout(io.StringIO()):
            try:
                code = report.main()
            except SystemExit as ended:
                code = ended.code
        return code, said.getvalue()


class Runs(WithFolder):
    def test_a_run_has_every_section(self):
        run = synthetic.write(self.folder / "plain")
        page = self.page(run)
        for title in ("Loss", "Evaluations", "Experts", "How alike the groups are",
                      "Bytes between groups", "Speed", "Training", "Facts", "Events"):
            self.assertIn(title, page.words)
        kinds = [s["kind"] for s in page.scripts]
        self.assertEqual(kinds.count("heat"), 2 + 1)  # both layers, and the imbalance
        self.assertEqual(kinds.count("bars"), 1)
        self.assertIn("done", page.words)
        self.assertIn("1M total, 400k active", page.text)

    def test_nothing_is_fetched(self):
        page = self.page(synthetic.write(self.folder / "plain"))
        for link in page.links:
            self.assertTrue(link.startswith(("data:image/png;base64,", "#")), link[:80])
        text = report_page.page(report_data.read_runs([self.folder / "plain"]), 0)
        self.assertNotRegex(text, r"url\(|@import|fetch\(|XMLHttp|<link")

    def test_an_old_run_without_the_newer_keys(self):
        page = self.page(synthetic.write(self.folder / "old", new_keys=False))
        self.assertIn("This run's metrics do not tell the load of each expert.", page.words)
        self.assertEqual([s["kind"] for s in page.scripts].count("heat"), 1)  # the imbalance
        self.assertIn("65.5k tokens", page.text)  # from the config: 2 groups x 64 x 4 x 128

    def test_figures_of_a_run(self):
        run = report_data.read_run(synthetic.write(self.folder / "plain"))
        self.assertEqual([g.name for g in run.groups], ["west", "east"])  # as the run has them
        self.assertEqual(run.tokens(), 2 * 64 * 512)
        self.assertEqual(run.sent_by_class(), {"shared": 8 * 600000, "router": 8 * 3000,
                                               "control": 8 * 500, "evaluations": 4 * 1000000})
        self.assertEqual(run.residents(0), {0: [0], 1: [0], 2: [0], 3: [0], 4: [1], 5: [1],
                                            6: [1], 7: [1]})
        self.assertEqual(run.state, "done")

    def test_a_line_that_is_being_written_and_lines_that_are_none(self):
        run = synthetic.write(self.folder / "torn", end=None)
        path = run / "metrics" / "west.jsonl"
        whole = path.read_text()
        path.write_text(whole + 'no json\n[1]\n{"event": 3, "step": 1}\n{"event":"step","st')
        west = report_data.read_group(path)
        self.assertEqual((west.bad, west.torn), (3, True))
        self.assertEqual(west.of("step")[-1]["step"], 64)
        page = self.page(run)
        self.assertIn("no end yet", page.words)
        self.assertIn("3, left out", page.words)

    def test_numbers_that_are_none(self):
        run = synthetic.write(self.folder / "nan", nan_at=(10, 11))
        path = run / "metrics" / "east.jsonl"
        path.write_text(re.sub(r'"loss": null', '"loss": NaN', path.read_text(), count=1))
        page = self.page(run)
        self.assertIn("4 values are not finite: a cross at the top.", page.text)

    def test_all_numbers_are_none(self):
        run = synthetic.write(self.folder / "nan", nan_at=range(100), evaluate_every=0)
        self.assertNotIn("nats per token", self.page(run).words)

    def test_a_resumed_run_has_no_step_twice(self):
        run = synthetic.write(self.folder / "resumed", end="stopped")
        path = run / "metrics" / "west.jsonl"
        lines = path.read_text().splitlines()
        again = [json.dumps({"event": "start", "step": 40, "group": "west", "resumed": True})]
        again += [line for line in lines if 40 < json.loads(line)["step"] <= 56]
        path.write_text("\n".join(lines + again) + "\n")
        west = report_data.read_group(path)
        steps = [e["step"] for e in west.of("step")]
        self.assertEqual(steps, list(range(1, 57)))
        self.assertEqual([e["round"] for e in west.of("round")], list(range(1, 8)))
        self.assertEqual(west.of("end"), [])
        self.assertEqual(west.start["n_experts"], 8)  # told by the first start only
        self.assertIn("resumed", self.page(run).words)

    def test_time_between_two_parts_of_a_run_does_not_count(self):
        group = report_data.Group("g", [
            {"event": "start", "step": 0, "time": 100.0},
            {"event": "step", "step": 1, "time": 130.0},
            {"event": "start", "step": 1, "time": 9000.0},
            {"event": "step", "step": 2, "time": 9007.0}])
        self.assertEqual(group.seconds(), 37)

    def test_one_group(self):
        page = self.page(synthetic.write(self.folder / "solo", groups=["solo"], evaluate_every=0))
        self.assertIn("1 group: solo", page.text)
        for title in ("How alike the groups are", "Bytes between groups", "Evaluations"):
            self.assertNotIn(title, page.words)

    def test_many_groups_have_one_legend(self):
        names = [f"site{i}" for i in range(16)]
        run = synthetic.write(self.folder / "many", groups=names, steps=16, experts=16)
        page = self.page(run)
        text = report_page.page(report_data.read_runs([run]), 0)
        self.assertEqual(text.count('<button type="button" data-s="site3"'), 1)
        drawn = [s for s in page.scripts if s["kind"] == "lines"][0]["series"]
        self.assertEqual(len({s["css"] for s in drawn if s["name"] in names}), 16)

    def test_a_run_that_has_only_begun(self):
        run = synthetic.write(self.folder / "new", end=None)
        for path in (run / "metrics").iterdir():
            path.write_text(path.read_text().splitlines()[0] + "\n")
        self.assertIn("no end yet", self.page(run).words)
        (run / "metrics" / "east.jsonl").write_text("")  # one group has written nothing yet
        self.assertIn("1 group: west", self.page(run).text)

    def test_a_run_whose_lock_is_held_is_running(self):
        run = synthetic.write(self.folder / "going", end=None)
        with open(run / "lock", "wb") as lock:
            self.assertIn("no end yet", self.page(run).words)
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.assertIn("running", self.page(run).words)

    def test_rounds_that_lack_a_group_and_notes_stand_out(self):
        page = self.page(synthetic.write(self.folder / "failed", failed=(3,), note="<east> slow"))
        self.assertIn("round 3 with 1 of 2 groups", page.words)
        self.assertIn("<east> slow", page.words)
        self.assertIn("a round that not all groups took part in", page.words)

    def test_strange_values_make_no_trouble(self):
        run = synthetic.write(self.folder / "strange", steps=24)
        path = run / "metrics" / "west.jsonl"
        whole = path.read_text().splitlines()
        for seed in range(25):
            made_up = random.Random(seed)
            path.write_text("".join(json.dumps(synthetic.spoilt(json.loads(line), made_up)) + "\n"
                                    for line in whole))
            with self.subTest(seed=seed):
                self.page(run)

    def test_runs_side_by_side(self):
        a = synthetic.write(self.folder / "a")
        b = synthetic.write(self.folder / "b", replication=2, steps=32)
        page = self.page(a, b)
        self.assertEqual(page.ids, ["run-1", "run-2"])
        self.assertIn("3 values differ; 16 are equal.", page.text)
        self.assertIn("federation.replication", page.words)
        self.assertIn("#run-2", page.links)

    def test_two_runs_of_one_name(self):
        for place in ("x", "y"):
            synthetic.write(self.folder / place / "same", steps=16)
        names = [r.name for r in report_data.read_runs([self.folder / "x" / "same",
                                                        self.folder / "y" / "same"])]
        self.assertEqual(len(set(names)), 2)


class Calls(WithFolder):
    def test_what_is_no_run_is_named(self):
        for path, words in ((self.folder / "none", "no such folder"),
                            (self.folder, "not a run of fomoe-train")):
            code, said = self.called(path)
            self.assertEqual(code, 3)
            self.assertEqual(said.count("\n"), 1)
            self.assertIn(str(path), said)
            self.assertIn(words, said)

    def test_empty_metrics(self):
        (self.folder / "metrics").mkdir()
        (self.folder / "metrics" / "west.jsonl").write_text("")
        code, said = self.called(self.folder)
        self.assertEqual(code, 3)
        self.assertIn("no event yet", said)

    def test_usage(self):
        self.assertEqual(self.called()[0], 2)
        self.assertEqual(self.called("--nonsense")[0], 2)

    def test_the_page_is_written(self):
        run = synthetic.write(self.folder / "plain", steps=16)
        self.assertEqual(self.called(run)[0], 0)
        self.assertIn("plain", (run / "report.html").read_text())
        self.assertEqual(self.called(run, "-o", self.folder / "r.html")[0], 0)
        Page((self.folder / "r.html").read_text())
        code, said = self.called(run, "-o", self.folder / "no" / "r.html")
        self.assertEqual(code, 3)
        self.assertIn("cannot write", said)


class Configs(unittest.TestCase):
    def test_every_config_of_the_project(self):
        for path in (ROOT / "configs").rglob("*.yaml"):
            table = report_config.flat(path.read_text())
            self.assertTrue(table["name"], path)
            self.assertTrue(report_config.integer(table["model.d_model"]), path)

    def test_maps_lists_flows_comments_and_quotes(self):
        table = report_config.flat(
            "a:  # a # b\n- name: x # c\n  data: {a: 1, 'b c': [1, 2]}\n- name: \"y # no\"\n"
            "b: 2  # from a.yaml:3\nc:\n  d:\n    - 1\n    - e\n  f: {g: {h: 'i, j'}}\n  k: {}\n"
            "l: [0-7, 9]\n")
        self.assertEqual(table, {"a[0].name": "x", "a[0].data.a": "1", "a[0].data.b c": "[1, 2]",
                                 "a[1].name": "y # no", "b": "2", "c.d[0]": "1", "c.d[1]": "e",
                                 "c.f.g.h": "i, j", "l": "[0-7, 9]"})

    def test_where_values_come_from(self):
        origins = {}
        table = report_config.flat(
            "seed: 3  # --set\nb:\n  c: 1  # x#y.yaml:2:16 (1Mt)\n  d: 'a # b'\n"
            "g:\n    - {name: x, ranks: 1}  # default\n", origins)
        self.assertEqual(table, {"seed": "3", "b.c": "1", "b.d": "a # b", "g[0].name": "x",
                                 "g[0].ranks": "1"})
        self.assertEqual(origins, {"seed": "--set", "b.c": "x#y.yaml:2:16 (1Mt)",
                                   "g[0].name": "default", "g[0].ranks": "default"})

    def test_differences(self):
        differ, equal = report_config.differences([{"a": "1", "b": "2"}, {"a": "1", "c": "3"}])
        self.assertEqual((differ, equal), ([("b", ["2", None]), ("c", [None, "3"])], 1))


class Scales(unittest.TestCase):
    def test_ticks_are_round_and_inside(self):
        for low, high in ((0, 1), (1.53, 6.2), (0, 0.00037), (-0.4, 0.9), (3, 3), (0, 0),
                          (1e9, 7e9),
                          (0.98, 0.99)):
            axis = scale.y_scale([low, high], 100, 0, log=False)
            self.assertTrue(2 <= len(axis.ticks) <= 9, (low, high, axis.ticks))
            for value, _ in axis.ticks:
                self.assertTrue(-1e-6 <= axis(value) <= 100 + 1e-6)
            self.assertEqual(len({label for _, label in axis.ticks}), len(axis.ticks))
            self.assertTrue(0 <= axis(high) <= axis(low) <= 100)

    def test_logarithmic(self):
        axis = scale.y_scale([0.001, 0.1, 100], 100, 0)
        self.assertAlmostEqual(axis(0.001), 100)
        self.assertAlmostEqual(axis(100), 0)
        self.assertEqual([label for _, label in axis.ticks], ["0.001", "0.01", "0.1", "1", "10",
                                                              "100"])
        self.assertAlmostEqual(axis(0), 100)  # as low as the axis goes

    def test_words(self):
        self.assertEqual([scale.bytes_text(n) for n in (0, 1023, 1536, 9.4 * 2**20, 2**40)],
                         ["0 B", "1023 B", "1.50 KiB", "9.40 MiB", "1 TiB"])
        self.assertEqual([scale.short(n) for n in (0, 1.23456, 12345678, 0.00001, 150000)],
                         ["0", "1.235", "12.35M", "1.00e-5", "150k"])
        self.assertEqual([scale.duration(s) for s in (5, 65, 7500, 180000)],
                         ["5 s", "1 min 05 s", "2 h 05 min", "2 d 02 h"])


class Charts(unittest.TestCase):
    def test_thinning_keeps_ends_and_extremes(self):
        y = [float(i % 97) for i in range(5000)]
        y[1234], y[4321], y[3000] = 1000.0, -5.0, None
        x = list(range(5000))
        kept_x, kept_y, size = charts.thinned(x, y, 600)
        self.assertLessEqual(len(kept_x), 5 * (5000 // size + 1))
        self.assertEqual((kept_x[0], kept_x[-1]), (0, 4999))
        for place in (1234, 4321, 3000):
            self.assertEqual(kept_y[kept_x.index(place)], y[place])
        self.assertEqual(charts.thinned(x[:600], y[:600], 600)[2], 1)

    def test_a_mean_leaves_out_what_is_not_finite(self):
        self.assertEqual(charts.running_mean([1, 2, None, 4, 8], 3), [1.5, 1.5, None, 6, 6])

    def test_a_gap_breaks_the_line(self):
        path = charts.path_of([0, 1, 2, 3], [1, None, 2, 3], lambda x: x, lambda y: y)
        self.assertEqual(path, "M0.0 1.0M2.0 2.0L3.0 3.0")

    def test_values_below_the_pointer_cannot_end_the_script(self):
        self.assertNotIn("<", charts.embedded({"a": "</script>"}))


class Heat(unittest.TestCase):
    def test_colours(self):
        self.assertEqual(heat.index_of(None), 0)
        self.assertEqual(heat.index_of(0), 1)
        self.assertEqual(heat.index_of(1), 2 + heat.STEPS // 2)
        self.assertEqual(heat.index_of(100), 2 + heat.STEPS)
        self.assertEqual(heat.index_of(1e-9), 2)
        for stops in (heat.LIGHT, heat.DARK):
            self.assertLessEqual(len(heat.palette(stops, (0, 0, 0), (0, 0, 0))), 256)

    def test_load_is_relative_to_an_even_one(self):
        def group(counts):
            return report_data.Group("g", [{"event": "round", "step": 8, "round": 1,
                                            "tokens_by_expert": [counts]}])
        run = report_data.Run("", "r", [group([30, 10, 0, 0]), group([0, 0, 40, 0])], {}, 0)
        layers, rounds = sections.loads(run)
        self.assertEqual(rounds, [1])
        self.assertEqual(layers, [[[1.5], [0.5], [2.0], [0.0]]])

    def test_columns_are_averaged(self):
        self.assertEqual(heat.merged([[1, 3, None, 5, None]], 3), ([[2, 5, None]], 2))


if __name__ == "__main__":
    unittest.main()
