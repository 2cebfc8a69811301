"""The terminator: finalizes a canceled realtime run when its topology is gone or its deadline has passed.

`decision` says what to do (rules as a table), `finalize` makes the one conditional write, `stop` is the way of a stop
(states as a table); `terminator` walks it on real parts, `app` composes the service.
"""
