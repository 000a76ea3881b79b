"""The report as a page: one HTML file with charts, and the same charts as PNG files."""

from autoprune.report.page.document import pages_wanted as pages_wanted
from autoprune.report.page.document import write_charts as write_charts
from autoprune.report.page.document import write_page as write_page
from autoprune.report.page.drawing import check_installed as check_installed
