"""run/report.html: one page that needs nothing else, and from it what other screens show too.

write_report(RunFolder.of("./finetuned_model"))
"""

from finetune.benchmark.report.page import report_page, write_report
from finetune.benchmark.report.ranks import ranks_in_words

__all__ = ["ranks_in_words", "report_page", "write_report"]
