"""Kill a tiny cell at random steps, and prove that nothing came of it."""
