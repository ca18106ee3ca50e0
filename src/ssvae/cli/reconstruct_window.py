"""How ``reconstruct`` cuts a clip in time for a VAE that cannot stream."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ssvae.models.windows import default_window
from ssvae.models.zoo import PublishedVAE

if TYPE_CHECKING:
    from ssvae.data.video_stream import Clip
    from ssvae.models.vae import VideoVAE


def window_of(args: argparse.Namespace, vae: VideoVAE | PublishedVAE, clip: Clip) -> int | None:
    """Frames that a published VAE computes at once; None for ours, which stream.

    Raises ValueError for options that this VAE has no use for, and a --window that it does not take.
    """
    if not isinstance(vae, PublishedVAE):
        if args.window is not None:
            raise ValueError(f"--window {args.window}: this VAE streams, there is nothing to cut; see --chunk")
        return None
    if args.tile is not None:
        raise ValueError("--tile: a published VAE takes whole frames; give a smaller --size")
    if vae.layout.image:
        if args.window is not None:
            raise ValueError(f"--window {args.window}: an image VAE takes each frame alone; see --chunk")
        return int(args.chunk)
    if args.window is None:
        return default_window(vae, clip.frames)
    try:
        vae.latent_grid(args.window, vae.spatial_ratio, vae.spatial_ratio)
    except ValueError as error:
        raise ValueError(f"--window {args.window}: {error}") from error
    return int(args.window)
