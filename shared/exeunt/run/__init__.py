"""bobrapet's run as Exeunt sees it, and what the operator and its users say about it. Nothing here does I/O.

`bobrapet` has the operator's words, `models` the fields of its kinds that Exeunt reads, `snapshot` is one run with all
that a decision about it needs, `managed_fields` tells who wrote it. Three values are taken from the run and its Story:
`opt_out` (is the run left alone), `shutdown_timeout` (how long it may take to stop) and `drain` (how long bobrapet
would have waited). `cancellations` names one cancellation of one run, `equal` keeps one of many values that are equal.
"""
