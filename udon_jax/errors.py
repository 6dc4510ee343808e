"""The exceptions that a person meets."""


class UserError(ValueError):
  """Bad usage, config or data: one line that names the key or file and a cure.

  The command lines print the message without a traceback and exit with 2.
  """


class DivergedError(RuntimeError):
  """Training met a loss or gradient that is not finite.

  The command lines print the message without a traceback and exit with 3.
  """


class StoppedError(RuntimeError):
  """The run was asked to stop, saved its state, and continues when run again.

  The command lines print the message and exit with 143.
  """
