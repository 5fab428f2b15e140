"""Errors of the sandbox: one line each with the value, the rule and the remedy."""


class SandboxError(Exception):
    """Something failed while it ran; the command line exits 1."""


class Unsupported(SandboxError):
    """An object asks for something that the sandbox does not do; the message names it."""


class Misuse(SandboxError):
    """Something must be put right before anything can start; the command line exits 2."""
