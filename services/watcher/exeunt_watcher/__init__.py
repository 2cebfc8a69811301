"""The watcher: publishes what happens to realtime runs.

`projection` joins the watched objects into snapshots, `topology` judges by evidence whether a run's streams are gone,
`event_types` compares two snapshots and names what has begun to hold. `machine` decides by them what to ask for
(`commands`), `watcher` drives it on real parts, `calls` carries its commands out, `app` composes the service.
"""
