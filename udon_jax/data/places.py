"""Where the data of each domain of a config lies, and its protocols."""

from collections.abc import Mapping, Sequence
import contextlib
import dataclasses
import functools

from etils import epath

from udon_jax import domains as domain_table
from udon_jax import errors, own_domains
from udon_jax.data import layout, notes

Domain = str | domain_table.DomainSpec


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
  """A domain and where its data lies.

  Attributes:
    spec: the domain.
    layout: of its data directory.
  """

  spec: domain_table.DomainSpec
  layout: layout.Layout

  @property
  def name(self) -> str:
    """Returns the name of the domain."""
    return self.spec.name


def find(
  data_dir: epath.PathLike | None,
  *,
  domains: Sequence[Domain],
  own: Mapping[str, own_domains.OwnDomain],
  info_files: epath.PathLike | None,
  key: str = "config.data_dir",
  info_files_key: str = "--info_files",
) -> list[Place]:
  """Returns the places of domains, in their order.

  A name is one that the user described, of UnED, or of lists in the data
  directory.

  Args:
    data_dir: the data directory.
    domains: names, or descriptions of what is read.
    own: what the user described, by name.
    info_files: folder of the info files, where it lies elsewhere.
    key: what the user set `data_dir` with, for the message.
    info_files_key: likewise, `info_files`.

  Raises:
    UserError: a name is unknown or there twice, a folder is missing, or a
      described domain was not prepared.
  """
  if not domains:
    raise errors.UserError("config.domains is empty; name at least one domain")
  # Not looked for unless a domain needs it.
  base = functools.cache(
    lambda: layout.find(
      data_dir, info_files=info_files, key=key, info_files_key=info_files_key
    )
  )
  found = [
    Place(domain, base())
    if isinstance(domain, domain_table.DomainSpec)
    else _own(own[domain], base, info_files_key=info_files_key)
    if domain in own
    else Place(_known(base(), domain), notes.with_images(base(), domain))
    for domain in domains
  ]
  names = [place.name for place in found]
  for name in names:
    if names.count(name) > 1:
      raise errors.UserError(
        f"config.domains names {name!r} twice; name every domain once"
      )
  return found


def of_lists(place: layout.Layout) -> layout.Layout:
  """Returns the layout of domains whose lists are made, not given."""
  return dataclasses.replace(place, info_files=place.root / "info_files")


def _made(place: layout.Layout, name: str) -> layout.Layout:
  """Returns where the lists of a described domain were made.

  That is below the data directory, or, where this is a folder of records alone
  (`prepare --output`), where the user says that the lists are.
  """
  own = of_lists(place)
  is_elsewhere = not own.lists(name) and notes.is_described(
    place.info_files, name
  )
  return place if is_elsewhere else own


def _own(own: own_domains.OwnDomain, base, *, info_files_key: str) -> Place:
  """Returns the place of a described domain."""
  if own.records is not None:
    place = _of_records(own, base)
  else:
    place = _made(base(), own.name)
    notes.check(own, place, info_files_key=info_files_key)
    place = notes.with_images(place, own.name)
  splits = notes.splits_of(place.info_files, own.name)
  if not splits:
    raise errors.UserError(
      f"config.own.{own.name}: {place.info_files / own.name} holds no"
      " <split>.json; add the lists of its images"
    )
  spec = own.spec(splits)
  if own.records is not None:  # which keep the protocols that they came with
    kept = notes.spec_of(place.info_files, own.name, key="config.own")
    spec = dataclasses.replace(
      spec,
      val=spec.val if own.val else kept.val,
      test=spec.test if own.test else kept.test,
    )
  return Place(spec, place)


def _of_records(own: own_domains.OwnDomain, base) -> layout.Layout:
  """Returns where records that the user names lie, now.

  If they are no more where they were, the data directory is looked into, which
  the user may have named anew (`evaluate --data`).
  """
  if not epath.Path(own.records).expanduser().is_dir():
    with contextlib.suppress(errors.UserError):
      if base().lists(own.name):
        return base()
  return layout.find(own.records, key=f"config.own.{own.name}.records")


def _known(place: layout.Layout, name: str) -> domain_table.DomainSpec:
  """Returns a domain of UnED, or one that has lists."""
  return notes.spec_of(place.info_files, name, key="config.domains")
