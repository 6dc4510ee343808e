"""Splits for images that nobody has split, as a function of names and a seed.

A class or image is chosen by a hash of its name, so that others beside it
change little: a catalogue that grows keeps most of its splits.
"""

from collections.abc import Collection, Mapping, Sequence
import hashlib

from udon_jax import domains, own_domains

_TRAIN = domains.TRAIN_SPLIT


def split(
  paths: Sequence[str],
  labels: Sequence[tuple[str, ...]],
  *,
  how: own_domains.Splits,
) -> list[tuple[str, ...]]:
  """Returns the splits of every image.

  By class, classes of one image are trained on, as nothing could find them. By
  image, every class keeps an image to train on, and what its share leaves of a
  whole number decides by chance. An image of several classes is left to
  evaluation: it goes where its first class goes, or, where that is trained on,
  to the test.

  Args:
    paths: of the images.
    labels: names of the classes of every image.
    how: the shares.
  """
  members: dict[str, list[int]] = {}
  for number, names in enumerate(labels):
    members.setdefault(names[0], []).append(number)
  if how.by == own_domains.BY_CLASS:
    chosen = _by_class(members, how)
  else:
    several = {i for i, names in enumerate(labels) if len(names) > 1}
    chosen = _by_image(members, paths, how, first=several)
  for number, names in enumerate(labels):
    if chosen[number] == _TRAIN and len(names) > 1:
      chosen[number] = "test"
  return _with_index(members, paths, chosen, how)


def _digest(name: str, *, seed: int) -> bytes:
  text = f"{seed}\0{name}".encode(errors="surrogatepass")
  return hashlib.blake2b(text, digest_size=8).digest()


def _order(names: Sequence[str], *, seed: int) -> list[int]:
  """Returns the numbers of names in the order of their hashes."""
  return sorted(range(len(names)), key=lambda i: _digest(names[i], seed=seed))


def _chance(name: str, *, seed: int) -> float:
  """Returns a number in [0, 1) that belongs to a name."""
  return int.from_bytes(_digest(name, seed=seed)[:6], "big") / 2**48


def _by_class(
  members: Mapping[str, Sequence[int]], how: own_domains.Splits
) -> dict[int, str]:
  """Returns the split of every image, the same for all of a class."""
  names = [name for name, numbers in members.items() if len(numbers) > 1]
  ordered = [names[i] for i in _order(names, seed=how.seed)]
  total = len(members)
  num_test = max(1, round(how.test * total))
  num_val = max(1, round(how.val * total))
  held = {name: "test" for name in ordered[:num_test]}
  held |= {name: "val" for name in ordered[num_test : num_test + num_val]}
  return {
    number: held.get(name, _TRAIN)
    for name, numbers in members.items()
    for number in numbers
  }


def _by_image(
  members: Mapping[str, Sequence[int]],
  paths: Sequence[str],
  how: own_domains.Splits,
  *,
  first: Collection[int],
) -> dict[int, str]:
  """Returns the split of every image; no class is left without training.

  Args:
    members: images of every class.
    paths: of the images.
    how: the shares.
    first: images that cannot be trained on, which are held out first.
  """
  result = {}
  for name, numbers in members.items():
    order = _order([paths[i] for i in numbers], seed=how.seed)
    ordered = [numbers[i] for i in order]
    ordered.sort(key=lambda number: number not in first)
    # Rounded up as often as the share says: small classes, too, are held out.
    chance = _chance(name, seed=how.seed)
    room, total = len(numbers) - 1, len(numbers)
    num_test = min(room, int(how.test * total + chance))
    num_held = min(room, int((how.test + how.val) * total + chance))
    for place, number in enumerate(ordered):
      held = "test" if place < num_test else "val"
      result[number] = held if place < num_held else _TRAIN
  return result


def _with_index(
  members: Mapping[str, Sequence[int]],
  paths: Sequence[str],
  chosen: Mapping[int, str],
  how: own_domains.Splits,
) -> list[tuple[str, ...]]:
  """Moves the share of each class's evaluation images that is searched."""
  splits: list[tuple[str, ...]] = [
    (chosen[number],) for number in range(len(paths))
  ]
  if not how.index:
    return splits
  for numbers in members.values():
    for name in domains.EVAL_SPLITS:
      among = [number for number in numbers if chosen[number] == name]
      if len(among) < 2:
        continue  # a query without an index, or the other way round
      count = min(max(1, round(how.index * len(among))), len(among) - 1)
      ordered = _order([paths[i] for i in among], seed=how.seed + 1)
      for i in ordered[:count]:
        splits[among[i]] = (f"{name}_{own_domains.INDEX}",)
  return splits
