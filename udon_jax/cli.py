"""What every command line shares: flags, logging, errors and exit codes.

Exit codes: 0 done; 1 a check found something; 2 bad usage, config or data;
3 training diverged; 143 stopped by SIGTERM or Ctrl-C, after saving what there
is to save.
"""

from collections.abc import Callable, Sequence
import functools
import logging
import os
import sys
from typing import Any, NoReturn, TypeAlias

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from udon_jax import errors

Leave: TypeAlias = Callable[[int, BaseException | None], bool]

EXIT_USAGE = 2
EXIT_DIVERGED = 3
EXIT_STOPPED = 143
EXIT_LOST = 134  # as JAX ends a process that has lost a peer


class _OrNone(flags.ArgumentParser):
  """Reads a value of a config, or None, which keys may be set back to."""

  def __init__(self, parser: Any):
    super().__init__()
    self._parser = parser
    self.syntactic_help = parser.syntactic_help

  def parse(self, argument: Any) -> Any:
    """Returns None for "None", as `--print_config` and files write it."""
    return None if argument == "None" else self._parser.parse(argument)

  def flag_type(self) -> str:
    """Returns the name of the type, for --help."""
    return self._parser.flag_type()


for _type, _parser in {
  int: flags.IntegerParser(),
  float: flags.FloatParser(),
  str: flags.ArgumentParser(),
}.items():
  config_flags.register_flag_parser_for_type(_type, _OrNone(_parser))


def run(
  main: Callable[[Sequence[str]], int | None],
  *,
  takes_arguments: bool = False,
  leave: Leave | None = None,
) -> NoReturn:
  """Runs a command line and exits with its code.

  Args:
    main: called with the name of the command and the arguments that are no
      flags. A `UserError` that it raises ends the process with one line on
      stderr and exit code 2.
    takes_arguments: whether there may be such arguments; flags may stand
      before, between and after them.
    leave: called before a failed process ends, with its exit code and an error
      that nobody has told of, where it may have peers; returns whether it has.
  """
  _set_up_logging()
  flags.FLAGS.set_gnu_getopt(takes_arguments)

  quiet = not any(a.lstrip("-").startswith("verbosity") for a in sys.argv)

  def guarded(argv: Sequence[str]) -> int | None:
    if quiet:
      absl_logging.set_verbosity(absl_logging.WARNING)
    if len(argv) > 1 and not takes_arguments:
      raise errors.UserError(f"unexpected argument {argv[1]!r}; see --help")
    return main(argv)

  fail = functools.partial(_fail, leave=leave)
  try:
    app.run(guarded, flags_parser=_parse_flags)
  except errors.DiskFullError as error:
    fail(_one_line(error), at_once=True)
  except errors.UserError as error:
    fail(_one_line(error))
  except errors.DivergedError as error:
    fail(_one_line(error), EXIT_DIVERGED)
  except errors.StoppedError as error:
    fail(_one_line(error), EXIT_STOPPED)
  except KeyboardInterrupt:
    fail("interrupted", EXIT_STOPPED)
  except Exception as error:
    if leave is not None and leave(EXIT_LOST, error):
      sys.exit(EXIT_LOST)
    raise
  sys.exit(0)


def _set_up_logging() -> None:
  """Shows the project's own messages; `--verbosity=0` the libraries' too."""
  logger = logging.getLogger("udon_jax")
  logger.setLevel(logging.INFO)
  logger.propagate = False
  absl_logging.get_absl_logger().addFilter(_is_news)
  handler = logging.StreamHandler(sys.stderr)
  handler.setFormatter(logging.Formatter("%(message)s"))
  logger.handlers = [handler]


def _is_news(record: logging.LogRecord) -> bool:
  """Whether a library says something that is for the user, and not said yet.

  Orbax notes saves without a validation and what follows from reading only, and
  its threads show errors that it raises as well. TensorFlow Datasets warns of
  itself, and of folders that it is about to fill.
  """
  message = record.getMessage()
  if "tensorflow_datasets" in record.pathname:
    known = ("is deprecated", "custom data config", "has no dataset_info.json")
    return not any(words in message for words in known)
  if "orbax" not in record.pathname:
    return True
  known = ("Requested `tracked_metric`", "read_only=True", "is read only")
  return not record.exc_info and not any(words in message for words in known)


def _parse_flags(argv: Sequence[str]) -> list[str]:
  """Parses flags; a mistake in them is the user's, whatever raised it.

  Config files and their overrides are evaluated while flags are parsed, so
  that any exception can come out of it.
  """
  try:
    rest = _parse_or_help(argv)
    if "config" in flags.FLAGS:  # a missing file is told of on first use only
      getattr(flags.FLAGS["config"].value, "seed", None)
    return rest
  except Exception as error:
    _fail(_explain_flag_error(error))


def _parse_or_help(argv: Sequence[str]) -> list[str]:
  """Returns the arguments that are no flags; --help ends well."""
  try:
    return flags.FLAGS(list(argv))
  except SystemExit:  # absl ends --help with 1
    sys.exit(0)


def _explain_flag_error(error: Exception) -> str:
  """Names the cure where the libraries' own message lacks it."""
  message = _one_line(error)
  if "Error whilst parsing config file" in message:
    # ml_collections quotes the traceback of an error in a config file.
    last = str(error).strip().splitlines()[-1]
    name, _, said = last.partition(": ")
    cure = "see what stands in the file and after its colon"
    own = name.endswith(errors.UserError.__name__)
    return said if own else f"--config: {last}; {cure}"
  if isinstance(error, errors.UserError | flags.Error):
    return message
  if isinstance(error, OSError):
    message = message.rsplit("] ", maxsplit=1)[-1]  # after [Errno 2]
    return f"--config: {message}; the project's own are in configs/"
  if isinstance(error, KeyError | AttributeError):
    while error.args and isinstance(error.args[0], Exception):
      error = error.args[0]
    message = " ".join(str(*error.args[:1]).split())  # str(error) quotes it
    cure = " (`--print_config` shows every key of a config)"
    if "get_config" in message:
      cure = "; a config file must define get_config()"
    return f"--config: {message}{cure}"
  return f"--config: {type(error).__name__}: {message}"


def _one_line(error: BaseException) -> str:
  """Returns the message of an error on one line."""
  return " ".join(str(error).split()) or type(error).__name__


def _fail(
  message: str,
  code: int = EXIT_USAGE,
  *,
  at_once: bool = False,
  leave: Leave | None = None,
) -> NoReturn:
  """Ends the process with one last line on stderr.

  Args:
    message: the line.
    code: of the exit.
    at_once: whether threads that still write, and would fail loudly, are cut
      off.
    leave: called before the end, where there may be peers.
  """
  sys.stdout.flush()
  sys.stderr.write(f"error: {message}\n")
  sys.stderr.flush()
  if leave is not None:
    leave(code, None)
  if at_once:
    os._exit(code)
  sys.exit(code)
