"""The sampler of the official code as a host loop, as its description reads."""

import jax
import numpy as np


def allocate(weights, num_steps):
  """int(T * w) steps each, in the precision of the weights; the last the rest.

  Returns:
    The domain of every step, in the order of the domains.
  """
  counts = [int(type(w)(num_steps) * w) for w in weights[:-1]]
  counts.append(num_steps - sum(counts))
  return [i for i, count in enumerate(counts) for _ in range(count)]


def permute(schedule, seed):
  key = jax.random.PRNGKey(seed)
  return np.asarray(jax.random.permutation(key, np.asarray(schedule))).tolist()


def take_turns(num_domains, num_steps):
  return np.tile(np.arange(num_domains), num_steps)[:num_steps].tolist()


def static(weights, num_steps):
  """The schedule of a run whose weights, Python floats, never change."""
  return permute(allocate(weights, num_steps), 0)


class Dynamic:
  """One run; `weights` and `schedule` are those in force.

  Attributes:
    updates: (step, weights, steps of every domain) of every update.
  """

  def __init__(self, *, num_domains, num_steps, update_every, flush_every):
    self.num_domains, self.num_steps = num_domains, num_steps
    self.update_every, self.flush_every = update_every, flush_every
    self.weights = [np.float32(1 / num_domains)] * num_domains
    self.schedule = take_turns(num_domains, num_steps)
    self.noted = []  # (domain, loss) since the logger was flushed
    self.updates = []

  def update(self, step):
    losses = {i: [] for i in range(self.num_domains)}
    for domain, loss in self.noted:
      losses[domain].append(loss)
    means = {
      i: np.float32(np.mean(values)) for i, values in losses.items() if values
    }
    total = sum(means.values(), np.float32(0))
    weights = list(self.weights)
    for i, mean in means.items():
      weights[i] = mean / total
    if len(means) < self.num_domains:
      whole = sum(weights, np.float32(0))
      weights = [w / whole for w in weights]
    self.weights = weights
    assert all(isinstance(w, np.float32) for w in weights)
    ordered = allocate(weights, self.num_steps)
    counts = np.bincount(ordered, minlength=self.num_domains)
    self.updates.append((step, weights, counts.tolist()))
    self.schedule = permute(ordered, step)

  def run(self, losses):
    """Takes all steps; `losses` has one each. Returns the domains trained."""
    trained = []
    for step in range(1, self.num_steps + 1):
      if step % self.update_every == 0:
        self.update(step)
      domain = self.schedule[step - 1]
      trained.append(domain)
      self.noted.append((domain, losses[step - 1]))
      if step % self.flush_every == 1 or step in (1, self.num_steps):
        self.noted = []
    return trained
