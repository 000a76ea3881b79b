"""What a run can be told: each setting stands in one place, with its type, default, range, unit and help."""

from autoprune.config.explaining import explained as explained
from autoprune.config.run import OBJECTS as OBJECTS
from autoprune.config.run import SETTINGS as SETTINGS
from autoprune.config.run import RunConfig as RunConfig
from autoprune.config.run import metric_label as metric_label
from autoprune.config.run import names_of as names_of
from autoprune.config.run import replace as replace
from autoprune.settings import Setting as Setting
