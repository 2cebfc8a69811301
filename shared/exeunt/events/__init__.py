"""The events of Exeunt and their form on the wire. Nothing here does I/O.

`event_types` are the events themselves, `signals` those that others publish. `cloudevents` is the binding to NATS,
`codec` turns an event into one of the `messages` and back, `subjects` has the names of streams and subjects.
"""
