"""Our model and losses give the official implementation's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import fakes, official
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
    jnp.zeros(len(official.DOMAINS), jnp.int32),
    layout,
  )
  hyper = fakes.prototypes_hyper(
    student_dim=tables.student.shape[2],
    teacher_dim=tables.teacher.shape[2],
    classifier=classifier,
    margin=MARGINS[classifier],
  )
  teacher = jnp.asarray(golden[f"{prefix}/teacher_embedd"])
  student = jnp.asarray(golden[f"{prefix}/universal_student_embedd"])
  scores, _ = jax.jit(prototypes.Step(layout, mesh, hyper).score)(
    tables,
    prototypes.Batch(
      student=student,
      teacher=teacher,
      labels=jnp.asarray(golden[f"{prefix}/labels"], jnp.int32),
      domain=jnp.int32(official.DOMAINS.index(name)),
      step=jnp.int32(1),
    ),
  )
  terms = dict(scores.terms)
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
    losses.weighted_mean(terms, hyper.terms.weights),
    golden[f"{prefix}/{classifier}/total"],
    **TOLERANCE,
  )
