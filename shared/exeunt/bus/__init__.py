"""Talking to NATS JetStream, in the order data flows.

`servers` and `credentials` read what the settings name, `client` is nats-py kept from saying more than it may,
`connection` is one connection that survives the server, `server_change` leaves it for another (`unanswered` says when),
`configured` makes it as the settings say, `streams` makes and checks streams, `consumers` durable consumers,
`mesh_streams` has those of Exeunt. `publisher` stores messages exactly once, `recall` reads back what was published of
a run. `pull` takes messages from a durable consumer, where they wait their `turns` for a place by fair `shares`;
`delivery` is what a handler sees and may answer, `acknowledge` carries the answer out, `lag` and `backlogs` tell how
far behind a consumer is. `errors` name what can go wrong.

nats-py is the protocol; its JetStream consumers and its publish_async are not used: they stall or hang over a restart.
"""
