"""The command line that says what a run costs before there are devices."""

import importlib.util
import json
import os
import sys

import pytest

from tests import command_lines
from udon_jax import domains

PLAN = ("udon_jax.plan", "--config=configs/quickstart.py")
SMALL = (*PLAN, "--config.model.name=vit_mu16", "--config.data.crop_size=32")
OWN = "--config.domains=('cars','mine')"
CASES = {
  "json": (*SMALL, "--mesh=2x2", "--chip=H100", "--json"),
  "words": (
    *(*SMALL, "--mesh=2x2", "--chip=v5e", "--nolibtpu", "--parameters"),
    *(OWN, "--classes=mine:50", "--price=2", "--mfu=0.4"),
  ),
  "too large": (
    *(*SMALL, "--mesh=4x1", "--chip=t4", "--json"),
    "--classes=met:300000000",
  ),
}
# {case: (flags after the config, words of the one line)}
MISTAKES = {
  "no mesh": ((), ("--mesh is missing", "--mesh=8x4")),
  "no mesh at all": (("--mesh=8",), ("--mesh cannot be '8'", "--mesh=8x4")),
  "mesh of nothing": (("--mesh=0x8",), ("--mesh cannot be '0x8'",)),
  "no chip": (("--mesh=8x1",), ("--chip is missing", "v5e", "h100")),
  "unknown chip": (("--mesh=8x1", "--chip=v9"), ("--chip", "'v9'", "v5e")),
  "no such slice": (
    ("--mesh=4x3", "--chip=v5e", "--config.batch_size=48"),
    ("--mesh", "12 v5e devices", "4, 8, 16"),
  ),
  "more devices than images": (
    ("--mesh=128x1", "--chip=h100"),
    ("--mesh=128x1", "config.batch_size=64"),
  ),
  "batch": (
    ("--mesh=3x1", "--chip=h100"),
    ("--mesh=3x1", "config.batch_size=64", "for example 66"),
  ),
  "fsdp": (
    (
      *("--mesh=1x5", "--chip=h100", "--config.batch_size=80"),
      "--config.eval.batch_size=80",
    ),
    ("--mesh=1x5", "MlpBlock_3", "divisor of 128"),
  ),
  "unknown domain": (
    ("--mesh=8x1", "--chip=h100", OWN),
    ("--classes=mine:CLASSES",),
  ),
  "images of epochs": (
    (
      *("--mesh=8x1", "--chip=h100", OWN, "--classes=mine:5"),
      *("--config.num_train_steps=None", "--config.num_epochs=2.0"),
    ),
    ("config.num_epochs=2.0", "--classes=mine:CLASSES:IMAGES"),
  ),
  "another domain": (
    ("--mesh=8x1", "--chip=h100", "--classes=mine:5"),
    ("--classes: 'mine'", "config.domains"),
  ),
  "classes": (
    ("--mesh=8x1", "--chip=h100", "--classes=cars=5"),
    ("--classes=cars=5", "NAME:CLASSES"),
  ),
  "table in JSON": (
    ("--mesh=8x1", "--chip=h100", "--json", "--parameters"),
    ("--parameters", "--json"),
  ),
  "config": (
    ("--mesh=8x1", "--chip=h100", "--config.batch_size=0"),
    ("config.batch_size=0", "at least 1"),
  ),
}


@pytest.fixture(scope="module")
def answers():
  """Returns {case: Answer}, where no data is."""
  mistakes = {name: (*PLAN, *flags) for name, (flags, _) in MISTAKES.items()}
  return command_lines.run_all({**CASES, **mistakes})


def read(answer, *, code):
  assert answer.code == code, answer.errors
  return json.loads(answer.output)


def test_json_says_what_is_promised(answers):
  found = read(answers["json"], code=0)
  assert found["chip"] == "h100"
  assert found["mesh"] == {"data": 2, "fsdp": 2}
  assert found["fits"] is True
  assert found["compiler"] == "CPU estimate"
  assert found["bytes_are_estimate"]
  classes = sum(spec.num_classes for spec in domains.UNED.values())
  assert found["parameters"]["prototypes"] == classes * (64 + 256)
  steps = found["steps"]
  assert set(steps) == {"full", "frozen"}
  assert (steps["full"]["count"], steps["frozen"]["count"]) == (1100, 100)
  memory = steps["full"]["memory"]
  assert found["bytes_per_device"] == memory["total"] > memory["arguments"]
  # A quarter of the tables with their moments, on each of four devices.
  assert memory["arguments"] > 3 * classes * (64 + 256)
  assert found["flops_per_step"] == steps["full"]["flops"]
  assert steps["frozen"]["flops"] < steps["full"]["flops"]
  for x in found["collectives"]:
    assert x["op"] and x["bytes"] > 0 and x["count"] > 0
  floor = steps["full"]["floor"]
  assert floor["images_per_second"] * floor["seconds"] == pytest.approx(64)
  assert floor["seconds"] == max(floor["compute"], floor["memory"])


def test_words_and_table_name_what_is_asked(answers):
  answer = answers["words"]
  assert answer.code == 0, answer.errors
  for words in (
    "4 x v5e as 2x2 (data x fsdp)",
    "fits: ",
    "(CPU estimate)",
    f"{(78 + 50) * 320:,} of class prototypes",
    "at 40% of the peak",
    "module/student_projection/Dense_0/kernel",
    "fsdp on axis 0",
  ):
    assert words in answer.output


def test_what_does_not_fit_ends_with_1(answers):
  found = read(answers["too large"], code=1)
  assert found["fits"] is False
  assert found["bytes_per_device"] > found["memory_per_device"]
  others = sum(s.num_classes for n, s in domains.UNED.items() if n != "met")
  assert found["parameters"]["prototypes"] == (3 * 10**8 + others) * 320


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_end_in_one_line(answers, case):
  answer = answers[case]
  assert answer.code == 2, (answer.output, answer.errors)
  *_, line = answer.errors.splitlines()
  assert "Traceback" not in answer.errors
  assert line.startswith("error: ")
  for words in MISTAKES[case][1]:
    assert words in line


needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="needs libtpu"
)


@needs_libtpu
@pytest.mark.slow
def test_tpus_are_compiled_for_by_their_own_compiler():
  flags = ("--mesh=2x2", "--chip=v5e", "--json")
  answers = command_lines.run_all(
    {
      "fits": (*SMALL, *flags),
      "not": (*SMALL, *flags, "--classes=met:300000000"),
    },
    PYTHONPATH=os.pathsep.join(path for path in sys.path if path),
  )
  found = read(answers["fits"], code=0)
  assert found["compiler"].startswith("TPU, libtpu ")
  assert not found["bytes_are_estimate"]
  ops = {x["op"] for x in found["collectives"]}
  assert "all-gather" in ops
  found = read(answers["not"], code=1)
  assert found["bytes_per_device"] > 16e9
  assert found["collectives"] is None
