"""The one exception that a user's mistake raises."""


class UserError(ValueError):
  """Bad usage, config or data: one line that names the key or file and a cure.

  The command lines print the message without a traceback and exit with 2.
  """
