"""The Grafana dashboards of Exeunt as code: `stops` for the operator, `run` for one run; `panels` is what they share.

`generate.py` beside this package writes their JSON.
"""
