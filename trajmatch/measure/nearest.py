"""The nearest real image of each synthetic one: what of the real data can be recognised in the set.

Legend: n synthetic and N real images of c x h x w, pixels in [0, 1].
"""

import torch
from torch import Tensor


def nearest(images: Tensor, real: Tensor, chunk: int = 2000) -> tuple[Tensor, Tensor]:
    """Distance (n,) of each image (n, c, h, w) to its nearest real one (N, c, h, w), and that one's index (n,).

    Distances are root mean squares over an image's numbers. Memory: n x chunk, beside the images.
    """
    flat = images.flatten(1)
    best = torch.full((len(flat),), torch.inf, dtype=flat.dtype, device=flat.device)
    index = torch.zeros(len(flat), dtype=torch.int64, device=flat.device)
    for start in range(0, len(real), chunk):
        part = real[start : start + chunk].to(flat).flatten(1)
        # Not by products: nearly equal images would come out at a distance of rounding errors.
        distance = torch.cdist(flat, part, compute_mode="donot_use_mm_for_euclid_dist") / flat.shape[1] ** 0.5
        low, where = distance.min(1)
        closer = low < best
        best, index = torch.where(closer, low, best), torch.where(closer, where + start, index)
    return best, index
