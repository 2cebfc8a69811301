"""The rules that more than one service decides by. Nothing here does I/O.

`closed` says when there is nothing more to do about a stop, `hub` what the hub's condition says about the topology,
`step_runs` which StepRuns have to go with their run. What only one service decides is in that service.
"""
