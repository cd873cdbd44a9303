"""The settings of a run: each defined once, for the command line, TOML files and Flower's run config.

A setting belongs here when it changes the result, or refuses one. How a run is carried out (workers, engine, folder)
does not. Users see one flat list of names; the code has them in groups, a file each. Each field says its range, the
part of a run it belongs to and where it is given (`setting.py`). To add a setting, declare it in its group.
"""

from fedquit.files import load_settings_file
from fedquit.settings.clients import Clients
from fedquit.settings.data import Data
from fedquit.settings.evaluation import Evaluation
from fedquit.settings.forgetting import Forgetting
from fedquit.settings.model import Model, num_classes
from fedquit.settings.retired import UNSAID, without_retired
from fedquit.settings.run import GROUPS, Key, Settings, group_of, keys_of, settings_of
from fedquit.settings.seeds import Seeds
from fedquit.settings.setting import Group, Part, Scope, marks, setting
from fedquit.settings.training import Training
from fedquit.settings.values import Scalar

__all__ = [
    "GROUPS",
    "UNSAID",
    "Clients",
    "Data",
    "Evaluation",
    "Forgetting",
    "Group",
    "Key",
    "Model",
    "Part",
    "Scalar",
    "Scope",
    "Seeds",
    "Settings",
    "Training",
    "group_of",
    "keys_of",
    "load_settings_file",
    "marks",
    "num_classes",
    "setting",
    "settings_of",
    "without_retired",
]
