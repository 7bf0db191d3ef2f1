"""run/report.html: the report page, and the parts of it that other screens reuse.

write_report(RunFolder.of("./finetuned_model"))
"""

from finetune.benchmark.report.page import report_page, write_report
from finetune.benchmark.report.ranks import ranks_in_words

__all__ = ["ranks_in_words", "report_page", "write_report"]
