import dataclasses

import numpy as np

from tfadv.inspection import layer_statistics


@dataclasses.dataclass(frozen=True)
class DomainDistance:
    """How far the two domains of one mixture are apart: a row of `distance_table`.

    Args:
        path: String, of the layer, as in `LayerStatistics`.
        position: Integer, which mixture of the network it is, from 0 at the images.
        channels: Integer.
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


def distance(adv, clean):
    """How far the statistics of two domains are apart.

    `distance = mean over channels of H`, the Hellinger distance of two normal distributions,

    `H^2 = 1 - sqrt(2 s_a s_c / (s_a^2 + s_c^2)) * exp(-(m_a - m_c)^2 / (4 (s_a^2 + s_c^2)))`

    where `m` is the moving mean and `s^2` the moving variance plus the layer's epsilon: the two
    normal distributions that the layer's statistics describe. (The formula: Pardo, "Statistical
    Inference Based on Divergence Measures", 2006; that it measures mixtures is our choice, the
    paper has pictures only.) It is 0 where the two agree and 1 where they have nothing in common,
    it is a metric, and it does not change when a channel is scaled or shifted in both domains: so
    layers of any depth and width can be compared. Unlike a Kullback-Leibler divergence it stays
    finite where a channel is dead in one domain. A shift of one standard deviation alone gives
    0.34, a variance twice as large alone 0.17.

    Args:
        adv, clean: `LayerStatistics` of the two domains, as of `pairs`.

    Returns:
        A float in [0, 1].

    Raises:
        ValueError: If the two differ in channels.
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
    # Statistics that training has driven to infinity or NaN give NaN, without a warning a layer.
    with np.errstate(divide="ignore", invalid="ignore"):
        total = variances[0] + variances[1]
        gap = np.square(means[0] - means[1])
        spread = np.square(np.sqrt(variances[0]) - np.sqrt(variances[1]))
        # 2 s_a s_c / (s_a^2 + s_c^2) = 1 - (s_a - s_c)^2 / (s_a^2 + s_c^2), which keeps small
        # distances exact.
        squared = -np.expm1(np.log1p(-spread / total) / 2 - gap / (4 * total))
    # Only with epsilon = 0: two constants, which are the same or have nothing in common.
    squared = np.where(total == 0, np.sign(gap), squared)
    return float(np.mean(np.sqrt(squared)))


def distance_table(model):
    """The mixtures of a model, the one whose domains are the farthest apart first.

    Args:
        model: A Keras model, or a list of records that `statistics` collected from one.

    Returns:
        A list of `DomainDistance`, empty for a model without a mixture. Layers whose statistics are
        no longer finite come last.
    """
    records = model if isinstance(model, list) else layer_statistics.statistics(model)
    rows = []
    for position, (path, (adv, clean)) in enumerate(layer_statistics.pairs(records).items()):
        row = DomainDistance(
            path=path,
            position=position,
            channels=len(adv.moving_mean),
            distance=distance(adv, clean),
            mean_larger=float(np.mean(adv.moving_mean > clean.moving_mean)),
            variance_larger=float(np.mean(adv.moving_variance > clean.moving_variance)),
        )
        rows.append(row)
    return sorted(rows, key=lambda row: (np.isnan(row.distance), -row.distance, row.position))
