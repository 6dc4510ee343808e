"""The official training step, written plainly from its description.

Parameters are one flat dict under the official names. Layers are written out,
logits are whole matrices, the gradient is that of the whole dict, and optax's
AdamW updates all of it at every step.

Shape legend: b batch, n tokens, h heads, c classes.
"""

import functools
import math

import jax
import jax.numpy as jnp
import optax

PATCH, NUM_HEADS = 16, 2
SCALE, TEMPERATURE = 16.0, 0.1
TEACHER = "teacher_projection_domain_{}"
STUDENT = "universal_student_projection_domain_0"


def unit(x, axis=-1):
  return x / jnp.linalg.norm(x, axis=axis, keepdims=True)


def layer_norm(x, params, name):
  mean = x.mean(-1, keepdims=True)
  variance = ((x - mean) ** 2).mean(-1, keepdims=True)
  x = (x - mean) / jnp.sqrt(variance + 1e-6)
  return x * params[f"{name}/scale"] + params[f"{name}/bias"]


def dense(x, params, name):
  return x @ params[f"{name}/kernel"] + params[f"{name}/bias"]


def gelu(x):
  return (
    0.5 * x * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
  )


def attention(x, params, name):
  query, key, value = (
    jnp.einsum("bnd,dhk->bhnk", x, params[f"{name}/{part}/kernel"])
    + params[f"{name}/{part}/bias"][None, :, None, :]
    for part in ("query", "key", "value")
  )
  scores = query @ key.swapaxes(-1, -2) / math.sqrt(query.shape[-1])
  mixed = jax.nn.softmax(scores, axis=-1) @ value
  out = jnp.einsum("bhnk,hkd->bnd", mixed, params[f"{name}/out/kernel"])
  return out + params[f"{name}/out/bias"]


def backbone(params, images):
  """Returns the class tokens of uint8 images, at unit length."""
  x = (images.astype(jnp.float32) / 255 - 0.5) / 0.5
  b, side = x.shape[0], x.shape[1] // PATCH
  x = x.reshape(b, side, PATCH, side, PATCH, 3).transpose(0, 1, 3, 2, 4, 5)
  x = x.reshape(b, side * side, PATCH * PATCH * 3)
  kernel = params["embedding/kernel"]
  x = x @ kernel.reshape(-1, kernel.shape[-1]) + params["embedding/bias"]
  cls = jnp.tile(params["cls"], (b, 1, 1))
  x = jnp.concatenate([cls, x], axis=1)
  x = x + params["Transformer/posembed_input/pos_embedding"]
  layer = 0
  while f"Transformer/encoderblock_{layer}/LayerNorm_0/scale" in params:
    block = f"Transformer/encoderblock_{layer}"
    y = layer_norm(x, params, f"{block}/LayerNorm_0")
    x = x + attention(y, params, f"{block}/MultiHeadDotProductAttention_0")
    y = layer_norm(x, params, f"{block}/LayerNorm_1")
    y = gelu(dense(y, params, f"{block}/MlpBlock_0/Dense_0"))
    x = x + dense(y, params, f"{block}/MlpBlock_0/Dense_1")
    layer += 1
  return unit(layer_norm(x, params, "Transformer/encoder_norm")[:, 0])


def project(params, x, name):
  """A linear layer, or Dense, LayerNorm, GELU and so on to a Dense."""
  i = 0
  while f"{name}/LayerNorm_{i}/scale" in params:
    x = dense(x, params, f"{name}/Dense_{i}")
    x = gelu(layer_norm(x, params, f"{name}/LayerNorm_{i}"))
    i += 1
  return unit(dense(x, params, f"{name}/Dense_{i}"))


def classification(cosines, targets, *, classifier, margin):
  if classifier == "cosface":
    cosines = cosines - margin * targets
  if classifier == "arcface":
    shifted = jnp.cos(jnp.arccos(cosines) + margin)
    cosines = jnp.where(targets > 0, shifted, cosines)
  log_probs = jax.nn.log_softmax(SCALE * cosines)
  return -(targets * log_probs).sum(-1).mean()


