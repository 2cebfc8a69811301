"""The Grafana dashboards of Exeunt as code: `stops` for the operator, `run` for one run.

`panels` and `logs` are shared; `machinery` has the lower rows of `stops`. `generate.py` beside this package writes
their JSON.
"""
