"""What a VAE is trained on: likelihood, weights of terms, and one step's gradients."""
