"""The exceptions that a person meets."""


class UserError(ValueError):
  """Bad usage, config or data: one line that names the key or file and a cure.

  The command lines print the message without a traceback and exit with 2.
  """


class BadExampleError(UserError):
  """One example of a data set is damaged or has no usable label.

  Attributes:
    record: its number among the records of its split; None where only its
      file knows.
  """

  record: int | None = None


class DiskFullError(UserError):
  """A file of a run cannot be written for lack of space."""


class DivergedError(RuntimeError):
  """Training met a loss or gradient that is not finite.

  The command lines print the message without a traceback and exit with 3.

  Attributes:
    step: the first such step.
    domain: what it trained.
  """

  def __init__(self, message: str, *, step: int, domain: str):
    """Describes what happened where."""
    super().__init__(message)
    self.step, self.domain = step, domain


class StoppedError(BaseException):
  """The run was asked to stop, saved its state, and continues when run again.

  No `Exception`, as it comes where the signal does: whoever handles failures
  must not take it for one.

  The command lines print the message and exit with 143.
  """
