"""Looking into trained networks: what their normalization layers have learned."""

from tfadv import lazy

# No module may have the name of a public function, which it would hide once it is imported.
__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "BatchStatistics": "mini_batches",
        "DomainDistance": "distances",
        "LayerStatistics": "layer_statistics",
        "batch_statistics": "mini_batches",
        "distance": "distances",
        "distance_table": "distances",
        "figure5": "figures",
        "figure6": "batch_figure",
        "figure_to_png": "figures",
        "pairs": "layer_statistics",
        "pairs_figure": "image_pairs",
        "relative_difference": "batch_figure",
        "statistics": "layer_statistics",
    },
)
