"""What a cell consists of: identity, and one file a stage."""
