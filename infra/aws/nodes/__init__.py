"""The nodes: managed groups, those that Karpenter makes, and their device plugins."""
