"""What a setting is: its type, default, range, unit and help in one place; and the settings of a training."""

from autoprune.settings.setting import GROUPS as GROUPS
from autoprune.settings.setting import Group as Group
from autoprune.settings.setting import Setting as Setting
from autoprune.settings.setting import settings_of as settings_of
from autoprune.settings.training import TrainingSettings as TrainingSettings
