"""Looking into trained networks: what their normalization layers have learned."""

from tfadv.inspection.batch_figure import figure6, relative_difference
from tfadv.inspection.distances import DomainDistance, distance, distance_table
from tfadv.inspection.figures import figure5, figure_to_png
from tfadv.inspection.image_pairs import pairs_figure
from tfadv.inspection.layer_statistics import LayerStatistics, pairs, statistics
from tfadv.inspection.mini_batches import BatchStatistics, batch_statistics

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
