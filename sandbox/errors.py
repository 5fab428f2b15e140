"""Errors of the sandbox: one line each with the value, the rule and the remedy."""


class SandboxError(Exception):
    """Something failed while running; the command line exits 1."""


class Unsupported(SandboxError):
    """An object needs something that the sandbox does not support; the message names it."""


class Misuse(SandboxError):
    """Something must be corrected before anything can start; the command line exits 2."""
