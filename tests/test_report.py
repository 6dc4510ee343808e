"""Laws of the report: its numbers are the run's, and it needs nothing else."""

import json
import re
import shutil
import sys

import numpy as np
import pytest

from tests import command_lines, reports
from udon_jax import errors, losses, report
from udon_jax.report import charts, compare, page, reading, tables


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Data and a finished run on it, which logged rates too."""
  root = tmp_path_factory.mktemp("report")
  reports.write_data(root / "data")
  reports.write_run(root / "run", data_dir=root / "data", rates=True)
  report.write(root / "run")
  return root


@pytest.fixture(scope="module")
def made(folder):
  return reports.read_page(folder / "run" / report.REPORT_FILE)


def percent(value):
  return f"{100 * value:.1f}"


def test_table_holds_the_results(folder, made):
  results = json.loads((folder / "run" / "results.json").read_text())
  head, below, *rows = made.tables["table-test"]
  names = [*reports.DOMAINS, "mean"]
  assert head == ["", *names]
  assert below == ["", *["R@1", "mMP@5"] * len(names)]
  expected = []
  for kind in ("merged", "separate"):
    expected.append([page.KIND_TITLES[kind]])
    for name in reports.EMBEDDINGS:
      values = results[name][kind]["test"]
      cells = [(values[d]["recall@1"], values[d]["mmp@5"]) for d in names]
      expected.append([name, *(percent(x) for pair in cells for x in pair)])
  assert rows == expected


def test_the_best_of_every_column_is_marked():
  results = reports.nested(np.random.default_rng(3), "test")
  (table,) = tables.results_tables(results)
  for block in table.blocks:
    columns = np.array([[c.text for c in row] for row in block.rows.values()])
    marked = np.array([[c.best for c in row] for row in block.rows.values()])
    values = columns.astype(float)
    np.testing.assert_array_equal(marked, values == values.max(axis=0))


def test_headline_names_what_was_reached(folder, made):
  results = json.loads((folder / "run" / "results.json").read_text())
  mean = results["student"]["merged"]["test"]["mean"]
  for words in (
    f"{percent(mean['recall@1'])} %",
    f"{percent(mean['mmp@5'])} %",
    "1.23M",
    "2031-02-03",
    "0123456789ab and changes",
  ):
    assert words in " ".join(made.text.split())


def test_every_chart_is_there(made):
  expected = {
    *(f"losses-{term}" for term in ("loss", *losses.TERMS, "grad_norm")),
    *(f"teacher-{i}" for i in range(len(reports.DOMAINS))),
    *(f"weight-{i}" for i in range(len(reports.DOMAINS))),
    *("weights", "rates", "indexes", "teachers-R", "teachers-mMP"),
    *("speed-images-per-second", "speed-data-wait", "speed-mfu"),
    *(
      f"validation-{metric}{domains}"
      for metric in ("R-merged", "mMP-merged", "R-separate")
      for domains in ("", "-domains")
    ),
  }
  assert set(made.captions) == {f"chart-{name}" for name in expected}
  svgs = [values for tag, values in made.tags if tag == "svg"]
  assert len(svgs) == len(expected)
  for values in svgs:
    assert values["role"] == "img"
    assert re.search(r"\d", values["aria-label"])


def test_charts_that_have_no_data_are_left_out(folder, tmp_path):
  reports.write_run(tmp_path / "run", data_dir=folder / "data")
  report.write(tmp_path / "run")
  made = reports.read_page(tmp_path / "run" / report.REPORT_FILE)
  assert "chart-speed-images-per-second" in made.captions
  assert not {"chart-rates", "chart-speed-mfu"} & set(made.captions)
  assert "rates" not in made.ids


def test_a_page_is_complete_in_itself(made):
  """What it refers to is in it: nothing is fetched, no name stands twice."""
  for place in made.loads():
    assert place.startswith(("data:", "#")), place
    if place.startswith("#"):
      assert place[1:] in made.ids
  assert "http" not in made.source
  assert "<script" not in made.source
  assert "@import" not in made.source
  assert len(set(made.ids)) == len(made.ids)
  assert len(made.source) < 4e6


def test_colours_are_those_of_the_style_sheet(made):
  """Stand-ins of charts are all replaced, by variables that exist."""
  assert "#fe00" not in made.source
  used = set(re.findall(r"var\((--[\w-]+)\)", made.source))
  assert used <= set(re.findall(r"(--[\w-]+):", made.source))
  assert {f"--hue-{reports.DOMAINS.index('cars')}", "--ink"} <= used


def test_pictures_are_framed_by_what_was_found(made):
  groups = reports.chosen()["groups"].values()
  expected = [
    kind
    for listed in groups
    for item in listed
    for kind in (
      "query",
      *("hit" if n["hit"] else "miss" for n in item["neighbours"]),
    )
  ]
  assert [kind for kind, _, _ in made.pictures] == expected
  for kind, source, alt in made.pictures:
    form, size = reports.jpeg_size(source)
    assert form == "JPEG"
    assert max(size) == 104
    assert kind in alt.lower()
  assert "None." in made.text  # no mistake across domains


def test_what_comes_from_data_is_escaped(made):
  assert f"Query {reports.HOSTILE}: cars, class 1, 7" in [
    alt for _, _, alt in made.pictures
  ]
  assert not [values for _, values in made.tags if "onerror" in values]


def test_a_hostile_domain_and_config_are_escaped(tmp_path):
  """Names reach charts, tables, captions and the config alike."""
  name = '<script>alert("$x_1$")</script>'
  reports.write_run(
    tmp_path / "run", domains=[name, "cars"], pretrained=f"augreg:{name}"
  )
  text = (tmp_path / "run" / "metrics.jsonl").read_text()
  (tmp_path / "run" / "metrics.jsonl").write_text(
    text.replace('"domain": "own"', f'"domain": {json.dumps(name)}')
  )
  report.write(tmp_path / "run")
  made = reports.read_page(tmp_path / "run" / report.REPORT_FILE)
  assert "<script" not in made.source
  assert made.captions["chart-teacher-0"] == name
  changed = {row[0]: row[2] for row in made.tables["table-changes"]}
  assert changed["domains"] == f"{name}, cars"
  assert changed["pretrained"] == f"augreg:{name}"


def test_it_is_made_anew_as_it_was(folder, made):
  report.write(folder / "run", output=folder / "again.html")
  assert (folder / "again.html").read_text() == made.source


def test_without_the_data_pictures_are_named(folder, tmp_path):
  reports.write_run(tmp_path / "run", data_dir=tmp_path / "gone")
  report.write(tmp_path / "run")
  made = reports.read_page(tmp_path / "run" / report.REPORT_FILE)
  assert len(made.pictures) == 16
  assert {source for _, source, _ in made.pictures} == {None}
  assert made.text.count("Pictures are missing: ") == 1
  assert "gone is no folder" in made.text
  assert reports.HOSTILE in made.text
  report.write(tmp_path / "run", data_dir=folder / "data")
  made = reports.read_page(tmp_path / "run" / report.REPORT_FILE)
  assert "Pictures are missing" not in made.text


def test_without_the_libraries_of_the_data_pictures_are_named(
  folder, tmp_path, monkeypatch
):
  reports.write_run(tmp_path / "run", data_dir=folder / "data")
  monkeypatch.setitem(sys.modules, "PIL", None)
  report.write(tmp_path / "run")
  made = reports.read_page(tmp_path / "run" / report.REPORT_FILE)
  assert {source for _, source, _ in made.pictures} == {None}
  assert "PIL is not installed; pip install 'udon_jax[data]'" in made.text


def test_results_of_validation_alone_are_called_so(folder, tmp_path):
  """As `udon_jax.evaluate --splits=val` leaves them."""
  reports.write_run(tmp_path / "run", data_dir=folder / "data")
  results = reports.nested(np.random.default_rng(1), "val")
  (tmp_path / "run" / "results.json").write_text(json.dumps(results))
  report.write(tmp_path / "run")
  made = reports.read_page(tmp_path / "run" / report.REPORT_FILE)
  value = results["student"]["merged"]["val"]["mean"]["recall@1"]
  text = " ".join(made.text.split())
  assert f"R@1 {percent(value)} % validation, student, merged" in text
  assert "table-val" in made.tables
  assert "chart-indexes" not in made.captions


def test_records_of_other_images_are_not_shown(folder, tmp_path):
  """The key of every record is compared."""
  reports.write_run(tmp_path / "run", data_dir=folder / "data")
  other = reports.chosen()
  other["groups"]["random"][0]["query"]["key"] = "cars/other.jpg"
  other["groups"]["random"][1]["query"]["position"] = 99
  (tmp_path / "run" / "examples.json").write_text(json.dumps(other))
  report.write(tmp_path / "run")
  made = reports.read_page(tmp_path / "run" / report.REPORT_FILE)
  missing = [alt for _, source, alt in made.pictures if source is None]
  assert missing == [
    "Query other.jpg: cars, class 0, 7",
    f"Query {reports.HOSTILE}: cars, class 99, 7".replace("99, 7", "1, 7"),
  ]
  assert "is not the image 'cars/other.jpg'" in made.text


@pytest.fixture
def live(folder, tmp_path):
  """A run that has no results yet."""
  shutil.copytree(folder / "run", tmp_path / "live")
  for name in ("results.json", "examples.json", report.REPORT_FILE):
    (tmp_path / "live" / name).unlink()
  return tmp_path / "live"


def test_a_live_run_shows_its_newest_validation(live):
  lines = reading.read_lines(live / "metrics.jsonl")
  reports.write_lines(live, [line for line in lines if line["step"] <= 60])
  with (live / "metrics.jsonl").open("a") as file:
    file.write('{"step": 70, "loss": 0.1')
  report.write(live)
  made = reports.read_page(live / report.REPORT_FILE)
  values = next(
    line for line in lines if "val/student/merged/mean/mmp@5" in line
  )
  assert values["step"] == 50
  row = made.tables["table-val"][3]
  assert row[:3] == [
    "student",
    percent(values["val/student/merged/cars/recall@1"]),
    percent(values["val/student/merged/cars/mmp@5"]),
  ]
  assert "of 100; not finished" in made.text
  assert not made.pictures


@pytest.mark.parametrize("kept", ["config.json", "metrics.jsonl"])
def test_a_run_that_has_just_begun_has_a_report(live, kept):
  """Of the files that a run starts with, one is enough."""
  for file in live.iterdir():
    if file.name != kept:
      file.unlink()
  if kept == "metrics.jsonl":
    (live / kept).write_text("")
  report.write(live)
  made = reports.read_page(live / report.REPORT_FILE)
  assert "no validation yet" in made.text
  assert not made.captions


@pytest.mark.parametrize(
  ("line", "number"),
  [("{", 3), ("3", 3), ("[]", 3), ('{"loss": 1}', 3), ('{"step": "a"}', 3),
   ('{"step": 1, "loss": "high"}', 3), ("\x00", 3)],
)  # fmt: skip
def test_foreign_lines_are_refused(live, line, number):
  text = (live / "metrics.jsonl").read_text().splitlines()
  (live / "metrics.jsonl").write_text("\n".join([*text[:2], line, text[3]]))
  with pytest.raises(errors.UserError, match=f"metrics.jsonl: line {number} "):
    reading.load(live, key="--workdir")


@pytest.mark.parametrize(
  ("name", "text"),
  [("results.json", "{"), ("results.json", "[]"), ("results.json", "{}"),
   ("results.json", '{"student": 1}'), ("config.json", "nope"),
   ("environment.json", "3"), ("examples.json", "{}"),
   ("examples.json", '{"step": 1, "groups": {"other": []}}')],
)  # fmt: skip
def test_damaged_files_are_named(live, name, text):
  (live / name).write_text(text)
  with pytest.raises(errors.UserError, match=name.replace(".", r"\.")):
    report.write(live)
  assert not (live / report.REPORT_FILE).exists()


def test_config_shows_what_differs_from_the_defaults(made, folder):
  rows = made.tables["table-changes"]
  assert rows == [
    ["key", "default", "this run"],
    ["data_dir", "data/uned", str(folder / "data")],
    ["domains", ", ".join(page.domain_table.UNED_NAMES), "cars, met, own"],
    ["num_train_steps", "None", "100"],
  ]


def test_domains_keep_their_colours():
  names = page.domain_table.UNED_NAMES
  assert list(page.hues_of(names).values()) == list(range(8))
  hues = page.hues_of(("own", "rp2k", "met", "other"))
  assert hues == {"rp2k": 7, "met": 4, "own": 0, "other": 1}
  assert set(page.hues_of([*names, "a", "b"])) == {*names, "a", "b"}


def test_long_curves_are_thinned_to_means():
  curve = reading.Curve(np.arange(1, 1001), np.arange(1000.0))
  thinned = charts.thin(curve)
  assert len(thinned) < 300
  assert thinned.steps[-1] == 1000
  counts = np.diff(thinned.steps, prepend=0)
  last = thinned.steps - 1  # the value at the last step of each part
  np.testing.assert_allclose(thinned.values, last - (counts - 1) / 2)


def test_labels_do_not_overlap():
  heights = np.array([50.0, 50.0, 51.0, 90.0, 0.0, 50.0])
  placed = dict(charts._spread(heights, low=0, high=100))
  assert sorted(placed) == list(range(6))
  y = np.array([placed[i] for i in range(6)])
  assert np.diff(np.sort(y)).min() >= 12 - 1e-9
  assert y.min() >= 0
  assert y.max() <= 100
  assert (
    np.argsort(y, kind="stable") == np.argsort(heights, kind="stable")
  ).all()


def test_mean_loss_takes_the_latest_of_every_domain(tmp_path):
  (tmp_path / "config.json").write_text(
    json.dumps(reports.config(domains=["cars", "met"]))
  )
  lines = [
    {"step": 1, "domain": "cars", "loss": 1.0},
    {"step": 2, "domain": "met", "loss": 3.0},
    {"step": 3, "domain": "cars", "loss": 5.0},
    {"step": 3, "domain": "met", "loss": 7.0},
    {"step": 4, "domain": "met", "loss": 1.0},
  ]
  reports.write_lines(tmp_path, lines)
  curve = reading.load(tmp_path, key="--workdir").mean_loss("loss")
  assert curve.steps.tolist() == [2, 3, 4]
  assert curve.values.tolist() == [2.0, 6.0, 3.0]


# Comparison of runs.


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
  """Three seeds of one config, another config, and one without results."""
  root = tmp_path_factory.mktemp("compare")
  results = {
    f"seed{seed}": reports.write_run(root / f"seed{seed}", seed=seed)
    for seed in range(3)
  }
  results["balanced"] = reports.write_run(
    root / "balanced", seed=9, sampler__strategy="balanced"
  )
  reports.write_run(root / "live", seed=4)
  (root / "live" / "results.json").unlink()
  order = ("seed0", "balanced", "seed1", "live", "seed2")
  report.write_comparison(
    [root / name for name in order], output=root / "compare.html"
  )
  return results, reports.read_page(root / "compare.html")


def test_groups_are_runs_that_differ_in_the_seed_alone(compared):
  _, made = compared
  _, first, second = made.tables["table-groups"]
  assert first[0] == "A"
  assert first[3:] == ["3 of 4", "0, 1, 4, 2", "seed0, seed1, live, seed2"]
  assert second[0] == "B"
  assert second[3:] == ["1 of 1", "9", "balanced"]
  assert made.tables["table-keys"] == [
    ["key", "A", "B"],
    ["sampler.strategy", "dynamic", "balanced"],
  ]


def test_mean_and_spread_are_numpys(compared):
  results, made = compared
  names = [*reports.DOMAINS, "mean"]
  for name in reports.EMBEDDINGS:
    for kind in reports.KINDS:
      for key in ("recall@1", "mmp@5"):
        _, group, *rows = made.tables[
          f"scores-{name}-{kind}-{key.replace('@', '')}"
        ]
        values = np.array(
          [
            [results[f"seed{seed}"][name][kind]["test"][d][key] for d in names]
            for seed in range(3)
          ]
        )
        assert group == [
          "A",
          *(
            f"{percent(np.mean(x))} ± {percent(np.std(x, ddof=1))}"
            for x in values.T
          ),
        ]
        by_run = {row[0]: row[1:] for row in rows}
        for seed in range(3):
          assert by_run[f"seed{seed}"] == [percent(x) for x in values[seed]]
        assert by_run["live"] == ["-"] * len(names)
        own = results["balanced"][name][kind]["test"]
        assert by_run["B"] == [percent(own[d][key]) for d in names]


def test_every_run_of_a_comparison_is_listed(compared):
  results, made = compared
  rows = {row[0]: row[1:] for row in made.tables["table-runs"][1:]}
  assert set(rows) == {*results, "live"}
  assert rows["live"][-1] == "validation at step 100, student, merged"
  mean = results["seed1"]["student"]["merged"]["test"]["mean"]
  assert rows["seed1"] == [
    "A",
    "1",
    "100",
    "2031-02-03",
    percent(mean["recall@1"]),
    percent(mean["mmp@5"]),
    "test, student, merged",
  ]


def test_curves_of_a_comparison_lie_over_another(compared):
  _, made = compared
  assert set(made.captions) == {
    *(f"chart-losses-{term}" for term in ("loss", *losses.TERMS)),
    *(f"chart-weight-{i}" for i in range(len(reports.DOMAINS))),
    *(
      f"chart-validation-{x}" for x in ("R-merged", "mMP-merged", "R-separate")
    ),
  }


def test_a_comparison_is_complete_in_itself(compared):
  test_a_page_is_complete_in_itself(compared[1])


def test_one_value_has_no_spread():
  assert compare.spread([0.5]).text == "50.0"
  assert compare.spread([None]).text == "-"
  assert compare.spread([0.5, None, 0.7]).text == "60.0 ± 14.1"
  assert compare.spread([0.5, None, 0.7]).count == 2


def test_the_mean_of_curves_is_taken_where_all_are():
  curves = [
    reading.Curve(np.array(steps), np.array(values))
    for steps, values in (
      ([1, 2, 3], [1.0, 2.0, 3.0]),
      ([2, 3, 4], [4.0, 5.0, 6.0]),
    )
  ]
  mean = compare.mean(curves)
  assert mean.steps.tolist() == [2, 3]
  assert mean.values.tolist() == [3.0, 4.0]


def test_differing_keys():
  configs = [tables.flatten(reports.config(loss__margin=x)) for x in (0.1, 0.2)]
  assert tables.differing_keys(configs) == ["loss.margin"]
  assert tables.differing_keys(configs[:1] * 2) == []


# The palette.


def _light(color):
  """Returns linear RGB of a hex colour."""
  srgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
  return np.where(
    srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4
  )


def _oklab(linear):
  """Returns perceptual coordinates (Ottosson, 2020)."""
  to_cones = np.array([
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
  ])  # fmt: skip
  to_lab = np.array([
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
  ])  # fmt: skip
  return to_lab @ np.cbrt(to_cones @ np.clip(linear, 0, 1))


# Machado et al. (2009), full severity.
VISION = {
  "normal": np.eye(3),
  "protan": np.array([
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
  ]),
  "deutan": np.array([
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.011820, 0.042940, 0.968881],
  ]),
  "tritan": np.array([
    [1.255528, -0.076749, -0.178779],
    [-0.078411, 0.930809, 0.147602],
    [0.004733, 0.691367, 0.303900],
  ]),
}  # fmt: skip


def themes():
  """Returns {theme: (paper, hues)} of the style sheet."""
  css = (page._TEMPLATES / "style.css").read_text()
  papers = re.findall(r"--paper: (#\w{6})", css)
  hues = re.findall(r"--hue-\d: (#\w{6})", css)
  return {"light": (papers[0], hues[:8]), "dark": (papers[1], hues[8:])}


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_domains_can_be_told_apart_by_everyone(theme, vision):
  _, hues = themes()[theme]
  assert len(hues) == 8
  seen = [_oklab(VISION[vision] @ _light(hue)) for hue in hues]
  apart = [
    np.linalg.norm(seen[i] - seen[j]) for i in range(8) for j in range(i)
  ]
  assert min(apart) > 0.09  # neighbours of a common palette: 0.02 and less


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_domains_stand_out_from_the_page(theme):
  paper, hues = themes()[theme]
  weights = np.array([0.2126, 0.7152, 0.0722])
  for hue in hues:
    low, high = sorted(weights @ _light(c) + 0.05 for c in (paper, hue))
    assert high / low > 2.8, hue  # WCAG asks for 3 of graphics


# The command line.


@pytest.fixture(scope="module")
def answers(folder):
  """Returns {case: (exit code, output, errors)}."""
  run = str(folder / "run")
  (folder / "empty").mkdir()
  (folder / "file").write_text("")
  shutil.copytree(folder / "run", folder / "torn")
  (folder / "torn" / "metrics.jsonl").write_text('{"st\n{"step": 1}\n')
  name = "udon_jax.report"
  cases = {
    "report": (name, f"--workdir={run}", f"--output={folder}/out/r.html"),
    "compare": (name, "--compare", run, "OTHER", f"--output={folder}/c.html"),
    "compare, flags first": (
      name, f"--output={folder}/c2.html", "--compare", run, "OTHER",
    ),
    "nothing": (name,),
    "no run": (name, f"--workdir={folder}/empty"),
    "missing": (name, f"--workdir={folder}/none"),
    "torn": (name, f"--workdir={folder}/torn"),
    "output below a file": (
      name, f"--workdir={run}", f"--output={folder}/file/r.html",
    ),
    "output is a folder": (name, f"--workdir={run}", f"--output={folder}"),
    "one to compare": (name, "--compare", run),
    "twice": (name, "--compare", run, f"{folder}/../{folder.name}/run"),
    "compare and workdir": (name, "--compare", run, f"--workdir={run}"),
    "argument": (name, f"--workdir={run}", "other"),
    "without viz": (
      "tests.without", "matplotlib,jinja2", name, f"--workdir={run}",
    ),
  }  # fmt: skip
  reports.write_run(folder / "other", seed=1)
  return command_lines.run_all(
    {
      case: [x.replace("OTHER", str(folder / "other")) for x in argv]
      for case, argv in cases.items()
    }
  )


MISTAKES = {
  "nothing": ("--workdir is missing", "--compare DIR DIR"),
  "no run": ("--workdir=", "empty holds no run", "give the --workdir"),
  "missing": ("--workdir=", "none holds no run"),
  "torn": ("torn/metrics.jsonl: line 1", "remove the line"),
  "output below a file": ("--output=", "choose another folder"),
  "output is a folder": ("--output=", "name a file in it"),
  "one to compare": ("--compare needs at least two", "--compare DIR DIR"),
  "twice": ("--compare", "run is named twice"),
  "compare and workdir": ("--workdir does not go with --compare",),
  "argument": ("unexpected argument 'other'",),
  "without viz": ("matplotlib and jinja2", "pip install 'udon_jax[viz]'"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_ends_in_one_line(answers, case):
  code, output, complaint = answers[case]
  assert "Traceback" not in output + complaint
  last = complaint.splitlines()[-1]
  assert last.startswith("error: ")
  for words in MISTAKES[case]:
    assert words in last
  assert code == 2


def test_command_line_writes_what_the_library_does(answers, folder, made):
  code, _, said = answers["report"]
  assert code == 0, said
  assert (folder / "out" / "r.html").read_text() == made.source


def test_folders_follow_compare_wherever_flags_stand(answers, folder):
  for case in ("compare", "compare, flags first"):
    assert answers[case][0] == 0, answers[case]
  pages = [(folder / name).read_text() for name in ("c.html", "c2.html")]
  assert pages[0] == pages[1]
  rows = reports.Page(pages[0]).tables["table-runs"][1:]
  assert [row[0] for row in rows] == ["run", "other"]
