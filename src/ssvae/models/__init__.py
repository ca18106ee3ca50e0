"""Networks: the video VAE, the DiT, LPIPS, moving averages, the shipped probe networks."""
