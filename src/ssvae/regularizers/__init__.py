"""Latent regularisers, one idea a file."""
