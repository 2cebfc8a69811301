"""The watcher: says what happens to realtime runs.

`projection` joins the watched objects into snapshots, `topology` judges by evidence whether a run's streams are gone,
`facts` compares two snapshots and names what has begun to hold; `watcher` does it on real parts, `fact_publisher` says
it, `app` composes the service.
"""
