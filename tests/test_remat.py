"""What is computed again changes memory, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import fakes, training
from udon_jax.models import architecture, registry, vit

SEQUENCE = (0, 1, 2, 1, 0)


def train(monkeypatch, **changes):
  run = training.set_up(
    fakes.changed(model__stochastic_depth=0.2, **changes),
    num_devices=1,
    monkeypatch=monkeypatch,
  )
  return run, training.take_steps(run, run.init_state(), SEQUENCE)[1]


@pytest.fixture(scope="module")
def plain():
  with pytest.MonkeyPatch.context() as patch:
    return train(patch)


@pytest.mark.parametrize(
  "remat",
  ["elementwise", pytest.param("blocks", marks=pytest.mark.slow)],
)
def test_losses_and_work_are_the_same(plain, monkeypatch, remat):
  run, losses = train(monkeypatch, model__remat=remat)
  np.testing.assert_allclose(losses, plain[1], rtol=1e-5)
  assert run.count_work() == plain[0].count_work()


@pytest.mark.slow
def test_on_a_mesh_that_cuts_parameters(plain, monkeypatch):
  run = training.set_up(
    fakes.changed(
      model__stochastic_depth=0.2,
      model__remat="blocks",
      mesh__data=2,
      mesh__fsdp=4,
    )
  )
  _, losses = training.take_steps(run, run.init_state(), SEQUENCE)
  np.testing.assert_allclose(losses, plain[1], rtol=2e-3)


def test_memory_falls():
  """Of twelve blocks: less is kept, and least of all with their inputs."""
  images = jax.ShapeDtypeStruct((8, 64, 64, 3), jnp.float32)
  found = {}
  for remat in (None, *vit.REMAT):
    model = registry.get_backbone(
      architecture.parse("vit_ti16"),
      image_size=64,
      dtype="float32",
      stochastic_depth=0.0,
      position_stddev=0.02,
      unroll=1,
      remat=remat,
    )
    params = jax.eval_shape(
      lambda x, model=model: model.init(jax.random.key(0), x, train=False),
      images,
    )
    compiled = (
      jax.jit(
        jax.grad(lambda p, x, model=model: model.apply(p, x, train=True).sum())
      )
      .lower(params, images)
      .compile()
    )
    found[remat] = compiled.memory_analysis().temp_size_in_bytes
  assert found["elementwise"] < 0.8 * found[None]
  assert found["blocks"] < 0.5 * found[None]
