"""Runs of the official code in miniature, written by Flax and optax.

Nothing here asks the package for a name or a form: these are the official
ones, written down once more.
"""

import json
from typing import Any

from flax import serialization, struct, traverse_util
from flax.training import checkpoints
import jax
import msgpack
import numpy as np
import optax

EARLY = (
  "output_projection",
  "teacher_projection_domain",
  "universal_student_projection_domain",
)
CLASSES = {"met": 7, "cars": 5, "sop": 11}
# The sizes of "vit_mu8" with the projections of tests/fakes.py.
WIDTH, DEPTH, HEADS, MLP, PATCH, SIZE = 32, 2, 2, 64, 8, 16
STUDENT, TEACHER = (8,), (16,)


class TrainState(struct.PyTreeNode):
  """What scenic saves of a run."""

  global_step: Any = 0
  opt_state: Any = None
  params: Any = None
  model_state: Any = None
  rng: Any = None
  metadata: Any = None


def _dense(name, fan_in, *shape):
  return {f"{name}/kernel": (fan_in, *shape), f"{name}/bias": shape}


def _norm(name, width=WIDTH):
  return {f"{name}/scale": (width,), f"{name}/bias": (width,)}


def _attention(name):
  head = WIDTH // HEADS
  shapes = {}
  for part in ("query", "key", "value"):
    shapes |= _dense(f"{name}/{part}", WIDTH, HEADS, head)
  return shapes | {
    f"{name}/out/kernel": (HEADS, head, WIDTH),
    f"{name}/out/bias": (WIDTH,),
  }


