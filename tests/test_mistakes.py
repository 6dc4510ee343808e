"""Every mistake ends in one line that names the cure, and does no harm."""

import fcntl
import json
import shutil

import numpy as np
import pytest

from tests import (
  command_lines,
  compiling,
  data_files,
  official_runs,
  small_run,
  weight_files,
)
from tests.small_run import (
  EVALUATE,
  MAIN,
  PLACES,
  PREPARE,
  QUICKSTART,
  SYNTHETIC,
  TINY,
  TRAIN,
)
from udon_jax.data import examples, layout, offsets, records, splits

# What prepares a domain of one's own.
OWN = (
  *(PREPARE, QUICKSTART, "--config.data_dir=FOLDER/data"),
  "--config.domains=('shoes',)",
)
# {file: description of shoes}, but for what is no description.
DESCRIPTIONS = {
  "key": {"foldr": "/x"},
  "good": {"folder": "../data/images/cars"},
  "nowhere": {"folder": "nowhere/nowhere"},
  "flat": {"folder": "../data/images"},
  "row": {"table": "row/rows.csv"},
  "outside": {"table": "outside/rows.csv"},
  "tfds": {"tfds": "mnist", "tfds_dir": "."},
  "few": {
    "folder": "../data/images/cars",
    "splits": {"by": "class", "test": 0.5, "val": 0.4},
  },
}
# Impossible values of keys: {key=value: words of the message beside them}.
VALUES = {
  "semantics=scenic": "known: default, official",
  "seed=-1": "in 0 ..",
  "seed=1.5": "int",
  "batch_size=0": "at least 1",
  "batch_size=many": "int",
  "num_train_steps=-5": "at least 1",
  "num_train_steps=0": "at least 1",
  "frozen_steps=-1": "at least 0",
  "eval_every=0": "at least 1",
  "grad_accum_steps=3": "config.batch_size=16",
  "data.crop_size=30": "use for example",
  "data.crop_size=64": "config.data.resize_size=36",
  "data.num_threads=-2": "at least 0",
  "data.round_pixels=maybe": "boolean",
  "data_check=all": "known: uned",
  "data_check=uned": "cars train",
  "own_file=FOLDER/nowhere.yaml": "cannot be read",
  "own_file=FOLDER/data": "cannot be read (Is a directory)",
  "info_files_dir=FOLDER/nowhere": "<domain>/<split>.json",
  "data.prefetch=0": "at least 1",
  "mesh.fsdp=0": "-1",
  "model.name=vit_z16": "such as vit_b16, with families vit, clip",
  "model.dtype=float64": "known: float32",
  "model.student_dim=0": "at least 1",
  "model.teacher_dim=-8": "at least 1",
  "model.student_hidden=(0,)": "integers from 1",
  "model.teacher_hidden=('wide',)": "integers from 1",
  "model.stochastic_depth=1.0": "in [0, 1)",
  "model.pixel_std=(0.5, 0.0, 0.5)": "above 0",
  "model.pixel_mean=(0.5,)": "three numbers",
  "loss.classifier=softmax": "known: normface",
  "loss.margin=-0.1": "at least 0",
  "loss.scale=0.0": "above 0",
  "loss.label_smoothing=1.0": "in [0, 1)",
  "loss.teacher_temperature=0.0": "above 0",
  "loss.student_temperature=nan": "above 0",
  "loss.relation_blocks=3": "choose a divisor",
  "loss.weights.teacher_classification=-1.0": "at least 0",
  "profile_steps=(3, 6)": "end <= 5",
  "wandb.mode=maybe": "known: online",
  "sampler.strategy=luck": "known: dynamic",
  "sampler.rounding=up": "known: largest_fraction",
  "sampler.update_every=0": "at least 1",
  "sampler.flush_every=0": "at least 1",
  "sampler.flush_every=9": "leave it None",
  "sampler.allocation=('a', 'b')": "numbers from 0",
  "optimizer.learning_rate=-0.1": "at least 0",
  "optimizer.learning_rate=inf": "finite",
  "optimizer.schedule=linear": "known: constant",
  "optimizer.warmup_steps=9": "4 steps",
  "optimizer.b1=1.0": "in [0, 1)",
  "optimizer.b2=-0.5": "in [0, 1)",
  "optimizer.eps=0.0": "above 0",
  "optimizer.weight_decay=-1.0": "at least 0",
  "optimizer.grad_clip_norm=0.0": "above 0",
  "eval.metrics=('precision',)": "",
  "eval.embeddings=('pupil',)": "known: student",
  "eval.batch_size=0": "at least 1",
  "checkpoint.keep_latest=0": "at least 1",
  "pretrained=clip": "KIND:PATH",
  "pretrained=augreg:FOLDER/weights/none.npz": "none.npz cannot be read",
  **{
    f"pretrained={spec}": words for spec, words in weight_files.MISTAKES.items()
  },
}
# The rest: {case: (command line, words of the message)}; later flags count.
CASES = {
  "unknown key": (
    (*TRAIN, "--config.batchsize=3"),
    ("batchsize", 'Did you mean "batch_size"', "--print_config"),
  ),
  "config missing": (
    (MAIN, "--config=configs/none.py", "--workdir=x"),
    ("configs/none.py", "are in configs/"),
  ),
  "config not given": ((MAIN,), ("--config", "for example")),
  "config is no config": (
    (MAIN, "--config=udon_jax/errors.py", "--workdir=x"),
    ("get_config", "--config"),
  ),
  "unknown variant": (
    (MAIN, "--config=configs/uned_vitb16.py:foo", "--workdir=x"),
    ("--config: the variant 'foo'", "known: smoke"),
  ),
  "a file without variants": (
    (MAIN, f"{QUICKSTART}:foo", "--workdir=x"),
    ("--config: ", "get_config()", "after its colon"),
  ),
  "workdir not given": ((MAIN, *TINY), ("--workdir", "for example")),
  "unknown flag": ((*TRAIN, "--wrkdir=x"), ("wrkdir", "Did you mean")),
  "argument": ((*TRAIN, "x"), ("'x'", "--help")),
  "value for a group": (
    (MAIN, QUICKSTART, "--config.model=vit_b16"),
    ("--config.model=vit_b16", "ConfigDict"),
  ),
  "steps and epochs": (
    (*TRAIN, "--config.num_epochs=2.0"),
    ("num_train_steps=4", "num_epochs=2.0", "set one"),
  ),
  "frozen steps and epochs": (
    (*TRAIN, "--config.frozen_epochs=2.0", "--config.frozen_steps=1"),
    ("frozen_steps=1", "frozen_epochs=2.0", "set one"),
  ),
  "no loss": (
    (
      *TRAIN,
      "--config.loss.weights.teacher_classification=0.0",
      "--config.loss.weights.student_classification=0.0",
      "--config.loss.weights.logit_distillation=0.0",
      "--config.loss.weights.relation_distillation=0.0",
    ),
    ("config.loss.weights", "above 0"),
  ),
  "allocation of other domains": (
    (
      *TRAIN,
      "--config.sampler.strategy=specialist_top_steps",
      "--config.sampler.allocation=(1,2,3)",
    ),
    ("config.sampler.allocation=(1, 2, 3)", "2 domains"),
  ),
  "unknown domain": (
    (MAIN, *TINY, "--config.domains=('cars','dogs')", *PLACES),
    ("config.domains", "'dogs'", "known domains: cars, sop"),
  ),
  "domain twice": (
    (MAIN, *TINY, "--config.domains=('cars','cars')", *PLACES),
    ("config.domains", "each once"),
  ),
  "domain of wrong type": (
    (MAIN, *TINY, "--config.domains=(3,)", *PLACES),
    ("config.domains=(3,)", "names"),
  ),
  "own domain of a wrong key": (
    (*TRAIN, "--config.own_file=FOLDER/own/key.yaml"),
    ("own/key.yaml: shoes.foldr is unknown", "known: folder"),
  ),
  "own domains in no YAML": (
    (*TRAIN, "--config.own_file=FOLDER/own/torn.yaml"),
    ("config.own_file", "neither YAML nor JSON", "correct it"),
  ),
  "own domain of UnED": (
    (*TRAIN, "--config.own_file=FOLDER/own/cars.yaml"),
    ("own/cars.yaml: cars describes a domain of UnED", "another name"),
  ),
  "own domain not prepared": (
    (
      *(MAIN, *TINY, *PLACES, "--config.domains=('cars','shoes')"),
      "--config.own_file=FOLDER/own/good.yaml",
    ),
    ("config.own.shoes was not prepared", "prepare` with the same --config"),
  ),
  "prepare an own domain from nowhere": (
    (*OWN, "--config.own_file=FOLDER/own/nowhere.yaml"),
    ("config.own.shoes.folder=", "nowhere is no folder", "correct the path"),
  ),
  "prepare images outside of classes": (
    (*OWN, "--config.own_file=FOLDER/own/flat.yaml"),
    ("torn.jpg lies in no folder of a class", "put every image"),
  ),
  "prepare a bad row": (
    (*OWN, "--config.own_file=FOLDER/own/row.yaml"),
    ("rows.csv: row 2: label='' is no class", "give a name"),
  ),
  "prepare rows that lead out": (
    (*OWN, "--config.own_file=FOLDER/own/outside.yaml"),
    ("rows.csv: row 1: path '../secret.jpg' leads out", "relative"),
  ),
  "prepare a data set that nobody built": (
    (*OWN, "--config.own_file=FOLDER/own/tfds.yaml"),
    ("config.own.shoes.tfds=mnist was not built", "tfds build"),
  ),
  "prepare too few classes": (
    (*OWN, "--config.own_file=FOLDER/own/few.yaml"),
    ("no images of the split 'train'", "config.own.shoes.splits"),
  ),
  "prepare by config and folder": (
    (*OWN, "--data_dir=FOLDER/data"),
    ("--data_dir=", "is what --config tells", "leave one"),
  ),
  "data missing": (
    (*TRAIN, "--config.data_dir=FOLDER/nowhere"),
    ("config.data_dir", "nowhere", "python -m udon_jax.data.prepare"),
  ),
  "data is a file": (
    (*TRAIN, "--config.data_dir=FOLDER/file"),
    ("config.data_dir", "file is no folder"),
  ),
  "data not prepared": (
    (MAIN, *TINY, "--config.domains=('cars','sop')", *PLACES),
    ("tfds/sop", "run `python -m udon_jax.data.prepare"),
  ),
  "info file missing": (
    (*TRAIN, "--config.data_dir=FOLDER/no_info"),
    ("no_info/info_files/cars/val.json is missing", "copy"),
  ),
  "list of training images missing": (
    (*TRAIN, "--config.data_dir=FOLDER/no_list"),
    ("no_list/info_files/cars/train.json is missing", "info_files_dir"),
  ),
  "info file changed": (
    (*TRAIN, "--config.data_dir=FOLDER/class_id"),
    ("train.json changed", "restore"),
  ),
  "record file cut": (
    (*TRAIN, "--config.data_dir=FOLDER/cut"),
    ("cars.train.tfrecord-00000-of-00001 is cut off", "prepare the data again"),
  ),
  "records of other images, in training": (
    (*TRAIN, "--config.data_dir=FOLDER/keys"),
    ("cars.train.tfrecord-", "of image 'other.jpg'", "delete"),
  ),
  "records of other images, in evaluation": (
    (EVALUATE, "--workdir=FOLDER/run", "--data=FOLDER/keys"),
    ("cars.test.tfrecord: record 0 is of image 'other.jpg'", "delete"),
  ),
  "evaluate a list whose paths lead out": (
    (
      *(EVALUATE, "--workdir=FOLDER/run", "--splits=val"),
      "--data=FOLDER/outside",
    ),
    ("cars/val.json: entry 1: path '../secret.jpg' leads out", "relative"),
  ),
  "evaluate lists that are not there": (
    (EVALUATE, "--workdir=FOLDER/run", "--info_files=FOLDER/nowhere"),
    ("--info_files=", "nowhere is no folder"),
  ),
  "record file cut, in evaluation": (
    (EVALUATE, "--workdir=FOLDER/run", "--data=FOLDER/cut"),
    ("cars.test.tfrecord is cut off", "prepare the data again"),
  ),
  "folder for a record file": (
    (*TRAIN, "--config.data_dir=FOLDER/folder"),
    ("cars.train.tfrecord-00000-of-00001", "cannot be read", "prepare"),
  ),
  "workdir below a file": (
    (*TRAIN, "--workdir=FOLDER/file/x"),
    ("--workdir", "file/x", "choose another folder"),
  ),
  "workdir is a file": (
    (*TRAIN, "--workdir=FOLDER/file"),
    ("--workdir", "file", "choose another folder"),
  ),
  "workdir in use": (
    (*TRAIN, "--workdir=FOLDER/used"),
    ("used is used by process 77", "choose another folder"),
  ),
  "workdir of another seed": (
    (*TRAIN, "--workdir=FOLDER/run", "--config.seed=5"),
    ("holds another run", "config.seed is 0 there and 5 here", "choose"),
  ),
  "workdir of another model": (
    (*TRAIN, "--workdir=FOLDER/run", "--config.model.student_dim=8"),
    ("holds another run", "config.model.student_dim is 64 there and 8 here"),
  ),
  "workdir of other pixels": (
    (*TRAIN, "--workdir=FOLDER/run", "--config.data.round_pixels=False"),
    ("another run", "config.data.round_pixels is True there and False here"),
  ),
  "workdir of other domains": (
    (
      *(MAIN, *TINY, "--config.domains=('cars',)", *PLACES),
      "--workdir=FOLDER/run",
    ),
    ("holds another run", "config.domains is ['cars', 'met'] there"),
  ),
  "resume from other domains": (
    (
      *(MAIN, *TINY, "--config.domains=('cars',)", *PLACES),
      "--config.resume_from=FOLDER/run",
    ),
    ("config.resume_from", "was trained on", "config.domains"),
  ),
  "resume from another model": (
    (
      *(*TRAIN, "--config.model.teacher_dim=8"),
      "--config.resume_from=FOLDER/run",
    ),
    ("config.resume_from", "config.model.teacher_dim is 256 there and 8 here"),
  ),
  "workdir whose checkpoints are all damaged": (
    (*TRAIN, "--workdir=FOLDER/rotten"),
    ("rotten/checkpoints/4 is damaged", "it has no other"),
  ),
  "evaluate a damaged checkpoint": (
    (EVALUATE, "--workdir=FOLDER/rotten"),
    ("rotten/checkpoints/4 is damaged", "it has no other"),
  ),
  "embed with a damaged checkpoint": (
    (
      *("udon_jax.extract", "--workdir=FOLDER/rotten"),
      *("--images=FOLDER/data/images", "--output=FOLDER/new.npz"),
    ),
    ("rotten/checkpoints/4 is damaged", "it has no other"),
  ),
  "descriptors of a wrong shape": (
    (
      *(EVALUATE, "--descriptors=FOLDER/few.npz"),
      "--info_files=FOLDER/data/info_files",
    ),
    ("few.npz: cars/test has 3 vectors", "one an image"),
  ),
  "descriptors by several processes": (
    (
      *(EVALUATE, "--descriptors=FOLDER/few.npz", "--num_processes=2"),
      "--info_files=FOLDER/data/info_files",
    ),
    ("--num_processes does not go with --descriptors", "leave it out"),
  ),
  "report of nothing": (
    ("udon_jax.report", "--workdir=FOLDER/empty"),
    ("empty holds no run", "give the --workdir"),
  ),
  "resume from nothing": (
    (*TRAIN, "--config.resume_from=FOLDER/empty"),
    ("empty holds no checkpoint", "give the workdir"),
  ),
  "evaluate nothing": ((EVALUATE,), ("--workdir", "give the folder")),
  "evaluate an empty folder": (
    (EVALUATE, "--workdir=FOLDER/empty"),
    ("empty holds no checkpoint", "give the workdir"),
  ),
  "evaluate a file": (
    (EVALUATE, "--workdir=FOLDER/file"),
    ("file holds no checkpoint", "give the workdir"),
  ),
  "evaluate an unknown split": (
    (EVALUATE, "--workdir=FOLDER/run", "--splits=foo"),
    ("--splits=foo", "known: val, test"),
  ),
  "evaluate a missing step": (
    (EVALUATE, "--workdir=FOLDER/run", "--step=3"),
    ("no checkpoint of step 3", "it has [4]"),
  ),
  "evaluate missing data": (
    (EVALUATE, "--workdir=FOLDER/run", "--data=FOLDER/nowhere"),
    ("--data=", "nowhere", "correct the path"),
  ),
  "evaluate, info file is no JSON": (
    (EVALUATE, "--workdir=FOLDER/run", "--data=FOLDER/bad_json"),
    ("bad_json/info_files/cars/test.json", "write it again"),
  ),
  "evaluate a damaged image": (
    (EVALUATE, "--workdir=FOLDER/run", "--data=FOLDER/jpeg"),
    ("cars.test.tfrecord: record 0 (key ", "be decoded", "prepare"),
  ),
  "evaluate classes of one image": (
    (EVALUATE, "--workdir=FOLDER/run", "--data=FOLDER/alone"),
    ("info_files/cars/test.json: none of its", "correct their class_id"),
  ),
  "prepare nothing": ((PREPARE,), ("--data_dir is not set", "give the folder")),
  "prepare an unknown domain": (
    (PREPARE, "--data_dir=FOLDER/data", "--domains=dogs"),
    ("--domains", "dogs is missing", "cars, "),
  ),
  "prepare in no shards": (
    (PREPARE, "--data_dir=FOLDER/data", "--num_shards=0"),
    ("num_shards", "0"),
  ),
  "class id out of range": (
    (PREPARE, "--data_dir=FOLDER/class_id", "--domains=cars"),
    ("train.json: entry 3: class_id 1000", "number the classes"),
  ),
  "prepare what is no JSON": (
    (PREPARE, "--data_dir=FOLDER/bad_json", "--domains=cars"),
    ("cars/test.json is not valid JSON", "write it again"),
  ),
  "prepare an empty split": (
    (PREPARE, "--data_dir=FOLDER/no_image", "--domains=cars"),
    ("cars/val.json lists no image", "at least one"),
  ),
  "prepare paths that lead out": (
    (PREPARE, "--data_dir=FOLDER/outside", "--domains=cars"),
    ("cars/val.json: entry 1: path '../secret.jpg' leads out", "relative"),
  ),
  "prepare a missing image": (
    (PREPARE, "--data_dir=FOLDER/missing", "--domains=cars"),
    ("images are missing", "cars/nowhere.jpg", "drop their entries"),
  ),
  "prepare a damaged image": (
    (PREPARE, "--data_dir=FOLDER/damaged", "--domains=cars"),
    ("1 images are unusable", "torn.jpg is damaged", "replace them"),
  ),
  "draw nowhere": ((SYNTHETIC,), ("--output",)),
  "draw an unknown size": (
    (SYNTHETIC, "--output=FOLDER/drawn", "--size=huge"),
    ("huge", "smoke"),
  ),
  "draw over other files": (
    (SYNTHETIC, "--output=FOLDER/run", "--size=smoke"),
    ("--output", "is not empty", "choose another"),
  ),
  "draw over another set": (
    (SYNTHETIC, "--output=FOLDER/data", "--size=smoke", "--seed=3"),
    ("--output", "seed 0", "choose another"),
  ),
  "embed nothing": (("udon_jax.extract",), ("--workdir is missing",)),
  "weights without an array": (
    (
      *(*TRAIN, "--config.pretrained=augreg:FOLDER/weights/block.npz"),
      *("--config.model.name=vit_8", "--config.model.depth=2"),
      *("--config.model.width=36", "--config.model.num_heads=3"),
      "--config.model.mlp_dim=60",
    ),
    ("block.npz lacks ", "encoderblock_1/LayerNorm_2/scale'; is it a file of"),
  ),
  "embed into another kind of file": (
    (
      *("udon_jax.extract", "--workdir=FOLDER/run"),
      *("--images=FOLDER/data/images", "--output=FOLDER/run/metrics.jsonl"),
    ),
    ("--output", "ends in .npz or .npy"),
  ),
} | {
  f"config.{flag}": (
    (*TRAIN, f"--config.{flag}"),
    (f"config.{flag.split('=')[0]}", words),
  )
  for flag, words in VALUES.items()
}
OFFICIAL = {
  name: ((EVALUATE, f"--workdir=FOLDER/official_{name}"), words)
  for name, words in {
    "torn": ("checkpoint_6 is no whole checkpoint", "cut off", "copy it again"),
    "deep": ("checkpoint_6 is no whole checkpoint", "nested too deep"),
    "huge": ("checkpoint_6 is no whole checkpoint", "shape, type and size"),
    "unnamed": ("config.json is missing", "copy it there too"),
    "garbled": ("config.json is no JSON", "copy it again"),
    "mixed": ("not of one run", "model.num_heads 4", "from the same folder"),
    "orbax": ("checkpoint_6 is a folder, as Orbax writes", "msgpack"),
    "whole": ("--data is missing", "'/nowhere'", "give the data directory"),
  }.items()
} | {
  "official, no such step": (
    (EVALUATE, "--workdir=FOLDER/official_whole", "--step=9"),
    ("no checkpoint of step 9; it has [6]",),
  ),
  "official, no such output": (
    (
      *(EVALUATE, "--workdir=FOLDER/official_whole", "--data=FOLDER/data"),
      "--output=FOLDER/file/results.json",
    ),
    ("--output=", "cannot be written", "choose another folder"),
  ),
  "official, data of other domains": (
    (EVALUATE, "--workdir=FOLDER/official_other", "--data=FOLDER/data"),
    ("tfds/sop", "prepare"),
  ),
  "official, no such embedding": (
    (
      *("udon_jax.extract", "--workdir=FOLDER/official_uned"),
      *("--images=FOLDER/data/images", "--output=FOLDER/new.npz"),
      *("--embedding=teacher", "--domain=cars"),
    ),
    ("--embedding=teacher", "it has student, backbone"),
  ),
  "resume from official classes": (
    (*TRAIN, "--config.resume_from=FOLDER/official_whole"),
    ("was trained on (domain, classes)", "this run has", "use the same data"),
  ),
  "resume from official UnED": (
    (*TRAIN, "--config.resume_from=FOLDER/official_uned"),
    ("is of UnED", "config.pretrained=official:"),
  ),
  "pretrained official nowhere": (
    (*TRAIN, "--config.pretrained=official:FOLDER/nowhere"),
    ("config.pretrained", "is no folder", "checkpoint_<step>"),
  ),
  "pretrained official of another model": (
    (*TRAIN, "--config.pretrained=official:FOLDER/official_clip"),
    ("config.pretrained", "--config.model.name=clip_8"),
  ),
  "convert nothing": (("udon_jax.convert",), ("--workdir is missing",)),
  "convert to an unknown form": (
    ("udon_jax.convert", "--workdir=FOLDER/run", "--to=torch"),
    ("--to=torch", "augreg"),
  ),
  "convert over a run": (
    (
      *("udon_jax.convert", "--workdir=FOLDER/run", "--to=official"),
      *("--output=FOLDER/run", "--overwrite"),
    ),
    ("--output=", "other things", "name another path"),
  ),
  "convert over a file": (
    (
      *("udon_jax.convert", "--workdir=FOLDER/run", "--to=augreg"),
      "--output=FOLDER/weights/sizes.npz",
    ),
    ("sizes.npz exists", "--overwrite"),
  ),
  "convert clip to AugReg": (
    (
      *("udon_jax.convert", "--workdir=FOLDER/official_clip", "--to=augreg"),
      "--output=FOLDER/new.npz",
    ),
    ("clip_8", "no ViT of AugReg"),
  ),
  "convert what is no run": (
    (
      *("udon_jax.convert", "--workdir=FOLDER/empty", "--to=official"),
      "--output=FOLDER/converted",
    ),
    ("empty holds no checkpoint", "give the workdir"),
  ),
}
# Found while the run goes: these may write into their own workdirs.
LATE = {
  "a damaged image in training": (
    (*TRAIN, "--config.data_dir=FOLDER/jpeg", "--workdir=FOLDER/began_0"),
    ("cars.train.tfrecord-", ": record ", "(key ", "be decoded", "prepare"),
  ),
  "a flipped bit in training": (
    (*TRAIN, "--config.data_dir=FOLDER/flipped", "--workdir=FOLDER/began_1"),
    ("cars.train.tfrecord-", ": record ", "is damaged", "prepare"),
  ),
}
# On eight devices.
DEVICES = {
  "batch on devices": (
    (*TRAIN, "--config.batch_size=12"),
    ("config.batch_size=12", "8 devices", "for example 16"),
  ),
  "evaluation batch on devices": (
    (*TRAIN, "--config.eval.batch_size=12"),
    ("config.eval.batch_size=12", "8 devices", "for example 16"),
  ),
  "mesh": (
    (*TRAIN, "--config.mesh.fsdp=3"),
    ("config.mesh.fsdp=3", "8 devices", "-1"),
  ),
}
CASES |= {f"official {name}": case for name, case in OFFICIAL.items()}
HEALS = {
  "offsets of another file": (
    *(EVALUATE, "--workdir=FOLDER/run", "--data=FOLDER/offsets"),
    "--output=FOLDER/healed.json",
  )
}
MISTAKES = CASES | LATE | DEVICES


