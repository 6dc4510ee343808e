"""Our model and losses give the official implementation's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import official
from udon_jax import losses, partitioning, prototypes

DOMAINS = {"d1_cars": "cars", "d5_met": "met"}
MARGINS = {"normface": 0.0, "arcface": 0.5, "cosface": 0.35}
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def golden():
  return official.load("tiny_vit_forward_losses.npz")


@pytest.mark.parametrize("prefix", DOMAINS)
def test_embeddings(golden, prefix):
  domain = official.DOMAINS.index(DOMAINS[prefix])
  with jax.default_matmul_precision("highest"):
    outputs = official.model().apply(
      {"params": official.module_params()},
      golden[f"{prefix}/images_u8"],
      jnp.int32(domain),
      train=False,
    )
  for ours, theirs in {
    "backbone": "backbone_out",
    "teacher": "teacher_embedd",
    "student": "universal_student_embedd",
  }.items():
    np.testing.assert_allclose(
      getattr(outputs, ours), golden[f"{prefix}/{theirs}"], **TOLERANCE
    )


@pytest.mark.parametrize("classifier", MARGINS)
@pytest.mark.parametrize("prefix", DOMAINS)
def test_losses(golden, prefix, classifier):
  name = DOMAINS[prefix]
  rows = {role: official.class_rows(role) for role in ("student", "teacher")}
  mesh = partitioning.make_mesh(data=1, fsdp=1, devices=jax.devices()[:1])
  layout = prototypes.make_layout(
    official.DOMAINS, [len(x) for x in rows["student"].values()], mesh
  )
  tables = prototypes.pack(
    {
      role: {
        k: np.stack([v, np.zeros_like(v), np.zeros_like(v)], axis=1)
        for k, v in by_domain.items()
      }
      for role, by_domain in rows.items()
    },
    layout,
  )
  hyper = prototypes.Hyper(
    classifier=classifier,
    margin=MARGINS[classifier],
    scale=16.0,
    label_smoothing=0.0,
    teacher_temperature=0.1,
    student_temperature=0.1,
    weights=dict.fromkeys(losses.TERMS, 1.0),
    b1=0.9,
    b2=0.999,
    eps=1e-8,
    weight_decay=1e-6,
  )
  teacher = jnp.asarray(golden[f"{prefix}/teacher_embedd"])
  student = jnp.asarray(golden[f"{prefix}/universal_student_embedd"])
  result = jax.jit(prototypes.make_step(layout, mesh, hyper))(
    tables,
    student=student,
    teacher=teacher,
    labels=jnp.asarray(golden[f"{prefix}/labels"], jnp.int32),
    domain=jnp.int32(official.DOMAINS.index(name)),
    learning_rate=jnp.float32(1e-3),
    count=jnp.int32(1),
  )
  terms = dict(result.terms)
  terms["relation_distillation"] = losses.relation_distillation(
    teacher, student, num_blocks=1
  )
  theirs = {
    "teacher_classification": "ce_teacher",
    "student_classification": "ce_universal_student",
    "logit_distillation": "logits_distill",
    "relation_distillation": "simils_distill_with_coeff",
  }
  for term, key in theirs.items():
    np.testing.assert_allclose(
      terms[term], golden[f"{prefix}/{classifier}/{key}"], **TOLERANCE
    )
  np.testing.assert_allclose(
    losses.weighted_mean(terms, hyper.weights),
    golden[f"{prefix}/{classifier}/total"],
    **TOLERANCE,
  )
