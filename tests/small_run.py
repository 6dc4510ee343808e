"""A run of a tiny model on the smallest synthetic data, by command lines."""

from tests import command_lines, compiling

MAIN, EVALUATE = "udon_jax.main", "udon_jax.evaluate"
PREPARE, SYNTHETIC = "udon_jax.data.prepare", "udon_jax.data.synthetic"
QUICKSTART = "--config=configs/quickstart.py"
# The quickstart, with a tiny model and four steps.
TINY = (
  QUICKSTART,
  "--config.model.name=vit_mu8",
  "--config.data.resize_size=36",
  "--config.data.crop_size=32",
  "--config.batch_size=16",
  "--config.num_train_steps=4",
  "--config.log_every=2",
  "--config.eval_every=4",
  "--config.sampler.update_every=2",
  "--config.optimizer.warmup_steps=1",
  "--config.eval.batch_size=16",
  "--config.eval.embeddings=('student',)",
)
TWO_DOMAINS = "--config.domains=('cars','met')"
PLACES = ("--config.data_dir=FOLDER/data", "--workdir=FOLDER/new")
TRAIN = (MAIN, *TINY, TWO_DOMAINS, *PLACES)
# What leaves data in FOLDER/data and a run on it in FOLDER/run.
COMMANDS = {
  "draw": (SYNTHETIC, "--size=smoke", "--output=FOLDER/data"),
  "prepare": (PREPARE, "--data_dir=FOLDER/data", "--domains=cars,met"),
  "train": (*TRAIN, "--workdir=FOLDER/run"),
}


def fill(cases, folder):
  """Returns {name: argv} with the name of the folder."""
  return {
    name: [x.replace("FOLDER", str(folder)) for x in argv]
    for name, argv in cases.items()
  }


def must_succeed(cases, folder):
  """Runs {name: argv} on one device; returns {name: what went to stderr}."""
  answers = command_lines.run_all(
    fill(cases, folder), XLA_FLAGS=compiling.FLAGS
  )
  for answer in answers.values():
    assert answer.code == 0, answer.errors
  return {name: answer.errors for name, answer in answers.items()}
