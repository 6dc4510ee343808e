"""A block of the Vision Transformer in plain numpy, one image, one head a time.

Parameters are a dict of one block's arrays under AugReg's names. Sources:
arXiv 2010.11929, eq. 1-4; arXiv 1706.03762, sec. 3.2.
"""

import numpy as np


def layer_norm(x, params):
  mean = x.mean(-1, keepdims=True)
  variance = ((x - mean) ** 2).mean(-1, keepdims=True)
  return (x - mean) / np.sqrt(variance + 1e-6) * params["scale"] + params[
    "bias"
  ]


def gelu(x):
  """The tanh approximation (arXiv 1606.08415)."""
  return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def attention(x, params):
  """Self-attention of the tokens [n, d] of one image."""
  out = np.zeros_like(x) + params["out"]["bias"]
  num_heads, head_dim, _ = params["out"]["kernel"].shape
  for h in range(num_heads):
    query, key, value = (
      x @ params[name]["kernel"][:, h] + params[name]["bias"][h]
      for name in ("query", "key", "value")
    )
    scores = query @ key.T / np.sqrt(head_dim)
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    weights = scores / scores.sum(-1, keepdims=True)
    out = out + weights @ value @ params["out"]["kernel"][h]
  return out


def dense(x, params):
  return x @ params["kernel"] + params["bias"]


def mlp(x, params):
  return dense(gelu(dense(x, params["Dense_0"])), params["Dense_1"])


def block(x, params):
  """Pre-norm attention and MLP, both residual, on the tokens of one image."""
  y = layer_norm(x, params["LayerNorm_0"])
  x = x + attention(y, params["MultiHeadDotProductAttention_1"])
  return x + mlp(layer_norm(x, params["LayerNorm_2"]), params["MlpBlock_3"])


def vit(image, params, *, patch):
  """Returns the class token of one normalised image [h, w, 3]."""
  kernel = params["embedding"]["kernel"]  # [patch, patch, 3, d]
  tokens = [params["cls"][0, 0]]
  for top in range(0, image.shape[0], patch):
    for left in range(0, image.shape[1], patch):
      pixels = image[top : top + patch, left : left + patch]
      token = np.tensordot(pixels, kernel, axes=3)
      tokens.append(token + params["embedding"]["bias"])
  encoder = params["Transformer"]
  x = np.stack(tokens) + encoder["posembed_input"]["pos_embedding"][0]
  for layer in range(len(encoder["encoderblock"]["LayerNorm_0"]["scale"])):
    x = block(x, take(encoder["encoderblock"], layer))
  return layer_norm(x, encoder["encoder_norm"])[0]


def take(tree, i):
  """Returns entry i of every stacked array of a tree."""
  if isinstance(tree, dict):
    return {name: take(value, i) for name, value in tree.items()}
  return tree[i]
