"""The terminator: finalizes a canceled realtime run when its topology is gone or its deadline has passed.

`stop` is the way of a stop (states as a table), and `machine` goes it: `decision` says what to do (rules as a table),
and whether the topology is still gone, `finalize` makes the one conditional write. What the machine asks for
(`commands`) is carried out by `calls`; `terminator` does so for each event, and `app` composes the service.

While the bus is away (`patience`) `without_bus` has `stand_in` do it all, with `local_streams` and what is
`remembered`; what was done then, `unpublished` publishes later (`handing_over`).
"""
