"""What a training will cost, before it is started."""

from tfadv import lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    {
        "Device": "devices",
        "Evaluation": "time_model",
        "Link": "time_model",
        "NetworkCost": "network_costs",
        "Prediction": "time_model",
        "Work": "time_model",
        "expected_maximum": "time_model",
        "known_device": "devices",
        "known_devices": "devices",
        "measure_rates": "measured_rates",
        "network_cost": "network_costs",
        "predict": "time_model",
    },
)
