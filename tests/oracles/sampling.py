"""The sampling policy in plain Python, float64, as its description reads."""

import math


def quotas(exact, num_steps, rounding):
  """Shares out steps.

  Args:
    exact: E * w of every domain.
    num_steps: E.
    rounding: the remainder goes to the "largest_fraction", one each, the first
      of equals first; or all to the "last".
  """
  counts = [math.floor(x) for x in exact]
  rest = num_steps - sum(counts)
  if rounding == "last":
    counts[-1] += rest
    return counts
  fractions = [x - c for x, c in zip(exact, counts, strict=True)]
  order = sorted(range(len(exact)), key=lambda i: (-fractions[i], i))
  for i in range(rest):
    counts[order[i % len(order)]] += 1
  return counts


def reweight(sums, counts, weights):
  """Returns the weights of the next window."""
  means = [s / c if c else None for s, c in zip(sums, counts, strict=True)]
  total = sum(m for m in means if m is not None)
  if total > 0:
    weights = [
      w if m is None else m / total for m, w in zip(means, weights, strict=True)
    ]
  whole = sum(weights)
  return [w / whole for w in weights]
