"""A stack's resource graph with no engine, cloud or cluster, and what can be read from it."""
