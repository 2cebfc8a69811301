"""The timeout-scheduler: says when a canceled run is still unfinished at cancel_observed_at + shutdown timeout.

`way` is what a deadline goes through, as a table; `machine` goes by it, `sweeping` says what a sweep looks at. On real
parts `scheduler` and `sweep` carry it out, `app` composes the service.
"""
