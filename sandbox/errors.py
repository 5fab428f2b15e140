"""Errors of the sandbox: one line each with the value, the rule and the remedy."""


class SandboxError(Exception):
    """Something failed while it ran; the command line exits 1."""


class Unsupported(SandboxError):
    """An object asks for something that the sandbox does not do; the message names it."""
