"""Mean cosines between embeddings. Vectors are unit vectors (N, P): N images or texts, P the encoder's width."""

from torch import Tensor


def mean_similarity(first: Tensor, second: Tensor) -> float:
    """Mean cosine over all pairs of (N, P) and (M, P): CLIP-I and DINO-I (Ruiz et al. 2023, §4.1)."""
    return float((first @ second.T).mean())


def similarity_error(first: Tensor, second: Tensor) -> float:
    """Standard error of `mean_similarity` over the N images of `first`: σ / √N, 0 for a single one."""
    if len(first) < 2:
        return 0.0
    return float((first @ second.T).mean(dim=1).std() / len(first) ** 0.5)


def mean_self_similarity(vectors: Tensor) -> float:
    """Mean cosine over all pairs of different members, N > 1; 1 for a single one."""
    if len(vectors) < 2:
        return 1.0
    cosines = vectors @ vectors.T
    return float((cosines.sum() - cosines.diagonal().sum()) / (len(vectors) * (len(vectors) - 1)))


def mean_paired_similarity(first: Tensor, second: Tensor) -> float:
    """Mean cosine of the i-th vectors of `first` and `second`, both (N, P): CLIP-T for images and their texts."""
    return float((first * second).sum(dim=-1).mean())


def nearest_similarity(vectors: Tensor, references: Tensor) -> Tensor:
    """Cosine of each of (N, P) with the nearest of (M, P): (N,)."""
    return (vectors @ references.T).max(dim=1).values


def nearest_other_similarity(vectors: Tensor) -> Tensor:
    """Cosine of each vector with the nearest other one: (N,). Empty for fewer than two."""
    if len(vectors) < 2:
        return vectors.new_empty(0)
    cosines = vectors @ vectors.T
    return cosines.fill_diagonal_(-1.0).max(dim=1).values


def distinct(vectors: Tensor) -> Tensor:
    """The vectors without repetitions of earlier ones, as of identical images: (M, P), M ≤ N."""
    first: dict[bytes, int] = {}
    for row, vector in enumerate(vectors):
        first.setdefault(vector.numpy().tobytes(), row)
    return vectors[list(first.values())]


def text_margin(pictures: Tensor, texts: Tensor) -> float:
    """Mean cosine of images with their own texts, minus that with the other texts; both (N, P), paired; 0 for one text.
    Unlike the cosine alone, it is 0 for images that ignore the differences between the texts.
    """
    cosines = pictures @ texts.T
    different = (texts @ texts.T) < 1 - 1e-6
    if not different.any():
        return 0.0
    return float(cosines.diagonal().mean() - cosines[different].mean())
