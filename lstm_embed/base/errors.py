"""The failures a user can read and act on.

A job prints the message of any of these without a traceback. Messages say what happened, where, what was found, what was
expected and what to do. Each error takes one string, so that it survives the way from a Ray worker to the driver.
"""

from __future__ import annotations


class LstmEmbedError(Exception):
    """A failure the user can understand; jobs exit with code 1."""


class InputError(LstmEmbedError, ValueError):
    """Something the user gave is wrong; jobs exit with code 2."""


class FingerprintMismatch(InputError):
    """Two things that must have been made alike were not."""


class OutputBusy(LstmEmbedError):
    """Another job is writing the same output folder."""


class TooMuchRejected(InputError):
    """More of the input was rejected than `--max-bad-fraction` allows."""


class NonFiniteLoss(LstmEmbedError):
    """A loss or gradient was not a finite number."""
