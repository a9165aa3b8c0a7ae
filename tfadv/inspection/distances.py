import dataclasses

import keras
import numpy as np

from tfadv.inspection import layer_statistics
from tfadv.inspection.layer_statistics import LayerStatistics


@dataclasses.dataclass(frozen=True)
class DomainDistance:
    """Distance between the two domains of one mixture: a row of `distance_table`.

    Args:
        path: String, of the layer, as in `LayerStatistics`.
        position: Integer, which mixture of the network it is, from 0 at the images.
        channels: Integer, number of channels.
        distance: Float in [0, 1], as of `distance`.
        mean_larger, variance_larger: Floats in [0, 1], the share of the channels whose adv
            moving mean, and moving variance, is larger than the clean one (Section 4.2: most).
    """

    path: str
    position: int
    channels: int
    distance: float
    mean_larger: float
    variance_larger: float


def distance(adv: LayerStatistics, clean: LayerStatistics) -> float:
    """Measures how far the statistics of two domains are apart.

    `distance = mean over channels of H`, the Hellinger distance of two normal distributions,

    `H^2 = 1 - sqrt(2 s_a s_c / (s_a^2 + s_c^2)) * exp(-(m_a - m_c)^2 / (4 (s_a^2 + s_c^2)))`

    where `m` is the moving mean and `s^2` the moving variance plus the layer's epsilon. It is 0
    for equal distributions and 1 for disjoint ones, it is a metric, and it does not change if a
    channel is scaled or shifted in both domains, so that layers of any depth and width can be
    compared. Unlike a Kullback-Leibler divergence it is finite for a channel that is dead in one
    domain. A shift by one standard deviation alone gives 0.34, a doubled variance alone 0.17.

    The formula is from Pardo, "Statistical Inference Based on Divergence Measures", 2006. To use it
    for mixtures is our choice; the paper only shows figures.

    Args:
        adv, clean: `LayerStatistics` of the two domains, as of `pairs`.

    Returns:
        A float in [0, 1].

    Raises:
        ValueError: If the two have different numbers of channels.
    """
    if adv.moving_mean.shape != clean.moving_mean.shape:
        raise ValueError(
            f"adv and clean must have the same channels; received {adv.moving_mean.shape} and "
            f"{clean.moving_mean.shape}"
        )
    means = [np.asarray(record.moving_mean, np.float64) for record in (adv, clean)]
    variances = [
        np.asarray(record.moving_variance, np.float64) + record.epsilon for record in (adv, clean)
    ]
    # Statistics that training has driven to infinity or NaN give NaN, without a warning per layer.
    with np.errstate(divide="ignore", invalid="ignore"):
        total = variances[0] + variances[1]
        gap = np.square(means[0] - means[1])
        spread = np.square(np.sqrt(variances[0]) - np.sqrt(variances[1]))
        # 2 s_a s_c / (s_a^2 + s_c^2) = 1 - (s_a - s_c)^2 / (s_a^2 + s_c^2), which is accurate for
        # small distances.
        squared = -np.expm1(np.log1p(-spread / total) / 2 - gap / (4 * total))
    # Two constants, which need epsilon = 0, are equal or disjoint.
    squared = np.where(total == 0, np.sign(gap), squared)
    return float(np.mean(np.sqrt(squared)))


def distance_table(model: keras.Model | list[LayerStatistics]) -> list[DomainDistance]:
    """Measures the distance between the domains in each mixture of a model, the largest first.

    Args:
        model: A Keras model, or the list of records that `statistics` returned for one.

    Returns:
        A list of `DomainDistance`, empty for a model without a mixture. Layers whose statistics are
        no longer finite come last.

    Example:

    ```python
    model = tfadv.models.SmallResNet(8, norm="mbn", image_size=32)
    for row in tfadv.inspection.distance_table(model):
        print(row.path, row.distance)
    ```
    """
    records = model if isinstance(model, list) else layer_statistics.statistics(model)
    rows = [
        DomainDistance(
            path=path,
            position=position,
            channels=len(adv.moving_mean),
            distance=distance(adv, clean),
            mean_larger=float(np.mean(adv.moving_mean > clean.moving_mean)),
            variance_larger=float(np.mean(adv.moving_variance > clean.moving_variance)),
        )
        for position, (path, (adv, clean)) in enumerate(layer_statistics.pairs(records).items())
    ]
    return sorted(rows, key=lambda row: (np.isnan(row.distance), -row.distance, row.position))