def relations(teacher, student, num_devices):
  """Each device compares its images; the means over devices are averaged."""
  parts = zip(
    jnp.split(teacher, num_devices),
    jnp.split(student, num_devices),
    strict=True,
  )
  losses = [
    num_devices / 4 * ((s @ s.T - t @ t.T) ** 2).sum() / len(s)
    for t, s in parts
  ]
  return sum(losses) / num_devices


def loss(params, images, labels, domain, *, classifier, margin, num_devices):
  """Returns the mean of the four terms, and the terms."""
  features = backbone(params, images)
  teacher = project(params, features, TEACHER.format(domain))
  student = project(params, features, STUDENT)
  teacher_cosines, student_cosines = (
    x @ unit(params[f"{name}_output_projection_{domain}/kernel"], axis=0)
    for x, name in ((teacher, "teacher"), (student, "universal_student"))
  )
  targets = jax.nn.one_hot(labels, teacher_cosines.shape[-1])
  classify = functools.partial(
    classification, targets=targets, classifier=classifier, margin=margin
  )
  log_p = jax.nn.log_softmax(
    jax.lax.stop_gradient(teacher_cosines) / TEMPERATURE
  )
  log_q = jax.nn.log_softmax(student_cosines / TEMPERATURE)
  terms = {
    "teacher_classification": classify(teacher_cosines),
    "student_classification": classify(student_cosines),
    "logit_distillation": (jnp.exp(log_p) * (log_p - log_q)).sum(-1).mean(),
    "relation_distillation": relations(
      jax.lax.stop_gradient(teacher), student, num_devices
    ),
  }
  return sum(terms.values()) / 4, terms


def is_head(name):
  return "projection" in name


def make_optimizer(params, *, frozen_steps, backbone_rate, heads_rate):
  """Returns the chain of both AdamWs; counts start at 0."""

  def backbone_schedule(count):
    return backbone_rate * jnp.where(frozen_steps >= count, 0, 1)

  def part(rate, heads):
    adamw = optax.adamw(rate, b1=0.9, b2=0.999, eps=1e-8, weight_decay=1e-6)
    return optax.masked(adamw, {k: is_head(k) == heads for k in params})

  return optax.chain(part(backbone_schedule, False), part(heads_rate, True))


class Trainer:
  """Takes official steps.

  Attributes:
    params: flat, under the official names.
    state: of the chain of optimizers.
  """

  def __init__(
    self,
    params,
    *,
    classifier,
    margin,
    num_devices,
    frozen_steps,
    backbone_rate,
    heads_rate,
  ):
    self.params = {k: jnp.asarray(v) for k, v in params.items()}
    optimizer = make_optimizer(
      params,
      frozen_steps=frozen_steps,
      backbone_rate=backbone_rate,
      heads_rate=heads_rate,
    )
    self.state = optimizer.init(self.params)
    gradient = jax.value_and_grad(
      functools.partial(
        loss, classifier=classifier, margin=margin, num_devices=num_devices
      ),
      has_aux=True,
    )

    @functools.partial(jax.jit, static_argnums=4)
    def step(params, state, images, labels, domain):
      (value, terms), grads = gradient(params, images, labels, domain)
      updates, state = optimizer.update(grads, state, params)
      params = optax.apply_updates(params, updates)
      return params, state, {"loss": value, **terms}, grads

    self._step = step

  def step(self, images, labels, domain):
    """Returns the loss with its terms, and the gradient of every parameter."""
    self.params, self.state, values, grads = self._step(
      self.params, self.state, images, labels, domain
    )
    return values, grads

  def moments(self):
    """Returns (count, mu, nu) of the backbone's AdamW and of the heads'."""
    for part in self.state:
      adam = part.inner_state[0]
      yield adam.count, without_masked(adam.mu), without_masked(adam.nu)


def without_masked(tree):
  return {k: v for k, v in tree.items() if not isinstance(v, optax.MaskedNode)}
