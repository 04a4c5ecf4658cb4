"""Reports: run folders -> one HTML page, or a table of runs.

The floor reads run folders and nothing else, and needs no torch.
"""

from steepest.report.kept import KeptRun, find_runs, read_run
from steepest.report.page import report_page, write_report

__all__ = ["KeptRun", "find_runs", "read_run", "report_page", "write_report"]
