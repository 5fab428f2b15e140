"""What a starting pod does, and how a volume goes back to a snapshot."""
