"""What a training will cost, before it is started."""

from tfadv.planning.measured_rates import measure_rates
from tfadv.planning.network_costs import NetworkCost, network_cost
from tfadv.planning.time_model import Evaluation, Link, Prediction, Work, expected_maximum, predict

__all__ = [
    "Evaluation",
    "Link",
    "NetworkCost",
    "Prediction",
    "Work",
    "expected_maximum",
    "measure_rates",
    "network_cost",
    "predict",
]
