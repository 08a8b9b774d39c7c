"""The `shapes` world: the small trained cascade that the repository ships and how it is trained."""
