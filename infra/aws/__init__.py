"""The AWS half of a stack: a cluster of its own and all that it stands on."""
