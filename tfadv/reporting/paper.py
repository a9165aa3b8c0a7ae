"""The paper's rows and numbers."""

import csv
import dataclasses
import pathlib

from tfadv.reporting.runs import CLEAN, Column, Protocol

_FILE = pathlib.Path(__file__).with_name("paper.tsv")

# Clean accuracy through the clean branch: Table 1 gives it as +0.4 and -0.5 to 78.9.
CLEAN_BRANCH = {
    "MBN_clean, 100% adv + 100% clean": 79.3,
    "MBN_clean, 100% adv + 100% clean, ALP": 78.4,
}


@dataclasses.dataclass
class PaperRow:
    """A row of the paper's tables.

    Args:
        flagfile: Of its run: a path below `flags/`, without its suffix.
        tables: Dictionary, table that it stands in -> its place there.
        label: The training strategy, as the paper writes it.
        numbers: Dictionary, number of attack steps (0: clean images) -> accuracy in percent.
        settings: Dictionary, of `settings.canonical`, of what the flagfile says.
    """

    flagfile: str
    tables: dict
    label: str
    numbers: dict
    settings: dict = None


def rows():
    """Reads the paper's rows; their settings are left to whoever reads flagfiles.

    Returns:
        A list of `PaperRow`, one for each flagfile, in the order of the tables.
    """
    found = {}
    with open(_FILE, encoding="utf-8", newline="") as file:
        lines = (line for line in file if not line.startswith("#"))
        for place, record in enumerate(csv.DictReader(lines, delimiter="\t")):
            numbers = {
                int(name.removeprefix("pgd") if name != "clean" else 0): float(value)
                for name, value in record.items()
                if value and name not in ("flagfile", "table", "label")
            }
            flagfile = record["flagfile"]
            row = found.setdefault(flagfile, PaperRow(flagfile, {}, record["label"], {}))
            for table in record["table"].replace(" ", "").split(","):
                row.tables[table] = place
            row.numbers |= numbers
    return list(found.values())


class PaperProtocol:
    """How the paper measures, from the settings of its evaluation.

    Args:
        settings: Namespace, the flags of `flags/eval/paper.flags`.
        data: `Protocol` without an attack: the whole validation set of the paper's data set.
    """

    def __init__(self, settings, data):
        self.protocol = dataclasses.replace(
            data,
            attack=(
                float(settings.epsilon),
                settings.targeted,
                settings.attack_loss,
                float(settings.start_from_clean),
                settings.clip_start,
                settings.restarts,
                settings.attack_precision,
            ),
        )
        self._step_size = settings.step_size
        self._rule = settings.step_size_rule
        self.columns = [CLEAN, *map(self.column, settings.num_steps)]

    def column(self, num_steps):
        """The column of a number of steps, with the step size that the rule gives it."""
        if not num_steps:
            return CLEAN
        raised = self.protocol.attack[0] / num_steps if self._rule == "pipeline" else 0.0
        return Column(num_steps, max(self._step_size, raised))

    def measures(self, measurement):
        """Whether a `Measurement` was made in this way."""
        attacked = measurement.column.num_steps
        protocol = self.protocol if attacked else self.protocol.data
        return (measurement.protocol, measurement.column) == (protocol, self.column(attacked))


def validation(entry, image_size):
    """The `Protocol` of all validation images of a data set, of the finished network.

    Args:
        entry: A `tfadv.data.catalog.Entry`.
        image_size: In pixels.
    """
    return Protocol(entry.name, image_size, entry.num_validation, True, "final")
