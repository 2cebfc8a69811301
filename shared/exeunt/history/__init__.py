"""Histories of stops: what RUNS holds of a run, read and put in order. Read-only.

In the order data flows: `reading` takes `record`s out of the stream, `file` out of an exported history (and writes
those, which `redaction` may have stripped of names); `event` understands a record as an event or an outcome, `stops`
puts the events of each stop under their causes, `state` says what was known at each of them, `lateness` how late a stop
is and what it hangs on, and `refusals` who would not have it written. All but `reading` is
pure. Deciding again is the CLI's: it may know the services.
"""
