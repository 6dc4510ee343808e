"""The UnED table in text."""

from udon_jax import domains
from udon_jax.retrieval import table


def results(names, *, kinds=("separate", "merged"), value=0.5):
  values = {name: {"recall@1": value, "mmp@5": 0.0449} for name in names}
  by_kind = {kind: {"test": values} for kind in kinds}
  return {"student": by_kind, "backbone": by_kind}


def test_small_table():
  found = results(("cars", "mean"), kinds=("merged",))
  found["student"] = {"merged": {}}
  found["student"]["merged"]["test"] = {
    "mean": {"recall@1": 1.0, "mmp@5": 0.12345},
    "cars": {"recall@1": 0.98765},
  }
  assert table.format_table(found) == "\n".join(
    [
      "test (%)              cars        mean",
      "                 R@1 mMP@5   R@1 mMP@5",
      "student merged    98.8   -  100.0 12.3",
      "backbone merged   50.0 4.5   50.0  4.5",
    ]
  )


def test_all_of_uned_fits_without_wrapping():
  names = (*domains.UNED_NAMES, "mean")
  lines = table.format_table(results(names)).splitlines()
  assert len(lines) == 6
  assert lines[0].split() == ["test", "(%)", *names]
  assert max(map(len, lines)) <= table.MAX_WIDTH


def test_more_columns_go_on_below():
  names = (*(f"my_own_domain_{i}" for i in range(12)), "mean")
  text = table.format_table(results(names))
  assert max(map(len, text.splitlines())) <= table.MAX_WIDTH
  blocks = text.split("\n\n")
  assert len(blocks) == 3
  assert all("student merged" in block for block in blocks)
  assert text.count("my_own_domain_") == 12


def test_a_table_a_split():
  found = {
    "student": {
      "merged": {
        "val": {"mean": {"recall@1": 0.25}},
        "test": {"mean": {"recall@1": 0.75}},
      }
    }
  }
  first, second = table.format_table(found).split("\n\n")
  assert "val (%)" in first
  assert "25.0" in first
  assert "test (%)" in second
  assert "75.0" in second


def test_means_are_those_of_rounded_values():
  """As the official code: 0.0625 and 0.1875 are 0.062 and 0.188."""
  values = {
    "cars": {"recall@1": 1 / 16, "mmp@5": 0.12349},
    "met": {"recall@1": 3 / 16, "mmp@5": 0.12349},
    "sop": {"recall@1": 1 / 3, "mmp@5": 0.1239},
    "mean": {"recall@1": 7 / 36, "mmp@5": 0.1236266},
  }
  results = {"student": {"merged": {"test": values}}}
  rounded = table.round_as_official(results)["student"]["merged"]["test"]
  assert rounded == {
    "cars": {"recall@1": 0.062, "mmp@5": 0.123},
    "met": {"recall@1": 0.188, "mmp@5": 0.123},
    "sop": {"recall@1": 0.333, "mmp@5": 0.124},
    "mean": {"recall@1": 0.194, "mmp@5": 0.123},
  }
  assert values["cars"]["mmp@5"] == 0.12349  # the results stay whole
