"""The LiveKit bridge: says when nobody is left in the room of a run, and when somebody is back.

`webhooks` takes what LiveKit tells, `discovery` finds what it did not; both store a `look` at a room. `machine` is one
look, `room` knows who of those in a room holds its call open, `said` is what is published about it. `looker` carries
out what the machine commands, `livekit` asks LiveKit with its `keys`, `app` composes the service.
"""
