"""Statistics of the normalization layers of trained networks, and figures of them."""

from tfadv.inspection.distances import DomainDistance, distance, distance_table
from tfadv.inspection.figures import (
    figure5,
    figure6,
    figure_to_png,
    pairs_figure,
    relative_difference,
)
from tfadv.inspection.layer_statistics import (
    BatchStatistics,
    LayerStatistics,
    batch_statistics,
    pairs,
    statistics,
)

__all__ = [
    "BatchStatistics",
    "DomainDistance",
    "LayerStatistics",
    "batch_statistics",
    "distance",
    "distance_table",
    "figure5",
    "figure6",
    "figure_to_png",
    "pairs",
    "pairs_figure",
    "relative_difference",
    "statistics",
]
