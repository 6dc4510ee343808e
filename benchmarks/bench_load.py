"""Backbones from files: seconds beyond reading them, and memory at the peak.

  python -m benchmarks.bench_load

Writes a ViT-B/16 of random numbers as AugReg (.npz), as CLIP with its tower for
text (.npy of float16, as the official one, and safetensors) and as a folder of
Hugging Face. Fresh processes, in turn, read the bytes of a file, load it onto
the first device, and take its arrays with numpy or safetensors where these do
so without executing pickles. The files lie in the page cache. Memory is what a
process holds at the peak of loading beyond what it held before, against the
backbone in float32; Linux alone tells it.
"""

from collections.abc import Mapping, Sequence
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import flags
import jax
import numpy as np
import safetensors.numpy

from benchmarks import common
from udon_jax import cli
from udon_jax.models import architecture, registry
from udon_jax.pretrained import kinds, weights

_HARDWARE = flags.DEFINE_string("hardware", "cpu2", "Named in the result file.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Rounds.", lower_bound=1)
_ONE = flags.DEFINE_string("one", None, "Measures one KIND:PATH; for itself.")

_WIDTH, _HEADS, _MLP, _DEPTH, _PATCH, _TOKENS = 768, 12, 3072, 12, 16, 197
_CHUNK = 2**24


def _layers(name: str, width: int, mlp: int) -> dict[str, tuple[int, ...]]:
  """Returns shapes of a block of a CLIP."""
  return {
    **{
      f"{name}ln_{i}.{x}": (width,) for i in (1, 2) for x in ("weight", "bias")
    },
    f"{name}attn.in_proj_weight": (3 * width, width),
    f"{name}attn.in_proj_bias": (3 * width,),
    f"{name}attn.out_proj.weight": (width, width),
    f"{name}attn.out_proj.bias": (width,),
    f"{name}mlp.c_fc.weight": (mlp, width),
    f"{name}mlp.c_fc.bias": (mlp,),
    f"{name}mlp.c_proj.weight": (width, mlp),
    f"{name}mlp.c_proj.bias": (width,),
  }


def _clip() -> dict[str, tuple[int, ...]]:
  """Returns shapes of ViT-B/16 of openai/CLIP by name."""
  shapes: dict[str, tuple[int, ...]] = {
    "visual.class_embedding": (_WIDTH,),
    "visual.positional_embedding": (_TOKENS, _WIDTH),
    "visual.conv1.weight": (_WIDTH, 3, _PATCH, _PATCH),
    "visual.proj": (_WIDTH, 512),
    "token_embedding.weight": (49408, 512),
    "positional_embedding": (77, 512),
    "text_projection": (512, 512),
  }
  for norm in ("visual.ln_pre", "visual.ln_post", "ln_final"):
    width = _WIDTH if "visual" in norm else 512
    shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
  for i in range(_DEPTH):
    shapes |= _layers(f"visual.transformer.resblocks.{i}.", _WIDTH, _MLP)
    shapes |= _layers(f"transformer.resblocks.{i}.", 512, 2048)
  return shapes


