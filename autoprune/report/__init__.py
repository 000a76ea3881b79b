"""What a user sees of a run: tables, progress, CSV, measured latency."""

from autoprune.report.best import best_table as best_table
from autoprune.report.console import console as console
from autoprune.report.console import print_export as print_export
from autoprune.report.console import print_profile as print_profile
from autoprune.report.console import print_report as print_report
from autoprune.report.console import print_result as print_result
from autoprune.report.console import result_rows as result_rows
from autoprune.report.dense_latency import print_latency as print_latency
from autoprune.report.latency import latency_ms as latency_ms
from autoprune.report.outlook import Outlook as Outlook
from autoprune.report.progress import RunProgress as RunProgress
from autoprune.report.progress import describe as describe
from autoprune.report.progress import metric_label as metric_label
from autoprune.report.status import print_status as print_status
from autoprune.report.tables import comparison_table as comparison_table
from autoprune.report.tables import cost_rows as cost_rows
from autoprune.report.tables import counted as counted
from autoprune.report.tables import frozen_table as frozen_table
from autoprune.report.tables import groups_table as groups_table
from autoprune.report.tables import number as number
from autoprune.report.tables import percent as percent
from autoprune.report.tables import reachable_table as reachable_table
from autoprune.report.trials import counts as counts
from autoprune.report.trials import front_table as front_table
from autoprune.report.trials import proxy_quality as proxy_quality
from autoprune.report.trials import write_csv as write_csv
