"""Runs made of files alone, and pages made of them, taken apart."""

import base64
import html.parser
import io
import json
import pathlib
import re

import numpy as np
from PIL import Image

from tests import data_files
from udon_jax import build, default_config, losses
from udon_jax.data import examples as data_examples
from udon_jax.retrieval import examples

DOMAINS = ("cars", "met", "own")
EMBEDDINGS = ("student", "teacher", "backbone")
KINDS = ("merged", "separate")
METRICS = ("recall@1", "recall@5", "mmp@5")
STEPS = range(10, 101, 10)
WINDOWS = (1, 26, 51, 76)
# A file that would run as a script if a page took it as it is.
HOSTILE = '"><img src=x onerror=alert(1)>&<b>.jpg'


def config(**changes):
  """Returns a run's config as plain values; "a.b" keys are written a__b."""
  values = build.to_json(default_config.get_config())
  values |= {"domains": list(DOMAINS), "num_train_steps": 100}
  for key, value in changes.items():
    group = values
    *path, last = key.split("__")
    for name in path:
      group = group[name]
    group[last] = value
  return values


def nested(rng, split):
  """Returns random results in the form of results.json."""

  def by_domain():
    found = {d: {m: rng.random() for m in METRICS} for d in DOMAINS}
    mean = {m: np.mean([found[d][m] for d in DOMAINS]) for m in METRICS}
    return {**found, "mean": mean}

  return {n: {k: {split: by_domain()} for k in KINDS} for n in EMBEDDINGS}


def metrics(rng, *, rates=False):
  """Returns the lines of a metrics.jsonl."""
  lines = [
    {"step": step, **{f"sampler_weight/{d}": rng.random() for d in DOMAINS}}
    for step in WINDOWS
  ]
  for step in STEPS:
    for domain in DOMAINS[: 1 + step % 30]:
      terms = {term: rng.random() for term in ("loss", *losses.TERMS)}
      norm = {"grad_norm": rng.random()}
      lines.append(
        {"step": step, "domain": domain, "steps": 3, **terms, **norm}
      )
    speed = ("speed/step_time", "speed/images_per_second", "speed/data_wait")
    extra = ("speed/mfu",) if rates else ()
    lines.append({"step": step, **{k: rng.random() for k in (*speed, *extra)}})
    if rates:
      parts = ("backbone", "heads")
      lines.append(
        {"step": step, **{f"learning_rate/{k}": rng.random() for k in parts}}
      )
    if step % 50 == 0:
      found = nested(rng, "val")
      flat = {
        f"val/{n}/{k}/{d}/{m}": x
        for n in found
        for k in KINDS
        for d, values in found[n][k]["val"].items()
        for m, x in values.items()
      }
      lines.append({"step": step, **flat})
  return lines


def image(domain, position, key):
  return {
    "domain": domain,
    "split": "test",
    "position": position,
    "key": key,
    "labels": [position, 7],
  }


def chosen():
  """Returns the contents of examples.json, on the data of `write_data`."""

  def example(i, **extra):
    keys = data_keys()
    neighbours = [
      {**image("met", j, keys["met"][j]), "score": 0.9 - j / 10, "hit": j == i}
      for j in range(3)
    ]
    query = image("cars", i, keys["cars"][i])
    return {
      "query": query,
      "num_positives": 2,
      "neighbours": neighbours,
    } | extra

  return {
    "step": 50,
    "groups": {
      examples.RANDOM: [example(0), example(1)],
      examples.WORST: [
        example(1, reason=examples.CONFIDENT),
        example(2, reason=examples.LOWEST),
      ],
      examples.CROSS_DOMAIN: [],
    },
  }


def data_keys():
  return {
    "cars": ["cars/0.jpg", f"cars/{HOSTILE}", "cars/2.png"],
    "met": [f"met/{i}.jpg" for i in range(3)],
  }


def write_data(root):
  """Writes the records of two test splits; the last of cars is a PNG."""
  for domain, keys in data_keys().items():
    data_files.write_records(
      root / "tfds" / domain / "test" / f"{domain}.test.tfrecord",
      [
        data_examples.serialize(
          image_bytes=data_files.encode(
            i, size=(300, 200), kind="PNG" if key.endswith("png") else "JPEG"
          ),
          class_ids=[i],
          key=key,
        )
        for i, key in enumerate(keys)
      ],
    )
  return root