def _augreg() -> dict[str, tuple[int, ...]]:
  """Returns shapes of AugReg's B/16 by name."""
  encoder, split = "Transformer/", (_HEADS, _WIDTH // _HEADS)
  shapes: dict[str, tuple[int, ...]] = {
    "cls": (1, 1, _WIDTH),
    "embedding/kernel": (_PATCH, _PATCH, 3, _WIDTH),
    "embedding/bias": (_WIDTH,),
    f"{encoder}posembed_input/pos_embedding": (1, _TOKENS, _WIDTH),
    f"{encoder}encoder_norm/scale": (_WIDTH,),
    f"{encoder}encoder_norm/bias": (_WIDTH,),
  }
  for i in range(_DEPTH):
    block = f"{encoder}encoderblock_{i}/"
    attention = f"{block}MultiHeadDotProductAttention_1/"
    for part in ("query", "key", "value"):
      shapes[f"{attention}{part}/kernel"] = (_WIDTH, *split)
      shapes[f"{attention}{part}/bias"] = split
    shapes |= {
      f"{attention}out/kernel": (*split, _WIDTH),
      f"{attention}out/bias": (_WIDTH,),
      f"{block}MlpBlock_3/Dense_0/kernel": (_WIDTH, _MLP),
      f"{block}MlpBlock_3/Dense_0/bias": (_MLP,),
      f"{block}MlpBlock_3/Dense_1/kernel": (_MLP, _WIDTH),
      f"{block}MlpBlock_3/Dense_1/bias": (_WIDTH,),
    }
    for norm in ("LayerNorm_0", "LayerNorm_2"):
      shapes |= {f"{block}{norm}/{x}": (_WIDTH,) for x in ("scale", "bias")}
  return shapes


def _huggingface() -> dict[str, tuple[int, ...]]:
  """Returns shapes of google/vit-base-patch16-224 by name."""
  shapes: dict[str, tuple[int, ...]] = {
    "embeddings.cls_token": (1, 1, _WIDTH),
    "embeddings.position_embeddings": (1, _TOKENS, _WIDTH),
    "embeddings.patch_embeddings.projection.weight": (
      *(_WIDTH, 3, _PATCH, _PATCH),
    ),
    "embeddings.patch_embeddings.projection.bias": (_WIDTH,),
    "layernorm.weight": (_WIDTH,),
    "layernorm.bias": (_WIDTH,),
  }
  for i in range(_DEPTH):
    block = f"encoder.layer.{i}."
    square = [f"attention.attention.{x}" for x in ("query", "key", "value")]
    for name in (*square, "attention.output.dense"):
      shapes[f"{block}{name}.weight"] = (_WIDTH, _WIDTH)
      shapes[f"{block}{name}.bias"] = (_WIDTH,)
    shapes |= {
      f"{block}intermediate.dense.weight": (_MLP, _WIDTH),
      f"{block}intermediate.dense.bias": (_MLP,),
      f"{block}output.dense.weight": (_WIDTH, _MLP),
      f"{block}output.dense.bias": (_WIDTH,),
    }
    for norm in ("layernorm_before", "layernorm_after"):
      shapes |= {f"{block}{norm}.{x}": (_WIDTH,) for x in ("weight", "bias")}
  return shapes


def _fill(
  shapes: Mapping[str, tuple[int, ...]], dtype: Any
) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(0)
  return {
    name: rng.standard_normal(shape, np.float32).astype(dtype)
    for name, shape in shapes.items()
  }


def write_files(folder: pathlib.Path) -> dict[str, str]:
  """Writes all files; returns KIND:PATH by the name of the form."""
  values: Any = _fill(_augreg(), np.float32)
  np.savez(folder / "augreg.npz", **values)
  clip: Any = _fill(_clip(), np.float16)
  np.save(folder / "clip.npy", clip, allow_pickle=True)
  clip = {name: x.astype(np.float32) for name, x in clip.items()}
  safetensors.numpy.save_file(clip, folder / "clip.safetensors")
  (folder / "hf").mkdir()
  (folder / "hf/config.json").write_text(json.dumps({"model_type": "vit"}))
  safetensors.numpy.save_file(
    _fill(_huggingface(), np.float32), folder / "hf/model.safetensors"
  )
  return {
    "AugReg .npz": f"augreg:{folder}/augreg.npz",
    "CLIP .npy": f"clip:{folder}/clip.npy",
    "CLIP safetensors": f"clip:{folder}/clip.safetensors",
    "Hugging Face": f"hf:{folder}/hf",
  }


def _read_bytes(path: pathlib.Path) -> None:
  buffer = bytearray(_CHUNK)
  with path.open("rb", buffering=0) as file:
    while file.readinto(buffer):
      pass


def _take_all(path: pathlib.Path) -> None:
  """Reads all arrays with the library that wrote them; no pickles."""
  if path.suffix == ".npz":
    with np.load(path) as file:
      for name in file.files:
        file[name]
  elif path.suffix == ".safetensors":
    safetensors.numpy.load_file(path)


def _load(spec: str, shapes: Any) -> None:
  found = kinds.open_weights(spec)
  jax.block_until_ready(weights.load_backbone(found, shapes))


def _memory(field: str) -> int:
  """Returns bytes that this process holds (VmRSS) or held (VmHWM)."""
  for line in pathlib.Path("/proc/self/status").read_text().splitlines():
    if line.startswith(f"{field}:"):
      return int(line.split()[1]) * 1024
  raise ValueError(f"no {field} in /proc/self/status")


def _seconds(run: Any, *arguments: Any) -> float:
  begin = time.perf_counter()
  run(*arguments)
  return time.perf_counter() - begin


def measure(spec: str) -> dict[str, float]:
  """Returns seconds and the peak of one file, in this process."""
  kind, _, name = spec.partition(":")
  path = pathlib.Path(name)
  if kind == "hf":
    path /= "model.safetensors"
  families = {"augreg": "vit_b16", "clip": "clip_b16", "hf": "hfvit_b16"}
  module = registry.get_backbone(
    architecture.parse(families[kind]),
    image_size=224,
    dtype="float32",
    stochastic_depth=0.0,
    position_stddev=0.02,
    unroll=1,
  )
  image = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)
  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    jax.eval_shape(
      lambda x: module.init(jax.random.key(0), x, train=False), image
    )["params"],
  )
  jax.block_until_ready(jax.device_put(np.zeros(3), place))
  read = _seconds(_read_bytes, path)
  before = _memory("VmRSS")
  pathlib.Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
  load = _seconds(_load, spec, shapes)
  peak = _memory("VmHWM") - before
  size = sum(x.size * 4 for x in jax.tree.leaves(shapes))
  return {
    "read_s": read,
    "load_s": load,
    "take_s": _seconds(_take_all, path),
    "peak": peak / size,
  }


def main(_: Sequence[str]) -> None:
  """Measures, prints and writes the report."""
  if _ONE.value is not None:
    print(json.dumps(measure(_ONE.value)))
    return
  folder = pathlib.Path(tempfile.mkdtemp())
  try:
    specs = write_files(folder)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in specs}
    for i in range(_REPEATS.value + 1):
      for name, spec in specs.items():
        done = subprocess.run(
          [sys.executable, "-m", "benchmarks.bench_load", f"--one={spec}"],
          stdout=subprocess.PIPE,
          text=True,
          check=True,
        )
        if i:  # the first round fills the page cache
          found[name].append(json.loads(done.stdout.splitlines()[-1]))
  finally:
    shutil.rmtree(folder)
  rows = []
  for name, rounds in found.items():
    median = {
      key: statistics.median(x[key] for x in rounds) for key in rounds[0]
    }
    pickled = name.endswith(".npy")
    rows.append(
      {
        "form": name,
        "reading the bytes, s": median["read_s"],
        "arrays by their library, s": "-" if pickled else median["take_s"],
        "loading, s": median["load_s"],
        "loading - reading, s": median["load_s"] - median["read_s"],
        "peak / backbone": median["peak"],
      }
    )
  head = common.header("jax", "numpy", "safetensors")
  path = common.write(f"load_{_HARDWARE.value}", head, rows)
  print(common.markdown(rows))
  print(f"written to {path}")


if __name__ == "__main__":
  cli.run(main)
