"""Two explicit loops (VAE, DiT) and what they share: settings, optimiser, checkpoints, the guard."""
