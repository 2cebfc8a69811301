"""The timeout-scheduler: says when a canceled run is still unfinished at fence + shutdown timeout.

`deadlines` is what a deadline goes through (states as a table); `scheduler` arms, holds and fires them on real parts,
`sweep` compares them with the cluster, `app` composes the service.
"""