def write_broken(folder, name, *, break_info=None, break_records=None):
  """Makes a copy of the data whose info files or records are changed."""
  root, good = folder / name, folder / "data"
  root.mkdir()
  (root / "images").symlink_to(good / "images")
  for part, break_it in (("info_files", break_info), ("tfds", break_records)):
    if break_it is None:
      (root / part).symlink_to(good / part)
    else:
      shutil.copytree(good / part, root / part)
      break_it(root / part / "cars")


def edit(split, change):
  """Returns what changes the entries of an info file."""

  def break_info(cars):
    file = cars / f"{split}.json"
    entries = json.loads(file.read_text())
    file.write_text(json.dumps(change(entries)))

  return break_info


def each(break_file, split="*"):
  """Returns what breaks every record file of a domain, or of one split."""

  def break_records(cars):
    for file in sorted(cars.glob(f"{split}/*.tfrecord*")):
      if file.suffix != ".npy":
        break_file(file)

  return break_records


def cut(file):
  file.write_bytes(file.read_bytes()[:-20])


def make_folder(file):
  file.unlink()
  file.mkdir()


def flip_in_each_record(file):
  contents = bytearray(file.read_bytes())
  for end in offsets.load(file)[1:]:
    contents[end - 100] ^= 16
  file.write_bytes(contents)


