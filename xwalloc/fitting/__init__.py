"""Making models of whole arrays from a sample of blocks."""
