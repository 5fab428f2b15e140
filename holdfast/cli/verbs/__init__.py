"""The verbs of the command, one file each, named like the verb."""