def tear_images(file):
  """Writes records again, whole but with half of every image."""
  opened = records.RecordFiles([file])
  torn = []
  for i in range(len(opened)):
    example = examples.tf.train.Example.FromString(opened.read(i))
    images = example.features.feature["image_bytes"].bytes_list
    images.value[0] = images.value[0][: len(images.value[0]) // 2]
    torn.append(example.SerializeToString())
  data_files.write_records(file, torn)
  offsets.rebuild(file)


def swap_keys(file):
  """Writes records again, the first one with another key, as they are found."""
  opened = records.RecordFiles([file])
  contents = [opened.read(i) for i in range(len(opened))]
  example = examples.tf.train.Example.FromString(contents[0])
  example.features.feature["key"].bytes_list.value[0] = b"other.jpg"
  data_files.write_records(file, [example.SerializeToString(), *contents[1:]])
  offsets.rebuild(file)
  (file.parent / "metadata.json").unlink(missing_ok=True)


def move_offsets(file):
  starts = offsets.load(file)
  starts[1:-1] += 1
  offsets.write(file, starts)


def write_descriptions(folder):
  """Writes descriptions of own domains, of which most are mistakes."""
  for name, described in DESCRIPTIONS.items():
    (folder / name).mkdir(parents=True)
    (folder / f"{name}.yaml").write_text(json.dumps({"shoes": described}))
  (folder / "torn.yaml").write_text("shoes: {folder")
  (folder / "cars.yaml").write_text("cars: {folder: x}")
  (folder / "row/rows.csv").write_text("path,label\na.jpg,a\nb.jpg,\n")
  (folder / "outside/rows.csv").write_text("path,label\n../secret.jpg,a\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Good data, a run on it, and broken relatives of both."""
  folder = tmp_path_factory.mktemp("mistakes")
  write_descriptions(folder / "own")
  small_run.must_succeed(small_run.COMMANDS, folder)
  (folder / "file").write_text("precious")
  (folder / "empty").mkdir()
  (folder / "secret.jpg").write_bytes(b"secret")
  whole = (folder / "data/images").rglob("*.jpg")
  (folder / "data/images/torn.jpg").write_bytes(next(whole).read_bytes()[:-99])
  weight_files.write_mistakes(folder / "weights")
  np.savez(folder / "few.npz", **{"cars/test": np.ones((3, 4), np.float32)})
  (folder / "used").mkdir()
  shutil.copytree(folder / "run", folder / "rotten")
  for path in (folder / "rotten/checkpoints/4/params").rglob("d/*"):
    path.write_bytes(b"rotten")

  official_runs.write_mistakes(folder)

  def name(path):
    return lambda x: [x[0], {"path": path, "class_id": 0}, *x[1:]]

  def alone(entries):
    return [e | {"class_id": i} for i, e in enumerate(entries)]

  for broken, split, change in (
    ("class_id", "train", lambda x: [*x[:3], x[3] | {"class_id": 1000}]),
    ("no_image", "val", lambda _: []),
    ("missing", "val", name("cars/nowhere.jpg")),
    ("damaged", "val", name("torn.jpg")),
  ):
    write_broken(folder, broken, break_info=edit(split, change))
  write_broken(
    folder,
    "outside",
    break_info=edit("val", name("../secret.jpg")),
    break_records=lambda cars: (cars / "val/metadata.json").unlink(),
  )
  write_broken(
    folder, "no_info", break_info=lambda cars: (cars / "val.json").unlink()
  )
  write_broken(
    folder, "no_list", break_info=lambda cars: (cars / "train.json").unlink()
  )
  write_broken(
    folder,
    "bad_json",
    break_info=lambda cars: (cars / "test.json").write_text("[{"),
  )
  write_broken(
    folder,
    "alone",
    break_info=edit("test", alone),
    break_records=lambda cars: (cars / "test/metadata.json").unlink(),
  )
  # Otherwise the mistake would leave the order of the records beside them.
  splits.open_eval(layout.find(folder / "alone"), "cars", "test")
  for broken, break_file in (
    ("cut", cut),
    ("folder", make_folder),
    ("jpeg", tear_images),
    ("keys", swap_keys),
    ("offsets", move_offsets),
  ):
    write_broken(folder, broken, break_records=each(break_file))
  write_broken(
    folder, "flipped", break_records=each(flip_in_each_record, "train")
  )
  return folder


@pytest.fixture(scope="module")
def answers(folder):
  """Returns {case: what its command line left behind}."""

  def watch(cases, **environment):
    return command_lines.watch_all(
      small_run.fill(cases, folder), folder, **environment
    )

  with (folder / "used/.lock").open("w") as file:
    file.write("77")
    file.flush()
    fcntl.flock(file, fcntl.LOCK_EX)
    one = {name: argv for name, (argv, _) in (CASES | LATE).items()}
    found = watch(one | HEALS, XLA_FLAGS=compiling.FLAGS)
  return found | watch({name: argv for name, (argv, _) in DEVICES.items()})


def test_there_are_many():
  assert len(MISTAKES) >= 45


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_ends_in_one_line_that_names_the_cure(answers, case):
  code, output, errors, *_ = answers[case]
  assert "Traceback" not in output + errors
  last = errors.splitlines()[-1]
  assert last.startswith("error: ")
  for words in MISTAKES[case][1]:
    assert words in last
  assert code == 2


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_does_no_harm(answers, case):
  """It changes no file, and leaves none but the lock of a workdir."""
  answer = answers[case]
  lock = ".lock"
  assert [path for path in answer.changed if not path.endswith(lock)] == []
  for path in answer.added:
    began = case in LATE and path.startswith("began_")
    assert began or path.endswith(lock)


def test_wrong_offsets_of_good_records_heal(folder, answers):
  answer = answers["offsets of another file"]
  assert answer.code == 0, answer.errors
  found, expected = (
    json.loads((folder / name).read_text())
    for name in ("healed.json", "run/results.json")
  )
  assert found == expected
  assert answer.changed
  assert all(path.endswith(".offsets.npy") for path in answer.changed)
