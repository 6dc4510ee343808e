"""The official models in plain numpy, one image a time, under official names.

Sources: nikosips/UDON, udon_vit_with_embedding.py, mlp.py,
udon_clip_vit_with_embedding.py; nikosips/Universal-Image-Embeddings.
"""

import numpy as np

from tests.oracles import vit

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def norm(x, params, eps):
  centred = x - x.mean(-1, keepdims=True)
  scale = np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
  return centred / scale * params["scale"] + params["bias"]


def patches(image, kernel):
  size = kernel.shape[0]
  return np.stack(
    [
      np.tensordot(image[top : top + size, left : left + size], kernel, axes=3)
      for top in range(0, image.shape[0], size)
      for left in range(0, image.shape[1], size)
    ]
  )


def quick_gelu(x):
  return x / (1 + np.exp(-1.702 * x))


def vit_backbone(image, params):
  image = (image / 255.0 - 0.5) / 0.5
  embedding, encoder = params["embedding"], params["Transformer"]
  tokens = patches(image, embedding["kernel"]) + embedding["bias"]
  x = np.concatenate([params["cls"][0], tokens])
  x = x + encoder["posembed_input"]["pos_embedding"][0]
  for i in range(sum(name.startswith("encoderblock_") for name in encoder)):
    block = encoder[f"encoderblock_{i}"]
    y = norm(x, block["LayerNorm_0"], 1e-6)
    x = x + vit.attention(y, block["MultiHeadDotProductAttention_0"])
    x = x + vit.mlp(norm(x, block["LayerNorm_1"], 1e-6), block["MlpBlock_0"])
  return norm(x, encoder["encoder_norm"], 1e-6)[0]


def clip_backbone(image, params):
  image = (image / 255.0 - CLIP_MEAN) / np.asarray(CLIP_STD)
  tokens = patches(image, params["conv1"]["kernel"])
  x = np.concatenate([params["class_embedding"][None], tokens])
  x = norm(x + params["positional_embedding"], params["ln_pre"], 1e-5)
  for i in range(len(params["transformer"])):
    block = params["transformer"][f"resblocks.{i}"]
    x = x + vit.attention(norm(x, block["ln_1"], 1e-5), block["attn"])
    y = vit.dense(norm(x, block["ln_2"], 1e-5), block["mlp"]["c_fc"])
    x = x + vit.dense(quick_gelu(y), block["mlp"]["c_proj"])
  return norm(x, params["ln_post"], 1e-5)[0]


def mlp(x, params):
  last = sum(name.startswith("Dense_") for name in params) - 1
  for i in range(last):
    x = vit.dense(x, params[f"Dense_{i}"])
    x = vit.gelu(norm(x, params[f"LayerNorm_{i}"], 1e-6))
  return vit.dense(x, params[f"Dense_{last}"])


def unit(x):
  return x / np.linalg.norm(x)


def embed(image, params, *, domain):
  """Returns {"backbone", "student", "teacher"} of what the model has.

  Args:
    image: pixels in 0..255 [h, w, 3].
    params: nested dict of a checkpoint.
    domain: number of the domain.
  """
  make = clip_backbone if "conv1" in params else vit_backbone
  backbone = unit(make(np.asarray(image, np.float64), params))
  found = {"backbone": backbone}
  if "projection" in params:
    found["student"] = unit(vit.dense(backbone, params["projection"]))
  for name, role in (
    (f"teacher_projection_domain_{domain}", "teacher"),
    ("universal_student_projection_domain_0", "student"),
  ):
    if name in params:
      found[role] = unit(mlp(backbone, params[name]))
  return found


def label_set(row):
  return {int(label) for label in row if label >= 0}


def report(tasks, embeddings, *, merged):
  """Scores as the official loop does: by rank, and rounded.

  Queries that lie in their index lose their first neighbour; values of domains
  have three decimals, and so has the mean of these.

  Args:
    tasks: of `structs.RetrievalTask`.
    embeddings: rows of every split, by (domain, split).
    merged: whether all indexes are searched, or the domain's own.
  """
  results = {}
  for task in tasks:
    index = [
      (other.domain, label_set(labels), row)
      for other in tasks
      if merged or other is task
      for labels, row in zip(
        other.index.labels,
        embeddings[other.domain, other.index.name],
        strict=True,
      )
    ]
    rows = np.stack([row for _, _, row in index])
    throw_first = task.query.name == task.index.name
    correct, precision = 0, 0.0
    queries = embeddings[task.domain, task.query.name]
    for labels, query in zip(task.query.labels, queries, strict=True):
      found = [
        domain == task.domain and bool(theirs & label_set(labels))
        for domain, theirs, _ in index
      ]
      order = np.argsort(-(rows @ query), kind="stable")
      hits = [found[j] for j in order][throw_first:]
      num = sum(found) - throw_first
      correct += hits[0]
      precision += sum(hits[: min(num, 5)]) / min(num, 5) if num else 0.0
    results[task.domain] = {
      "recall@1": np.round(correct / len(queries), 3),
      "mmp@5": np.round(precision / len(queries), 3),
    }
  results["mean"] = {
    key: np.round(np.mean([v[key] for v in results.values()]), 3)
    for key in ("recall@1", "mmp@5")
  }
  return results
