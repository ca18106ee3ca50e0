"""Clips in, batches out: decoding, shards, mixing, the synthetic default, the latent cache."""

from ssvae.data.video_shards import VideoShards

__all__ = ["VideoShards"]
