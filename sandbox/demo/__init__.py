"""The story that `make demo` tells, and its report."""
