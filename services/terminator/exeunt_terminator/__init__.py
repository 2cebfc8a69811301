"""The terminator: finalizes a canceled realtime run when its topology is gone or its deadline has passed.

`decision` says what to do (rules as a table), `finalize` makes the one conditional write, `stop` is the way of a stop
(states as a table); `walk` goes it on real parts, `terminator` does so for each fact and records what came of it, `app`
composes the service.
"""
