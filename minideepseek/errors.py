"""The project's own errors: one clear sentence naming the argument, what came, what was expected.

The command line prints the sentence of any of these and exits with code 2, without a traceback.
"""


class MiniDeepSeekError(Exception):
    """Base of every error that this package raises on purpose."""


class InputError(MiniDeepSeekError, ValueError):
    """An argument, a configuration or a text that cannot be used; raised before any work."""


class CheckpointError(InputError):
    """A file or directory that is not what its reader needs; names the file and the tensor."""


class DivergedError(MiniDeepSeekError, ArithmeticError):
    """A loss or a gradient became NaN or Inf; names the step and the first tensor that went bad."""


class GateError(MiniDeepSeekError):
    """A stage of a recipe did not reach what the next one needs; names the measure and both."""


class RecoveryWarning(UserWarning):
    """What a process that was killed left behind was put right; says what was done."""