def vit_shapes(size=SIZE):
  shapes = {
    "embedding/kernel": (PATCH, PATCH, 3, WIDTH),
    "embedding/bias": (WIDTH,),
    "cls": (1, 1, WIDTH),
    "Transformer/posembed_input/pos_embedding": (
      *(1, (size // PATCH) ** 2 + 1, WIDTH),
    ),
    **_norm("Transformer/encoder_norm"),
  }
  for i in range(DEPTH):
    block = f"Transformer/encoderblock_{i}"
    shapes |= {
      **_norm(f"{block}/LayerNorm_0"),
      **_attention(f"{block}/MultiHeadDotProductAttention_0"),
      **_norm(f"{block}/LayerNorm_1"),
      **_dense(f"{block}/MlpBlock_0/Dense_0", WIDTH, MLP),
      **_dense(f"{block}/MlpBlock_0/Dense_1", MLP, WIDTH),
    }
  return shapes


def clip_shapes(size=SIZE):
  mlp = 4 * WIDTH
  shapes = {
    "conv1/kernel": (PATCH, PATCH, 3, WIDTH),
    "class_embedding": (WIDTH,),
    "positional_embedding": ((size // PATCH) ** 2 + 1, WIDTH),
    **_norm("ln_pre"),
    **_norm("ln_post"),
  }
  for i in range(DEPTH):
    block = f"transformer/resblocks.{i}"
    shapes |= {
      **_norm(f"{block}/ln_1"),
      **_attention(f"{block}/attn"),
      **_norm(f"{block}/ln_2"),
      **_dense(f"{block}/mlp/c_fc", WIDTH, mlp),
      **_dense(f"{block}/mlp/c_proj", mlp, WIDTH),
    }
  return shapes


def _projection(name, widths):
  shapes, before = {}, WIDTH
  for i, width in enumerate(widths):
    shapes |= _dense(f"{name}/Dense_{i}", before, width)
    if i < len(widths) - 1:
      shapes |= _norm(f"{name}/LayerNorm_{i}", width)
    before = width
  return shapes


def udon_shapes(classes=CLASSES, *, student=STUDENT, teacher=TEACHER):
  """Returns the heads of UDON."""
  shapes = _projection("universal_student_projection_domain_0", student)
  for i, count in enumerate(classes.values()):
    shapes |= {
      **_projection(f"teacher_projection_domain_{i}", teacher),
      f"teacher_output_projection_{i}/kernel": (teacher[-1], count),
      f"universal_student_output_projection_{i}/kernel": (student[-1], count),
    }
  return shapes


def uned_shapes(classes=CLASSES, *, dim=STUDENT[0]):
  """Returns the heads of UnED; no projection if `dim` is 0."""
  shapes = _dense("projection", WIDTH, dim) if dim else {}
  for i, count in enumerate(classes.values()):
    shapes[f"output_projection_{i}/kernel"] = (dim or WIDTH, count)
  return shapes


def draw(shapes, seed=0):
  """Returns a tree of random float32 arrays, norms around 1."""
  rng = np.random.default_rng(seed)
  flat = {}
  for name, shape in shapes.items():
    fan_in = np.prod(shape[:-1]) if name.endswith("kernel") else 1
    value = rng.normal(size=shape) / np.sqrt(fan_in)
    flat[name] = np.float32(value + name.endswith("scale"))
  return traverse_util.unflatten_dict(flat, sep="/")


def make_optimizer(params):
  """Returns the official optimizer: groups by substrings of the path."""
  flat = traverse_util.flatten_dict(params, sep="/")
  early = {k: any(part in k for part in EARLY) for k in flat}

  def group(mask, rate):
    mask = traverse_util.unflatten_dict(mask, sep="/")
    adamw = optax.adamw(lambda _: rate, b1=0.9, b2=0.999, weight_decay=1e-6)
    return optax.masked(optax.chain(adamw), mask)

  return optax.chain(
    group({k: not x for k, x in early.items()}, 1e-5), group(early, 1e-3)
  )


def make_state(params, *, step, seed=1):
  """Returns a state whose moments are drawn at random."""
  rng = np.random.default_rng(seed)

  def fill(x):
    if x.ndim == 0:
      return np.asarray(step, np.int32)
    return rng.uniform(size=x.shape).astype(np.float32)

  return TrainState(
    global_step=np.asarray(step, np.int32),
    opt_state=jax.tree.map(fill, make_optimizer(params).init(params)),
    params=params,
    model_state={},
    rng=np.asarray([3, 4], np.uint32),
    metadata={"chrono": {"accum_train_time": 1.5, "note": None}},
  )


def make_config(classes=CLASSES, *, clip=False, udon=True, **changes):
  """Returns a config.json; `changes` are of its top level."""
  heads = {"universal_student_dim": STUDENT, "teacher_dim": TEACHER}
  return {
    "dataset_name": ",".join(classes),
    "model_class": (f"{'udon_' * udon}{'clip_' * clip}vit_with_embedding"),
    "model": {
      "hidden_size": WIDTH,
      "patches": {"size": [PATCH, PATCH]},
      "num_heads": HEADS,
      "mlp_dim": MLP,
      "num_layers": DEPTH,
      **(heads if udon else {}),
    },
    "classifier": "separate",
    **changes,
  }


def write(folder, state, config, *, number=None, twice=False):
  """Writes a workdir; the config as JSON in a JSON string, if `twice`."""
  folder.mkdir(parents=True, exist_ok=True)
  number = int(state.global_step) if number is None else number
  (folder / f"checkpoint_{number}").write_bytes(serialization.to_bytes(state))
  text = json.dumps(config)
  (folder / "config.json").write_text(json.dumps(text) if twice else text)
  return folder


def restore(folder, target, *, number):
  """Returns what Flax reads of a workdir into an official state."""
  return checkpoints.restore_checkpoint(
    str(folder), target, step=number, orbax_checkpointer=None
  )


def write_mistakes(folder):
  """Writes folder/official_<name>, most of which cannot be read."""
  classes = {"cars": 5, "met": 7}
  vit, heads = vit_shapes(size=32), udon_shapes(classes)
  config = make_config(classes, eval_dataset_dir="/nowhere")
  state = make_state(draw(vit | heads), step=6)
  for name in ("torn", "deep", "huge", "unnamed", "garbled", "whole"):
    write(folder / f"official_{name}", state, config)

  def path(name, file="checkpoint_6"):
    return folder / f"official_{name}" / file

  path("torn").write_bytes(path("torn").read_bytes()[:-999])
  path("deep").write_bytes(b"\x81\xa1a" * 5000 + b"\xc0")
  array = msgpack.packb(((2**39,), "float32", b"1234"))
  path("huge").write_bytes(msgpack.packb({"a": msgpack.ExtType(1, array)}))
  path("unnamed", "config.json").unlink()
  path("garbled", "config.json").write_text('{"dataset_name": "ca')
  model = config["model"] | {"num_heads": 4}
  write(folder / "official_mixed", state, config | {"model": model})
  path("orbax").mkdir(parents=True)
  other = {"cars": 5, "sop": 7}
  write(folder / "official_other", state, make_config(other))
  state = make_state(draw(vit | uned_shapes(classes)), step=6)
  write(folder / "official_uned", state, make_config(classes, udon=False))
  state = make_state(draw(clip_shapes(size=32) | heads), step=6)
  write(folder / "official_clip", state, make_config(classes, clip=True))