def write_run(folder, *, seed=0, data_dir=None, rates=False, **changes):
  """Writes a finished run; returns its results."""
  rng = np.random.default_rng(seed)
  folder.mkdir(parents=True)
  results = nested(rng, "test")
  values = config(seed=seed, data_dir=str(data_dir), **changes)
  (folder / "config.json").write_text(json.dumps(values))
  write_lines(folder, metrics(rng, rates=rates))
  (folder / "results.json").write_text(json.dumps(results))
  (folder / "examples.json").write_text(json.dumps(chosen()))
  environment = {
    "started": "2031-02-03T04:05:06+00:00",
    "packages": {"jax": "1.2.3"},
    "git_commit": "0123456789abcdef",
    "git_changed": True,
    "num_steps": 100,
    "frozen_steps": 20,
    "num_parameters": {"module": 1_234_000, "prototypes": 567},
  }
  (folder / "environment.json").write_text(json.dumps(environment))
  return results


def write_lines(folder, lines):
  text = "".join(json.dumps(line) + "\n" for line in lines)
  (folder / "metrics.jsonl").write_text(text)


class Page(html.parser.HTMLParser):
  """A page taken apart.

  Attributes:
    tags: (name, attributes) of every element.
    ids: of elements.
    tables: {id: rows of cell texts}.
    pictures: (class, source or None, alt) of every picture.
    captions: of charts, by their id.
    text: all of it.
  """

  VOID = frozenset({"meta", "link", "img", "br"})

  def __init__(self, text):
    super().__init__()
    self.source = text
    self.tags, self.ids, self.pictures = [], [], []
    self.tables, self.captions, self.text = {}, {}, ""
    self._open, self._rows, self._cell, self._figure = [], None, None, None
    self.feed(text)
    self.close()
    assert not self._open, f"left open: {self._open}"

  def handle_starttag(self, tag, attrs):
    values = dict(attrs)
    self.tags.append((tag, values))
    if "id" in values:
      self.ids.append(values["id"])
    if tag not in self.VOID:
      self._open.append(tag)
    if tag == "table":
      self._rows = self.tables.setdefault(values.get("id"), [])
    elif tag == "tr":
      self._rows.append([])
    elif tag in ("td", "th"):
      self._cell = ""
    elif tag == "figure":
      self._figure = values
    elif "picture" in self._figure_class() and (
      tag == "img" or "missing" in values.get("class", "")
    ):
      name = self._figure_class().removeprefix("picture ")
      alt = values.get("alt") or values.get("aria-label")
      self.pictures.append((name, values.get("src"), alt))

  def handle_startendtag(self, tag, attrs):
    self.handle_starttag(tag, attrs)
    if tag not in self.VOID:
      self.handle_endtag(tag)

  def handle_endtag(self, tag):
    assert self._open.pop() == tag, tag
    if tag in ("td", "th"):
      self._rows[-1].append(" ".join(self._cell.split()))
      self._cell = None

  def handle_data(self, data):
    self.text += data
    if self._cell is not None:
      self._cell += data
    chart = (self._figure or {}).get("id")
    if chart and self._open and self._open[-1] == "figcaption":
      self.captions[chart] = self.captions.get(chart, "") + data.strip()

  def _figure_class(self):
    return (self._figure or {}).get("class", "") or ""

  def loads(self):
    """Returns all that a browser would fetch for the page."""
    found = [
      value
      for _, values in self.tags
      for key, value in values.items()
      if key in ("src", "href", "xlink:href", "srcset", "data", "poster")
    ]
    return found + re.findall(r"url\(([^)]*)\)", self.source)


def read_page(file):
  return Page(pathlib.Path(file).read_text(encoding="utf-8"))


def jpeg_size(source):
  """Returns (format, size) of a picture's data URI."""
  head, data = source.split(",")
  assert head == "data:image/jpeg;base64"
  with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
    picture.load()
    return picture.format, picture.size
